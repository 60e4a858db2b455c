"""Anatomical cuts through volumes, and how they are drawn: CT, contours, isodose lines, SPECT. Knows no results.

A cut is a grid one voxel thick along the patient's own axes, so images of any orientation and spacing meet in
physical space. Shown as radiologists do: the patient's left on the right, feet down, face up or left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from matplotlib.axes import Axes

from doselabel.geometry import Geometry, Volume, resample
from doselabel.labels import LabelMap

Plane = Literal["axial", "coronal", "sagittal"]
PLANES: tuple[Plane, ...] = ("axial", "coronal", "sagittal")
WINDOW_HU = (-160.0, 240.0)
ISODOSE_COLORS = ("#3b7dd8", "#2fb6a8", "#7cc442", "#f0c419", "#ef7d22", "#d92b2b")
NEAR_MEAN = 0.05
_LETTERS = {"axial": ("R", "L", "A", "P"), "coronal": ("R", "L", "S", "I"), "sagittal": ("A", "P", "S", "I")}
_AXES = {"axial": (0, 1), "coronal": (0, 2), "sagittal": (1, 2)}
"""LPS axes shown to the right and upwards (downwards in the axial cut)."""


@dataclass(frozen=True)
class Cut:
    """A rectangle of one anatomical plane.

    Attributes
    ----------
    plane : {"axial", "coronal", "sagittal"}
    grid : Geometry
        One voxel thick, its index axes the patient's x (to the left), y (to the back), z (up).
    """

    plane: Plane
    grid: Geometry

    @property
    def extent_mm(self) -> tuple[float, float, float, float]:
        """Left, right, bottom, top of the picture in LPS mm, the outer edges of the voxels."""
        low = self.grid.index_to_lps(np.full(3, -0.5))
        high = self.grid.index_to_lps(np.asarray(self.grid.shape) - 0.5)
        a, b = _AXES[self.plane]
        if self.plane == "axial":
            return float(low[a]), float(high[a]), float(high[b]), float(low[b])
        return float(low[a]), float(high[a]), float(low[b]), float(high[b])

    def axes_mm(self) -> tuple[np.ndarray, np.ndarray]:
        """Positions (mm) of the picture's columns and rows."""
        left, right, bottom, top = self.extent_mm
        low, high = min(bottom, top), max(bottom, top)
        rows, columns = self.picture_shape
        dx, dy = (right - left) / columns, (high - low) / rows
        return left + dx * (np.arange(columns) + 0.5), low + dy * (np.arange(rows) + 0.5)

    @property
    def picture_shape(self) -> tuple[int, int]:
        """Rows and columns."""
        nz, ny, nx = self.grid.shape
        return {"axial": (ny, nx), "coronal": (nz, nx), "sagittal": (nz, ny)}[self.plane]

    def take(self, volume: Volume, *, transform: np.ndarray | None = None, fill: float = 0.0) -> np.ndarray:
        """Sample a volume linearly; (rows, columns) float32, the first row at the smallest coordinate."""
        near = self.part_of(volume, transform)
        if near is None:
            return np.full(self.picture_shape, fill, np.float32)
        return resample(near, self.grid, transform=transform, fill=fill).array.reshape(self.picture_shape)

    def part_of(self, volume: Volume, transform: np.ndarray | None = None) -> Volume | None:
        """The box of a volume that the cut runs through, None when it misses it: a 512³ CT need not be copied."""
        corners = self.grid.corners_lps()
        if transform is not None:
            back = np.linalg.inv(transform)
            corners = corners @ back[:3, :3].T + back[:3, 3]
        index = volume.geometry.lps_to_index(corners)
        low = np.clip(np.floor(index.min(axis=0)).astype(int) - 2, 0, None)
        high = np.minimum(np.ceil(index.max(axis=0)).astype(int) + 3, volume.geometry.shape)
        if np.any(high <= low):
            return None
        x, y, z = (float(v) for v in volume.geometry.index_to_lps(low))
        nz, ny, nx = (int(n) for n in high - low)
        grid = Geometry((nz, ny, nx), volume.geometry.spacing_mm, (x, y, z), volume.geometry.direction)
        return Volume(volume.array[tuple(slice(a, b) for a, b in zip(low, high, strict=True))], grid)


def cut_through(
    center_lps_mm: Sequence[float] | np.ndarray,
    plane: Plane,
    half_mm: Sequence[float] | np.ndarray,
    step_mm: float = 1.0,
) -> Cut:
    """A cut through a point, reaching ``half_mm`` (x, y, z) to each side."""
    center, half = np.asarray(center_lps_mm, dtype=float), np.asarray(half_mm, dtype=float)
    count = np.maximum(1, np.round(2 * half / step_mm)).astype(int)
    count[{"axial": 2, "coronal": 1, "sagittal": 0}[plane]] = 1
    origin = center - (count - 1) / 2 * step_mm
    shape = (int(count[2]), int(count[1]), int(count[0]))
    return Cut(plane, Geometry(shape, (step_mm,) * 3, (float(origin[0]), float(origin[1]), float(origin[2]))))


