"""How good a model's masks are: per organ, per patient. Knows masks and millimetres; decides nothing.

The metrics are MONAI's, on the masks' common box. What rows hold and how they are summed up: `doselabel.model.scores`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from doselabel.errors import LabelError, Progress, no_progress
from doselabel.geometry import Geometry
from doselabel.labels import LabelMap, region
from doselabel.model.cases import TrainCase, case_ct, case_labels, unlabelled
from doselabel.model.scores import OrganScore, summarize, table
from doselabel.reading import read_of_study

__all__ = ["OrganScore", "compare", "dice", "evaluate", "summarize", "surface_agreement", "table"]

Seen = Callable[[TrainCase, LabelMap, LabelMap, list[OrganScore]], None]
"""Called with a case, what was predicted, the truth and its rows: to draw them, or to compute doses."""


def evaluate(
    checkpoint,
    cases: Sequence[TrainCase],
    *,
    planes: Sequence[str] = ("axial",),
    device: str = "cpu",
    reading: Mapping[str, Any] | None = None,
    seen: Seen | None = None,
    progress: Progress = no_progress,
) -> list[OrganScore]:
    """Segment cases and compare with their label maps; one row per organ that the expert drew.

    Parameters
    ----------
    checkpoint : Path or Checkpoint
    cases : sequence of TrainCase
    planes, device
        As in `doselabel.model.predict.segment`.
    reading : mapping, optional
        ``consensus``, ``score_threshold``, ``gap_fill`` of it; None leaves each to the model's profile.
    seen : callable, optional
        Called for each case as soon as it is segmented.
    """
    from doselabel.model import checkpoint as checkpoints
    from doselabel.model.predict import segment

    ready = checkpoint if isinstance(checkpoint, checkpoints.Checkpoint) else checkpoints.load(checkpoint)
    rows = []
    for number, case in enumerate(cases):
        progress("evaluating", number / len(cases))
        ct = case_ct(case)
        truth = case_labels(case, ct)
        spect = read_of_study(case.spect) if case.spect and ready.profile.spect else None
        how = {"planes": planes, "device": device, "engine": "torch", **(reading or {})}  # the weights as they are
        found = segment(ct, ready, spect=spect, name=str(case.ct), **how).labels
        organs = ready.profile.organs
        names = [name for name in organs if name not in unlabelled(case, truth, organs)]
        scored = compare(found, truth, names, patient=case.patient, ct=Path(case.ct).name)
        rows += scored
        if seen is not None:
            seen(case, found, truth, scored)
    progress("evaluating", 1.0)
    return rows


def compare(
    predicted: LabelMap, truth: LabelMap, names: Sequence[str], *, patient: str = "", ct: str = ""
) -> list[OrganScore]:
    """Compare two label maps on the same grid, organ by organ (those that ``truth`` shows).

    Raises
    ------
    LabelError
        When the maps are not on the same grid.
    """
    if not predicted.geometry.same_place(truth.geometry):
        raise LabelError(
            f"{patient or 'The case'}/{ct}: the predicted label map has {predicted.geometry.shape} voxels at "
            f"{_mm(predicted.geometry.origin_mm)} mm, the true one {truth.geometry.shape} at "
            f"{_mm(truth.geometry.origin_mm)} mm.",
            "Compare maps of the same CT, on its own grid.",
        )
    rows = []
    spacing, voxel_ml = truth.geometry.spacing_mm, truth.geometry.voxel_volume_ml
    for name in names:
        whole_a, whole_b = predicted.mask(name), truth.mask(name)
        if not whole_b.any():
            continue
        box = _box(whole_a | whole_b)
        a, b = whole_a[box], whole_b[box]
        volume_ml, true_ml = float(a.sum()) * voxel_ml, float(b.sum()) * voxel_ml
        density = region(name).density_g_cm3
        surface, hd95_mm = surface_agreement(a, b, spacing)
        slice_dice, slices = _slice_dice(a, b, _axial_axis(truth.geometry))
        rows.append(
            OrganScore(
                patient,
                ct,
                name,
                dice(a, b),
                surface,
                hd95_mm,
                volume_ml,
                true_ml,
                100 * (volume_ml / true_ml - 1),
                volume_ml * density,
                (volume_ml - true_ml) * density,
                slice_dice,
                slices,
                _on_wrong_side(whole_a, whole_b, truth, name),
            )
        )
    return rows


def dice(a: np.ndarray, b: np.ndarray) -> float:
    """Dice coefficient of two boolean masks; 1 when both are empty."""
    total = int(a.sum()) + int(b.sum())
    return 2 * int((a & b).sum()) / total if total else 1.0


def surface_agreement(
    a: np.ndarray, b: np.ndarray, spacing_mm: tuple[float, float, float], tolerance_mm: float = 2.0
) -> tuple[float, float]:
    """Surface Dice and HD95 (mm) of two masks (z, y, x); (0, nan) when one is empty.

    The surfaces' area is that of the mesh through the voxels' corners, as Nikolov et al. (2021) define it: on thick
    slices a count of border voxels would weigh the poles too little.
    """
    if not a.any() or not b.any():
        return (1.0, 0.0) if a.any() == b.any() else (0.0, math.nan)
    import torch

    from doselabel.model.lean import import_monai

    import_monai()
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice

    box = _box(a | b)
    masks = [torch.from_numpy(np.pad(mask[box], 1))[None, None] for mask in (a, b)]
    spacing = list(spacing_mm)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # MONAI calls its own deprecated arguments
        surface = compute_surface_dice(
            masks[0], masks[1], [tolerance_mm], include_background=True, spacing=spacing, use_subvoxels=True
        )
        hd95_mm = compute_hausdorff_distance(
            masks[0], masks[1], include_background=True, percentile=95, spacing=spacing
        )
    return float(surface), float(hd95_mm)


def _slice_dice(a: np.ndarray, b: np.ndarray, axis: int) -> tuple[float, int]:
    across = tuple(k for k in range(3) if k != axis)
    total = a.sum(across) + b.sum(across)
    shown = total > 0
    return float(np.mean(2 * (a & b).sum(across)[shown] / total[shown])), int(shown.sum())


def _axial_axis(geometry: Geometry) -> int:
    """The array axis that runs along the patient."""
    return 2 - int(np.abs(np.reshape(geometry.direction, (3, 3))[2]).argmax())


def _on_wrong_side(predicted: np.ndarray, own: np.ndarray, truth: LabelMap, name: str) -> bool:
    side, _, rest = name.partition("_")
    if side not in ("left", "right"):
        return False
    other = truth.mask(f"{'right' if side == 'left' else 'left'}_{rest}")
    return int((predicted & other).sum()) > int((predicted & own).sum())


def _box(mask: np.ndarray) -> tuple[slice, ...]:
    return ndimage.find_objects(mask.astype(np.uint8))[0]


def _mm(point: tuple[float, float, float]) -> str:
    return "(" + ", ".join(f"{value:.1f}" for value in point) + ")"
