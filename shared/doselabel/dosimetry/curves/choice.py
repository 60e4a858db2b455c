"""Which time-activity model an organ gets, and what the results say of its fit. Knows activities, no images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from doselabel.alarms import Alarm, finding
from doselabel.dosimetry.curves.estimates import require_band
from doselabel.dosimetry.curves.fit import TacFit, fit
from doselabel.dosimetry.curves.models import Curve
from doselabel.dosimetry.curves.points import ASSUMED_RELATIVE_SD
from doselabel.dosimetry.curves.spread import ModelSpread, fit_all
from doselabel.dosimetry.options import DoseOptions, of_organ
from doselabel.errors import FitError
from doselabel.labels import title
from doselabel.nuclides import nuclide as find_nuclide
from doselabel.wire import HalfLifePrior, TimeActivity

CURVE_POINTS = 160
UPTAKE_EVIDENCE = 4.0
"""An uptake phase is taken where it lowers χ² by more than this: two standard deviations, as for the uptake limb.
Forced on points of the clearance limb alone, it bends the curve down where nothing was measured: −5 % of the TIA with
24/48/96/168 h, −18 % with 100 to 400 h."""
SMALLEST_NOISE = 0.003
"""Noise of any point, at least this part of the largest activity: an activity of zero is not known exactly."""
FAR_POINT = 3.0
"""Studentized residual beyond which a point is named."""
FIRST_OF_TWO_H = 4.0
"""Two points earlier than this (some four uptake half-times of a kidney) do not lie on the clearance limb."""
TWO_POINT_RELATIVE_SD = 0.4
"""Uncertainty of the TIA from two points that can't carry a curve, where one insists: 0.5 h and 72 h err by +54 %."""
TAIL_RELATIVE_SD = 0.10
"""Of the part after the last point: a slower phase that shows only later. TIAs of two-phase curves without noise err by
.05 to .09 of that part (`benchmarks/bench_sampling.py`)."""
HEAD_RELATIVE_SD = 0.03
"""Of the part before the first point: uptake and a fast phase that nobody saw. There, .02 to .03 of that part."""
TWO_POINTS_HINT = (
    "Add a time point; or state population_half_life_h and choose the model 'population' or 'hanscheid' for one point."
)
ASSUMED_HALF_LIFE_RELATIVE_SD = 0.25
"""Taken for the spread of effective half-lives between patients where none is stated."""


@dataclass(frozen=True)
class FarPoint:
    """A point far off its curve: which, by how much, and what the TIA would be without it (relative changes)."""

    index: int
    off: float
    change_without: float | None
    sentence: str

    def finding(self, organ: str) -> Alarm:
        """It as a finding, about an organ."""
        numbers = {"off_percent": 100 * self.off}
        if self.change_without is not None:
            numbers["tia_without_percent"] = 100 * self.change_without
        sentence = f"{title(organ)}: {self.sentence}"
        return finding("point-off-curve", sentence, numbers=numbers, organ=organ, time_point=self.index)


@dataclass(frozen=True, eq=False)
class OrganCurve:
    """An organ's curve, and what else is known of it.

    Attributes
    ----------
    fit : TacFit
    spread : ModelSpread or None
        The other admissible models, from three points on.
    tia_without_mbq_h : tuple of float or None
        TIA when each point in turn is left out, where the points scatter more than their noise; else empty.
    model_relative_sd : float
        What the choice of the model adds to the uncertainty of the TIA.
    remarks : tuple of str
        What a reader must know of the choice and of the points.
    far : FarPoint or None
        A point far off the curve.
    prior : HalfLifePrior or None
        What was known of the half-life before, where the fit weighs it.
    """

    fit: TacFit
    spread: ModelSpread | None = None
    tia_without_mbq_h: tuple[float | None, ...] = ()
    model_relative_sd: float = 0.0
    remarks: tuple[str, ...] = ()
    far: FarPoint | None = None
    prior: HalfLifePrior | None = None


