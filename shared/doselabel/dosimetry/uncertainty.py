"""Uncertainty of an organ's absorbed dose by the law of propagation: knows relative errors, no images.

After Gear et al., EANM practical guidance on uncertainty analysis for molecular radiotherapy absorbed dose
calculations, Eur. J. Nucl. Med. Mol. Imaging 45:2456 (2018). Dose is ``D = Q · C(v)/R(v) · F · S(v)``: calibration Q,
counts C in a volume of interest drawn around v, recovery R, curve area per activity F, dose per area S.
C, R and S all follow the same volume v, so their errors are correlated; writing every one as a slope d ln/d ln v keeps
the correlations exactly to first order: the volume enters once, with the net slope. Slopes are those of a uniform
sphere of the organ's volume seen with a Gaussian point-spread function, in closed form.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.integrate import quad
from scipy.special import erf

from doselabel.dosimetry.tac import TacFit
from doselabel.errors import DoseError

CONTOUR_RELATIVE_SD = 0.096
"""Volume error of a network's kidney contour: root mean square difference of the 15 kidney masses by network and
expert in Table 3 of Nazari et al., EJNMMI Res. 11:53 (2021). An upper bound: the expert's own error is in it."""
CALIBRATION_RELATIVE_SD = 0.05
"""Assumed where a site has no figure of its own: activity meter and camera calibration factor together."""
S_RELATIVE_SD = 0.02
"""Assumed: decay data, density and kernel at given mass; what is left between independent sources of S values."""
FWHM_RELATIVE_SD = 0.10
"""Assumed error of the point-spread function's width inside a patient."""
CT_FWHM_MM = 1.0
"""Assumed sharpness of a diagnostic CT."""
COVERAGE_K = 2.0

FWHM_PER_SIGMA = 2.0 * math.sqrt(2.0 * math.log(2.0))


@dataclass(frozen=True)
class Component:
    """One independent source of error.

    ``relative_sd`` is what it alone makes of the dose (k = 1), ``variance_share`` its part of the total variance.
    """

    name: str
    relative_sd: float
    variance_share: float


@dataclass(frozen=True, eq=False)
class UncertaintyBudget:
    """Uncertainty of one organ's mean absorbed dose, and where it comes from.

    Attributes
    ----------
    dose_gy : float
    relative_sd : float
        Combined standard uncertainty (k = 1), relative.
    coverage_k : float
        Coverage factor of the expanded uncertainty.
    components : tuple of Component
        Independent sources; their squares add up to ``relative_sd`` squared, their shares to 1.
    quantities : Mapping[str, float]
        Relative standard uncertainty of each quantity of the chain, as in the tables of the EANM guidance:
        volume, recovery, counts, activity, tia, s_value. They share the volume and must not be added up.
    """

    dose_gy: float
    relative_sd: float
    coverage_k: float
    components: tuple[Component, ...]
    quantities: Mapping[str, float]

    @property
    def dose_sd_gy(self) -> float:
        """Standard uncertainty of the dose (k = 1), Gy."""
        return self.relative_sd * self.dose_gy

    @property
    def expanded_gy(self) -> float:
        """Expanded uncertainty ``coverage_k · dose_sd_gy``, Gy."""
        return self.coverage_k * self.dose_sd_gy


def volume_relative_sd(
    volume_ml: float, *, spacing_mm: Sequence[float], fwhm_mm: float, contour_relative_sd: float = 0.0
) -> float:
    """Relative standard uncertainty of a volume outlined on an image.

    ``u(d)² = a²/6 + FWHM²/(4 ln 2)`` for the diameter of the sphere of that volume (two edges, each uncertain by
    the voxel a, rectangular, and by the blur), ``u(v)/v = 3 u(d)/d`` (Gear 2018, section on volume), and the
    observer's or network's own error in quadrature.

    Parameters
    ----------
    volume_ml : float
    spacing_mm : sequence of 3 float
        Voxel size (z, y, x) of the image outlined; its mean square counts.
    fwhm_mm : float
        Resolution of the image outlined (the CT's for CT contours).
    contour_relative_sd : float
        Systematic error of the contour, relative to the volume.
    """
    _positive(volume_ml=volume_ml)
    _not_negative(fwhm_mm=fwhm_mm, contour_relative_sd=contour_relative_sd)
    diameter = 2.0 * _radius_mm(volume_ml)
    voxel = float(np.mean(np.square(spacing_mm)))
    edges = math.sqrt(voxel / 6.0 + fwhm_mm**2 / (4.0 * math.log(2.0)))
    return math.hypot(3.0 * edges / diameter, contour_relative_sd)


