"""How a result was made, for the dose report: the reporting fields of the EANM, hashes, options. Computes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from doselabel.io.document import Column, Table
from doselabel.io.numbers import NOTHING, percent, significant
from doselabel.io.report_tables import dose_sd_percent
from doselabel.io.words import ENGINES, hours, injected, say, software_of, spell
from doselabel.labels import title
from doselabel.study import Study
from doselabel.wire import DoseResults, OrganDose


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
        ("Administered activity and time", f"{activity}; {injected(study)}"),
        ("Calibration", "quantitative SPECT in Bq/mL; standard uncertainty "
         f"{percent(study.calibration_sd_percent)} (k = 1)"),
        ("Acquisition", f"{len(study.time_points)} SPECT/CT; camera resolution {psf}"),
        ("Time points", hours(results.time_h) + " after injection (middle of the scan)"),
        ("Volumes of interest", _grouped(options, ("voi", "margin_mm", "gaussian_sigma_mm", "threshold", "psf"))),
        ("Masses", each(lambda o: f"{significant(o.mass_g)} g")),
        ("Density and its source", each(lambda o: f"{significant(o.density_g_cm3)} g/cm³")
         + " (label table: ICRP 110; kidney: Nazari et al. 2021)"),
        ("Time-activity fit", each(lambda o: f"'{o.tac.model}', degrees of freedom {o.tac.degrees_of_freedom}")),
        ("Goodness of fit", "largest residual: " + each(lambda o: percent(largest_residual_percent(o)))),
        ("Extrapolated part of the TIA", each(lambda o: percent(100 * o.tac.extrapolated_fraction))),
        ("Dose engine", ENGINES.get(str(options.get("engine")), say(options.get("engine")))),
        ("S-values: source and version", _s_values(made)),
        ("Uncertainty of the mean dose", "k = 1: " + each(lambda o: percent(dose_sd_percent(o)))),
        ("Software", software_of(results)),
        ("Model that drew the masks", say(made.get("model") or "none stated")),
        ("Origin of the masks", f"{results.labels_origin or 'not stated'}; {reviewed}"),
        ("Manual edits", "; ".join(manual_edits(results)) or "none recorded"),
        ("Effective dose", "not given: it describes stochastic risk in populations, not the effects of therapy"),
    ]  # fmt: skip
    caption = "Fields after the EANM guidance on dosimetry reporting, 2024, Table 4."
    return Table([Column("Field", align="left"), Column("Value", align="left")], rows, caption)


def largest_residual_percent(result: OrganDose) -> float:
    """Largest |residual| over the measured activity, percent."""
    pairs = zip(result.tac.residual_mbq, result.tac.activity_mbq, strict=True)
    return max((100 * abs(r) / a for r, a in pairs if a > 0), default=float("nan"))


def manual_edits(results: DoseResults) -> list[str]:
    """Everything a person changed by hand that the results know of."""
    edits = results.provenance.get("manual_edits") or []
    texts = [say(edit) for edit in (edits if isinstance(edits, list | tuple) else [edits])]
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
    rows = [["option", spell(k), say(v)] for k, v in flatten(results.options)]
    rows += [["provenance", spell(k), say(v)] for k, v in flatten(rest)]
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


def _hash(value: Any) -> str:
    return str(value.get("sha256", say(value))) if isinstance(value, Mapping) else str(value)


def _grouped(options: Mapping[str, Any], keys: tuple[str, ...]) -> str:
    known = [(k, v) for k, v in flatten(options) if k.split(".")[0] in keys and v is not None]
    return "; ".join(f"{spell(k)}: {say(v)}" for k, v in known) or NOTHING


def _s_values(content: Mapping[str, Any]) -> str:
    kernel = content.get("kernel") or content.get("kernels") or {}
    if not isinstance(kernel, Mapping):
        return say(kernel)
    keys = ("nuclide", "material", "medium", "density_g_cm3", "spacing_mm", "decay_data", "sha256")
    return "; ".join(f"{spell(k)}: {say(kernel[k])}" for k in keys if k in kernel) or say(kernel)
