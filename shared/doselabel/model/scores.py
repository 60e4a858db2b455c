"""Scores of organ masks: what one row holds, how rows are summed up, and how they are written. Knows no images."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

DRAWS = 2000
FIGURES = (
    "dice",
    "slice_dice",
    "surface_dice_2mm",
    "hd95_mm",
    "volume_error_percent",
    "mass_error_g",
    "dose_error_percent",
)
"""What is averaged over patients."""


@dataclass(frozen=True)
class OrganScore:
    """Agreement of one organ's mask with the expert's in one CT.

    Attributes
    ----------
    dice : float
        2|A∩B| / (|A|+|B|) of the whole organ.
    surface_dice_2mm : float
        Part of both surfaces' area that lies within 2 mm of the other (Nikolov et al. 2021).
    hd95_mm : float
        95th percentile of the distances between the surfaces, the larger of both ways; nan when a mask is empty.
    volume_error_percent, mass_error_g : float
        Predicted minus true; mass by the label table's density.
    slice_dice, slices : float, int
        Mean Dice of the axial slices that show the organ in either mask, and their number (Nazari 2021, A.2).
    wrong_side : bool
        The mask lies on the other kidney: it covers more of that one than of its own.
    dose_error_percent : float
        Mean absorbed dose with the predicted masks over that with the expert's, minus 1; nan without a SPECT.
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
    mass_g: float
    mass_error_g: float
    slice_dice: float = math.nan
    slices: int = 0
    wrong_side: bool = False
    dose_error_percent: float = math.nan


def interval(rows: Sequence[OrganScore], figure: str) -> tuple[float, float]:
    """95 % interval of a figure's mean by a bootstrap over patients (percentiles of `DRAWS` draws, always the same).

    A patient with many CTs counts once. (nan, nan) when fewer than two patients have the figure.
    """
    by_patient: dict[str, list[float]] = {}
    for row in rows:
        if not math.isnan(value := getattr(row, figure)):
            by_patient.setdefault(row.patient, []).append(value)
    if len(by_patient) < 2:
        return math.nan, math.nan
    means = np.array([np.mean(values) for values in by_patient.values()])
    drawn = np.random.default_rng(0).choice(means, (DRAWS, len(means)))
    low, high = np.percentile(drawn.mean(axis=1), (2.5, 97.5))
    return float(low), float(high)


def summarize(rows: Sequence[OrganScore]) -> dict[str, dict[str, float]]:
    """Mean of each figure per organ, with its 95 % interval, the number of masks and the lowest Dice.

    Keys are those of `FIGURES`, with ``_low`` and ``_high`` for the interval, ``n`` and ``dice_min``. What is not
    known (no SPECT, one patient) is left out.
    """
    summary = {}
    for name in dict.fromkeys(row.organ for row in rows):
        mine = [row for row in rows if row.organ == name]
        found: dict[str, float] = {}
        for figure in FIGURES:
            known = [value for row in mine if not math.isnan(value := getattr(row, figure))]
            if known:
                found[figure] = round(float(np.mean(known)), 4)
            low, high = interval(mine, figure)
            if not math.isnan(low):
                found |= {f"{figure}_low": round(low, 4), f"{figure}_high": round(high, 4)}
        summary[name] = found | {"n": len(mine), "dice_min": round(min(row.dice for row in mine), 4)}
    return summary


def global_dice(rows: Sequence[OrganScore]) -> dict[str, float]:
    """The mean Dice over all masks ("masks"), and over all slices of all CTs ("slices": the paper's global mean)."""
    weights = [row.slices for row in rows if row.slices]
    by_slice = [row.slice_dice for row in rows if row.slices]
    return {
        "masks": float(np.mean([row.dice for row in rows])) if rows else math.nan,
        "slices": float(np.average(by_slice, weights=weights)) if weights else math.nan,
    }


def table(rows: Sequence[OrganScore]) -> str:
    """All rows and their means as text to read."""
    with_dose = any(not math.isnan(row.dose_error_percent) for row in rows)
    width = max([len(f"{row.patient}/{row.ct}") for row in rows] or [4])
    heads = f"{'organ':<13} {'Dice':>6} {'surface':>8} {'HD95 mm':>8} {'mL':>7} {'true mL':>8} {'error %':>8} {'g':>7}"
    lines = [f"{'CT':<{width}}  {heads}" + (f" {'dose %':>8}" if with_dose else "")]
    for row in rows:
        line = (
            f"{row.patient + '/' + row.ct:<{width}}  {row.organ:<13} {row.dice:6.3f} {row.surface_dice_2mm:8.3f} "
            f"{row.hd95_mm:8.1f} {row.volume_ml:7.0f} {row.true_volume_ml:8.0f} {row.volume_error_percent:+8.1f} "
            f"{row.mass_g:7.0f}"
        )
        lines.append(line + (f" {row.dose_error_percent:+8.1f}" if with_dose else "") + "  WRONG SIDE" * row.wrong_side)
    for name, mean in summarize(rows).items():
        title = f"mean of {mean['n']:.0f}"
        line = (
            f"{title:<{width}}  {name:<13} {mean['dice']:6.3f} {mean['surface_dice_2mm']:8.3f} "
            f"{mean.get('hd95_mm', math.nan):8.1f} {'':7} {'':8} {mean['volume_error_percent']:+8.1f} {'':7}"
        )
        line += f" {mean.get('dose_error_percent', math.nan):+8.1f}" if with_dose else ""
        if "dice_low" in mean:
            line += f"  Dice 95 % interval {mean['dice_low']:.3f}–{mean['dice_high']:.3f}"
        lines.append(line.rstrip())
    return "\n".join(lines)


def write_scores(rows: Sequence[OrganScore], out: Path, about: dict | None = None) -> tuple[Path, Path]:
    """Write ``scores.csv`` (a row per organ and CT) and ``scores.json`` (the same, the summary, and ``about``)."""
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    names = [field.name for field in fields(OrganScore)]
    with (out / "scores.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows({key: _blank(value) for key, value in asdict(row).items()} for row in rows)
    content = {
        **(about or {}),
        "summary": summarize(rows),
        "global_mean_dice": {key: round(value, 4) for key, value in global_dice(rows).items() if not math.isnan(value)},
        "rows": [{key: _null(value) for key, value in asdict(row).items()} for row in rows],
    }
    (out / "scores.json").write_text(json.dumps(content, indent=1) + "\n", "utf-8")
    return out / "scores.csv", out / "scores.json"


def read_scores(path: Path) -> list[OrganScore]:
    """Read the rows of a ``scores.json``."""
    rows: list[dict[str, Any]] = json.loads(Path(path).read_text("utf-8"))["rows"]
    for row in rows:
        row.update({name: math.nan for name, value in row.items() if value is None})
    return [OrganScore(**row) for row in rows]


def _blank(value):
    return "" if isinstance(value, float) and math.isnan(value) else value


def _null(value):
    return None if isinstance(value, float) and math.isnan(value) else value
