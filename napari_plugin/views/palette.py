"""The tools: brush and correction as icons, the chosen one's parameters in one line beneath. Changes nothing itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from inspect import Parameter
from typing import Any

from magicgui.widgets import FloatSpinBox, create_widget
from qtpy.QtCore import QSize, Qt, Signal
from qtpy.QtWidgets import (
    QButtonGroup,
    QGridLayout,
    QLabel,
    QSizePolicy,
    QStackedWidget,
    QToolButton,
    QWidget,
)

from napari_plugin.tools import TOOLS, Tool
from napari_plugin.views.icons import SIDE_PX, icon
from napari_plugin.views.kit import beside, button, column, narrow, number, row

MODES: Mapping[str, tuple[str, str]] = {
    "pan_zoom": ("Move the image", "key 6"),
    "paint": ("Brush", "key 2"),
    "erase": ("Eraser", "key 1"),
    "polygon": ("Polygon: a click per corner, double click closes it", "key 3"),
    "fill": ("Fill what is connected", "key 4"),
    "pick": ("Choose an organ by a click on it", "key 5"),
}
"""Mode of the labels layer → what it does, and its key in napari."""

WAYS: Mapping[str, str] = {
    "sphere": "Brush as a sphere through slices (key D); off: a disk in this slice",
    "hu": "Brush, eraser, fill and polygon touch only voxels in a range of HU (key I)",
    "protect": "Painting does not write over other organs (key B)",
    "outline": "Outlines instead of filled organs (key O)",
}
"""What is on or off, whichever tool is chosen."""

NO_CASE = "No case is open: › above takes the next."
PER_ROW = 10
UNITS = {"mm": " mm", "ml": " mL", "hu": " HU", "percent": " %"}
LOUD = "background: #8a5a00; color: white; font-weight: bold; padding: 2px;"


class ToolPalette(QWidget):
    """Icons of modes, ways and tools; one line of parameters."""

    mode_wanted = Signal(str)
    tool_wanted = Signal(str, dict)
    pointing_wanted = Signal(str)
    brush_changed = Signal(float)
    brush_3d_changed = Signal(bool)
    hu_range_changed = Signal(object)
    protect_changed = Signal(bool)
    outline_changed = Signal(bool)

    def __init__(self) -> None:
        super().__init__()
        self._mode, self._pointed = "pan_zoom", ""
        self.modes = {name: _icon_button(f"{words} ({key})") for name, (words, key) in MODES.items()}
        self.ways = {name: _icon_button(tip) for name, tip in WAYS.items()}
        self.tools = {name: _icon_button(f"{tool.title}. {tool.tip}") for name, tool in TOOLS.items()}
        self.forms = {name: ToolForm(tool) for name, tool in TOOLS.items()}
        self._lines = QStackedWidget()
        self._no_case, self._brush = QLabel(NO_CASE), self._brush_line()
        for line in (self._no_case, self._brush, *self.forms.values()):
            self._lines.addWidget(line)
        self._lines.setFixedHeight(30)
        # Its widest page, seen or not, must not make the dock wider than the window gives it.
        self._lines.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self._connect()
        grid = QGridLayout()
        grid.setSpacing(2)
        for i, asked in enumerate([*self.modes.values(), *self.ways.values(), *self.tools.values()]):
            grid.addWidget(asked, i // PER_ROW, i % PER_ROW)
        lines = column(self)
        lines.addLayout(grid)
        lines.addWidget(self._lines)
        self.set_brush(12.0, False, 1.0)
        self.set_case(False)

    def _connect(self) -> None:
        group = QButtonGroup(self)
        for name, asked in self.modes.items():
            asked.setCheckable(True)
            asked.clicked.connect(lambda _=False, name=name: self._choose_mode(name))
            group.addButton(asked)
        for asked in self.ways.values():
            asked.setCheckable(True)
        self.ways["sphere"].toggled.connect(self.brush_3d_changed)
        self.ways["sphere"].clicked.connect(lambda: self._lines.setCurrentWidget(self._brush))
        self.ways["protect"].toggled.connect(self.protect_changed)
        self.ways["outline"].toggled.connect(self.outline_changed)
        self.ways["hu"].toggled.connect(self._hu_changed)
        self.ways["hu"].clicked.connect(lambda: self._lines.setCurrentWidget(self._brush))
        for name, asked in self.tools.items():
            asked.clicked.connect(lambda _=False, name=name: self.choose(name))
            if TOOLS[name].pointed:
                asked.setCheckable(True)
                group.addButton(asked)
            self.forms[name].apply_wanted.connect(lambda params, name=name: self.tool_wanted.emit(name, params))

    def _brush_line(self) -> QWidget:
        self._shape = QLabel()
        self._size = number(12, 0.1, 200, "mm", tip="Diameter of the brush; Shift+wheel, or [ and ]")
        self._size.valueChanged.connect(self.brush_changed)
        self._low = number(-20, -1024, 3000, "", step=10, tip="Lowest HU that is painted on")
        self._high = number(250, -1024, 3000, "HU", step=10, tip="Highest HU that is painted on")
        for field in (self._low, self._high):
            field.valueChanged.connect(self._hu_changed)
        for field, width_px in ((self._size, 56), (self._low, 42), (self._high, 62)):
            narrow(field, width_px)  # a line has little room
        self._limits = row(self._low, QLabel("to"), self._high)
        self._limits.hide()
        return row(self._shape, self._size, self._limits, stretch=2)

    # ---- what is shown

    def set_case(self, opened: bool) -> None:
        """Offer the tools only where there is something to correct, and say so."""
        for asked in (*self.modes.values(), *self.ways.values(), *self.tools.values()):
            asked.setEnabled(opened)
        if not opened or self._lines.currentWidget() is self._no_case:
            self._lines.setCurrentWidget(self._brush if opened else self._no_case)

    def set_mode(self, mode: str) -> None:
        """Show the mode of the labels layer."""
        self._mode = mode
        if mode in self.modes and not self._pointed:
            self.modes[mode].setChecked(True)

    def set_pointing(self, name: str) -> None:
        """Show which tool waits for clicks, if one does."""
        self._pointed = name
        if name:
            self.tools[name].setChecked(True)
        else:
            self.set_mode(self._mode)

    def set_colours(self, colour: str, chosen: str) -> None:
        """Draw the icons in a theme's colour, and what is chosen on the other one."""
        self.setStyleSheet(f"QToolButton {{ border-radius: 3px; }} QToolButton:checked {{ background: {chosen}; }}")
        for name, asked in (*self.modes.items(), *self.ways.items(), *self.tools.items()):
            asked.setIcon(icon(name, colour))

    def set_brush(self, diameter_mm: float, sphere: bool, step_mm: float) -> None:
        """Show the brush, and loudly whether it paints through slices.

        Parameters
        ----------
        step_mm : float
            The next larger brush is larger by this (two voxels).
        """
        _show(self._size.setValue, self._size, diameter_mm)
        _show(self.ways["sphere"].setChecked, self.ways["sphere"], sphere)
        self._size.setSingleStep(step_mm)
        self._size.setDecimals(1 if diameter_mm < 10 else 0)
        self._shape.setText("3D sphere" if sphere else "2D disk")
        self._shape.setToolTip("Through all slices" if sphere else "In this slice only")
        self._shape.setStyleSheet(LOUD if sphere else "padding: 2px;")

    def set_protect(self, on: bool) -> None:
        """Show whether painting spares other organs."""
        _show(self.ways["protect"].setChecked, self.ways["protect"], on)

    def set_outline(self, on: bool) -> None:
        """Show whether organs are drawn as outlines."""
        _show(self.ways["outline"].setChecked, self.ways["outline"], on)

    def set_hu(self, on: bool) -> None:
        """Switch the HU mask."""
        self.ways["hu"].setChecked(on)

    @property
    def hu_on(self) -> bool:
        """Whether the HU mask is on."""
        return self.ways["hu"].isChecked()

    # ---- what is wanted

    def _choose_mode(self, name: str) -> None:
        self._lines.setCurrentWidget(self._brush)
        self.pointing_wanted.emit("")
        self.mode_wanted.emit(name)

    def choose(self, name: str) -> None:
        """Choose a tool: its parameters are shown; one that has none is applied at once, one that points waits."""
        if not self.tools[name].isEnabled():
            return
        self._lines.setCurrentWidget(self.forms[name])
        if TOOLS[name].pointed:
            self.pointing_wanted.emit(name)
        elif not self.forms[name].fields:
            self.forms[name].ask()

    def _hu_changed(self, _: object = None) -> None:
        self._limits.setVisible(self.hu_on)
        low, high = sorted((self._low.value(), self._high.value()))
        self.hu_range_changed.emit((low, high) if self.hu_on else None)


