"""Tables and facts of the dose report: numbers of `DoseResults` as texts with units. Draws and computes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from doselabel.alarms import Alarm
from doselabel.io.document import FLAG, Column, Facts, Heading, Note, Table
from doselabel.io.numerals import NOTHING, fixed, percent, plus_minus, significant
from doselabel.io.words import ENGINES, hours, injected, reader, say, software_of, split_unit
from doselabel.labels import title
from doselabel.study import Study
from doselabel.wire import DoseResults, OrganDose

LARGEST_ENGINE_SPREAD_PERCENT = 5.0
ALARMED = "Probably wrong until somebody has looked:"
SOURCES_OF_ERROR = {
    "volume": "Contour (volume)",
    "contours": "Contours on other CTs",
    "reconstruction": "Attenuation, scatter",
    "spill_out": "Spill-out, uncorrected",
    "spill_in": "Spill-in, unmasked",
    "time_sampling": "Time sampling",
    "half_life": "Half-life of others",
    "counts": "Counting noise",
    "fit": "Fit of the curve",
    "model": "Choice of curve",
    "s_value": "S-value",
}


def created(results: DoseResults) -> str:
    """When the results were made, without fractions of a second."""
    text = str(results.provenance.get("created", ""))
    return text.replace("T", " ")[:16]


def alarm_notes(alarms: Sequence[Alarm]) -> list[Note]:
    """What must be known before any number, with what to do; nothing when there is nothing."""
    lines = [f"{reader(alarm.sentence)} ({alarm.code}) → {alarm.what_to_do}" for alarm in alarms]
    return [Note(ALARMED, "alarm", lines)] if lines else []


def all_warnings(results: DoseResults) -> list[str]:
    """Warnings of the whole study, then those of organs, a text that several organs share only once; no alarms."""
    by_text: dict[str, list[str]] = {}
    for name, result in results.organs.items():
        for text in result.warnings:
            by_text.setdefault(text, []).append(title(name))
    of_organs = {f"{name}: {text}" for text, names in by_text.items() for name in names}
    general = [text for text in results.other_warnings() if text not in of_organs]
    return [*general, *(f"{', '.join(names)}: {text}" for text, names in by_text.items())]


def engine_spread_percent(result: OrganDose) -> float:
    """Range of the engines' mean doses over the reported one, percent."""
    doses = list(result.dose_gy_by_engine.values())
    return 100 * (max(doses) - min(doses)) / result.mean_dose_gy if doses and result.mean_dose_gy > 0 else 0.0


def key_facts(results: DoseResults, study: Study) -> Facts:
    """What a reader wants to know before the numbers."""
    options = results.options
    return Facts(
        [
            ("Patient (pseudonym)", results.patient_id),
            ("Radionuclide", results.nuclide),
            ("Administered activity", f"{significant(results.injected_activity_mbq, 4)} MBq"),
            ("Administered at", injected(study)),
            ("SPECT/CT after injection", hours(results.time_h)),
            ("Organ masks", results.labels_origin or "not stated"),
            ("Masks reviewed", "yes" if results.reviewed else "NO"),
            ("VOI method", say(options.get("voi"))),
            ("Time-activity model", ", ".join(dict.fromkeys(o.tac.model for o in results.organs.values())) or NOTHING),
            ("Dose engine", ENGINES.get(str(options.get("engine")), say(options.get("engine")))),
            ("Software", software_of(results)),
            ("Organs absent", ", ".join(title(name) for name in study.organs_absent) or "none"),
        ]
    )


def summary(results: DoseResults) -> Table:
    """One line per organ: the result of the report."""
    columns = [
        Column("Organ", align="left"), Column("Volume", "mL"), Column("Mass", "g"), Column("TIA", "MBq·h"),
        Column("T½ eff", "h"), Column("Mean dose", "Gy"), Column("per activity", "Gy/GBq"), Column("BED", "Gy"),
        Column("EQD2", "Gy"), Column("Engines", "spread"),
    ]  # fmt: skip
    rows = []
    for name, organ in results.organs.items():
        spread = engine_spread_percent(organ)
        flag = f"{FLAG} " if spread > LARGEST_ENGINE_SPREAD_PERCENT else ""
        rows.append(
            [
                title(name),
                significant(organ.volume_ml),
                significant(organ.mass_g),
                plus_minus(organ.tia_mbq_h, organ.tia_sd_mbq_h),
                significant(organ.effective_half_life_h),
                plus_minus(organ.mean_dose_gy, organ.dose_sd_gy),
                significant(organ.dose_gy_per_gbq),
                plus_minus(organ.bed_gy, organ.bed_sd_gy),
                plus_minus(organ.eqd2_gy, organ.eqd2_sd_gy),
                flag + percent(spread),
            ]
        )
    caption = (
        "± is one standard uncertainty (coverage factor k = 1; double it for k = 2). Volume and mass from the "
        "un-expanded mask on the diagnostic CT. TIA: time-integrated activity. T½ eff: effective half-life of the "
        "slowest phase. BED and EQD2: biologically effective dose and its equivalent in 2 Gy fractions, general "
        "Lea-Catcheside factor of the fitted curve. Engines: largest minus smallest mean dose of the three dose "
        "engines, flagged above 5 %."
    )
    if results.nuclide == "Lu-177" and any("kidney" in name for name in results.organs):
        caption += " Published for 177Lu-DOTATOC/DOTATATE: kidneys 0.37 to 0.57 Gy/GBq."
    return Table(columns, rows, caption)


