"""A cohort as a page: what failed, what is alarming, how the organs' figures are spread, what lies far out.

Knows rows and how pages are built; computes nothing but medians and quartiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

import numpy as np
from matplotlib.figure import FigureBase

from doselabel import disk
from doselabel.cohort.agreement import Pair, agreement, pairs_of
from doselabel.cohort.patient import DATASET, Outcome
from doselabel.cohort.rows import FAR, FEWEST, Row, alarms_of, rows_of, write_csv, write_parquet
from doselabel.io.document import Block, Column, Document, Facts, Figure, Heading, Link, Note, Table, to_html
from doselabel.io.numerals import plus_minus, significant
from doselabel.io.words import SMALL_PRINT
from doselabel.labels import region, title

SHOWN = (
    ("dose_gy_per_gbq", "Dose per activity", "Gy/GBq"),
    ("mean_dose_gy", "Mean dose", "Gy"),
    ("volume_ml", "Volume", "mL"),
    ("effective_half_life_h", "Effective half-life", "h"),
)
UNITS = {"volume": "mL", "dose": "Gy"}


def write_cohort(outcomes: Sequence[Outcome], out: Path, missing: Sequence[str] = ()) -> Path:
    """Write ``cohort.csv``, ``.parquet`` and ``.html``; ``agreement.csv`` of what was compared, the dataset's index.

    Parameters
    ----------
    missing : sequence of str
        Patients that are still to be done.

    Returns
    -------
    Path
        The page.
    """
    rows, pairs = rows_of(outcomes), pairs_of(outcomes)
    rows += [Row(name, "", "not done") for name in missing]
    write_csv(out / "cohort.csv", map(asdict, rows), [column.name for column in fields(Row)])
    write_parquet(out / "cohort.parquet", rows)
    if pairs:
        write_csv(out / "agreement.csv", map(asdict, pairs), [column.name for column in fields(Pair)])
    if data := [result for o in outcomes for step, result in o.results.items() if step.startswith("train-data/")]:
        write_csv(out / DATASET / "index.csv", data, list(data[0]))
    page = out / "cohort.html"
    disk.write(page, to_html(document(outcomes, rows, pairs)))
    return page


def document(outcomes: Sequence[Outcome], rows: Sequence[Row], pairs: Sequence[Pair]) -> Document:
    """The page's blocks."""
    failed = [outcome for outcome in outcomes if outcome.error]
    alarming = [(outcome, alarms) for outcome in outcomes if (alarms := alarms_of(outcome))]
    waiting = sum(row.state == "not done" for row in rows)
    facts = [("Patients", str(len(outcomes) + waiting)), ("Done", str(len(outcomes) - len(failed)))]
    facts += [("Failed", str(len(failed))), ("With alarms", str(len(alarming)))]
    facts += [("Not done yet", str(waiting))] if waiting else []
    blocks: list[Block] = [Facts(facts)]
    if failed:
        told = [f"{o.name}, {o.error['step']}: {o.error['message']} {o.error['hint']}" for o in failed if o.error]
        blocks += [Heading("What failed"), Note("Everything else is done, and stays.", "alarm", told)]
    if alarming:
        blocks.append(Heading("Alarms"))
        columns = [Column("Patient", align="left"), Column("Alarm", align="left"), Column("What to do", align="left")]
        told_rows = [
            (_link(outcome), f"{alarm.sentence} ({alarm.code})", alarm.what_to_do)
            for outcome, alarms in alarming
            for alarm in alarms
        ]
        blocks.append(Table(columns, told_rows, "These doses are probably wrong until somebody has looked."))
    blocks += _spread(rows)
    blocks += _far_out(rows)
    blocks += _agreement(pairs)
    blocks += _patients(outcomes, rows)
    return Document("Cohort", f"{len(outcomes) + waiting} patients", SMALL_PRINT, blocks)


def _link(outcome: Outcome) -> str:
    report = outcome.results.get("dose", {}).get("report")
    return Link(outcome.name, f"{outcome.name}/dose/report.html") if report else outcome.name


def _organs(rows: Sequence[Row]) -> list[str]:
    return [name for name in dict.fromkeys(row.organ for row in rows if row.mean_dose_gy is not None) if name]


def _values(rows: Sequence[Row], organ: str, name: str) -> list[float]:
    return [value for row in rows if row.organ == organ and (value := getattr(row, name)) is not None]


