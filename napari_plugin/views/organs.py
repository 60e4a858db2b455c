"""The organs with their live numbers: always in sight. A click chooses which one is edited."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

from qtpy.QtCore import QSize, Qt, Signal
from qtpy.QtWidgets import QAbstractItemView, QMenu, QSizePolicy, QTableWidgetItem, QToolButton

from doselabel.organs import NAMES, excluded_at, region, title
from doselabel.wire import OrganSegmentation
from napari_plugin.session.measure import OrganMeasure
from napari_plugin.views.kit import SWATCH_PX, Table, swatch

COLUMNS = ("", "Vol.\nmL", "Δ\nmL", "Mass\ng", "CT\nHU", "\nMBq", "kBq/\nmL")
UNITS = ("mL", "Δ mL", "g", "HU", "MBq", "kBq/mL")
MOST_ROWS = 8
"""More scroll."""
LEAST_ROWS = 2
"""So many stay in sight on the smallest screen with everything open; the others scroll."""
LESION, EXCLUDED = "Lesion", "Renal pelvis: not counted"
TIP = (
    "Click an organ to edit it. Δ: against the labels these started from. Mass = volume × density of the label table; "
    "HU: mean over the organ; MBq in it and kBq/mL: SPECT of the time point on screen, as measured."
)
TIPS = {
    LESION: "A region of its own beside or in the organs, with its own row in the dose table; draw it over an organ",
    EXCLUDED: "Draw it over the kidney: its activity at this time point is not counted, the kidney stays whole",
}


class OrganTable(Table):
    """Volume, mass, CT number and activity of each organ and region."""

    organ_chosen = Signal(int)
    region_wanted = Signal(str)
    renamed = Signal(int, str)

    def __init__(self) -> None:
        super().__init__(COLUMNS, rest=len(COLUMNS) - 1)
        self._names: Mapping[int, str] = {}
        self._flagged: set[int] = set()
        self._measured: dict[int, OrganMeasure] = {}
        self.more = QToolButton(self.horizontalHeader())
        self.more.setText("+ region")
        self.more.setPopupMode(QToolButton.ToolButtonPopupMode.InstantPopup)
        self.more.setStyleSheet("QToolButton { padding: 1px 3px; } QToolButton::menu-indicator { image: none; }")
        self.more.move(4, 7)
        menu = QMenu(self.more)
        menu.setToolTipsVisible(True)
        self.offered = {kind: menu.addAction(kind, partial(self.region_wanted.emit, kind)) for kind in TIPS}
        self.more.setMenu(menu)
        self.setToolTip(TIP)
        self.setIconSize(QSize(SWATCH_PX, SWATCH_PX))
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Preferred)
        self.setEditTriggers(QAbstractItemView.EditTrigger.DoubleClicked)
        self.setVerticalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAsNeeded)
        self.verticalScrollBar().setStyleSheet("QScrollBar:vertical { width: 4px; }")  # the numbers need the rest
        self.itemSelectionChanged.connect(self._chosen)
        self.itemChanged.connect(self._written)
        self.set_names(NAMES)
        self.set_offered("Open a case first.", "")

    def set_names(self, names: Mapping[int, str]) -> None:
        """Show these organs and regions."""
        chosen = self._value_at(self.currentRow()) if self.selectedIndexes() else None
        self._names = dict(names)
        self.blockSignals(True)
        self.set_rows([[self._title(value), *_cells(self._measured.get(value))] for value in names])
        most = min(self.height(), 38 + 20 * MOST_ROWS + 2)
        self.setMinimumHeight(min(most, 38 + 20 * LEAST_ROWS + 2))
        self.setMaximumHeight(most)
        for i, (value, name) in enumerate(names.items()):
            self.cell(i, 0).setIcon(swatch(region(name).color))
            for j in range(len(COLUMNS)):
                flags = Qt.ItemFlag.ItemIsEnabled | Qt.ItemFlag.ItemIsSelectable
                named = j == 0 and value not in NAMES
                self.cell(i, j).setFlags(flags | Qt.ItemFlag.ItemIsEditable if named else flags)
            self.cell(i, 0).setToolTip(_tip(name) if value not in NAMES else "")
        self.blockSignals(False)
        if chosen is not None:
            self.set_organ(chosen)

    def sizeHint(self) -> QSize:
        """As high as its rows, where there is room."""
        return QSize(super().sizeHint().width(), self.maximumHeight())

    def forget(self) -> None:
        """Show the label table without numbers: no case is open."""
        self._measured = {}
        self.set_names(NAMES)

    def set_offered(self, why_not: str, why_none_excluded: str) -> None:
        """Offer more regions, or say why there can be none."""
        self.more.setEnabled(not why_not)
        self.more.setToolTip(why_not or "More to draw: a lesion with its own dose, or what is not counted")
        for kind, tip in TIPS.items():
            why = why_none_excluded if kind == EXCLUDED else ""
            self.offered[kind].setEnabled(not why)
            self.offered[kind].setToolTip(why or tip)

    def set_measures(self, measures: Sequence[OrganMeasure]) -> None:
        """Show each organ's numbers; "–" where there are none."""
        found = self._measured = {measure.value: measure for measure in measures}
        for i, value in enumerate(self._names):
            for j, text in enumerate(_cells(found.get(value)), start=1):
                self.set_cell(i, j, text)

    def set_flags(self, said: Mapping[str, OrganSegmentation]) -> None:
        """Mark the organs that the network has doubts of; the mouse at rest says which."""
        self.blockSignals(True)
        self._flagged = {value for value, name in self._names.items() if name in said and said[name].flags}
        for i, (value, name) in enumerate(self._names.items()):
            if value not in NAMES:
                continue
            found = said.get(name)
            flags = [] if found is None else [f"⚠ {flag}" for flag in found.flags]
            if found is not None and found.doubts:
                flags.append(f"{len(found.doubts)} slices to look at: keys , and .")
            if found is not None and found.dose_doubt_percent is not None:
                flags.append(f"{found.dose_doubt_percent:.0f} % of its uptake hangs on doubtful voxels")
            self.cell(i, 0).setText(self._title(value))
            self.cell(i, 0).setToolTip("\n".join(flags))
        self.blockSignals(False)

    def numbers(self, name: str) -> dict[str, float]:
        """What the table shows of an organ: unit → number."""
        i = list(self._names.values()).index(name)
        texts = [self.cell(i, j).text() for j in range(1, len(COLUMNS))]
        return {unit: float(text) for unit, text in zip(UNITS, texts, strict=True) if text != "–"}

    def set_organ(self, value: int) -> None:
        """Mark the organ that is edited."""
        self.blockSignals(True)
        if value in self._names:
            self.selectRow(list(self._names).index(value))
        else:
            self.clearSelection()
        self.blockSignals(False)

    def _title(self, value: int) -> str:
        name = self._names[value]
        mark = " ⚠" if value in self._flagged else " ∅" if excluded_at(name) is not None else ""
        return title(name) + mark

    def _value_at(self, row: int) -> int | None:
        return list(self._names)[row] if 0 <= row < len(self._names) else None

    def _chosen(self) -> None:
        for i in {index.row() for index in self.selectedIndexes()}:
            if (value := self._value_at(i)) is not None:
                self.organ_chosen.emit(value)

    def _written(self, item: QTableWidgetItem) -> None:
        value = self._value_at(item.row())
        if item.column() == 0 and value is not None and value not in NAMES and item.text() != self._title(value):
            self.renamed.emit(value, item.text().removesuffix("∅").strip())


def _tip(name: str) -> str:
    where = "is not counted" if excluded_at(name) is not None else "has its own row in the dose table"
    return f"{name} {where}. A double click changes the name."


def _cells(measure: OrganMeasure | None) -> list[str]:
    if measure is None:
        return ["–"] * len(UNITS)
    mean = measure.mean_bq_ml
    return [
        _short(measure.volume_ml),
        _short(measure.change_ml, "+z"),
        _short(measure.mass_g),
        f"{measure.mean_hu:.0f}",
        "–" if mean is None else f"{measure.activity_mbq:.3g}",
        "–" if mean is None else f"{mean / 1000:.4g}",
    ]


def _short(value: float | None, sign: str = "") -> str:
    """With one decimal; large ones without."""
    return "–" if value is None else f"{value:{sign}.{0 if abs(value) >= 1000 else 1}f}"