def fit_organ(
    name: str,
    times_h: Sequence[float],
    activity_mbq: Sequence[float],
    nuclide: str,
    options: DoseOptions,
    relative_sd: Sequence[float] | None = None,
    prior: HalfLifePrior | None = None,
) -> OrganCurve:
    """Fit one organ's curve as the options say, with the spread over admissible models from three points on.

    Parameters
    ----------
    relative_sd : sequence of float, optional
        What is known of each point's own noise; where it exceeds the assumed one, it counts instead.
    prior : HalfLifePrior, optional
        What is known of the half-life before; a single point and a mono-exponential curve are weighed with it.

    Raises
    ------
    FitError
        Naming the organ.
    """
    sd_mbq = _noise(activity_mbq, relative_sd)
    try:
        fits: dict[str, TacFit] = {}
        model = choose(name, times_h, activity_mbq, nuclide, options, sd_mbq, fits, prior)
        if model not in (("mono",) if len(times_h) > 1 else ("population",)):
            prior = None
        elif prior is not None:
            fits.pop(model, None)  # chosen by the points alone; fitted with what was known before
        chosen = fits.get(model) or _fit(model, name, times_h, activity_mbq, nuclide, options, sd_mbq, prior)
        if len(times_h) == 2 and model in ("mono", "trapezoid") and _cannot_carry(times_h):
            return OrganCurve(chosen, None, (), TWO_POINT_RELATIVE_SD, (f"{_cannot_carry(times_h)}.",), prior=prior)
        if model not in ("uptake", "mono", "bi") or len(times_h) < 3:
            return OrganCurve(chosen, prior=prior)
        limb = "exclude" if options.uptake_limb == "refuse" else options.uptake_limb
        spread = fit_all(
            times_h,
            activity_mbq,
            nuclide=nuclide,
            model=model,  # type: ignore[arg-type]
            uptake_limb=limb,
            known=fits | {model: chosen},
            sd_mbq=sd_mbq,
            weights=options.tac_weights,
        )
        without, far = _far_points(chosen, name, nuclide, options, prior)
    except FitError as error:
        raise FitError(f"{name}: {error.message}", error.hint) from error
    remarks = () if far is None else (far.sentence,)
    return OrganCurve(chosen, spread, without, spread.relative_sd, remarks, far, prior)


def fit_rest(
    times_h: Sequence[float], activity_mbq: Sequence[float], nuclide: str, options: DoseOptions
) -> tuple[float, str]:
    """Time-integrated activity (MBq·h) of the rest of the body, and the model used.

    The model is the organs'; where it can't be fitted (activity that only falls, or is all excreted, or a single point
    of unknown half-life), straight lines with an effective tail. The rest gives the organs some per cent of their dose,
    by photons.
    """
    if max(activity_mbq) <= 0:
        return 0.0, "none"
    try:
        fits: dict[str, TacFit] = {}
        model = choose("", times_h, activity_mbq, nuclide, options, fits=fits)
        return (fits.get(model) or _fit(model, "", times_h, activity_mbq, nuclide, options)).tia_mbq_h, model
    except FitError:
        pass
    if len(times_h) > 1:
        return _fit("trapezoid", "", times_h, activity_mbq, nuclide, options).tia_mbq_h, "trapezoid"
    physical = find_nuclide(nuclide).half_life_h
    time_h = min(float(times_h[0]), physical)
    return fit([time_h], activity_mbq, nuclide=nuclide, model="hanscheid").tia_mbq_h, "hanscheid"


