"""Let the server learn from the submitted labels, and see what came of it."""

from __future__ import annotations

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QLabel, QProgressBar, QWidget

from doselabel.labels import title
from doselabel.wire import ServerInfo, TrainingSummary
from napari_plugin.views.kit import Table, button, column, note, number, row
from napari_plugin.views.plots import Plot


class LearnView(QWidget):
    """Start or cancel training; progress, curve and verdict."""

    train_wanted = Signal(int)

    def __init__(self) -> None:
        super().__init__()
        self._labelled = QProgressBar()
        self._labelled.setFormat("%v of %m CTs labelled")
        self._steps = number(60, 1, 100_000, "steps", step=10, tip="More steps learn more and take longer")
        self._train = button("Train", "On all submitted labels")
        self._train.clicked.connect(lambda: self.train_wanted.emit(int(self._steps.value())))
        self._verdict = note(
            "The server trains on all submitted labels. The new model replaces the old one only if it is better on "
            "cases kept for validation."
        )
        self._dice = Table(["Organ", "Dice\nbefore", "Dice\nafter"])
        self._dice.hide()
        self.plot = Plot()
        self.plot.hide()
        lines = column(
            self,
            self._labelled,
            row(QLabel("For"), self._steps, self._train, stretch=2),
            self._verdict,
            self._dice,
            self.plot,
        )
        lines.addStretch(1)

    def set_server(self, info: ServerInfo) -> None:
        """Show how much there is to learn from."""
        self._labelled.setRange(0, max(1, info.images))
        self._labelled.setValue(info.labelled)

    def set_ready(self, ready: bool, why_not: str) -> None:
        """Allow a training, or say why there can be none."""
        self._train.setEnabled(ready)
        self._train.setToolTip("On all submitted labels" if ready else why_not)

    def set_summary(self, summary: TrainingSummary | None) -> None:
        """Show the curve, the Dice before and after, and whether the model was exchanged."""
        if summary is None:
            return
        verdict = "The new model is in use." if summary.promoted else "The old model stays."
        extent = f"{summary.steps} steps on {summary.cases} cases"
        self._verdict.setText(f"<b>{summary.reason or verdict}</b> ({extent})")
        names = list(dict.fromkeys([*summary.dice_before, *summary.dice_after]))
        self._dice.set_rows(
            [[title(n), _dice(summary.dice_before.get(n)), _dice(summary.dice_after.get(n))] for n in names]
        )
        self._dice.setVisible(bool(names))
        self.plot.show_loss(summary.loss)
        self.plot.setVisible(bool(summary.loss))


def _dice(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
