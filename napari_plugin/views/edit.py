"""Correct the labels: organ table with live numbers, brush, tools. Emits what is wanted; changes nothing itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QCheckBox, QGridLayout, QLabel, QWidget

from doselabel.labels import ORGANS
from napari_plugin.session.measure import OrganMeasure
from napari_plugin.views.kit import Table, button, column, note, number, row, swatch


class EditView(QWidget):
    """Organ table, brush and correction tools."""

    organ_chosen = Signal(int)
    tool_wanted = Signal(str, dict)
    brush_changed = Signal(float)
    brush_3d_changed = Signal(bool)
    hu_range_changed = Signal(object)
    protect_changed = Signal(bool)
    outline_changed = Signal(bool)
    undo_wanted = Signal()
    redo_wanted = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._table = Table(["Organ", "Volume\nmL", "Mass\ng", "CT\nHU", "SPECT\nkBq/mL"])
        self._table.set_rows([[organ.title, "–", "–", "–", "–"] for organ in ORGANS])
        for i, organ in enumerate(ORGANS):
            self._table.item(i, 0).setIcon(swatch(organ.color))
        self._table.setToolTip(
            "Click an organ to edit it. Mass = volume × density of the label table; CT and SPECT are means over "
            "the organ, SPECT at the time point on screen."
        )
        self._table.itemSelectionChanged.connect(self._chosen)
        self._mode = note()
        column(self, self._table, self._brush(), self._mode, self._tools())
        self.set_brush(12.0, False, 1.0)

    # ---- parts

    def _brush(self) -> QWidget:
        self._size = number(12, 0.1, 200, "mm", tip="Diameter of the brush; Shift+wheel, or [ and ]")
        self._size.valueChanged.connect(self.brush_changed)
        self._sphere = QCheckBox("3D")
        self._sphere.setToolTip("A sphere that paints through slices; off: this slice only (key D)")
        self._sphere.toggled.connect(self.brush_3d_changed)
        self._protect = QCheckBox("Protect others")
        self._protect.setChecked(True)
        self._protect.setToolTip("Painting does not write over other organs (key B)")
        self._protect.toggled.connect(self.protect_changed)
        self._outline = QCheckBox("Outline")
        self._outline.setChecked(True)
        self._outline.setToolTip("Draw outlines instead of filled organs (key O)")
        self._outline.toggled.connect(self.outline_changed)
        self._hu = QCheckBox("Only where CT is")
        self._hu.setToolTip("Brush and eraser touch only voxels in this range of CT numbers (key I)")
        self._low = number(-20, -1024, 3000, "HU", step=10, tip="Lowest CT number")
        self._high = number(250, -1024, 3000, "HU", step=10, tip="Highest CT number")
        for field in (self._low, self._high):
            field.valueChanged.connect(self._hu_changed)
        self._hu.toggled.connect(self._hu_changed)
        holder = QWidget()
        lines = column(
            holder,
            row(QLabel("Brush"), self._size, self._sphere, self._protect, self._outline, stretch=1),
            row(self._hu, self._low, QLabel("to"), self._high, stretch=3),
        )
        lines.setContentsMargins(0, 0, 0, 0)
        return holder

    def _tools(self) -> QWidget:
        smooth = number(2, 0.5, 20, "mm", step=0.5, decimals=1, tip="Width σ of the Gaussian; volume is kept")
        small = number(1, 0.1, 500, "mL", step=0.5, decimals=1, tip="Parts smaller than this are removed")
        margin = number(1, -20, 20, "mm", step=0.5, decimals=1, tip="Positive grows, negative shrinks")
        holder = QWidget()
        grid = QGridLayout(holder)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setSpacing(4)

        def limits() -> dict:
            return {"low_hu": self._low.value(), "high_hu": self._high.value()}

        tools = [
            ("Fill between", "fill_between_slices", dict, None, "Draw some slices, get those between (key G)"),
            ("Fill holes", "fill_holes", dict, None, "Fill what the organ encloses"),
            ("Keep largest", "keep_largest", dict, None, "Remove all but the largest connected part (key K)"),
            ("Limit to HU", "limit_to_hu", limits, None, "Remove the organ's voxels outside the range of HU above"),
            ("Mirror kidney", "mirror", dict, None, "Copy the selected kidney to the other side as a first guess"),
            ("Swap L ↔ R", "swap", dict, None, "Exchange left and right kidney"),
            ("Smooth", "smooth", lambda: {"sigma_mm": smooth.value()}, smooth, "Smooth the surface, keep the volume"),
            ("Margin", "margin", lambda: {"margin_mm": margin.value()}, margin, "Grow or shrink by a distance"),
            ("Drop parts <", "remove_small", lambda: {"smallest_ml": small.value()}, small, "Remove small parts"),
        ]
        for i, (text, name, params, field, tip) in enumerate(tools):
            asks = button(text, tip)
            asks.clicked.connect(lambda _=False, name=name, params=params: self.tool_wanted.emit(name, params()))
            if field is None:  # three in a row
                grid.addWidget(asks, i // 3, 2 * (i % 3), 1, 2)
            else:  # two in a row, the last beside undo and redo
                grid.addWidget(row(asks, field, stretch=0), 2 + (i - 6) // 2, 3 * ((i - 6) % 2), 1, 3)
        grid.addWidget(self._history(), 3, 3, 1, 3)
        return holder

    def _history(self) -> QWidget:
        undo, redo = button("Undo", "Ctrl+Z"), button("Redo", "Ctrl+Shift+Z")
        undo.clicked.connect(self.undo_wanted)
        redo.clicked.connect(self.redo_wanted)
        clear = button("Clear", "Remove the selected organ")
        clear.clicked.connect(lambda: self.tool_wanted.emit("clear", {}))
        return row(undo, redo, clear)

    # ---- what is shown

    def set_measures(self, measures: Sequence[OrganMeasure]) -> None:
        """Show each organ's numbers; "–" where there are none."""
        found = {measure.value: measure for measure in measures}
        for i, organ in enumerate(ORGANS):
            for j, text in enumerate(_cells(found.get(organ.index)), start=1):
                self._table.set_cell(i, j, text)

    def numbers(self, name: str) -> dict[str, float]:
        """What the table shows of an organ: unit → number."""
        i = [organ.name for organ in ORGANS].index(name)
        units = [self._table.horizontalHeaderItem(j).text().split("\n")[-1] for j in range(1, 5)]
        texts = [self._table.item(i, j).text() for j in range(1, 5)]
        return {unit: float(text) for unit, text in zip(units, texts, strict=True) if text != "–"}

    def set_organ(self, value: int) -> None:
        """Mark the organ that is edited."""
        self._table.blockSignals(True)
        rows = [i for i, organ in enumerate(ORGANS) if organ.index == value]
        if rows:
            self._table.selectRow(rows[0])
        else:
            self._table.clearSelection()
        self._table.blockSignals(False)

    def set_brush(self, diameter_mm: float, sphere: bool, step_mm: float) -> None:
        """Show the brush, and loudly whether it paints through slices.

        Parameters
        ----------
        step_mm : float
            The next larger brush is larger by this (two voxels).
        """
        _show(self._size.setValue, self._size, diameter_mm)
        _show(self._sphere.setChecked, self._sphere, sphere)
        self._size.setSingleStep(step_mm)
        self._size.setDecimals(1 if diameter_mm < 10 else 0)
        if sphere:
            self._mode.setText(f"3D BRUSH: sphere of {diameter_mm:.0f} mm through all slices")
            self._mode.setStyleSheet("background: #8a5a00; color: white; font-weight: bold; padding: 2px;")
        else:
            self._mode.setText(f"2D brush: disk of {diameter_mm:.0f} mm in this slice only")
            self._mode.setStyleSheet("padding: 2px;")

    def set_protect(self, on: bool) -> None:
        """Show whether painting spares other organs."""
        _show(self._protect.setChecked, self._protect, on)

    def set_outline(self, on: bool) -> None:
        """Show whether organs are drawn as outlines."""
        _show(self._outline.setChecked, self._outline, on)

    def set_hu(self, on: bool) -> None:
        """Switch the HU mask."""
        self._hu.setChecked(on)

    @property
    def hu_on(self) -> bool:
        """Whether the HU mask is on."""
        return self._hu.isChecked()

    def _hu_changed(self, _: object = None) -> None:
        low, high = sorted((self._low.value(), self._high.value()))
        self.hu_range_changed.emit((low, high) if self._hu.isChecked() else None)

    def _chosen(self) -> None:
        rows = {index.row() for index in self._table.selectedIndexes()}
        for i in rows:
            self.organ_chosen.emit(ORGANS[i].index)


def _show(setter: Callable[[Any], None], widget: QWidget, value: object) -> None:
    """Set a widget without it telling that the annotator did."""
    widget.blockSignals(True)
    setter(value)
    widget.blockSignals(False)


def _cells(measure: OrganMeasure | None) -> list[str]:
    if measure is None:
        return ["–"] * 4
    return [
        f"{measure.volume_ml:.1f}",
        "–" if measure.mass_g is None else f"{measure.mass_g:.1f}",
        f"{measure.mean_hu:.0f}",
        "–" if measure.mean_bq_ml is None else f"{measure.mean_bq_ml / 1000:.4g}",
    ]
