"""Time-activity fits of many voxels at once: the models of `doselabel.dosimetry.curves.fit`, vectorised over voxels.

Knows arrays of voxels and their times; no geometry, no organs. Every voxel gets its own curve where its points
determine one, and elsewhere the curve of the whole region scaled to it, so that no activity is lost.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from doselabel.dosimetry.curves.fit import TacFit, fit
from doselabel.dosimetry.curves.models import Array, rate_limits
from doselabel.dosimetry.curves.points import UptakeLimb, check_points
from doselabel.errors import FitError, Progress, no_progress
from doselabel.nuclides import Nuclide
from doselabel.nuclides import nuclide as find_nuclide

VoxelModel = Literal["uptake", "mono"]

CHUNK = 16384
"""Voxels worked on together: small enough for the processor's cache."""
MOST_STEPS = 60
CONVERGED = 1e-5
"""A step of less than this in the logarithm of every rate ends a voxel's search."""


@dataclass(frozen=True, eq=False)
class VoxelFit:
    """Time-integrated activity of every voxel.

    Attributes
    ----------
    tia_mbq_h : ndarray of float32, shape of one image
        Time-integrated activity per voxel; 0 outside the mask.
    effective_half_life_h : ndarray of float32, shape of one image
        Of the voxel's slow phase, or of the region's where that was used; 0 outside the mask.
    scaled : ndarray of bool, shape of one image
        Voxels that carry the region's curve, scaled by least squares, instead of one of their own.
    reference : TacFit
        The fit of the region as a whole (the sum over the mask).
    """

    tia_mbq_h: NDArray[np.float32]
    effective_half_life_h: NDArray[np.float32]
    scaled: NDArray[np.bool_]
    reference: TacFit


def fit_voxels(
    times_h: ArrayLike,
    activity: ArrayLike,
    *,
    nuclide: str | Nuclide,
    model: VoxelModel = "uptake",
    mask: ArrayLike | None = None,
    threshold_fraction: float = 0.0,
    weights: ArrayLike | None = None,
    uptake_limb: UptakeLimb = "refuse",
    progress: Progress = no_progress,
) -> VoxelFit:
    """Fit a time-activity curve to every voxel.

    Parameters
    ----------
    times_h : array_like, shape (t,)
        Hours after injection.
    activity : array_like, shape (t, ...)
        Activity per voxel (MBq, or MBq/mL: the result is then per mL), t first, any image shape after it.
    nuclide : str or Nuclide
    model : {"uptake", "mono"}
    mask : array_like of bool, shape of one image, optional
        Voxels to fit; all by default. Mask to the organs: an image's background has no curve.
    threshold_fraction : float
        Voxels whose largest activity is below this fraction of the image's largest take the region's curve.
    weights : array_like, shape (t,), optional
        One per time, the same for all voxels; equal by default.
    uptake_limb : str
        As in `doselabel.dosimetry.curves.fit.fit`; this and the other guards of the model apply to the region.
    progress : Progress

    Returns
    -------
    VoxelFit

    Raises
    ------
    FitError
        As `doselabel.dosimetry.curves.fit.fit` for the region as a whole; or for a mask that does not match.

    Notes
    -----
    Variable projection: the amplitude is linear, so each voxel searches only its rates, from the best cell of a
    grid common to all, by Levenberg-Marquardt steps on the projected residual (Kaufman, BIT 15:49, 1975).
    A voxel is `VoxelFit.scaled` when its search does not end, when it is below the threshold, or when no point
    supports its curve: the share of its area before the first time point is nearer to 1 than to the region's.
    """
    if model not in get_args(VoxelModel):
        raise FitError(f"Unknown voxel model {model!r}, expected one of {', '.join(get_args(VoxelModel))}.")
    data = np.asarray(activity)
    if data.ndim < 2 or isinstance(weights, str):
        raise FitError(
            f"Activities have shape {data.shape}, weights are {weights!r}; expected (t, ...) and one number per time.",
            "Use doselabel.dosimetry.curves.fit.fit for a single curve, or for weights by name.",
        )
    image_shape = data.shape[1:]
    inside = np.ones(image_shape, dtype=bool) if mask is None else np.asarray(mask, dtype=bool)
    if inside.shape != image_shape or not inside.any():
        raise FitError(
            f"The mask has shape {inside.shape} and {int(inside.sum())} voxels; expected shape {image_shape} and some.",
            "Give a mask in the geometry of the activity images.",
        )
    times, voxels = check_points(times_h, data[:, inside])
    reference = fit(
        times,
        voxels.sum(axis=1),
        nuclide=nuclide,
        model=model,
        weights="equal" if weights is None else weights,
        uptake_limb=uptake_limb,
    )
    search = _Search.of(
        reference,
        find_nuclide(nuclide).decay_constant_per_h,
        np.ones(len(times)) if weights is None else np.asarray(weights, dtype=float),
    )
    tia, half_life = np.zeros(voxels.shape[1]), np.full(voxels.shape[1], reference.effective_half_life_h)
    own = np.zeros(voxels.shape[1], dtype=bool)
    floor = threshold_fraction * voxels.max()
    for start in range(0, voxels.shape[1], CHUNK):
        progress("voxel fits", start / voxels.shape[1])
        part = slice(start, start + CHUNK)
        y = voxels[:, part]
        amplitude, rates, ended = search.run(y)
        own[part] = ended & (y.max(axis=0) > floor) & search.supported(amplitude, rates)
        with np.errstate(divide="ignore", invalid="ignore"):
            tia[part] = np.where(own[part], search.area(amplitude, rates, 0.0), search.scaled_area(y))
            half_life[part] = np.where(own[part], math.log(2.0) / rates[0], half_life[part])
    progress("voxel fits", 1.0)

    def image(values: np.ndarray, kind: type) -> np.ndarray:
        out: np.ndarray = np.zeros(image_shape, dtype=kind)
        out[inside] = values
        return out

    return VoxelFit(image(tia, np.float32), image(half_life, np.float32), image(~own, np.bool_), reference)


