"""The server's network: trained on what was submitted, watched while it learns, and put back. No widgets."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qtpy.QtCore import QObject, Signal

from doselabel.errors import DoselabelError, Progress
from doselabel.wire import JobRequest, JobResult, JobStatus, ModelEvent, ModelInfo, TrainingSummary
from napari_plugin.client import Client
from napari_plugin.tasks import Tasks

TRAIN_TASK = "train"
Row = dict[str, float]


class Learning(QObject):
    """Asks the server to learn, and which model answers.

    Signals
    -------
    status(text, level), trained(TrainingSummary)
    learned(rows)
        While it learns: what its curves are drawn of, a row for each step that was told of.
    models(list of ModelEvent)
        Every change of the model that answers, newest first.
    answers(ModelInfo)
        Another model answers from now on.
    """

    status = Signal(str, str)
    trained = Signal(object)
    learned = Signal(object)
    models = Signal(object)
    answers = Signal(object)

    def __init__(self, tasks: Tasks, client: Callable[[], Client | None], parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._tasks, self._client = tasks, client
        self._rows: dict[tuple, Row] = {}
        tasks.progressed.connect(lambda action, *_: self._tell() if action == "train" else None)

    def train(self, client: Client, user: str, params: dict[str, Any]) -> bool:
        """Let the server train on the submitted labels (action "train")."""
        request = JobRequest(user=user, params=params)
        rows: dict[tuple, Row] = {}
        self._rows = rows

        def seen(status: JobStatus) -> None:  # in the thread; the server tells the last rows, some of them again
            rows.update({(row.get("step", 0.0), *sorted(row)): row for row in status.rows})

        def then(result: JobResult) -> TrainingSummary | None:
            summary = result.training
            self._tell()
            self.trained.emit(summary)
            if summary is not None:
                verdict = "The new model is in use." if summary.promoted else "The old model stays."
                extent = f"Trained {summary.steps} steps on {summary.cases} cases."
                self.status.emit(f"{extent} {summary.reason or verdict}", "info")
            self.refresh()
            return summary

        def work(progress: Progress) -> JobResult:
            return client.run_job(TRAIN_TASK, request, progress, on_status=seen)

        return self._tasks.run("train", work, then)

    def refresh(self) -> None:
        """Ask which models answered, and since when; ``models`` follows."""
        if (client := self._client()) is not None:
            self._tasks.run("models", lambda _: client.models(), self.models.emit)

    def roll_back(self, sha256: str, user: str) -> bool:
        """Let an earlier model answer again (action "rollback")."""
        if (client := self._client()) is None:
            self._tasks.refuse("rollback", DoselabelError("No server is connected.", "Connect to a server first."))
            return False

        def then(found: tuple[ModelInfo, list[ModelEvent]]) -> ModelInfo:
            model, events = found
            self.models.emit(events)
            self.answers.emit(model)
            self.status.emit(f"The model {model.sha256[:8]} answers again.", "info")
            return model

        return self._tasks.run("rollback", lambda _: (client.rollback(sha256, user), client.models()), then)

    def _tell(self) -> None:
        if self._rows:
            self.learned.emit(list(self._rows.values()))
