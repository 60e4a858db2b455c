"""Red marrow, by blood samples and by a region of lumbar vertebrae: estimates, each with what it assumes.

Knows results and a CSV of samples; no images. Both follow the EANM guidance (Hindorf et al., Eur J Nucl Med Mol Imaging
37:1238, 2010; blood-based after Sgouros, J Nucl Med 34:689, 1993, and Wessels et al., J Nucl Med 45:1725, 2004).
Self-dose is Ã(marrow) · Δ(electrons)/m(marrow): electrons that leave the marrow for bone are not taken off (absorbed
fraction 1), which errs to the high side. Photons from elsewhere are added.

- blood: Ã(marrow) = RMBLR · Ã(blood)/mL · m(marrow), with RMBLR 1 for peptides (Forrer et al., Eur J Nucl Med Mol
  Imaging 36:1138, 2009), or 0.19/(1 − haematocrit) where a haematocrit is stated; the marrow's mass cancels.
- image: Ã(marrow) = Ã(region L2–L4)/share, the share of the active marrow that lies there (6.7 %).
"""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from doselabel.alarms import Alarm, finding
from doselabel.dosimetry.curves.fit import TacFit, fit
from doselabel.dosimetry.options import DoseOptions
from doselabel.dosimetry.physics.kernels import Ellipsoid, self_s_value
from doselabel.errors import DoselabelError, StudyError
from doselabel.nuclides import SECONDS_PER_HOUR, Nuclide
from doselabel.wire import MarrowDose, OrganDose

REGION = "marrow_l2_l4"
"""Name of the region that is taken for the marrow of the second to fourth lumbar vertebrae."""
EXTRACELLULAR = 0.19
"""Part of the marrow that is extracellular fluid (Sgouros 1993)."""
RATIO_RELATIVE_SD = 0.30
"""Assumed of marrow over blood, and of a whole body's photons."""
SHARE_RELATIVE_SD = 0.20
"""Assumed of the marrow's share in a region, between patients."""
COUNTER_RELATIVE_SD = 0.05
"""Assumed of the well counter's calibration."""
UNITS_KBQ_ML = {"activity_bq_ml": 1e-3, "activity_kbq_ml": 1.0, "activity_mbq_ml": 1e3}
BODY_SEMI_MM = (850.0, 100.0, 180.0)
"""Half height, depth and breadth of an ellipsoid of 64 L; it is scaled to the patient's mass."""
BLOOD_ML_PER_KG = 70.0
"""Of body mass (Nadler et al., Surgery 51:224, 1962: 65 to 75 in adults)."""
EARLY_H, LEAST_EARLY_SHARE = 1.0, 0.005
"""Within the first hour blood holds more than this part of what was injected (assumed)."""
BI_FROM = 5
"""Samples from which two phases are fitted: four parameters, and one degree of freedom."""


@dataclass(frozen=True)
class Samples:
    """Blood samples: hours after injection, and kBq/mL as measured (not decay-corrected)."""

    time_h: tuple[float, ...]
    kbq_ml: tuple[float, ...]


def read_samples(path: Path) -> Samples:
    """Read a CSV with the columns ``time_h`` and ``activity_kbq_ml`` (or ``activity_bq_ml``, ``activity_mbq_ml``).

    Raises
    ------
    StudyError
        When a column is missing, a value is no number, or there are fewer than two samples in order of time.
    """
    wanted = "columns time_h and activity_kbq_ml (or activity_bq_ml, activity_mbq_ml), at least two rows, ordered"
    try:
        rows = list(csv.DictReader(path.read_text("utf-8-sig").splitlines(), restkey="beyond the columns"))
        if extra := next((row for row in rows if "beyond the columns" in row), None):
            raise ValueError(f"a row with more values than columns, {', '.join(map(str, extra.values()))}")
        units = [name for name in (rows[0] if rows else ()) if name in UNITS_KBQ_ML]
        if len(units) != 1 or "time_h" not in rows[0]:
            raise ValueError(f"columns {', '.join(map(str, rows[0])) if rows else 'none'}")
        times = tuple(float(row["time_h"]) for row in rows)
        values = tuple(float(row[units[0]]) * UNITS_KBQ_ML[units[0]] for row in rows)
        good = all(math.isfinite(v) and v >= 0 for v in (*times, *values))
        if len(rows) < 2 or not good or any(b <= a for a, b in itertools.pairwise(times)):
            raise ValueError(f"times {times} h, activities {values} kBq/mL")
    except (OSError, ValueError, TypeError, UnicodeDecodeError) as error:
        raise StudyError(f"{path.name}: can't be read as blood samples ({error}).", f"Expected {wanted}.") from error
    return Samples(times, values)


