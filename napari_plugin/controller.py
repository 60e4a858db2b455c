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

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from napari.components import ViewerModel
from qtpy.QtCore import QObject, QTimer, Signal

from doselabel.errors import DoselabelError, LabelError, Progress, ServerError
from doselabel.geometry import Volume, read_image
from doselabel.labels import ORGANS, organ, read_labels, title, write_labels
from doselabel.wire import DoseResults, JobRequest, JobResult, JobStatus, LabelSubmission, ServerInfo, StudyInfo
from napari_plugin import layers as scene
from napari_plugin import tools
from napari_plugin.client import Client, inside
from napari_plugin.layers import CaseLayers
from napari_plugin.session.case import Case, open_case, to_canonical
from napari_plugin.session.measure import measure
from napari_plugin.session.recovery import Recovery
from napari_plugin.session.settings import Settings
from napari_plugin.session.state import Session, Snapshot
from napari_plugin.shortcuts import wheel_over
from napari_plugin.tasks import Tasks

SEGMENT_TASK = "kidney_liver"
DOSE_TASK = "dosimetry"
TRAIN_TASK = "train"
MEASURE_AFTER_MS = 300
AUTOSAVE_AFTER_MS = 10_000
BRUSH_MM = 12.0


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
    connected(ServerInfo, list of StudyInfo), case_opened(Case), labels_changed(), measured(list of OrganMeasure),
    segmented(SegmentationSummary), job_status(action, JobStatus), dose_ready(DoseResults)
        What has happened, for views.
    """

    status = Signal(str, str)
    connected = Signal(object, object)
    disconnected = Signal()
    case_opened = Signal(object)
    next_reason = Signal(str)
    labels_changed = Signal()
    measured = Signal(object)
    segmented = Signal(object)
    trained = Signal(object)
    job_status = Signal(str, object)
    dose_ready = Signal(object)
    dose_outdated = Signal()
    brush_changed = Signal(float, bool)
    organ_changed = Signal(int)

    def __init__(self, viewer: ViewerModel, settings: Settings | None = None, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.viewer = viewer
        self.settings = Settings.load() if settings is None else settings
        self.client: Client | None = None
        self.info: ServerInfo | None = None
        self.studies: list[StudyInfo] = []
        self.session: Session | None = None
        self.layers: CaseLayers | None = None
        self.dose_results: DoseResults | None = None
        self.report: Path | None = None
        self._dose_layers: tuple = ()
        self._scratch = tempfile.TemporaryDirectory(prefix="doselabel-")
        self._statuses: dict[str, JobStatus] = {}
        self._closed = False
        self._measured_frame: Any = None
        self.tasks = Tasks(self)
        self.started, self.progressed = self.tasks.started, self.tasks.progressed
        self.finished, self.failed, self.cancelled = self.tasks.finished, self.tasks.failed, self.tasks.cancelled
        self.tasks.failed.connect(self._on_failed)
        self.tasks.cancelled.connect(self._on_cancelled)
        self.tasks.progressed.connect(self._on_progressed)
        self._measure_timer = self._single_shot(MEASURE_AFTER_MS, self._measure)
        self._autosave_timer = self._single_shot(AUTOSAVE_AFTER_MS, self._autosave)
        viewer.dims.events.current_step.connect(self._on_slice)

    def _single_shot(self, interval_ms: int, slot: Callable[[], None]) -> QTimer:
        timer = QTimer(self)
        timer.setSingleShot(True)
        timer.setInterval(interval_ms)
        timer.timeout.connect(slot)
        return timer

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
        self._measure_timer.stop()
        self.keep_work()
        if not leave_layers:
            self.viewer.dims.events.current_step.disconnect(self._on_slice)
            self._forget_layers()
        self.session = None
        self.tasks.cleanup()
        if self.client is not None:
            self.client.close()
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
            if self.client is not None:
                self.client.close()
            self.client, self.info, self.studies = found
            self._remember(self.settings.with_url(self.client.url))
            self.connected.emit(self.info, self.studies)
            self._say(
                f"Connected: {self.info.images} CTs of {self.info.studies} patients, {self.info.labelled} labelled."
            )
            return self.info

        self._start("connect", work, then)

    def next_case(self, strategy: str = "") -> None:
        """Ask the server which case comes next, and open it."""
        if (client := self._connected()) is None:
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
            self.keep_work()

    def open_case(self, image_id: str) -> None:
        """Open a case by its id."""
        if (client := self._connected()) is None:
            return
        if self._start("case", lambda progress: self._fetch(client, self.studies, image_id, progress), self._show):
            self.keep_work()

    def _fetch(self, client: Client, studies: list[StudyInfo], image_id: str, progress: Progress) -> Case:
        recovery = Recovery(self.settings.recovery_folder, client.url)
        return open_case(client, studies, image_id, Path(self._scratch.name), recovery, progress)

    def _show(self, case: Case) -> Case:
        self.keep_work()  # what was painted while the case was being fetched
        self._forget_layers()
        self.layers = scene.add_case(self.viewer, case)
        labels = self.layers.labels
        self.session = Session(case, labels.data, Recovery(self.settings.recovery_folder, self._url()))
        for event, slot in self._label_events():
            event.connect(slot)
        labels.mouse_wheel_callbacks.append(wheel_over(self._on_wheel))
        labels.brush_mm = BRUSH_MM
        self.case_opened.emit(case)
        self.labels_changed.emit()
        self._measure()
        self._on_brush()
        self._on_organ()
        if case.restored:
            self._say(
                f"Your unsaved work of {case.restored} is back; 'Discard edits' returns to the server's labels.",
                "warning",
            )
        else:
            versions = f"{len(case.versions)} label version(s)" if case.versions else "no labels yet"
            self._say(f"{case.title}: {versions}.")
        return case

    def discard_edits(self) -> None:
        """Return to the server's labels; the draft is put aside, not deleted."""
        if self.session is None:
            return
        case = self.session.case
        if self.session.needs_autosave:
            self.session.autosave()
        self.session.recovery.discard(case.image_id)
        self.session = None
        self.open_case(case.image_id)

    # ---- labels

    def segment(self, **params: Any) -> None:
        """Let the server's network segment the case; its labels replace those on screen as one undo step."""
        client, session = self._connected(), self._opened()
        if client is None or session is None:
            return
        case = session.case

        def work(progress: Progress) -> tuple[JobResult, np.ndarray]:
            request = JobRequest(image_id=case.image_id, user=self.settings.author, params=params)
            result = self._run_job(client, "segment", SEGMENT_TASK, request, progress)
            path = self._job_file(client, result, "labels", progress)
            return result, to_canonical(read_labels(path), case.native, "the server's segmentation").array

        def then(found: tuple[JobResult, np.ndarray]) -> Any:
            result, array = found
            summary = result.segmentation
            if self.session is None or self.session.case is not case:
                self._say(f"The segmentation of {case.title} is ready, but another case is open.", "warning")
                return summary
            box = tuple(slice(0, size) for size in array.shape)
            change = tools.crop.difference(self.session.array, box, array)  # type: ignore[arg-type]
            if change is not None:
                self.layers.labels.apply(change)  # type: ignore[union-attr]
            self.session.predicted(summary.model_sha256 if summary else "")
            scene.look_at(self.viewer, self.layers.labels)  # type: ignore[union-attr]
            self.labels_changed.emit()
            self.segmented.emit(summary)
            self._say(f"Segmented {case.title}; correct what is wrong, then submit. Ctrl+Z brings back what was there.")
            return summary

        self._start("segment", work, then)

    def tool(self, name: str, organ: str | None = None, **params: Any) -> int:
        """Apply a correction tool at once, as one undo step.

        Parameters
        ----------
        name : str
            A function of `napari_plugin.tools`: "fill_between_slices", "keep_largest", "remove_small", "smooth",
            "fill_holes", "margin", "limit_to_hu", "swap", "mirror".
        organ : str, optional
            Organ it works on (for "mirror" the kidney to copy); the selected one by default.
        **params
            As the tool takes them, for example ``margin_mm=-2``.

        Returns
        -------
        int
            Number of voxels changed.
        """
        session = self._opened()
        if session is None or self.layers is None:
            return 0
        value = self.layers.labels.selected_label if organ is None else _value(organ)
        try:
            change = self._change(name, session, value, params)
        except DoselabelError as error:
            self._say(str(error), "error")
            return 0
        if change is None:
            self._say(f"{_spoken(name)}: nothing to change.")
            return 0
        self.layers.labels.apply(change)
        volume_ml = change.voxels * session.case.ct.geometry.voxel_volume_ml
        self._say(f"{_spoken(name)}: {volume_ml:.1f} mL changed. Ctrl+Z undoes it.")
        return change.voxels

    def _change(self, name: str, session: Session, value: int, params: dict[str, Any]) -> tools.Change | None:
        array, ct = session.array, session.case.ct
        kidneys = (_value("left_kidney"), _value("right_kidney"))
        if name == "swap":
            return tools.swap(array, *kidneys)
        if name == "mirror":
            if value not in kidneys:
                raise LabelError("Only a kidney can be mirrored.", "Select the kidney to copy to the other side.")
            return tools.mirror(array, value, kidneys[value == kidneys[0]], ct.array)
        if name in ("keep_largest", "fill_holes"):
            return getattr(tools, name)(array, value)
        if name == "limit_to_hu":
            return tools.limit_to_hu(array, value, ct.array, **params)
        if name in ("fill_between_slices", "remove_small", "smooth", "margin"):
            return getattr(tools, name)(array, value, ct.geometry.spacing_mm, **params)
        raise DoselabelError(f"There is no tool '{name}'.", "See napari_plugin.tools.")

    def undo(self) -> None:
        """Undo the last edit."""
        if self.layers is not None:
            self.layers.labels.undo()

    def redo(self) -> None:
        """Redo the last undone edit."""
        if self.layers is not None:
            self.layers.labels.redo()

    def submit(self, author: str = "", comment: str = "") -> None:
        """Store the labels on the server as a new version; only then is the draft forgotten."""
        client, session = self._connected(), self._opened()
        if client is None or session is None:
            return
        if session.empty:
            self._say("There is nothing to submit: no voxel is labelled.", "warning")
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
            self.labels_changed.emit()
            self._say(f"{session.case.title}: stored as version {version.version}. Thank you.")
            return version

        if self._start("submit", work, then) and author:
            self.remember_author(author)

    def remember_author(self, author: str) -> None:
        """Remember who annotates."""
        self._remember(replace(self.settings, author=author))

    # ---- brush

    @property
    def brush_3d(self) -> bool:
        """Whether the brush is a sphere that paints through slices."""
        return self.layers is not None and self.layers.labels.n_edit_dimensions == 3

    def set_brush_mm(self, diameter_mm: float) -> None:
        """Set the brush's diameter, mm."""
        if self.layers is not None:
            self.layers.labels.brush_mm = diameter_mm

    def set_brush_3d(self, on: bool) -> None:
        """Choose between a sphere through slices and a disk in the slice on screen; the diameter is kept."""
        if self.layers is not None:
            labels = self.layers.labels
            diameter_mm = labels.brush_mm
            labels.n_edit_dimensions = 3 if on else 2
            labels.brush_mm = diameter_mm

    def set_hu_range(self, hu_range: tuple[float, float] | None) -> None:
        """Let brush and eraser touch only voxels in a range of HU; None: all."""
        if self.layers is not None:
            self.layers.labels.hu_range = hu_range

    def set_protect(self, on: bool) -> None:
        """Choose whether painting spares other organs."""
        if self.layers is not None:
            self.layers.labels.preserve_labels = on

    def select_organ(self, value: int) -> None:
        """Choose the organ that is edited."""
        if self.layers is not None:
            self.layers.labels.selected_label = value

    def step_organ(self, step: int) -> None:
        """Choose the previous or next organ of the label table."""
        if self.layers is not None:
            values = [row.index for row in ORGANS]
            now = self.layers.labels.selected_label
            at = values.index(now) if now in values else 0
            self.select_organ(values[(at + step) % len(values)])

    def _on_brush(self, _: Any = None) -> None:
        if self.layers is None:
            return
        labels = self.layers.labels
        self.brush_changed.emit(labels.brush_mm, self.brush_3d)
        self._on_slice()

    def _on_organ(self, _: Any = None) -> None:
        if self.layers is not None:
            self.organ_changed.emit(int(self.layers.labels.selected_label))

    def _on_wheel(self, step: int) -> None:
        if self.layers is not None:
            self.layers.labels.brush_size = max(1, self.layers.labels.brush_size + 2 * step)

    # ---- training and dose

    def train(self, steps: int = 50, **params: Any) -> None:
        """Let the server train on the submitted labels."""
        if (client := self._connected()) is None:
            return
        request = JobRequest(user=self.settings.author, params={"steps": steps, **params})

        def then(result: JobResult) -> Any:
            summary = result.training
            self.trained.emit(summary)
            if summary is not None:
                verdict = "the new model is in use" if summary.promoted else "the old model stays"
                self._say(f"Trained {summary.steps} steps on {summary.cases} cases: {verdict}. {summary.reason}")
            return summary

        self._start("train", lambda progress: self._run_job(client, "train", TRAIN_TASK, request, progress), then)

    def dose(self, **options: Any) -> None:
        """Let the server compute the patient's doses from the submitted labels, and show map and isodose lines."""
        client, session = self._connected(), self._opened()
        if client is None or session is None:
            return
        case = session.case
        if session.dirty:
            self._say("The dose will be that of the submitted labels: your unsaved edits are not in it.", "warning")
        request = JobRequest(image_id=case.image_id, user=self.settings.author, params=options)

        def work(progress: Progress) -> tuple[JobResult, Volume | None, Path | None]:
            result = self._run_job(client, "dose", DOSE_TASK, request, progress)
            fetched = {
                role: self._job_file(client, result, role, progress)
                for role in ("dose", "report")
                if role in result.files
            }
            return result, read_image(fetched["dose"]) if "dose" in fetched else None, fetched.get("report")

        def then(found: tuple[JobResult, Volume | None, Path | None]) -> Any:
            result, volume, self.report = found
            if result.dose is None:
                raise ServerError("The server's dosimetry ended without results.", "See its log.")
            self.dose_results = result.dose
            if volume is not None and self.session is not None and self.session.case.study == case.study:
                self._show_dose(volume)
            self.dose_ready.emit(result.dose)
            doses = ", ".join(
                f"{title(name)} {o.mean_dose_gy:.2f} ± {o.dose_sd_gy:.2f} Gy" for name, o in result.dose.organs.items()
            )
            self._say(f"{result.dose.patient_id}: {doses}.")
            return result.dose

        self._start("dose", work, then)

    def _show_dose(self, volume: Volume) -> None:
        assert self.session is not None
        scene.remove(self.viewer, self._dose_layers)
        organs = self.dose_results.organs.values() if self.dose_results else ()
        highest = max((organ.dvh.max_gy for organ in organs), default=float(volume.array.max()))
        grid = self.session.case.ct.geometry
        self._dose_layers = scene.add_dose(self.viewer, volume, grid, scene.isodose_levels(highest))
        if self.layers is not None:  # labels stay on top, and stay the layer that is painted on
            self.viewer.layers.move(self.viewer.layers.index(self.layers.labels), len(self.viewer.layers))
            self.viewer.layers.selection.active = self.layers.labels

    # ---- jobs

    def _run_job(self, client: Client, action: str, task: str, request: JobRequest, progress: Progress) -> JobResult:
        def remember(status: JobStatus) -> None:
            self._statuses[action] = status

        return client.run_job(task, request, progress, on_status=remember)

    def _job_file(self, client: Client, result: JobResult, role: str, progress: Progress) -> Path:
        name = result.files.get(role)
        if name is None:
            raise ServerError(f"The server's job '{result.task}' made no file '{role}'.", "See its log.")
        path = inside(Path(self._scratch.name), f"jobs/{result.id}/{name}")
        return client.job_file(result.id, name, path, lambda part: progress("fetching the result", part))

    # ---- what happens

    def _on_edited(self, _: Any = None) -> None:
        if self.session is None:
            return
        self.session.edited()
        self.labels_changed.emit()
        self._measure_timer.start()
        if not self._autosave_timer.isActive():
            self._autosave_timer.start()

    def _on_painting(self, _: Any = None) -> None:
        self._measure_timer.start()

    def _on_slice(self, _: Any = None) -> None:
        if self.session is None or self.layers is None:
            return
        parts = []
        frame = scene.spect_at(self.session.case, self.viewer)
        if frame is not None:
            parts.append(
                f"SPECT {frame.time_h:g} h p.i." + ("" if frame.registered else " (not registered to this CT)")
            )
            if frame is not self._measured_frame:
                self._measure_timer.start()
        if self.brush_3d and self.layers.labels.mode in ("paint", "erase"):
            parts.append(f"3D BRUSH {self.layers.labels.brush_mm:.0f} mm")
        text = self.viewer.canvas.overlays.text
        text.text, text.visible = " · ".join(parts), bool(parts)

    def _measure(self) -> None:
        session = self.session
        if session is None:
            return
        if self.tasks.running("measure"):
            self._measure_timer.start()
            return
        frame = scene.spect_at(session.case, self.viewer)
        self._measured_frame = frame
        spect = None if frame is None else frame.volume
        self.tasks.run("measure", lambda _: measure(session.array, session.case.ct, spect), self.measured.emit)

    def _autosave(self) -> None:
        session = self.session
        if session is None or not session.needs_autosave:
            return
        snapshot: Snapshot = session.snapshot()
        if not self.tasks.run("autosave", lambda _: session.autosave(snapshot)):
            self._autosave_timer.start()

    def keep_work(self) -> None:
        """Write the draft now: the case is about to leave the screen."""
        self._autosave_timer.stop()
        if self.session is not None:
            try:
                self.session.autosave()
            except (OSError, DoselabelError) as error:
                self._say(f"The draft could not be kept: {error}", "error")

    def _forget_layers(self) -> None:
        self.session = None
        if self.layers is not None:
            for event, slot in self._label_events():
                event.disconnect(slot)
            scene.remove(self.viewer, [*self._dose_layers, *self.layers.all()])
        self.layers, self._dose_layers = None, ()

    def _label_events(self) -> list[tuple[Any, Callable[..., None]]]:
        assert self.layers is not None
        events = self.layers.labels.events
        return [
            (events.edited, self._on_edited),
            (events.labels_update, self._on_painting),
            (events.brush_size, self._on_brush),
            (events.n_edit_dimensions, self._on_brush),
            (events.mode, self._on_brush),
            (events.selected_label, self._on_organ),
        ]

    def _on_progressed(self, action: str, *_: Any) -> None:
        if action in self._statuses:
            self.job_status.emit(action, self._statuses[action])

    def _on_failed(self, action: str, error: Exception) -> None:
        self._say(str(error), "error")
        if action == "connect":
            self.disconnected.emit()

    def _on_cancelled(self, action: str) -> None:
        self._say(f"{_spoken(action)}: cancelled.", "warning")

    # ---- small things

    def _start(self, action: str, work: Callable[[Progress], Any], then: Callable[[Any], Any]) -> bool:
        started = self.tasks.run(action, work, then)
        if not started:
            self._say(f"{_spoken(action)} is already under way.", "warning")
        return started

    def _say(self, text: str, level: str = "info") -> None:
        self.status.emit(text, level)

    def _connected(self) -> Client | None:
        if self.client is None:
            self._say("Connect to a server first.", "warning")
        return self.client

    def _opened(self) -> Session | None:
        if self.session is None:
            self._say("Open a case first.", "warning")
        return self.session

    def _url(self) -> str:
        return "" if self.client is None else self.client.url

    def _remember(self, settings: Settings) -> None:
        self.settings = settings
        settings.save()


def _value(name: str) -> int:
    return organ(name).index


def _spoken(name: str) -> str:
    return name.replace("_", " ").capitalize()
