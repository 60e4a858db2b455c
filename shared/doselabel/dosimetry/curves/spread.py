"""How far the admissible models disagree for the same points: an uncertainty that the one chosen cannot show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from doselabel.dosimetry.curves.fit import Model, TacFit, fit, loose
from doselabel.dosimetry.curves.models import PARAMETER_NAMES
from doselabel.dosimetry.curves.points import UptakeLimb
from doselabel.errors import FitError
from doselabel.nuclides import Nuclide


@dataclass(frozen=True, eq=False)
class ModelSpread:
    """How far the models that are admissible for the same points disagree.

    Attributes
    ----------
    chosen : TacFit
        The fit of the model asked for.
    fits : Mapping[str, TacFit]
        Every model that could be fitted.
    admissible : tuple of str
        Models whose TIA enters the spread; the chosen one is always among them.
    rejected : Mapping[str, str]
        Why each of the others does not.
    relative_sd : float
        Half the range of the admissible TIAs over √3 (rectangular, GUM 4.3.7), relative to the chosen TIA.
    """

    chosen: TacFit
    fits: Mapping[str, TacFit]
    admissible: tuple[str, ...]
    rejected: Mapping[str, str]
    relative_sd: float


def fit_all(
    times_h: ArrayLike,
    activity_mbq: ArrayLike,
    *,
    nuclide: str | Nuclide,
    model: Model = "uptake",
    models: Sequence[Model] = ("uptake", "mono", "bi"),
    uptake_limb: UptakeLimb = "exclude",
    known: Mapping[str, TacFit] | None = None,
    **options: object,
) -> ModelSpread:
    """Fit several models to the same points; their spread is an uncertainty the one chosen cannot show.

    AICc is undefined for four points and three parameters, so models are not ranked: a model counts when it is
    admissible (`inadmissible_because`). Trapezoid and single-point estimates are biased by construction
    and stay out unless named in ``models``.

    Parameters
    ----------
    model : str
        The chosen one; it always counts, and its failure to fit is raised.
    models : sequence of str
        The candidates. The other parameters are those of `fit`.
    known : dict of str to TacFit, optional
        Fits of some of the models to these points with these options, which need not be made again.
    """
    common = {"nuclide": nuclide, "uptake_limb": uptake_limb, **options}
    fits: dict[str, TacFit] = {name: fitted for name, fitted in (known or {}).items() if name in (model, *models)}
    if model not in fits:
        fits[model] = fit(times_h, activity_mbq, model=model, **common)  # type: ignore[arg-type]
    chosen = fits[model]
    rejected: dict[str, str] = {}
    name: str
    for name in dict.fromkeys(models):
        if name in fits:
            continue
        if reason := _leaves_nothing(name, np.size(times_h)):
            rejected[name] = reason
            continue
        try:
            fits[name] = fit(times_h, activity_mbq, model=name, **common)  # type: ignore[arg-type]
        except FitError as error:
            rejected[name] = str(error)
    for name, candidate in fits.items():
        reason = inadmissible_because(candidate)
        if reason and name != model:
            rejected[name] = reason
    admissible = tuple(name for name in fits if name not in rejected)
    areas = [fits[name].tia_mbq_h for name in admissible]
    half_range = (max(areas) - min(areas)) / 2.0
    return ModelSpread(
        chosen=chosen,
        fits=fits,
        admissible=admissible,
        rejected=rejected,
        relative_sd=half_range / math.sqrt(3.0) / chosen.tia_mbq_h,
    )


def inadmissible_because(tac: TacFit) -> str:
    """Why a fit must not stand beside others, or ``""`` if nothing speaks against it.

    Parameters beyond n - 1, any coefficient of variation of 50 % or more, or residuals that noise makes with
    a probability below 1 % (χ² above its mean by more than 2.6 standard deviations).
    """
    if reason := _leaves_nothing(tac.model, int(tac.used.sum())):
        return reason
    uncertain = loose(tac.cv)
    if uncertain:
        return "coefficient of variation of " + ", ".join(uncertain)
    dof = tac.degrees_of_freedom
    if dof and tac.chi_squared > dof + 2.6 * math.sqrt(2.0 * dof):
        return f"residuals too large for the noise: chi-squared {tac.chi_squared:.1f} with {dof} degrees of freedom"
    return ""


def _leaves_nothing(model: str, points: int) -> str:
    """Why so few points can't speak for a model, known before it is fitted; or ``""``."""
    parameters = len(PARAMETER_NAMES.get(model, ()))
    if parameters < points:
        return ""
    return f"{parameters} parameters for {points} points leave nothing to test the model with"
