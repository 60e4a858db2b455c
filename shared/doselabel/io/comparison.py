"""What a comparison of doses says: results by two sides or many methods, as tables, text, CSV, figure and page.

The tables are laid out as tables 3 and 4 of Nazari et al., EJNMMI Res 11:53 (2021): organs by source in rows, patients
in columns, then the relative differences, their mean per patient and the mean of all. The figure is theirs too:
dose-volume histograms of both sources, one panel per organ and patient. It computes no doses.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import FigureBase

from doselabel.alarms import Alarm, ordered
from doselabel.dosimetry.options import DoseOptions
from doselabel.io.document import STYLE, Block, Column, Document, Figure, Heading, Note, Table, new_figure, to_html
from doselabel.io.numerals import fixed, percent, significant
from doselabel.io.report_tables import alarm_notes
from doselabel.io.words import SMALL_PRINT
from doselabel.labels import title
from doselabel.organs import ORGANS
from doselabel.study import Study
from doselabel.wire import DoseResults, DvhCurve

ABSENT = "*"
"""What the paper's tables show for an organ that the patient does not have."""
COLORS = ("#b3261e", "#2e7d32")
"""First and second side: the paper draws the experts red and the AI green."""


@dataclass(frozen=True)
class Side:
    """One of the things compared: a name, label maps, options of the dose calculation, volumes of interest corrected by
    hand, and the patients it is for (none: all)."""

    name: str
    labels: str
    options: DoseOptions
    vois: str | None = None
    patients: tuple[str, ...] = ()

    def words(self) -> str:
        """All of it, for a reader."""
        whom = f" ({', '.join(self.patients)})" if self.patients else ""
        drawn = f", volumes of interest '{self.vois}'" if self.vois else ""
        return f"{self.name}{whom}: masks '{self.labels}'{drawn}; {_spelled(self.options)}."


@dataclass(frozen=True)
class Comparison:
    """Doses of the same patients by two sides.

    Attributes
    ----------
    a, b : str
        Names of the sides; differences are b relative to a.
    results_a, results_b : tuple of DoseResults
        One of each per patient, in the same order.
    organs : tuple of str
        Those compared, in the order of the label table.
    """

    a: str
    b: str
    results_a: tuple[DoseResults, ...]
    results_b: tuple[DoseResults, ...]
    organs: tuple[str, ...]

    @property
    def patients(self) -> tuple[str, ...]:
        """Patients in order."""
        return tuple(results.patient_id for results in self.results_a)

    def values(self, quantity: str) -> tuple[np.ndarray, np.ndarray]:
        """A number of `OrganDose`, or ``D70`` and the like, by both sides: (organ, patient), nan where absent."""

        def one(results: Sequence[DoseResults]) -> np.ndarray:
            rows = [[_number(r, name, quantity) for r in results] for name in self.organs]
            return np.array(rows, dtype=float).reshape(len(self.organs), len(results))

        return one(self.results_a), one(self.results_b)

    def table(self, quantity: str, label: str, unit: str, decimals: int) -> Table:
        """One quantity as the paper's tables show it."""
        return paper_table(
            *self.values(quantity), patients=self.patients, organs=self.organs, names=(self.a, self.b),
            label=label, unit=unit, decimals=decimals,
        )  # fmt: skip

    def tables(self) -> list[Table]:
        """Masses (the paper's table 3), mean doses (table 4), and DVH-70 and DVH-30."""
        return [
            self.table("mass_g", "Mass", "g", 0),
            self.table("mean_dose_gy", "Mean dose", "Gy", 2),
            self.table("D70", "D70", "Gy", 2),
            self.table("D30", "D30", "Gy", 2),
        ]

    def alarms(self) -> list[Alarm]:
        """What says that these doses are probably wrong; what both sides of a patient are told, once."""
        found: list[Alarm] = []
        for a, b in zip(self.results_a, self.results_b, strict=True):
            told = [(self.a, alarm) for alarm in a.grave()] + [(self.b, alarm) for alarm in b.grave()]
            for side, alarm in told:
                of_both = alarm in a.grave() and alarm in b.grave()
                found.append(alarm.of_file(a.patient_id if of_both else f"{a.patient_id}, {side}"))
        return ordered(alarm for alarm in found if alarm.code != "organ-failed")  # those are `failures`

    def failures(self) -> list[str]:
        """What could not be computed, and why: an organ shown as absent that the patient does have."""
        everything = [*self.results_a, *self.results_b]
        there = {name for results in everything for name in (*results.organs, *results.failed)}
        known = {organ.name for organ in ORGANS}
        return [
            f"{results.patient_id}, {side}: {title(name)} could not be computed: {reason.message}"
            for side, of_side in ((self.a, self.results_a), (self.b, self.results_b))
            for results in of_side
            for name, reason in results.failed.items()
            if name in self.organs
        ] + [
            f"{name}: in no label map of any patient; is the name right? They have {', '.join(sorted(there))}."
            for name in self.organs
            if name not in there | known  # an organ of the table may be absent: the paper's star
        ]

    def text(self) -> str:
        """The tables for a terminal."""
        return "\n\n".join([*(to_text(table) for table in self.tables()), *self.failures()])


