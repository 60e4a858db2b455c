"""The dose follows the draft: what the annotator sees is what their edits do to the dose, before anything is submitted.

After an edit the labels go to the server, which answers with the dose of masks nobody has submitted and keeps nothing.
They go there once before any edit, as soon as a dose is computed: the first edit then finds the study warm. A job that
a newer edit overtakes is let run to its end, for its worker keeps the study warm; its answer is not shown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from qtpy.QtCore import QObject, QTimer, Signal

from doselabel.errors import DoselabelError, Progress
from doselabel.labels import LabelMap, write_labels
from doselabel.wire import DoseResults
from napari_plugin.client import Client
from napari_plugin.dosing import Dosing
from napari_plugin.editing import Editing
from napari_plugin.session.case import Case
from napari_plugin.tasks import Tasks

QUIET_MS = 150
"""So long after the last edit the draft is sent; never within a stroke."""


class Following(QObject):
    """Asks for the doses of drafts.

    Attributes
    ----------
    client : callable
        Gives the connected server, or None.
    scratch : Path
        Where label maps lie while they are sent.

    Signals
    -------
    followed(DoseResults of the draft, DoseResults that were computed)
    progressed(fraction)
        So far is the dose of an edited draft.
    refused(text)
        The server can't follow, and why; it is asked again after the next edit.
    """

    followed = Signal(object, object)
    progressed = Signal(float)
    refused = Signal(str)

    def __init__(
        self,
        editing: Editing,
        dosing: Dosing,
        tasks: Tasks,
        client: Callable[[], Client | None],
        scratch: Path,
        parent: QObject | None = None,
    ) -> None:
        super().__init__(parent)
        self._editing, self._dosing, self._tasks = editing, dosing, tasks
        self.client, self.scratch = client, scratch
        self._wanted = True
        self._asked: tuple[str, int] | None = None
        self._warm: DoseResults | None = None
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(QUIET_MS)
        self._timer.timeout.connect(self._ask)
        editing.labels_changed.connect(self._on_labels)
        dosing.ready.connect(lambda _: self._on_labels())
        tasks.progressed.connect(self._on_progress)
        tasks.failed.connect(self._on_failed)

    def set_wanted(self, on: bool) -> None:
        """Follow edits, or leave the doses as they were computed."""
        self._wanted = on
        if on:
            self._on_labels()

    # ---- following

    def _on_labels(self) -> None:
        session, results = self._editing.session, self._dosing.results
        if not self._wanted or session is None or results is None or self.client() is None:
            return
        due = session.dirty or self._warm is not results
        if due and session.case.study.patient_id == results.patient_id and self._now() != self._asked:
            self._timer.start()

    def _now(self) -> tuple[str, int]:
        session, results = self._editing.session, self._dosing.results
        return (f"{id(session)} {id(results)}", -1 if session is None else session.moment.token)

    def _ask(self) -> None:
        client, session, layers = self.client(), self._editing.session, self._editing.layers
        computed = self._dosing.results
        if client is None or session is None or layers is None or computed is None:
            return
        if not session.dirty and self._warm is computed:
            return
        if layers.labels.painting or self._tasks.running("draft"):
            self._timer.start()
            return
        snapshot, options, asked = session.snapshot(), self.options, self._now()
        self._asked, self._warm = asked, computed

        def work(progress: Progress) -> DoseResults:
            return self.compute(client, snapshot.case, snapshot.native(), options, progress)

        def then(results: DoseResults) -> DoseResults:
            if self._now() == asked and session.dirty:
                self.followed.emit(results, computed)
            else:
                self._on_labels()
            return results

        self._tasks.run("draft", work, then)

    @property
    def options(self) -> dict[str, Any]:
        """Those of the computed dose, on the same masks but for the edits; a draft has no report."""
        return {key: value for key, value in self._dosing.options.items() if key != "report"}

    def compute(
        self, client: Client, case: Case, labels: LabelMap, options: Mapping[str, Any], progress: Progress
    ) -> DoseResults:
        """The dose of labels nobody has submitted, on the CT's own grid; from any thread."""
        path = write_labels(self.scratch / f"{case.image_id}.nii.gz", labels)
        dose = client.draft_dose({case.image_id: path}, options, progress).dose
        if dose is None:
            raise DoselabelError("The server's dose of a draft ended without results.", "See its log.")
        return dose

    def _on_progress(self, action: str, _: str, fraction: float) -> None:
        if action == "draft" and self._edited():
            self.progressed.emit(fraction)

    def _on_failed(self, action: str, error: Exception) -> None:
        if action == "draft" and self._edited():
            self.refused.emit(str(error))

    def _edited(self) -> bool:
        return self._editing.session is not None and self._editing.session.dirty
