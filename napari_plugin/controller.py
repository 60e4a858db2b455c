"""Coordinates the annotator's work: server, case, layers, tools, jobs. Owns connections; draws no widgets.

The whole flow can be driven without a person::

    viewer = napari.Viewer(show=True)
    dock = DoselabelDock(viewer)          # or Controller(viewer) alone, without widgets
    viewer.window.add_dock_widget(dock, name="doselabel")
    controller = dock.controller
    controller.connect("http://127.0.0.1:8000");       info = controller.wait("connect", 30)
    controller.next_case("first");                     case = controller.wait("case", 60)
    controller.segment();                              result = controller.wait("segment", 600)
    controller.tool("keep_largest", organ="liver")     # waits; `controller.undo()` takes it back
    controller.submit(author="me", comment="edges");   version = controller.wait("submit", 60)
    controller.train(steps=20);                        result = controller.wait("train", 1800)
    controller.dose();                                 results = controller.wait("dose", 900)
    dock.show_tab("Dose");  viewer.screenshot("window.png", canvas_only=False)
    controller.cleanup()

The actions "connect", "case", "segment", "submit", "train" and "dose" run in a thread and return at once; each ends
with one of the signals ``finished(action, result)``, ``failed(action, error)`` or ``cancelled(action)``.
``wait(action, timeout_s)`` processes window events until then and returns the result or raises the error:

"connect" → `doselabel.wire.ServerInfo`, "case" → `napari_plugin.session.case.Case` (None when nothing is left to do),
"segment" → `SegmentationSummary`, "submit" → `LabelVersion`, "train" → `TrainingSummary`, "dose" → `DoseResults`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from napari.components import ViewerModel
from qtpy.QtCore import QObject, Signal

from doselabel.alarms import Alarm
from doselabel.errors import DoselabelError, Progress, ServerError
from doselabel.wire import JobResult, LabelVersion, StudyInfo
from napari_plugin.client import Client, inside
from napari_plugin.client.stock import MISSING
from napari_plugin.comparing import Comparing
from napari_plugin.connection import Connection
from napari_plugin.dosing import Dosing
from napari_plugin.doubts import Doubts
from napari_plugin.editing import Editing
from napari_plugin.following import Following
from napari_plugin.handing import Handing, Queued
from napari_plugin.layers import CaseLayers
from napari_plugin.learning import Learning
from napari_plugin.regions import Regions
from napari_plugin.registering import Registering
from napari_plugin.reviewing import Reviewing
from napari_plugin.segmenting import Segmenting
from napari_plugin.session.case import Case, open_case
from napari_plugin.session.recovery import Recovery
from napari_plugin.session.settings import Settings
from napari_plugin.session.state import Session
from napari_plugin.tasks import Tasks
from napari_plugin.tooling import Tooling


class Controller(QObject):
    """See the module's description.

    Parameters
    ----------
    viewer : napari.Viewer or napari.components.ViewerModel
        Where layers go.
    settings : Settings, optional
        What is remembered between sessions, and where drafts go.

    Attributes
    ----------
    connection, editing, tooling, regions, segmenting, doubts, handing, reviewing, registering, dosing,
    following, comparing, learning
        The parts that do the work; each has signals of its own.

    Signals
    -------
    status(text, level)
        One line for people; level is "info", "warning" or "error".
    connected(ServerInfo, list of StudyInfo), case_opened(Case), next_reason(text), drafts_found(list of image ids)
        What has happened, for views.
    """

    status = Signal(str, str)
    connected = Signal(object, object)
    case_opened = Signal(object)
    next_reason = Signal(str)
    drafts_found = Signal(object)

    def __init__(self, viewer: ViewerModel, settings: Settings | None = None, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.viewer = viewer
        self.settings = Settings.load() if settings is None else settings
        self._scratch = tempfile.TemporaryDirectory(prefix="doselabel-")
        self._closed = False
        scratch = Path(self._scratch.name)
        self.tasks = Tasks(self)
        self.editing = Editing(viewer, self.tasks, self)
        self.tooling = Tooling(self.editing, self.tasks, self)
        self.regions = Regions(self.editing, self)
        self.connection = Connection(self.tasks, self)
        self.segmenting = Segmenting(self.editing, self.tasks, self._job_file, self)
        folders = (self.settings.recovery_folder, self.settings.outbox_folder, scratch)
        self.handing = Handing(self.connection, self.editing, self.tasks, folders, self)
        self.doubts = Doubts(viewer, self.editing, self)
        self.reviewing = Reviewing(self.connection, self.editing, self.tasks, self)
        self.registering = Registering(viewer, self.editing, self.connection, self.tasks, scratch, self)
        self.learning = Learning(self.tasks, lambda: self.client, self)
        self.dosing = Dosing(viewer, self.editing, self.tasks, self._job_file, self)
        self.following = Following(self.editing, self.dosing, self.tasks, lambda: self.client, scratch, self)
        self.comparing = Comparing(self.editing, self.following, self.tasks, self)
        self.started, self.progressed = self.tasks.started, self.tasks.progressed
        self.finished, self.failed, self.cancelled = self.tasks.finished, self.tasks.failed, self.tasks.cancelled
        self.dose_ready, self.dose_outdated = self.dosing.ready, self.dosing.outdated
        for part in self.children():
            if hasattr(part, "status"):
                part.status.connect(self.status)
        self.segmenting.segmented.connect(self.doubts.take)
        self.registering.stored.connect(self.dosing.set_stale)
        self.connection.watched = lambda: self.session.case.image_id if self.session else None
        self.connection.set(user=self.settings.author)
        self.connection.listed.connect(self.connected)
        self.connection.answering.connect(self._on_answering)
        self.handing.stored.connect(self._on_stored)
        self.tasks.failed.connect(self._on_failed)
        self.tasks.cancelled.connect(lambda action: self._say(f"{action.capitalize()}: cancelled.", "warning"))

    # ---- state

    @property
    def session(self) -> Session | None:
        """State of the open case."""
        return self.editing.session

    @property
    def layers(self) -> CaseLayers | None:
        """Layers of the open case."""
        return self.editing.layers

    @property
    def client(self) -> Client | None:
        """The connected server; None when there is none."""
        return self.connection.client

    def wait(self, action: str, timeout_s: float = 60.0) -> Any:
        """Process window events until an action is over; return its result or raise its error."""
        return self.tasks.wait(action, timeout_s)

    def cancel(self, action: str) -> None:
        """Stop an action; a job is cancelled on the server too."""
        self.tasks.cancel(action)

    def cleanup(self, *, leave_layers: bool = False) -> None:
        """Keep unsaved work, stop everything and let go of the viewer; safe to call twice.

        Parameters
        ----------
        leave_layers : bool
            Do not touch the viewer: its window is being closed.
        """
        if self._closed:
            return
        self._closed = True
        if not leave_layers:
            self.registering.release()
            self.dosing.forget_layers()
        self.editing.cleanup(leave_layers=leave_layers)
        self.tasks.cleanup()
        self.connection.cleanup()
        self._scratch.cleanup()

    # ---- server and case

    def connect(self, url: str, token: str | None = None) -> None:  # type: ignore[override]  # hides QObject's own
        """Connect to a server and list its cases; from now on nothing goes to another one."""
        if not self.connection.connect_to(url, token):
            self._say("Connect is already under way.", "warning")

    def next_case(self, strategy: str = "") -> None:
        """Ask the server which case comes next, and open it."""
        if (client := self._connected("case")) is None:
            return
        user = self.settings.author

        def work(progress: Progress) -> tuple[str, Case | None]:
            progress("asking for the next case", 0.0)
            found = client.next_case(strategy, user)
            if found.image_id is None:
                return found.reason or "All cases are labelled.", None
            studies = client.studies()
            return found.reason, self._fetch(client, studies, found.image_id, progress)

        def then(found: tuple[str, Case | None]) -> Case | None:
            reason, case = found
            self.next_reason.emit(reason)
            if case is None:
                self._say(reason)
                return None
            return self._show(case)

        self._open(work, then)

    def open_case(self, image_id: str) -> None:
        """Open a case by its id; work on it that was not submitted is taken up again."""
        if (client := self._connected("case")) is not None:
            self._open(lambda progress: self._fetch(client, self.connection.studies, image_id, progress), self._show)

    def _open(self, work: Callable[[Progress], Any], then: Callable[[Any], Any]) -> None:
        self.editing.keep_work()
        self._start("case", work, then)

    def _fetch(self, client: Client, studies: list[StudyInfo], image_id: str, progress: Progress) -> Case:
        recovery = Recovery(self.settings.recovery_folder, client.url)
        return open_case(client, studies, image_id, Path(self._scratch.name), recovery, progress)

    def _show(self, case: Case) -> Case:
        if self.client is None or self.client.url != case.server_url:
            raise DoselabelError(f"{case.title} came from a server that is not connected any more.")
        self.dosing.forget_layers()
        self.editing.show(case, Recovery(self.settings.recovery_folder, case.server_url))
        self.case_opened.emit(case)
        self.segmenting.case_opened()
        if case.restored:
            self._say(
                f"Your unsaved work of {case.restored} is back; 'Discard' returns to the server's labels.", "warning"
            )
        else:
            versions = f"{len(case.versions)} label version(s)" if case.versions else "no labels yet"
            self._say(f"{case.title}: {versions}.")
        self._say_findings(case.labels.findings)
        return case

    def drafts(self) -> list[str]:
        """Cases of the connected server with work that was not submitted, the open one left out."""
        if self.client is None:
            return []
        opened = None if self.session is None else self.session.case.image_id
        pending = Recovery(self.settings.recovery_folder, self.client.url).pending()
        return [image_id for image_id in pending if image_id != opened]

    def discard_edits(self) -> None:
        """Return to the server's labels; the draft is put aside, not deleted."""
        if (session := self.session) is None or self._connected("case") is None:
            return
        self.editing.keep_work()
        session.recovery.discard(session.case.image_id)
        session.abandoned()
        self.open_case(session.case.image_id)

    # ---- labels

    def segment(self, **params: Any) -> None:
        """Let the server's network segment the case.

        Its labels replace those on screen as one undo step; where work of hands would be lost they are offered
        (``segmenting.offered``), to be taken with `take_offer` or left with `segmenting.keep_mine`.
        """
        client, session = self._connected("segment"), self._opened("segment")
        if client is not None and session is not None:
            self._asked("segment", self.segmenting.start(client, self.settings.author, params))

    def take_offer(self, organs: Sequence[str] | None = None) -> None:
        """Take the model's labels that wait, all or of some organs."""
        self.segmenting.take(organs)

    def tool(self, name: str, organ: str | None = None, **params: Any) -> int:
        """Apply a correction tool as one undo step, wait until it is done, and say how many voxels it changed.

        ``name`` is a key of `napari_plugin.tools.TOOLS`, ``params`` are as the tool takes them (``margin_mm=-2``);
        ``organ`` (for "mirror" the kidney to copy) is the selected one by default. 0 too when it could not work, which
        ``status`` says.
        """
        try:
            return self.tooling.wait() if self.tooling.start(name, organ, **params) else 0
        except DoselabelError:
            return 0

    def undo(self) -> None:
        """Undo the last edit; where the labels come from goes back with it."""
        self.editing.undo()

    def redo(self) -> None:
        """Redo the last undone edit."""
        self.editing.redo()

    def submit(self, author: str = "", comment: str = "") -> None:
        """Store the labels on the server as a new version; only then is the draft forgotten.

        While the server does not answer they wait on this computer, and ``failed`` says so (`handing.Queued`).
        """
        begun = self.handing.submit(author or self.settings.author, comment)
        if begun and author:
            self.remember_author(author)

    def take_version(self, version: LabelVersion) -> None:
        """Put a version of the open case on screen as one undo step (action "take")."""
        self.handing.take_version(version)

    def remember_author(self, author: str) -> None:
        """Remember who annotates."""
        self.settings = replace(self.settings, author=author)
        self.settings.save()
        self.connection.set(user=author)

    # ---- training and dose

    def train(self, steps: int, **params: Any) -> None:
        """Let the server train on the submitted labels."""
        if (client := self._connected("train")) is not None:
            self._asked("train", self.learning.train(client, self.settings.author, {"steps": steps, **params}))

    def roll_back(self, sha256: str) -> None:
        """Let an earlier model answer again (action "rollback")."""
        self.learning.roll_back(sha256, self.settings.author)

    def judge(self, version: int, verdict: str, comment: str = "") -> None:
        """Say of a stored version of the open case: "approve", "flag" or "withdraw" (action "judge")."""
        self.reviewing.judge(version, verdict, comment, self.settings.author)

    def dose(self, **options: Any) -> None:
        """Let the server compute the patient's doses from the submitted labels, and show map and isodose lines."""
        client, session = self._connected("dose"), self._opened("dose")
        if client is not None and session is not None:
            self._asked("dose", self.dosing.start(client, self.settings.author, options))

    @property
    def report(self) -> Path | None:
        """The latest dose report, HTML."""
        return self.dosing.report

    def save_dose(self, folder: str | Path) -> Path:
        """Copy everything the latest dosimetry made (results, dose map, report …) to a folder."""
        return self.dosing.save(folder)

    # ---- small things

    def _job_file(self, client: Client, result: JobResult, role: str, progress: Progress) -> Path:
        name = result.files.get(role)
        if name is None:
            raise ServerError(f"The server's job '{result.task}' made no file '{role}'.", "See its log.")
        path = inside(Path(self._scratch.name), f"jobs/{result.id}/{name}")
        return client.job_file(result.id, name, path, lambda part: progress("fetching the result", part))

    def _on_answering(self) -> None:
        client, session, info = self.client, self.session, self.connection.info
        if client is None or info is None:
            return
        if session is not None and session.case.server_url != client.url:  # its case is not this server's
            self.dosing.forget_layers()
            self.editing.close()
        self.settings = self.settings.with_url(client.url)
        self.settings.save()
        missing = f" {MISSING}" if self.connection.link.stock else ""
        self._say(f"Connected: {info.images} CTs of {info.studies} patients, {info.labelled} labelled.{missing}")
        self.drafts_found.emit(self.drafts())

    def _on_stored(self, version: LabelVersion) -> None:
        results, session = self.dosing.results, self.session
        if results is not None and session is not None and session.case.study.patient_id == results.patient_id:
            self.dosing.set_stale()
        self.connection.refresh()
        self.editing.labels_changed.emit()
        self.editing.measure()
        self._say_findings(version.alarms)

    def _on_failed(self, action: str, error: Exception) -> None:
        if action != "draft":  # the dose's view says that it can't follow
            self._say(str(error), "warning" if isinstance(error, Queued) else "error")

    def _start(self, action: str, work: Callable[[Progress], Any], then: Callable[[Any], Any]) -> bool:
        return self._asked(action, self.tasks.run(action, work, then))

    def _asked(self, action: str, started: bool) -> bool:
        if not started:
            self._say(f"{action.capitalize()} is already under way.", "warning")
        return started

    def _say_findings(self, findings: Sequence[Alarm]) -> None:
        """Say what is odd about a label map."""
        if odd := [alarm.sentence for alarm in findings if alarm.severity != "note"]:
            self._say(f"Look at the labels: {' '.join(odd)}", "warning")

    def _say(self, text: str, level: str = "info") -> None:
        self.status.emit(text, level)

    def _connected(self, action: str) -> Client | None:
        if self.client is None:
            self.tasks.refuse(action, DoselabelError("No server is connected.", "Connect to a server first."))
        return self.client

    def _opened(self, action: str) -> Session | None:
        if self.client is not None and self.session is None:
            self.tasks.refuse(action, DoselabelError("No case is open.", "Open a case first."))
        return self.session