@dataclass(frozen=True)
class Variant:
    """One row of a sensitivity table: what was changed, the results, and a remark or why there are none."""

    group: str
    name: str
    results: DoseResults | None
    remark: str = ""


@dataclass(frozen=True)
class Sensitivity:
    """One patient's doses by margins, VOI methods and fit models; the first variant is the base."""

    base: Variant
    variants: tuple[Variant, ...]
    organs: tuple[str, ...]

    def alarms(self) -> list[Alarm]:
        """What says that these doses are probably wrong: of the base, since the images and masks are the same."""
        return self.base.results.grave() if self.base.results is not None else []

    def table(self) -> Table:
        """Mean dose per organ and its difference from the base."""
        columns = [Column("What", align="left"), Column("Variant", align="left")]
        for name in self.organs:
            columns += [Column(title(name), "Gy"), Column("diff.")]
        columns.append(Column("Remark", align="left"))
        rows = []
        for variant in (self.base, *self.variants):
            row = [variant.group, variant.name]
            for name in self.organs:
                dose, base = (_number(v.results, name, "mean_dose_gy") for v in (variant, self.base))
                row += [significant(dose), percent(100 * (dose / base - 1), signed=True)]
            rows.append([*row, variant.remark])
        caption = (
            "Mean absorbed dose; differences from the first row. Everything not named in a row is as in the first."
        )
        return Table(columns, rows, caption, strong=[0])

    def text(self) -> str:
        """The table for a terminal."""
        return to_text(self.table())


def _number(results: DoseResults | None, name: str, quantity: str) -> float:
    result = results.organs.get(name) if results is not None else None
    if result is None:
        return float("nan")
    value = result.dvh.d_gy.get(quantity) if quantity.startswith("D") else getattr(result, quantity)
    return float("nan") if value is None else float(value)


