"""Small parts all views are made of: sections, number fields with units, tables. Knows Qt only."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import Qt
from qtpy.QtGui import QColor, QIcon, QPixmap, QResizeEvent
from qtpy.QtWidgets import (
    QAbstractItemView,
    QAbstractSpinBox,
    QDoubleSpinBox,
    QHBoxLayout,
    QHeaderView,
    QLabel,
    QPlainTextEdit,
    QPushButton,
    QSizePolicy,
    QTableWidget,
    QTableWidgetItem,
    QVBoxLayout,
    QWidget,
)
from superqt import QCollapsible

from napari_plugin.views.icons import SHARPNESS, icon

SPACE = 4
SWATCH_PX = 12
GREY = "#8a929e"
"""Seen in both themes."""
QWIDGETSIZE_MAX = 16_777_215


class Section(QCollapsible):
    """A titled part of a panel that can be folded away."""

    def __init__(self, title: str, content: QWidget, *, folded: bool = False) -> None:
        super().__init__(title, expandedIcon=icon("unfolded", GREY), collapsedIcon=icon("folded", GREY))
        lines = self.layout()
        assert lines is not None
        lines.setContentsMargins(0, 0, 0, 0)
        self.toggleButton().setStyleSheet(
            "QPushButton { text-align: left; font-weight: bold; border: none; padding: 1px; }"
            "QPushButton, QPushButton:checked { background: transparent; }"
        )
        self.setContent(content)
        self.setDuration(0)
        self.toggled.connect(self._show)
        (self.collapse if folded else self.expand)(animate=False)

    def _show(self, opened: bool) -> None:
        self.content().setVisible(opened)
        self.content().setMaximumHeight(QWIDGETSIZE_MAX)  # as high as it is, also when more comes into sight in it


class Table(QTableWidget):
    """A table to read and to choose a row from, as high as its rows."""

    def __init__(self, headers: Sequence[str], *, rows_shown: int | None = None, rest: int | None = None) -> None:
        """``rest``: the column that takes what the others, wide as their text, leave; None: all but the first alike."""
        super().__init__(0, len(headers))
        self._rows_shown = rows_shown
        self.setHorizontalHeaderLabels(list(headers))
        self.verticalHeader().hide()
        self.verticalHeader().setDefaultSectionSize(20)
        header = self.horizontalHeader()
        modes = QHeaderView.ResizeMode
        header.setSectionResizeMode(modes.Stretch if rest is None else modes.ResizeToContents)
        header.setSectionResizeMode(0, modes.ResizeToContents)
        if rest is not None:  # be it little: "stretch last" keeps the last one 100 px wide
            header.setSectionResizeMode(rest, modes.Stretch)
        header.setFixedHeight(36)
        self.setEditTriggers(QAbstractItemView.EditTrigger.NoEditTriggers)
        self.setSelectionBehavior(QAbstractItemView.SelectionBehavior.SelectRows)
        self.setSelectionMode(QAbstractItemView.SelectionMode.SingleSelection)
        self.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.set_rows([])

    def set_rows(self, rows: Sequence[Sequence[str]]) -> None:
        """Replace all rows."""
        self.setRowCount(len(rows))
        for i, cells in enumerate(rows):
            for j, text in enumerate(cells):
                self.set_cell(i, j, text)
        shown = max(1, len(rows) if self._rows_shown is None else self._rows_shown)
        self.setFixedHeight(38 + 20 * shown + 2)

    def set_cell(self, i: int, j: int, text: str) -> None:
        """Change one cell."""
        self.cell(i, j).setText(text)

    def cell(self, i: int, j: int) -> QTableWidgetItem:
        """One cell, made where there is none yet; numbers to the right."""
        item = self.item(i, j)
        if item is None:
            item = QTableWidgetItem()
            side = Qt.AlignmentFlag.AlignLeft if j == 0 else Qt.AlignmentFlag.AlignRight
            item.setTextAlignment(side | Qt.AlignmentFlag.AlignVCenter)
            self.setItem(i, j, item)
        return item


def number(
    value: float, low: float, high: float, unit: str, *, step: float = 1.0, decimals: int = 0, tip: str = ""
) -> QDoubleSpinBox:
    """Field for a number with its unit."""
    field = QDoubleSpinBox()
    field.setRange(low, high)
    field.setDecimals(decimals)
    field.setSingleStep(step)
    field.setValue(value)
    field.setSuffix(f" {unit}" if unit else "")
    field.setToolTip(tip)
    field.setKeyboardTracking(False)
    return field


def narrow(field: QAbstractSpinBox, width_px: int) -> None:
    """Make a field as wide as its text, in place of napari's width and step buttons (whose room `NoButtons` keeps)."""
    field.setStyleSheet(
        f"QAbstractSpinBox {{ padding: 1px 2px; min-width: {width_px}px; max-width: {width_px}px; }}"
        "QAbstractSpinBox::up-button, QAbstractSpinBox::down-button { width: 0px; }"
        "QAbstractSpinBox::up-arrow, QAbstractSpinBox::down-arrow { width: 0px; height: 0px; image: none; }"
    )


