"""Fill between slices: draw some axial slices, get those between them.

Shape-based interpolation by signed distances (Raya and Udupa, IEEE Trans Med Imaging 1990;9:32–42); the two
outlines are brought over each other by their centroids first, so that an organ that runs obliquely, as a kidney
does, is not thinned out in between.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from scipy import ndimage

from napari_plugin.tools.crop import Change, Spacing, box_of, reshape_organ


def fill_between_slices(labels: np.ndarray, value: int, spacing_mm: Spacing) -> Change | None:
    """Fill the axial slices without label that lie between slices with it."""
    box = box_of(labels, value)
    if box is None:
        return None
    mask = labels[box] == value
    drawn = mask.any(axis=(1, 2)).nonzero()[0]
    in_plane = spacing_mm[1:]
    for below, above in pairwise(drawn):
        if above - below > 1:
            _fill_gap(mask, int(below), int(above), in_plane)
    return reshape_organ(labels, box, value, mask)


def _fill_gap(mask: np.ndarray, below: int, above: int, spacing_mm: tuple[float, ...]) -> None:
    distances = [_signed_distance(mask[below], spacing_mm), _signed_distance(mask[above], spacing_mm)]
    centres = [np.array(ndimage.center_of_mass(mask[i])) for i in (below, above)]
    way = centres[1] - centres[0]
    for i in range(below + 1, above):
        t = (i - below) / (above - below)
        first = ndimage.shift(distances[0], t * way, order=1, mode="nearest")
        second = ndimage.shift(distances[1], (t - 1) * way, order=1, mode="nearest")
        mask[i] = (1 - t) * first + t * second > 0


def _signed_distance(plane: np.ndarray, spacing_mm: tuple[float, ...]) -> np.ndarray:
    """Distance to the outline, mm: positive inside. The outline runs half-way between voxel centres."""
    inside = ndimage.distance_transform_edt(plane, sampling=spacing_mm)
    outside = ndimage.distance_transform_edt(~plane, sampling=spacing_mm)
    half = 0.5 * min(spacing_mm)
    return np.where(plane, inside - half, half - outside)