def differences_percent(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Differences of b from a in percent as the paper reports them.

    Parameters
    ----------
    a, b : (organ, patient) arrays
        nan where the patient lacks the organ, or it could not be computed.

    Returns
    -------
    differences : (organ, patient) array
        Signed.
    means : (patient,) array
        Mean of the absolute differences over a patient's organs; nan without any.
    average : float
        Mean of ``means``.
    """
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    difference = 100 * (b / a - 1)
    there = np.isfinite(difference)
    count = there.sum(axis=0)
    total = np.where(there, np.abs(difference), 0).sum(axis=0)
    means = np.full(total.shape, np.nan)
    means[count > 0] = total[count > 0] / count[count > 0]
    average = float(means[count > 0].mean()) if (count > 0).any() else float("nan")
    return difference, means, average


def paper_table(
    a: np.ndarray,
    b: np.ndarray,
    *,
    patients: Sequence[str],
    organs: Sequence[str],
    names: tuple[str, str],
    label: str,
    unit: str,
    decimals: int,
) -> Table:
    """Values of both sides and their differences, laid out as the paper's tables 3 and 4."""
    difference, means, average = differences_percent(a, b)
    columns = [Column(f"{label} / patient", align="left"), *(Column(p) for p in patients), Column("Average")]
    rows = []
    for name, values in zip(names, (a, b), strict=True):
        for row, organ_name in zip(values, organs, strict=True):
            rows.append([f"{_short(organ_name)} {name} ({unit})", *(_or_absent(v, decimals) for v in row), ""])
    for row, organ_name in zip(difference, organs, strict=True):
        rows.append([f"{_short(organ_name)} difference (%)", *(_or_absent(v, 1) for v in row), ""])
    rows.append(["Mean |difference| (%)", *(_or_absent(v, 1) for v in means), _or_absent(average, 1)])
    caption = (
        f"{label}, {names[1]} against {names[0]}. Differences are ({names[1]} − {names[0]}) / {names[0]}; their means "
        f"are of absolute values. {ABSENT}: no organ, or not computed. Layout of Nazari et al. 2021, tables 3 and 4."
    )
    return Table(columns, rows, caption, strong=[len(rows) - 1])


def _short(name: str) -> str:
    return {"left_kidney": "L kidney", "right_kidney": "R kidney"}.get(name, title(name))


def _or_absent(value: float, decimals: int) -> str:
    return fixed(value, decimals) if np.isfinite(value) else ABSENT


def to_text(table: Table) -> str:
    """A table in columns of equal width."""
    heads = [f"{c.title} ({c.unit})" if c.unit else c.title for c in table.columns]
    widths = [max(len(str(row[j])) for row in (heads, *table.rows)) for j in range(len(heads))]

    def line(cells: Sequence[str]) -> str:
        parts = [
            text.ljust(width) if column.align == "left" else text.rjust(width)
            for text, width, column in zip(cells, widths, table.columns, strict=True)
        ]
        return "  ".join(parts).rstrip()

    return "\n".join([line(heads), "  ".join("-" * w for w in widths), *(line(row) for row in table.rows)])


def write_comparison(comparison: Comparison, sides: Sequence[Side], out: Path) -> None:
    """Write ``compare.csv`` (one row per patient, organ and quantity), ``compare.png`` and ``compare.html``."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "compare.csv").write_text(to_csv(comparison), encoding="utf-8")
    figure = dvh_figure(comparison)
    with matplotlib.rc_context(STYLE):
        canvas = new_figure(figure.width_mm, figure.height_mm)
        figure.draw(canvas)
        canvas.savefig(out / "compare.png", dpi=170)
    blocks: list[Block] = [*alarm_notes(comparison.alarms())]
    blocks += [Note(text, "alarm") for text in comparison.failures()]
    blocks += [Note(side.words()) for side in sides]
    for quantity, table in zip(("Masses", "Mean absorbed doses", "DVH-70", "DVH-30"), comparison.tables(), strict=True):
        blocks += [Heading(quantity), table]
    blocks += [Heading("Dose-volume histograms"), figure]
    subtitle = f"{comparison.b} against {comparison.a}, {len(comparison.patients)} patient(s)"
    document = Document("Comparison of absorbed doses", subtitle, SMALL_PRINT, blocks)
    (out / "compare.html").write_text(to_html(document), encoding="utf-8")


def write_sensitivity(result: Sensitivity, study: Study, out: Path) -> None:
    """Write ``sensitivity.csv`` and ``sensitivity.html``."""
    out.mkdir(parents=True, exist_ok=True)
    table = result.table()
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["group", "variant", "organ", "mean_dose_gy", "difference_percent", "tia_mbq_h", "remark"])
    for variant in (result.base, *result.variants):
        for name in result.organs:
            dose, base = (_number(v.results, name, "mean_dose_gy") for v in (variant, result.base))
            tia = _number(variant.results, name, "tia_mbq_h")
            numbers = [_plain(dose), _plain(100 * (dose / base - 1)), _plain(tia)]
            writer.writerow([variant.group, variant.name, name, *numbers, variant.remark])
    (out / "sensitivity.csv").write_text(stream.getvalue(), encoding="utf-8")
    blocks: list[Block] = [*alarm_notes(result.alarms()), table]
    document = Document("Sensitivity of the absorbed dose", f"Patient {study.patient_id}", SMALL_PRINT, blocks)
    (out / "sensitivity.html").write_text(to_html(document), encoding="utf-8")


def to_csv(comparison: Comparison) -> str:
    """The numbers, unrounded, one line per patient, organ and quantity; empty where an organ is absent."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["patient", "organ", "quantity", comparison.a, comparison.b, "difference_percent"])
    for quantity in ("volume_ml", "mass_g", "tia_mbq_h", "effective_half_life_h", "mean_dose_gy", "D70", "D30"):
        a, b = comparison.values(quantity)
        difference, _, _ = differences_percent(a, b)
        named = f"{quantity}_gy" if quantity.startswith("D") else quantity
        for j, patient in enumerate(comparison.patients):
            for i, name in enumerate(comparison.organs):
                numbers = [_plain(values[i, j]) for values in (a, b, difference)]
                writer.writerow([patient, name, named, *numbers])
    return stream.getvalue()


def dvh_figure(comparison: Comparison) -> Figure:
    """Dose-volume histograms of both sides, a row per patient and a panel per organ (the paper's figure 4)."""
    patients, organs = comparison.patients, comparison.organs

    def draw(figure: FigureBase) -> None:
        grid = figure.add_gridspec(
            len(patients), len(organs), left=0.075, right=0.985, wspace=0.16, hspace=0.55,
            top=1 - 0.10 / len(patients), bottom=0.20 / len(patients),
        )  # fmt: skip
        for i, patient in enumerate(patients):
            for j, name in enumerate(organs):
                axes = figure.add_subplot(grid[i, j])
                both = (comparison.results_a[i], comparison.results_b[i])
                curves = [r.organs[name].dvh if name in r.organs else None for r in both]
                for curve, side, color, style in zip(
                    curves, (comparison.a, comparison.b), COLORS, ("-", (0, (5, 2))), strict=True
                ):
                    if curve is not None:
                        _draw_dvh(axes, curve, side, color, style)
                axes.set_title(f"{patient}, {title(name).lower()}", loc="left")
                axes.set_ylim(0, 102)
                if not any(curves):
                    axes.text(0.5, 0.5, "not computed", transform=axes.transAxes, ha="center", color="#5b6973")
                    continue
                axes.set_xlim(left=0)
                axes.set_xlabel("Absorbed dose (Gy)")
                axes.set_ylabel("Volume (%)")
                axes.grid(True)
                axes.legend(loc="lower left")

    caption = "Cumulative dose-volume histograms; dots: D70 and D30. After Nazari et al. 2021, figure 4."
    return Figure(draw, 180, 14 + 58 * len(patients), caption, "Dose-volume histograms of both sides")


def _draw_dvh(axes: Any, curve: DvhCurve, side: str, color: str, style: Any) -> None:
    label = f"{side}: mean {significant(curve.mean_gy)} Gy"
    axes.plot(curve.dose_gy, curve.volume_percent, color=color, linestyle=style, label=label)
    for key, volume in (("D70", 70.0), ("D30", 30.0)):
        if key in curve.d_gy:
            axes.plot(curve.d_gy[key], volume, "o", color=color, markersize=3.4)


def _spelled(options: DoseOptions) -> str:
    changed = options.model_dump(exclude_defaults=True)
    return ", ".join(f"{k} {v}" for k, v in changed.items()) or "default options"


def _plain(value: float) -> str:
    return f"{value:.6g}" if np.isfinite(value) else ""
