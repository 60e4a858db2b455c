"""Biologically effective dose (BED) and EQD2 of a protracted exposure: knows dose, time and repair, no images.

Linear-quadratic model with one repair half-life: ``BED = D (1 + G D / (α/β))``. The Lea-Catcheside factor G is
the share of sublethal damage pairs that repair leaves standing, for a dose rate proportional to the fitted
time-activity curve (self-dose: what other organs add follows their curves, and is small for 177Lu).
Sources: Dale, Br. J. Radiol. 58:515 (1985); Millar, Br. J. Radiol. 64:599 (1991) for the double integral;
Wessels et al., MIRD Pamphlet 20, J. Nucl. Med. 49:1884 (2008) for kidneys.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from doselabel.dosimetry.curves.models import Curve
from doselabel.errors import DoseError


@dataclass(frozen=True)
class Radiobiology:
    """Linear-quadratic parameters of one tissue; replace either number per organ as the evidence demands.

    Parameters
    ----------
    alpha_beta_gy : float
        α/β, Gy.
    repair_half_life_h : float
        Half-life of sublethal-damage repair, h.
    """

    alpha_beta_gy: float
    repair_half_life_h: float

    def __post_init__(self) -> None:
        for name, value in (("alpha_beta_gy", self.alpha_beta_gy), ("repair_half_life_h", self.repair_half_life_h)):
            if not (math.isfinite(value) and value > 0):
                raise DoseError(f"{name} is {value}, expected a number above 0.", "Kidney: 2.6 Gy and 2.8 h.")


KIDNEY = Radiobiology(alpha_beta_gy=2.6, repair_half_life_h=2.8)
"""MIRD Pamphlet 20: the values for late radiation nephropathy. The only default: no other organ has one here."""


def lea_catcheside_g(curve: Curve, repair_half_life_h: float) -> float:
    """Lea-Catcheside dose-protraction factor of a time-activity curve, closed form, between 0 and 1.

    Parameters
    ----------
    curve : Curve
        Its absolute scale is irrelevant.
    repair_half_life_h : float

    Notes
    -----
    ``G = 2/Ã² ∫ A(t) h(t) dt`` with ``h(t) = ∫₀ᵗ A(s) e^(-μ(t-s)) ds`` the damage not yet repaired. For a sum of
    exponentials ``G = 2/Ã² ΣΣ a_i a_j / ((λ_i+λ_j)(λ_j+μ))``; straight segments before it carry h along.
    """
    if not (math.isfinite(repair_half_life_h) and repair_half_life_h > 0):
        raise DoseError(f"repair_half_life_h is {repair_half_life_h}, expected a number above 0.")
    mu = math.log(2.0) / repair_half_life_h
    pairs, unrepaired = 0.0, 0.0
    for (t0, a0), (t1, a1) in pairwise(zip(curve.knots_h, curve.knots_mbq, strict=True)):
        length, slope = t1 - t0, (a1 - a0) / (t1 - t0)
        # h on the segment is p + q s + c e^(-μ s), s the time since its start.
        q = slope / mu
        p = a0 / mu - slope / mu**2
        c = unrepaired - p
        decay = math.exp(-mu * length)
        pairs += a0 * p * length + (a0 * q + slope * p) * length**2 / 2 + slope * q * length**3 / 3
        pairs += c * (a0 * (1 - decay) / mu + slope * (1 - decay * (1 + mu * length)) / mu**2)
        unrepaired = p + q * length + c * decay
    a, rate = np.asarray(curve.amplitudes_mbq), np.asarray(curve.rates_per_h)
    pairs += unrepaired * float(np.sum(a / (rate + mu)))
    pairs += float(np.sum(np.outer(a, a) / (np.add.outer(rate, rate) * (rate + mu))))
    return 2.0 * pairs / curve.integral_mbq_h() ** 2


def bed_gy(dose_gy: ArrayLike, g: float, alpha_beta_gy: float) -> NDArray[np.float64]:
    """Biologically effective dose (Gy) of absorbed doses (Gy, any shape) at protraction factor G."""
    dose = _checked(dose_gy, alpha_beta_gy)
    return dose * (1.0 + g * dose / alpha_beta_gy)


def bed_relative_sd(
    dose_gy: float, g: float, alpha_beta_gy: float, dose_relative_sd: float, half_life_relative_sd: float = 0.0
) -> float:
    """Relative standard uncertainty of a BED, and of the EQD2 made of it, at given α/β and repair.

    With x = G D/(α/β), the second term over the first, ``d ln BED = (1 + 2x)/(1 + x) d ln D + x/(1 + x) d ln G``; G of
    a long exposure is inverse to the effective half-life. What radiobiology does not know is not in it.
    """
    x = float(g * _checked(dose_gy, alpha_beta_gy) / alpha_beta_gy)
    return math.hypot((1 + 2 * x) * dose_relative_sd, x * half_life_relative_sd) / (1 + x)


def eqd2_gy(bed: ArrayLike, alpha_beta_gy: float) -> NDArray[np.float64]:
    """Dose in 2 Gy fractions (Gy) with the same BED (Gy, any shape): ``BED / (1 + 2/(α/β))``."""
    return _checked(bed, alpha_beta_gy) / (1.0 + 2.0 / alpha_beta_gy)


def _checked(dose_gy: ArrayLike, alpha_beta_gy: float) -> NDArray[np.float64]:
    if not (math.isfinite(alpha_beta_gy) and alpha_beta_gy > 0):
        raise DoseError(f"alpha_beta_gy is {alpha_beta_gy}, expected a number above 0.")
    dose = np.asarray(dose_gy, dtype=float)
    if not np.all(np.isfinite(dose)) or np.any(dose < 0):
        raise DoseError("Doses must be finite and not negative to have a BED.", "Check the dose map.")
    return dose
