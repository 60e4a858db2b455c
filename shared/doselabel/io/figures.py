"""Figures of a dose report: overlays, curves, histograms. Draws what it is given and computes no doses.

Each function draws into an empty figure or subfigure, so that page and screen show the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import FigureBase
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from doselabel.geometry import Volume
from doselabel.io import planes
from doselabel.io.numerals import percent, significant
from doselabel.labels import LabelMap, region, title
from doselabel.wire import DvhCurve, OrganDose

SOFT, RULE, INK = "#5b6973", "#cfd8dd", "#1d262c"
CHART_COLORS = ("#c2410c", "#0b5c7a", "#8a4fbf", "#3f7d2c", "#b0893a", "#5b6973")
THIS_ORGAN, OTHER_ORGANS = "#ff4fd8", "#d9c8ff"
"""Contours on a dose overlay: no colour of an isodose line."""
MARGIN_MM = 32.0
SPECT_WIDTH_MM, SPECT_HEAD_MM, TALLEST_MM = 178.0, 5.0, 90.0
"""A figure up to this height shares a page with a table."""
SMALLEST_HALF_MM = 62.0


@dataclass(frozen=True)
class SpectFrame:
    """One time point as the SPECT/CT overlay shows it; ``matrix`` brings the SPECT onto the CT (LPS, mm)."""

    time_h: float
    ct: Volume
    spect: Volume
    labels: LabelMap | None
    matrix: np.ndarray
    caption: str = ""


def organ_color(name: str) -> str:
    """An organ's colour in the label table, or a region's own."""
    return region(name).color


def dose_overlay(
    figure: FigureBase, ct: Volume, labels: LabelMap, name: str, dose: Volume, mean_gy: float, highest_gy: float
) -> None:
    """CT, all organs' contours and isodose lines on three planes through one organ."""
    center, half = planes.box_lps_mm(labels.mask(name), labels.geometry)
    reach = np.full(3, max(SMALLEST_HALF_MM, float(half.max()) + MARGIN_MM))
    levels = planes.isodose_levels_gy(mean_gy, highest_gy)
    for i, plane in enumerate(planes.PLANES):
        axes = figure.add_axes((0.005 + i * 0.333, 0.10, 0.325, 0.84))
        cut = planes.cut_through(center, plane, reach, step_mm=float(reach[0]) / 110)
        planes.show_ct(axes, cut, ct)
        for other in labels.present():
            if other != name:
                planes.show_contour(axes, cut, labels, other, OTHER_ORGANS, width=0.8)
        planes.show_isodose(axes, cut, dose, levels)
        planes.show_contour(axes, cut, labels, name, THIS_ORGAN, width=1.1, style="dashed")
        axes.set_title(f"{plane.capitalize()}, {_position(plane, center)}", fontsize=7, color=SOFT, pad=2.5)
    handles = [
        Line2D([], [], color=c, linewidth=1.6, label=f"{significant(level, 2)} Gy")
        for level, c in zip(levels, planes.ISODOSE_COLORS, strict=False)
    ]
    handles.append(Line2D([], [], color=THIS_ORGAN, linewidth=1.4, linestyle="dashed", label=f"{title(name)}, contour"))
    figure.legend(handles=handles, loc="lower center", ncols=len(handles), fontsize=6.6, handlelength=1.5,
                  columnspacing=1.4, bbox_to_anchor=(0.5, -0.005))  # fmt: skip


def _position(plane: str, center: np.ndarray) -> str:
    axis = {"axial": 2, "coronal": 1, "sagittal": 0}[plane]
    return f"{'xyz'[axis]} = {center[axis]:.0f} mm".replace("-", "−")


def spect_headings(frames: Sequence[SpectFrame]) -> list[str]:
    """Columns of `spect_overlay`: as used and, where a SPECT was moved, as acquired."""
    moved = any(not np.allclose(frame.matrix, np.eye(4), atol=1e-6) for frame in frames)
    return ["Axial, as used", "Coronal, as used"] + (["Coronal, as acquired"] if moved else [])


def spect_height_mm(frames: Sequence[SpectFrame]) -> float:
    """Height of each frame's `spect_overlay` on paper so that no picture is squeezed."""
    reach = np.max([_whole_view(frame)[1] for frame in frames], axis=0)
    panel = 0.915 * SPECT_WIDTH_MM / len(spect_headings(frames))
    return SPECT_HEAD_MM + min(panel * float(max(reach[1], reach[2]) / reach[0]), TALLEST_MM)