@dataclass(frozen=True, eq=False)
class _Search:
    """The search for the rates of many voxels sampled at the same k times.

    Rates are (r, n): the slow phase, and for ``uptake`` the fast phase minus the slow one. ``basis`` is the curve
    of unit amplitude at the times, weighted.
    """

    reference: TacFit
    times: Array  # (k, 1)
    root_weights: Array  # (k, 1)
    lowest: Array  # (r, 1)
    highest: Array  # (r, 1)
    cells: Array  # (r, m): the grid of starting rates
    directions: NDArray[np.float32]  # (m, k): the basis of each cell as a unit vector

    @classmethod
    def of(cls, reference: TacFit, physical: float, weights: Array) -> _Search:
        used = reference.used
        times, root_weights = reference.times_h[used][:, None], np.sqrt(weights[used] / weights.max())[:, None]
        closest, fastest = rate_limits(times[:, 0], physical)
        slow, difference = np.geomspace(physical, fastest / 4, 32), np.geomspace(physical / 2, fastest / 2, 32)
        if reference.model == "mono":
            lowest, highest, cells = np.array([[physical]]), np.array([[physical + fastest]]), slow[None]
        else:
            lowest, highest = np.array([[physical], [closest]]), np.array([[physical + fastest], [fastest]])
            cells = np.stack([g.ravel() for g in np.meshgrid(slow, difference)])
            # Nearly equal rates all look alike: a search begun there crawls, one begun outside still gets there.
            cells = cells[:, cells[1] > cells[0] / 2]
        basis = root_weights * cls._curve(cells, times)
        directions = (basis / np.linalg.norm(basis, axis=0)).T.astype(np.float32)
        return cls(reference, times, root_weights, lowest, highest, cells, directions)

    @staticmethod
    def _curve(rates: Array, times: Array) -> Array:
        slow = np.exp(-rates[0] * times)
        return slow if len(rates) == 1 else slow - np.exp(-(rates[0] + rates[1]) * times)

    def run(self, activity: Array) -> tuple[Array, Array, np.ndarray]:
        """Amplitudes (n,), rates (r, n) and whether the search ended (n,), for activities (t, n)."""
        y = self.root_weights * activity[self.reference.used]
        scale = np.linalg.norm(y, axis=0)
        y = y / np.where(scale > 0, scale, 1.0)
        rates = self.cells[:, np.argmax(self.directions @ y.astype(np.float32), axis=0)]
        amplitude, cost = self._project(rates, y)
        damping, ended = np.full(y.shape[1], 1e-3), scale == 0
        for _ in range(MOST_STEPS):
            going = np.flatnonzero(~ended)
            if going.size == 0:
                break
            step = self._step(rates[:, going], amplitude[going], y[:, going], damping[going])
            tried = np.clip(rates[:, going] * np.exp(np.clip(step, -1.5, 1.5)), self.lowest, self.highest)
            tried_amplitude, tried_cost = self._project(tried, y[:, going])
            better = tried_cost <= cost[going]
            small = np.all(np.abs(step) < CONVERGED, axis=0)
            won = going[better]
            rates[:, won], amplitude[won], cost[won] = tried[:, better], tried_amplitude[better], tried_cost[better]
            damping[going] = np.where(better, damping[going] / 5.0, damping[going] * 5.0)
            # Heavy damping with no descent left is the floor of rounding: as good an end as a small step.
            ended[going] = small | (damping[going] > 1e8)
        return amplitude * scale, rates, ended & (scale > 0)

    def _project(self, rates: Array, y: Array) -> tuple[Array, Array]:
        """Best amplitude (n,), not negative, and the squared residual it leaves (n,)."""
        basis = self.root_weights * self._curve(rates, self.times)
        amplitude = np.maximum((basis * y).sum(axis=0) / (basis * basis).sum(axis=0), 0.0)
        residual = y - amplitude * basis
        return amplitude, (residual * residual).sum(axis=0)

    def _step(self, rates: Array, amplitude: Array, y: Array, damping: Array) -> Array:
        """Damped Gauss-Newton step (r, n) in the logarithm of the rates, none across a bound."""
        basis = self.root_weights * self._curve(rates, self.times)
        slopes = [-rates[0] * self.times * basis]
        if len(rates) == 2:
            slopes.append(self.root_weights * rates[1] * self.times * np.exp(-(rates[0] + rates[1]) * self.times))
        norm = (basis * basis).sum(axis=0)
        # What of each slope the amplitude cannot take up (Kaufman's approximation of the projected Jacobian).
        jacobian = [amplitude * (s - basis * ((basis * s).sum(axis=0) / norm)) for s in slopes]
        residual = y - amplitude * basis
        gradient = np.stack([(j * residual).sum(axis=0) for j in jacobian])
        outward = ((rates <= self.lowest) & (gradient < 0)) | ((rates >= self.highest) & (gradient > 0))
        gradient = np.where(outward, 0.0, gradient)
        square = [(j * j).sum(axis=0) * (1 + damping) + 1e-300 for j in jacobian]
        if len(rates) == 1:
            return gradient / square[0]
        cross = np.where(outward.any(axis=0), 0.0, (jacobian[0] * jacobian[1]).sum(axis=0))
        determinant = square[0] * square[1] - cross * cross
        first = (square[1] * gradient[0] - cross * gradient[1]) / determinant
        second = (square[0] * gradient[1] - cross * gradient[0]) / determinant
        return np.stack([first, second])

    def area(self, amplitude: Array, rates: Array, from_h: float) -> Array:
        """Area (n,) under the curves from a time to infinity, MBq·h."""
        area = np.exp(-rates[0] * from_h) / rates[0]
        if len(rates) == 2:
            fast = rates[0] + rates[1]
            area = area - np.exp(-fast * from_h) / fast
        return amplitude * area

    def supported(self, amplitude: Array, rates: Array) -> np.ndarray:
        """Whether the share of each area before the first point is nearer to the region's than to 1, (n,)."""
        first = float(self.times[0, 0])
        after = self.reference.curve.integral_mbq_h(first) / self.reference.tia_mbq_h
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.area(amplitude, rates, first) / self.area(amplitude, rates, 0.0) > after / 2.0

    def scaled_area(self, activity: Array) -> Array:
        """Area (n,) under the region's curve scaled to each voxel by least squares, MBq·h."""
        y = self.root_weights * activity[self.reference.used]
        basis = self.root_weights * self.reference.activity(self.times)
        return (basis * y).sum(axis=0) / (basis * basis).sum() * self.reference.tia_mbq_h
