"""Boxes around organs and the changes tools make in them. Knows array indices only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

Box = tuple[slice, slice, slice]
Spacing = tuple[float, float, float]

AROUND = 2
"""So many voxels around a piece say what it lies in."""


@dataclass(frozen=True)
class Change:
    """Voxels to set: ``indices`` is a tuple (z, y, x) of integer arrays, ``values`` the new label of each."""

    indices: tuple[np.ndarray, np.ndarray, np.ndarray]
    values: np.ndarray

    @property
    def voxels(self) -> int:
        """How many voxels change."""
        return int(self.values.size)


def box_of(labels: np.ndarray, value: int, margin_voxels: tuple[int, int, int] = (1, 1, 1)) -> Box | None:
    """Bounding box of a label plus a margin, cut at the image's edge; None when the label is nowhere."""
    box = _box_where(labels == value)
    if box is None:
        return None
    a, b, c = (
        slice(max(0, span.start - m), min(size, span.stop + m))
        for span, m, size in zip(box, margin_voxels, labels.shape, strict=True)
    )
    return a, b, c


def _box_where(found: np.ndarray) -> Box | None:
    """Bounding box of what is true; None when nothing is."""
    rows = found.any(axis=2)
    z, y = rows.any(axis=1).nonzero()[0], rows.any(axis=0).nonzero()[0]
    if not z.size:
        return None
    x = found[z[0] : z[-1] + 1, y[0] : y[-1] + 1].any(axis=(0, 1)).nonzero()[0]
    a, b, c = (slice(int(at[0]), int(at[-1]) + 1) for at in (z, y, x))
    return a, b, c


def whole(labels: np.ndarray) -> Box:
    """Box of all voxels."""
    a, b, c = (slice(0, size) for size in labels.shape)
    return a, b, c


def voxels_for(distance_mm: float, spacing_mm: Spacing) -> tuple[int, int, int]:
    """Number of voxels (z, y, x) that cover a distance, and one to spare."""
    z, y, x = (int(np.ceil(distance_mm / s)) + 1 for s in spacing_mm)
    return z, y, x


def difference(labels: np.ndarray, box: Box, new: np.ndarray) -> Change | None:
    """Change that turns ``labels[box]`` into ``new``; None when they are the same."""
    changed = new != labels[box]
    part = _box_where(changed)  # `nonzero` of a whole CT takes a tenth of a second
    if part is None:
        return None
    z, y, x = (index + span.start for index, span in zip(changed[part].nonzero(), part, strict=True))
    return Change((z + box[0].start, y + box[1].start, x + box[2].start), new[z, y, x])


def given_back(labels: np.ndarray, at: tuple[np.ndarray, ...], inner: Sequence[int]) -> np.ndarray:
    """What is beneath voxels that a region in an organ leaves: for each that hang together, what they touch most.

    Parameters
    ----------
    at : tuple (z, y, x) of integer arrays
        The voxels.
    inner : sequence of int
        Values of regions that lie in organs: none of them is beneath another.
    """
    start = [max(0, int(index.min()) - AROUND) for index in at]
    box = tuple(slice(a, int(index.max()) + AROUND + 1) for a, index in zip(start, at, strict=True))
    here = tuple(index - a for index, a in zip(at, start, strict=True))
    old = labels[box]
    left = np.zeros(old.shape, bool)
    left[here] = True
    parts, count = ndimage.label(left)
    beneath = np.zeros(count + 1, labels.dtype)
    gone = left | np.isin(old, list(inner))
    for number in range(1, count + 1):
        shell = ndimage.binary_dilation(parts == number, iterations=AROUND) & ~gone
        found = np.bincount(old[shell], minlength=1)
        beneath[number] = found.argmax() if found.any() else 0
    return beneath[parts[here]]


def reshape_organ(labels: np.ndarray, box: Box, value: int, mask: np.ndarray) -> Change | None:
    """Change that gives an organ the shape ``mask`` inside ``box``, without taking voxels of other organs."""
    old = labels[box]
    new = np.where(old == value, 0, old).astype(labels.dtype)
    new[mask & (new == 0)] = value
    return difference(labels, box, new)