def estimates(
    organs: Mapping[str, OrganDose],
    blood: Path | None,
    rest_mbq_h: float,
    nuclide: Nuclide,
    options: DoseOptions,
    *,
    injected_mbq: float,
    said: list[Alarm | str],
) -> list[MarrowDose]:
    """What can be said of the marrow: by the region, where it was computed; by blood, where samples are given.

    Parameters
    ----------
    organs : dict of str to OrganDose
    blood : Path, optional
        CSV of samples.
    rest_mbq_h : float
        Time-integrated activity outside the organs.
    nuclide : Nuclide
    options : DoseOptions
    injected_mbq : float
        By which the samples are judged.
    said : list
        Receives what a reader must know; a way that fails is an alarm there, and the other is as without it.
    """
    found: list[MarrowDose] = []
    region = organs.get(REGION)

    def attempt(way: str, make: Callable[[], MarrowDose]) -> None:
        try:
            found.append(make())
        except DoselabelError as error:
            sentence = f"Bone marrow could not be estimated by {way}: {error}"
            said.append(finding("organ-failed", sentence, organ="bone_marrow"))

    def sampled(path: Path) -> MarrowDose:
        samples = read_samples(path)
        if odd := implausible(samples, injected_mbq, nuclide, options.body_mass_kg):
            said.append(f"{path.name}: {odd}")
        whole = rest_mbq_h + sum(organ.tia_mbq_h for organ in organs.values())
        seen = None if region is None else region_photons_gy(region)
        return by_blood(samples, whole, nuclide, options, photons_gy=seen)

    if region is not None:
        attempt("image", partial(by_region, region, nuclide, options))
    if blood is not None:
        attempt("blood", partial(sampled, blood))
    return found


def implausible(samples: Samples, injected_mbq: float, nuclide: Nuclide, body_mass_kg: float) -> str:
    """What speaks against the samples' unit, or an empty text.

    Raises
    ------
    StudyError
        When the blood would hold more than was injected and has not decayed yet.
    """
    litres = BLOOD_ML_PER_KG * body_mass_kg / 1000
    shares = [
        kbq_ml * litres / (injected_mbq * math.exp(-nuclide.decay_constant_per_h * time_h))
        for time_h, kbq_ml in zip(samples.time_h, samples.kbq_ml, strict=True)
    ]
    most = int(np.argmax(shares))
    held = f"at {samples.time_h[most]:g} h, {samples.kbq_ml[most]:.4g} kBq/mL in {litres:.1f} L of blood"
    if shares[most] > 1:
        raise StudyError(
            f"The blood would hold {shares[most]:.3g} times what is left of the injected activity ({held}).",
            "Check the unit in the column's name (activity_bq_ml, activity_kbq_ml, activity_mbq_ml), and that the "
            "values are per mL and not decay-corrected.",
        )
    if samples.time_h[0] <= EARLY_H and shares[0] < LEAST_EARLY_SHARE:
        return (
            f"at {samples.time_h[0]:g} h the blood would hold {shares[0]:.2g} of what is left of the injected "
            f"activity; expected {LEAST_EARLY_SHARE:g} at least within {EARLY_H:g} h. Is the column's unit right?"
        )
    return ""


def by_region(region: OrganDose, nuclide: Nuclide, options: DoseOptions) -> MarrowDose:
    """The marrow's dose from the activity in a region of vertebrae."""
    tia = region.tia_mbq_h / options.marrow_region_share
    own = tia * _gy_g_per_mbq_h(nuclide) / options.marrow_mass_g
    photons = region_photons_gy(region)
    own_sd = own * math.hypot(region.tia_sd_mbq_h / region.tia_mbq_h, SHARE_RELATIVE_SD)
    sd = math.hypot(own_sd, photons * region.dose_sd_gy / region.mean_dose_gy)
    return MarrowDose(
        method="image",
        self_gy=own,
        photons_gy=photons,
        dose_gy=own + photons,
        dose_sd_gy=sd,
        effective_half_life_h=region.effective_half_life_h,
        said=[
            f"the region's activity is the marrow's, of which {options.marrow_region_share:.1%} lies in it",
            f"mass of the active marrow {options.marrow_mass_g:g} g",
            "electrons absorbed in full (an upper bound); photons as in the region, by the dose map",
            f"± of the region's activity, and {SHARE_RELATIVE_SD:.0%} of the share (assumed)",
        ],
    )


