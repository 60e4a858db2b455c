"""How a result was made, for the dose report: the reporting fields of the EANM, hashes, options. Computes nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from doselabel.dosimetry.options import ANY
from doselabel.io.document import Column, Table
from doselabel.io.numerals import NOTHING, percent, plus_minus, significant
from doselabel.io.report_tables import dose_sd_percent
from doselabel.io.words import ENGINES, hours, injected, say, software_of, spell
from doselabel.labels import title
from doselabel.study import Study, image_id
from doselabel.wire import DoseResults, LabelVersion, OrganDose

VOI_SETTINGS = {
    "gtm": ("psf_fwhm_mm",),
    "margin": ("margin_mm",),
    "gaussian": ("gaussian_sigma_mm", "gaussian_level"),
    "threshold": ("threshold_percent", "search_mm"),
}
"""Options that each method of volumes of interest reads."""


def protocol(results: DoseResults, study: Study) -> Table:
    """The fields of EANM 2024, Table 4."""
    options, made = results.options, results.provenance

    def each(say: Callable[[OrganDose], str]) -> str:
        return "; ".join(f"{title(name)} {say(organ)}" for name, organ in results.organs.items())

    activity = f"{significant(results.injected_activity_mbq, 4)} MBq {results.nuclide}"
    reviewed = "reviewed" if results.reviewed else "NOT reviewed"
    rows = [
        ("Administered activity and time", f"{activity}; {injected(study)}"),
        ("Calibration", f"SPECT in {study.spect_unit}{' and a camera file' if study.spect_unit == 'counts' else ''}; "
         f"standard uncertainty {percent(100 * study.calibration_relative_sd)} (k = 1)"),
        ("Acquisition", f"{len(study.time_points)} SPECT/CT"),
        ("Time points", hours(results.time_h) + " after injection (middle of the scan)"),
        ("Volumes of interest", _grouped(options, ("voi", *VOI_SETTINGS.get(str(options.get("voi")), ())))),
        ("Masses", each(lambda o: f"{significant(o.mass_g)} g")),
        ("Density and its source", each(lambda o: f"{significant(o.density_g_cm3)} g/cm³")
         + " (label table: ICRP 110; kidney: Nazari et al. 2021)"),
        ("Time-activity fit", each(lambda o: f"'{o.tac.model}', degrees of freedom {o.tac.degrees_of_freedom}")),
        *_half_lives(results.options),
        ("Goodness of fit", "largest residual: " + each(lambda o: percent(largest_residual_percent(o)))),
        ("Extrapolated part of the TIA", each(lambda o: percent(100 * o.tac.extrapolated_fraction))),
        ("Dose engine", ENGINES.get(str(options.get("engine")), say(options.get("engine")))),
        ("S-values: source and version", _s_values(made)),
        ("Uncertainty of the mean dose", "k = 1: " + each(lambda o: percent(dose_sd_percent(o)))),
        ("Software", software_of(results)),
        ("Model that drew the masks", _models(results, study)),
        ("Origin of the masks", f"{results.labels_origin or 'not stated'}; {reviewed}"),
        ("Manual edits", "; ".join(manual_edits(results, study)) or "none recorded"),
        ("Effective dose", "not given: it describes stochastic risk in populations, not the effects of therapy"),
    ]  # fmt: skip
    caption = "Fields after the EANM guidance on dosimetry reporting, 2024, Table 4."
    return Table([Column("Field", align="left"), Column("Value", align="left")], rows, caption)


def _half_lives(options: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was stated of effective half-lives."""
    stated, sd = options.get("population_half_life_h") or {}, options.get("population_half_life_sd_h") or {}
    each = "; ".join(f"{'all' if n == ANY else title(n)} {plus_minus(t, sd.get(n))} h" for n, t in stated.items())
    return [("Half-lives taken as known", f"{each} (as stated)")] if stated else []


