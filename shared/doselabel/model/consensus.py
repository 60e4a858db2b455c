"""From chains of detections to one mask: painting, agreement of planes, gaps. Knows arrays of one organ.

A plane that lost the organ on a cut has no vote there: not to look, or to see nothing, is no evidence against what
the other planes see. So a consensus does not shrink an organ that one plane missed.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import numpy as np
from scipy import ndimage

from doselabel.model.slices import PLANES
from doselabel.model.track import GAP_MM, Box, Detection, shifted

PLANE_WEIGHTS = {"axial": 1.0, "coronal": 0.75, "sagittal": 0.75}
"""Cuts across the slices are taken every few mm and interpolated, along z at the slices' distance: where only two
planes know the organ and differ, the axial one decides."""

Fill = Literal["distance", "linear"]


def step_of(cuts: Sequence[int]) -> int:
    """How far apart slices were looked at."""
    return min((b - a for a, b in pairwise(sorted(cuts))), default=1)


def paint(chain: Sequence[Detection], plane: str, step: int, region: Box) -> tuple[np.ndarray, np.ndarray]:
    """Put a chain's masks together.

    Parameters
    ----------
    chain : sequence of Detection
        Of one plane, in the order of slices.
    plane : str
    step : int
        How far apart its slices were looked at; between them masks are interpolated linearly.
    region : tuple of slice
        The part of the image wanted.

    Returns
    -------
    volume : uint8 array
        Probabilities, 255 is certain.
    known : bool array
        Where along its axis this plane knows the organ.
    """
    axis = PLANES[plane]
    volume = np.zeros([part.stop - part.start for part in region], np.uint8)
    slices = np.moveaxis(volume, axis, 0)
    known = np.zeros(len(slices), bool)
    for d in chain:
        where = shifted(d.where, region)
        np.maximum(volume[where], d.values, out=volume[where])
        known[where[axis].start] = True
    if step == 1 or not chain:
        return volume, known
    seen = sorted({d.index - region[axis].start for d in chain})
    for before, after in pairwise([seen[0] - step, *seen, seen[-1] + step]):
        # A missing axial slice is filled later, and counted.
        if after - before > (1 if plane == "axial" else 2) * step:
            continue
        for index in range(max(0, before + 1), min(after, len(slices))):
            share = (index - before) / (after - before)
            ends = [slices[k].astype(np.float32) if k in seen else np.float32(0) for k in (before, after)]
            slices[index] = np.round((1 - share) * ends[0] + share * ends[1])
            known[index] = before in seen and after in seen
    return volume, known


def agree(by_plane: dict[str, tuple[np.ndarray, np.ndarray]], consensus: str) -> np.ndarray:
    """One volume (uint8) of those of several planes: their mean, or (255 or 0) what most of them show."""
    if len(by_plane) == 1:
        return next(iter(by_plane.values()))[0]
    first = next(iter(by_plane.values()))[0]
    result = np.empty_like(first)
    for z in range(len(first)):
        total, weights = np.zeros(first.shape[1:], np.float32), np.zeros(first.shape[1:], np.float32)
        for plane, (volume, known) in by_plane.items():
            votes = PLANE_WEIGHTS[plane] * known.astype(np.float32)
            weight = votes[z] if plane == "axial" else votes[:, None] if plane == "coronal" else votes[None]
            total += weight * (volume[z] if consensus == "mean" else np.float32(255) * (volume[z] > 127))
            weights += weight
        mean = total / np.maximum(weights, 1e-6)
        result[z] = mean.round() if consensus == "mean" else np.where(mean > 127.5, 255, 0)
    return result


def fill_gaps(
    mask: np.ndarray, spacing_z_mm: float, gap_mm: float = GAP_MM, how: Fill = "distance"
) -> tuple[np.ndarray, int]:
    """Fill empty slices between masks (z, y, x); returns the mask and how many were filled.

    ``how``: "distance" interpolates signed distances (the outline moves), "linear" the masks themselves (Nazari 2021:
    missing masks are interpolated between neighbours), which keeps what both neighbours show and, halfway, nothing
    else.
    """
    shown = np.flatnonzero(mask.any((1, 2)))
    result, filled = mask.copy(), 0
    for before, after in pairwise(shown):
        if after - before == 1 or (after - before) * spacing_z_mm > gap_mm:
            continue
        ends = [_signed_distance(mask[k]) if how == "distance" else mask[k] - 0.5 for k in (before, after)]
        for index in range(before + 1, after):
            share = (index - before) / (after - before)
            result[index] = (1 - share) * ends[0] + share * ends[1] > 0
            filled += int(result[index].any())
    return result, filled


def largest(mask: np.ndarray) -> np.ndarray:
    """The largest connected part of a mask."""
    try:
        parts, count = ndimage.label(mask, output=np.uint16)  # 32 bits of a large organ on fine slices are .4 GB
    except RuntimeError:  # more parts than that has numbers
        parts, count = ndimage.label(mask)
    if count < 2:
        return mask
    # Slice by slice: bincount makes a 64-bit copy of what it counts.
    sizes = np.sum([np.bincount(part.ravel(), minlength=count + 1) for part in parts], axis=0)
    return parts == sizes[1:].argmax() + 1


def _signed_distance(mask: np.ndarray) -> np.ndarray:
    # Half a pixel is taken off on both sides, so that the zero lies on the outline and not on pixel centres.
    inside = ndimage.distance_transform_edt(mask) - 0.5
    outside = ndimage.distance_transform_edt(~mask) - 0.5
    return np.where(mask, inside, -outside)