def spect_overlay(figure: FigureBase, frame: SpectFrame, headings: Sequence[str], height_mm: float) -> None:
    """SPECT over CT at a time point, axial and coronal as used and, where one was moved, coronal as acquired."""
    width, height = 0.915 / len(headings), 1 - SPECT_HEAD_MM / height_mm
    center, reach = _whole_view(frame)
    figure.text(0.004, height * 0.93, f"{frame.time_h:g} h", fontsize=9, weight="bold", va="top")
    figure.text(0.004, height * 0.78, frame.caption, fontsize=6, color=SOFT, va="top")
    highest = _display_maximum(frame)
    for column, heading in enumerate(headings):
        axes = figure.add_axes((0.085 + column * width, 0.01, width * 0.985, height * 0.98))
        plane: planes.Plane = "axial" if column == 0 else "coronal"
        cut = planes.cut_through(center, plane, reach, step_mm=1.25)
        planes.show_ct(axes, cut, frame.ct, letters=True, ruler_mm=50.0)
        planes.show_spect(axes, cut, frame.spect, highest, None if column == 2 else frame.matrix)
        if frame.labels is not None:
            for name in frame.labels.present():
                planes.show_contour(axes, cut, frame.labels, name, _bright(name), width=0.9)
        axes.set_anchor("N")
        axes.set_title(heading, fontsize=7.5, color=SOFT, pad=3)


def _whole_view(frame: SpectFrame) -> tuple[np.ndarray, np.ndarray]:
    """Centre and half widths of a view of the whole trunk, through the kidneys where there are any."""
    center, half = planes.field_half_mm(frame.ct.geometry)
    if frame.labels is not None:
        kidneys = frame.labels.mask("left_kidney") | frame.labels.mask("right_kidney")
        mask = kidneys if kidneys.any() else frame.labels.array > 0
        if mask.any():
            middle, _ = planes.box_lps_mm(mask, frame.labels.geometry)
            center = np.array([center[0], middle[1], middle[2]])
    return center, np.array([min(half[0], 190.0), min(half[1], 120.0), min(half[2], 120.0)])


def _display_maximum(frame: SpectFrame) -> float:
    """Concentration (Bq/mL) at which the SPECT's colour ends: a bladder or a lesion must not dim the organs."""
    values = frame.spect.array[frame.spect.array > 0]
    return 1.2 * float(np.percentile(values, 99.5)) if values.size else 1.0


def _bright(name: str) -> str:
    return {"liver": "#8be08b"}.get(name, "#5fe3ff")


def organ_charts(figure: FigureBase, result: OrganDose) -> None:
    """An organ's curve with residuals, the curve to infinity, and its dose-volume histogram, side by side."""
    grid = figure.add_gridspec(2, 3, left=0.078, right=0.99, bottom=0.2, top=0.90, hspace=0.13, wspace=0.24,
                               height_ratios=(3.0, 1))  # fmt: skip
    near, rest, whole, histogram = (figure.add_subplot(g) for g in (grid[0, 0], grid[1, 0], grid[:, 1], grid[:, 2]))
    time_activity(near, rest, whole, result)
    organ_dvh(histogram, result.dvh)


def time_activity(near: Axes, rest: Axes, whole: Axes, result: OrganDose) -> None:
    """Measured activities, the fitted curve with its extrapolated part, and residuals."""
    tac, color = result.tac, CHART_COLORS[0]
    time, activity = np.asarray(tac.time_h), np.asarray(tac.activity_mbq)
    curve_t, curve_a = np.asarray(tac.curve_time_h), np.asarray(tac.curve_activity_mbq)
    sd = np.asarray(tac.activity_sd_mbq) if len(tac.activity_sd_mbq) == len(time) else None
    until = float(time[-1]) * 1.12
    for axes in (near, whole):
        axes.plot(curve_t, curve_a, color=color, zorder=2)
        axes.errorbar(time, activity, yerr=sd, fmt="o", color=INK, markersize=3.2, capsize=1.8, elinewidth=0.8,
                      zorder=3)  # fmt: skip
        axes.grid(True)
    near.set_xlim(0, until)
    near.set_ylim(0, 1.18 * max(float(activity.max()), float(curve_a[curve_t <= until].max())))
    near.set_ylabel("Activity (MBq)")
    near.tick_params(labelbottom=False)
    near.set_title(f"Fit '{tac.model}', to the last scan", loc="left", color=SOFT, fontsize=7)
    tail = curve_t >= time[-1]
    whole.fill_between(curve_t[tail], curve_a[tail], 0, color=color, alpha=0.16, linewidth=0)
    whole.set_xlim(0, float(curve_t[-1]))
    whole.set_ylim(0, near.get_ylim()[1])
    share = percent(100 * tac.extrapolated_fraction, 0)
    whole.set_title(f"To infinity: {share} of TIA after last scan", loc="left", color=SOFT, fontsize=7)
    for axes in (rest, whole):
        axes.set_xlabel("Time after injection (h)")
    _residuals(rest, time, np.asarray(tac.residual_mbq), sd, until)
    for axes in (near, rest):
        axes.yaxis.set_label_coords(-0.19, 0.5)


def _residuals(axes: Axes, time: np.ndarray, residual: np.ndarray, sd: np.ndarray | None, until: float) -> None:
    axes.axhline(0, color=SOFT, linewidth=0.7)
    axes.errorbar(time, residual, yerr=sd, fmt="o", color=INK, markersize=3.2, capsize=2, elinewidth=0.8)
    reach = float(np.max(np.abs(residual) + (sd if sd is not None else 0))) or 1.0
    axes.set_ylim(-1.35 * reach, 1.35 * reach)
    axes.set_xlim(0, until)
    axes.yaxis.set_major_locator(MaxNLocator(3, symmetric=True))
    axes.set_ylabel("Resid. (MBq)")
    axes.grid(True)


