"""The time-activity fit of one region: model, guards, uncertainty. Knows no images or organs.

Activities are decay-*un*corrected (the activity truly present at that time), so an effective rate is biological
plus physical, and every model here keeps it at or above the physical one. All models and guards: the design's
dosimetry chapter; criteria of a good fit: Kletting et al., Med. Phys. 40:102504 (2013), coefficient of variation
below 50 % and |correlation| below 0.8; single time point: Hänscheid et al., J. Nucl. Med. 59:75 (2018).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from doselabel.dosimetry.curves.estimates import (
    Estimate,
    Head,
    Tail,
    exponential,
    hanscheid,
    population,
    trapezoid,
)
from doselabel.dosimetry.curves.models import PARAMETER_NAMES, Array, Curve, jacobian_of
from doselabel.dosimetry.curves.points import ASSUMED_RELATIVE_SD, Points, UptakeLimb, make_points
from doselabel.errors import FitError
from doselabel.nuclides import Nuclide

Model = Literal["uptake", "mono", "bi", "trapezoid", "hanscheid", "population"]

FEWEST_POINTS = {"uptake": 3, "mono": 2, "bi": 4, "trapezoid": 2, "hanscheid": 1, "population": 1}
LARGEST_CV = 0.5
UNKNOWN_CV = 1.0
"""A parameter whose standard deviation is as large as itself is not known; "± 1000 %" would only say so worse."""
LARGEST_CORRELATION = 0.8
LARGEST_EXTRAPOLATION = 0.2


@dataclass(frozen=True, eq=False)
class TacFit:
    """One region's fitted time-activity curve and everything a report or a dose needs of it.

    Attributes
    ----------
    model, nuclide : str
    times_h, activity_mbq, sd_mbq : ndarray, shape (n,)
        What was measured, and its standard deviation as given or assumed.
    used : ndarray of bool, shape (n,)
        Points that entered the fit.
    params : Mapping[str, float]
        Fitted numbers with units in their names; the order is that of ``covariance`` and ``correlation``.
    covariance, correlation : ndarray, shape (p, p)
    cv : Mapping[str, float]
        Standard deviation over value of each parameter; infinite where the data do not determine it.
    tia_mbq_h, tia_sd_mbq_h : float
        Time-integrated activity from 0 to infinity and its standard deviation for this model (k = 1).
    method_sd_mbq_h : float
        Part of it that comes from what is known of the half-life before: its spread between patients, or of a prior.
    tia_gradient_h : ndarray, shape (n,)
        d(TIA)/d(activity of each point), which carries any other error of the points into the TIA.
    effective_half_life_h : float
        Of the slowest term, the terminal slope; the assumed one for single-time-point models.
    extrapolated_fraction : float
        Share of the TIA after the last time point.
    degrees_of_freedom : int
        Points used minus parameters; 0 means the curve passes through the points and nothing was tested.
    residuals_mbq : ndarray, shape (n,)
        Measured minus curve, for every point.
    studentized_residuals : ndarray, shape (n,)
        Residuals over what noise makes of them, √(1 − leverage) sd; nan where the curve must pass through the point.
    chi_squared : float
        Sum over the used points of (residual / sd)².
    curve : Curve
        The curve itself, as knots and exponentials.
    warnings : tuple of str
        ``"code: text"``, each a guard of the design that did not hold.
    """

    model: str
    nuclide: str
    times_h: Array
    activity_mbq: Array
    sd_mbq: Array
    used: np.ndarray
    params: Mapping[str, float]
    covariance: Array
    correlation: Array
    cv: Mapping[str, float]
    tia_mbq_h: float
    tia_sd_mbq_h: float
    method_sd_mbq_h: float
    tia_gradient_h: Array
    effective_half_life_h: float
    extrapolated_fraction: float
    degrees_of_freedom: int
    residuals_mbq: Array
    studentized_residuals: Array
    chi_squared: float
    curve: Curve
    warnings: tuple[str, ...] = ()

    def activity(self, times_h: ArrayLike) -> Array:
        """Fitted activity at the given times (h), MBq, same shape."""
        return self.curve.activity_mbq(times_h)


def fit(
    times_h: ArrayLike,
    activity_mbq: ArrayLike,
    *,
    nuclide: str | Nuclide,
    model: Model = "uptake",
    weights: str | ArrayLike | None = None,
    sd_mbq: ArrayLike | None = None,
    assumed_relative_sd: float = ASSUMED_RELATIVE_SD,
    uptake_limb: UptakeLimb = "refuse",
    tail: Tail = "effective",
    head: Head = "constant",
    time_h: float | None = None,
    population_half_life_h: float | None = None,
    population_half_life_sd_h: float = 0.0,
    known_half_life: tuple[float, float] | None = None,
) -> TacFit:
    """Fit a time-activity curve and integrate it from injection to infinity.

    Parameters
    ----------
    times_h : array_like, shape (n,)
        Hours after injection, increasing, not negative.
    activity_mbq : array_like, shape (n,)
        Activity present at those times (not decay corrected), MBq.
    nuclide : str or Nuclide
        Sets the physical rate, below which no effective rate can go.
    model : str
        ``uptake``: A (e^-λ1 t - e^-λ2 t), the default for four points. ``mono``: A e^-λ1 t.
        ``bi``: A1 e^-λ1 t + A2 e^-λ2 t with A1 >= 0 and A(0) >= 0. ``trapezoid``: straight lines, then a tail.
        ``hanscheid``: 2 t A(t) / ln 2 from one point. ``population``: A(t) e^(λ t) / λ with a known half-life.
    weights : {"equal", "relative", "poisson"} or array_like of shape (n,), optional
        1, 1/A², 1/A, or given (as 1/σ²; 0 leaves a point out). Without it 1/sd² if ``sd_mbq`` is given, else
        equal, as the published fits of the SNMMI challenge are.
    sd_mbq : array_like, shape (n,), optional
        Standard deviation of each activity. Without it ``assumed_relative_sd`` of each, and at least 1 % of the
        largest. Either is widened by √(χ²/dof) where the residuals say it is too small.
    uptake_limb : {"refuse", "exclude", "keep"}
        What ``mono`` does with first points that lie below what later points and physical decay imply.
    tail, head : str
        ``trapezoid`` only: after the last point the log-slope of the last (up to 3) points since the peak or
        physical decay alone; before the first point its activity held constant, or a line from zero.
    time_h : float, optional
        Single-point models: the time point to use. Default: the one nearest 96 h (``hanscheid``), or nearest
        the mean life, where the TIA depends least on the half-life (``population``).
    population_half_life_h, population_half_life_sd_h : float
        Effective half-life and its standard deviation between patients: ``population`` needs them; ``hanscheid``
        then refuses a point outside 0.75 to 2.5 half-lives, and takes its uncertainty from the spread.
    known_half_life : (float, float), optional
        ``mono`` only: effective half-life (h) and its relative standard deviation, log-normal, from elsewhere (the
        patient's other organs, earlier cycles); the curve is the most probable one given it and the points.

    Returns
    -------
    TacFit

    Raises
    ------
    FitError
        For points that are not finite, negative, all zero, out of order, or too few for the model; for ``mono``
        on an uptake limb; for an option the model needs and does not have. The hint says what to do.
    """
    if model not in get_args(Model):
        raise FitError(f"Unknown model {model!r}, expected one of {', '.join(get_args(Model))}.")
    points = make_points(times_h, activity_mbq, nuclide, weights, sd_mbq, assumed_relative_sd)
    found, needed = int(points.used.sum()), FEWEST_POINTS[model]
    if found < needed:
        raise FitError(
            f"Model {model!r} needs at least {needed} time points, found {found}.",
            "Add time points, or choose " + _models_for(found) + ".",
        )
    if model == "trapezoid":
        estimate = trapezoid(points, tail, head)
    elif model == "hanscheid":
        estimate = hanscheid(points, time_h, population_half_life_h, population_half_life_sd_h)
    elif model == "population":
        estimate = population(points, time_h, population_half_life_h, population_half_life_sd_h)
    else:
        estimate = exponential(points, model, uptake_limb, known_half_life)
    return _finish(points, model, estimate)


def loose(cv: Mapping[str, float]) -> list[str]:
    """Parameters that the points hardly determine, or not at all, as text; see `UNKNOWN_CV`."""
    return [
        f"{name} {value:.0%}" if math.isfinite(value) else f"{name} not determined by the points"
        for name, value in cv.items()
        if not value < LARGEST_CV
    ]


def _models_for(points: int) -> str:
    return ", ".join(name for name, needed in FEWEST_POINTS.items() if needed <= points) or "nothing: no point is left"


def _finish(points: Points, model: str, e: Estimate) -> TacFit:
    """Carry the noise of the points through the estimate, and say which guards do not hold."""
    n, p = int(e.used.sum()), len(e.params)
    dof = max(n - p, 0) if model in PARAMETER_NAMES else 0
    residuals = points.activity - e.curve.activity_mbq(points.times)
    chi_squared = float(np.sum((residuals[e.used] / points.sd[e.used]) ** 2))
    widen = max(1.0, chi_squared / dof) if dof else 1.0
    covariance = (e.param_gradient * points.sd**2) @ e.param_gradient.T * widen + e.prior_covariance
    tia = e.curve.integral_mbq_h()
    tia_sd = math.sqrt(float(np.sum((e.tia_gradient * points.sd) ** 2)) * widen + e.method_sd_mbq_h**2)
    if model in PARAMETER_NAMES:
        # One residual says hardly anything of the noise; what its square root multiplies is not to be believed.
        largest = _largest_tia_sd(points, e.used, residuals, tia)
        tia_sd = min(tia_sd, largest if dof < 2 else max(largest, tia))
    sd = np.sqrt(np.diag(covariance))
    cv = {
        name: math.inf if name in e.undetermined or not v or s >= UNKNOWN_CV * abs(v) else float(s / abs(v))
        for (name, v), s in zip(e.params.items(), sd, strict=True)
    }
    known = np.where(sd > 0, sd, np.nan)
    correlation = covariance / np.outer(known, known)
    rate = min(e.curve.rates_per_h)
    extrapolated = e.curve.integral_mbq_h(float(points.times[-1])) / tia
    return TacFit(
        model=model,
        nuclide=points.nuclide.name,
        times_h=points.times,
        activity_mbq=points.activity,
        sd_mbq=points.sd,
        used=e.used,
        params=e.params,
        covariance=covariance,
        correlation=correlation,
        cv=cv,
        tia_mbq_h=tia,
        tia_sd_mbq_h=tia_sd,
        method_sd_mbq_h=e.method_sd_mbq_h,
        tia_gradient_h=e.tia_gradient,
        effective_half_life_h=math.log(2.0) / rate,
        extrapolated_fraction=extrapolated,
        degrees_of_freedom=dof,
        residuals_mbq=residuals,
        studentized_residuals=_studentized(points, model, e, residuals),
        chi_squared=chi_squared,
        curve=e.curve,
        warnings=(*e.warnings, *_quality_warnings(model, n, p, dof, cv, correlation, list(e.params), extrapolated)),
    )


def _studentized(points: Points, model: str, e: Estimate, residuals: Array) -> Array:
    out = np.full(len(residuals), np.nan)
    if model in PARAMETER_NAMES:
        slopes = jacobian_of(model, np.array(list(e.params.values())), points.times)
        free = 1.0 - np.einsum("ip,pi->i", slopes, e.param_gradient)
        there = e.used & (free > 1e-3)
        out[there] = residuals[there] / (points.sd[there] * np.sqrt(free[there]))
    return out


def _largest_tia_sd(points: Points, used: np.ndarray, residuals: Array, tia_mbq_h: float) -> float:
    """What is known of the TIA without any model: no linear propagation of errors can know less.

    Straight lines between the points hold whatever the curve; before the first and after the last there is between
    nothing and (constant, physical decay) all there can be: rectangular (GUM 4.3.7). To that the points' own noise,
    and their scatter about the curve.
    """
    t, a = points.times[used], points.activity[used]
    lines = float(np.sum((a[1:] + a[:-1]) / 2.0 * np.diff(t)))
    outside = float(a[0] * t[0] + a[-1] / points.physical)
    noise = np.hypot(points.sd[used], residuals[used]) / np.maximum(a, 1e-3 * a.max())
    level = max(lines + outside / 2.0, tia_mbq_h)
    return math.hypot(outside / 2.0 / math.sqrt(3.0), level * min(float(np.sqrt(np.mean(noise**2))), 1.0))


def _quality_warnings(
    model: str,
    n: int,
    p: int,
    dof: int,
    cv: Mapping[str, float],
    correlation: Array,
    names: list[str],
    extrapolated: float,
) -> list[str]:
    warnings = []
    if model in PARAMETER_NAMES and p > n - 1:
        warnings.append(f"parameters: {p} parameters for {n} points, more than {n - 1}")
    if model in PARAMETER_NAMES and dof == 0:
        warnings.append("zero_degrees_of_freedom: the curve was not tested; its sd is that of the points alone")
    uncertain = loose(cv)
    if uncertain:
        warnings.append("cv: coefficient of variation of 50 % or more: " + ", ".join(uncertain))
    pairs = [
        f"{names[i]} and {names[j]} {correlation[i, j]:+.2f}"
        for i in range(p)
        for j in range(i)
        if abs(correlation[i, j]) >= LARGEST_CORRELATION
    ]
    if pairs:
        warnings.append("correlation: parameters correlated by 0.8 or more: " + ", ".join(pairs))
    if extrapolated > LARGEST_EXTRAPOLATION:
        warnings.append(f"extrapolated: {extrapolated:.0%} of the time-integrated activity is after the last point")
    return warnings
