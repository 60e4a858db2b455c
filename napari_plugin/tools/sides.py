"""Left and right: swap two organs, or mirror one as a first guess of the other.

In the canonical orientation the x index grows to the patient's left.
"""

from __future__ import annotations

import numpy as np

from napari_plugin.tools.crop import Change, box_of, difference

BODY_HU = -300.0
"""Above this is patient (or table), below it air."""


def swap(labels: np.ndarray, first: int, second: int) -> Change | None:
    """Exchange two labels."""
    boxes = [box for box in (box_of(labels, first), box_of(labels, second)) if box is not None]
    if not boxes:
        return None
    a, b, c = (slice(min(s.start for s in spans), max(s.stop for s in spans)) for spans in zip(*boxes, strict=True))
    box = (a, b, c)
    old = labels[box]
    new = old.copy()
    new[old == first], new[old == second] = second, first
    return difference(labels, box, new)


def mirror(labels: np.ndarray, source: int, target: int, ct_hu: np.ndarray) -> Change | None:
    """Replace ``target`` by the mirror image of ``source`` across the patient's mid-sagittal plane.

    The plane is where the body's voxels, in the slices the source is in, have their median x. Other organs keep
    their voxels.
    """
    box = box_of(labels, source, (0, 0, 0))
    if box is None:
        return None
    z, y, x = (labels[box] == source).nonzero()
    x = x + box[2].start
    mirrored_x = np.rint(2 * midline(ct_hu[box[0]]) - x).astype(int)
    inside = (mirrored_x >= 0) & (mirrored_x < labels.shape[2])
    old = labels[box[0]]
    new = np.where(old == target, 0, old).astype(labels.dtype)
    at = (z[inside], y[inside] + box[1].start, mirrored_x[inside])
    free = new[at] == 0
    new[at[0][free], at[1][free], at[2][free]] = target
    whole = (box[0], slice(0, labels.shape[1]), slice(0, labels.shape[2]))
    return difference(labels, whole, new)


def midline(ct_hu: np.ndarray) -> float:
    """Median x index of the body in a slab of CT (z, y, x); the image's middle when there is no body."""
    profile = np.count_nonzero(ct_hu > BODY_HU, axis=(0, 1)).cumsum()
    if profile[-1] == 0:
        return (ct_hu.shape[2] - 1) / 2
    return float(np.interp(profile[-1] / 2, profile, np.arange(profile.size) + 0.5))