class ToolForm(QWidget):
    """A tool's own parameters as its function declares them, and the button that applies it."""

    apply_wanted = Signal(dict)

    def __init__(self, tool: Tool) -> None:
        super().__init__()
        self.fields = {name: _field(parameter) for name, parameter in tool.parameters.items()}
        for name, field in self.fields.items():
            field.native.setSuffix(UNITS.get(name.rpartition("_")[2], ""))
            field.native.setDecimals(0 if name.endswith("hu") else 1)
            field.native.setKeyboardTracking(False)
            if len(self.fields) > 1:
                narrow(field.native, 62)
        title = QLabel(tool.title)
        self.apply = button("Apply" if self.fields else "Again", tool.tip)
        self.apply.clicked.connect(self.ask)
        if tool.pointed:
            title.setText("+ left, − right")
            title.setToolTip(tool.tip)
            self.apply.hide()
        beside(self, title, *(field.native for field in self.fields.values()), self.apply, stretch=0)

    @property
    def params(self) -> dict[str, Any]:
        """The parameters shown."""
        return {name: field.value for name, field in self.fields.items()}

    def ask(self) -> None:
        """Ask for the tool with the parameters shown."""
        self.apply_wanted.emit(self.params)


def _icon_button(tip: str) -> QToolButton:
    made = QToolButton()
    made.setToolTip(tip)
    made.setAccessibleName(tip.partition(".")[0])
    made.setIconSize(QSize(SIDE_PX, SIDE_PX))
    made.setFixedSize(29, 28)
    made.setFocusPolicy(Qt.FocusPolicy.NoFocus)
    return made


def _show(setter: Callable[[Any], None], widget: QWidget, value: object) -> None:
    """Set a widget without it telling that the annotator did."""
    widget.blockSignals(True)
    setter(value)
    widget.blockSignals(False)


def _field(parameter: Parameter) -> FloatSpinBox:
    made = create_widget(value=parameter.default, annotation=parameter.annotation, name=parameter.name)
    assert isinstance(made, FloatSpinBox)  # tools have numbers alone
    return made
