"""Study folders and label maps in napari without a server: File → Open, Save Selected Layers, Open Sample. Knows no Qt.

What is read lies as in the annotator's window (`napari_plugin.session.placement`), and is written back on its own grid.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs

from doselabel.errors import DoselabelError, GeometryError
from doselabel.geometry import SUFFIXES, Geometry, Volume, canonical, restore
from doselabel.images import read_header
from doselabel.label_names import carried
from doselabel.labels import NAMES, LabelMap, read_labels, write_labels
from doselabel.study import MANIFEST, Study
from doselabel.study_images import Images
from doselabel.submitted import Submitted
from napari_plugin.layers import BQ_PER_KBQ, CT_WINDOW_HU, SPECT_FROM, SPECT_OPACITY, clear_below, where
from napari_plugin.organ_labels import organ_colormap, organ_features
from napari_plugin.session.placement import onto_frame

LayerData = tuple[np.ndarray, dict[str, Any], str]
Reader = Callable[[str], list[LayerData]]


def study_reader(path: str | list[str]) -> Reader | None:
    """Give a reader for a study folder (``study.json``); None for anything else."""
    one = _single(path)
    return study_layers if one is not None and (one / MANIFEST).is_file() else None


def label_reader(path: str | list[str]) -> Reader | None:
    """Give a reader for a label map whose file says which organs its values are; None for any other image."""
    one = _single(path)
    if one is None or not one.name.lower().endswith(SUFFIXES):
        return None
    try:
        named = bool(carried(read_header(one)).names)
    except DoselabelError:
        return None
    return label_layers if named else None


def study_layers(path: str) -> list[LayerData]:
    """A study's diagnostic CT, its SPECTs on it as the study places them, and the label map that counts."""
    study = Study.load(path)
    images = Images(study)
    native = images.read("ct", study.ct)
    ct = canonical(native)
    grid = ct.geometry
    facts = {"patient_id": study.patient_id, "native_geometry": native.geometry}
    look: dict[str, Any] = {"colormap": "gray", "contrast_limits": CT_WINDOW_HU, "metadata": facts}
    found: list[LayerData] = [(ct.array, {"name": f"CT · {study.patient_id}", **look, **where(grid, grid)}, "image")]
    for index, point in enumerate(study.time_points):
        spect = onto_frame(images.spect(index), grid, np.asarray(point.spect_to_ct.matrix))
        kbq_ml = np.asarray(spect.array, np.float32) / BQ_PER_KBQ
        look = {
            "name": f"SPECT {point.time_h:g} h (kBq/mL)",
            "colormap": clear_below(SPECT_FROM),
            "blending": "translucent_no_depth",
            "opacity": SPECT_OPACITY,
            "contrast_limits": (0.0, float(kbq_ml.max()) or 1.0),
            "visible": index == 0,
        }
        found.append((kbq_ml, look | where(spect.geometry, grid), "image"))
    if (final := Submitted.of(study, study.ct).final_path()) is not None:
        found.append(_labels(read_labels(final, expect=native.geometry, ct=native), "Organs"))
    return found


def label_layers(path: str) -> list[LayerData]:
    """A label map, its organs named and coloured."""
    file = Path(path)
    return [_labels(read_labels(file), file.name)]


def write_label_layer(path: str, data: np.ndarray, attributes: Mapping[str, Any]) -> list[str]:
    """Write a labels layer as a label map on its CT's own grid, the organs' names inside.

    Raises
    ------
    GeometryError
        When the layer does not say on which grid it was drawn: then it is none of doselabel's.
    """
    facts = attributes.get("metadata") or {}
    native = facts.get("native_geometry")
    if not isinstance(native, Geometry):
        raise GeometryError(
            f"The layer '{attributes.get('name', '')}' does not say on which CT's grid it was drawn.",
            "Draw on the layer 'Organs' of an open case, or on a label map opened with doselabel.",
        )
    upright = canonical(Volume(np.zeros(native.shape, np.uint8), native)).geometry
    back = restore(Volume(np.asarray(data, np.uint8), upright), native)
    return [str(write_labels(path, LabelMap(back.array, native, dict(facts.get("names") or NAMES))))]


def sample_patient() -> list[LayerData]:
    """A synthetic patient, made at the first call (about half a minute) and kept."""
    from doselabel.cli import main

    root = Path(platformdirs.user_cache_dir("doselabel", appauthor=False)) / "sample"
    if not (root.is_dir() and Study.find(root)):
        main(["sample", str(root), "--patients", "1", "--seed", "1"])
    folder = Study.find(root)[0]
    study = Study.load(folder)
    found = study_layers(str(folder))
    truth = folder / "truth" / Path(study.ct).name
    if truth.is_file():
        found.append(_labels(read_labels(truth, expect=study.grid(study.ct)), "Organs (truth)"))
    return found


def _labels(labels: LabelMap, name: str) -> LayerData:
    ours = labels.renumbered()
    upright = canonical(ours.volume)
    look: dict[str, Any] = {
        "name": name,
        "colormap": organ_colormap(ours.names),
        "features": organ_features(ours.names),
        "metadata": {"native_geometry": ours.geometry, "names": dict(ours.names)},
    }
    return upright.array, look | where(upright.geometry, upright.geometry), "labels"


def _single(path: str | list[str]) -> Path | None:
    paths = [path] if isinstance(path, (str, Path)) else list(path)
    return Path(paths[0]) if len(paths) == 1 else None
