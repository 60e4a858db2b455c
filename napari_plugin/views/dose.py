"""Ask for the patient's absorbed doses, read them with their uncertainty, warnings, time-activity and DVH plots."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from types import NoneType
from typing import get_args

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QCheckBox, QComboBox, QDoubleSpinBox, QFormLayout, QLabel, QLineEdit, QTabWidget, QWidget

from doselabel.dosimetry.options import DoseOptions
from doselabel.labels import title
from doselabel.wire import DoseResults, OrganDose
from napari_plugin.dosing import ISODOSES
from napari_plugin.views.kit import LongNote, Section, Table, button, column, note, number, row
from napari_plugin.views.plots import Colours, Plot
from napari_plugin.views.versions import VersionsView, change_percent

WORDS: Mapping[str, str] = {
    "auto": "automatic",
    "gtm": "transfer matrix (PSF)",
    "margin": "mask + margin",
    "gaussian": "Gaussian border",
    "threshold": "SPECT threshold",
    "ai": "as the paper's AI",
    "expert1": "as the paper's expert 1",
    "expert2": "as the paper's expert 2",
    "uptake": "uptake and washout",
    "mono": "mono-exponential",
    "bi": "bi-exponential",
    "hanscheid": "one time point (Hänscheid)",
    "population": "one time point (half-life)",
    "voxel-s": "voxel S values",
    "local": "local deposition",
    "organ": "on the organs",
    "stored": "as stored",
    "identity": "none",
    "none": "each organ's own scans",
    "patient": "the patient as a whole",
}
"""What a person reads for an option's values; which there are, `DoseOptions` says."""

OFFERED: Mapping[str, tuple[str, ...]] = {
    "Activity from": ("voi", "preset"),
    "Curve": ("tac",),
    "Half-life from": ("half_life_prior",),
    "Dose engine": ("engine",),
    "SPECT to CT": ("registration",),
}
"""Title → options whose values are offered in one list."""

WRITTEN: Mapping[str, str] = {
    "Half-life, h": "population_half_life_h",
    "Earlier cycles', h": "earlier_half_life_h",
    "Density, g/cm³": "organ_density_g_cm3",
    "α/β, Gy": "alpha_beta_gy",
    "Repair, h": "repair_half_life_h",
}
"""Title → option that is written, as on the command line: one number, or ``liver:1.06/tumour:1.00``."""


COLUMNS = ("Organ", "Dose ± SD\nGy", "TIA\nMBq·h", "T½ eff\nh", "Gy/\nGBq")
STALE = "background: #6b5200; color: white; padding: 3px;"
DRAFT = "background: #1d4f80; color: white; padding: 3px;"
TIP = "From the submitted labels of the patient's CTs"


def choices(options: tuple[str, ...]) -> dict[str, tuple[str, str]]:
    """What a person reads → option and value, for all values that `DoseOptions` knows of these options."""
    values = [(o, v) for o in options for v in get_args(DoseOptions.model_fields[o].annotation) if v is not NoneType]
    spelled = [(o, v) for o, v in values for v in (get_args(v) or (v,))]
    return {"organ S values" if pair == ("engine", "organ") else WORDS.get(pair[1], pair[1]): pair for pair in spelled}


