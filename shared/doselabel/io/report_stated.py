"""What a study states of itself for a report, what it does not, and what was assumed instead. Computes nothing.

Fields after the EANM guidance on dosimetry reporting, 2024, Table 4.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from doselabel.dosimetry.alignment.mask_scene import ASSUMED_FWHM_MM
from doselabel.dosimetry.curves.choice import (
    ASSUMED_HALF_LIFE_RELATIVE_SD,
    HEAD_RELATIVE_SD,
    TAIL_RELATIVE_SD,
)
from doselabel.dosimetry.curves.points import ASSUMED_RELATIVE_SD
from doselabel.dosimetry.options import ALPHA_BETA_GY, DoseOptions, of_organ
from doselabel.dosimetry.uncertainty import (
    CALIBRATION_RELATIVE_SD,
    CONTOUR_RELATIVE_SD,
    FWHM_RELATIVE_SD,
    RECONSTRUCTION_RELATIVE_SD,
    S_RELATIVE_SD,
    UNSEEN_SPILL,
)
from doselabel.io.document import FLAG, Column, Note, Table
from doselabel.io.numerals import percent, significant
from doselabel.io.words import injected
from doselabel.labels import title
from doselabel.study import Study
from doselabel.wire import DoseResults

MISSING = f"{FLAG} not stated"


def stated(results: DoseResults, study: Study) -> dict[str, str]:
    """What a study states of drug, camera and people, by field; an empty text where it says nothing."""
    said, camera = study.reporting, study.camera_file()
    residual = said.residual_activity_mbq
    cycle = "" if said.cycle is None else str(said.cycle)
    calibration = [said.calibration, camera.sensitivity.how if camera and camera.sensitivity else ""]
    dead_time = said.dead_time
    if camera is not None and camera.dead_time is not None:
        counts = study.spect_unit == "counts"  # in Bq/mL, whoever made the images corrected them, or did not
        rates = sum(counts and point.count_rate_cps is not None for point in study.time_points)
        dead_time = (
            f"{significant(camera.dead_time.tau_us)} µs, {camera.dead_time.model}; corrected in {rates} of "
            f"{len(study.time_points)} scans"
        )
    return {
        "Radiopharmaceutical": said.radiopharmaceutical,
        "Cycle": cycle,
        "Administered at": injected(study) if study.injection_time else "",
        "Residual activity": "" if residual is None else f"{significant(residual)} MBq, beside the administered",
        "Camera": said.camera or (camera.name if camera is not None else ""),
        "Collimator": said.collimator,
        "Matrix": said.matrix or _matrices(study),
        "Scan duration": _durations(study),
        "Reconstruction": said.reconstruction,
        "Corrections": said.corrections,
        "Resolution": _widths(study.resolution_fwhm_mm),
        "Calibration": "; ".join(filter(None, calibration)),
        "Calibrated on": "" if said.calibration_date is None else said.calibration_date.isoformat(),
        "Dead time": dead_time,
        "Responsible": said.responsible,
    }


def stated_table(results: DoseResults, study: Study) -> Table:
    """Every field, with what is not stated marked."""
    rows = [[name, text or MISSING] for name, text in stated(results, study).items()]
    return Table([Column("Field", align="left"), Column("Stated in the study", align="left")], rows)


def missing(results: DoseResults, study: Study) -> Note | None:
    """What the guidance asks for and the study does not state."""
    fields = [name.lower() for name, text in stated(results, study).items() if not text]
    if not fields:
        return None
    return Note(f"Not stated: {', '.join(fields)}. State them in study.json (docs/study.md, 'reporting').", "warning")


def assumed(results: DoseResults, study: Study) -> Table:
    """Values that nobody stated for this patient, and where they are from."""
    options = results.options
    rows: list[tuple[str, str, str]] = []

    def take(what: str, value: str, source: str) -> None:
        rows.append((what, value, source))

    if study.calibration_relative_sd == CALIBRATION_RELATIVE_SD:
        take("Calibration, ±", percent(100 * CALIBRATION_RELATIVE_SD), "default; the camera's own belongs in the study")
    if study.reporting.residual_activity_mbq is None:
        take("Residual activity", "none", "the administered activity is taken as the patient's")
    if options.get("psf_fwhm_mm") is None:
        take("Resolution, for the ± only", _widths(ASSUMED_FWHM_MM), "nothing is corrected with it")
    if options.get("contour_sd_percent") is None:
        take("Volume of a contour, ±", percent(100 * CONTOUR_RELATIVE_SD), "Nazari et al. 2021, table 3 (at most)")
    take("Width of the resolution, ±", percent(100 * FWHM_RELATIVE_SD), "assumed")
    take("Attenuation and scatter, ±", percent(100 * RECONSTRUCTION_RELATIVE_SD), "MIRD Pamphlet 26")
    take("Lost by tails and breath", percent(100 * UNSEEN_SPILL), "the project's phantoms; a part of the ±")
    take("S-values, ±", percent(100 * S_RELATIVE_SD), "spread between independent sources")
    take("An activity, ±", percent(100 * ASSUMED_RELATIVE_SD) + " at least", "assumed")
    tails = f"{percent(100 * TAIL_RELATIVE_SD)} after the last scan, {percent(100 * HEAD_RELATIVE_SD)} before the first"
    take("Unseen phases, ± of their part", tails, "two-phase curves of the project's coverage study")
    for name, organ in results.organs.items():
        if of_organ(options.get("organ_density_g_cm3") or {}, name) is None:
            source = "Nazari et al. 2021" if "kidney" in name else "label table, ICRP 110 or soft tissue"
            take(f"Density, {title(name).lower()}", f"{significant(organ.density_g_cm3)} g/cm³", source)
        half_lives: Mapping[str, float] = options.get("population_half_life_h") or {}
        single = organ.tac.model in ("hanscheid", "population")
        if single and of_organ(options.get("population_half_life_sd_h") or {}, name) is None and half_lives:
            spread = percent(100 * ASSUMED_HALF_LIFE_RELATIVE_SD)
            take(f"Half-life, {title(name).lower()}, ±", spread, "spread between patients, assumed")
    ratios: Mapping[str, float] = options.get("alpha_beta_gy") or {}
    usual = {n: of_organ(ratios, n) for n in results.organs if of_organ(ratios, n) is not None}
    for name, ratio in usual.items():
        if ratio == of_organ(ALPHA_BETA_GY, name):
            source = "MIRD Pamphlet 20" if "tumour" in name else "Bodey et al. 2003"
            take(f"α/β, {title(name).lower()}", f"{significant(ratio, 2)} Gy", source)
    repair = DoseOptions.model_fields["repair_half_life_h"].default
    if usual and options.get("repair_half_life_h") == repair:
        take("Repair half-life", f"{repair:g} h", "kidney, MIRD Pamphlet 20")
    titles = ("Assumed", "Value", "Source")
    caption = "Values that the study and the options do not state; ± are standard uncertainties (k = 1)."
    return Table([Column(t, align="left") for t in titles], rows, caption)


def _matrices(study: Study) -> str:
    """Matrix and voxel size of the SPECTs' files."""
    found: dict[str, None] = {}
    for point in study.time_points:
        grid = study.grid(point.spect)
        size = " × ".join(str(n) for n in reversed(grid.shape))
        voxel = " × ".join(significant(s) for s in reversed(grid.spacing_mm))
        found[f"{size} voxels of {voxel} mm (x, y, z; of the files)"] = None
    return "; ".join(found)


def _durations(study: Study) -> str:
    minutes = [point.scan_duration_min for point in study.time_points]
    if any(m is None for m in minutes):
        return ""
    return ", ".join(f"{m:g}" for m in minutes) + " min"


def _widths(fwhm_mm: Any) -> str:
    if fwhm_mm is None:
        return ""
    return " × ".join(significant(v) for v in fwhm_mm) + " mm FWHM (z, y, x)"
