"""Correction by clicks: what belongs to an organ, and what does not, from a few points. Works around the newest click.

The border is where a random walk (`napari_plugin.tools.walk`) ends as often at the organ as elsewhere: on a step of HU
if there is one, otherwise at a neck or half-way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from scipy import ndimage

from napari_plugin.tools.crop import Box, Change, Spacing, difference
from napari_plugin.tools.walk import walk

Reach = Annotated[float, {"min": 5.0, "max": 60.0, "step": 5.0}]
Voxel = tuple[int, int, int]

SEED_MM = 4.0
"""What lies so near to a click is what the click says."""
GRID_MM = 1.4
"""Of voxels finer than this, every n-th is walked on."""
BLUR_MM = 1.0
NOISE_HU = 8.0
"""No tissue is taken to be more uniform than this."""
OTHER_HU = 300.0
"""Whatever is not the organ may have any HU in a range as wide as this."""
CORE = 0.6
"""An organ's core are its voxels that lie deeper than this part of the depth of the deepest."""
THIN_VOXELS = 1.0
"""What lies no deeper than this holds nothing together."""


@dataclass(frozen=True)
class Click:
    """A voxel (z, y, x) that belongs to the organ, or does not."""

    at: Voxel
    belongs: bool


def correct(
    labels: np.ndarray,
    value: int,
    spacing_mm: Spacing,
    ct_hu: np.ndarray,
    clicks: Sequence[Click],
    *,
    reach_mm: Reach = 30.0,
) -> Change | None:
    """Give an organ what a click says is its own, or take from it what is not.

    A click on what belongs adds what looks like the organ and hangs together with it or the click. A click on what does
    not takes away what hangs together with the click more closely than with the organ's core. Other organs keep their
    voxels.

    Parameters
    ----------
    clicks : sequence of Click
        Oldest first. The newest is carried out; those before it stay true.
    reach_mm : float
        How far a click reaches: nothing farther from the newest is changed.
    """
    newest = clicks[-1]
    if labels[newest.at] not in (0, value) or (not newest.belongs and labels[newest.at] != value):
        return None
    # The organ's core may lie beyond what is taken away, but what is added needs only its own surroundings.
    box = _around(newest.at, reach_mm * (1.2 if newest.belongs else 2.0), spacing_mm, labels.shape)
    every = [max(1, int(GRID_MM / s)) for s in spacing_mm]
    thin = (slice(None, None, every[0]), slice(None, None, every[1]), slice(None, None, every[2]))
    step_mm = [s * n for s, n in zip(spacing_mm, every, strict=True)]
    blur = [BLUR_MM / s for s in spacing_mm]
    hu = ndimage.gaussian_filter(ct_hu[box].astype(np.float32), blur, mode="nearest", truncate=3)[thin]
    old = labels[box][thin]
    mine, free = old == value, old == 0
    near = _distance_mm(box, newest.at, spacing_mm)[thin]
    yes, no = (_seeds(box, thin, clicks, belongs, spacing_mm) for belongs in (True, False))
    within = near <= reach_mm
    if newest.belongs:
        inside = (yes & (mine | free)) | (mine & ~no)
        open_ = free & within & ~inside & ~no
        outside = ~inside & ~open_
        other = np.full(hu.shape, 1 / OTHER_HU)
        if no.any():
            other = np.maximum(other, _likely(hu, hu[no], _spread_hu(hu[no])))
        looks = _likely(hu, hu[inside], _spread_hu(hu[inside]))
    else:
        inside = (_rest(mine, near, reach_mm, step_mm) | (yes & mine)) & ~no
        open_ = mine & within & ~inside & ~no
        outside = no
        spread_hu = max(_spread_hu(hu[part]) for part in (inside, no))  # one for both: looks tell by the mean
        other = _likely(hu, hu[no], spread_hu)
        looks = _likely(hu, hu[inside], spread_hu) if inside.any() else other
    ends = walk(hu, looks / (looks + other + 1e-12), inside, outside, open_, step_mm)
    mask = _refined(ends, every, labels[box].shape) >= 0.5
    reached = _distance_mm(box, newest.at, spacing_mm) <= reach_mm
    new = labels[box].copy()
    if newest.belongs:
        new[reached & mask & (new == 0)] = value
    else:
        new[reached & ~mask & (new == value)] = 0
    return difference(labels, box, new)


def _around(at: Voxel, reach_mm: float, spacing_mm: Spacing, shape: tuple[int, ...]) -> Box:
    reach = [int(np.ceil(reach_mm / s)) + 1 for s in spacing_mm]
    a, b, c = (slice(max(0, i - r), min(n, i + r + 1)) for i, r, n in zip(at, reach, shape, strict=True))
    return a, b, c


def _distance_mm(box: Box, at: Voxel, spacing_mm: Spacing) -> np.ndarray:
    """Distance of each voxel in a box from one voxel, mm."""
    axes = ((np.arange(s.start, s.stop) - i) * mm for s, i, mm in zip(box, at, spacing_mm, strict=True))
    z, y, x = np.ix_(*axes)
    return np.sqrt(z**2 + y**2 + x**2)


def _seeds(
    box: Box, thin: tuple[slice, slice, slice], clicks: Sequence[Click], belongs: bool, spacing_mm: Spacing
) -> np.ndarray:
    """What clicks of one kind say for certain, the newer over the older."""
    found = np.zeros([s.stop - s.start for s in box], bool)[thin]
    for click in clicks:
        ball = _distance_mm(box, click.at, spacing_mm)[thin] <= max(SEED_MM, *spacing_mm)
        found = found | ball if click.belongs == belongs else found & ~ball
    return found


def _rest(mine: np.ndarray, near_mm: np.ndarray, reach_mm: float, spacing_mm: Sequence[float]) -> np.ndarray:
    """What of an organ is certain: its core, and what hangs together with it when the click's sphere is taken out."""
    depth_mm = ndimage.distance_transform_edt(mine, sampling=spacing_mm)
    core = (depth_mm >= CORE * depth_mm.max()) & (near_mm > 2 * SEED_MM)
    if not core.any():
        return core
    parts, _ = ndimage.label(core | ((depth_mm > THIN_VOXELS * max(spacing_mm)) & (near_mm > reach_mm)))
    return parts == np.bincount(parts[core]).argmax()


def _spread_hu(hu: np.ndarray) -> float:
    return max(NOISE_HU, float(hu.std())) if hu.size else NOISE_HU


def _likely(hu: np.ndarray, known_hu: np.ndarray, spread_hu: float) -> np.ndarray:
    """Density of HU in a tissue of which some voxels are known."""
    away = (hu - float(np.median(known_hu))) / spread_hu
    return np.exp(-0.5 * away**2) / (spread_hu * np.sqrt(2 * np.pi))


def _refined(ends: np.ndarray, every: Sequence[int], shape: tuple[int, ...]) -> np.ndarray:
    """Bring probabilities on every n-th voxel to all voxels."""
    if all(n == 1 for n in every):
        return ends
    at = np.ix_(*(np.arange(size) / n for size, n in zip(shape, every, strict=True)))
    return ndimage.map_coordinates(ends, np.broadcast_arrays(*at), order=1, mode="nearest")