def button(text: str, tip: str = "") -> QPushButton:
    """Button that may grow but not be clipped."""
    made = QPushButton(text)
    made.setToolTip(tip)
    return made


def note(text: str = "") -> QLabel:
    """Text that wraps."""
    label = QLabel(text)
    label.setWordWrap(True)
    label.setTextInteractionFlags(Qt.TextInteractionFlag.TextSelectableByMouse)
    return label


class LongNote(QPlainTextEdit):
    """Text that may be long: a few lines are shown, the rest scrolls; hidden while empty."""

    def __init__(self, highest_px: int = 84) -> None:
        super().__init__()
        self._highest_px = highest_px
        self.setReadOnly(True)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.hide()

    def set_lines(self, lines: Sequence[str]) -> None:
        """Show lines, each once."""
        self.setPlainText("\n".join(dict.fromkeys(lines)))
        self.setVisible(bool(lines))
        self._fit()

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Wrap anew, and be no higher than the text."""
        super().resizeEvent(event)
        self._fit()

    def _fit(self) -> None:
        rows = max(1, round(self.document().size().height()))
        needed = rows * self.fontMetrics().lineSpacing() + 2 * round(self.document().documentMargin()) + 4
        self.setFixedHeight(min(self._highest_px, needed))


def row(*parts: QWidget, stretch: int | None = None) -> QWidget:
    """Widgets side by side; the one at index ``stretch`` takes what room is left."""
    holder = QWidget()
    beside(holder, *parts, stretch=stretch)
    return holder


def beside(holder: QWidget, *parts: QWidget, stretch: int | None = None) -> QHBoxLayout:
    """Widgets side by side in ``holder``, as in `row`."""
    line = QHBoxLayout(holder)
    line.setContentsMargins(0, 0, 0, 0)
    line.setSpacing(SPACE)
    for i, part in enumerate(parts):
        line.addWidget(part, 1 if i == stretch else 0)
    return line


def column(holder: QWidget, *parts: QWidget) -> QVBoxLayout:
    """Widgets below each other in ``holder``."""
    lines = QVBoxLayout(holder)
    lines.setContentsMargins(6, 0, 6, 4)
    lines.setSpacing(SPACE)
    for part in parts:
        lines.addWidget(part)
    return lines


def swatch(color: str) -> QIcon:
    """Small square of a colour, the same in a row that is chosen."""
    pixmap = QPixmap(SWATCH_PX * SHARPNESS, SWATCH_PX * SHARPNESS)
    pixmap.fill(QColor(color))
    made = QIcon(pixmap)
    made.addPixmap(pixmap, QIcon.Mode.Selected)
    return made