def sphere_recovery(volume_ml: float, fwhm_mm: float) -> float:
    """Share of a uniform sphere's activity that a Gaussian blur leaves inside the sphere, 0 to 1.

    The sphere's self-overlap ``1 - 3s/4r + s³/16r³`` averaged over the blur, in closed form.
    """
    _positive(volume_ml=volume_ml, fwhm_mm=fwhm_mm)
    radius, sigma = _radius_mm(volume_ml), fwhm_mm / FWHM_PER_SIGMA
    z2 = 2.0 * (radius / sigma) ** 2
    z, gone = math.sqrt(z2), math.exp(-z2)
    whole = erf(z) - 2.0 * z * gone / math.sqrt(math.pi)
    linear = 4.0 * sigma / math.sqrt(2.0 * math.pi) * (1.0 - (1.0 + z2) * gone)
    cubic = 16.0 * sigma**3 / math.sqrt(2.0 * math.pi) * (1.0 - (1.0 + z2 + z2**2 / 2.0) * gone)
    return float(whole - 0.75 * linear / radius + cubic / (16.0 * radius**3))


def recovery_volume_slope(volume_ml: float, fwhm_mm: float) -> float:
    """d ln R / d ln v of `sphere_recovery`; ``-3`` times it is d ln R / d ln FWHM, R being one of r / FWHM."""
    step = 1e-4
    up, down = (sphere_recovery(volume_ml * math.exp(s), fwhm_mm) for s in (step, -step))
    return math.log(up / down) / (2.0 * step)


def counts_volume_slope(volume_ml: float, fwhm_mm: float, margin_mm: float = 0.0) -> float:
    """d ln C / d ln v: how the counts in a volume of interest follow the outlined volume.

    The object is a sphere of ``volume_ml``; the volume of interest is the contour plus a margin. Without margin it is
    ``φ/(2R)``, with ``φ = erf(√2 r/σ) - 2σ/(r√2π) (1 - exp(-2r²/σ²))`` twice the blurred sphere's value at its
    edge (Gear 2018, section on counts). A sharp image and a margin both make it 0 beyond the edge.
    """
    _positive(volume_ml=volume_ml, fwhm_mm=fwhm_mm)
    _not_negative(margin_mm=margin_mm)
    radius, sigma = _radius_mm(volume_ml), fwhm_mm / FWHM_PER_SIGMA
    edge = radius + margin_mm

    def shell(s: float) -> float:
        return s**2 * _blurred_sphere(s, radius, sigma)

    inside = sphere_recovery(volume_ml, fwhm_mm) * radius**3 / 3.0
    if margin_mm > 0:
        inside += quad(shell, radius, edge)[0]
    return float(shell(edge) / inside * radius / 3.0)


def _blurred_sphere(s: float, radius: float, sigma: float) -> float:
    """Value at distance s > 0 from the centre of a unit sphere blurred by a Gaussian."""
    root = sigma * math.sqrt(2.0)
    near, far = (radius - s) / root, (radius + s) / root
    skin = sigma / (s * math.sqrt(2.0 * math.pi)) * (math.exp(-(near**2)) - math.exp(-(far**2)))
    return float(0.5 * (erf(near) + erf(far)) - skin)


def combine(
    dose_gy: float,
    *,
    volume: float,
    counts_volume_slope: float,
    recovery_volume_slope: float,
    s_volume_slope: float = -1.0,
    recovery: float = 0.0,
    calibration: float = CALIBRATION_RELATIVE_SD,
    counts: float = 0.0,
    fit: float = 0.0,
    model: float = 0.0,
    s_value: float = S_RELATIVE_SD,
    coverage_k: float = COVERAGE_K,
) -> UncertaintyBudget:
    """Combine independent relative standard uncertainties (k = 1) into that of the dose.

    Parameters
    ----------
    dose_gy : float
    volume : float
        u(v)/v, which reaches the dose through all three slopes at once.
    counts_volume_slope, recovery_volume_slope, s_volume_slope : float
        d ln C, d ln R (0 if no recovery is applied) and d ln S by d ln v (-1: S ∝ 1/mass).
    recovery : float
        Of the recovery coefficient at given volume.
    calibration, s_value : float
        Of the calibration factor; of S at given mass.
    counts, fit, model : float
        Of the TIA: counting noise; the rest of the fit's covariance; spread over admissible models.
    coverage_k : float
    """
    _positive(dose_gy=dose_gy, coverage_k=coverage_k)
    independent = {
        "recovery": recovery,
        "calibration": calibration,
        "counts": counts,
        "fit": fit,
        "model": model,
        "s_value": s_value,
    }
    _not_negative(volume=volume, **independent)
    activity_slope = counts_volume_slope - recovery_volume_slope
    sources = {"volume": abs(activity_slope + s_volume_slope) * volume, **independent}
    variance = sum(u**2 for u in sources.values())
    activity = math.hypot(activity_slope * volume, recovery, calibration, counts)
    return UncertaintyBudget(
        dose_gy=dose_gy,
        relative_sd=math.sqrt(variance),
        coverage_k=coverage_k,
        components=tuple(Component(name, u, u**2 / variance if variance > 0 else 0.0) for name, u in sources.items()),
        quantities={
            "volume": volume,
            "recovery": math.hypot(recovery_volume_slope * volume, recovery),
            "counts": math.hypot(counts_volume_slope * volume, counts),
            "activity": activity,
            "tia": math.hypot(activity, fit, model),
            "s_value": math.hypot(s_volume_slope * volume, s_value),
        },
    )


