"""Coordinates the annotator's work: server, case, layers, tools, jobs. Owns connections; draws no widgets.

The whole flow can be driven without a person::

    viewer = napari.Viewer(show=True)
    dock = DoselabelDock(viewer)          # or Controller(viewer) alone, without widgets
    viewer.window.add_dock_widget(dock, name="doselabel")
    controller = dock.controller
    controller.connect("http://127.0.0.1:8000");       info = controller.wait("connect", 30)
    controller.next_case("first");                     case = controller.wait("case", 60)
    controller.segment();                              result = controller.wait("segment", 600)
    controller.tool("keep_largest", organ="liver")     # at once; `controller.undo()` takes it back
    controller.submit(author="me", comment="edges");   version = controller.wait("submit", 60)
    controller.train(steps=20);                        result = controller.wait("train", 1800)
    controller.dose();                                 results = controller.wait("dose", 900)
    dock.show_tab("Dose");  viewer.screenshot("window.png", canvas_only=False)
    controller.cleanup()

The actions "connect", "case", "segment", "submit", "train" and "dose" run in a thread and return at once; each ends
with one of the signals ``finished(action, result)``, ``failed(action, error)`` or ``cancelled(action)``.
``wait(action, timeout_s)`` processes window events until then and returns the result or raises the error:

=========  ================================================================
action     result
=========  ================================================================
connect    `doselabel.wire.ServerInfo`
case       `napari_plugin.session.case.Case`, or None when nothing is left to do
segment    `doselabel.wire.SegmentationSummary`
submit     `doselabel.wire.LabelVersion`
train      `doselabel.wire.TrainingSummary`
dose       `doselabel.wire.DoseResults`
=========  ================================================================
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from napari.components import ViewerModel
from qtpy.QtCore import QObject, Signal

from doselabel.alarms import Alarm
from doselabel.errors import DoselabelError, Progress, ServerError
from doselabel.geometry import Volume, read_image
from doselabel.labels import LabelMap, read_labels, title, write_labels
from doselabel.wire import DoseResults, JobRequest, JobResult, LabelSubmission, ServerInfo, StudyInfo
from napari_plugin import layers as scene
from napari_plugin.client import Client, inside
from napari_plugin.editing import Editing
from napari_plugin.layers import CaseLayers
from napari_plugin.session.case import Case, open_case, to_canonical
from napari_plugin.session.recovery import Recovery
from napari_plugin.session.settings import Settings
from napari_plugin.session.state import Session
from napari_plugin.tasks import Tasks

SEGMENT_TASK = "kidney_liver"
DOSE_TASK = "dosimetry"
TRAIN_TASK = "train"


class Controller(QObject):
    """See the module's description.

    Parameters
    ----------
    viewer : napari.Viewer or napari.components.ViewerModel
        Where layers go.
    settings : Settings, optional
        What is remembered between sessions, and where drafts go.

    Signals
    -------
    status(text, level)
        One line for people; level is "info", "warning" or "error".
    connected(ServerInfo, list of StudyInfo), disconnected(), case_opened(Case), next_reason(text),
    segmented(SegmentationSummary), trained(TrainingSummary), dose_ready(DoseResults), dose_outdated()
        What has happened, for views; `editing` has signals of its own.
    """

    status = Signal(str, str)
    connected = Signal(object, object)
    disconnected = Signal()
    case_opened = Signal(object)
    next_reason = Signal(str)
    segmented = Signal(object)
    trained = Signal(object)
    dose_ready = Signal(object)
    dose_outdated = Signal()

    def __init__(self, viewer: ViewerModel, settings: Settings | None = None, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.viewer = viewer
        self.settings = Settings.load() if settings is None else settings
        self.client: Client | None = None
        self._clients: list[Client] = []
        self.info: ServerInfo | None = None
        self.studies: list[StudyInfo] = []
        self.dose_results: DoseResults | None = None
        self._dose_files: dict[str, Path] = {}
        self._dose_layers: tuple = ()
        self._scratch = tempfile.TemporaryDirectory(prefix="doselabel-")
        self._closed = False
        self.tasks = Tasks(self)
        self.editing = Editing(viewer, self.tasks, self)
        self.started, self.progressed = self.tasks.started, self.tasks.progressed
        self.finished, self.failed, self.cancelled = self.tasks.finished, self.tasks.failed, self.tasks.cancelled
        self.editing.status.connect(self.status)
        self.tasks.failed.connect(self._on_failed)
        self.tasks.cancelled.connect(self._on_cancelled)

    @property
    def session(self) -> Session | None:
        """State of the open case."""
        return self.editing.session

    @property
    def layers(self) -> CaseLayers | None:
        """Layers of the open case."""
        return self.editing.layers

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
            self._forget_dose()
        self.editing.cleanup(leave_layers=leave_layers)
        self.tasks.cleanup()
        for client in self._clients:
            client.close()
        self.client = None
        self._scratch.cleanup()

    # ---- server and case

    def connect(self, url: str, token: str | None = None) -> None:
        """Connect to a server and list its cases."""

        def work(_: Progress) -> tuple[Client, ServerInfo, list[StudyInfo]]:
            client = Client(url, token)
            try:
                return client, client.info(), client.studies()
            except BaseException:
                client.close()
                raise

        def then(found: tuple[Client, ServerInfo, list[StudyInfo]]) -> ServerInfo:
            if self.client is not None and self.client.url != found[0].url:  # its case is not the new server's
                self._forget_dose()
                self.editing.close()
            self.client, self.info, self.studies = found
            self._clients.append(self.client)
            self._remember(self.settings.with_url(self.client.url))
            self.connected.emit(self.info, self.studies)
            info = self.info
            self._say(f"Connected: {info.images} CTs of {info.studies} patients, {info.labelled} labelled.")
            return self.info

        self._start("connect", work, then)

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

        if self._start("case", work, then):
            self.editing.keep_work()

    def open_case(self, image_id: str) -> None:
        """Open a case by its id."""
        if (client := self._connected("case")) is None:
            return
        if self._start("case", lambda progress: self._fetch(client, self.studies, image_id, progress), self._show):
            self.editing.keep_work()

    def _fetch(self, client: Client, studies: list[StudyInfo], image_id: str, progress: Progress) -> Case:
        recovery = Recovery(self.settings.recovery_folder, client.url)
        return open_case(client, studies, image_id, Path(self._scratch.name), recovery, progress)

    def _show(self, case: Case) -> Case:
        self._forget_dose()
        self.editing.show(case, Recovery(self.settings.recovery_folder, self._url()))
        self.case_opened.emit(case)
        if case.restored:
            back = "'Discard edits' returns to the server's labels"
            self._say(f"Your unsaved work of {case.restored} is back; {back}.", "warning")
        else:
            versions = f"{len(case.versions)} label version(s)" if case.versions else "no labels yet"
            self._say(f"{case.title}: {versions}.")
        self._say_findings(case.labels.findings)
        return case

    def discard_edits(self) -> None:
        """Return to the server's labels; the draft is put aside, not deleted."""
        if (session := self.session) is None:
            return
        self.editing.keep_work()
        session.recovery.discard(session.case.image_id)
        session.abandoned()
        self.open_case(session.case.image_id)

    # ---- labels

    def segment(self, **params: Any) -> None:
        """Let the server's network segment the case; its labels replace those on screen as one undo step."""
        client, session = self._connected("segment"), self._opened("segment")
        if client is None or session is None:
            return
        case = session.case

        def work(progress: Progress) -> tuple[JobResult, LabelMap]:
            request = JobRequest(image_id=case.image_id, user=self.settings.author, params=params)
            result = client.run_job(SEGMENT_TASK, request, progress)
            path = self._job_file(client, result, "labels", progress)
            labels = read_labels(path, expect=case.native, ct=case.native_ct)
            return result, to_canonical(labels, case.native, "the server's segmentation")

        def then(found: tuple[JobResult, LabelMap]) -> Any:
            result, labels = found
            array = labels.array
            summary = result.segmentation
            if self.session is None or self.session.case is not case:
                self._say(f"The segmentation of {case.title} is ready, but another case is open.", "warning")
                return summary
            self.editing.replace(array, summary.model_sha256 if summary else "")
            self.segmented.emit(summary)
            absent = [title(name) for name in case.study.organs_absent if labels.mask(name).any()]
            if absent:
                found = ", ".join(absent)
                self._say(f"{found}: segmented, but the patient is said to have none. Check, and clear it.", "warning")
            else:
                self._say(f"Segmented {case.title}; correct it, then submit. Ctrl+Z brings back what was there.")
            self._say_findings(labels.findings)
            return summary

        self._start("segment", work, then)

    def tool(self, name: str, organ: str | None = None, **params: Any) -> int:
        """Apply a correction tool at once, as one undo step.

        Parameters
        ----------
        name : str
            A function of `napari_plugin.tools`: "fill_between_slices", "keep_largest", "remove_small", "smooth",
            "fill_holes", "margin", "limit_to_hu", "clear", "swap", "mirror".
        organ : str, optional
            Organ it works on (for "mirror" the kidney to copy); the selected one by default.
        **params
            As the tool takes them, for example ``margin_mm=-2``.

        Returns
        -------
        int
            Number of voxels changed.
        """
        return self.editing.tool(name, organ, **params)

    def undo(self) -> None:
        """Undo the last edit."""
        self.editing.undo()

    def redo(self) -> None:
        """Redo the last undone edit."""
        self.editing.redo()

    def submit(self, author: str = "", comment: str = "") -> None:
        """Store the labels on the server as a new version; only then is the draft forgotten."""
        client, session = self._connected("submit"), self._opened("submit")
        if client is None or session is None:
            return
        if session.empty:
            self.tasks.refuse("submit", DoselabelError("There is nothing to submit: no voxel is labelled."))
            return
        snapshot = session.snapshot()
        submission = LabelSubmission(
            author=author or self.settings.author,
            comment=comment,
            origin=snapshot.origin,  # type: ignore[arg-type]
            started_from=snapshot.started_from,
        )
        path = Path(self._scratch.name) / "submit" / f"{session.case.image_id}.nii.gz"

        def work(progress: Progress) -> tuple[Any, list[StudyInfo], ServerInfo]:
            progress("writing", 0.1)
            path.parent.mkdir(exist_ok=True)
            write_labels(path, snapshot.native())
            progress("sending", 0.3)
            version = client.submit_label(session.case.image_id, path, submission)
            return version, client.studies(), client.info()

        def then(found: tuple[Any, list[StudyInfo], ServerInfo]) -> Any:
            version, self.studies, self.info = found
            session.submitted(snapshot, version)
            if self.dose_results is not None and self.dose_results.patient_id == session.case.study.patient_id:
                self.dose_outdated.emit()
            self.connected.emit(self.info, self.studies)
            self.editing.labels_changed.emit()
            self._say(f"{session.case.title}: stored as version {version.version}. Thank you.")
            self._say_findings(version.alarms)
            return version

        if self._start("submit", work, then) and author:
            self.remember_author(author)

    def remember_author(self, author: str) -> None:
        """Remember who annotates."""
        self._remember(replace(self.settings, author=author))

    # ---- training and dose

    def train(self, steps: int = 50, **params: Any) -> None:
        """Let the server train on the submitted labels."""
        if (client := self._connected("train")) is None:
            return
        request = JobRequest(user=self.settings.author, params={"steps": steps, **params})

        def then(result: JobResult) -> Any:
            summary = result.training
            self.trained.emit(summary)
            if summary is not None:
                verdict = "The new model is in use." if summary.promoted else "The old model stays."
                self._say(f"Trained {summary.steps} steps on {summary.cases} cases. {summary.reason or verdict}")
            return summary

        self._start("train", lambda progress: client.run_job(TRAIN_TASK, request, progress), then)

    def dose(self, **options: Any) -> None:
        """Let the server compute the patient's doses from the submitted labels, and show map and isodose lines."""
        client, session = self._connected("dose"), self._opened("dose")
        if client is None or session is None:
            return
        case = session.case
        if session.dirty:
            self._say("The dose will be that of the submitted labels: your unsaved edits are not in it.", "warning")
        request = JobRequest(image_id=case.image_id, user=self.settings.author, params=options)

        def work(progress: Progress) -> tuple[JobResult, dict[str, Path], Volume | None]:
            result = client.run_job(DOSE_TASK, request, progress)
            files = {role: self._job_file(client, result, role, progress) for role in result.files}
            return result, files, read_image(files["dose"]) if "dose" in files else None

        def then(found: tuple[JobResult, dict[str, Path], Volume | None]) -> Any:
            result, files, volume = found
            if result.dose is None:
                raise ServerError("The server's dosimetry ended without results.", "See its log.")
            self.dose_results, self._dose_files = result.dose, files
            patient_id = case.study.patient_id
            if volume is not None and self.session is not None and self.session.case.study.patient_id == patient_id:
                self._show_dose(volume)
            self.dose_ready.emit(result.dose)
            doses = ", ".join(
                f"{title(name)} {o.mean_dose_gy:.2f} ± {o.dose_sd_gy:.2f} Gy" for name, o in result.dose.organs.items()
            )
            self._say(f"{result.dose.patient_id}: {doses}.")
            return result.dose

        self._start("dose", work, then)

    @property
    def report(self) -> Path | None:
        """The latest dose report, HTML."""
        return self._dose_files.get("report")

    def save_dose(self, folder: str | Path) -> Path:
        """Copy everything the latest dosimetry made (results, dose map, report …) to a folder."""
        if self.dose_results is None:
            raise DoselabelError("There is no dose to save.", "Compute the doses first.")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        for path in self._dose_files.values():
            shutil.copyfile(path, folder / path.name)
        (folder / "results.json").write_text(self.dose_results.model_dump_json(by_alias=True, indent=1), "utf-8")
        return folder

    def _show_dose(self, volume: Volume) -> None:
        assert self.session is not None
        self._forget_dose()
        organs = self.dose_results.organs.values() if self.dose_results else ()
        highest = max((organ.dvh.max_gy for organ in organs), default=float(volume.array.max()))
        grid = self.session.case.ct.geometry
        self._dose_layers = scene.add_dose(self.viewer, volume, grid, scene.isodose_levels(highest))
        self.editing.make_room_for_dose()

    def _forget_dose(self) -> None:
        scene.remove(self.viewer, self._dose_layers)
        self._dose_layers = ()

    # ---- jobs

    def _job_file(self, client: Client, result: JobResult, role: str, progress: Progress) -> Path:
        name = result.files.get(role)
        if name is None:
            raise ServerError(f"The server's job '{result.task}' made no file '{role}'.", "See its log.")
        path = inside(Path(self._scratch.name), f"jobs/{result.id}/{name}")
        return client.job_file(result.id, name, path, lambda part: progress("fetching the result", part))

    # ---- small things

    def _on_failed(self, action: str, error: Exception) -> None:
        self._say(str(error), "error")
        if action == "connect":
            self.disconnected.emit()

    def _on_cancelled(self, action: str) -> None:
        self._say(f"{_spoken(action)}: cancelled.", "warning")

    def _start(self, action: str, work: Callable[[Progress], Any], then: Callable[[Any], Any]) -> bool:
        started = self.tasks.run(action, work, then)
        if not started:
            self._say(f"{_spoken(action)} is already under way.", "warning")
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

    def _url(self) -> str:
        return "" if self.client is None else self.client.url

    def _remember(self, settings: Settings) -> None:
        self.settings = settings
        settings.save()


def _spoken(name: str) -> str:
    return name.replace("_", " ").capitalize()
