"""The measured points of one region, validated, and what can be seen in them before any curve is fitted.

Knows times, activities, noise and weights; no model, no image.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from doselabel.dosimetry.curves.models import Array
from doselabel.errors import FitError
from doselabel.nuclides import Nuclide
from doselabel.nuclides import nuclide as find_nuclide

UptakeLimb = Literal["refuse", "exclude", "keep"]

ASSUMED_RELATIVE_SD = 0.05
"""Noise of one organ activity where none is given (the design's expected-error table uses the same 5 %)."""
LIMB_SIGNIFICANCE = 2.0
"""A first point this many standard deviations below what later points imply is on the uptake limb."""


@dataclass(frozen=True, eq=False)
class Points:
    """Validated points of one region: all arrays have shape (n,), times in h, activities and sd in MBq."""

    times: Array
    activity: Array
    sd: Array
    root_weights: Array
    used: np.ndarray
    nuclide: Nuclide

    @property
    def physical(self) -> float:
        """Physical decay rate, 1/h."""
        return self.nuclide.decay_constant_per_h


def make_points(
    times_h: ArrayLike,
    activity_mbq: ArrayLike,
    nuclide: str | Nuclide,
    weights: str | ArrayLike | None,
    sd_mbq: ArrayLike | None,
    assumed_relative_sd: float,
) -> Points:
    """Validate what `doselabel.dosimetry.curves.fit.fit` was given; a `FitError` says what is wrong and what to do."""
    times, activity = check_points(times_h, activity_mbq)
    if activity.ndim != 1:
        raise FitError(
            f"Activities have shape {activity.shape}, expected one value per time point.",
            "Use doselabel.dosimetry.curves.voxel.fit_voxels for maps.",
        )
    if not activity.max() > 0:
        raise FitError(
            "All activities are zero: there is no curve to fit.",
            "Check the volume of interest against the SPECT, or mark the organ as absent.",
        )
    floor = np.maximum(activity, 0.01 * activity.max())
    if sd_mbq is None:
        if not (math.isfinite(assumed_relative_sd) and assumed_relative_sd > 0):
            raise FitError(f"assumed_relative_sd is {assumed_relative_sd}, expected a number above 0.")
        sd = assumed_relative_sd * floor
    else:
        sd = _per_point("sd_mbq", sd_mbq, times)
        if not np.all(sd > 0):
            raise FitError("sd_mbq has values that are not above 0.", "Leave sd_mbq out to assume 5 % noise.")
    if weights is None:
        weights = "equal" if sd_mbq is None else 1.0 / sd**2
    if isinstance(weights, str):
        named = {"equal": np.ones_like(floor), "poisson": 1.0 / floor, "relative": 1.0 / floor**2}
        if weights not in named:
            raise FitError(f"Unknown weights {weights!r}, expected {', '.join(named)} or one number per point.")
        weight = named[weights]
    else:
        weight = _per_point("weights", weights, times)
        if not (np.all(weight >= 0) and np.any(weight > 0)):
            raise FitError("weights must be 0 or above, and one of them above 0.", "Weights are 1/sd².")
    return Points(times, activity, sd, np.sqrt(weight), weight > 0, find_nuclide(nuclide))


def check_points(times_h: ArrayLike, activity_mbq: ArrayLike) -> tuple[Array, Array]:
    """Times (t,) and activities (t, ...) as float arrays, or a `FitError` that says which value is wrong."""
    try:
        times, activity = np.asarray(times_h, dtype=float), np.asarray(activity_mbq, dtype=float)
    except (TypeError, ValueError) as error:
        raise FitError(f"Times and activities must be numbers: {error}.") from error
    if times.ndim != 1 or times.size == 0 or activity.ndim == 0 or len(activity) != len(times):
        raise FitError(
            f"Times have shape {times.shape} and activities {activity.shape}: expected one activity per time.",
            "Give times_h as (t,) and activities with t as their first axis.",
        )
    if not np.all(np.isfinite(times)):
        raise FitError(f"Times are not all finite: {times.tolist()} h.", "Check the acquisition times of the study.")
    if times[0] < 0 or np.any(np.diff(times) <= 0):
        raise FitError(
            f"Times must increase from 0 on, found {times.tolist()} h.",
            "Sort the time points, and check injection and acquisition times for clock errors or duplicates.",
        )
    bad = ~np.isfinite(activity)
    if bad.any():
        where = np.flatnonzero(bad.reshape(len(times), -1).any(axis=1))
        raise FitError(
            f"Activities are not finite at {times[where].tolist()} h.", "Check the SPECT and its calibration there."
        )
    if np.any(activity < 0):
        where = np.flatnonzero((activity < 0).reshape(len(times), -1).any(axis=1))
        raise FitError(
            f"Activities are negative at {times[where].tolist()} h (lowest {activity.min():.4g} MBq).",
            "Activity cannot be negative: check background subtraction, or clip interpolated images at 0.",
        )
    return times, activity


def _per_point(name: str, values: ArrayLike, times: Array) -> Array:
    array = np.asarray(values, dtype=float)
    if array.shape != times.shape or not np.all(np.isfinite(array)):
        raise FitError(f"{name} must be {len(times)} finite numbers, one per time point; found {array.tolist()}.")
    return array


def without_uptake_limb(points: Points, action: UptakeLimb) -> tuple[np.ndarray, list[str]]:
    """Points (n,) that a falling exponential may use, and warnings.

    Such a curve cannot lie below what a later point and physical decay imply for an earlier time: first points
    that do, by more than `LIMB_SIGNIFICANCE` standard deviations, are on the uptake limb.
    """
    if action not in get_args(UptakeLimb):
        raise FitError(f"uptake_limb is {action!r}, expected one of {', '.join(get_args(UptakeLimb))}.")
    t, a, sd, used = points.times, points.activity, points.sd, points.used.copy()
    limb = []
    for i in np.flatnonzero(used)[:-1]:
        later = np.flatnonzero(used)[np.flatnonzero(used) > i]
        grown = np.exp(points.physical * (t[later] - t[i]))
        shortfall = a[later] * grown - a[i]
        if not np.any(shortfall > LIMB_SIGNIFICANCE * np.hypot(sd[later] * grown, sd[i])):
            break
        limb.append(int(i))
    if not limb:
        rising = a[used].argmax() > 0
        text = "uptake_limb: the first point is not the highest, though within its noise of a decaying curve"
        return used, [text] if rising else []
    where = ", ".join(f"{t[i]:g}" for i in limb)
    if action == "keep":
        return used, [f"uptake_limb: points at {where} h lie on the uptake limb and bias a mono-exponential fit"]
    kept = used.copy()
    kept[limb] = False
    if action == "refuse" or kept.sum() < 2:
        raise FitError(
            f"Points at {where} h lie on the uptake limb, where a mono-exponential curve cannot pass.",
            "Use model 'uptake', or uptake_limb='exclude' if two or more later points remain.",
        )
    return kept, [f"uptake_limb: points at {where} h lie on the uptake limb and were left out of the fit"]


def terminal_rate(times: Array, activity: Array, physical: float) -> float | None:
    """Log-slope of the last (up to 3) points since the peak, never below physical; None without two of them."""
    falling = np.flatnonzero((np.arange(len(times)) >= activity.argmax()) & (activity > 0))[-3:]
    if len(falling) < 2:
        return None
    slope = np.polyfit(times[falling], np.log(activity[falling]), 1)[0]
    return max(float(-slope), physical)


def one_point(points: Points, time_h: float | None, preferred_h: float) -> int:
    """Index of the time point asked for, or else of the one nearest the preferred time."""
    candidates = np.flatnonzero(points.used)
    wanted = preferred_h if time_h is None else time_h
    i = int(candidates[np.abs(points.times[candidates] - wanted).argmin()])
    if time_h is not None and abs(points.times[i] - time_h) > 1e-6:
        raise FitError(
            f"There is no time point at {time_h} h.", f"Choose one of {points.times[candidates].tolist()} h."
        )
    return i
