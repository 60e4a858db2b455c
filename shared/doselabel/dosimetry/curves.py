"""Which time-activity model an organ gets, and what the results say of its fit. Knows activities, no images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from doselabel.dosimetry import tac
from doselabel.dosimetry.options import DoseOptions
from doselabel.errors import FitError
from doselabel.wire import TimeActivity

CURVE_POINTS = 160


def fit_organ(
    name: str, times_h: Sequence[float], activity_mbq: Sequence[float], nuclide: str, options: DoseOptions
) -> tuple[tac.TacFit, tac.ModelSpread | None]:
    """Fit one organ's curve as the options say, with the spread over admissible models from three points on.

    Raises
    ------
    FitError
        Naming the organ.
    """
    try:
        model = options.tac if options.tac != "auto" else _automatic(times_h, activity_mbq, nuclide)
        chosen = _fit(model, times_h, activity_mbq, nuclide, options)
        if model not in ("uptake", "mono", "bi") or len(times_h) < 3:
            return chosen, None
        limb = "exclude" if options.uptake_limb == "refuse" else options.uptake_limb
        spread = tac.fit_all(
            times_h,
            activity_mbq,
            nuclide=nuclide,
            model=model,  # type: ignore[arg-type]
            uptake_limb=limb,
        )
    except FitError as error:
        raise FitError(f"{name}: {error.message}", error.hint) from error
    return chosen, spread


def fit_rest(
    times_h: Sequence[float], activity_mbq: Sequence[float], nuclide: str, options: DoseOptions
) -> tuple[float, str]:
    """Time-integrated activity (MBq·h) of the rest of the body, and the model used.

    The model is the organs'; where it can't be fitted (activity that only falls, or is all excreted), straight lines
    with an effective tail. The rest gives the organs some per cent of their dose, by photons.
    """
    if max(activity_mbq) <= 0:
        return 0.0, "none"
    for model in (options.tac if options.tac != "auto" else _automatic(times_h, activity_mbq, nuclide), "trapezoid"):
        try:
            return _fit(model, times_h, activity_mbq, nuclide, options).tia_mbq_h, model
        except FitError:
            continue
    return tac.fit(times_h, activity_mbq, nuclide=nuclide, model="hanscheid").tia_mbq_h, "hanscheid"


def described(fitted: tac.TacFit, spread: tac.ModelSpread | None) -> TimeActivity:
    """What `results.json` holds of a fit."""
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
    )


def warnings_of(fitted: tac.TacFit, spread: tac.ModelSpread | None) -> list[str]:
    """A fit's warnings as sentences."""
    found = [f"Time-activity fit: {text.partition(': ')[2] or text}." for text in fitted.warnings]
    if spread is not None and len(spread.admissible) > 1 and spread.relative_sd > 0.05:
        areas = ", ".join(f"{name} {spread.fits[name].tia_mbq_h:.4g} MBq·h" for name in spread.admissible)
        found.append(f"Admissible time-activity models differ: {areas}.")
    return found


def _fit(
    model: str, times_h: Sequence[float], activity_mbq: Sequence[float], nuclide: str, options: DoseOptions
) -> tac.TacFit:
    return tac.fit(
        times_h,
        activity_mbq,
        nuclide=nuclide,
        model=model,  # type: ignore[arg-type]
        uptake_limb=options.uptake_limb,
        tail=options.tail,
        population_half_life_h=options.population_half_life_h,
        population_half_life_sd_h=options.population_half_life_sd_h,
    )


def _automatic(times_h: Sequence[float], activity_mbq: Sequence[float], nuclide: str) -> str:
    count = len(times_h)
    if count >= 4:
        return "uptake"
    if count == 1:
        return "hanscheid"
    try:
        tac.fit(times_h, activity_mbq, nuclide=nuclide, model="mono")
    except FitError:
        return "uptake" if count == 3 else "trapezoid"
    return "mono"
