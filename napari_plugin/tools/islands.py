"""Connected components of an organ: keep the largest, remove the small. Faces connect, edges do not."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from scipy import ndimage

from napari_plugin.tools.crop import Box, Change, Spacing, box_of, difference, reshape_organ

Millilitres = Annotated[float, {"min": 0.1, "max": 500.0, "step": 0.5}]


def keep_largest(labels: np.ndarray, value: int) -> Change | None:
    """Remove all but the largest connected part of an organ."""
    found = _components(labels, value)
    if found is None:
        return None
    box, components, sizes = found
    return reshape_organ(labels, box, value, components == int(sizes.argmax()))


def remove_small(
    labels: np.ndarray, value: int, spacing_mm: Spacing, *, smallest_ml: Millilitres = 1.0
) -> Change | None:
    """Remove the connected parts of an organ that are smaller than ``smallest_ml``."""
    found = _components(labels, value)
    if found is None:
        return None
    box, components, sizes = found
    kept = sizes * (np.prod(spacing_mm) / 1000.0) >= smallest_ml
    return reshape_organ(labels, box, value, kept[components])


def part_given(labels: np.ndarray, at: tuple[int, ...], value: int) -> Change | None:
    """Give the connected part of an organ that a voxel lies in to another organ, or to the background (0)."""
    box = box_of(labels, int(labels[at]))
    if box is None:
        return None
    parts, _ = ndimage.label(labels[box] == labels[at])
    mine = parts[tuple(i - span.start for i, span in zip(at, box, strict=True))]
    return difference(labels, box, np.where(parts == mine, value, labels[box]).astype(labels.dtype))


def _components(labels: np.ndarray, value: int) -> tuple[Box, np.ndarray, np.ndarray] | None:
    """Box, component number of each voxel in it, and voxels of each component (0 for the background)."""
    box = box_of(labels, value)
    if box is None:
        return None
    components, _ = ndimage.label(labels[box] == value)
    sizes = np.bincount(components.ravel())
    sizes[0] = 0
    return box, components, sizes