def marrow(results: DoseResults) -> list[Heading | Note | Table]:
    """What is estimated of the red marrow, and on which assumptions; nothing where nothing is."""
    if not results.marrow:
        return []
    columns = [Column("By", align="left"), Column("Own electrons", "Gy"), Column("Photons", "Gy"), Column("Dose", "Gy"),
               Column("per activity", "Gy/GBq"), Column("T½ eff", "h"), Column("Assumed", align="left")]  # fmt: skip
    names = {"blood": "blood samples", "image": "vertebrae L2–L4"}
    rows = [
        [
            names[m.method], significant(m.self_gy), significant(m.photons_gy), plus_minus(m.dose_gy, m.dose_sd_gy),
            significant(1000 * m.dose_gy / results.injected_activity_mbq), significant(m.effective_half_life_h),
            "; ".join(m.said),
        ]
        for m in results.marrow
    ]  # fmt: skip
    caption = "After Hindorf et al., EJNMMI 37:1238 (2010); published for 177Lu-DOTATATE by blood: 0.01 to 0.03 Gy/GBq."
    note = "An estimate: where the marrow lies, how much of it there is and what it takes up is not measured."
    return [Heading("Bone marrow, estimated"), Note(note, "hint"), Table(columns, rows, caption)]


def activities(result: OrganDose) -> Table:
    """What was measured at each time point, and how the fit meets it."""
    tac = result.tac
    columns = [Column("Time after injection", "h"), Column("Activity", "MBq"), Column("Fit", "MBq"),
               Column("Residual", "MBq"), Column("Residual", "%"), Column("Recovery coefficient")]  # fmt: skip
    rows = []
    for i, (time, activity, residual) in enumerate(zip(tac.time_h, tac.activity_mbq, tac.residual_mbq, strict=True)):
        sd = tac.activity_sd_mbq[i] if i < len(tac.activity_sd_mbq) else None
        residual = residual if abs(residual) > 1e-5 * max(tac.activity_mbq) else 0.0  # rounding of an exact fit
        recovery = result.recovery_coefficient[i] if i < len(result.recovery_coefficient) else None
        rows.append(
            [
                f"{time:g}", plus_minus(activity, sd), significant(activity - residual), significant(residual, 2),
                percent(100 * residual / activity, signed=True) if activity > 0 else NOTHING, significant(recovery),
            ]
        )  # fmt: skip
    models = "; ".join(f"{model} {significant(tia, 4)}" for model, tia in tac.tia_mbq_h_by_model.items())
    untested = " (the curve passes through the points; nothing tests it)" if tac.degrees_of_freedom < 1 else ""
    caption = (
        f"Extrapolated after the last scan: {percent(100 * tac.extrapolated_fraction)} of the TIA. "
        f"Degrees of freedom: {tac.degrees_of_freedom}{untested}."
        + (f" TIA by model (MBq·h): {models}." if models else "")
    )
    return Table(columns, rows, caption)


def parameters_text(result: OrganDose) -> str:
    """Fitted parameters with their standard deviations, in a line."""
    tac = result.tac
    parts = []
    for key, value in tac.parameters.items():
        name, unit = split_unit(key)
        parts.append(f"{name} {plus_minus(value, tac.parameter_sd.get(key))}{f' {unit}' if unit else ''}")
    return ("Parameters: " + ", ".join(parts) + ".") if parts else ""


