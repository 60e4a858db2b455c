"""Dose-volume histograms: knows doses of voxels and the share of each in an organ, no geometry, no curves.

Percentiles are volume-exact: voxels are volume elements of constant dose, so ``D_x`` is the largest dose that at
least x % of the volume receives, ``D_x = max{d : V(dose >= d) >= x %}``. Nothing is binned or interpolated,
``V(D_x) >= x %`` always holds, ``D_0`` is the maximum and ``D_100`` the minimum.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from doselabel.errors import DoseError

Array = NDArray[np.float64]

PERCENTS = (2.0, 30.0, 50.0, 70.0, 90.0, 98.0)
"""D2 and D98 are the near-maximum and near-minimum of ICRU 83; D70, D30 are the paper's DVH-70 and DVH-30."""


@dataclass(frozen=True, eq=False)
class Dvh:
    """Dose-volume histogram of one organ.

    Attributes
    ----------
    dose_gy : ndarray, shape (b + 1,)
        Equally spaced doses from 0 to the maximum.
    cumulative : ndarray, shape (b + 1,)
        Share of the volume that receives at least ``dose_gy``: from 1 down, exact at each dose.
    differential_per_gy : ndarray, shape (b,)
        Share of the volume per Gy between neighbouring doses; times their distance it sums to 1.
    d_gy : Mapping[float, float]
        ``D_x`` by percent x.
    v : Mapping[float, float]
        ``V_d`` by dose d (Gy): share of the volume that receives at least it.
    mean_gy, min_gy, max_gy : float
    """

    dose_gy: Array
    cumulative: Array
    differential_per_gy: Array
    d_gy: Mapping[float, float]
    v: Mapping[float, float]
    mean_gy: float
    min_gy: float
    max_gy: float


def dvh(
    dose_gy: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    bins: int = 200,
    percents: Sequence[float] = PERCENTS,
    at_gy: Sequence[float] = (),
) -> Dvh:
    """Cumulative and differential dose-volume histogram.

    Parameters
    ----------
    dose_gy : array_like
        Absorbed dose of voxels of equal size, Gy, any shape.
    weights : array_like of the same shape, optional
        Share of each voxel inside the organ (a mask, or partial volumes from 0 to 1); 1 by default.
    bins : int
        Steps of the stored curves; no number but the differential histogram depends on it.
    percents : sequence of float
        Which D_x to compute.
    at_gy : sequence of float
        Which V_d to compute.

    Raises
    ------
    DoseError
        For doses that are not finite or are negative, weights that do not match, or an empty organ.
    """
    dose, share = _inside(dose_gy, weights)
    if bins < 1:
        raise DoseError(f"bins is {bins}, expected at least 1.")
    order = np.argsort(dose)
    dose, share = dose[order], share[order]
    total = float(share.sum())
    top = float(dose[-1]) or 1.0
    edges = np.linspace(0.0, top, bins + 1)
    volume = np.concatenate([[0.0], np.cumsum(share)])

    def reached(by_gy: ArrayLike) -> Array:
        """Share of the volume that receives at least a dose: what lies exactly on it counts."""
        return np.asarray(1.0 - volume[np.searchsorted(dose, by_gy, side="left")] / total)

    histogram, _ = np.histogram(dose, edges, weights=share)
    return Dvh(
        dose_gy=edges,
        cumulative=reached(edges),
        differential_per_gy=histogram / total / (top / bins),
        d_gy={float(x): _at_volume(dose, share, x) for x in percents},
        v={float(d): float(reached(d)) for d in at_gy},
        mean_gy=float(np.average(dose, weights=share)),
        min_gy=float(dose[0]),
        max_gy=float(dose[-1]),
    )


def _at_volume(ascending: Array, share: Array, percent: float) -> float:
    if not 0.0 <= percent <= 100.0:
        raise DoseError(f"A volume of {percent} % was asked for, expected 0 to 100.")
    hottest = np.cumsum(share[::-1])
    # Rounding of the sum must not push a volume of exactly x % to the next voxel.
    wanted = percent / 100.0 * hottest[-1] * (1.0 - 1e-12)
    return float(ascending[::-1][min(int(np.searchsorted(hottest, wanted)), len(hottest) - 1)])


def _inside(dose_gy: ArrayLike, weights: ArrayLike | None) -> tuple[Array, Array]:
    dose = np.asarray(dose_gy, dtype=float)
    share = np.ones(dose.shape) if weights is None else np.asarray(weights, dtype=float)
    if share.shape != dose.shape:
        raise DoseError(f"Weights have shape {share.shape}, the doses {dose.shape}; expected the same.")
    if not np.all(np.isfinite(share)) or np.any(share < 0):
        raise DoseError("Weights must be finite and not negative.", "Give the share of each voxel in the organ.")
    dose, share = dose[share > 0], share[share > 0]
    if dose.size == 0 or not math.isfinite(share.sum()):
        raise DoseError("There is no voxel to make a histogram of.", "Check that the organ's mask is not empty.")
    if not np.all(np.isfinite(dose)) or np.any(dose < 0):
        raise DoseError("Doses must be finite and not negative.", "Check the dose map inside the organ.")
    return dose, share
