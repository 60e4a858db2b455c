"""CT window, SPECT over CT, and time points: presets, sliders, buttons."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QButtonGroup, QCheckBox, QComboBox, QHBoxLayout, QLabel, QPushButton, QToolButton, QWidget
from superqt import QLabeledRangeSlider, QLabeledSlider

from napari_plugin.display import PRESETS_HU
from napari_plugin.views.kit import column, row

OWN = "own window"
HU_RANGE = (-1400, 2000)


class DisplayView(QWidget):
    """How the images look; says what is wanted, and shows what is."""

    window_wanted = Signal(float, float)
    spect_wanted = Signal(float, float)
    time_wanted = Signal(int)

    def __init__(self) -> None:
        super().__init__()
        self.preset = QComboBox()
        self.preset.addItems([*PRESETS_HU, OWN])
        self.preset.setToolTip("CT window; or drag with the middle mouse button over the image")
        self.preset.textActivated.connect(self._on_preset)
        self.ct_window = QLabeledRangeSlider(Qt.Orientation.Horizontal)
        self.ct_window.setRange(*HU_RANGE)
        self.ct_window.setEdgeLabelMode(QLabeledRangeSlider.EdgeLabelMode.NoLabel)
        self.ct_window.valueChanged.connect(lambda value: self.window_wanted.emit(*map(float, value)))
        self.clear_below, self.opacity = (_slider(tip) for tip in ("SPECT is clear below this", "opacity of SPECT"))
        for slider in (self.clear_below, self.opacity):
            slider.valueChanged.connect(self._on_spect)
        self._times = QWidget()
        self._line = QHBoxLayout(self._times)
        self._line.setContentsMargins(0, 0, 0, 0)
        self._line.setSpacing(2)
        self.times: list[QPushButton] = []
        self._group = QButtonGroup(self)
        self._spect = row(QLabel("SPECT from"), self.clear_below, QLabel("at"), self.opacity)
        self.more = QToolButton()
        self.more.setText("⚙")
        self.more.setCheckable(True)
        self.more.setToolTip("Window of the CT, where SPECT begins and how much it covers, outlines as in the paper")
        self._sliders = QWidget()
        self.paper = QCheckBox("as in the paper")
        self.paper.setToolTip("Organs outlined in red, the region that is measured (3 mm wider) in yellow")
        self.boxes = QCheckBox("boxes and scores")
        self.boxes.setToolTip("Around what the network drew on this axial slice, with how sure it was")
        column(
            self._sliders,
            row(QLabel("CT, HU"), self.ct_window, stretch=1),
            self._spect,
            row(self.paper, self.boxes, stretch=1),
        ).setContentsMargins(0, 0, 0, 0)
        self._sliders.hide()
        self.more.toggled.connect(self._sliders.setVisible)
        column(self, row(self.preset, self._times, self.more, stretch=1), self._sliders)

    def set_times(self, times_h: Sequence[float]) -> None:
        """Offer these time points, hours after injection."""
        for old in self.times:
            self._group.removeButton(old)
            old.deleteLater()
        self.times = [QPushButton(f"{time_h:g} h") for time_h in times_h]
        for index, made in enumerate(self.times):
            made.setCheckable(True)
            made.setMinimumWidth(30)
            made.setStyleSheet("padding: 4px 2px;")
            made.setToolTip(f"SPECT {times_h[index]:g} h after injection")
            made.clicked.connect(lambda _=False, index=index: self.time_wanted.emit(index))
            self._group.addButton(made)
            self._line.addWidget(made)
        self._spect.setVisible(bool(self.times))

    def show_state(
        self, window_hu: tuple[float, float], preset: str, spect_from: float, opacity: float, time_index: int
    ) -> None:
        """Show how the images look."""
        for widget in (self.ct_window, self.clear_below, self.opacity):
            widget.blockSignals(True)
        self.ct_window.setValue(tuple(round(hu) for hu in window_hu))
        self.clear_below.setValue(round(100 * spect_from))
        self.opacity.setValue(round(100 * opacity))
        for widget in (self.ct_window, self.clear_below, self.opacity):
            widget.blockSignals(False)
        self.preset.setCurrentText(preset or OWN)
        if time_index < len(self.times):
            self.times[time_index].setChecked(True)

    def _on_preset(self, name: str) -> None:
        if name in PRESETS_HU:
            self.window_wanted.emit(*PRESETS_HU[name])

    def _on_spect(self, _: object = None) -> None:
        self.spect_wanted.emit(self.clear_below.value() / 100, self.opacity.value() / 100)


def _slider(tip: str) -> QLabeledSlider:
    slider = QLabeledSlider(Qt.Orientation.Horizontal)
    slider.setRange(0, 100)
    slider.setToolTip(f"{tip}, % of the highest")
    return slider
