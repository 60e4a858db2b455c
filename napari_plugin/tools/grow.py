"""Grow an organ from what was drawn of it: over the CT up to the steps of HU, or over the SPECT down to a threshold."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import numpy as np
from scipy import ndimage

from doselabel.errors import LabelError
from napari_plugin.tools.crop import Box, Change, Spacing, box_of, reshape_organ, voxels_for

Distance = Annotated[float, {"min": 1.0, "max": 60.0, "step": 1.0}]
Search = Annotated[float, {"min": 0.0, "max": 40.0, "step": 1.0}]
Percent = Annotated[float, {"min": 1.0, "max": 99.0, "step": 1.0}]
SpectIn = Callable[[Box], np.ndarray | None]

EDGE_MM = 1.5
"""Steps of HU are looked for at this scale."""


def grow_from_seeds(
    labels: np.ndarray, value: int, spacing_mm: Spacing, ct_hu: np.ndarray, *, reach_mm: Distance = 15.0
) -> Change | None:
    """Grow an organ from its voxels over the CT, up to the steps of HU and to other organs.

    A watershed on the size of the CT's gradient: the organ's voxels are one source, what lies farther from them than
    ``reach_mm`` and the other organs the other.
    """
    from skimage.segmentation import watershed

    box = box_of(labels, value, voxels_for(reach_mm, spacing_mm))
    if box is None:
        return None
    old = labels[box]
    seeds = old == value
    away = ndimage.distance_transform_edt(~seeds, sampling=spacing_mm) > reach_mm
    sigma = [EDGE_MM / s for s in spacing_mm]
    steps = ndimage.gaussian_gradient_magnitude(ct_hu[box].astype(np.float32), sigma, mode="nearest", truncate=3)
    sources = np.where(seeds, 1, np.where(away | (old != 0), 2, 0)).astype(np.int8)
    return reshape_organ(labels, box, value, watershed(steps, sources) == 1)


def threshold_spect(
    labels: np.ndarray,
    value: int,
    spacing_mm: Spacing,
    spect_in: SpectIn,
    *,
    threshold_percent: Percent = 42.0,
    search_mm: Search = 10.0,
) -> Change | None:
    """Make an organ what takes up most: the SPECT's voxels above a percentage of the highest near it.

    The second expert's volume of interest in Nazari et al. 2021 ("Dosimetry"), on the SPECT on screen; only what hangs
    together with the hottest place stays.

    Parameters
    ----------
    spect_in : callable
        Gives the SPECT at the voxels of a box, or None when there is no SPECT.
    threshold_percent : float
        Of the highest value.
    search_mm : float
        How far from the organ is looked.
    """
    box = box_of(labels, value, voxels_for(search_mm, spacing_mm))
    if box is None:
        return None
    spect = spect_in(box)
    if spect is None:
        raise LabelError("This case has no SPECT.", "Draw the organ on the CT.")
    old = labels[box]
    near = ndimage.distance_transform_edt(old != value, sampling=spacing_mm) <= search_mm
    near &= (old == 0) | (old == value)
    spect = np.where(near, spect, 0)
    parts, _ = ndimage.label(spect >= max(threshold_percent / 100 * float(spect.max()), np.finfo(np.float32).tiny))
    hottest = parts[np.unravel_index(int(spect.argmax()), spect.shape)]
    return reshape_organ(labels, box, value, (parts == hottest) & (hottest != 0))