def by_blood(
    samples: Samples,
    whole_body_mbq_h: float,
    nuclide: Nuclide,
    options: DoseOptions,
    *,
    photons_gy: float | None = None,
) -> MarrowDose:
    """The marrow's dose from blood; ``photons_gy`` is known from a region, else the body's activity gives it."""
    fitted, spread = _blood_curve(samples, nuclide)
    ratio = options.marrow_to_blood
    said_ratio = f"marrow over blood {ratio:g} (peptides: 1)" if ratio is not None else ""
    if ratio is None:
        ratio, said_ratio = 1.0, "marrow over blood 1, as for peptides"
        if options.hematocrit is not None:
            ratio = EXTRACELLULAR / (1 - options.hematocrit)
            said_ratio = f"marrow over blood {ratio:.2f}, by a haematocrit of {options.hematocrit:g}"
    own = ratio * fitted.tia_mbq_h / 1000 * _gy_g_per_mbq_h(nuclide)  # MBq·h per litre; a millilitre as a gram
    own_sd = own * math.hypot(fitted.tia_sd_mbq_h / fitted.tia_mbq_h, spread, RATIO_RELATIVE_SD, COUNTER_RELATIVE_SD)
    where = "photons as in the region of the vertebrae"
    if photons_gy is None:
        photons_gy = body_photons_gy(whole_body_mbq_h, options.body_mass_kg, nuclide)
        where = f"photons of the activity in the field of view, in a body of {options.body_mass_kg:g} kg"
    return MarrowDose(
        method="blood",
        self_gy=own,
        photons_gy=photons_gy,
        dose_gy=own + photons_gy,
        dose_sd_gy=math.hypot(own_sd, RATIO_RELATIVE_SD * photons_gy),
        effective_half_life_h=fitted.effective_half_life_h,
        said=[
            f"{len(samples.time_h)} samples, '{fitted.model}', {fitted.extrapolated_fraction:.0%} after the last",
            said_ratio,
            f"electrons absorbed in full (an upper bound); {where}",
            f"± of the curve; assumed: ratio, photons {RATIO_RELATIVE_SD:.0%}, counter {COUNTER_RELATIVE_SD:.0%}",
        ],
    )


def region_photons_gy(region: OrganDose) -> float:
    """Dose of a region by photons from everywhere: by voxel S-values, less what its own electrons give."""
    return max(region.dose_gy_by_engine["voxel-s"] - region.dose_gy_by_engine["local"], 0.0)


def body_photons_gy(tia_mbq_h: float, mass_kg: float, nuclide: Nuclide) -> float:
    """Mean dose by the photons of an activity spread over a whole body."""
    volume = 4 / 3 * math.pi * math.prod(BODY_SEMI_MM) / 1e3
    scale = (mass_kg * 1000 / volume) ** (1 / 3)
    z, y, x = (scale * a for a in BODY_SEMI_MM)
    per_mbq_h = self_s_value(Ellipsoid((z, y, x)), nuclide, density_g_cm3=1.0) * SECONDS_PER_HOUR / 1000
    return max(per_mbq_h - _gy_g_per_mbq_h(nuclide) / (mass_kg * 1000), 0.0) * tia_mbq_h


def _blood_curve(samples: Samples, nuclide: Nuclide) -> tuple[TacFit, float]:
    """Its curve (MBq per litre), and what another one would say, as a relative standard uncertainty."""
    model = "bi" if len(samples.time_h) >= BI_FROM else "mono"
    values: Sequence[float] = samples.kbq_ml
    fitted = fit(samples.time_h, values, nuclide=nuclide, model=model, weights="relative", uptake_limb="keep")  # type: ignore[arg-type]
    other = fit(samples.time_h, values, nuclide=nuclide, model="trapezoid")
    return fitted, abs(other.tia_mbq_h / fitted.tia_mbq_h - 1) / 2 / math.sqrt(3)


def _gy_g_per_mbq_h(nuclide: Nuclide) -> float:
    return nuclide.local_constant_g_gy_per_gbq_h / 1000
