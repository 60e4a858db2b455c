"""Tables and facts of the dose report: numbers of `DoseResults` as texts with units. Draws and computes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from doselabel.io.document import FLAG, Column, Facts, Table
from doselabel.io.numbers import NOTHING, fixed, percent, plus_minus, significant
from doselabel.labels import title
from doselabel.study import Study
from doselabel.wire import DoseResults, OrganDose

LARGEST_ENGINE_SPREAD_PERCENT = 5.0
ENGINES = {"organ": "organ S-value", "local": "local deposition", "voxel-s": "voxel S-value convolution"}
_UNITS = {
    "mm": "mm", "h": "h", "mbq": "MBq", "gy": "Gy", "g_cm3": "g/cm³", "percent": "%", "ml": "mL", "g": "g",
    "kev": "keV", "s": "s", "seconds": "s", "mbq_h": "MBq·h", "gbq": "GBq",
}  # fmt: skip


def created(results: DoseResults) -> str:
    """When the results were made, without fractions of a second."""
    text = str(results.provenance.get("created", ""))
    return text.replace("T", " ")[:16]


def all_warnings(results: DoseResults) -> list[str]:
    """Warnings of the whole study, then those of organs, a text that several organs share only once."""
    by_text: dict[str, list[str]] = {}
    for name, result in results.organs.items():
        texts = list(result.warnings)
        spread = engine_spread_percent(result)
        if spread > LARGEST_ENGINE_SPREAD_PERCENT and not any("engine" in text for text in texts):
            texts.append(f"dose engines differ by {percent(spread)}")
        for text in texts:
            by_text.setdefault(text, []).append(title(name))
    return [*dict.fromkeys(results.warnings), *(f"{', '.join(names)}: {text}" for text, names in by_text.items())]


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
            ("Administered at", _injected(study)),
            ("SPECT/CT after injection", _hours(results.time_h)),
            ("Organ masks", results.labels_origin or "not stated"),
            ("Masks reviewed", "yes" if results.reviewed else "NO"),
            ("VOI method", _value(options.get("voi"))),
            ("Time-activity model", _value(options.get("tac"))),
            ("Dose engine", ENGINES.get(str(options.get("engine")), _value(options.get("engine")))),
            ("Software", _software(results)),
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
                significant(organ.bed_gy),
                significant(organ.eqd2_gy),
                flag + percent(spread),
            ]
        )
    caption = (
        "± is one standard uncertainty (coverage factor k = 1; double it for k = 2). Volume and mass from the "
        "un-expanded mask on the diagnostic CT. TIA: time-integrated activity. T½ eff: effective half-life of the "
        "slowest phase. BED and EQD2: biologically effective dose and its equivalent in 2 Gy fractions, general "
        "Lea-Catcheside factor of the fitted curve. Engines: largest minus smallest mean dose of the three dose "
        "engines, flagged above 5 %. Published for 177Lu-DOTATOC/DOTATATE: kidneys 0.37 to 0.57 Gy/GBq."
    )
    return Table(columns, rows, caption)


def activities(result: OrganDose) -> Table:
    """What was measured at each time point, and how the fit meets it."""
    tac = result.tac
    columns = [Column("Time after injection", "h"), Column("Activity", "MBq"), Column("Fit", "MBq"),
               Column("Residual", "MBq"), Column("Residual", "%"), Column("Recovery coefficient")]  # fmt: skip
    rows = []
    for i, (time, activity, residual) in enumerate(zip(tac.time_h, tac.activity_mbq, tac.residual_mbq, strict=True)):
        sd = tac.activity_sd_mbq[i] if i < len(tac.activity_sd_mbq) else None
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
    doses += [("BED", significant(result.bed_gy)), ("EQD2", significant(result.eqd2_gy))]
    volumes = [(key, significant(value)) for key, value in result.dvh.d_gy.items()]
    parts = [(k, v) for k, v in result.uncertainty_percent.items() if k not in ("total", "dose", "combined")]
    budget = [(split_unit(key)[0].capitalize(), percent(value)) for key, value in parts]
    budget.append(("Mean dose, combined", percent(dose_sd_percent(result))))
    rows = []
    for i in range(max(len(doses), len(volumes), len(budget))):
        rows.append([text for part in (doses, volumes, budget) for text in (part[i] if i < len(part) else ("", ""))])
    columns = [Column("Dose", align="left"), Column("", "Gy"), Column("DVH", align="left"), Column("", "Gy"),
               Column("Uncertainty", align="left"), Column("", "k = 1")]  # fmt: skip
    caption = (
        f"Mass {significant(result.mass_g)} g at {significant(result.density_g_cm3)} g/cm³. Dx: dose that the hottest "
        "x % of the volume receives at least. Uncertainties are relative standard uncertainties propagated after Gear et "
        "al., EJNMMI 45:2456 (2018); parts that are correlated (volume and recovery) do not add in quadrature."
    )
    return Table(columns, rows, caption)


def dose_sd_percent(result: OrganDose) -> float:
    """Relative standard uncertainty of the mean dose, percent."""
    return 100 * result.dose_sd_gy / result.mean_dose_gy if result.mean_dose_gy > 0 else float("nan")


def registration_entry(results: DoseResults, index: int) -> Mapping[str, Any]:
    """What the results say of one time point's registration."""
    for entry in results.registration:
        if entry.get("time_point", entry.get("index")) == index:
            return entry
    return results.registration[index] if index < len(results.registration) else {}


