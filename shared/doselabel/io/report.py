"""The dose report of one patient as `report.html` and `report.pdf`. Knows results and images; computes no doses.

What it states follows Table 4 of the EANM guidance on dosimetry reporting (2024) as listed in docs/dosimetry.md:
administration, calibration, acquisition, volumes and masses, fit and its goodness, extrapolated fraction, S-values
and their source, uncertainty with its coverage factor, software, models, hashes and every manual edit.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from doselabel.dosimetry.results import masks_name, read_dose
from doselabel.errors import DoseError, Progress, no_progress
from doselabel.geometry import Volume, placed
from doselabel.io import figures
from doselabel.io import report_method as method
from doselabel.io import report_stated as reporting
from doselabel.io import report_tables as tables
from doselabel.io.document import Block, Document, Figure, Heading, Note, to_html
from doselabel.io.numerals import significant
from doselabel.io.pdf import to_pdf
from doselabel.io.words import SMALL_PRINT, reader
from doselabel.labels import LabelMap, read_labels, title
from doselabel.reading import read_spect
from doselabel.study import Study
from doselabel.wire import DoseResults

NOT_REVIEWED = (
    "THE ORGAN MASKS HAVE NOT BEEN REVIEWED BY ANYBODY. Look at every contour and correct it before any number "
    "of this report is used."
)


@dataclass(frozen=True)
class ReportFiles:
    """Where the report lies."""

    html: Path
    pdf: Path


def write_report(
    results: DoseResults,
    study: Study,
    labels: Mapping[str, LabelMap],
    dose: Volume,
    out: str | Path,
    *,
    truth: str | Path | Mapping[str, Any] | None = None,
    progress: Progress = no_progress,
) -> ReportFiles:
    """Write ``report.html`` (self-contained) and ``report.pdf`` (A4) with the same content.

    Parameters
    ----------
    results : DoseResults
        What the pipeline computed.
    study : Study
        The study it was computed from; CTs and SPECTs are read for the overlays.
    labels : mapping of str to LabelMap
        The masks used, by the CT's file name in the manifest. A time point without one is shown without contours.
    dose : Volume
        Absorbed dose, Gy, as the pipeline wrote it (see `in_ct_frame`).
    out : path
        Folder to write into.
    truth : path or mapping, optional
        A phantom's ``truth.json``: adds a comparison with it.

    Raises
    ------
    DoseError
        When the truth file can't be read.
    StudyError, GeometryError
        When an image can't be read.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    progress("report: images", 0.0)
    document = build(results, study, labels, dose, truth=truth)
    progress("report: html", 0.2)
    html = out / "report.html"
    temporary = html.with_name(".writing-report.html")
    temporary.write_text(to_html(document), encoding="utf-8")
    temporary.replace(html)
    progress("report: pdf", 0.6)
    pdf = to_pdf(document, out / "report.pdf")
    progress("report", 1.0)
    return ReportFiles(html, pdf)


def write_report_of(
    folder: str | Path, study: Study, *, truth: str | Path | None = None, progress: Progress = no_progress
) -> ReportFiles:
    """Write the report of a folder that `doselabel.dosimetry.pipeline.run` filled, into the same folder."""
    results, dose = read_dose(folder)
    labels = {}
    for name in study.cts().values():
        path = Path(folder) / masks_name(name)
        if path.is_file():
            labels[name] = read_labels(path)
    return write_report(results, study, labels, dose, folder, truth=truth, progress=progress)


def build(
    results: DoseResults,
    study: Study,
    labels: Mapping[str, LabelMap],
    dose: Volume,
    *,
    truth: str | Path | Mapping[str, Any] | None = None,
) -> Document:
    """The report's blocks, before they become a page."""
    truth_organs = read_truth(truth) if truth is not None else None
    blocks: list[Block] = [*_banners(results), tables.key_facts(results, study)]
    blocks += [Heading("Absorbed dose"), tables.summary(results)]
    if results.organs:
        curves = {name: result.dvh for name, result in results.organs.items()}
        blocks.append(
            Figure(
                lambda fig: figures.dvh(fig, curves), 178, 66,
                "Cumulative dose-volume histograms. Dots: D70 and D30, the dose that 70 % and 30 % of the volume "
                "receives at least.", "Cumulative dose-volume histograms of all organs",
            )
        )  # fmt: skip
    if truth_organs is not None:
        blocks += _truth(results, truth_organs)
    blocks += tables.marrow(results)
    reference, moved = in_ct_frame(results, study, dose)
    ct = study.read(reference)
    for name in results.organs:
        blocks += _organ(results, name, ct, labels.get(reference), moved)
    blocks += _registration(results, study, labels)
    blocks.append(Heading("How it was done", together=True))
    if unsaid := reporting.missing(results, study):
        blocks.append(unsaid)
    blocks += [method.protocol(results, study)]
    if known := method.half_lives(results):
        blocks.append(known)
    blocks.append(reporting.stated_table(results, study))
    blocks += [Heading("What was assumed", level=3), reporting.assumed(results, study)]
    if history := method.history(results, study):
        blocks += [Heading("Who drew the masks", level=3), history]
    blocks += [Heading("Provenance"), *method.provenance(results)]
    subtitle = (
        f"Patient {results.patient_id}  ·  {results.nuclide}  ·  {significant(results.injected_activity_mbq, 4)} MBq"
    )
    return Document("Absorbed-dose report", subtitle, SMALL_PRINT, blocks, tables.created(results))