def organ_budget(
    dose_gy: float,
    volume_ml: float,
    tac: TacFit,
    *,
    ct_spacing_mm: Sequence[float],
    spect_fwhm_mm: Sequence[float] | float,
    partial_volume_corrected: bool,
    margin_mm: float = 0.0,
    model_relative_sd: float = 0.0,
    counts_sd_mbq: Sequence[float] | None = None,
    contour_relative_sd: float = CONTOUR_RELATIVE_SD,
    ct_fwhm_mm: float = CT_FWHM_MM,
    fwhm_relative_sd: float = FWHM_RELATIVE_SD,
    calibration_relative_sd: float = CALIBRATION_RELATIVE_SD,
    s_relative_sd: float = S_RELATIVE_SD,
    coverage_k: float = COVERAGE_K,
) -> UncertaintyBudget:
    """Budget of one organ whose volume and mass come from a CT contour and whose activities come from SPECT.

    Parameters
    ----------
    dose_gy, volume_ml : float
        Mean absorbed dose, and volume of the un-expanded contour.
    tac : TacFit
        Its TIA uncertainty is split into counting noise, if ``counts_sd_mbq`` is given, and the rest.
    ct_spacing_mm : sequence of 3 float
    spect_fwhm_mm : float or sequence of 3 float
        Point-spread function of the SPECT.
    partial_volume_corrected : bool
        Whether activities were corrected for recovery (``gtm``); the error of the recovery then counts.
    margin_mm : float
        By which the contour was expanded to read the activity (0 with a recovery correction).
    model_relative_sd : float
        `doselabel.dosimetry.tac.ModelSpread.relative_sd`.
    counts_sd_mbq : sequence of float, shape (n,), optional
        Counting noise of each activity.
    contour_relative_sd, ct_fwhm_mm, fwhm_relative_sd, calibration_relative_sd, s_relative_sd : float
        See the constants of this module for the defaults' sources.
    coverage_k : float
    """
    fwhm = float(np.prod(np.broadcast_to(np.asarray(spect_fwhm_mm, dtype=float), 3)) ** (1.0 / 3.0))
    recovery_slope = recovery_volume_slope(volume_ml, fwhm) if partial_volume_corrected else 0.0
    total = tac.tia_sd_mbq_h / tac.tia_mbq_h
    counts = 0.0 if counts_sd_mbq is None else tac.tia_sd_from(counts_sd_mbq) / tac.tia_mbq_h
    return combine(
        dose_gy,
        volume=volume_relative_sd(
            volume_ml, spacing_mm=ct_spacing_mm, fwhm_mm=ct_fwhm_mm, contour_relative_sd=contour_relative_sd
        ),
        counts_volume_slope=counts_volume_slope(volume_ml, fwhm, margin_mm),
        recovery_volume_slope=recovery_slope,
        recovery=3.0 * recovery_slope * fwhm_relative_sd,
        calibration=calibration_relative_sd,
        counts=counts,
        fit=math.sqrt(max(total**2 - counts**2, 0.0)),
        model=model_relative_sd,
        s_value=s_relative_sd,
        coverage_k=coverage_k,
    )


def _radius_mm(volume_ml: float) -> float:
    return (3.0e3 * volume_ml / (4.0 * math.pi)) ** (1.0 / 3.0)


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not (math.isfinite(value) and value > 0):
            raise DoseError(f"{name} is {value}, expected a number above 0.")


def _not_negative(**values: float) -> None:
    for name, value in values.items():
        if not (math.isfinite(value) and value >= 0):
            raise DoseError(f"{name} is {value}, expected a number of 0 or above.")