def registration(results: DoseResults, study: Study) -> Table:
    """How each SPECT was brought onto its CT."""
    columns = [Column("Time", "h"), Column("CT", align="left"), Column("SPECT", align="left"),
               Column("Method", align="left"), Column("Shift x, y, z (LPS)", "mm"), Column("Rotation", "°"),
               Column("Figure of merit", align="left")]  # fmt: skip
    rows = []
    for i, point in enumerate(study.time_points):
        entry = registration_entry(results, i)
        matrix = np.asarray(entry.get("matrix", point.spect_to_ct.matrix), dtype=float)
        center = _image_center(entry)
        shift = matrix[:3, :3] @ center + matrix[:3, 3] - center
        angle = np.degrees(np.arccos(np.clip((np.trace(matrix[:3, :3]) - 1) / 2, -1, 1)))
        merit = {k: v for k, v in entry.items() if isinstance(v, int | float) and not isinstance(v, bool)
                 and k not in ("time_point", "index", "time_h")}  # fmt: skip
        rows.append(
            [
                f"{point.time_h:g}", point.ct, point.spect, str(entry.get("method", point.spect_to_ct.method)),
                ", ".join(fixed(float(v), 1) for v in shift), fixed(float(angle), 1),
                ", ".join(f"{_spell(k)} {_value(v)}" for k, v in merit.items()) or NOTHING,
            ]
        )  # fmt: skip
    return Table(columns, rows)


def _image_center(entry: Mapping[str, Any]) -> np.ndarray:
    return np.asarray(entry.get("center_mm", (0.0, 0.0, 0.0)), dtype=float)


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


def protocol(results: DoseResults, study: Study) -> Table:
    """The fields of EANM 2024, Table 4."""
    options, made = results.options, results.provenance
    psf = "not stated"
    if study.psf_fwhm_mm is not None:
        psf = " × ".join(significant(v) for v in study.psf_fwhm_mm) + " mm FWHM (z, y, x)"

    def each(say: Callable[[OrganDose], str]) -> str:
        return "; ".join(f"{title(name)} {say(organ)}" for name, organ in results.organs.items())

    activity = f"{significant(results.injected_activity_mbq, 4)} MBq {results.nuclide}"
    reviewed = "reviewed" if results.reviewed else "NOT reviewed"
    rows = [
        ("Administered activity and time", f"{activity}; {_injected(study)}"),
        ("Calibration", "quantitative SPECT in Bq/mL; standard uncertainty "
         f"{percent(study.calibration_sd_percent)} (k = 1)"),
        ("Acquisition", f"{len(study.time_points)} SPECT/CT; camera resolution {psf}"),
        ("Time points", _hours(results.time_h) + " after injection (middle of the scan)"),
        ("Volumes of interest", _grouped(options, ("voi", "margin_mm", "gaussian_sigma_mm", "threshold", "psf"))),
        ("Masses", each(lambda o: f"{significant(o.mass_g)} g")),
        ("Density and its source", each(lambda o: f"{significant(o.density_g_cm3)} g/cm³")
         + " (label table: ICRP 110; kidney: Nazari et al. 2021)"),
        ("Time-activity fit", each(lambda o: f"'{o.tac.model}', degrees of freedom {o.tac.degrees_of_freedom}")),
        ("Goodness of fit", "largest residual: " + each(lambda o: percent(largest_residual_percent(o)))),
        ("Extrapolated part of the TIA", each(lambda o: percent(100 * o.tac.extrapolated_fraction))),
        ("Dose engine", ENGINES.get(str(options.get("engine")), _value(options.get("engine")))),
        ("S-values: source and version", _s_values(made)),
        ("Uncertainty of the mean dose", "k = 1: " + each(lambda o: percent(dose_sd_percent(o)))),
        ("Software", _software(results)),
        ("Model that drew the masks", _value(made.get("model") or "none stated")),
        ("Origin of the masks", f"{results.labels_origin or 'not stated'}; {reviewed}"),
        ("Manual edits", "; ".join(manual_edits(results)) or "none recorded"),
        ("Effective dose", "not given: it describes stochastic risk in populations, not the effects of therapy"),
    ]  # fmt: skip
    caption = "Fields after the EANM guidance on dosimetry reporting, 2024, Table 4."
    return Table([Column("Field", align="left"), Column("Value", align="left")], rows, caption)


