"""Handing labels in: review, outbox, what others stored meanwhile. Knows threads and requests; draws no widgets.

Labels go to the server their case came from and to no other; they are on this computer's disk until it has them.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from qtpy.QtCore import QObject, Signal

from doselabel.errors import DoselabelError, Progress
from doselabel.labels import LabelMap
from doselabel.wire import LabelSubmission, LabelVersion
from napari_plugin.client.http import Unreachable
from napari_plugin.connection import Connection
from napari_plugin.editing import Editing, Prepared
from napari_plugin.session.case import fetch_version
from napari_plugin.session.conflict import Conflict, called, differences
from napari_plugin.session.outbox import Delivery, Outbox
from napari_plugin.session.recovery import Recovery
from napari_plugin.session.review import Review, review
from napari_plugin.tasks import Tasks


class Queued(Unreachable):
    """A submission that waits on this computer because the server does not answer."""

    code = "queued"


class Handing(QObject):
    """Submits labels, and tells of versions stored by others.

    Signals
    -------
    status(text, level)
    reviewed(Review, Conflict or None)
        What to show before labels are handed in.
    stored(LabelVersion)
        A version is on the server, whether just submitted or sent late.
    conflict(Conflict)
        Somebody else stored versions that the open case does not know of.
    compared(LabelVersion, LabelMap, differences)
        Another version beside the labels on screen, see `differences`.
    """

    status = Signal(str, str)
    reviewed = Signal(object, object)
    stored = Signal(object)
    conflict = Signal(object)
    compared = Signal(object, object, object)

    def __init__(
        self,
        connection: Connection,
        editing: Editing,
        tasks: Tasks,
        folders: tuple[Path, Path, Path],
        parent: QObject | None = None,
    ) -> None:
        """``folders`` are those of drafts, of outboxes, and one for temporary files."""
        super().__init__(parent)
        self._connection, self._editing, self._tasks = connection, editing, tasks
        self._drafts, self._outboxes, self._scratch = folders
        self._told: set[tuple[str, int]] = set()
        self._shown = ("", 0)
        self._mine: dict[tuple[str, int], LabelVersion] = {}
        connection.versions.connect(self._on_versions)
        connection.answering.connect(self.send_waiting)
        tasks.failed.connect(lambda action, _: self._count() if action == "submit" else None)

    # ---- before

    def review(self) -> None:
        """Compare the labels with their start, and look for faults; ``reviewed`` follows."""
        if (session := self._editing.session) is None:
            self._tasks.refuse("review", DoselabelError("No case is open.", "Open a case first."))
            return
        snapshot, case = session.snapshot(), session.case
        client = self._connection.client if self._connection.link.state == "connected" else None

        def work(_: Progress) -> tuple[Review, Sequence[LabelVersion]]:
            found = review(snapshot.array, snapshot.moment.start, case.ct, case.study.organs_absent, snapshot.names)
            try:
                return found, client.label_versions(case.image_id) if client else ()
            except Unreachable:
                return found, ()

        def then(found: tuple[Review, Sequence[LabelVersion]]) -> Review:
            others = self._unknown(found[1])
            self._shown = (case.image_id, max((v.version for v in others), default=0))
            self.reviewed.emit(found[0], Conflict(case.image_id, others) if others else None)
            return found[0]

        self._tasks.run("review", work, then)

    # ---- submit

    def submit(self, author: str, comment: str) -> bool:
        """Seal the labels and send them; False when nothing was begun."""
        connection, session = self._connection, self._editing.session
        refusal = self._refusal(author)
        if refusal is not None:
            self._tasks.refuse("submit", refusal)
            return False
        assert session is not None
        assert connection.client is not None
        snapshot, client, case = session.snapshot(), connection.client, session.case
        seen = snapshot.seen
        if client.lacks and self._shown[0] == case.image_id:  # theirs is overwritten: only after it was shown
            seen = max(seen or 0, self._shown[1])
        outbox = Outbox(self._outboxes, client.url)
        submission = LabelSubmission(
            author=author,
            comment=comment,
            origin=snapshot.moment.origin,  # type: ignore[arg-type]
            started_from=snapshot.moment.started_from,
            seen=seen,
        )

        def work(progress: Progress) -> tuple[list[Delivery], str]:
            progress("writing", 0.1)
            labels = snapshot.native()
            session.sent(snapshot, labels)
            key = outbox.seal(case.image_id, labels, submission).submission.key
            progress("sending", 0.3)
            try:
                return outbox.deliver(client), key
            except Unreachable as error:
                raise Queued(
                    f"{error.message} The labels of {case.title} are kept on this computer.",
                    "They are sent as soon as it answers.",
                ) from error

        def then(found: tuple[list[Delivery], str]) -> LabelVersion:
            deliveries, key = found
            mine = next((d for d in deliveries if d.parcel.submission.key == key), None)
            self._settle([d for d in deliveries if d is not mine])
            if mine is None:
                raise Queued("The server stopped answering. The labels are kept on this computer.")
            if mine.error is not None:
                raise mine.error
            self._settle([mine])
            assert mine.version is not None
            return mine.version

        return self._tasks.run("submit", work, then)

    def send_waiting(self) -> None:
        """Send what waits for the server that now answers."""
        if (client := self._connection.client) is None:
            return
        outbox = Outbox(self._outboxes, client.url)
        self._count()
        if not outbox.waiting() or self._tasks.running("submit"):
            return

        def work(_: Progress) -> list[Delivery]:
            try:
                return outbox.deliver(client)
            except Unreachable:
                return []

        self._tasks.run("send", work, self._settle)

    def _refusal(self, author: str) -> DoselabelError | None:
        connection, session = self._connection, self._editing.session
        if session is None:
            if connection.client is None:
                return DoselabelError("No server is connected.", "Connect to a server first.")
            return DoselabelError("No case is open.", "Open a case first.")
        home = session.case.server_url
        if connection.client is None or connection.client.url != home:
            there = connection.client.url if connection.client else "no server"
            return DoselabelError(
                f"{session.case.title} is from {home}, but {there} is connected: nothing was sent.",
                f"Connect to {home} to submit it; the draft is kept.",
            )
        if session.empty:
            return DoselabelError("There is nothing to submit: no voxel is labelled.")
        if not author.strip():
            return DoselabelError("A submission needs its author.", "Enter your name or initials.")
        return None

    def _settle(self, deliveries: Sequence[Delivery]) -> None:
        """Let drafts, session and annotator know what became of parcels."""
        client, session = self._connection.client, self._editing.session
        for delivery in deliveries:
            image_id = delivery.parcel.image_id
            if delivery.version is None:
                self.status.emit(f"{image_id}: a submission was refused. {delivery.error} It is kept aside.", "error")
                continue
            version = delivery.version
            if session is not None and session.case.image_id == image_id:
                session.submitted(delivery.parcel.content, version)
            if client is not None:
                drafts = Recovery(self._drafts, client.url)
                if drafts.holds(image_id, delivery.parcel.content):
                    drafts.clear(image_id)
            self._mine[image_id, version.version] = version
            self.stored.emit(version)
            self.status.emit(f"{image_id}: stored as {called(version)}. Thank you.", "info")
            if version.unseen and client is not None:
                self._fetch_conflict(image_id, version)
        self._count()

    def _count(self) -> None:
        if (client := self._connection.client) is not None:
            self._connection.set(waiting=len(Outbox(self._outboxes, client.url).waiting()))

    # ---- what others stored

    def compare(self, version: LabelVersion) -> None:
        """Fetch another version of the open case and compare it with the labels on screen; ``compared`` follows."""
        client, session = self._connection.client, self._editing.session
        if client is None or session is None:
            self._tasks.refuse("compare", DoselabelError("No case is open.", "Open a case first."))
            return
        snapshot, case = session.snapshot(), session.case

        def work(_: Progress) -> tuple[LabelMap, list[tuple[str, float, float, float]]]:
            theirs = fetch_version(client, case, version.version, self._scratch)
            return theirs, differences(LabelMap(snapshot.array, theirs.geometry, snapshot.names), theirs)

        def then(found: tuple[LabelMap, list[tuple[str, float, float, float]]]) -> None:
            if self._editing.session is session:
                self.compared.emit(version, *found)

        self._tasks.run("compare", work, then)

    def take_version(self, version: LabelVersion) -> None:
        """Put another version on screen in place of the labels there, as one undo step."""
        client, session = self._connection.client, self._editing.session
        if client is None or session is None:
            self._tasks.refuse("take", DoselabelError("No case is open.", "Open a case first."))
            return
        case = session.case

        def work(_: Progress) -> tuple[np.ndarray, Prepared]:
            array = session.adopted(fetch_version(client, case, version.version, self._scratch))
            return array, self._editing.prepare(session, lambda _: array)

        def then(found: tuple[np.ndarray, Prepared]) -> LabelVersion:
            array, ready = found
            if self._editing.take_prepared(ready, version.origin, f"version {version.version}", array):
                session.seen = max(version.version, session.seen or 0)
                who = version.author or "nobody named"
                taken = called(version).capitalize()
                self.status.emit(f"{taken} by {who} is on screen; Ctrl+Z brings yours back.", "info")
            return version

        self._tasks.run("take", work, then)

    def keep_mine(self, conflict: Conflict) -> None:
        """Note that the annotator knows of the others' versions, and goes on with their own labels."""
        session = self._editing.session
        if session is not None and session.case.image_id == conflict.image_id:
            session.seen = max(session.seen or 0, *(v.version for v in conflict.others))

    def _unknown(self, versions: Sequence[LabelVersion]) -> tuple[LabelVersion, ...]:
        """Versions of the open case that its annotator does not know of, newest first."""
        session = self._editing.session
        if session is None or session.seen is None:
            return ()
        return tuple(v for v in versions if v.version > session.seen)

    def _on_versions(self, image_id: str, versions: Sequence[LabelVersion]) -> None:
        session = self._editing.session
        if session is None or session.case.image_id != image_id or self._tasks.running("submit"):
            return
        fresh = [v for v in self._unknown(versions) if (image_id, v.version) not in self._told]
        if fresh:
            mine = next((self._mine[image_id, n] for v in fresh for n in v.unseen if (image_id, n) in self._mine), None)
            self._tell(Conflict(image_id, tuple(fresh), mine))

    def _fetch_conflict(self, image_id: str, mine: LabelVersion) -> None:
        client = self._connection.client
        assert client is not None

        def then(versions: list[LabelVersion]) -> None:
            others = tuple(v for v in versions if v.version in mine.unseen)
            if others:
                self._tell(Conflict(image_id, others, mine))

        self._tasks.run("conflict", lambda _: client.label_versions(image_id), then)

    def _tell(self, conflict: Conflict) -> None:
        self._told |= {(conflict.image_id, v.version) for v in conflict.others}
        self.conflict.emit(conflict)