def in_ct_frame(results: DoseResults, study: Study, dose: Volume) -> tuple[str, Volume]:
    """File name of the CT that a dose map is shown on, and the map in that CT's frame.

    A map on the diagnostic CT's grid is there already; one on the reference SPECT's grid lies where that SPECT was
    acquired, and is moved with it onto its own CT.
    """
    made: Any = results.provenance.get("dose_map") or {}
    reference = results.options.get("reference")
    if made.get("grid") != "spect" or not isinstance(reference, int):
        return study.ct, dose
    matrix = np.asarray(tables.registration_entry(results, reference).get("matrix", np.eye(4)), dtype=float)
    return study.time_points[reference].ct, Volume(dose.array, placed(dose.geometry, matrix))


def read_truth(truth: str | Path | Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    """Organs of a phantom's ``truth.json``, given as a path or already read."""
    content: Any = truth
    if isinstance(truth, str | Path):
        try:
            content = json.loads(Path(truth).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise DoseError(f"{truth}: the truth can't be read ({error}).", "Give a phantom's truth.json.") from error
    organs = content.get("organs") if isinstance(content, Mapping) else None
    if not isinstance(organs, Mapping):
        raise DoseError(f"{truth if isinstance(truth, str | Path) else 'The truth'}: has no 'organs'.")
    return organs


def _banners(results: DoseResults) -> list[Block]:
    blocks: list[Block] = [*tables.alarm_notes(results.grave())]
    if not results.reviewed:
        blocks.append(Note(NOT_REVIEWED, "alarm"))
    if warnings := tables.all_warnings(results):
        blocks.append(Note("", "warning", [reader(text) for text in warnings]))
    return blocks


def _truth(results: DoseResults, truth: Mapping[str, Mapping[str, Any]]) -> list[Block]:
    rows = tables.truth_differences(results, truth)
    if not rows:
        return [Heading("Against the phantom's truth"), Note("The truth knows none of these organs.", "hint")]
    chart = [(title(name), difference, sd) for name, difference, sd in rows]
    return [
        Heading("Against the phantom's truth"),
        tables.truth(results, truth),
        Figure(
            lambda fig: figures.differences(fig, chart), 150, figures.differences_height_mm(len(chart)),
            "Computed minus true mean absorbed dose.", "Differences from the truth in percent",
        ),
    ]  # fmt: skip


def _organ(results: DoseResults, name: str, ct: Volume, labels: LabelMap | None, dose: Volume) -> list[Block]:
    result = results.organs[name]
    blocks: list[Block] = [Heading(title(name), together=True)]
    if result.warnings:
        blocks.append(Note("", "warning", [reader(text) for text in result.warnings]))
    if labels is not None and labels.mask(name).any():
        blocks.append(
            Figure(
                lambda fig: figures.dose_overlay(fig, ct, labels, name, dose, result.dvh.mean_gy, result.dvh.max_gy),
                178, 60, "CT, contours of all organs and isodose lines on three planes through the organ's centre.",
                f"Isodose lines on three planes through the {title(name).lower()}", vector=False,
            )
        )  # fmt: skip
    lower = title(name).lower()
    blocks += [
        Figure(
            lambda fig: figures.organ_charts(fig, result), 178, 52,
            "Time-activity curve (activities as measured, not decay-corrected; bars k = 1), its extrapolation, and the "
            f"dose-volume histogram with its differential form as a tint. {tables.parameters_text(result)}",
            f"Time-activity curve, residuals and dose-volume histogram of the {lower}",
        ),
        tables.activities(result),
        tables.dose_numbers(results, name),
    ]  # fmt: skip
    return blocks


def _registration(results: DoseResults, study: Study, labels: Mapping[str, LabelMap]) -> list[Block]:
    frames = []
    for i, point in enumerate(study.time_points):
        entry = tables.registration_entry(results, i)
        frames.append(
            figures.SpectFrame(
                point.time_h,
                study.read(point.ct),
                read_spect(study, i),
                labels.get(point.ct),
                np.asarray(entry.get("matrix", point.spect_to_ct.matrix), dtype=float),
                str(entry.get("method", point.spect_to_ct.method)),
            )
        )
    caption = (
        "SPECT over CT at each time point with the organ contours of that CT: uptake that leaves its contour on one "
        "side shows misalignment. Every time point has its own colour scale."
    )
    headings = figures.spect_headings(frames)
    height = figures.spect_height_mm(frames)
    overlays = [
        Figure(
            lambda fig, frame=frame: figures.spect_overlay(fig, frame, headings, height),  # type: ignore[misc]
            figures.SPECT_WIDTH_MM, height, caption if frame is frames[-1] else "",
            f"SPECT and CT overlays at {frame.time_h:g} h", vector=False,
        )
        for frame in frames
    ]  # fmt: skip
    return [Heading("SPECT and CT together", together=True), tables.registration(results, study), *overlays]


def sections(document: Document) -> Sequence[str]:
    """Titles of the report's parts, in order."""
    return [block.text for block in document.blocks if isinstance(block, Heading) and block.level == 2]
