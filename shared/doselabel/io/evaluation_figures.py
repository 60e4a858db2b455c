"""Figures of an evaluation: box plots of the scores, contours of the worst masks. Draws what it is given."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from doselabel.geometry import Volume
from doselabel.io import planes
from doselabel.labels import LabelMap, region, title
from doselabel.model.scores import OrganScore

PANELS = (
    ("dice", "Dice"),
    ("surface_dice_2mm", "Surface Dice, 2 mm"),
    ("hd95_mm", "HD95, mm"),
    ("volume_error_percent", "Volume error, %"),
    ("dose_error_percent", "Dose error, %"),
)
TRUTH, PREDICTED = "#3fd0ff", "#ff4fd8"
MARGIN_MM = 25.0


def box_plots(rows: Sequence[OrganScore], path: Path) -> Path:
    """Draw each figure by organ: box of the quartiles, whiskers to 1.5 times their distance, every mask a dot."""
    organs = list(dict.fromkeys(row.organ for row in rows))
    panels = [(key, text) for key, text in PANELS if any(not math.isnan(getattr(row, key)) for row in rows)]
    figure = Figure(figsize=(3.0 * len(panels), 3.4), dpi=130, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (key, text) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        values = [
            [getattr(row, key) for row in rows if row.organ == name and not math.isnan(getattr(row, key))]
            for name in organs
        ]
        drawn = axes.boxplot(values, widths=0.55, showfliers=False, patch_artist=True)
        for k, (name, box, median) in enumerate(zip(organs, drawn["boxes"], drawn["medians"], strict=True), start=1):
            box.set(facecolor=region(name).color, alpha=0.45)
            median.set(color="#1d262c")
            # Spread by rank, so that the picture is the same each time.
            across = k + 0.3 * (np.linspace(-0.5, 0.5, len(values[k - 1])) if len(values[k - 1]) > 1 else np.zeros(1))
            axes.plot(across[: len(values[k - 1])], values[k - 1], "o", color="#1d262c", markersize=2.5, alpha=0.7)
        axes.set_xticks(range(1, len(organs) + 1), [title(name) for name in organs], rotation=30, ha="right")
        axes.set_title(text, fontsize=9)
        axes.tick_params(labelsize=7)
        axes.grid(axis="y", color="#cfd8dd", linewidth=0.6)
        if key.endswith("percent"):
            axes.axhline(0, color="#5b6973", linewidth=0.8)
    figure.savefig(path)
    return path


def overlay(row: OrganScore, ct: Volume, predicted: LabelMap, truth: LabelMap, path: Path) -> Path:
    """Draw both outlines of one organ where they differ most, on three planes."""
    a, b = predicted.mask(row.organ), truth.mask(row.organ)
    figure = Figure(figsize=(10, 3.9), dpi=120)
    FigureCanvasAgg(figure)
    center, half = planes.box_lps_mm(a | b, truth.geometry)
    if (a ^ b).any():
        center = _most_different(a ^ b, truth)
    reach = np.full(3, float(half.max()) + MARGIN_MM)
    for k, plane in enumerate(planes.PLANES):
        axes = figure.add_axes((0.005 + k * 0.333, 0.02, 0.325, 0.86))
        cut = planes.cut_through(center, plane, reach, step_mm=float(reach[0]) / 160)
        planes.show_ct(axes, cut, ct)
        planes.show_contour(axes, cut, truth, row.organ, TRUTH)
        planes.show_contour(axes, cut, predicted, row.organ, PREDICTED)
    hd95 = "–" if math.isnan(row.hd95_mm) else f"{row.hd95_mm:.1f} mm"
    figure.text(
        0.01, 0.94,
        f"{row.patient}/{row.ct}, {title(row.organ)}: Dice {row.dice:.3f}, HD95 {hd95}, "
        f"{row.volume_ml:.0f} mL of {row.true_volume_ml:.0f} mL",
        fontsize=9,
    )  # fmt: skip
    figure.text(0.76, 0.94, "truth", color=TRUTH, fontsize=9, weight="bold")
    figure.text(0.82, 0.94, "predicted", color=PREDICTED, fontsize=9, weight="bold")
    figure.savefig(path)
    return path


def _most_different(wrong: np.ndarray, truth: LabelMap) -> np.ndarray:
    """LPS point (mm) where three planes through it cross the most wrong voxels."""
    index = [int(wrong.sum(axis=tuple(k for k in range(3) if k != axis)).argmax()) for axis in range(3)]
    return truth.geometry.index_to_lps(np.asarray(index, float))
