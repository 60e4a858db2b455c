"""Let the server learn from the submitted labels, see what comes of it, and go back to an earlier model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QLabel, QProgressBar, QWidget

from doselabel.labels import title
from doselabel.wire import ModelEvent, ModelInfo, ServerInfo, TrainingSummary
from napari_plugin.views.kit import Table, button, column, note, number, row
from napari_plugin.views.plots import Plot


class LearnView(QWidget):
    """Start or cancel training; progress, curve and verdict."""

    train_wanted = Signal(int)
    rollback_wanted = Signal(str)

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
        self._events: list[ModelEvent] = []
        self._answering = ""
        self.history = Table(["Since", "Model", "How", "By"], rows_shown=4, rest=3)
        self.history.itemSelectionChanged.connect(self._offer)
        self._why = note()
        self._no_history = ""
        self.rollback = button("Go back to this model", "It answers from then on; the one that answers now is kept")
        self.rollback.clicked.connect(lambda: self.rollback_wanted.emit(self._chosen.sha256 if self._chosen else ""))
        lines = column(
            self,
            self._labelled,
            row(QLabel("For"), self._steps, self._train, stretch=2),
            self._verdict,
            self._dice,
            self.plot,
            note("<b>Models that answered</b>"),
            self.history,
            self._why,
            row(self.rollback),
        )
        lines.addStretch(1)
        self.set_models([])

    def set_server(self, info: ServerInfo) -> None:
        """Show how much there is to learn from."""
        self._labelled.setRange(0, max(1, info.images))
        self._labelled.setValue(info.labelled)
        self.set_answering(info.model)

    def set_history(self, why_none: str) -> None:
        """Say why there is no list of models that answered, "" when there is one."""
        self._no_history = why_none
        self._offer()

    def set_answering(self, model: ModelInfo | None) -> None:
        """Show which model answers now."""
        sha256 = model.sha256 if model else ""
        if sha256 != self._answering:
            self._answering = sha256
            self._fill()

    def set_models(self, events: Sequence[ModelEvent]) -> None:
        """Show which models answered, newest first."""
        self._events = list(events)
        self._fill()

    def _fill(self) -> None:
        self.history.set_rows(
            [
                [f"{e.time.astimezone():%d %b %H:%M}", _short(e, self._answering), e.what, e.by or "–"]
                for e in self._events
            ]
        )
        self._offer()

    @property
    def _chosen(self) -> ModelEvent | None:
        rows = {index.row() for index in self.history.selectedIndexes()}
        return self._events[rows.pop()] if rows else None

    def _offer(self) -> None:
        event = self._chosen
        why = (
            self._no_history or "No model has been exchanged yet."
            if not self._events
            else "Choose one to read why it came."
        )
        self._why.setText(why if event is None else f"{event.sha256[:12]}: {event.reason or event.what}")
        can = event is not None and event.kept and event.sha256 != self._answering
        self.rollback.setEnabled(can)

    def set_learning(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Draw the curves of a training that runs."""
        self.plot.show_learning(rows)
        self.plot.show()

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
        if self.plot.isHidden() and summary.loss:
            self.set_learning([{"step": i, "loss": loss} for i, loss in enumerate(summary.loss, 1)])


def _short(event: ModelEvent, answering: str) -> str:
    return event.sha256[:8] + (" ●" if event.sha256 == answering else "")


def _dice(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
