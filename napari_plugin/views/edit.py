"""Correct the labels: organ table with live numbers, brush, tools. Emits what is wanted; changes nothing itself."""

from __future__ import annotations

from collections.abc import Sequence

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
    undo_wanted = Signal()
    redo_wanted = Signal()
    discard_wanted = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._table = Table(["Organ", "Volume\nmL", "Mass\ng", "CT mean\nHU", "SPECT mean\nkBq/mL"])
        self._table.set_rows([[organ.title, "–", "–", "–", "–"] for organ in ORGANS])
        for i, organ in enumerate(ORGANS):
            self._table.item(i, 0).setIcon(swatch(organ.color))
        self._table.setToolTip("Click an organ to edit it. Mass = volume × density of the label table.")
        self._table.itemSelectionChanged.connect(self._chosen)
        self._mode = note()
        column(self, self._table, self._brush(), self._mode, self._tools(), self._history())
        self.set_brush(12.0, False)

    # ---- parts

    def _brush(self) -> QWidget:
        self._size = number(12, 1, 100, "mm", tip="Diameter of the brush; Shift+wheel, or [ and ]")
        self._size.valueChanged.connect(self.brush_changed)
        self._sphere = QCheckBox("3D")
        self._sphere.setToolTip("A sphere that paints through slices; off: this slice only (key D)")
        self._sphere.toggled.connect(self.brush_3d_changed)
        self._hu = QCheckBox("HU")
        self._hu.setToolTip("Brush and eraser touch only voxels in this range of CT numbers (key I)")
        self._low = number(-20, -1024, 3000, "", step=10, tip="Lowest HU")
        self._high = number(250, -1024, 3000, "", step=10, tip="Highest HU")
        for field in (self._low, self._high):
            field.setMinimumWidth(58)
            field.valueChanged.connect(self._hu_changed)
        self._hu.toggled.connect(self._hu_changed)
        return row(QLabel("Brush"), self._size, self._sphere, self._hu, self._low, QLabel("–"), self._high, stretch=1)

    def _tools(self) -> QWidget:
        smooth = number(2, 0.5, 20, "mm", step=0.5, decimals=1, tip="Width σ of the Gaussian; volume is kept")
        small = number(1, 0.1, 500, "mL", step=0.5, decimals=1, tip="Parts smaller than this are removed")
        margin = number(1, -20, 20, "mm", step=0.5, decimals=1, tip="Positive grows, negative shrinks")
        holder = QWidget()
        grid = QGridLayout(holder)
        grid.setContentsMargins(0, 0, 0, 0)
        grid.setSpacing(4)
        plain = [
            ("Fill between slices", "fill_between_slices", "Draw some axial slices, get those between (key G)"),
            ("Fill holes", "fill_holes", "Fill what the organ encloses"),
            ("Keep largest", "keep_largest", "Keep only the largest connected part (key K)"),
            ("Mirror kidney", "mirror", "Copy the selected kidney to the other side as a first guess"),
            ("Swap left/right", "swap", "Exchange left and right kidney"),
        ]
        for i, (text, name, tip) in enumerate(plain):
            self._add(grid, i, text, tip, lambda name=name: self.tool_wanted.emit(name, {}))
        self._add(
            grid, 5, "Limit to HU", "Remove the organ's voxels outside the HU range above",
            lambda: self.tool_wanted.emit(
                "limit_to_hu", {"low_hu": self._low.value(), "high_hu": self._high.value()}
            ),
        )  # fmt: skip
        with_number = [
            ("Smooth", "smooth", "sigma_mm", smooth, "Smooth the surface, keeping the volume"),
            ("Remove parts <", "remove_small", "smallest_ml", small, "Remove small separate parts"),
            ("Margin", "margin", "margin_mm", margin, "Grow or shrink by a distance"),
        ]
        for i, (text, name, key, field, tip) in enumerate(with_number):
            asks = button(text, tip)
            asks.clicked.connect(
                lambda _=False, name=name, key=key, field=field: self.tool_wanted.emit(name, {key: field.value()})
            )
            grid.addWidget(row(asks, field, stretch=0), 3 + i // 2, i % 2)
        return holder

    def _add(self, grid: QGridLayout, i: int, text: str, tip: str, asks) -> None:
        made = button(text, tip)
        made.clicked.connect(lambda _=False: asks())
        grid.addWidget(made, i // 2, i % 2)

    def _history(self) -> QWidget:
        undo, redo = button("Undo", "Ctrl+Z"), button("Redo", "Ctrl+Shift+Z")
        undo.clicked.connect(self.undo_wanted)
        redo.clicked.connect(self.redo_wanted)
        discard = button("Discard edits", "Return to the server's labels; your edits are put aside")
        discard.clicked.connect(self.discard_wanted)
        self._protect = QCheckBox("Protect others")
        self._protect.setChecked(True)
        self._protect.setToolTip("Painting does not write over other organs (napari's 'preserve labels')")
        self._protect.toggled.connect(self.protect_changed)
        return row(undo, redo, discard, self._protect, stretch=2)

    # ---- what is shown

    def set_measures(self, measures: Sequence[OrganMeasure]) -> None:
        """Show each organ's numbers; "–" where there are none."""
        found = {measure.value: measure for measure in measures}
        for i, organ in enumerate(ORGANS):
            for j, text in enumerate(_cells(found.get(organ.index)), start=1):
                self._table.set_cell(i, j, text)

    def set_organ(self, value: int) -> None:
        """Mark the organ that is edited."""
        self._table.blockSignals(True)
        rows = [i for i, organ in enumerate(ORGANS) if organ.index == value]
        if rows:
            self._table.selectRow(rows[0])
        else:
            self._table.clearSelection()
        self._table.blockSignals(False)

    def set_brush(self, diameter_mm: float, sphere: bool) -> None:
        """Show the brush, and loudly whether it paints through slices."""
        for widget, value in ((self._size, diameter_mm), (self._sphere, sphere)):
            widget.blockSignals(True)
            widget.setChecked(value) if widget is self._sphere else widget.setValue(value)
            widget.blockSignals(False)
        if sphere:
            self._mode.setText(f"3D BRUSH: a sphere of {diameter_mm:.0f} mm, through all slices it touches")
            self._mode.setStyleSheet("background: #8a5a00; color: white; font-weight: bold; padding: 2px;")
        else:
            self._mode.setText(f"2D brush: a disk of {diameter_mm:.0f} mm, this slice only")
            self._mode.setStyleSheet("padding: 2px;")

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


def _cells(measure: OrganMeasure | None) -> list[str]:
    if measure is None:
        return ["–"] * 4
    return [
        f"{measure.volume_ml:.1f}",
        "–" if measure.mass_g is None else f"{measure.mass_g:.1f}",
        f"{measure.mean_hu:.0f}",
        "–" if measure.mean_bq_ml is None else f"{measure.mean_bq_ml / 1000:.4g}",
    ]