def dvh(figure: FigureBase, curves: Mapping[str, DvhCurve], *, markers: bool = True) -> None:
    """Cumulative dose-volume histograms of organs (colours of the label table) with D70 and D30 marked."""
    axes = figure.add_axes((0.085, 0.16, 0.64, 0.80))
    for name, curve in curves.items():
        color = organ_color(name)
        axes.plot(
            curve.dose_gy,
            curve.volume_percent,
            color=color,
            label=f"{title(name)}, mean {significant(curve.mean_gy)} Gy",
        )
        if markers:
            for key, volume in (("D70", 70.0), ("D30", 30.0)):
                if key in curve.d_gy:
                    axes.plot(curve.d_gy[key], volume, "o", color=color, markersize=3.6, markeredgecolor="white")
    if markers:
        for volume in (70.0, 30.0):
            axes.axhline(volume, color=RULE, linewidth=0.7, linestyle=(0, (4, 3)), zorder=0)
            axes.text(0.995, volume + 1, f"D{volume:.0f}", transform=axes.get_yaxis_transform(), ha="right",
                      fontsize=6, color=SOFT)  # fmt: skip
    _dvh_axes(axes)
    axes.set_xlim(0, max(c.max_gy for c in curves.values()) * 1.04)
    if len(curves) > 1 or not markers:
        axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), borderaxespad=0)


def organ_dvh(axes: Axes, curve: DvhCurve) -> None:
    """One organ's cumulative histogram, its differential form as a tint, mean, D70 and D30."""
    dose, volume = np.asarray(curve.dose_gy), np.asarray(curve.volume_percent)
    color = CHART_COLORS[1]
    middle, density = differential(dose, volume)
    if density.max() > 0:
        axes.fill_between(middle, 55 * density / density.max(), 0, color=color, alpha=0.15, linewidth=0)
    axes.plot(dose, volume, color=color)
    axes.axvline(curve.mean_gy, color=CHART_COLORS[0], linewidth=0.9, linestyle=(0, (4, 2)))
    axes.set_title(f"DVH, dashed: mean {significant(curve.mean_gy)} Gy", loc="left", color=SOFT, fontsize=7)
    for key, at in (("D70", 70.0), ("D30", 30.0)):
        if key in curve.d_gy:
            low = curve.d_gy[key] > 0.55 * curve.max_gy
            axes.plot(curve.d_gy[key], at, "o", color=color, markersize=3.6)
            axes.annotate(f"{key} {significant(curve.d_gy[key])} Gy", (curve.d_gy[key], at), (-5 if low else 5, 0),
                          textcoords="offset points", fontsize=6.2, color=INK, ha="right" if low else "left",
                          va="center")  # fmt: skip
    _dvh_axes(axes)
    axes.set_xlim(0, curve.max_gy * 1.04)


def _dvh_axes(axes: Axes) -> None:
    axes.set_xlabel("Absorbed dose (Gy)")
    axes.set_ylabel("Volume (%)")
    axes.set_ylim(0, 102)
    axes.grid(True)


def differential(dose_gy: np.ndarray, volume_percent: np.ndarray, bins: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Differential histogram (% per Gy) of a cumulative one on equal bins: their middles and heights."""
    order = np.argsort(dose_gy)
    edges = np.linspace(0, float(dose_gy.max()), bins + 1)
    cumulative = np.interp(edges, dose_gy[order], volume_percent[order], left=100.0, right=0.0)
    return (edges[1:] + edges[:-1]) / 2, np.clip(-np.diff(cumulative) / np.diff(edges), 0, None)


def differences_height_mm(count: int) -> float:
    """Height of `differences` with so many lines."""
    return 18.0 + 9.0 * count


def differences(figure: FigureBase, rows: Sequence[tuple[str, float, float]]) -> None:
    """Differences in percent (label, value, standard deviation) about zero, one per line."""
    below = 11.0 / differences_height_mm(len(rows))  # the scale and its words, however few the lines
    axes = figure.add_axes((0.20, below, 0.77, 0.94 - below))
    y = np.arange(len(rows))[::-1]
    values = np.array([value for _, value, _ in rows])
    errors = np.array([sd for _, _, sd in rows])
    axes.axvline(0, color=SOFT, linewidth=0.8)
    axes.errorbar(values, y, xerr=errors if errors.any() else None, fmt="o", color=CHART_COLORS[1], markersize=4,
                  elinewidth=0.9, capsize=2.5)  # fmt: skip
    reach = 1.15 * max(float(np.max(np.abs(values) + errors)), 1.0)
    axes.set_xlim(-reach, reach)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_yticks(y, [label for label, _, _ in rows])
    axes.set_xlabel("Difference of the mean absorbed dose from the truth (%); bars: k = 1")
    axes.grid(True, axis="x")
