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
from scipy.optimize import brentq
from scipy.special import ndtr

from doselabel.dosimetry.curves.fit import TacFit
from doselabel.dosimetry.physics.spheres import (
    CT_FWHM_MM,
    counts_volume_slope,
    recovery_volume_slope,
    require_not_negative,
    require_positive,
    transfer_volume_slope,
    volume_relative_sd,
)
from doselabel.dosimetry.uptake.errors import ActivityErrors

CONTOUR_RELATIVE_SD = 0.096
"""Volume error of a network's kidney contour: root mean square difference of the 15 kidney masses by network and
expert in Table 3 of Nazari et al., EJNMMI Res. 11:53 (2021). An upper bound: the expert's own error is in it."""
CALIBRATION_RELATIVE_SD = 0.05
"""Assumed where a site has no figure of its own: activity meter and camera calibration factor together."""
S_RELATIVE_SD = 0.02
"""Assumed: decay data, density and kernel at given mass; what is left between independent sources of S values."""
FWHM_RELATIVE_SD = 0.10
"""Assumed error of the point-spread function's width inside a patient."""
CONTOUR_SHARED = 0.6
"""Part of a contour's variance that an organ's contours on several CTs share (whoever draws too large does so each
time); the rest is each CT's own. Assumed."""
RECONSTRUCTION_RELATIVE_SD = 0.03
"""Assumed: what attenuation and scatter correction leave in an organ, beside the calibration (Dewaraja et al., MIRD
Pamphlet 26, J. Nucl. Med. 57:151 (2016): quantification within some per cent in large regions)."""
UNSEEN_SPILL = 0.02
"""What a camera's tails and breath carry out of an organ beyond any Gaussian, so that no correction by one finds it:
always a loss. Assumed: 2 % of organs of 180 to 580 mL, with 2 to 6 % of the counts in tails of 15 to 30 mm and breath
of 2 to 12 mm (`tests/shared/dosimetry/test_coverage.py`)."""
SPREAD_RELATIVE_SD = 0.5
"""Of the distance between D_x and the mean dose."""


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
    components : tuple of Component
        Independent sources; their squares add up to ``relative_sd`` squared, their shares to 1.
    quantities : Mapping[str, float]
        Relative standard uncertainty of each quantity of the chain, as in the tables of the EANM guidance:
        volume, recovery, counts, activity, tia, s_value. They share the volume and must not be added up.
    """

    dose_gy: float
    relative_sd: float
    components: tuple[Component, ...]
    quantities: Mapping[str, float]

    @property
    def dose_sd_gy(self) -> float:
        """Standard uncertainty of the dose (k = 1), Gy."""
        return self.relative_sd * self.dose_gy


@dataclass(frozen=True)
class TiaErrors:
    """What reaches a time-integrated activity beside its fit, relative to it; see `TiaErrors.of`.

    Attributes
    ----------
    counts, registration : float
        Independent from scan to scan; parts of the noise that the fit assumes.
    spill_out : float
        What a method that corrects nothing is off by, and what tails and breath take from every method
        (`UNSEEN_SPILL`): of known sign and not corrected (`with_known_bias`).
    spill_in : float
        From activity outside all masks.
    half_life : float
        Spread of the effective half-life between patients, for single-time-point models.
    own_masks, own_masks_rms : float
        Share of the TIA that scans with masks of their own carry, and the root of the sum of its squares.
    """

    counts: float = 0.0
    registration: float = 0.0
    spill_out: float = 0.0
    spill_in: float = 0.0
    half_life: float = 0.0
    own_masks: float = 0.0
    own_masks_rms: float = 0.0

    @classmethod
    def of(
        cls,
        tac: TacFit,
        errors: Sequence[ActivityErrors],
        place_sd_mm: Sequence[float],
        own_masks: Sequence[bool],
        place_doubt: Sequence[float] | None = None,
    ) -> TiaErrors:
        """Carry the errors of each scan into the TIA, by the fit's gradient.

        Parameters
        ----------
        tac : TacFit
        errors : sequence of ActivityErrors, one per time point
        place_sd_mm : sequence of float
            How well each SPECT's place is known, along an axis.
        own_masks : sequence of bool
            Whether a scan's mask was drawn for it, or is the one that the mass comes from.
        place_doubt : sequence of float, optional
            Relative standard uncertainty of each scan's activities because its place can't be believed
            (`placement.Placement.relative_sd`).
        """
        shares = tac.tia_gradient_h * tac.activity_mbq / tac.tia_mbq_h
        own = shares[np.asarray(own_masks, dtype=bool)]
        doubt = [0.0] * len(errors) if place_doubt is None else place_doubt
        place = [math.hypot(e.place(sd), d) for e, sd, d in zip(errors, place_sd_mm, doubt, strict=True)]
        return cls(
            counts=float(np.linalg.norm(shares * [e.counts for e in errors])),
            registration=float(np.linalg.norm(shares * place)),
            spill_out=abs(float(shares @ [e.bias / (1 + e.bias) for e in errors]) - UNSEEN_SPILL),
            spill_in=abs(float(shares @ [e.spill_in for e in errors])),
            half_life=tac.method_sd_mbq_h / tac.tia_mbq_h,
            own_masks=float(own.sum()),
            own_masks_rms=float(np.linalg.norm(own)),
        )


def percentile_sd_gy(d_gy: float, mean_gy: float, relative_sd: float) -> float:
    """Standard uncertainty of D_x, Gy: that of the mean dose, and of how far D_x lies from it.

    Noise spreads a histogram and blur narrows it, so the distance itself is known to `SPREAD_RELATIVE_SD`.
    """
    return math.hypot(relative_sd * d_gy, SPREAD_RELATIVE_SD * (d_gy - mean_gy))


def with_known_bias(bias: float, sd: float) -> float:
    """Half-width about a result that holds the truth as often (68.3 %) as one standard deviation usually does.

    The result is known to be ``bias`` off, with a standard deviation ``sd``.
    GUM F.2.4.5 and Phillips et al., J Res NIST 102:577 (1997): an uncorrected bias does not scatter about 0, and
    ``hypot(bias, sd)`` holds the truth the less often the larger the bias is (56 % for three times ``sd``). The
    half-width is ``sd`` without a bias and tends to ``bias + 0.48 sd``; twice of it holds more than 95 %.
    """
    if bias <= 0 or sd <= 0:
        return max(bias, sd, 0.0)
    wanted = float(ndtr(1.0) - ndtr(-1.0))

    def held(width: float) -> float:
        return float(ndtr((width - bias) / sd) - ndtr((-width - bias) / sd)) - wanted

    return float(brentq(held, sd, bias + sd))


def combine(
    dose_gy: float,
    *,
    volume: float,
    counts_volume_slope: float,
    recovery_volume_slope: float,
    s_volume_slope: float = -1.0,
    recovery: float = 0.0,
    calibration: float = CALIBRATION_RELATIVE_SD,
    of_activity: Mapping[str, float] | None = None,
    of_curve: Mapping[str, float] | None = None,
    s_value: float = S_RELATIVE_SD,
    own_masks: tuple[float, float] = (0.0, 0.0),
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
    of_activity, of_curve : dict of str to float
        Further ones, of the activities (counts, spill …) and of what the curve makes of them (fit, model …).
    own_masks : (float, float)
        `TiaErrors.own_masks` and its root mean square: such scans share only `CONTOUR_SHARED` of the contour's error.
    """
    require_positive(dose_gy=dose_gy)
    activities, curves = dict(of_activity or {}), dict(of_curve or {})
    independent = {
        "recovery": recovery,
        "calibration": calibration,
        "reconstruction": activities.pop("reconstruction", 0.0),
        **activities,
        **curves,
        "s_value": s_value,
    }
    require_not_negative(volume=volume, **independent)
    activity_slope = counts_volume_slope - recovery_volume_slope
    share, rms = own_masks
    shared, single = math.sqrt(CONTOUR_SHARED) * volume, math.sqrt(1 - CONTOUR_SHARED) * volume
    sources = {
        "volume": math.hypot(
            (activity_slope + s_volume_slope) * shared, (activity_slope * (1 - share) + s_volume_slope) * single
        ),
        "contours": abs(activity_slope) * rms * single,
        **independent,
    }
    bias = sources.get("spill_out", 0.0)
    if bias > 0:
        rest = math.sqrt(sum(u**2 for u in sources.values()) - bias**2)
        sources["spill_out"] = math.sqrt(with_known_bias(bias, rest) ** 2 - rest**2)
    variance = sum(u**2 for u in sources.values())
    activity = math.hypot(activity_slope * volume, recovery, calibration, *activities.values())
    return UncertaintyBudget(
        dose_gy=dose_gy,
        relative_sd=math.sqrt(variance),
        components=tuple(Component(name, u, u**2 / variance if variance > 0 else 0.0) for name, u in sources.items()),
        quantities={
            "volume": volume,
            "recovery": math.hypot(recovery_volume_slope * volume, recovery),
            "counts": math.hypot(counts_volume_slope * volume, activities.get("counts", 0.0)),
            "activity": activity,
            "tia": math.hypot(activity, *curves.values()),
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
    margin_mm: float | None = 0.0,
    model_relative_sd: float = 0.0,
    sampling_relative_sd: float = 0.0,
    scans: TiaErrors | None = None,
    contour_relative_sd: float = CONTOUR_RELATIVE_SD,
    ct_fwhm_mm: float = CT_FWHM_MM,
    fwhm_relative_sd: float = FWHM_RELATIVE_SD,
    calibration_relative_sd: float = CALIBRATION_RELATIVE_SD,
    reconstruction_relative_sd: float = RECONSTRUCTION_RELATIVE_SD,
    s_relative_sd: float = S_RELATIVE_SD,
) -> UncertaintyBudget:
    """Budget of one organ whose volume and mass come from a CT contour and whose activities come from SPECT.

    Parameters
    ----------
    dose_gy, volume_ml : float
        Mean absorbed dose, and volume of the un-expanded contour.
    tac : TacFit
        Its TIA uncertainty is split into counting noise, registration, half-life (from ``scans``) and the rest.
    ct_spacing_mm : sequence of 3 float
    spect_fwhm_mm : float or sequence of 3 float
        Point-spread function of the SPECT.
    partial_volume_corrected : bool
        Whether activities were corrected for recovery (``gtm``); its error counts then, and where it tells a bias.
    margin_mm : float or None
        By which the contour was expanded to read the activity, without a recovery correction; None for a volume of
        interest that does not follow the contour (``threshold``).
    model_relative_sd, sampling_relative_sd : float
        `curves.spread.ModelSpread.relative_sd`, and `curves.choice.sampling_relative_sd`.
    scans : TiaErrors, optional
        What the images themselves say.
    contour_relative_sd : float
        Of the volume, as observers or the network err; what voxels and blur leave open is the least that is taken.
    ct_fwhm_mm, fwhm_relative_sd, calibration_relative_sd : float
        See the constants of this module for the defaults' sources.
    reconstruction_relative_sd, s_relative_sd : float
        Likewise.
    """
    fwhm = float(np.prod(np.broadcast_to(np.asarray(spect_fwhm_mm, dtype=float), 3)) ** (1.0 / 3.0))
    # What is not corrected is a bias that the same recovery tells (`TiaErrors.spill_out`), and that is known no better.
    by_width = 3.0 * recovery_volume_slope(volume_ml, fwhm) * fwhm_relative_sd
    recovery_slope = recovery_volume_slope(volume_ml, fwhm) if partial_volume_corrected else 0.0
    if partial_volume_corrected:
        counts_slope = transfer_volume_slope(volume_ml, fwhm) + recovery_slope
    else:
        counts_slope = 0.0 if margin_mm is None else counts_volume_slope(volume_ml, fwhm, margin_mm)
    edges = volume_relative_sd(volume_ml, spacing_mm=ct_spacing_mm, fwhm_mm=ct_fwhm_mm)
    scans = scans or TiaErrors()
    total = tac.tia_sd_mbq_h / tac.tia_mbq_h
    known = (scans.counts, scans.registration, scans.half_life)
    return combine(
        dose_gy,
        # A contour's error is known from whole volumes: what voxels and blur do to its edges is part of it.
        volume=max(edges, contour_relative_sd),
        counts_volume_slope=counts_slope,
        recovery_volume_slope=recovery_slope,
        recovery=by_width if partial_volume_corrected or scans.spill_out > 0 else 0.0,
        calibration=calibration_relative_sd,
        of_activity={
            "reconstruction": reconstruction_relative_sd,
            "counts": scans.counts,
            "registration": scans.registration,
            "spill_out": scans.spill_out,
            "spill_in": scans.spill_in,
        },
        of_curve={
            "fit": math.sqrt(max(total**2 - sum(u**2 for u in known), 0.0)),
            "model": model_relative_sd,
            "time_sampling": sampling_relative_sd,
            "half_life": scans.half_life,
        },
        own_masks=(scans.own_masks, scans.own_masks_rms),
        s_value=s_relative_sd,
    )
