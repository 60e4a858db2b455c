"""Two doses of the open case beside each other: of two label versions, or by two ways to read activities."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QWidget

from doselabel.labels import title
from doselabel.wire import LabelVersion
from napari_plugin.comparing import DoseSide
from napari_plugin.views.dose_form import OFFERED, choices
from napari_plugin.views.kit import Table, button, column, note, row
from napari_plugin.views.plots import Plot

if TYPE_CHECKING:
    from doselabel.io.comparison import Comparison

AS_COMPUTED = "as computed"
COLUMNS = ("Organ", "A\ng", "B\ng", "Δ\n%", "A\nGy", "B\nGy", "Δ\n%")


class ComparisonView(QWidget):
    """Choose two sides, ask for their doses, read masses, doses and dose-volume histograms as the paper shows them."""

    compare_wanted = Signal(object, object)
    save_wanted = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._methods = {AS_COMPUTED: None, **choices(OFFERED["Activity from"])}
        self.versions, self.methods = (QComboBox(), QComboBox()), (QComboBox(), QComboBox())
        for version, method in zip(self.versions, self.methods, strict=True):
            version.setToolTip("Version of this CT's labels; the patient's other CTs as submitted")
            method.setToolTip("How the activities are read; all else as in the computed dose")
            method.addItems(list(self._methods))
            for box, letters in ((version, 6), (method, 8)):  # as wide as there is room, not as their longest words
                box.setSizeAdjustPolicy(QComboBox.SizeAdjustPolicy.AdjustToMinimumContentsLengthWithIcon)
                box.setMinimumContentsLength(letters)
        self.compare = button("Compare", "Compute both doses; nothing is stored")
        self.compare.clicked.connect(self._ask)
        self.save = button("Save …", "Tables and figure as in the paper (HTML, CSV, PNG) to a folder")
        self.save.clicked.connect(self.save_wanted)
        self.table = Table(COLUMNS, rest=len(COLUMNS) - 1)
        self.table.setToolTip("Masses as in the paper's table 3, mean doses as in its table 4; B against A")
        self.plot = Plot()
        self._said = note()
        column(
            self,
            *(
                row(note(name), version, method, stretch=2)
                for name, version, method in zip("AB", self.versions, self.methods, strict=True)
            ),
            row(self.compare, self.save),
            self._said,
            self.table,
            self.plot,
        ).setContentsMargins(0, 0, 0, 0)
        self.set_versions([])

    def set_versions(self, versions: Sequence[LabelVersion]) -> None:
        """Offer these, the newest as B, the one before as A."""
        numbers = sorted(v.version for v in versions if v.error is None)
        words = {v.version: f"v{v.version} {v.author}".strip() for v in versions}
        if numbers and [self.versions[1].itemData(i) for i in range(self.versions[1].count())] == numbers:
            return
        for box, back in zip(self.versions, (2, 1), strict=True):
            box.clear()
            for number in numbers:
                box.addItem(words[number], number)
            box.setCurrentIndex(max(0, len(numbers) - back))
        self.compare.setEnabled(bool(numbers))
        self.save.setEnabled(False)
        self._said.setText("" if numbers else "This CT has no stored labels yet.")
        self.table.hide()
        self.plot.hide()

    def set_compared(self, found: Comparison) -> None:
        """Show both sides and what is between them."""
        from doselabel.io.comparison import differences_percent  # who has a comparison has loaded it

        rows = [[title(name)] for name in found.organs]
        means = []
        for quantity, decimals in (("mass_g", 1), ("mean_dose_gy", 2)):
            a, b = found.values(quantity)
            difference, _, average = differences_percent(a, b)
            means.append(average)
            for cells, *values in zip(rows, a, b, difference, strict=True):
                cells += [_fixed(values[0], decimals), _fixed(values[1], decimals), _fixed(values[2], 1, "+z")]
        self.table.set_rows(rows)
        self.plot.show_two_dose_volumes(found)
        mean = f"A: {found.a}. B: {found.b}. Mean |Δ|: masses {means[0]:.1f} %, doses {means[1]:.1f} %."
        self._said.setText("\n".join([mean, *(f"✗ {failure}" for failure in found.failures())]))
        for part in (self.table, self.plot):
            part.show()
        self.save.setEnabled(True)

    def _ask(self) -> None:
        sides = []
        for version, method in zip(self.versions, self.methods, strict=True):
            words = method.currentText()
            name = version.currentText() + ("" if words == AS_COMPUTED else f", {words}")
            sides.append(DoseSide(name, version.currentData(), self._methods[words]))
        if sides[0] == sides[1]:
            self._said.setText("A and B are the same. Choose another version, or another way to read the activities.")
        else:
            self.compare_wanted.emit(*sides)


def _fixed(values: np.ndarray, decimals: int, sign: str = "") -> str:
    """A number with so many decimals; a large one without."""
    if not np.isfinite(values[0]):
        return "–"
    return f"{values[0]:{sign}.{0 if abs(values[0]) >= 1000 else decimals}f}"


def change_percent(before: float, after: float) -> str:
    """Change in percent, with its sign."""
    return "–" if before == 0 else f"{100 * (after / before - 1):+z.1f}"
