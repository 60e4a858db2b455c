"""The report of a course of cycles, as `results.json`, `report.html` and `report.pdf`. Computes no doses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import FigureBase

from doselabel.dosimetry.course import NEAR
from doselabel.io.document import Block, Column, Document, Facts, Figure, Heading, Note, Table, to_html
from doselabel.io.figures import INK, SOFT, organ_color
from doselabel.io.numerals import NOTHING, fixed, percent, plus_minus, significant
from doselabel.io.pdf import to_pdf
from doselabel.io.report_tables import alarm_notes
from doselabel.io.words import SMALL_PRINT
from doselabel.labels import title
from doselabel.wire import Constraint, CourseResults, OrganCourse


@dataclass(frozen=True)
class CourseFiles:
    """Where the report lies."""

    results: Path
    html: Path
    pdf: Path


def write_course(found: CourseResults, out: str | Path) -> CourseFiles:
    """Write results and report; `results.json` last, so that it never speaks of files that are not there."""
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    document = build(found)
    html, results = out / "report.html", out / "results.json"
    html.write_text(to_html(document), encoding="utf-8")
    pdf = to_pdf(document, out / "report.pdf")
    temporary = out / ".writing-results.json"
    temporary.write_text(found.model_dump_json(by_alias=True, indent=1), encoding="utf-8")
    temporary.replace(results)
    return CourseFiles(results, html, pdf)


def build(found: CourseResults) -> Document:
    """The report's blocks."""
    blocks: list[Block] = [*alarm_notes([alarm for alarm in found.alarms if alarm.code != NEAR])]
    if near := [alarm.sentence for alarm in found.alarms if alarm.code == NEAR]:
        blocks.append(Note("A limit is reached, or within one standard uncertainty.", "alarm", near))
    if found.warnings:
        blocks.append(Note("", "warning", found.warnings))
    blocks += [_facts(found), Heading("Over all cycles"), _totals(found)]
    if any(organ.constraints for organ in found.organs.values()):
        blocks += [Heading("What remains", level=3), _remaining(found)]
    blocks.append(
        Figure(
            lambda fig: _plot(fig, found), 178, 74,
            "Cumulative mean dose (left) and BED (right) after each cycle; bars: k = 1, of the sum. Dashed: limits.",
            "Cumulative dose and BED over the cycles",
        )
    )  # fmt: skip
    blocks += [Heading("Cycle by cycle"), _cycles(found)]
    subtitle = f"Patient {found.patient_id}  ·  {found.nuclide}  ·  {len(found.cycles)} cycles"
    return Document("Report of a course", subtitle, SMALL_PRINT, blocks, found.created.replace("T", " ")[:16])


def _kind(constraint: Constraint) -> str:
    return "BED" if constraint.kind == "bed" else "dose"


def _facts(found: CourseResults) -> Facts:
    activity = sum(c.injected_activity_mbq for c in found.cycles)
    methods = dict.fromkeys(c.voi for c in found.cycles if c.voi)
    return Facts(
        [
            ("Patient (pseudonym)", found.patient_id),
            ("Radionuclide", found.nuclide),
            ("Cycles", str(len(found.cycles))),
            ("Administered in all", f"{significant(activity, 4)} MBq"),
            ("VOI method", ", ".join(methods) or NOTHING),
        ]
    )


def _totals(found: CourseResults) -> Table:
    columns = [Column("Organ", align="left"), Column("Mean dose", "Gy"), Column("BED", "Gy"), Column("Cycles counted")]
    rows = [
        [
            title(name),
            plus_minus(organ.total_dose_gy, organ.total_dose_sd_gy),
            plus_minus(organ.total_bed_gy, organ.total_bed_sd_gy),
            f"{len(found.cycles) - len(organ.missing)} of {len(found.cycles)}",
        ]
        for name, organ in found.organs.items()
    ]
    caption = (
        "± is one standard uncertainty (k = 1). Errors that all cycles share (calibration, resolution, reconstruction, "
        "S-values, uncorrected spill, the part of a contour's error that an observer repeats) are added as such; "
        "noise, registration and fits in quadrature. BED: sum over cycles, with full repair between them."
    )
    return Table(columns, rows, caption)


