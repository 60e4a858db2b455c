"""Puts a case and a dose map into a viewer as layers. Knows napari's layer model (`ViewerModel` will do); no Qt.

All layers have a diagonal transform in the case's display frame (see `napari_plugin.session.placement`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from napari.components import ViewerModel
from napari.layers import Image, Labels, Layer, Shapes
from napari.utils.colormaps import Colormap, DirectLabelColormap, ensure_colormap
from napari.utils.colormaps.standardize_color import transform_color

from doselabel.geometry import Geometry, Volume, resample
from doselabel.labels import LabelMap, region
from napari_plugin.organ_labels import OrganLabels, organ_features
from napari_plugin.session.case import Case, SpectFrame
from napari_plugin.session.placement import onto_frame, place

CT_WINDOW_HU = (-160.0, 240.0)
SPECT_NAME = "SPECT (kBq/mL)"
SPECT_FROM, SPECT_OPACITY = 0.15, 0.5
"""Below this part of the highest activity on display the SPECT is clear, above it so opaque: contrast-filled kidneys
stay readable."""

BQ_PER_KBQ = np.float32(1000)
AXES = ("S→I", "A→P", "R→L")
MM = ("mm", "mm", "mm")
DOSE_NAME = "Dose (Gy)"


@dataclass(frozen=True)
class CaseLayers:
    """The layers of one case."""

    ct: Image
    spect: Image | None
    labels: OrganLabels

    def all(self) -> tuple[Image | Labels, ...]:
        """Every layer, bottom first."""
        return tuple(layer for layer in (self.ct, self.spect, self.labels) if layer is not None)


def add_case(viewer: ViewerModel, case: Case) -> CaseLayers:
    """Add CT, SPECT and labels of a case, and go to the slice where its labels are."""
    there = where(case.ct.geometry, case.ct.geometry)
    ct = Image(
        case.ct.array, name=f"CT · {case.title}", colormap="gray", contrast_limits=CT_WINDOW_HU, metadata=_facts(case),
        **there,
    )  # fmt: skip
    ct.contrast_limits_range = (-1024.0, max(1500.0, float(case.ct.array.max())))
    labels = OrganLabels(
        np.array(case.labels.array, order="C"),
        ct_hu=case.ct.array,
        name="Organs",
        metadata=_facts(case),
        opacity=0.45,
        **there,
    )
    labels.refuse_another_napari()
    layers = CaseLayers(ct, _spect_layer(case), labels)
    for layer in layers.all():
        viewer.add_layer(layer)
    for layer in layers.all():
        layer.locked = True
    look_at(viewer, labels)
    viewer.layers.selection.active = labels
    return layers


def remove(viewer: ViewerModel, layers: Sequence[Layer]) -> None:
    """Take layers out of the viewer, locked or not."""
    there = [layer for layer in layers if layer in viewer.layers]
    if not there:
        return
    with viewer.layers.batched_update():  # napari looks through all of Python's objects once, not after each
        for layer in there:
            layer.locked = False
            viewer.layers.remove(layer)


def look_at(viewer: ViewerModel, labels: OrganLabels) -> None:
    """Move the sliders to the labels' middle, or the image's when nothing is labelled."""
    planes = np.flatnonzero(labels.data.reshape(len(labels.data), -1).max(axis=1))  # ten times as fast as any
    z = planes[len(planes) // 2] if planes.size else labels.data.shape[0] // 2
    world = labels.translate + labels.scale * [z, labels.data.shape[1] // 2, labels.data.shape[2] // 2]
    viewer.dims.set_point(range(viewer.dims.ndim - 3, viewer.dims.ndim), world)  # at once: slices are drawn once


def spect_at(frames: Sequence[SpectFrame], viewer: ViewerModel) -> SpectFrame | None:
    """The time point on screen."""
    if not frames:
        return None
    index = viewer.dims.current_step[0] if len(frames) > 1 and viewer.dims.ndim > 3 else 0
    return frames[min(max(int(index), 0), len(frames) - 1)]


def _spect_layer(case: Case) -> Image | None:
    if not case.spects:
        return None
    grid = case.spects[0].volume.geometry
    frames = [
        frame.volume.array if frame.volume.geometry.same_place(grid) else resample(frame.volume, grid).array
        for frame in case.spects
    ]
    there = where(grid, case.ct.geometry)
    if len(frames) > 1:
        data = np.stack([np.asarray(frame, np.float32) / BQ_PER_KBQ for frame in frames])
        there = {
            "scale": (1.0, *there["scale"]),
            "translate": (0.0, *there["translate"]),
            "axis_labels": ("t", *AXES),
            "units": ("pixel", *MM),
        }
    else:
        data = np.asarray(frames[0], np.float32) / BQ_PER_KBQ
    top = float(data.max()) or 1.0
    layer = Image(
        data,
        name=SPECT_NAME,
        colormap=clear_below(SPECT_FROM),
        blending="translucent_no_depth",
        opacity=SPECT_OPACITY,
        contrast_limits=(0.0, top),
        metadata={
            **_facts(case),
            "time_h": [frame.time_h for frame in case.spects],
            "grid": grid,
            "translate": there["translate"],
        },
        **there,
    )
    layer.contrast_limits_range = (0.0, top)
    layer.colorbar.visible = True
    return layer


def add_dose(viewer: ViewerModel, dose_gy: Volume, ct: Geometry, levels_gy: Sequence[float]) -> tuple[Image, Labels]:
    """Add a dose map and its isodose lines below the labels of a case.

    Parameters
    ----------
    dose_gy : Volume
        Absorbed dose, Gy, on any grid.
    ct : Geometry
        Canonical CT grid of the case on screen.
    levels_gy : sequence of float
        Rising doses of the isodose lines, Gy.
    """
    dose = onto_frame(dose_gy, ct)
    there = where(dose.geometry, ct)
    top = float(dose.array.max()) or 1.0
    image = Image(
        dose.array,
        name=DOSE_NAME,
        colormap=_dose_colours(),
        blending="translucent_no_depth",
        opacity=0.6,
        contrast_limits=(0.0, top),
        **there,
    )
    image.colorbar.visible = True
    lines = isodose_layer(image, isodose_lines(dose.array, levels_gy), levels_gy)
    viewer.add_layer(image)
    viewer.add_layer(lines)
    return image, lines


def isodose_lines(dose_gy: np.ndarray, levels_gy: Sequence[float]) -> np.ndarray:
    """How many of the rising levels a voxel's dose reaches; slow on a large map, and safe in a thread."""
    lines = np.zeros(dose_gy.shape, np.uint8)
    for level_gy in levels_gy:
        lines += dose_gy >= level_gy
    return lines