def box_lps_mm(mask: np.ndarray, geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Centre of the widest part and half widths (x, y, z) in mm of a mask's box in patient axes.

    The centre is the mean position of the mask, so a cut through it meets the organ where it is big.
    """
    where = np.argwhere(mask)
    points = geometry.index_to_lps(where)
    return points.mean(axis=0), (points.max(axis=0) - points.min(axis=0)) / 2


def field_half_mm(geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Centre and half widths (x, y, z) in mm of a whole image."""
    corners = geometry.corners_lps()
    return (corners.max(0) + corners.min(0)) / 2, (corners.max(0) - corners.min(0)) / 2


def show_ct(axes: Axes, cut: Cut, ct: Volume, *, letters: bool = True, ruler_mm: float = 50.0) -> None:
    """Draw the CT of a cut in a soft-tissue window, with the sides' letters and a ruler."""
    picture = cut.take(ct, fill=-1024.0)
    origin: Literal["upper", "lower"] = "upper" if cut.plane == "axial" else "lower"
    low, high = WINDOW_HU
    axes.imshow(picture, cmap="gray", vmin=low, vmax=high, extent=cut.extent_mm, origin=origin, aspect="equal")
    axes.set_xlim(cut.extent_mm[0], cut.extent_mm[1])
    axes.set_ylim(cut.extent_mm[2], cut.extent_mm[3])
    axes.set_axis_off()
    if letters:
        west, east, north, south = _LETTERS[cut.plane]
        for text, x, y in ((west, 0.03, 0.5), (east, 0.97, 0.5), (north, 0.5, 0.96), (south, 0.5, 0.04)):
            axes.text(x, y, text, transform=axes.transAxes, color="#ffe9a8", fontsize=6.5, ha="center", va="center")
    if ruler_mm:
        left, right, bottom, top = cut.extent_mm
        y = bottom + 0.06 * (top - bottom)
        x = left + 0.06 * (right - left)
        axes.plot([x, x + ruler_mm], [y, y], color="white", linewidth=1.4, solid_capstyle="butt")
        axes.text(x + ruler_mm + 3, y, f"{ruler_mm:g} mm", color="white", fontsize=5.8, va="center")


def show_contour(
    axes: Axes, cut: Cut, labels: LabelMap, name: str, color: str, *, width: float = 1.1, style: str = "solid"
) -> None:
    """Draw an organ's outline where the cut meets it."""
    near, value = cut.part_of(labels.volume), labels.value(name)
    if near is None or value is None:
        return
    picture = cut.take(Volume((near.array == value).astype(np.float32), near.geometry))
    if min(picture.shape) > 1 and picture.max() > 0.5:
        axes.contour(*cut.axes_mm(), picture, levels=[0.5], colors=[color], linewidths=width, linestyles=style)


def show_isodose(axes: Axes, cut: Cut, dose: Volume, levels_gy: Sequence[float]) -> None:
    """Draw isodose lines; the colours are those of `ISODOSE_COLORS` in the order of the levels."""
    picture = cut.take(dose)
    shown = [(level, c) for level, c in zip(levels_gy, ISODOSE_COLORS, strict=False) if picture.max() > level]
    if min(picture.shape) > 1 and shown:
        levels, colors = zip(*shown, strict=True)
        axes.contour(*cut.axes_mm(), picture, levels=levels, colors=colors, linewidths=0.9)


def show_spect(axes: Axes, cut: Cut, spect: Volume, highest: float, transform: np.ndarray | None = None) -> None:
    """Lay a SPECT over what is drawn: no colour without activity, opaque towards ``highest`` (Bq/mL)."""
    picture = cut.take(spect, transform=transform)
    fraction = np.clip(picture / highest, 0, 1)
    origin: Literal["upper", "lower"] = "upper" if cut.plane == "axial" else "lower"
    axes.imshow(
        fraction, cmap="inferno", vmin=0, vmax=1, alpha=np.clip(1.3 * fraction, 0, 0.55), extent=cut.extent_mm,
        origin=origin, aspect="equal",
    )  # fmt: skip


def isodose_levels_gy(mean_gy: float, highest_gy: float) -> list[float]:
    """Up to six round doses, none within 5 % of the organ's mean, where noise alone would draw the line.

    >>> isodose_levels_gy(2.2, 3.9)
    [0.5, 1.0, 1.5, 2.0, 2.5, 3.0]
    """
    if not (np.isfinite(mean_gy) and mean_gy > 0):
        return []
    wanted = max(mean_gy, min(highest_gy, 1.6 * mean_gy)) / 6
    decade = 10.0 ** np.floor(np.log10(wanted))
    step = float(min((n * decade for n in (1, 2, 2.5, 5, 10)), key=lambda s: abs(np.log(s / wanted))))
    levels = [round(step * n, 10) for n in range(1, 8)]
    return [level for level in levels if level < highest_gy and abs(level / mean_gy - 1) > NEAR_MEAN][:6]