def _remaining(found: CourseResults) -> Table:
    columns = [Column("Organ", align="left"), Column("Limit on", align="left"), Column("Limit", "Gy"),
               Column("Remains", "Gy"), Column("Exceeded already", "probability"),
               Column("Cycles like the last")]  # fmt: skip
    rows = [
        [
            title(name), _kind(c), significant(c.limit_gy), plus_minus(c.remains_gy, c.remains_sd_gy),
            percent(c.likely_exceeded_percent, 0), fixed(c.cycles_like_last, 1),
        ]
        for name, organ in found.organs.items()
        for c in organ.constraints
    ]  # fmt: skip
    return Table(columns, rows, "A statement about this arithmetic, not advice on treatment.")


def _cycles(found: CourseResults) -> Table:
    columns = [Column("Cycle", align="left"), Column("Administered", "MBq"), Column("at", align="left"),
               Column("Organ", align="left"), Column("Mass", "g"), Column("Mean dose", "Gy"),
               Column("per activity", "Gy/GBq"), Column("BED", "Gy")]  # fmt: skip
    rows = []
    for i, cycle in enumerate(found.cycles):
        when = cycle.injection_time.isoformat(" ", "minutes") if cycle.injection_time else NOTHING
        number = "" if cycle.cycle is None else f" (cycle {cycle.cycle})"
        head = [cycle.name + number, significant(cycle.injected_activity_mbq, 4), when]
        for name, organ in found.organs.items():
            dose = organ.dose_gy[i]
            per = None if dose is None else dose / cycle.injected_activity_mbq * 1000
            rows.append(
                [
                    *head, title(name), significant(organ.mass_g[i]), plus_minus(dose, organ.dose_sd_gy[i]),
                    significant(per), plus_minus(organ.bed_gy[i], organ.bed_sd_gy[i]),
                ]
            )  # fmt: skip
            head = ["", "", ""]
    return Table(columns, rows)


def _plot(figure: FigureBase, found: CourseResults) -> None:
    dose_axes, bed_axes = figure.add_axes((0.07, 0.16, 0.40, 0.76)), figure.add_axes((0.57, 0.16, 0.40, 0.76))
    at = np.arange(1, len(found.cycles) + 1)
    for axes, kind, label in ((dose_axes, "dose", "mean dose (Gy)"), (bed_axes, "bed", "BED (Gy)")):
        for n, (name, organ) in enumerate(found.organs.items()):
            values = _values(organ, kind)
            if values is None:
                continue
            total, sd = (
                (organ.total_dose_gy, organ.total_dose_sd_gy)
                if kind == "dose"
                else (organ.total_bed_gy or 0.0, organ.total_bed_sd_gy or 0.0)
            )
            sums = np.cumsum(values)
            shift = 0.03 * (n - (len(found.organs) - 1) / 2)
            axes.plot(at + shift, sums, "o-", color=organ_color(name), markersize=3.6, label=title(name))
            axes.errorbar(at[-1] + shift, total, yerr=sd, color=organ_color(name), elinewidth=0.9, capsize=2.5)
            for c in organ.constraints:
                if c.kind == kind:
                    axes.axhline(c.limit_gy, color=organ_color(name), linewidth=0.8, linestyle=(0, (4, 2)))
        axes.set_xticks(at, [c.name for c in found.cycles])
        axes.set_xlim(0.6, len(at) + 0.4)
        axes.set_ylim(0, 1.25 * axes.get_ylim()[1])  # room for the legend above every limit
        axes.set_ylabel(f"Cumulative {label}", color=INK)
        axes.tick_params(colors=SOFT)
        axes.grid(True, axis="y")
    if dose_axes.get_legend_handles_labels()[0]:
        dose_axes.legend(loc="upper left", ncols=2)


def _values(organ: OrganCourse, kind: str) -> list[float] | None:
    """By cycle; 0 where there is none, None without a sum."""
    if kind == "bed" and organ.total_bed_gy is None:
        return None
    return [value or 0.0 for value in (organ.dose_gy if kind == "dose" else organ.bed_gy)]
