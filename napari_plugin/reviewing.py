"""Judging stored versions: approved, flagged, or neither, with a word why. No widgets."""

from __future__ import annotations

from qtpy.QtCore import QObject, Signal

from doselabel.errors import DoselabelError
from doselabel.wire import LabelReview, LabelVersion
from napari_plugin.connection import Connection
from napari_plugin.editing import Editing
from napari_plugin.tasks import Tasks

VERDICTS = {"approve": (True, False), "flag": (False, True), "withdraw": (False, False)}
"""What can be said of a version → approved, flagged."""


class Reviewing(QObject):
    """Tells the server what a reviewer says of the open case's versions.

    Signals
    -------
    status(text, level), reviewed(LabelVersion)
    """

    status = Signal(str, str)
    reviewed = Signal(object)

    def __init__(self, connection: Connection, editing: Editing, tasks: Tasks, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._connection, self._editing, self._tasks = connection, editing, tasks

    def judge(self, version: int, verdict: str, comment: str, reviewer: str) -> bool:
        """Approve or flag a version of the open case, or take that back (action "judge")."""
        client, session = self._connection.client, self._editing.session
        if client is None or session is None:
            self._tasks.refuse("judge", DoselabelError("No case is open.", "Open a case first."))
            return False
        if not reviewer.strip():
            self._tasks.refuse("judge", DoselabelError("A review needs its author.", "Enter your name or initials."))
            return False
        approved, flagged = VERDICTS[verdict]
        image_id = session.case.image_id
        review = LabelReview(approved=approved, flagged=flagged, reviewer=reviewer, comment=comment)

        def then(found: tuple[LabelVersion, list[LabelVersion]]) -> LabelVersion:
            judged, versions = found
            self._connection.versions.emit(image_id, versions)
            self._connection.refresh()
            self.reviewed.emit(judged)
            self.status.emit(f"Version {version} of {image_id} is {judged.state}.", "info")
            return judged

        return self._tasks.run(
            "judge",
            lambda _: (client.review_label(image_id, version, review), client.label_versions(image_id)),
            then,
        )
