"""How well the network agrees with what counts, over a cohort: Bland and Altman's differences. Knows numbers alone.

Bland JM, Altman DG. Statistical methods for assessing agreement between two methods of clinical measurement.
Lancet 1986; 327: 307-310.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from doselabel.cohort.patient import Outcome

WIDTH = 1.96


@dataclass(frozen=True)
class Pair:
    """One quantity of one organ by both: ``volume`` in mL, ``dose`` in Gy."""

    study: str
    ct: str
    organ: str
    quantity: str
    ai: float
    final: float


@dataclass(frozen=True)
class Agreement:
    """Bias and limits of agreement, in the quantity's unit, with 95 % confidence intervals.

    Attributes
    ----------
    n : int
    bias, sd : float
        Mean and standard deviation of ``ai - final``.
    lower, upper : float
        ``bias`` ± 1.96 ``sd``.
    bias_ci, lower_ci, upper_ci : (float, float)
        By Student's t with n - 1 degrees of freedom; of a limit with the standard error sqrt(3/n) ``sd``.
    bias_percent, sd_percent : float
        Mean and standard deviation of each difference in percent of the pair's mean.
    """

    n: int
    bias: float
    sd: float
    lower: float
    upper: float
    bias_ci: tuple[float, float]
    lower_ci: tuple[float, float]
    upper_ci: tuple[float, float]
    bias_percent: float
    sd_percent: float


def agreement(ai: Sequence[float], final: Sequence[float]) -> Agreement | None:
    """Compare two ways to measure the same; None for fewer than three pairs."""
    a, b = np.asarray(ai, dtype=float), np.asarray(final, dtype=float)
    n = len(a)
    if n < 3:
        return None
    away = a - b
    bias, sd = float(away.mean()), float(away.std(ddof=1))
    mean = (a + b) / 2
    relative = 100 * np.divide(away, mean, out=np.zeros(n), where=mean != 0)
    t = float(stats.t.ppf(0.975, n - 1))
    lower, upper = bias - WIDTH * sd, bias + WIDTH * sd

    def around(value: float, error: float) -> tuple[float, float]:
        return value - t * error, value + t * error

    at_limit = sd * (3 / n) ** 0.5
    return Agreement(
        n=n,
        bias=bias,
        sd=sd,
        lower=lower,
        upper=upper,
        bias_ci=around(bias, sd / n**0.5),
        lower_ci=around(lower, at_limit),
        upper_ci=around(upper, at_limit),
        bias_percent=float(relative.mean()),
        sd_percent=float(relative.std(ddof=1)),
    )


def pairs_of(outcomes: Sequence[Outcome]) -> list[Pair]:
    """What `evaluate` found, of all patients."""
    pairs = []
    for outcome in outcomes:
        told = outcome.results.get("evaluate") or {"scores": [], "doses": {}}
        pairs += [
            Pair(outcome.name, score["ct"], score["organ"], "volume", score["volume_ml"], score["true_volume_ml"])
            for score in told["scores"]
        ]
        pairs += [
            Pair(outcome.name, "", organ, "dose", both["ai"], both["final"]) for organ, both in told["doses"].items()
        ]
    return pairs
