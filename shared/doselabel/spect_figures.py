"""Figures of one SPECT by which its study is judged: amounts, plateaus, noise. Knows an image, nothing of patients."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from doselabel.geometry import Volume
from doselabel.nuclides import Nuclide

HOT_ML, WARM_ML, WIDE_ML = 200.0, 1200.0, 5000.0


@dataclass(frozen=True, eq=False)
class Seen:
    """Figures of one SPECT, in Bq/mL at the middle of the scan.

    Attributes
    ----------
    total_mbq : float
        Negative voxels counted as zero.
    width_mm, length_mm : float
        Of the field of view: the shortest side, and along the body.
    hot_bq_ml, warm_bq_ml, wide_bq_ml : float
        Exceeded by the hottest 200 mL, 1.2 L and 5 L; 0 where the field is not much larger.
    grain : float
        Variance over mean of the finest structure; 0 where it can't be told.
    at_maximum : int
        Voxels of the largest value.
    usual_ties : float
        How many voxels share one value just below it (0.9 of it and more).
    distinct : int
        How many values there are, of every few voxels.
    sample : (n,) array
        Every few voxels, always the same for one shape: by it images are compared.
    """

    index: int
    file: str
    time_h: float
    shape: tuple[int, int, int]
    voxel_ml: float
    width_mm: float
    length_mm: float
    total_mbq: float
    hot_bq_ml: float
    warm_bq_ml: float
    wide_bq_ml: float
    grain: float
    largest: float
    at_maximum: int
    usual_ties: float
    distinct: int
    whole: bool
    negative_voxels: int
    negative_share: float
    sample: NDArray[np.float32] = field(repr=False)

    def share(self, nuclide: Nuclide, injected_mbq: float) -> float:
        """The total as a share of what is left of the injected activity."""
        return self.total_mbq / injected_mbq * math.exp(nuclide.decay_constant_per_h * self.time_h)


def look(spect: Volume, index: int, file: str, time_h: float, stored: NDArray[np.number] | None = None) -> Seen:
    """Take the figures of one SPECT; ``stored`` are the file's values where they were converted to ``spect``."""
    array = spect.array
    raw = array if stored is None else stored
    voxel_ml = spect.geometry.voxel_volume_ml
    positive = np.maximum(array, 0)
    total = float(positive.sum(dtype=np.float64))
    largest = float(array.max())
    axis = int(np.abs(np.reshape(spect.geometry.direction, (3, 3))[2]).argmax())  # of x, y, z: along the body
    step = max(1, array.size // 200_000)
    sample = array.ravel()[::step].astype(np.float32)
    values = raw.ravel()[::step]
    near = array[(array >= 0.9 * largest) & (array < largest)]

    def exceeded(volume_ml: float) -> float:
        return _exceeded(positive, volume_ml / voxel_ml) if array.size * voxel_ml > 2 * volume_ml else 0.0

    return Seen(
        index=index,
        file=file,
        time_h=time_h,
        shape=spect.geometry.shape,
        voxel_ml=voxel_ml,
        width_mm=min(n * s for n, s in zip(spect.geometry.shape, spect.geometry.spacing_mm, strict=True)),
        length_mm=spect.geometry.shape[2 - axis] * spect.geometry.spacing_mm[2 - axis],
        total_mbq=total * voxel_ml / 1e6,
        hot_bq_ml=exceeded(HOT_ML),
        warm_bq_ml=exceeded(WARM_ML),
        wide_bq_ml=exceeded(WIDE_ML),
        grain=_grain(array),
        largest=largest,
        at_maximum=int(np.count_nonzero(array == array.max())),
        usual_ties=len(near) / max(1, len(np.unique(near))),
        distinct=len(np.unique(values[values > 0])),
        whole=bool(np.array_equal(values, np.round(values))),
        negative_voxels=int(np.count_nonzero(array < 0)),
        negative_share=(total - float(array.sum(dtype=np.float64))) / total if total > 0 else 0.0,
        sample=sample,
    )


def _exceeded(values: NDArray[np.number], voxels: float) -> float:
    count = min(max(1, round(voxels)), values.size)
    return float(np.partition(values.ravel(), -count)[-count])


def _grain(array: NDArray[np.number]) -> float:
    """Median of squared second differences along all axes over the local mean, where there is activity."""
    if min(array.shape) < 8:
        return 0.0
    rough = array.astype(np.float64)
    mean = rough
    for axis in range(3):
        rough = np.diff(rough, n=2, axis=axis)
        parts = [np.take(mean, range(i, mean.shape[axis] - 2 + i), axis=axis) for i in range(3)]
        mean = (parts[0] + parts[1] + parts[2]) / 3
    lit = mean > 0.1 * np.percentile(mean, 95)
    lit &= mean > 0
    return float(np.median(rough[lit] ** 2 / mean[lit])) if np.count_nonzero(lit) > 500 else 0.0