def half_lives(results: DoseResults) -> Table | None:
    """What was known of half-lives before, from where, and what came of it with the scans; None where nothing was."""
    rows = []
    for name, organ in results.organs.items():
        if (prior := organ.tac.half_life_prior) is not None:
            known = ", ".join(f"{source} {plus_minus(t.half_life_h, t.sd_h)}" for source, t in prior.sources.items())
            own = NOTHING if prior.own is None else plus_minus(prior.own.half_life_h, prior.own.sd_h)
            together = significant(organ.effective_half_life_h)
            rows.append([title(name), own, plus_minus(prior.half_life_h, prior.sd_h), known, together])
    if not rows:
        return None
    columns = [Column("Half-life, h", align="left"), Column("Own scans"), Column("Known before"),
               Column("From", align="left"), Column("Both")]  # fmt: skip
    source = results.options.get("half_life_source")
    caption = (
        "Curves weighed (Bayes) with what was known of their half-lives; ± are standard deviations. "
        f"{percent(100 * results.options.get('half_life_shared', 0))} of the variance between patients is taken as "
        "common to a patient's organs (assumed)." + (f" Earlier cycles: {source}." if source else "")
    )
    return Table(columns, rows, caption)


def _models(results: DoseResults, study: Study) -> str:
    started = {v.started_from for v in label_versions(results, study).values() if v.started_from}
    return ", ".join(sorted(started)) or "none stated"


def largest_residual_percent(result: OrganDose) -> float:
    """Largest |residual| over the measured activity, percent."""
    pairs = zip(result.tac.residual_mbq, result.tac.activity_mbq, strict=True)
    return max((100 * abs(r) / a for r, a in pairs if a > 0), default=float("nan"))


def label_versions(results: DoseResults, study: Study) -> dict[str, LabelVersion]:
    """CT file name → the submitted version whose file was used, found by its hash in the study's label store."""
    inputs: Any = results.provenance.get("inputs") or {}
    found = {}
    for name in study.cts().values():
        used = inputs.get(f"labels of {name}")
        stem = image_id(study.patient_id, name).partition("__")[2]
        for path in sorted((study.folder / "labels" / "versions" / stem).glob("v*.json")):
            if path.name.endswith(".review.json"):
                continue
            try:
                version = LabelVersion.model_validate_json(path.read_bytes())
            except (OSError, ValueError):
                continue  # a damaged record is not the report's to mend; its masks stay listed by their hash
            if version.sha256 and version.sha256 == used:
                found[name] = version
    return found


def history(results: DoseResults, study: Study) -> Table | None:
    """Who made the masks that were used, from what, and what they said of it; None for masks from elsewhere."""
    versions = label_versions(results, study)
    rows = [
        [
            name, str(v.version), {"model": "network", "corrected": "corrected by hand"}.get(v.origin, v.origin),
            v.author or NOTHING, v.created.strftime("%Y-%m-%d %H:%M"), v.started_from or NOTHING, v.comment or NOTHING,
        ]
        for name, v in versions.items()
    ]  # fmt: skip
    titles = ("Masks of", "Version", "Origin", "Author", "Time (UTC)", "Started from", "Comment")
    return Table([Column(t, align="left") for t in titles], rows) if rows else None


def manual_edits(results: DoseResults, study: Study) -> list[str]:
    """Everything a person changed by hand that the results and the study know of."""
    texts = [
        f"masks of {name}: version {v.version} by {v.author or 'an unnamed author'}"
        for name, v in label_versions(results, study).items()
        if v.origin != "model"
    ]
    drawn: Any = results.provenance.get("vois_by_hand") or {}
    texts += [
        f"{when}: volumes of interest of {', '.join(map(title, voi['organs']))} corrected by hand"
        for when, voi in drawn.items()
    ]
    for entry in results.registration:
        if "manual" in str(entry.get("method", "")):
            index = int(entry["time_point"])
            comment = study.time_points[index].spect_to_ct.comment
            texts.append(f"time point {index + 1}: SPECT moved by hand{f' ({comment})' if comment else ''}")
    return texts


def provenance(results: DoseResults) -> list[Table]:
    """Hashes of the inputs, then all options and everything else that made the result."""
    inputs = results.provenance.get("inputs")
    tables = []
    if isinstance(inputs, Mapping) and inputs:
        rows = [[name, _hash(value)] for name, value in inputs.items()]
        tables.append(Table([Column("Input", align="left"), Column("SHA-256", align="left")], rows, mono=[1]))
    rest = {k: v for k, v in results.provenance.items() if k != "inputs"}
    rows = [["option", spell(k), say(v)] for k, v in flatten(results.options) if v is not None]
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
