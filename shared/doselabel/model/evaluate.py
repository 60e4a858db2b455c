"""How good a model's masks are: per organ, per patient. Knows masks and millimetres; decides nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from doselabel.errors import Progress, no_progress
from doselabel.geometry import read_image
from doselabel.labels import LabelMap, organ
from doselabel.model import checkpoint as checkpoints
from doselabel.model.cases import TrainCase, case_labels
from doselabel.model.checkpoint import Checkpoint
from doselabel.model.predict import segment


@dataclass(frozen=True)
class OrganScore:
    """Agreement of one organ's mask with the expert's in one CT.

    Attributes
    ----------
    dice : float
        2|A∩B| / (|A|+|B|).
    surface_dice_2mm : float
        Part of both surfaces that lies within 2 mm of the other (Nikolov et al. 2021).
    hd95_mm : float
        95th percentile of the distances between the surfaces, both ways; nan when a mask is empty.
    volume_error_percent, mass_error_g : float
        Predicted minus true.
    """

    patient: str
    ct: str
    organ: str
    dice: float
    surface_dice_2mm: float
    hd95_mm: float
    volume_ml: float
    true_volume_ml: float
    volume_error_percent: float
    mass_error_g: float


def evaluate(
    checkpoint: Path | Checkpoint,
    cases: Sequence[TrainCase],
    *,
    planes: Sequence[str] = ("axial",),
    score_threshold: float | None = None,
    device: str = "cpu",
    progress: Progress = no_progress,
) -> list[OrganScore]:
    """Segment cases and compare with their label maps; one row per organ that the expert drew."""
    ready = checkpoint if isinstance(checkpoint, Checkpoint) else checkpoints.load(checkpoint)
    rows = []
    for number, case in enumerate(cases):
        progress("evaluating", number / len(cases))
        result = segment(
            read_image(case.ct), ready, planes=planes, score_threshold=score_threshold, device=device, name=str(case.ct)
        )
        truth = case_labels(case)
        rows += compare(result.labels, truth, ready.profile.organs, patient=case.patient, ct=Path(case.ct).name)
    return rows


def compare(
    predicted: LabelMap, truth: LabelMap, names: Sequence[str], *, patient: str = "", ct: str = ""
) -> list[OrganScore]:
    """Compare two label maps on the same grid, organ by organ (those that ``truth`` shows)."""
    rows = []
    spacing, voxel_ml = truth.geometry.spacing_mm, truth.geometry.voxel_volume_ml
    for name in names:
        a, b = predicted.mask(name), truth.mask(name)
        if not b.any():
            continue
        volume_ml, true_ml = float(a.sum()) * voxel_ml, float(b.sum()) * voxel_ml
        surface, hd95_mm = surface_agreement(a, b, spacing)
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
                (volume_ml - true_ml) * organ(name).density_g_cm3,
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

    Surfaces are the voxels of a mask with a face outside it, so tolerance is at voxel precision.
    """
    if not a.any() or not b.any():
        return (1.0, 0.0) if a.any() == b.any() else (0.0, float("nan"))
    (box,) = ndimage.find_objects((a | b).astype(np.uint8))
    grown = tuple(slice(max(0, s.start - 1), s.stop + 1) for s in box)
    surfaces = [mask[grown] & ~ndimage.binary_erosion(mask[grown]) for mask in (a, b)]
    to_other = [ndimage.distance_transform_edt(~surfaces[1 - k], sampling=spacing_mm)[surfaces[k]] for k in (0, 1)]
    distances = np.concatenate(to_other)
    return float(np.mean(distances <= tolerance_mm)), float(max(np.percentile(d, 95) for d in to_other))


def summarize(rows: Sequence[OrganScore]) -> dict[str, dict[str, float]]:
    """Mean of each figure per organ, with the number of masks and the lowest Dice."""
    summary = {}
    for name in dict.fromkeys(row.organ for row in rows):
        mine = [asdict(row) for row in rows if row.organ == name]
        figures = ("dice", "surface_dice_2mm", "hd95_mm", "volume_error_percent", "mass_error_g")
        known = {figure: [row[figure] for row in mine if not np.isnan(row[figure])] for figure in figures}
        summary[name] = {figure: round(float(np.mean(v)), 4) for figure, v in known.items() if v}
        summary[name] |= {"n": len(mine), "dice_min": round(min(row["dice"] for row in mine), 4)}
    return summary


def table(rows: Sequence[OrganScore]) -> str:
    """All rows and their means as text to read."""
    width = max([len(f"{row.patient}/{row.ct}") for row in rows] or [4])
    heads = f"{'organ':<13} {'Dice':>6} {'surface':>8} {'HD95 mm':>8} {'mL':>7} {'true mL':>8} {'error %':>8}"
    lines = [f"{'CT':<{width}}  {heads}"]
    for row in rows:
        lines.append(
            f"{row.patient + '/' + row.ct:<{width}}  {row.organ:<13} {row.dice:6.3f} {row.surface_dice_2mm:8.3f} "
            f"{row.hd95_mm:8.1f} {row.volume_ml:7.0f} {row.true_volume_ml:8.0f} {row.volume_error_percent:+8.1f}"
        )
    for name, mean in summarize(rows).items():
        title = f"mean of {mean['n']:.0f}"
        lines.append(
            f"{title:<{width}}  {name:<13} {mean['dice']:6.3f} {mean['surface_dice_2mm']:8.3f} "
            f"{mean.get('hd95_mm', float('nan')):8.1f} {'':7} {'':8} {mean['volume_error_percent']:+8.1f}"
        )
    return "\n".join(lines)
