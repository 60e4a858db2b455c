"""Which voxels a round brush covers, in millimetres. Knows spacing; knows no labels and no HU."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def brush_indices(
    centre: Sequence[float],
    radius_mm: float,
    spacing_mm: Sequence[float],
    shape: Sequence[int],
    axes: Sequence[int],
) -> tuple[np.ndarray, ...]:
    """Indices of the voxels whose centre lies within a disk (two axes) or sphere (three).

    Parameters
    ----------
    centre : sequence of float
        Index of the brush's middle, one number per axis of the image.
    radius_mm : float
        Brush radius, mm.
    spacing_mm, shape : sequence
        Of the image, one number per axis.
    axes : sequence of int
        Axes the brush extends along; along the others it is one voxel thick.

    Returns
    -------
    tuple of int arrays
        One per axis; empty when the brush lies outside the image.
    """
    at = [round(c) for c in centre]
    if any(not 0 <= at[d] < shape[d] for d in range(len(shape)) if d not in axes):
        return tuple(np.empty(0, int) for _ in shape)
    reach = [int(radius_mm / spacing_mm[d]) if d in axes else 0 for d in range(len(shape))]
    grid = np.ogrid[
        tuple(slice(max(0, at[d] - reach[d]), max(0, min(shape[d], at[d] + reach[d] + 1))) for d in range(len(shape)))
    ]
    squared = sum(((axis - at[d]) * spacing_mm[d]) ** 2 for d, axis in enumerate(grid))
    inside = np.nonzero(squared <= radius_mm**2)
    return tuple(index + (axis.flat[0] if axis.size else 0) for index, axis in zip(inside, grid, strict=True))
