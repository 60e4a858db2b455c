"""Ask for the patient's absorbed doses, read them with their uncertainty, warnings, time-activity and DVH plots."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from types import NoneType
from typing import get_args

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QCheckBox, QComboBox, QDoubleSpinBox, QFormLayout, QLineEdit, QTabWidget, QWidget

from doselabel.dosimetry.options import DoseOptions
from doselabel.labels import title
from doselabel.wire import DoseResults, OrganDose
from napari_plugin.views.kit import LongNote, ProgressRow, Section, Table, button, column, note, number, row
from napari_plugin.views.plots import Colours, Plot

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
}
"""What a person reads for an option's values; which there are, `DoseOptions` says."""

OFFERED: Mapping[str, tuple[str, ...]] = {
    "Activity from": ("voi", "preset"),
    "Curve": ("tac",),
    "Dose engine": ("engine",),
    "SPECT to CT": ("registration",),
}
"""Title → options whose values are offered in one list."""

WRITTEN: Mapping[str, str] = {
    "Half-life, h": "population_half_life_h",
    "Density, g/cm³": "organ_density_g_cm3",
    "α/β, Gy": "alpha_beta_gy",
    "Repair, h": "repair_half_life_h",
}
"""Title → option that is written, as on the command line: one number, or ``liver:1.06/tumour:1.00``."""


def choices(options: tuple[str, ...]) -> dict[str, tuple[str, str]]:
    """What a person reads → option and value, for all values that `DoseOptions` knows of these options."""
    values = [(o, v) for o in options for v in get_args(DoseOptions.model_fields[o].annotation) if v is not NoneType]
    spelled = [(o, v) for o, v in values for v in (get_args(v) or (v,))]
    return {"organ S values" if pair == ("engine", "organ") else WORDS.get(pair[1], pair[1]): pair for pair in spelled}


class DoseView(QWidget):
    """Options, run or cancel, numbers and curves."""

    dose_wanted = Signal(dict)
    report_wanted = Signal()

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
        often = _form(
            {
                "Activity from": row(activity, *(f for _, f in self._extent.values()), stretch=0),
                "Curve": self._boxes["Curve"],
            }
        )
        seldom = _form(
            {title_: self._boxes[title_] for title_ in ("Dose engine", "SPECT to CT")}
            | {title_: self._written[option] for title_, option in WRITTEN.items()}
        )
        self._fill_in = QCheckBox("let the model label CTs nobody has submitted")
        self._fill_in.setToolTip("The result then says that nobody reviewed these masks")
        self._run = button("Compute doses", "From the submitted labels of the patient's CTs")
        self._run.clicked.connect(self.ask)
        self._report = button("Open report", "The full report in the web browser")
        self._report.clicked.connect(self.report_wanted)
        self._report.setEnabled(False)
        self.progress = ProgressRow()
        self._head = note()
        self.alarms = note()
        self.alarms.setStyleSheet("background: #7d1620; color: white; padding: 4px;")
        self.alarms.hide()
        self._table = Table(["Organ", "Dose\nGy", "± SD\nGy", "TIA\nMBq·h", "T½ eff\nh", "Mass\ng", "per GBq\nGy"])
        self._table.setToolTip(
            "Mean absorbed dose and its standard uncertainty, time-integrated activity, effective half-life, mass, and "
            "dose per injected activity"
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
            often,
            Section("Engine, alignment, tissue and biology", seldom, folded=True),
            self._fill_in,
            row(self._run, self._report, stretch=0),
            self.progress,
            self.alarms,
            self._head,
            self._table,
            self._warnings,
            self._plots,
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

    def set_busy(self, busy: bool) -> None:
        """Allow only one computation at a time."""
        self._run.setEnabled(not busy)

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
        self._report.setEnabled(has_report)

    def set_outdated(self) -> None:
        """Say that the labels have changed since."""
        if "outdated" not in self._head.text():
            self._head.setText("<b>⚠ outdated: the labels changed; compute again.</b><br>" + self._head.text())

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
        f"{organ.mean_dose_gy:.2f}",
        f"{organ.dose_sd_gy:.2f}",
        f"{organ.tia_mbq_h:.0f}",
        f"{organ.effective_half_life_h:.1f}",
        f"{organ.mass_g:.0f}",
        f"{organ.dose_gy_per_gbq:.3f}",
    ]
