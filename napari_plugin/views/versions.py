"""Two versions of a case's labels, and what each makes of the dose."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QLabel, QWidget

from doselabel.labels import title
from doselabel.wire import DoseResults, LabelVersion, OrganDose
from napari_plugin.views.kit import Table, button, column, note, row


class VersionsView(QWidget):
    """Choose two versions, ask for their doses, read them beside each other."""

    compare_wanted = Signal(int, int)

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = QComboBox(), QComboBox()
        self.compare = button("Compare")
        self.compare.clicked.connect(self._ask)
        self.table = Table(["Organ", "first\nGy", "second\nGy", "dose\nΔ %", "mass\nΔ g"])
        self.table.hide()
        self._said = note()
        column(
            self,
            row(self.first, QLabel("→"), self.second, self.compare, stretch=0),
            self.table,
            self._said,
        )
        self.set_versions([])

    def set_versions(self, versions: Sequence[LabelVersion]) -> None:
        """Offer these, the newest as the second, the one before as the first."""
        numbers = sorted(v.version for v in versions if v.error is None)
        words = {v.version: f"v{v.version} {v.author}".strip() for v in versions}
        if [self.second.itemData(i) for i in range(self.second.count())] == numbers:
            return
        for box, at in ((self.first, -2), (self.second, -1)):
            box.clear()
            for number in numbers:
                box.addItem(words[number], number)
            if len(numbers) >= 2:
                box.setCurrentIndex(len(numbers) + at)
        self.compare.setEnabled(len(numbers) >= 2)
        self._said.setText("" if len(numbers) >= 2 else "There are fewer than two versions of this CT's labels.")
        self.table.hide()

    def set_compared(self, first: tuple[int, DoseResults], second: tuple[int, DoseResults]) -> None:
        """Show both doses and what changed."""
        before, after = first[1].organs, second[1].organs
        names = list(dict.fromkeys([*before, *after]))
        self.table.set_rows([[title(name), *_cells(before.get(name), after.get(name))] for name in names])
        self.table.show()
        self._said.setText(f"Version {first[0]} → version {second[0]} of this CT; other CTs as submitted.")

    def _ask(self) -> None:
        self.compare_wanted.emit(self.first.currentData(), self.second.currentData())


def _cells(before: OrganDose | None, after: OrganDose | None) -> list[str]:
    doses = ["–" if organ is None else f"{organ.mean_dose_gy:.2f}" for organ in (before, after)]
    if before is None or after is None:
        return [*doses, "–", "–"]
    percent = change_percent(before.mean_dose_gy, after.mean_dose_gy)
    return [*doses, percent, f"{after.mass_g - before.mass_g:+z.1f}"]


def change_percent(before: float, after: float) -> str:
    """Change in percent, with its sign."""
    return "–" if before == 0 else f"{100 * (after / before - 1):+z.1f}"