def _injected(study: Study) -> str:
    return study.injection_time.isoformat(" ", "minutes") if study.injection_time else "time not stated"


def _hours(times: Sequence[float]) -> str:
    return ", ".join(f"{t:g}" for t in times) + " h"


def largest_residual_percent(result: OrganDose) -> float:
    """Largest |residual| over the measured activity, percent."""
    pairs = zip(result.tac.residual_mbq, result.tac.activity_mbq, strict=True)
    return max((100 * abs(r) / a for r, a in pairs if a > 0), default=float("nan"))


def manual_edits(results: DoseResults) -> list[str]:
    """Everything a person changed by hand that the results know of."""
    edits = results.provenance.get("manual_edits") or []
    texts = [_value(edit) for edit in (edits if isinstance(edits, list | tuple) else [edits])]
    for i, entry in enumerate(results.registration):
        if "manual" in str(entry.get("method", "")):
            comment = f" ({entry['comment']})" if entry.get("comment") else ""
            texts.append(f"time point {i + 1}: SPECT moved by hand{comment}")
    return texts


def provenance(results: DoseResults) -> list[Table]:
    """Hashes of the inputs, then all options and everything else that made the result."""
    inputs = results.provenance.get("inputs")
    tables = []
    if isinstance(inputs, Mapping) and inputs:
        rows = [[name, _hash(value)] for name, value in inputs.items()]
        tables.append(Table([Column("Input", align="left"), Column("SHA-256", align="left")], rows, mono=[1]))
    rest = {k: v for k, v in results.provenance.items() if k != "inputs"}
    rows = [["option", _spell(k), _value(v)] for k, v in flatten(results.options)]
    rows += [["provenance", _spell(k), _value(v)] for k, v in flatten(rest)]
    rows.append(["schema", "results.json", results.schema_])
    columns = [Column("Kind", align="left"), Column("What", align="left"), Column("Value", align="left")]
    return [*tables, Table(columns, rows)]


def flatten(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested mappings as dotted names."""
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def split_unit(key: str) -> tuple[str, str]:
    """Name and unit of a key such as ``lambda1_per_h`` or ``margin_mm``.

    >>> split_unit("lambda1_per_h"), split_unit("margin_mm"), split_unit("voi")
    (('λ1', '1/h'), ('margin', 'mm'), ('voi', ''))
    """
    words = key.split("_")
    unit = ""
    if len(words) > 2 and words[-2] == "per" and words[-1] in _UNITS:
        unit, words = f"1/{_UNITS[words[-1]]}", words[:-2]
    else:
        for n in (2, 1):
            if len(words) > n and "_".join(words[-n:]) in _UNITS:
                unit, words = _UNITS["_".join(words[-n:])], words[:-n]
                break
    return " ".join(words).replace("lambda", "λ"), unit


def _spell(key: str) -> str:
    head, _, last = key.rpartition(".")
    name, unit = split_unit(last)
    text = f"{head.replace('_', ' ').replace('.', ', ')}, {name}" if head else name
    return f"{text} ({unit})" if unit else text


def _value(value: Any) -> str:
    if value is None or value == "":
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return significant(value, 4)
    if isinstance(value, Mapping):
        return ", ".join(f"{_spell(str(k))} {_value(v)}" for k, v in value.items()) or NOTHING
    if isinstance(value, list | tuple):
        return ", ".join(_value(v) for v in value) or "none"
    return str(value)


def _hash(value: Any) -> str:
    return str(value.get("sha256", _value(value))) if isinstance(value, Mapping) else str(value)


def _grouped(options: Mapping[str, Any], keys: tuple[str, ...]) -> str:
    known = [(k, v) for k, v in flatten(options) if k.split(".")[0] in keys and v is not None]
    return "; ".join(f"{_spell(k)}: {_value(v)}" for k, v in known) or NOTHING


def _software(results: DoseResults) -> str:
    software = results.provenance.get("software") or results.provenance.get("version")
    return _value(software) if software else "not stated"


def _s_values(content: Mapping[str, Any]) -> str:
    kernel = content.get("kernel") or content.get("kernels") or {}
    if not isinstance(kernel, Mapping):
        return _value(kernel)
    keys = ("nuclide", "material", "medium", "density_g_cm3", "spacing_mm", "decay_data", "sha256")
    return "; ".join(f"{_spell(k)}: {_value(kernel[k])}" for k in keys if k in kernel) or _value(kernel)
