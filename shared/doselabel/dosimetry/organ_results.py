"""What `results.json` says of one organ, and of what made it. Knows numbers that are already computed, no images."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

import doselabel
from doselabel.dosimetry.alignment.mask_scene import ASSUMED_FWHM_MM
from doselabel.dosimetry.cache import Cache, file_sha256
from doselabel.dosimetry.curves import choice
from doselabel.dosimetry.dose import tia_map
from doselabel.dosimetry.dose.bed import bed_gy, bed_relative_sd, eqd2_gy, lea_catcheside_g
from doselabel.dosimetry.dose.dvh import dvh
from doselabel.dosimetry.options import DoseOptions, of_organ
from doselabel.dosimetry.physics.kernels import VoxelSKernel
from doselabel.dosimetry.results import DOSE_MAP
from doselabel.dosimetry.uncertainty import (
    CONTOUR_RELATIVE_SD,
    TiaErrors,
    UncertaintyBudget,
    organ_budget,
    percentile_sd_gy,
)
from doselabel.dosimetry.uptake import activity
from doselabel.dosimetry.uptake.masks import LabelSet
from doselabel.geometry import Geometry
from doselabel.labels import LabelMap
from doselabel.study import MANIFEST, Study
from doselabel.wire import DvhCurve, OrganDose

ENGINES_AGREE = 0.05
"""A spread of the three engines above this is flagged."""


@dataclass(frozen=True, eq=False)
class Patient:
    """What the results of all organs share.

    Attributes
    ----------
    study : Study
    diagnostic : LabelMap
        Masks on the diagnostic CT.
    ct : Geometry
        Its grid.
    measured : list of ScanActivity
        By time point.
    place_sd_mm : list of float
        How well each SPECT's place is known, along an axis.
    place_doubt : list of float
        Relative standard uncertainty of each SPECT's activities because its place can't be believed.
    own_masks : list of bool
        Whether a time point has masks of its own.
    psf : (z, y, x) or None
        Resolution, FWHM in mm.
    options : DoseOptions
    """

    study: Study
    diagnostic: LabelMap
    ct: Geometry
    measured: list[activity.ScanActivity]
    place_sd_mm: list[float]
    place_doubt: list[float]
    own_masks: list[bool]
    psf: tuple[float, float, float] | None
    options: DoseOptions

    def budget(self, name: str, dose_gy: float, curve: choice.OrganCurve) -> UncertaintyBudget:
        """Uncertainty of an organ's mean dose."""
        options = self.options
        method = activity.voi_method(options, self.psf)
        errors = [m.errors[name] for m in self.measured]
        drawn = CONTOUR_RELATIVE_SD if options.contour_sd_percent is None else options.contour_sd_percent / 100
        return organ_budget(
            dose_gy,
            self.diagnostic.volume_ml(name),
            curve.fit,
            ct_spacing_mm=self.ct.spacing_mm,
            spect_fwhm_mm=self.psf or ASSUMED_FWHM_MM,
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
            scans=TiaErrors.of(curve.fit, errors, self.place_sd_mm, self.own_masks, self.place_doubt),
            contour_relative_sd=drawn,
            calibration_relative_sd=self.study.calibration_relative_sd,
        )


def organ_result(
    name: str,
    patient: Patient,
    mass_g: float,
    curve: choice.OrganCurve,
    by_engine: Mapping[str, float],
    voxels_gy: NDArray[np.float32],
) -> OrganDose:
    """All numbers of one organ.

    Parameters
    ----------
    name : str
    patient : Patient
    mass_g : float
    curve : OrganCurve
    by_engine : dict
        Mean dose by each engine, Gy.
    voxels_gy : (n,) array
        Dose of the organ's voxels.
    """
    study, options, measured, fitted = patient.study, patient.options, patient.measured, curve.fit
    mean = by_engine[options.engine]
    budget = patient.budget(name, mean, curve)
    histogram = dvh(voxels_gy)
    warnings = choice.warnings_of(curve)
    low, high = min(by_engine.values()), max(by_engine.values())
    if high - low > ENGINES_AGREE * mean:
        shown = ", ".join(f"{engine} {value:.3g} Gy" for engine, value in by_engine.items())
        warnings.append(f"The dose engines differ by {(high - low) / mean:.0%}: {shown}.")
    ratio = of_organ(options.alpha_beta_gy, name)
    g = lea_catcheside_g(fitted.curve, options.repair_half_life_h)
    bed = bed_sd = eqd2 = eqd2_sd = None
    if ratio is not None:
        bed, eqd2 = float(bed_gy(mean, g, ratio)), float(eqd2_gy(bed_gy(mean, g, ratio), ratio))
        bed_sd = bed * bed_relative_sd(mean, g, ratio, budget.relative_sd, choice.half_life_relative_sd(fitted))
        eqd2_sd = bed_sd * eqd2 / bed if bed > 0 else 0.0
    recovery = [m.recovery[name] for m in measured]
    return OrganDose(
        volume_ml=patient.diagnostic.volume_ml(name),
        density_g_cm3=options.density_of(name),
        mass_g=mass_g,
        activity_mbq=[m.activity_mbq[name] for m in measured],
        recovery_coefficient=[r for r in recovery if r is not None],
        tia_mbq_h=fitted.tia_mbq_h,
        tia_sd_mbq_h=budget.quantities["tia"] * fitted.tia_mbq_h,
        effective_half_life_h=fitted.effective_half_life_h,
        mean_dose_gy=mean,
        dose_sd_gy=budget.dose_sd_gy,
        dose_gy_by_engine=dict(by_engine),
        dose_gy_per_gbq=mean / (study.injected_activity_mbq / 1000),
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
            min_gy=histogram.min_gy,
            max_gy=histogram.max_gy,
            mean_gy=histogram.mean_gy,
        ),
        tac=choice.described(curve),
        uncertainty_percent={c.name: 100 * c.relative_sd for c in budget.components},
        warnings=warnings,
    )


def provenance(
    study: Study,
    label_set: LabelSet,
    kernel: VoxelSKernel,
    grid: tia_map.DoseGrid,
    rest_tia_mbq_h: float,
    rest_model: str,
    options: DoseOptions,
    store: Cache,
) -> dict[str, Any]:
    inputs = {MANIFEST: file_sha256(study.folder / MANIFEST)}
    inputs |= {name: file_sha256(study.path(name)) for _, name in study.files()}
    if study.camera is not None:
        inputs[study.camera] = file_sha256(study.path(study.camera))
    inputs |= {f"labels of {name}": file_sha256(path) for name, path in label_set.files.items()}
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "software": {
            "doselabel": doselabel.__version__,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "SimpleITK": sitk.Version.VersionString(),
        },
        "inputs": inputs,
        "kernel": kernel.provenance,
        "dose_map": {
            "file": DOSE_MAP,
            "ct": study.ct,
            "grid": options.grid,
            "computed_at_mm": list(grid.geometry.spacing_mm),
            "unit": "Gy",
        },
        "rest_of_body": {"tia_mbq_h": rest_tia_mbq_h, "model": rest_model},
        "reused": list(store.reused),
    }