def _spread(rows: Sequence[Row]) -> list[Block]:
    organs = _organs(rows)
    if not organs:
        return []

    def draw(figure: FigureBase) -> None:
        for axes, (name, what, unit) in zip(figure.subplots(1, len(SHOWN)), SHOWN, strict=True):
            for k, organ in enumerate(organs):
                values = sorted(_values(rows, organ, name))
                across = k + (np.linspace(-0.25, 0.25, len(values)) if len(values) > 1 else np.zeros(len(values)))
                axes.plot(across, values, "o", color=region(organ).color, markersize=2.5, alpha=0.8)
                if values:
                    axes.hlines(np.median(values), k - 0.35, k + 0.35, color="#27323a", linewidth=1)
            axes.set_xticks(range(len(organs)), [title(organ) for organ in organs], rotation=40, ha="right")
            axes.set_title(f"{what}, {unit}")
            axes.set_ylim(bottom=0)
        figure.subplots_adjust(left=0.05, right=0.99, bottom=0.3, top=0.88, wspace=0.32)

    body = []
    for organ in organs:
        for name, what, unit in SHOWN:
            if values := _values(rows, organ, name):
                low, quarter, middle, three, high = np.percentile(values, (0, 25, 50, 75, 100))
                shown = [significant(float(v)) for v in (middle, quarter, three, low, high)]
                body.append((title(organ), f"{what}, {unit}", str(len(values)), *shown))
    columns = [Column("Organ", align="left"), Column("Quantity", align="left"), Column("n"), Column("Median")]
    columns += [Column(text) for text in ("25 %", "75 %", "Least", "Largest")]
    picture = Figure(draw, 178, 62, "Each dot a patient, in order of size; the line is the median.", "Distributions")
    return [Heading("Distributions"), picture, Table(columns, body)]


def _far_out(rows: Sequence[Row]) -> list[Block]:
    names = {name: f"{what}, {unit}" for name, what, unit in SHOWN}
    body = [
        (row.study, title(row.organ), names[name], significant(getattr(row, name)),
         significant(float(np.median(_values(rows, row.organ, name)))))
        for row in rows for name in row.outlier.split()
    ]  # fmt: skip
    if not body:
        return []
    columns = [Column("Patient", align="left"), Column("Organ", align="left"), Column("Quantity", align="left")]
    text = (
        f"By logarithms: more than {FAR:g} robust standard deviations (0.6745 of the median distance) from the organ's "
        f"median, where there are at least {FEWEST} patients."
    )
    return [Heading("Outliers"), Table([*columns, Column("Value"), Column("Median")], body, text)]


def _agreement(pairs: Sequence[Pair]) -> list[Block]:
    blocks: list[Block] = []
    for quantity, unit in UNITS.items():
        own = [pair for pair in pairs if pair.quantity == quantity]
        organs = list(dict.fromkeys(pair.organ for pair in own))
        found = {organ: agreement(*_both(own, organ)) for organ in organs}
        if not any(found.values()):
            continue

        def draw(figure: FigureBase, own: Sequence[Pair] = own, organs: Sequence[str] = organs) -> None:
            for axes, organ in zip(figure.subplots(1, len(organs), squeeze=False)[0], organs, strict=True):
                both = _both(own, organ)
                ai, final = map(np.asarray, both)
                axes.plot((ai + final) / 2, ai - final, "o", color=region(organ).color, markersize=3)
                if limits := agreement(*both):
                    axes.axhline(limits.bias, color="#27323a", linewidth=1)
                    for at in (limits.lower, limits.upper):
                        axes.axhline(at, color="#27323a", linewidth=0.7, linestyle="--")
                axes.set_title(title(organ))
            figure.subplots_adjust(left=0.08, right=0.99, bottom=0.18, top=0.86, wspace=0.35)

        columns = [Column("Organ", align="left"), Column("n"), Column("Bias", unit), Column("95 % CI", unit)]
        columns += [Column("Limits of agreement", unit), Column("Bias", "%")]
        body = [
            (title(organ), str(a.n), significant(a.bias), _range(a.bias_ci), _range((a.lower, a.upper)),
             plus_minus(a.bias_percent, a.sd_percent))
            for organ, a in found.items() if a is not None
        ]  # fmt: skip
        caption = (
            f"Network minus final label map over their mean, {unit}; lines: bias and bias ± 1.96 standard deviations "
            "(Bland and Altman 1986)."
        )
        blocks += [Heading(f"Network against final label maps: {quantity}"), Figure(draw, 178, 58, caption, caption)]
        blocks.append(Table(columns, body))
    return blocks


def _both(pairs: Sequence[Pair], organ: str) -> tuple[list[float], list[float]]:
    own = [pair for pair in pairs if pair.organ == organ]
    return [pair.ai for pair in own], [pair.final for pair in own]


def _range(both: tuple[float, float]) -> str:
    return f"{significant(both[0])} to {significant(both[1])}"


def _patients(outcomes: Sequence[Outcome], rows: Sequence[Row]) -> list[Block]:
    organs = _organs(rows)
    doses = {(row.study, row.organ): row for row in rows}
    body = []
    for outcome in outcomes:
        own = [doses.get((outcome.name, organ)) for organ in organs]
        cells = [plus_minus(row.mean_dose_gy, row.dose_sd_gy) if row else "–" for row in own]
        state = "failed" if outcome.error else f"{len(alarms_of(outcome))} alarm(s)" if alarms_of(outcome) else ""
        body.append((_link(outcome), *cells, state))
    columns = [Column("Patient", align="left"), *(Column(title(organ), "Gy") for organ in organs)]
    return [Heading("Patients"), Table([*columns, Column("", align="left")], body)]