def dose_numbers(results: DoseResults, name: str) -> Table:
    """Doses by engine, the histogram's usual numbers and the uncertainty budget, side by side."""
    result, chosen = results.organs[name], str(results.options.get("engine", ""))
    doses = [
        (f"Mean, {ENGINES.get(engine, engine)}{' (reported)' if engine == chosen else ''}", significant(dose))
        for engine, dose in result.dose_gy_by_engine.items()
    ]
    doses += [("Minimum", significant(result.dvh.min_gy)), ("Maximum", significant(result.dvh.max_gy))]
    doses += [
        ("BED", plus_minus(result.bed_gy, result.bed_sd_gy)),
        ("EQD2", plus_minus(result.eqd2_gy, result.eqd2_sd_gy)),
    ]
    volumes = [(key, f"{plus_minus(v, result.dvh.d_sd_gy.get(key))} Gy") for key, v in result.dvh.d_gy.items()]
    volumes += [(f"{key} Gy", percent(v)) for key, v in result.dvh.v_percent.items()]
    parts = [(k, v) for k, v in result.uncertainty_percent.items() if v > 0 and k not in ("total", "dose", "combined")]
    budget = [(SOURCES_OF_ERROR.get(key, split_unit(key)[0].capitalize()), percent(value)) for key, value in parts]
    budget.append(("Mean dose, combined", percent(dose_sd_percent(result))))
    rows = []
    for i in range(max(len(doses), len(volumes), len(budget))):
        rows.append([text for part in (doses, volumes, budget) for text in (part[i] if i < len(part) else ("", ""))])
    columns = [Column("Dose", align="left"), Column("", "Gy"), Column("DVH", align="left"), Column(""),
               Column("Uncertainty", align="left"), Column("", "k = 1")]  # fmt: skip
    caption = (
        f"Mass {significant(result.mass_g)} g at {significant(result.density_g_cm3)} g/cm³. Dx: dose that the hottest "
        "x % of the volume receives at least; Vx: volume that receives at least x Gy. Relative standard uncertainties "
        "after Gear et al., EJNMMI 45:2456 (2018), independent; 'contour' is what an error of the volume does through "
        "counts, recovery and mass."
    )
    return Table(columns, rows, caption)


def dose_sd_percent(result: OrganDose) -> float:
    """Relative standard uncertainty of the mean dose, percent."""
    return 100 * result.dose_sd_gy / result.mean_dose_gy if result.mean_dose_gy > 0 else float("nan")


def registration_entry(results: DoseResults, index: int) -> Mapping[str, Any]:
    """What the results say of one time point's registration."""
    for entry in results.registration:
        if entry.get("time_point") == index:
            return entry
    return {}


def registration(results: DoseResults, study: Study) -> Table:
    """How each SPECT was brought onto its CT."""
    columns = [Column("Time", "h"), Column("CT", align="left"), Column("SPECT", align="left"),
               Column("Method", align="left"), Column("Shift x, y, z (LPS)", "mm"), Column("Rotation", "°"),
               Column("Agreement, R²", align="left")]  # fmt: skip
    rows = []
    for i, point in enumerate(study.time_points):
        entry = registration_entry(results, i)
        matrix = np.asarray(entry.get("matrix", point.spect_to_ct.matrix), dtype=float)
        center = np.asarray(entry.get("center_mm", (0.0, 0.0, 0.0)), dtype=float)
        shift = matrix[:3, :3] @ center + matrix[:3, 3] - center
        angle = np.degrees(np.arccos(np.clip((np.trace(matrix[:3, :3]) - 1) / 2, -1, 1)))
        before, after = entry.get("merit_before"), entry.get("merit_after")
        merit = f"{significant(before)} → {significant(after)}" if before != after else significant(after)
        rows.append(
            [
                f"{point.time_h:g}", point.ct, point.spect, str(entry.get("method", point.spect_to_ct.method)),
                ", ".join(fixed(float(v), 1) for v in shift), fixed(float(angle), 1),
                merit,
            ]
        )  # fmt: skip
    caption = (
        "Agreement: part of the SPECT's variance within 25 mm of the organs that their masks, blurred as the camera "
        "blurs, explain; before → after moving. It is low while activity is still outside the organs."
    )
    return Table(columns, rows, caption)


def truth_differences(results: DoseResults, truth: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, float, float]]:
    """(organ, difference of the mean dose in %, its standard uncertainty in %) for organs the truth knows."""
    rows = []
    for name, organ in results.organs.items():
        true = truth.get(name, {}).get("mean_dose_gy")
        if true:
            rows.append((name, 100 * (organ.mean_dose_gy / true - 1), 100 * organ.dose_sd_gy / true))
    return rows


def truth(results: DoseResults, truth_organs: Mapping[str, Mapping[str, Any]]) -> Table:
    """Computed beside true values, with differences."""
    columns = [Column("Organ", align="left"), Column("Mass", "g"), Column("true", "g"), Column("diff."),
               Column("TIA", "MBq·h"), Column("true", "MBq·h"), Column("diff."),
               Column("Mean dose", "Gy"), Column("true", "Gy"), Column("diff.")]  # fmt: skip
    rows = []
    for name, organ in results.organs.items():
        known = truth_organs.get(name)
        if known is None:
            continue
        row = [title(name)]
        for computed, key in (
            (organ.mass_g, "mass_g"),
            (organ.tia_mbq_h, "tia_mbq_h"),
            (organ.mean_dose_gy, "mean_dose_gy"),
        ):
            true = known.get(key)
            row += [significant(computed, 4), significant(true, 4)]
            row.append(percent(100 * (computed / true - 1), signed=True) if true else NOTHING)
        rows.append(row)
    differences = [abs(d) for _, d, _ in truth_differences(results, truth_organs)]
    caption = ""
    if differences:
        mean, worst = sum(differences) / len(differences), max(differences)
        caption = f"Mean absolute difference of the dose {percent(mean)}, largest {percent(worst)}. "
    return Table(
        columns, rows, caption + "The truth is computed with the phantom, on a finer grid and without these modules."
    )
