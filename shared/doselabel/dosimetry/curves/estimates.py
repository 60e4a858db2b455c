"""What each time-activity model makes of the points: a curve, its numbers, and their slope by every point.

Knows formulas and their validity; noise, quality and integration are `doselabel.dosimetry.curves.fit`'s.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar

from doselabel.dosimetry.curves.models import PARAMETER_NAMES, Array, Curve, Solution, curve_of, solve, tia_gradient
from doselabel.dosimetry.curves.points import Points, UptakeLimb, one_point, terminal_rate, without_uptake_limb
from doselabel.errors import FitError

Tail = Literal["effective", "physical"]
Head = Literal["constant", "zero"]

HANSCHEID_TIME_H = 96.0
"""Hänscheid et al. 2018: one measurement, four days after 177Lu-DOTATATE/DOTATOC."""
HANSCHEID_BAND = (0.75, 2.5)
"""Measurement time over effective half-life within which the estimate errs by 12 % at most."""
LARGEST_LOG_SD = 10.0
"""A direction in which noise alone would move the parameters by a factor of e^10, all the range the search
allows, is not estimated but held: its linear propagation would mean nothing."""


@dataclass(frozen=True, eq=False)
class Estimate:
    """What a model makes of the points, before noise and guards: the same for every model."""

    curve: Curve
    params: dict[str, float]
    param_gradient: Array  # (p, n): d(parameter)/d(activity of each point)
    tia_gradient: Array  # (n,)
    used: np.ndarray
    undetermined: tuple[str, ...] = ()
    method_sd_mbq_h: float = 0.0
    prior_covariance: Array | float = 0.0  # what the error of a half-life known before adds to the parameters'
    warnings: list[str] = field(default_factory=list)


def exponential(
    points: Points, model: str, uptake_limb: UptakeLimb, known_half_life: tuple[float, float] | None = None
) -> Estimate:
    """The least-squares ``uptake``, ``mono`` or ``bi`` curve; ``mono`` may know its half-life before (`_informed`)."""
    used = points.used.copy()
    warnings: list[str] = []
    if model == "mono":
        used, warnings = without_uptake_limb(points, uptake_limb)
        if known_half_life is not None:
            return _informed(points, used, known_half_life, warnings)
    t, a, w = points.times[used], points.activity[used], points.root_weights[used]
    solution = solve(model, t, a, w, points.physical)
    names = PARAMETER_NAMES[model]
    gradient = np.zeros((len(names), len(points.times)))
    gradient[:, used], determined = _estimator(solution, w, points.sd[used])
    undetermined = tuple(n for n, known in zip(names, determined, strict=True) if not known)
    if undetermined:
        warnings.append(f"undetermined: the points do not determine {', '.join(undetermined)}")
    values = solution.values
    if values[1] <= points.physical * (1 + 1e-9):
        warnings.append("physical_floor: the slow phase would fall slower than physical decay and is held there")
    if model == "bi" and values[2] < 0:
        warnings.append("uptake_phase: the second term is negative, an uptake phase")
    return Estimate(
        curve=curve_of(model, values),
        params=dict(zip(names, values.tolist(), strict=True)),
        param_gradient=gradient,
        tia_gradient=tia_gradient(model, values) @ gradient,
        used=used,
        undetermined=undetermined,
        warnings=warnings,
    )


def _informed(points: Points, used: np.ndarray, known: tuple[float, float], warnings: list[str]) -> Estimate:
    """The most probable ``mono`` curve, given points with Gaussian noise and a half-life (h) known to a relative sd.

    The half-life is log-normal: it adds ((ln T − ln T₀)/sd)² to χ². Its part of the TIA's error is ``method_sd_mbq_h``.
    """
    t, a, sd = points.times[used], points.activity[used], points.sd[used]
    middle, spread = min(math.log(known[0]), math.log(points.nuclide.half_life_h)), known[1]

    def at(log_half_life: ArrayLike) -> tuple[Array, Array]:
        """Best amplitude for each half-life, and how improbable the two are together."""
        u = np.atleast_1d(np.asarray(log_half_life, dtype=float))
        shapes = np.exp2(-t / np.exp(u)[:, None]) / sd
        amplitudes = shapes @ (a / sd) / np.sum(shapes**2, axis=1)
        off = a / sd - amplitudes[:, None] * shapes
        return amplitudes, np.sum(off**2, axis=1) + ((u - middle) / spread) ** 2

    start = max(middle - 8.0 * spread, math.log(float(t[-1]) / 60.0))  # what falls faster is gone by the last scan
    end = min(middle + 8.0 * spread, math.log(points.nuclide.half_life_h))
    grid = np.linspace(start, max(end, start), 161)
    best = int(np.argmin(at(grid)[1]))
    ends = (grid[max(best - 1, 0)], grid[min(best + 1, len(grid) - 1)])
    log_half_life = float(
        minimize_scalar(lambda u: float(at(u)[1][0]), bounds=ends, method="bounded", options={"xatol": 1e-9}).x
    )
    rate, amplitude = math.log(2.0) / math.exp(log_half_life), float(at(log_half_life)[0][0])
    shape = amplitude * np.exp(-rate * t)
    slopes = np.stack([shape, shape * rate * t], axis=1)  # by ln A and ln T
    information = slopes.T @ (slopes / sd[:, None] ** 2) + np.diag([0.0, spread**-2.0])
    inverse = np.linalg.inv(information)
    units = np.array([amplitude, -rate])  # dA/d ln A, dλ/d ln T
    by_points = np.zeros((2, len(points.times)))
    by_points[:, used] = inverse @ (slopes / sd[:, None] ** 2).T
    by_prior = inverse[:, 1] / spread
    tia = amplitude / rate
    warnings.append("known_half_life: the points' half-life is weighed with what is known of it before")
    return Estimate(
        curve=Curve((amplitude,), (rate,)),
        params=dict(zip(PARAMETER_NAMES["mono"], (amplitude, rate), strict=True)),
        param_gradient=units[:, None] * by_points,
        tia_gradient=tia * by_points.sum(axis=0),
        used=used,
        method_sd_mbq_h=tia * abs(float(by_prior.sum())),
        prior_covariance=np.outer(units * by_prior, units * by_prior),
        warnings=warnings,
    )


def _estimator(solution: Solution, root_weights: Array, sd: Array) -> tuple[Array, np.ndarray]:
    """d(parameters)/d(activities) at the optimum, (p, n), and which parameters the points determine, (p,).

    The Gauss-Newton pseudo-inverse of the weighted Jacobian, within the directions that noise leaves standing.
    """
    free = solution.free
    _, strength, directions = np.linalg.svd(solution.jacobian[:, free] / sd[:, None], full_matrices=False)
    kept = strength > 1.0 / LARGEST_LOG_SD
    basis = directions[kept].T
    weighted = root_weights[:, None] * solution.jacobian[:, free]
    gradient = solution.chain[:, free] @ basis @ np.linalg.pinv(weighted @ basis) * root_weights
    with np.errstate(divide="ignore", invalid="ignore"):
        moved = solution.chain[:, free] @ directions[~kept].T / solution.values[:, None]
        stuck = solution.chain[:, -1:] / solution.values[:, None] * (not free[-1])
    lost = np.concatenate([moved, stuck], axis=1)
    return gradient, ~np.any(np.abs(np.nan_to_num(lost, nan=np.inf)) > 0.1, axis=1)


def trapezoid(points: Points, tail: Tail, head: Head) -> Estimate:
    """Straight lines through the points, with a head before the first and an exponential tail after the last."""
    if tail not in get_args(Tail) or head not in get_args(Head):
        raise FitError(
            f"tail is {tail!r} and head {head!r}, expected tail in {get_args(Tail)} and head in {get_args(Head)}."
        )
    used = points.used
    times = points.times[used]

    def curve(activity: Array) -> Curve:
        rate = terminal_rate(times, activity, points.physical) if tail == "effective" else None
        knots_h, knots = list(times), list(activity)
        if times[0] > 0:
            knots_h, knots = [0.0, *knots_h], [activity[0] if head == "constant" else 0.0, *knots]
        return Curve((float(activity[-1]),), (rate or points.physical,), tuple(knots_h), tuple(map(float, knots)))

    def rate_and_tia(activity: Array) -> Array:
        c = curve(activity)
        return np.array([c.rates_per_h[0], c.integral_mbq_h()])

    activity = points.activity[used]
    gradient = np.zeros((2, len(points.times)))
    gradient[:, used] = _numeric_gradient(rate_and_tia, activity)
    warnings, params, rows = [], {}, gradient[:0]
    if tail == "effective":
        rate = terminal_rate(times, activity, points.physical)
        if rate is None:
            warnings.append("physical_floor: no falling points to take a tail from, physical decay is used")
        else:
            params, rows = {"tail_rate_per_h": rate}, gradient[:1]
            if rate <= points.physical * (1 + 1e-9):
                warnings.append("physical_floor: the tail would fall slower than physical decay and is held there")
    return Estimate(curve(activity), params, rows, gradient[1], used, warnings=warnings)


def _numeric_gradient(function: Callable[[Array], Array], activity: Array) -> Array:
    """Central differences of a vector function by each activity, (m, n)."""
    step = 1e-5 * activity.max()
    columns = []
    for i in range(len(activity)):
        up, down = activity.copy(), activity.copy()
        up[i] += step
        down[i] = max(down[i] - step, 0.0)
        columns.append((function(up) - function(down)) / (up[i] - down[i]))
    return np.stack(columns, axis=1)


def _single(points: Points, i: int, rate: float, area_per_activity_h: float) -> Estimate:
    """A mono-exponential curve through one point."""
    here = np.zeros(len(points.times))
    here[i] = 1.0
    amplitude = float(points.activity[i] * np.exp(rate * points.times[i]))
    return Estimate(
        curve=Curve((amplitude,), (rate,)),
        params={"activity_mbq": float(points.activity[i])},
        param_gradient=here[None, :],
        tia_gradient=area_per_activity_h * here,
        used=here > 0,
        warnings=[f"single_point: only the point at {points.times[i]:g} h is used"],
    )


def hanscheid_ratio(time_over_half_life: ArrayLike) -> Array:
    """Estimated over true TIA of the single-time-point method, 2x·2^-x with x = t / T_eff (Hänscheid 2018)."""
    x = np.asarray(time_over_half_life, dtype=float)
    return 2.0 * x * np.exp2(-x)


def hanscheid(
    points: Points, time_h: float | None, half_life_h: float | None = None, half_life_sd_h: float = 0.0
) -> Estimate:
    """One point measured near the effective half-life: TIA = 2 t A(t) / ln 2 (Hänscheid et al. 2018).

    With a stated half-life the point must lie within `HANSCHEID_BAND` of it, and the method's standard deviation is
    the root mean square error over half-lives that scatter log-normally by ``half_life_sd_h`` about it.
    """
    i = one_point(points, time_h, HANSCHEID_TIME_H)
    t, physical = float(points.times[i]), points.nuclide.half_life_h
    low, high = t / HANSCHEID_BAND[1], min(t / HANSCHEID_BAND[0], physical)
    if not 0 < t <= physical:
        raise FitError(
            f"The single-time-point method needs a time near the effective half-life; {t:g} h is beyond the physical "
            f"half-life of {physical:.1f} h, or zero.",
            "Use an earlier time point, or model 'population' with a known half-life.",
        )
    # At T_eff = t the estimate is exact: the curve that goes with it is that one.
    estimate = _single(points, i, math.log(2.0) / t, 2.0 * t / math.log(2.0))
    warnings = [
        *estimate.warnings,
        f"hanscheid_band: within 12 % only if the effective half-life lies between {low:.0f} and {high:.0f} h",
    ]
    if half_life_h is not None:
        _check_half_life(half_life_h, half_life_sd_h, physical)
        require_band(t, half_life_h, physical)
        spread, likely = _likely_half_lives_h(half_life_h, half_life_sd_h, physical)
        method_relative_sd = float(np.sqrt(np.average((hanscheid_ratio(t / spread) - 1.0) ** 2, weights=likely)))
    else:
        ratios = hanscheid_ratio(np.array([HANSCHEID_BAND[0], 1 / math.log(2.0), HANSCHEID_BAND[1]]))
        method_relative_sd = float(ratios.max() - ratios.min()) / (2.0 * math.sqrt(3.0))
    rate = terminal_rate(points.times[points.used], points.activity[points.used], points.physical)
    if rate is not None and not low <= math.log(2.0) / rate <= high:
        warnings.append(
            f"hanscheid_outside_band: the points fall with {math.log(2.0) / rate:.0f} h, where the estimate is "
            f"{hanscheid_ratio(t * rate / math.log(2.0)):.2f} of the truth"
        )
    method_sd = method_relative_sd * estimate.curve.integral_mbq_h()
    return replace(estimate, warnings=warnings, method_sd_mbq_h=method_sd)


def _likely_half_lives_h(half_life_h: float, sd_h: float, physical_h: float) -> tuple[Array, Array]:
    """Half-lives that scatter log-normally, to three standard deviations, and how likely each is."""
    steps = np.linspace(-3, 3, 121)
    return np.minimum(half_life_h * np.exp(sd_h / half_life_h * steps), physical_h), np.exp(-0.5 * steps**2)


def require_band(time_h: float, half_life_h: float, physical_h: float) -> None:
    """Raise FitError where one point is too early or too late, by what is known of the half-life."""
    if not HANSCHEID_BAND[0] <= time_h / half_life_h <= HANSCHEID_BAND[1]:
        raise FitError(
            f"One time point at {time_h:g} h is {time_h / half_life_h:.2f} of the stated effective half-life of "
            f"{half_life_h:.4g} h; a single point tells the time-integrated activity only between "
            f"{HANSCHEID_BAND[0]} and {HANSCHEID_BAND[1]} of it.",
            f"Measure between {HANSCHEID_BAND[0] * half_life_h:.0f} and "
            f"{min(HANSCHEID_BAND[1] * half_life_h, physical_h):.0f} h after injection, or add time points.",
        )


def _check_half_life(half_life_h: float | None, half_life_sd_h: float, physical_h: float) -> None:
    if half_life_h is None or not 0 < half_life_h <= physical_h:
        raise FitError(
            f"The model needs an effective half-life between 0 and {physical_h:.1f} h, found {half_life_h}.",
            "Give population_half_life_h for this organ and radiopharmaceutical.",
        )
    if not (math.isfinite(half_life_sd_h) and half_life_sd_h >= 0):
        raise FitError(f"population_half_life_sd_h is {half_life_sd_h}, expected 0 or above.")


def population(points: Points, time_h: float | None, half_life_h: float | None, half_life_sd_h: float) -> Estimate:
    """One point and the effective half-life of a population: TIA = A(t) e^(λ t) / λ."""
    _check_half_life(half_life_h, half_life_sd_h, points.nuclide.half_life_h)
    assert half_life_h is not None  # or the check raised
    rate = math.log(2.0) / half_life_h
    i = one_point(points, time_h, 1.0 / rate)
    estimate = _single(points, i, rate, math.exp(rate * points.times[i]) / rate)
    # Over the half-lives that are likely, not by d ln(TIA)/d ln(T_eff) = 1 - λ t alone: that is 0 at the mean life.
    spread, likely = _likely_half_lives_h(half_life_h, half_life_sd_h, points.nuclide.half_life_h)
    time = float(points.times[i])
    ratio = spread / half_life_h * np.exp2(time / spread - time / half_life_h)
    method_sd = float(np.sqrt(np.average((ratio - 1.0) ** 2, weights=likely))) * estimate.curve.integral_mbq_h()
    warnings = list(estimate.warnings)
    if half_life_sd_h == 0:
        warnings.append("population_spread: no spread of the population half-life was given, none is in the sd")
    return replace(estimate, warnings=warnings, method_sd_mbq_h=method_sd)