def described(curve: OrganCurve) -> TimeActivity:
    """What `results.json` holds of a fit."""
    fitted, spread = curve.fit, curve.spread
    last = float(fitted.times_h[-1])
    end = max(last * 1.5, last + 3 * fitted.effective_half_life_h)
    early = np.linspace(0.0, last, CURVE_POINTS // 2, endpoint=False)
    times = np.concatenate([early, np.linspace(last, end, CURVE_POINTS // 2)])
    sd = np.sqrt(np.maximum(np.diag(fitted.covariance), 0)) if fitted.covariance.size else []
    return TimeActivity(
        model=fitted.model,
        parameters={k: float(v) for k, v in fitted.params.items()},
        parameter_sd={k: float(v) for k, v in zip(fitted.params, sd, strict=False) if np.isfinite(fitted.cv[k])},
        time_h=fitted.times_h.tolist(),
        activity_mbq=fitted.activity_mbq.tolist(),
        activity_sd_mbq=fitted.sd_mbq.tolist(),
        residual_mbq=fitted.residuals_mbq.tolist(),
        curve_time_h=times.tolist(),
        curve_activity_mbq=fitted.activity(times).tolist(),
        extrapolated_fraction=fitted.extrapolated_fraction,
        degrees_of_freedom=fitted.degrees_of_freedom,
        tia_mbq_h_by_model={
            name: fit.tia_mbq_h for name, fit in (spread.fits if spread else {fitted.model: fitted}).items()
        },
        tia_mbq_h_without=list(curve.tia_without_mbq_h),
        half_life_prior=curve.prior,
    )


def sampling_relative_sd(fitted: TacFit) -> float:
    """What the curve may do where nobody measured, relative to its TIA: after the last point used, before the first.

    0 for one point, whose half-life's spread says it already.
    """
    if int(fitted.used.sum()) < 2:
        return 0.0
    used = fitted.times_h[fitted.used]
    after = fitted.curve.integral_mbq_h(float(used[-1])) / fitted.tia_mbq_h
    before = 1 - fitted.curve.integral_mbq_h(float(used[0])) / fitted.tia_mbq_h
    return float(np.hypot(TAIL_RELATIVE_SD * after, HEAD_RELATIVE_SD * before))


def half_life_relative_sd(fitted: TacFit) -> float:
    """How well the effective half-life is known: by the fit, or by the spread between patients; 1 at most."""
    by_fit = [cv for name, cv in fitted.cv.items() if name.endswith("_per_h")][:1]
    return min([*by_fit, 1.0]) if by_fit else min(fitted.method_sd_mbq_h / fitted.tia_mbq_h, 1.0)


def clearance(fitted: TacFit, name: str, options: DoseOptions) -> tuple[Curve, float, float]:
    """A curve shaped as an organ clears, its effective half-life (h), and how well that is known, relative.

    They are the fit's; but Hänscheid's method finds no half-life (its curve has the scan's own time for one), so the
    stated one counts.
    """
    half_life_h, sd_h = stated_half_life_h(name, options)
    if fitted.model != "hanscheid" or half_life_h is None:
        return fitted.curve, fitted.effective_half_life_h, half_life_relative_sd(fitted)
    return Curve((1.0,), (math.log(2.0) / half_life_h,)), half_life_h, sd_h / half_life_h


def warnings_of(curve: OrganCurve) -> list[str]:
    """A fit's warnings as sentences."""
    fitted, spread = curve.fit, curve.spread
    found = [*curve.remarks, *(f"Time-activity fit: {text.partition(': ')[2] or text}." for text in fitted.warnings)]
    if spread is not None and len(spread.admissible) > 1 and spread.relative_sd > 0.05:
        areas = ", ".join(f"{name} {spread.fits[name].tia_mbq_h:.4g} MBq·h" for name in spread.admissible)
        found.append(f"Admissible time-activity models differ: {areas}.")
    return found


def _fit(
    model: str,
    name: str,
    times_h: Sequence[float],
    activity_mbq: Sequence[float],
    nuclide: str,
    options: DoseOptions,
    sd_mbq: NDArray[np.float64] | None = None,
    prior: HalfLifePrior | None = None,
) -> TacFit:
    half_life_h, half_life_sd_h = stated_half_life_h(name, options)
    if prior is not None:
        half_life_h, half_life_sd_h = prior.half_life_h, prior.sd_h
    if model == "hanscheid" and len(times_h) == 1 and half_life_h is None:
        raise FitError(
            "One time point tells a time-integrated activity only together with an effective half-life, and none is "
            "stated.",
            "State population_half_life_h (and population_half_life_sd_h) for this organ and radiopharmaceutical, or "
            "add a time point.",
        )
    return fit(
        times_h,
        activity_mbq,
        nuclide=nuclide,
        model=model,  # type: ignore[arg-type]
        sd_mbq=_noise(activity_mbq) if sd_mbq is None else sd_mbq,
        weights=options.tac_weights,
        uptake_limb=options.uptake_limb,
        tail=options.tail,
        population_half_life_h=half_life_h,
        population_half_life_sd_h=half_life_sd_h,
        known_half_life=None if prior is None else (prior.half_life_h, prior.sd_h / prior.half_life_h),
    )


def stated_half_life_h(name: str, options: DoseOptions) -> tuple[float | None, float]:
    """Effective half-life stated for an organ, and its standard deviation between patients, stated or assumed."""
    half_life_h = of_organ(options.population_half_life_h, name)
    if half_life_h is None:
        return None, 0.0
    sd_h = of_organ(options.population_half_life_sd_h, name)
    return half_life_h, ASSUMED_HALF_LIFE_RELATIVE_SD * half_life_h if sd_h is None else sd_h


def _noise(activity_mbq: Sequence[float], relative_sd: Sequence[float] | None = None) -> NDArray[np.float64] | None:
    """Noise of the points, assumed or known to be more, and never less than a part of the largest everywhere."""
    activity = np.asarray(activity_mbq, dtype=float)
    if not (np.all(np.isfinite(activity)) and activity.max() > 0):
        return None  # the fit says what is wrong with them
    relative = np.maximum(ASSUMED_RELATIVE_SD, 0.0 if relative_sd is None else np.asarray(relative_sd))
    return np.hypot(relative * activity, SMALLEST_NOISE * activity.max())


def choose(
    name: str,
    times_h: Sequence[float],
    activity_mbq: Sequence[float],
    nuclide: str,
    options: DoseOptions,
    sd_mbq: NDArray[np.float64] | None = None,
    fits: dict[str, TacFit] | None = None,
    prior: HalfLifePrior | None = None,
) -> str:
    """The model asked for, or the one that the points speak for; ``fits`` receives those made on the way."""
    fits = {} if fits is None else fits
    count = len(times_h)
    if options.tac != "auto":
        return options.tac
    if count == 1:
        if prior is None:
            return "hanscheid"
        require_band(times_h[0], prior.half_life_h, find_nuclide(nuclide).half_life_h)
        return "population"
    if count == 2:
        if _cannot_carry(times_h):
            raise FitError(f"{_cannot_carry(times_h)}.", TWO_POINTS_HINT)
        try:
            fits["mono"] = _fit("mono", name, times_h, activity_mbq, nuclide, options, sd_mbq)
        except FitError as error:
            raise FitError(f"Two time points can't carry a curve. {error.message}", TWO_POINTS_HINT) from error
        return "mono"
    try:
        mono = fits["mono"] = _fit("mono", name, times_h, activity_mbq, nuclide, options, sd_mbq)
    except FitError:
        return "uptake"
    if count == 3:
        return "mono"
    uptake = fits["uptake"] = _fit("uptake", name, times_h, activity_mbq, nuclide, options, sd_mbq)
    noise = max(1.0, uptake.chi_squared / max(uptake.degrees_of_freedom, 1))
    return "uptake" if mono.chi_squared - uptake.chi_squared > UPTAKE_EVIDENCE * noise else "mono"


def _cannot_carry(times_h: Sequence[float]) -> str:
    """Why two points can't carry a curve, or an empty text."""
    if times_h[0] < FIRST_OF_TWO_H:
        return (
            f"Two time points can't carry a curve when the first is at {times_h[0]:g} h: before {FIRST_OF_TWO_H:g} h "
            "uptake and clearance can't be told apart"
        )
    return ""


def _far_points(
    chosen: TacFit, name: str, nuclide: str, options: DoseOptions, prior: HalfLifePrior | None
) -> tuple[tuple[float | None, ...], FarPoint | None]:
    """A point far off its curve, and the TIA without each point in turn."""
    deviation = chosen.studentized_residuals
    if not chosen.degrees_of_freedom or not np.nanmax(np.abs(deviation), initial=0.0) > FAR_POINT:
        return (), None
    without: list[float | None] = []
    for i in range(len(chosen.times_h)):
        kept = np.arange(len(chosen.times_h)) != i
        try:
            times_h, activity_mbq = chosen.times_h[kept].tolist(), chosen.activity_mbq[kept].tolist()
            fit = _fit(chosen.model, name, times_h, activity_mbq, nuclide, options, chosen.sd_mbq[kept], prior)
            without.append(fit.tia_mbq_h)
        except FitError:
            without.append(None)
    off = chosen.residuals_mbq / np.maximum(chosen.activity_mbq - chosen.residuals_mbq, 1e-9)
    single = chosen.degrees_of_freedom < 2  # then every point is equally far off in terms of its own noise
    far = int(np.nanargmax(np.abs(off) if single else np.abs(deviation)))
    text = f"The point at {chosen.times_h[far]:g} h lies {_percent(off[far])} off its curve"
    change = None if (tia := without[far]) is None else tia / chosen.tia_mbq_h - 1
    if change is not None:
        text += f"; without it the time-integrated activity changes by {_percent(change)}"
    text += ". Look at that time point's mask, registration and calibration."
    if single:
        changes = [tia / chosen.tia_mbq_h - 1 for tia in without if tia is not None]
        text += " With one degree of freedom any other point may be the wrong one"
        if changes:
            text += f"; leaving out one of them changes it by {_percent(min(changes))} to {_percent(max(changes))}"
        text += "."
    return tuple(without), FarPoint(far, float(off[far]), change, text)


def _percent(change: float) -> str:
    return f"{change:+.0%}" if change <= 1 else "more than +100%"
