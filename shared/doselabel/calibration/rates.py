"""Dead time from a pair of measurements, and recovery from hot spheres. Knows numbers and small volumes of an image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from scipy import optimize

from doselabel.camera import DeadTime, Recovery
from doselabel.dosimetry.alignment.grids import Subdivision
from doselabel.errors import CalibrationError
from doselabel.geometry import Volume

Model = Literal["paralyzable", "nonparalyzable"]


def dead_time(
    rates_cps: Sequence[float],
    activities_mbq: Sequence[float],
    *,
    durations_s: Sequence[float] = (60.0, 60.0),
    activity_ratio_relative_sd: float = 0.005,
    model: Model = "paralyzable",
) -> DeadTime:
    """Dead time from one source measured at a high and a low activity (or two sources of known ratio).

    Parameters
    ----------
    rates_cps : (high, low)
        Observed count rates of one detector, background taken off.
    activities_mbq : (high, low)
        Their ratio alone matters: by decay it is known better than either.
    durations_s : (high, low)
        For the counting noise.
    activity_ratio_relative_sd : float
    model : {"paralyzable", "nonparalyzable"}

    Raises
    ------
    CalibrationError
        When the pair shows no loss of counts beyond what is impossible.
    """
    values = [*rates_cps, *activities_mbq, *durations_s]
    if len(values) != 6 or not all(math.isfinite(v) and v > 0 for v in values):
        raise CalibrationError(f"A pair needs two rates, activities and durations above 0; found {values}.")
    high, low = float(rates_cps[0]), float(rates_cps[1])
    ratio = float(activities_mbq[0]) / float(activities_mbq[1])
    if not ratio > 1.2:
        raise CalibrationError(
            f"The activities' ratio is {ratio:.2f}; expected the higher first, and 1.2 at least.",
            "Measure again when the source has decayed.",
        )
    noise = [math.sqrt(high / durations_s[0]), math.sqrt(low / durations_s[1])]

    def solve(a: float, b: float, r: float) -> float:
        if model == "nonparalyzable":
            # a / (1 - aτ) = r b / (1 - bτ)
            return (r * b - a) / (a * b * (r - 1.0))
        # a = r n e^(-r n τ), b = n e^(-nτ): ln(r b / a) = (r - 1) n τ, and n = b e^(nτ).
        load = math.log(r * b / a) / (r - 1.0)
        return load / (b * math.exp(load))

    tau = solve(high, low, ratio)
    steps = ((noise[0], 0.0, 0.0), (0.0, noise[1], 0.0), (0.0, 0.0, activity_ratio_relative_sd * ratio))
    sd = math.sqrt(sum((solve(high + a, low + b, ratio + r) - tau) ** 2 for a, b, r in steps))
    if tau < -2 * sd:
        raise CalibrationError(
            f"The higher activity shows more counts than in proportion ({high / low:.3f} for {ratio:.3f} times the "
            "activity): no dead time does that.",
            "Check background, decay and the order of the pair.",
        )
    how = f"pair of {high:.5g} and {low:.5g} cps, activities {ratio:.4g} : 1"
    return DeadTime(tau_us=max(tau, 0.0) * 1e6, sd_us=sd * 1e6, model=model, how=how)


def sphere_recovery(
    image: Volume, centre_lps_mm: Sequence[float], volume_ml: float, true_bq_ml: float, background_bq_ml: float = 0.0
) -> float:
    """Part of a sphere's contrast that its own volume shows in an image of Bq/mL.

    Parameters
    ----------
    centre_lps_mm : (x, y, z)
    true_bq_ml, background_bq_ml : float
        Filled into the sphere, and around it.
    """
    if not true_bq_ml > background_bq_ml:
        raise CalibrationError(
            f"The sphere holds {true_bq_ml:g} Bq/mL and its surroundings {background_bq_ml:g}; expected a hot sphere."
        )
    radius = (3e3 * volume_ml / (4 * math.pi)) ** (1 / 3)
    sub = Subdivision.of(image.geometry, min(1.5, radius / 4))
    fine = sub.fine
    centre = fine.lps_to_index(np.asarray(centre_lps_mm, dtype=float))
    grids = [(np.arange(n) - c) * h for n, c, h in zip(fine.shape, centre, fine.spacing_mm, strict=True)]
    near = [np.flatnonzero(np.abs(g) <= radius + 1.0) for g in grids]
    if any(len(n) == 0 or n[0] == 0 or n[-1] == m - 1 for n, m in zip(near, fine.shape, strict=True)):
        raise CalibrationError(f"The sphere at {list(centre_lps_mm)} mm reaches beyond the image.", "Check its centre.")
    z, y, x = (g[n] for g, n in zip(grids, near, strict=True))
    inside = z[:, None, None] ** 2 + y[None, :, None] ** 2 + x**2 <= radius**2
    coarse = [n // k for n, k in zip(near, sub.factor, strict=True)]
    values = image.array[np.ix_(*coarse)]
    return (float(values[inside].mean()) - background_bq_ml) / (true_bq_ml - background_bq_ml)


def recovery_curve(
    volume_ml: Sequence[float], coefficient: Sequence[float], *, relative_sd: float = 0.03, how: str = ""
) -> Recovery:
    """Fit ``1 / (1 + (half / V)^exponent)`` to recovery coefficients of spheres.

    Parameters
    ----------
    volume_ml, coefficient : sequence, three at least
    relative_sd : float
        Of each coefficient (filling, noise, place); widened where the points scatter more.
    """
    volumes, values = np.asarray(volume_ml, dtype=float), np.asarray(coefficient, dtype=float)
    if volumes.shape != values.shape or len(volumes) < 3 or not (np.all(volumes > 0) and np.all(values > 0)):
        raise CalibrationError(
            f"A recovery curve needs three spheres at least, with volumes and coefficients above 0; found volumes "
            f"{volumes.tolist()} mL, coefficients {values.tolist()}.",
            "Use a phantom with more spheres.",
        )

    def residuals(p: np.ndarray) -> np.ndarray:
        return np.asarray((1 / (1 + (math.exp(p[0]) / volumes) ** math.exp(p[1])) - values) / (relative_sd * values))

    found = optimize.least_squares(residuals, [math.log(1.0), math.log(0.8)])
    widen = max(1.0, float(found.fun @ found.fun) / (len(volumes) - 2))
    cov = np.linalg.pinv(found.jac.T @ found.jac) * widen
    return Recovery(
        half_ml=math.exp(found.x[0]),
        exponent=math.exp(found.x[1]),
        covariance=((float(cov[0, 0]), float(cov[0, 1])), (float(cov[1, 0]), float(cov[1, 1]))),
        volume_ml=tuple(volumes.tolist()),
        coefficient=tuple(values.tolist()),
        how=how,
    )
