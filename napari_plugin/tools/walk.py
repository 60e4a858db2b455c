"""A random walk over voxels that shuns steps of HU: where does it end? Knows arrays; no organs and no clicks.

With priors, as Grady, CVPR 2005, 763–770: a walk also ends where a voxel looks like one side or the other.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

TRUST = 0.05
"""Weight of a voxel that is sure by its looks, against a step between neighbours of the same HU."""
SMOOTHEST_HU = 4.0
"""Steps smaller than this are noise, however uniform the image."""
LEAST_WEIGHT = 1e-4


def walk(
    hu: np.ndarray,
    looks: np.ndarray,
    inside: np.ndarray,
    outside: np.ndarray,
    open_: np.ndarray,
    spacing_mm: Sequence[float],
) -> np.ndarray:
    """Probability that a walk from each voxel ends inside.

    Parameters
    ----------
    hu : (z, y, x) array
        The image, HU.
    looks : (z, y, x) array
        Probability that a voxel is inside by its looks alone; 0.5 says nothing.
    inside, outside, open_ : (z, y, x) bool arrays
        What is known, and what is asked; no walk enters the other voxels.
    spacing_mm : sequence of float
        Voxel size (z, y, x), mm.

    Returns
    -------
    (z, y, x) float32 array
        1 inside, 0 outside and where no walk goes.
    """
    from scipy import sparse
    from scipy.sparse.linalg import cg

    ends = inside.astype(np.float32)
    count = int(np.count_nonzero(open_))
    if not count:
        return ends
    number = np.full(hu.shape, -1)
    number[open_] = np.arange(count)
    sure = TRUST * (2 * looks[open_] - 1)
    diagonal, known = np.abs(sure) + 1e-9, np.maximum(sure, 0)
    pairs = [_neighbours(hu, open_ | inside | outside, open_, axis) for axis in range(3)]
    steps = np.concatenate([np.abs(hu[a] - hu[b]) for a, b in pairs])
    scale_hu = max(SMOOTHEST_HU, 1.5 * float(np.median(steps))) if steps.size else SMOOTHEST_HU
    rows, columns, weights = [], [], []
    for axis, (a, b) in enumerate(pairs):
        weight = (np.exp(-0.5 * ((hu[a] - hu[b]) / scale_hu) ** 2) + LEAST_WEIGHT) * (
            min(spacing_mm) / spacing_mm[axis]
        ) ** 2
        first, second = number[a], number[b]
        for here, there, end in ((first, second, ends[b]), (second, first, ends[a])):
            asked, settled = here >= 0, (here >= 0) & (there < 0)
            diagonal += np.bincount(here[asked], weight[asked], count)
            known += np.bincount(here[settled], (weight * end)[settled], count)
        both = (first >= 0) & (second >= 0)
        rows += [first[both], second[both]]
        columns += [second[both], first[both]]
        weights += [-weight[both]] * 2
    where = (np.concatenate(rows), np.concatenate(columns))
    system = sparse.csr_matrix((np.concatenate(weights), where), shape=(count, count)) + sparse.diags(diagonal)
    ends[open_], _ = cg(system, known, x0=looks[open_], rtol=1e-4, maxiter=400, M=sparse.diags(1 / diagonal))
    return ends


def _neighbours(
    hu: np.ndarray, walked: np.ndarray, open_: np.ndarray, axis: int
) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    """Indices of neighbours along an axis between which a walk may step, one of them at least open."""
    low = tuple(slice(None, -1) if d == axis else slice(None) for d in range(3))
    high = tuple(slice(1, None) if d == axis else slice(None) for d in range(3))
    first = np.nonzero(walked[low] & walked[high] & (open_[low] | open_[high]))
    return first, tuple(index + (d == axis) for d, index in enumerate(first))
