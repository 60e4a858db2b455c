"""What `results.json` says of one organ, and of what made it. Knows numbers that are already computed, no images."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import SimpleITK as sitk

import doselabel
from doselabel.dosimetry.alignment.mask_scene import ASSUMED_FWHM_MM
from doselabel.dosimetry.cache import fingerprint
from doselabel.dosimetry.curves import choice
from doselabel.dosimetry.curves.choice import OrganCurve
from doselabel.dosimetry.dose.bed import bed_gy, bed_relative_sd, eqd2_gy, lea_catcheside_g
from doselabel.dosimetry.dose.dose_map import Absorbed
from doselabel.dosimetry.dose.dvh import dvh
from doselabel.dosimetry.options import of_organ
from doselabel.dosimetry.results import DOSE_MAP
from doselabel.dosimetry.uncertainty import (
    CONTOUR_RELATIVE_SD,
    TiaErrors,
    UncertaintyBudget,
    organ_budget,
    percentile_sd_gy,
)
from doselabel.dosimetry.uptake.activity import voi_method
from doselabel.dosimetry.uptake.case import Case
from doselabel.dosimetry.uptake.time_points import Uptake
from doselabel.files import file_sha256
from doselabel.study import MANIFEST
from doselabel.wire import DvhCurve, OrganDose

ENGINES_AGREE = 0.05
"""A spread of the three engines above this is flagged."""


def budget_of(name: str, case: Case, uptakes: Sequence[Uptake], curve: OrganCurve, dose_gy: float) -> UncertaintyBudget:
    """Uncertainty of an organ's mean dose."""
    options = case.options
    method = voi_method(options, case.psf_fwhm_mm)
    drawn = CONTOUR_RELATIVE_SD if options.contour_sd_percent is None else options.contour_sd_percent / 100
    scans = TiaErrors.of(
        curve.fit,
        [u.activity.errors[name] for u in uptakes],
        [u.alignment.sd_mm for u in uptakes],
        [u.own_masks for u in uptakes],
        [u.placement.relative_sd for u in uptakes],
    )
    return organ_budget(
        dose_gy,
        case.diagnostic.volume_ml(name),
        curve.fit,
        ct_spacing_mm=case.ct.geometry.spacing_mm,
        spect_fwhm_mm=case.psf_fwhm_mm or ASSUMED_FWHM_MM,
        partial_volume_corrected=method == "gtm",
        margin_mm={
            "gtm": 0.0,
            "margin": options.margin_mm,
            # Cut at its usual level a blurred mask is one σ wider (see `voi.ONE_SIGMA_LEVEL`).
            "gaussian": options.gaussian_sigma_mm,
            "threshold": None,
        }[method],
        model_relative_sd=curve.model_relative_sd,
        sampling_relative_sd=choice.sampling_relative_sd(curve.fit),
        scans=scans,
        contour_relative_sd=drawn,
        calibration_relative_sd=case.calibration_relative_sd,
    )


def organ_result(name: str, case: Case, uptakes: Sequence[Uptake], curve: OrganCurve, doses: Absorbed) -> OrganDose:
    """All numbers of one organ."""
    options, fitted, by_engine = case.options, curve.fit, doses.by_engine_gy[name]
    mean = by_engine[options.engine]
    budget = budget_of(name, case, uptakes, curve, mean)
    histogram = dvh(doses.voxels_gy(name), at_gy=options.v_dose_gy)
    warnings = choice.warnings_of(curve)
    low, high = min(by_engine.values()), max(by_engine.values())
    if high - low > ENGINES_AGREE * mean:
        shown = ", ".join(f"{engine} {value:.3g} Gy" for engine, value in by_engine.items())
        warnings.append(f"The dose engines differ by {(high - low) / mean:.0%}: {shown}.")
    ratio = of_organ(options.alpha_beta_gy, name)
    clears, half_life_h, half_life_sd = choice.clearance(fitted, name, options)
    g = lea_catcheside_g(clears, options.repair_half_life_h)
    bed = bed_sd = eqd2 = eqd2_sd = None
    if ratio is not None:
        bed, eqd2 = float(bed_gy(mean, g, ratio)), float(eqd2_gy(bed_gy(mean, g, ratio), ratio))
        bed_sd = bed * bed_relative_sd(mean, g, ratio, budget.relative_sd, half_life_sd)
        eqd2_sd = bed_sd * eqd2 / bed if bed > 0 else 0.0
    recovery = [u.activity.recovery[name] for u in uptakes]
    return OrganDose(
        volume_ml=case.diagnostic.volume_ml(name),
        density_g_cm3=options.density_of(name),
        mass_g=doses.mass_g[name],
        activity_mbq=[u.activity.activity_mbq[name] for u in uptakes],
        recovery_coefficient=[r for r in recovery if r is not None],
        tia_mbq_h=fitted.tia_mbq_h,
        tia_sd_mbq_h=budget.quantities["tia"] * fitted.tia_mbq_h,
        effective_half_life_h=half_life_h,
        mean_dose_gy=mean,
        dose_sd_gy=budget.dose_sd_gy,
        dose_gy_by_engine=dict(by_engine),
        dose_gy_per_gbq=mean / (case.study.injected_activity_mbq / 1000),
        bed_gy=bed,
        bed_sd_gy=bed_sd,
        eqd2_gy=eqd2,
        eqd2_sd_gy=eqd2_sd,
        dvh=DvhCurve(
            dose_gy=histogram.dose_gy.tolist(),
            volume_percent=(100 * histogram.cumulative).tolist(),
            differential_percent_per_gy=(100 * histogram.differential_per_gy).tolist(),
            d_gy={f"D{percent:g}": value for percent, value in histogram.d_gy.items()},
            d_sd_gy={
                f"D{percent:g}": percentile_sd_gy(value, mean, budget.relative_sd)
                for percent, value in histogram.d_gy.items()
            },
            v_percent={f"V{at:g}": 100 * share for at, share in histogram.v.items()},
            min_gy=histogram.min_gy,
            max_gy=histogram.max_gy,
            mean_gy=histogram.mean_gy,
        ),
        tac=choice.described(curve),
        uncertainty_percent={c.name: 100 * c.relative_sd for c in budget.components},
        warnings=warnings,
    )


def provenance(case: Case, doses: Absorbed, rest: tuple[float, str]) -> dict[str, Any]:
    """What made the results: files, kernel, software; ``rest`` is the rest of the body's TIA (MBq·h) and model."""
    study, options, grid = case.study, case.options, doses.grid
    inputs = {MANIFEST: file_sha256(study.folder / MANIFEST)}
    inputs |= {name: file_sha256(study.path(name)) for _, name in study.files()}
    inputs |= {name: file_sha256(study.path(name)) for name in (study.camera, study.blood_samples) if name is not None}
    inputs |= {f"labels of {name}": file_sha256(path) for name, path in case.labels.files.items()}
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "software": {
            "doselabel": doselabel.__version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "SimpleITK": sitk.Version.VersionString(),
        },
        "inputs": inputs,
        "kernel": doses.kernel.provenance,
        "dose_map": {
            "file": DOSE_MAP,
            "ct": study.ct,
            "grid": options.grid,
            "computed_at_mm": list(grid.geometry.spacing_mm),
            "unit": "Gy",
        },
        "rest_of_body": {"tia_mbq_h": rest[0], "model": rest[1]},
        "vois_by_hand": {
            f"time point {i + 1}": {"organs": list(drawn.present()), "voxels_sha256": fingerprint(drawn.array)}
            for i, drawn in sorted(case.edited_vois.items())
        },
        "reused": list(case.store.reused),
    }
