"""Layers of a case, painting and undo, on napari's layer model without a window."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from napari.components import ViewerModel

from doselabel.geometry import Volume
from doselabel.labels import ORGANS
from napari_plugin import layers as scene
from napari_plugin import tools


@pytest.fixture
def viewer() -> ViewerModel:
    return ViewerModel()


def ball_of(layer, centre, radius_mm) -> np.ndarray:
    grid = np.ogrid[tuple(slice(0, n) for n in layer.data.shape)]
    distances = ((g - c) * s for g, c, s in zip(grid, centre, layer.scale, strict=True))
    return sum(d**2 for d in distances) <= radius_mm**2


def test_a_case_is_shown_without_any_warning_of_axes_that_are_not_orthogonal(viewer, make_case):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        layers = scene.add_case(viewer, make_case())
    assert [layer.name for layer in viewer.layers] == [layer.name for layer in layers.all()]


def test_the_left_kidney_is_on_the_right_of_the_screen(viewer, make_case, truth):
    layers = scene.add_case(viewer, make_case(labels=truth))
    left, right = (np.argwhere(truth == value).mean(axis=0) for value in (1, 2))
    world = [np.asarray(layers.labels.data_to_world(p)) for p in (left, right)]
    assert world[0][2] > world[1][2]
    assert world[0][2] > 0  # LPS: the patient's left is positive


def test_spect_of_all_times_is_one_layer_with_time_first(viewer, make_case):
    layers = scene.add_case(viewer, make_case(times_h=(1.0, 24.0, 72.0)))
    assert layers.spect.ndim == 4
    assert viewer.dims.ndim == 4
    assert layers.spect.metadata["time_h"] == [1.0, 24.0, 72.0]
    viewer.dims.set_point(0, 2)
    assert scene.spect_at(make_case(times_h=(1.0, 24.0, 72.0)).spects, viewer).time_h == 72.0


def test_one_spect_is_a_plain_volume_and_none_is_no_layer(viewer, make_case):
    layers = scene.add_case(viewer, make_case(times_h=(24.0,)))
    assert layers.spect.ndim == 3
    scene.remove(viewer, layers.all())
    assert scene.add_case(viewer, make_case(times_h=())).spect is None


def test_a_point_of_the_spect_lies_on_the_same_point_of_the_ct(viewer, make_case):
    case = make_case(times_h=(24.0,))
    layers = scene.add_case(viewer, case)
    point_mm = np.array([13.0, -7.0, 11.0])
    ct = layers.ct.data_to_world(case.ct.geometry.lps_to_index(point_mm))
    spect = layers.spect.data_to_world(case.spects[0].volume.geometry.lps_to_index(point_mm))
    assert spect == pytest.approx(ct)


def test_the_view_opens_at_the_organs(viewer, make_case, truth):
    layers = scene.add_case(viewer, make_case(labels=truth))
    z = layers.labels.world_to_data(viewer.dims.point[-3:])[0]
    assert truth[round(z)].any()


def test_labels_can_not_be_deleted_by_accident_but_leave_with_their_case(viewer, make_case):
    layers = scene.add_case(viewer, make_case())
    viewer.layers.selection = {layers.labels}
    viewer.layers.remove_selected()
    assert layers.labels in viewer.layers
    scene.remove(viewer, layers.all())
    assert len(viewer.layers) == 0


def test_a_tool_is_one_undo_step(viewer, make_case, truth):
    labels = scene.add_case(viewer, make_case(labels=truth)).labels
    labels.apply(tools.margin(labels.data, 1, tuple(labels.scale), margin_mm=8.0))
    grown = labels.data.copy()
    assert np.count_nonzero(grown != truth) > 0
    labels.undo()
    assert np.array_equal(labels.data, truth)
    labels.redo()
    assert np.array_equal(labels.data, grown)


def test_every_way_to_edit_is_told_once(viewer, make_case, truth):
    labels = scene.add_case(viewer, make_case(labels=truth)).labels
    told = []
    labels.events.edited.connect(lambda: told.append(1))
    labels.selected_label = 4
    labels.paint((2, 40, 40), 4)
    labels.undo()
    labels.redo()
    labels.apply(tools.swap(labels.data, 1, 2))
    labels.fill((0, 0, 0), 5)
    assert len(told) == 5


def test_looking_at_another_slice_is_no_edit(viewer, make_case):
    labels = scene.add_case(viewer, make_case()).labels
    told = []
    labels.events.edited.connect(lambda: told.append(1))
    for z in (-20.0, 0.0, 20.0):
        viewer.dims.set_point(1, z)
    assert told == []


@pytest.mark.parametrize("hu_range", [None, (-1024.0, 3000.0)])
def test_the_3d_brush_is_a_sphere_in_millimetres_with_and_without_hu_mask(viewer, make_case, hu_range):
    labels = scene.add_case(viewer, make_case()).labels
    labels.n_edit_dimensions = 3
    labels.brush_mm = 36.0
    assert labels.brush_mm == 36.0  # nine voxels of 4 mm
    labels.hu_range = hu_range
    labels.paint((12, 24, 24), 1)
    assert np.array_equal(labels.data == 1, ball_of(labels, (12, 24, 24), 18.0))


def test_the_hu_mask_keeps_the_brush_on_the_organ_and_undo_takes_the_stroke_back(viewer, make_case, truth):
    labels = scene.add_case(viewer, make_case()).labels
    labels.n_edit_dimensions = 3
    labels.brush_mm = 200.0
    labels.hu_range = (30.0, 100.0)
    labels.paint((12, 24, 24), 1)
    inside = ball_of(labels, (12, 24, 24), labels.brush_mm / 2)
    assert np.array_equal(labels.data == 1, (truth > 0) & inside)
    labels.undo()
    assert not labels.data.any()


def test_painting_spares_other_organs_unless_told_otherwise(viewer, make_case, truth):
    for hu_range in (None, (-1024.0, 3000.0)):
        labels = scene.add_case(ViewerModel(), make_case(labels=truth)).labels
        labels.n_edit_dimensions = 3
        labels.brush_mm = 60.0
        labels.hu_range = hu_range
        labels.selected_label = 4
        labels.paint((10, 24, 24), 4)
        assert np.array_equal(np.where(labels.data == 4, 0, labels.data), truth)
        labels.preserve_labels = False
        labels.paint((10, 24, 24), 4)
        assert np.count_nonzero(labels.data == 3) < np.count_nonzero(truth == 3)


def test_the_flat_brush_paints_the_slice_on_screen_only(viewer, make_case):
    labels = scene.add_case(viewer, make_case()).labels
    labels.hu_range = (-1024.0, 3000.0)
    labels.paint((12, 24, 24), 1)
    assert np.nonzero(labels.data.any(axis=(1, 2)))[0].tolist() == [12]


def test_organs_have_their_names_and_colours(viewer, make_case):
    labels = scene.add_case(viewer, make_case()).labels
    for organ in ORGANS:
        red, green, blue = (int(organ.color[i : i + 2], 16) / 255 for i in (1, 3, 5))
        assert labels.get_color(organ.index)[:3] == pytest.approx((red, green, blue), abs=1e-3)
    assert labels.features["organ"].tolist()[:2] == ["Left kidney", "Right kidney"]
    assert labels.as_layer_data_tuple()[2] == "labels"


def test_a_dose_map_and_its_isodose_lines_lie_on_the_ct(viewer, make_case):
    case = make_case()
    scene.add_case(viewer, case)
    dose = np.linspace(0, 10, case.ct.array.size, dtype=np.float32).reshape(case.ct.array.shape)
    image, lines = scene.add_dose(viewer, Volume(dose, case.ct.geometry), case.ct.geometry, [2.0, 5.0])
    assert image.colorbar.visible
    assert image.data_to_world((1, 2, 3)) == pytest.approx(viewer.layers[0].data_to_world((1, 2, 3)))
    assert np.array_equal(lines.data == 2, dose >= 5.0)
    assert lines.name == "Isodose (2 · 5 Gy)"


@pytest.mark.parametrize("protect", [False, True])
def test_the_hu_mask_keeps_polygon_and_fill_on_the_organ_and_protection_holds(viewer, make_case, truth, protect):
    z, y, x = (int(i) for i in np.argwhere(truth == 1).mean(axis=0))
    kidney = truth[z] == 1
    labels = scene.add_case(viewer, make_case()).labels
    labels.preserve_labels, labels.hu_range = protect, (30.0, 100.0)
    labels.n_edit_dimensions = 2
    viewer.dims.set_point(1, float(labels.data_to_world((z, y, x))[0]))
    rows, columns = np.nonzero(kidney)
    around = [(z, r, c) for r, c in ((rows.min() - 3, columns.min() - 3), (rows.min() - 3, columns.max() + 3))]
    around += [(z, r, c) for r, c in ((rows.max() + 3, columns.max() + 3), (rows.max() + 3, columns.min() - 3))]
    labels.data_setitem(tuple(np.array([i]) for i in (z, y, x)), 6)  # one voxel is another organ's
    labels.paint_polygon(around, 1)
    other = np.zeros_like(kidney)
    other[y, x] = protect
    assert np.array_equal(labels.data[z] == 1, kidney & ~other)
    assert np.count_nonzero(labels.data) == kidney.sum()
    labels.undo()
    labels.undo()
    assert not labels.data.any()

    labels.fill((z, y, x), 4)  # what hangs together within the range, in this slice
    assert np.array_equal(labels.data[z] == 4, kidney)
    assert np.count_nonzero(labels.data) == kidney.sum()
    labels.undo()
    labels.fill((z, 0, 0), 4)  # air is not in the range
    assert not labels.data.any()
