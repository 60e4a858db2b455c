"""The open case's stored versions: who drew them, how they differ from the labels on screen, whether they are good."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QLineEdit, QWidget

from doselabel.labels import LabelMap
from doselabel.wire import LabelVersion
from napari_plugin.views.kit import Table, button, column, note, row

SHOWN = 6
"""Versions in sight; older ones are reached by the wheel."""
COMPARE = "Compare with the labels on screen: thin lines over the image, and the table below"


class ReviewView(QWidget):
    """Choose a version; compare, take, approve or flag it."""

    compare_wanted = Signal(object)
    hide_wanted = Signal()
    take_wanted = Signal(object)
    verdict_wanted = Signal(int, str, str)

    def __init__(self) -> None:
        super().__init__()
        self._versions: list[LabelVersion] = []
        self._compared: int | None = None
        self.table = Table(["Version", "Author", "Stored", "State"], rows_shown=SHOWN, rest=1)
        self.table.itemSelectionChanged.connect(self._offer)
        self.compare, self.hide_overlay = button("Compare", COMPARE), button("Hide lines", "Take the thin lines away")
        self.take = button("Take", "Put this version on screen, as one undo step")
        self.said = note()
        self.comment = QLineEdit()
        self.comment.setPlaceholderText("comment (optional)")
        self.verdicts = {
            "approve": button("Approve ✓✓", "It is good: the newest approved version counts"),
            "flag": button("Flag ⚑", "Something is wrong with it: it does not count while another one does"),
            "withdraw": button("Withdraw", "Neither approved nor flagged any more"),
        }
        self.differences = Table(["Organ", "screen\nmL", "version\nmL", "Δ\nmL", "Dice"])
        self.differences.hide()
        self.compare.clicked.connect(lambda: self.compare_wanted.emit(self._chosen))
        self.hide_overlay.clicked.connect(self.hide_wanted)
        self.take.clicked.connect(lambda: self.take_wanted.emit(self._chosen))
        for verdict, asked in self.verdicts.items():
            asked.clicked.connect(lambda _=False, verdict=verdict: self._judge(verdict))
        lines = column(
            self,
            self.table,
            self.said,
            row(self.compare, self.hide_overlay, self.take),
            self.comment,
            row(*self.verdicts.values()),
            self.differences,
        )
        lines.addStretch(1)
        self.set_versions([])

    @property
    def _chosen(self) -> LabelVersion | None:
        rows = {index.row() for index in self.table.selectedIndexes()}
        return self._versions[rows.pop()] if rows else None

    def set_versions(self, versions: Sequence[LabelVersion]) -> None:
        """Show what the server has, newest first; what was chosen stays chosen."""
        if list(versions) == self._versions:
            self._offer()
            return
        chosen = self._chosen.version if self._chosen else None
        self._versions = list(versions)
        self.table.blockSignals(True)
        self.table.clearSelection()
        self.table.set_rows(
            [[f"{v.version}", v.author or "–", f"{v.created.astimezone():%d %b %H:%M}", _state(v)] for v in versions]
        )
        for i, version in enumerate(versions):
            if version.version == chosen or (chosen is None and i == 0):
                self.table.selectRow(i)
        self.table.blockSignals(False)
        self._offer()

    def set_compared(self, version: LabelVersion, _: LabelMap, rows: Sequence[tuple[str, float, float, float]]) -> None:
        """Show how a version differs from the labels on screen."""
        cells = [(name, f"{a:.1f}", f"{b:.1f}", f"{b - a:+z.1f}", f"{dice:.3f}") for name, a, b, dice in rows]
        self.differences.set_rows(cells)
        self.differences.setVisible(True)
        self._compared = version.version
        self._offer()

    def forget(self) -> None:
        """Nothing is compared any more."""
        self.differences.hide()
        self._compared = None
        self._offer()

    def _offer(self) -> None:
        chosen = self._chosen
        usable = chosen is not None and chosen.error is None
        for asked in (self.compare, self.take, *self.verdicts.values()):
            asked.setEnabled(usable)
        self.hide_overlay.setEnabled(self._compared is not None)
        if chosen is None:
            self.said.setText("This CT has no stored labels yet." if not self._versions else "Choose a version.")
            return
        compared = f" Thin lines: version {self._compared}." if self._compared is not None else ""
        words = chosen.error.message if chosen.error else chosen.comment
        self.said.setText(f"Version {chosen.version}{f': {words}' if words else ''}.{compared}".replace("..", "."))

    def _judge(self, verdict: str) -> None:
        if self._chosen is not None:
            self.verdict_wanted.emit(self._chosen.version, verdict, self.comment.text().strip())
            self.comment.clear()


def _state(version: LabelVersion) -> str:
    if version.error is not None:
        return "damaged"
    mark = {"approved": "✓✓ ", "flagged": "⚑ ", "submitted": "✓ "}.get(version.state, "")
    return mark + version.state