def isodose_layer(dose: Image, lines: np.ndarray, levels_gy: Sequence[float]) -> Labels:
    """Isodose lines of a dose map on screen, in its colours."""
    turbo = ensure_colormap("turbo").map(np.clip(np.asarray(levels_gy) / dose.contrast_limits[1], 0, 1))
    colours: dict[int | None, str | np.ndarray] = {None: "transparent", 0: "transparent"}
    colours.update(enumerate(turbo, start=1))
    layer = Labels(
        lines,
        name="Isodose (" + " · ".join(f"{level:.3g}" for level in levels_gy) + " Gy)",
        colormap=DirectLabelColormap(color_dict=colours),
        features={"index": range(1, len(levels_gy) + 1), "isodose": [f"≥ {level:.3g} Gy" for level in levels_gy]},
        opacity=1.0,
        **_as(dose),
    )
    layer.contour = 1
    return layer


def add_paper_view(viewer: ViewerModel, outline: np.ndarray, like: Labels) -> Labels:
    """Add what the paper's figures show: organs (1) outlined in red, the expanded regions (2) in yellow."""
    colours = {0: "transparent", None: "transparent", 1: "red", 2: "yellow"}
    layer = Labels(
        outline,
        name="As in the paper: organs red, + 3 mm yellow",
        colormap=DirectLabelColormap(color_dict=colours),
        features={"index": [1, 2], "region": ["organ", "expanded region"]},
        opacity=1.0,
        **_as(like),
    )
    layer.contour = 1
    viewer.add_layer(layer)
    layer.editable = False
    return layer


def add_boxes(viewer: ViewerModel, like: Labels) -> Shapes:
    """Add a layer for the detector's boxes on the slice on screen, with their scores."""
    layer = Shapes(
        ndim=3,
        name="Boxes and scores",
        edge_color="cyan",
        face_color="transparent",
        edge_width=0.6,
        **_as(like),
    )
    viewer.add_layer(layer)
    layer.editable = False
    return layer


def add_second_ct(viewer: ViewerModel, ct: Volume, shown: Geometry, name: str) -> Image:
    """Add another CT of the patient over the one that is shown (a canonical grid), in cyan, to compare."""
    layer = Image(
        ct.array, name=name, colormap="cyan", blending="additive", opacity=0.5, contrast_limits=CT_WINDOW_HU,
        **where(ct.geometry, shown),
    )  # fmt: skip
    viewer.layers.insert(1, layer)
    return layer


def add_version(viewer: ViewerModel, labels: LabelMap, name: str) -> Labels:
    """Add another version of a case's labels as thin bright outlines, to compare; it can't be painted on."""
    colours: dict[int | None, str | np.ndarray] = {0: "transparent", None: "white"}
    colours.update(
        (value, np.clip(0.5 + 0.5 * np.asarray(transform_color(region(name).color)[0]), 0, 1))
        for value, name in labels.names.items()
    )
    layer = Labels(
        labels.array,
        name=name,
        colormap=DirectLabelColormap(color_dict=colours),
        features=organ_features(labels.names),
        opacity=1.0,
        **where(labels.geometry, labels.geometry),
    )
    layer.contour = 1
    viewer.add_layer(layer)
    layer.editable = False
    return layer


def clear_below(part: float) -> Colormap:
    """Hot colours that are clear up to a part of the highest value, and rise from there to full within a fifth."""
    at = np.linspace(0, 1, 128)
    colours = ensure_colormap("hot").map(at)
    colours[:, 3] = np.clip((at - part) / 0.2, 0, 1)
    return Colormap(colours, name="spect")


def _dose_colours() -> Colormap:
    """Turbo that fades out below a sixth of the highest dose, so that the CT stays in sight where there is little."""
    at = np.linspace(0, 1, 64)
    colours = ensure_colormap("turbo").map(at)
    colours[:, 3] = np.clip(6 * at, 0, 1)
    return Colormap(colours, name="dose")


def _as(layer: Layer) -> dict:
    """Where a layer lies, for another one on its grid."""
    return {name: getattr(layer, name) for name in ("scale", "translate", "axis_labels", "units")}


def where(geometry: Geometry, ct: Geometry) -> dict:
    """Where a grid lies in a viewer that shows a canonical CT: a layer's scale, translation, axes and units."""
    at = place(geometry, ct)
    return {"scale": at.scale_mm, "translate": at.translate_mm, "axis_labels": AXES, "units": MM}


def _facts(case: Case) -> dict:
    return {"image_id": case.image_id, "patient_id": case.study.patient_id, "native_geometry": case.native}
