"""The outline of an organ: smooth, open, close, fill holes, grow or shrink by mm, cut by HU, clear; on its crop."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from scipy import ndimage

from napari_plugin.tools.crop import Change, Spacing, box_of, reshape_organ, voxels_for

Width = Annotated[float, {"min": 0.5, "max": 20.0, "step": 0.5}]
Distance = Annotated[float, {"min": -20.0, "max": 20.0, "step": 0.5}]
Hounsfield = Annotated[float, {"min": -1024.0, "max": 3000.0, "step": 10.0}]
"""How far a parameter goes; the window's fields are made of it."""


def smooth(labels: np.ndarray, value: int, spacing_mm: Spacing, *, sigma_mm: Width = 2.0) -> Change | None:
    """Smooth an organ's surface with a Gaussian of ``sigma_mm``, keeping its number of voxels.

    The mask is blurred and cut at the level that leaves as many voxels as before, so that neither mass nor dose
    is biased by smoothing (a cut at one half shrinks convex organs).
    """
    box = box_of(labels, value, voxels_for(3 * sigma_mm, spacing_mm))
    if box is None:
        return None
    mask = labels[box] == value
    blurred = ndimage.gaussian_filter(
        mask.astype(np.float32), [sigma_mm / s for s in spacing_mm], mode="nearest", truncate=3
    )
    count = int(np.count_nonzero(mask))
    free = mask | (labels[box] == 0)
    candidates = blurred[free]
    if count >= candidates.size:
        return None
    level = np.partition(candidates, candidates.size - count)[candidates.size - count]
    return reshape_organ(labels, box, value, (blurred >= level) & (blurred > 0))


def fill_holes(labels: np.ndarray, value: int) -> Change | None:
    """Fill what an organ encloses: in three dimensions, and slice by slice in the axial plane."""
    box = box_of(labels, value)
    if box is None:
        return None
    mask = ndimage.binary_fill_holes(labels[box] == value)
    for plane in mask:
        plane[:] = ndimage.binary_fill_holes(plane)
    return reshape_organ(labels, box, value, mask)


def opened(labels: np.ndarray, value: int, spacing_mm: Spacing, *, radius_mm: Width = 3.0) -> Change | None:
    """Remove what is thinner than a ball of ``radius_mm``: spikes, and bridges to a neighbour."""
    box = box_of(labels, value, voxels_for(radius_mm, spacing_mm))
    if box is None:
        return None
    core = ndimage.distance_transform_edt(labels[box] == value, sampling=spacing_mm) > radius_mm
    if not core.any():
        return clear(labels, value)
    return reshape_organ(labels, box, value, _within(core, radius_mm, spacing_mm) & (labels[box] == value))


def closed(labels: np.ndarray, value: int, spacing_mm: Spacing, *, radius_mm: Width = 3.0) -> Change | None:
    """Fill what a ball of ``radius_mm`` does not fit into: clefts, notches and narrow gaps."""
    box = box_of(labels, value, voxels_for(2 * radius_mm, spacing_mm))
    if box is None:
        return None
    mask = labels[box] == value
    around = _within(mask, radius_mm, spacing_mm)
    return reshape_organ(
        labels, box, value, mask | (ndimage.distance_transform_edt(around, sampling=spacing_mm) > radius_mm)
    )


def _within(mask: np.ndarray, distance_mm: float, spacing_mm: Spacing) -> np.ndarray:
    """Voxels not farther than a distance from a mask."""
    return ndimage.distance_transform_edt(~mask, sampling=spacing_mm) <= distance_mm


def margin(labels: np.ndarray, value: int, spacing_mm: Spacing, *, margin_mm: Distance = 1.0) -> Change | None:
    """Grow (positive) or shrink (negative) an organ by a distance from its surface, mm.

    Distances are measured from voxel centres. The outermost centre lies half a voxel below the surface where that is
    parallel to an axis and next to nothing below it where it is oblique: a third of a voxel is taken throughout,
    which on balls leaves the margin right within 0.2 voxels.
    """
    depth = min(spacing_mm) / 3
    box = box_of(labels, value, voxels_for(max(margin_mm, 0.0) + depth, spacing_mm))
    if box is None:
        return None
    mask = labels[box] == value
    if margin_mm >= 0:
        new = ndimage.distance_transform_edt(~mask, sampling=spacing_mm) <= margin_mm + depth
    else:
        new = ndimage.distance_transform_edt(mask, sampling=spacing_mm) > depth - margin_mm
    return reshape_organ(labels, box, value, new)


def clear(labels: np.ndarray, value: int) -> Change | None:
    """Remove an organ altogether."""
    box = box_of(labels, value)
    if box is None:
        return None
    return reshape_organ(labels, box, value, np.zeros(labels[box].shape, bool))


def limit_to_hu(
    labels: np.ndarray, value: int, ct_hu: np.ndarray, *, low_hu: Hounsfield = -20.0, high_hu: Hounsfield = 250.0
) -> Change | None:
    """Remove the voxels of an organ whose CT number lies outside ``low_hu``–``high_hu`` (fat, gas, bone)."""
    box = box_of(labels, value)
    if box is None:
        return None
    ct = ct_hu[box]
    return reshape_organ(labels, box, value, (labels[box] == value) & (ct >= low_hu) & (ct <= high_hu))
