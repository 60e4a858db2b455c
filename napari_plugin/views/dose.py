"""Ask for the patient's absorbed doses, read them with their uncertainty, warnings, time-activity and DVH plots."""

from __future__ import annotations

from html import escape

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QCheckBox, QLabel, QLineEdit, QTabWidget, QWidget

from doselabel.io.words import reader
from doselabel.labels import title
from doselabel.wire import DoseResults, OrganDose
from napari_plugin.dosing import ISODOSES
from napari_plugin.views.comparison import ComparisonView, change_percent
from napari_plugin.views.dose_form import DoseForm
from napari_plugin.views.kit import LongNote, Section, Table, button, column, note, row
from napari_plugin.views.plots import Colours, Plot

COLUMNS = ("Organ", "Dose ± SD\nGy", "TIA\nMBq·h", "T½ eff\nh", "Gy/\nGBq")
STALE = "background: #6b5200; color: white; padding: 3px;"
DRAFT = "background: #1d4f80; color: white; padding: 3px;"
TIP = "From the submitted labels of the patient's CTs"


class DoseView(QWidget):
    """Options, run or cancel, numbers and curves."""

    dose_wanted = Signal(dict)
    report_wanted = Signal()
    export_wanted = Signal()
    follow_wanted = Signal(bool)
    isodoses_wanted = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self.form = DoseForm()
        self._fill_in = QCheckBox("where none is submitted, the model's")
        self._fill_in.setToolTip("The result then says that nobody reviewed these masks")
        self._run = button("Compute doses", TIP)
        self._run.clicked.connect(self.ask)
        self._report = button("Report", "The full report in the web browser")
        self._report.clicked.connect(self.report_wanted)
        self.export = button("Export …", "Report, tables, dose map; DICOM SEG, RTSTRUCT, RTDOSE, PDF and SR")
        self.export.clicked.connect(self.export_wanted)
        for asked in (self._report, self.export):
            asked.setEnabled(False)
        self.follow = QCheckBox("follow my edits")
        self.follow.setToolTip("After each edit the server computes the dose of your draft; nothing is stored")
        self.follow.setChecked(True)
        self.follow.toggled.connect(self.follow_wanted)
        self.isodoses = QLineEdit(ISODOSES)
        self.isodoses.setToolTip("Doses of the lines: numbers, then Gy or % of the highest; Enter draws them")
        self.isodoses.returnPressed.connect(lambda: self.isodoses_wanted.emit(self.isodoses.text()))
        self._lines = row(QLabel("Isodose lines"), self.isodoses, stretch=1)
        self._lines.hide()
        self.comparison = ComparisonView()
        self._head, self.of_labels = note(), note()
        self.of_labels.hide()
        self.alarms = note()
        self.alarms.setStyleSheet("background: #7d1620; color: white; padding: 4px;")
        self.alarms.hide()
        self._table = Table(COLUMNS, rest=len(COLUMNS) - 1)
        self._table.setToolTip(
            "Mean absorbed dose and its standard uncertainty, time-integrated activity, effective half-life, and dose "
            "per injected activity; masses are in the report and, of the labels on screen, in the table above"
        )
        self._table.hide()
        self._warnings = LongNote(96)
        self._curves, self._dvh = Plot(), Plot()
        self._plots = QTabWidget()
        self._plots.addTab(self._curves, "Time-activity")
        self._plots.addTab(self._dvh, "Dose-volume")
        self._plots.hide()
        lines = column(
            self,
            row(self._run, self._report, self.export, stretch=0),
            Section("Options: curve, engine, tissue …", self.form.native, folded=True),
            self._fill_in,
            self.follow,
            self.alarms,
            self.of_labels,
            self._head,
            self._table,
            self._warnings,
            self._plots,
            self._lines,
            Section("Compare two versions or methods", self.comparison, folded=True),
        )
        lines.addStretch(1)

    def ask(self) -> None:
        """Ask for the doses with the chosen options."""
        options = self.form.options
        if self._fill_in.isChecked():
            options["labels"] = "model"
        self.dose_wanted.emit(options)

    def set_ready(self, ready: bool, why_not: str) -> None:
        """Allow a computation, or say why there can be none."""
        self._run.setEnabled(ready)
        self._run.setToolTip(TIP if ready else why_not)

    def set_colours(self, colours: Colours) -> None:
        """Follow a change of theme."""
        self._curves.set_colours(colours)
        self._dvh.set_colours(colours)
        self.comparison.plot.set_colours(colours)

    def set_results(self, results: DoseResults, *, has_report: bool) -> None:
        """Show the numbers with their units, method and doubts."""
        chosen = ", ".join(
            f"{key} {results.options[key]}" for key in ("voi", "tac", "engine") if key in results.options
        )
        reviewed = "reviewed masks" if results.reviewed else "<b>masks not reviewed</b>"
        self._head.setText(
            f"<b>{results.patient_id}</b> · {results.nuclide}, {results.injected_activity_mbq:g} MBq · "
            f"{results.labels_origin or 'masks'} ({reviewed})" + (f" · {chosen}" if chosen else "")
        )
        self._say_of_labels("")
        self._table.setHorizontalHeaderLabels(list(COLUMNS))
        self._table.set_rows([_cells(name, organ) for name, organ in results.organs.items()])
        self._table.show()
        grave = [f"<b>{escape(reader(a.sentence))}</b> {escape(a.what_to_do)}" for a in results.grave()]
        self.alarms.setText("<br>".join(grave))
        self.alarms.setVisible(bool(results.grave()))
        warnings = [f"✗ {title(name)}: {error.message} {error.hint}" for name, error in results.failed.items()]
        warnings += [f"⚠ {text}" for text in results.other_warnings()]
        for name, organ in results.organs.items():
            warnings += [f"⚠ {title(name)}: {text}" for text in organ.warnings]
        self._warnings.set_lines([reader(text) for text in warnings])
        self._curves.show_time_activity(results)
        self._dvh.show_dose_volume(results)
        self._plots.show()
        self._lines.show()
        self._report.setEnabled(has_report)
        self.export.setEnabled(True)

    def set_outdated(self) -> None:
        """Say that the labels have changed since."""
        self._say_of_labels("⚠ Labels changed since this dose.")

    def set_draft(self, draft: DoseResults, computed: DoseResults) -> None:
        """Show what the annotator's edits do to the dose that was computed."""
        self._say_of_labels("✎ Draft, not submitted: the dose of your edits.", DRAFT)
        self._table.setHorizontalHeaderLabels([*COLUMNS[:-1], "Δ\n%"])
        rows = []
        for name, organ in draft.organs.items():
            before = computed.organs.get(name)
            change = "new" if before is None else change_percent(before.mean_dose_gy, organ.mean_dose_gy)
            rows.append([*_cells(name, organ)[:-1], change])
        rows += [[title(name), "gone", *[""] * 3] for name in computed.organs if name not in draft.organs]
        self._table.set_rows(rows)
        self._curves.show_time_activity(draft, alike=True)
        self._dvh.show_dose_volume(draft, alike=True)

    def set_following(self, fraction: float) -> None:
        """Say how far the dose of the edits is."""
        self._say_of_labels(f"⚠ Labels changed since this dose. Computing theirs: {100 * fraction:.0f} %")

    def set_unfollowed(self, why: str) -> None:
        """Say that the dose can't follow the edits."""
        self._say_of_labels(f"⚠ Labels changed since this dose. It can't follow: {why}")

    def _say_of_labels(self, text: str, style: str = STALE) -> None:
        self.of_labels.setText(text)
        self.of_labels.setStyleSheet(style)
        self.of_labels.setVisible(bool(text))


def _cells(name: str, organ: OrganDose) -> list[str]:
    return [
        title(name),
        f"{organ.mean_dose_gy:.2f} ± {organ.dose_sd_gy:.2f}",
        f"{organ.tia_mbq_h:.0f}",
        f"{organ.effective_half_life_h:.1f}",
        f"{organ.dose_gy_per_gbq:.3f}",
    ]
