"""The plane on screen is the one that was asked for, the right way up, whatever rolls or transposes the axes."""

from __future__ import annotations

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_plugin import layers as scene
from napari_plugin.planes import Planes

LETTERS = {
    "axial": {"top_center": "A", "bottom_center": "P", "middle_left": "R", "middle_right": "L"},
    "coronal": {"top_center": "S", "bottom_center": "I", "middle_left": "R", "middle_right": "L"},
    "sagittal": {"top_center": "S", "bottom_center": "I", "middle_left": "A", "middle_right": "P"},
}


@pytest.fixture(params=[(), (24.0,), (1.0, 24.0, 72.0)], ids=["CT alone", "one SPECT", "three SPECT"])
def shown(request, make_case, truth):
    viewer, told = ViewerModel(), []
    layers = scene.add_case(viewer, make_case(times_h=request.param, labels=truth))
    planes = Planes(viewer, told.append)
    planes.hold(layers)
    return viewer, planes, told, layers


def letters(viewer) -> dict[str, str]:
    overlays = viewer.canvas.overlays
    edges = [key for key in overlays if key.startswith("doselabel_") and overlays[key].visible]
    return {key.removeprefix("doselabel_"): overlays[key].text for key in edges}


@pytest.mark.parametrize("plane", LETTERS)
def test_each_plane_has_its_axes_letters_and_never_time(shown, plane):
    viewer, planes, told, _ = shown
    planes.show(plane)
    assert told[-1] == plane
    assert letters(viewer) == LETTERS[plane]
    first = viewer.dims.ndim - 3
    assert min(viewer.dims.displayed) >= first
    assert list(viewer.dims.order[:first]) == list(range(first))


def test_the_letters_say_where_the_organs_are(shown, truth):
    """The left kidney lies towards L, the liver before the kidneys towards A: on screen, by the layers' own places."""
    viewer, planes, _, layers = shown
    left, right, liver = (np.argwhere(truth == value).mean(axis=0) for value in (1, 2, 3))
    at = [np.asarray(layers.labels.data_to_world(p))[-3:] for p in (left, right, liver)]
    for plane, towards in (("axial", "L"), ("coronal", "L"), ("sagittal", "A")):
        planes.show(plane)
        vertical, horizontal = (axis - (viewer.dims.ndim - 3) for axis in viewer.dims.displayed)
        a, b = (at[0], at[1]) if towards == "L" else (at[2], at[0])
        edge = next(edge for edge, letter in letters(viewer).items() if letter == towards)
        axis = horizontal if edge.startswith("middle") else vertical
        sign = 1 if edge in ("middle_right", "bottom_center") else -1
        assert sign * (a - b)[axis] > 0


@pytest.mark.parametrize("times", range(1, 8))
def test_rolling_and_transposing_never_turns_a_plane_over(shown, times):
    viewer, planes, told, _ = shown
    for i in range(times):
        viewer.dims.roll()
        if i % 2:
            viewer.dims.transpose()
        assert letters(viewer) == LETTERS[planes.plane]
        assert told[-1] == planes.plane


@pytest.mark.parametrize("plane", [*LETTERS, "3d"])
def test_the_ct_fits_the_canvas_although_the_spect_is_larger(shown, plane):
    viewer, planes, _, layers = shown
    viewer.canvas.size = (600, 900)
    planes.show(plane)
    camera = viewer.scene.camera
    first = viewer.dims.ndim - 3
    axes = [axis - first for axis in viewer.dims.displayed]
    extent = np.ptp(layers.ct.extent.world, axis=0)[axes] + layers.ct.scale[axes]
    filled = extent * camera.zoom / ((600, 900) if plane != "3d" else (600, 600, 600))
    assert filled.max() == pytest.approx(0.96, abs=0.01)
    assert np.asarray(camera.center)[-len(axes) :] == pytest.approx(layers.ct.extent.world.mean(axis=0)[axes])


def test_the_view_stays_fitted_when_the_window_changes_until_somebody_zooms(shown):
    viewer, _, _, _ = shown
    viewer.canvas.size = (300, 300)
    small = viewer.scene.camera.zoom
    viewer.canvas.size = (600, 600)
    assert viewer.scene.camera.zoom == pytest.approx(2 * small)
    viewer.scene.camera.zoom = 5.0
    viewer.canvas.size = (300, 300)
    assert viewer.scene.camera.zoom == 5.0


def test_in_3d_the_organs_stand_alone_and_the_images_come_back_after_it(shown):
    viewer, planes, told, layers = shown
    planes.show("3d")
    assert viewer.dims.ndisplay == 3
    assert not layers.ct.visible
    assert letters(viewer) == {}
    viewer.dims.ndisplay = 2  # napari's own button
    assert layers.ct.visible
    assert letters(viewer) == LETTERS[told[-1]]


def test_a_closed_case_leaves_no_letters(shown):
    viewer, planes, _, _ = shown
    planes.let_go()
    assert not [key for key in viewer.canvas.overlays if key.startswith("doselabel_")]
    viewer.dims.roll()
