"""Which plane is on screen: one button each, and the organs in 3D."""

from __future__ import annotations

from importlib.util import find_spec

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QButtonGroup, QWidget

from napari_plugin.views.kit import beside, button

BUTTONS = {"axial": ("Axial", "F2"), "coronal": ("Coronal", "F3"), "sagittal": ("Sagittal", "F4"), "3d": ("3D", "F6")}


class PlanesView(QWidget):
    """Buttons for the planes, for fitting, and for three linked views where they are installed."""

    plane_wanted = Signal(str)
    fit_wanted = Signal()
    three_wanted = Signal(bool)

    def __init__(self) -> None:
        super().__init__()
        self.buttons = {name: button(words, f"Key {key}") for name, (words, key) in BUTTONS.items()}
        group = QButtonGroup(self)
        for name, asked in self.buttons.items():
            asked.setCheckable(True)
            asked.setStyleSheet("padding: 4px 2px;")
            asked.clicked.connect(lambda _=False, name=name: self.plane_wanted.emit(name))
            group.addButton(asked)
        self.fit = button("Fit", "Fit the CT into the window (key F7)")
        self.fit.setMaximumWidth(44)
        self.fit.clicked.connect(self.fit_wanted)
        self.three = button("⊞", "Three linked views side by side")
        self.three.setMaximumWidth(34)
        self.three.setCheckable(True)
        self.three.clicked.connect(self.three_wanted)
        if find_spec("napari_orthogonal_views") is None:
            self.three.setEnabled(False)
            self.three.setToolTip("Three linked views need the package napari-orthogonal-views")
        line = beside(self, *self.buttons.values(), self.fit, self.three)
        line.setContentsMargins(6, 0, 6, 0)
        line.setSpacing(2)

    def set_plane(self, plane: str) -> None:
        """Show which plane is on screen."""
        self.buttons[plane].setChecked(True)
