"""Some slices that shapes are painted on, one over the other. Knows no organs' shapes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from sample_data.shapes import Axes, Points, Waves
from sample_data.tissues import Tissue

Level = Callable[[Points], np.ndarray | tuple[np.ndarray, ...]]
EVERYWHERE = ((-1e4, -1e4, -1e4), (1e4, 1e4, 1e4))


class Canvas:
    """Tissue and Hounsfield arrays of some slices, painted shape over shape."""

    def __init__(self, axes: Axes, warp: tuple[Waves, Waves, Waves], breathing_mm: float, hu: np.ndarray) -> None:
        self.axes, self.hu = axes, hu
        self.edge_mm = float(np.mean(axes.spacing_mm[1:]))
        self.tissue = np.zeros(axes.shape, np.uint8)
        self.image = np.full(axes.shape, hu[Tissue.AIR], np.float32)
        self.still_axes, self.moving_axes = axes, axes.shifted(dz=-breathing_mm)
        self.still, self.moving = (_warped(a, warp) for a in (self.still_axes, self.moving_axes))
        self.frame, self.frame_axes = self.still, self.still_axes

    def move(self) -> None:
        """From here on, shapes move with the breath."""
        self.frame, self.frame_axes = self.moving, self.moving_axes

    def box(
        self, low: tuple[float, ...], high: tuple[float, ...], margin_mm: float = 14.0
    ) -> tuple[slice, slice, slice]:
        """Slices (z, y, x) that hold a box given by corners (x, y, z)."""
        ends = zip((self.frame_axes.x, self.frame_axes.y, self.frame_axes.z), low, high, strict=True)
        x, y, z = (slice(*np.searchsorted(a, (lo - margin_mm, hi + margin_mm)).tolist()) for a, lo, hi in ends)
        return z, y, x

    def paint(self, level: Level, *tissues: Tissue, box: tuple = EVERYWHERE) -> None:
        """Paint a shape; with several tissues, the level function gives one level per tissue, outermost first."""
        where = self.box(*box)
        if any(s.start >= s.stop for s in where):
            return
        levels = level(self.frame[where])
        for tissue, d in zip(tissues, levels if isinstance(levels, tuple) else (levels,), strict=True):
            weight = np.clip(0.5 + d / self.edge_mm, 0, 1).astype(np.float32)
            image = self.image[where]
            image += weight * (self.hu[tissue] - image)
            self.tissue[where][d > 0] = tissue


def _warped(axes: Axes, warp: tuple[Waves, Waves, Waves]) -> Points:
    return Points(
        axes.x[None, None, :].astype(np.float32) + warp[0](axes),
        axes.y[None, :, None].astype(np.float32) + warp[1](axes),
        axes.z[:, None, None].astype(np.float32) + warp[2](axes),
    )
