"""Ask for the patient's absorbed doses, read them with their uncertainty, warnings, time-activity and DVH plots."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QCheckBox, QComboBox, QFormLayout, QTabWidget, QWidget

from doselabel.labels import title
from doselabel.wire import DoseResults, OrganDose
from napari_plugin.views.kit import LongNote, ProgressRow, Table, button, column, note, number, row
from napari_plugin.views.plots import Colours, Plot

CHOICES: Mapping[str, Mapping[str, str]] = {
    "voi": {
        "automatic": "auto",
        "transfer matrix (PSF)": "gtm",
        "mask + margin": "margin",
        "Gaussian border": "gaussian",
        "SPECT threshold": "threshold",
    },
    "tac": {
        "automatic": "auto",
        "uptake and washout": "uptake",
        "mono-exponential": "mono",
        "bi-exponential": "bi",
        "trapezoid": "trapezoid",
        "one time point (Hänscheid)": "hanscheid",
    },
    "engine": {"voxel S values": "voxel-s", "local deposition": "local", "organ S values": "organ"},
    "registration": {
        "automatic": "auto",
        "as stored": "stored",
        "none": "identity",
        "refine on the organs": "organ",
    },
}
"""Options of `doselabel.dosimetry.options.DoseOptions` that are offered: what a person reads → what is sent."""


class DoseView(QWidget):
    """Options, run or cancel, numbers and curves."""

    dose_wanted = Signal(dict)
    report_wanted = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._boxes = {key: _choice(values) for key, values in CHOICES.items()}
        self._extent = {
            "margin": ("margin_mm", number(3, 0, 20, "mm", step=0.5, decimals=1, tip="The mask is grown by this")),
            "gaussian": ("gaussian_sigma_mm", number(3, 0.5, 20, "mm", step=0.5, decimals=1, tip="σ of the border")),
            "threshold": ("threshold_percent", number(42, 1, 99, "%", tip="Of the maximum near the mask")),
        }
        self._boxes["voi"].currentTextChanged.connect(self._voi_changed)
        form_holder = QWidget()
        form = QFormLayout(form_holder)
        form.setContentsMargins(0, 0, 0, 0)
        form.setSpacing(4)
        form.addRow("Activity from", row(self._boxes["voi"], *(f for _, f in self._extent.values()), stretch=0))
        form.addRow("Curve", self._boxes["tac"])
        form.addRow("Dose engine", self._boxes["engine"])
        form.addRow("SPECT to CT", self._boxes["registration"])
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
            form_holder,
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
        options: dict[str, object] = {key: self._chosen(key) for key in CHOICES}
        if extent := self._extent.get(self._chosen("voi")):
            options[extent[0]] = extent[1].value()
        if self._fill_in.isChecked():
            options["labels"] = "model"
        self.dose_wanted.emit(options)

    def _chosen(self, key: str) -> str:
        return CHOICES[key][self._boxes[key].currentText()]

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
            field.setVisible(method == self._chosen("voi"))


def _choice(table: Mapping[str, str]) -> QComboBox:
    box = QComboBox()
    box.addItems(list(table))
    return box


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