class DoseView(QWidget):
    """Options, run or cancel, numbers and curves."""

    dose_wanted = Signal(dict)
    report_wanted = Signal()
    export_wanted = Signal()
    follow_wanted = Signal(bool)
    isodoses_wanted = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self._choices = {title: choices(options) for title, options in OFFERED.items()}
        self._boxes = {title: _choice(values) for title, values in self._choices.items()}
        self._written = {option: _line(option) for option in WRITTEN.values()}
        self._extent = {
            "margin": ("margin_mm", _number("margin_mm", 0, 20, "mm")),
            "gaussian": ("gaussian_sigma_mm", _number("gaussian_sigma_mm", 0.5, 20, "mm")),
            "threshold": ("threshold_percent", _number("threshold_percent", 1, 99, "%")),
        }
        activity = self._boxes["Activity from"]
        activity.currentTextChanged.connect(self._voi_changed)
        self._fill_in = QCheckBox("where none is submitted, let the model label")
        self._fill_in.setToolTip("The result then says that nobody reviewed these masks")
        offered = {
            "Activity from": row(activity, *(f for _, f in self._extent.values()), stretch=0),
            **{title_: box for title_, box in self._boxes.items() if box is not activity},
            **{title_: self._written[option] for title_, option in WRITTEN.items()},
        }
        options = QWidget()
        column(options, _form(offered)).setContentsMargins(6, 0, 0, 0)
        self._run = button("Compute doses", TIP)
        self._run.clicked.connect(self.ask)
        self._report = button("Report", "The full report in the web browser")
        self._report.clicked.connect(self.report_wanted)
        self.export = button("Export …", "Report, table (CSV), results (JSON) and dose map (NIfTI) to a folder")
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
        self.versions = VersionsView()
        self._head, self.of_labels = note(), note()
        self.of_labels.hide()
        self.alarms = note()
        self.alarms.setStyleSheet("background: #7d1620; color: white; padding: 4px;")
        self.alarms.hide()
        self._table = Table(COLUMNS, fitted=True)
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
            Section("Options: curve, engine, tissue …", options, folded=True),
            self._fill_in,
            self.follow,
            self.alarms,
            self.of_labels,
            self._head,
            self._table,
            self._warnings,
            self._plots,
            self._lines,
            Section("Compare two versions of the labels", self.versions, folded=True),
        )
        lines.addStretch(1)
        self._voi_changed()

    def ask(self) -> None:
        """Ask for the doses with the chosen options."""
        options: dict[str, object] = dict(self._chosen(title_) for title_ in OFFERED)
        if extent := self._extent.get(str(options.get("voi"))):
            options[extent[0]] = extent[1].value()
        options |= {option: line.text().strip() for option, line in self._written.items() if line.text().strip()}
        if self._fill_in.isChecked():
            options["labels"] = "model"
        self.dose_wanted.emit(options)

    def _chosen(self, title_: str) -> tuple[str, str]:
        """Option and value."""
        return self._choices[title_][self._boxes[title_].currentText()]

    def set_ready(self, ready: bool, why_not: str) -> None:
        """Allow a computation, or say why there can be none."""
        self._run.setEnabled(ready)
        self._run.setToolTip(TIP if ready else why_not)

    def set_colours(self, colours: Colours) -> None:
        """Follow a change of theme."""
        self._curves.set_colours(colours)
        self._dvh.set_colours(colours)

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
        self.alarms.setText("<br>".join(f"<b>{escape(a.sentence)}</b> {escape(a.what_to_do)}" for a in results.grave()))
        self.alarms.setVisible(bool(results.grave()))
        warnings = [f"✗ {title(name)}: {error.message} {error.hint}" for name, error in results.failed.items()]
        warnings += [f"⚠ {text}" for text in results.other_warnings()]
        for name, organ in results.organs.items():
            warnings += [f"⚠ {title(name)}: {text}" for text in organ.warnings]
        self._warnings.set_lines(warnings)
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

    def set_unfollowed(self, why: str) -> None:
        """Say that the dose can't follow the edits."""
        self._say_of_labels(f"⚠ Labels changed since this dose. It can't follow: {why}")

    def _say_of_labels(self, text: str, style: str = STALE) -> None:
        self.of_labels.setText(text)
        self.of_labels.setStyleSheet(style)
        self.of_labels.setVisible(bool(text))

    def _voi_changed(self, _: str = "") -> None:
        for method, (_, field) in self._extent.items():
            field.setVisible(self._chosen("Activity from") == ("voi", method))


def _choice(table: Mapping[str, str]) -> QComboBox:
    box = QComboBox()
    box.addItems(list(table))
    return box


def _form(rows: Mapping[str, QWidget]) -> QWidget:
    holder = QWidget()
    form = QFormLayout(holder)
    form.setContentsMargins(0, 0, 0, 0)
    form.setSpacing(4)
    for title_, field in rows.items():
        form.addRow(title_, field)
    return holder


def _line(option: str) -> QLineEdit:
    field = QLineEdit()
    field.setPlaceholderText("as usual")
    field.setToolTip(DoseOptions.model_fields[option].description or "")
    return field


def _number(option: str, low: float, high: float, unit: str) -> QDoubleSpinBox:
    field = DoseOptions.model_fields[option]
    decimals = 1 if unit == "mm" else 0
    step = 0.5 if unit == "mm" else 1.0
    return number(field.default, low, high, unit, step=step, decimals=decimals, tip=field.description or "")


def _cells(name: str, organ: OrganDose) -> list[str]:
    return [
        title(name),
        f"{organ.mean_dose_gy:.2f} ± {organ.dose_sd_gy:.2f}",
        f"{organ.tia_mbq_h:.0f}",
        f"{organ.effective_half_life_h:.1f}",
        f"{organ.dose_gy_per_gbq:.3f}",
    ]
