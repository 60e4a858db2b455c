"""SPECT onto CT, time point by time point: seen, nudged, found, judged, stored. Draws no widgets.

While it is `active` (its tab is in front) keys and drags move the SPECT on screen; each is a step that can be undone.
What moves is the place of the SPECT on its own CT, which the study stores; see `napari_plugin.session.alignment`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from napari.components import ViewerModel
from qtpy.QtCore import QObject, QTimer, Signal

from doselabel.errors import DoselabelError, Progress
from doselabel.geometry import Volume, read_image
from doselabel.study import Registration
from doselabel.wire import JobRequest, JobResult, RegistrationSummary, StudyInfo
from napari_plugin import layers as scene
from napari_plugin.client import Client, inside
from napari_plugin.connection import Connection
from napari_plugin.editing import Editing
from napari_plugin.session import alignment
from napari_plugin.session.alignment import Judge, Place, Quality
from napari_plugin.session.case import SpectFrame
from napari_plugin.session.placement import onto_frame
from napari_plugin.session.state import Session
from napari_plugin.tasks import Tasks

TASK = "registration"
LEFT = 1
DEGREES_PER_PIXEL = 0.1
AIR_HU = -1024.0


class Registering(QObject):
    """Moves the SPECTs of the open case.

    Signals
    -------
    status(text, level)
    changed()
        Another time point, another place, or nothing to move.
    judged(Quality)
        How well the place on screen fits, and what it does to the organs' activities.
    stored()
        A place is in the study.
    """

    status = Signal(str, str)
    changed = Signal()
    judged = Signal(object)
    stored = Signal()

    def __init__(
        self,
        viewer: ViewerModel,
        editing: Editing,
        connection: Connection,
        tasks: Tasks,
        scratch: Path,
        parent: QObject | None = None,
    ) -> None:
        super().__init__(parent)
        self._viewer, self._editing, self._connection, self._tasks = viewer, editing, connection, tasks
        self._scratch = scratch
        self.places: list[Place] = []
        self.active = self.dragging = self.looking_back = False
        self._judges: dict[int, tuple[Session, int, Judge]] = {}
        self.overlay: Any = None  # the layer of the SPECT's own CT
        self._again: set[str] = set()
        self._settle = QTimer(self)
        self._settle.setSingleShot(True)
        self._settle.timeout.connect(self._judge)
        editing.opened.connect(self._on_opened)
        editing.closed.connect(self._on_closed)
        editing.display_changed.connect(self._on_time)
        editing.labels_changed.connect(lambda: self._settle.start(600) if self.active else None)
        for over in (tasks.finished, tasks.failed, tasks.cancelled):
            over.connect(self._on_over)
        viewer.mouse_drag_callbacks.append(self._on_drag)

    def release(self) -> None:
        """Give the mouse back."""
        self.set_active(False)
        if self._on_drag in self._viewer.mouse_drag_callbacks:
            self._viewer.mouse_drag_callbacks.remove(self._on_drag)

    # ---- what is there

    @property
    def index(self) -> int:
        """The time point on screen, among those shown with this CT."""
        return self._editing.display.time_index

    @property
    def place(self) -> Place | None:
        """Of the SPECT on screen; None when there is none."""
        return self.places[self.index] if self.index < len(self.places) else None

    @property
    def diagnostic(self) -> bool:
        """Whether the CT on screen is the diagnostic one, so that the SPECT's own CT is another."""
        session = self._editing.session
        return session is not None and session.case.image.role == "diagnostic"

    @property
    def moved(self) -> tuple[float, float]:
        """How far (mm, °) the SPECT on screen is from where the study has it."""
        place, session = self.place, self._editing.session
        if place is None or session is None or place.now is place.stored:
            return 0.0, 0.0
        return alignment.moved_by(place.shown(place.stored), place.shown(place.now), session.labels)

    @property
    def unsaved(self) -> list[float]:
        """Hours of the SPECTs whose place is not in the study."""
        frames = self._editing.frames
        return [f.time_h for f, p in zip(frames, self.places, strict=True) if not np.array_equal(p.now, p.stored)]

    @property
    def idle(self) -> bool:
        """Whether every SPECT is where it shall be, and judged."""
        busy = any(self._tasks.running(action) for action in ("move", "judge_place", "align"))
        return not (busy or self._again or self._settle.isActive())

    def set_active(self, on: bool) -> None:
        """Let keys and drags move the SPECT, or leave it alone."""
        self.active = on
        self._viewer.scene.camera.mouse_pan = not (on and self.dragging)
        if on:
            self._settle.start(0)
            if self._editing.layers is not None and self._editing.layers.spect is not None:
                self._editing.layers.spect.visible = True  # a dose map hides it: nobody moves what they don't see
                self._editing.say()

    def set_dragging(self, on: bool) -> None:
        """Let the mouse move the SPECT instead of the image."""
        self.dragging = on
        self.set_active(self.active)

    # ---- moving

    def nudge(self, right_mm: float = 0.0, down_mm: float = 0.0, turn_deg: float = 0.0) -> None:
        """Move the SPECT on screen in the plane on screen, as it is seen there; ``turn_deg`` is clockwise."""
        place, session, dims = self.place, self._editing.session, self._viewer.dims
        if not self.active or place is None or session is None:
            return
        if dims.ndisplay != 2:
            self.status.emit("A SPECT is moved in a plane: choose axial, coronal or sagittal.", "warning")
            return
        ct = session.case.ct.geometry
        down, right = (axis - (dims.ndim - 3) for axis in dims.displayed)
        step = alignment.shifted(ct, right, right_mm) @ alignment.shifted(ct, down, down_mm)
        if turn_deg:
            about = alignment.centre_mm(session.labels)
            step = alignment.turned(ct, right, down, turn_deg, about) @ step
        frame = np.eye(4) if place.to_shown is None else place.to_shown
        self._go(np.linalg.inv(frame) @ step @ frame @ place.now, "manual")

    def undo(self) -> None:
        """Take the last move back."""
        if (place := self.place) is not None and place.at >= 0:
            place.at -= 1
            self._show()

    def redo(self) -> None:
        """Move again what was taken back."""
        if (place := self.place) is not None and place.at + 1 < len(place.steps):
            place.at += 1
            self._show()

    def back(self) -> None:
        """Go back to where the study has it; a step like any other."""
        if (place := self.place) is not None and not np.array_equal(place.now, place.stored):
            self._go(place.stored, "stored")

    def look_back(self, on: bool) -> None:
        """Show where the study has it, without moving it."""
        self.looking_back = on
        self._show()

    def automatic(self) -> bool:
        """Move the SPECT on screen to where its uptake fits the organs on screen best (action "align")."""
        place, session = self.place, self._editing.session
        if place is None or session is None:
            self._tasks.refuse("align", DoselabelError("No SPECT is on screen.", "Open a case that has one."))
            return False
        index, edits, frame = self.index, self._editing.edits, self._editing.frames[self.index]
        begun = place.now

        def work(progress: Progress) -> np.ndarray:
            best = self._judge_of(session, frame, edits).best(place.shown(begun), progress)
            return best if place.to_shown is None else np.linalg.inv(place.to_shown) @ best

        def then(matrix: np.ndarray) -> np.ndarray:
            if place in self.places:
                self._go(matrix, "organ", index)
            return matrix

        return self._tasks.run("align", work, then)

    def save(self) -> bool:
        """Store the place of the SPECT on screen in the study (action "place")."""
        place, session, client = self.place, self._editing.session, self._connection.client
        if place is None or session is None or client is None:
            self._tasks.refuse("place", DoselabelError("There is no place to store.", "Open a case that has a SPECT."))
            return False
        patient, frame, matrix = session.case.study.patient_id, self._editing.frames[self.index], place.now
        distance_mm, angle_deg = self.moved
        said = Registration.model_validate(
            {
                "matrix": matrix.tolist(),
                "method": "organ" if place.method == "organ" else "manual",
                "comment": f"in the window: moved {distance_mm:.1f} mm, {angle_deg:.1f}°",
            }
        )

        def then(_: StudyInfo) -> None:
            place.stored, place.steps, place.at = matrix, [], -1
            self._connection.refresh()
            self.stored.emit()
            self.status.emit(f"{patient}: the place of the SPECT at {frame.time_h:g} h is stored.", "info")
            self._show()

        return self._tasks.run("place", lambda _: client.set_registration(patient, frame.index, said), then)

    # ---- its own CT on the diagnostic one

    def bring_ct(self, user: str, fetch: Callable[[Client, JobResult, str, Progress], Path] | None = None) -> bool:
        """Let the server bring the SPECT's own CT onto the diagnostic CT, and show it over it (action "ct")."""
        place, session, client = self.place, self._editing.session, self._connection.client
        if place is None or session is None or client is None or not self.diagnostic:
            why = DoselabelError("Its own CT is on screen already.", "Open the diagnostic CT to see both.")
            self._tasks.refuse("ct", why)
            return False
        case, frame = session.case, self._editing.frames[self.index]
        point = next(p for p in case.study.time_points if p.index == frame.index)
        image = next(i for i in case.study.images if i.image_id == point.image_id)
        request = JobRequest(image_id=point.image_id, user=user, params={"moving": "ct"})

        def work(progress: Progress) -> tuple[RegistrationSummary | None, Volume]:
            result = client.run_job(TASK, request, progress)
            folder = inside(self._scratch, case.study.patient_id)
            path = client.study_file(case.study.patient_id, image.file, folder)
            found = result.registration
            matrix = np.eye(4) if found is None else np.asarray(found.matrix)
            return found, onto_frame(read_image(path), case.ct.geometry, matrix, fill=AIR_HU)

        def then(found: tuple[RegistrationSummary | None, Volume]) -> None:
            summary, volume = found
            if place not in self.places or summary is None:
                return
            place.to_shown, place.summary = np.asarray(summary.matrix), summary
            self._forget_overlay()
            self.overlay = scene.add_second_ct(self._viewer, volume, case.ct.geometry, f"CT at {frame.time_h:g} h")
            self._viewer.layers.selection.active = self._editing.layers.labels if self._editing.layers else None
            self._show()

        return self._tasks.run("ct", work, then)

    def show_ct(self, on: bool) -> None:
        """Show or hide the SPECT's own CT over the diagnostic one."""
        if self.overlay is not None:
            self.overlay.visible = on

    # ---- on screen

    def _go(self, matrix: np.ndarray, method: str, index: int | None = None) -> None:
        self.places[self.index if index is None else index].add(matrix, method)
        self._show()

    def _show(self) -> None:
        """Bring the SPECT on screen to its place, in a thread; what comes meanwhile is shown next."""
        place, session, index = self.place, self._editing.session, self.index
        layers = self._editing.layers
        self.changed.emit()
        if place is None or session is None or layers is None or layers.spect is None:
            return
        if self._tasks.running("move"):
            self._again.add("move")
            return
        frame, ct, grid = self._editing.frames[index], session.case.ct.geometry, layers.spect.metadata["grid"]
        matrix = self._wanted(place)
        registered = place.to_shown is not None or not self.diagnostic

        def work(_: Progress) -> tuple[Volume, np.ndarray]:
            return onto_frame(frame.source, ct, matrix), alignment.on_grid(frame.source, matrix, grid)

        def then(found: tuple[Volume, np.ndarray]) -> None:
            if place not in self.places or layers.spect is None:
                return
            volume, picture = found
            place.drawn = matrix
            self._editing.frames[index] = replace(frame, volume=volume, registered=registered)
            shown = layers.spect.data[index] if layers.spect.ndim > 3 else layers.spect.data
            shown[...] = picture / scene.BQ_PER_KBQ
            layers.spect.translate = layers.spect.metadata["translate"]
            layers.spect.refresh()
            self._editing.measure()
            self._editing.say()
            self._settle.start(200)

        self._tasks.run("move", work, then)

    def _judge_of(self, session: Session, frame: SpectFrame, edits: int) -> Judge:
        """For threads; made anew when the labels have changed."""
        known = self._judges.get(frame.index)
        if known is None or known[0] is not session or known[1] != edits:
            labels = replace(session.labels, array=session.array.copy())
            known = (session, edits, Judge(frame.source, labels, session.case.ct))
            self._judges[frame.index] = known
        return known[2]

    def _judge(self) -> None:
        place, session, index = self.place, self._editing.session, self.index
        if not self.active or place is None or session is None:
            return
        if self._tasks.running("judge_place"):
            self._again.add("judge_place")
            return
        edits, stored, now = self._editing.edits, place.shown(place.stored), place.shown(place.now)
        frame = self._editing.frames[index]

        def then(quality: Quality) -> None:
            if place is self.place:
                self.judged.emit(quality)

        self._tasks.run("judge_place", lambda _: self._judge_of(session, frame, edits).quality(stored, now), then)

    # ---- what happens

    def _on_over(self, action: str, *_: Any) -> None:
        if action in self._again:
            self._again.discard(action)
            {"move": self._show, "judge_place": self._judge}[action]()

    def _on_opened(self) -> None:
        session = self._editing.session
        assert session is not None
        self.places = [Place(frame.matrix, drawn=frame.matrix) for frame in self._editing.frames]
        self._judges, self.looking_back = {}, False
        self.changed.emit()
        self._settle.start(300)

    def _on_closed(self) -> None:
        self._forget_overlay()
        self.places = []
        self.changed.emit()

    def _wanted(self, place: Place) -> np.ndarray:
        """Where the image shall show it."""
        return place.shown(place.stored if self.looking_back else place.now)

    def _on_time(self) -> None:
        self.changed.emit()
        if (place := self.place) is not None and (
            place.drawn is None or not np.array_equal(place.drawn, self._wanted(place))
        ):
            self._show()
        self._settle.start(200)

    def _forget_overlay(self) -> None:
        if self.overlay is not None:
            scene.remove(self._viewer, [self.overlay])
            self.overlay = None

    def _on_drag(self, viewer: ViewerModel, event: Any) -> Iterator[None]:
        """Left button: the SPECT goes with the mouse; with Ctrl it turns, to the right clockwise."""
        layers = self._editing.layers
        if not (self.active and self.dragging) or event.button != LEFT or layers is None or layers.spect is None:
            return
        if viewer.dims.ndisplay != 2 or str(layers.labels.mode) != "pan_zoom":
            return
        turning = "Control" in event.modifiers
        begun, x = np.asarray(event.position, float), float(event.pos[0])
        home = np.asarray(layers.spect.translate, float)
        down, right = viewer.dims.displayed
        yield
        away, angle_deg = np.zeros(2), 0.0
        while True:  # the moves, of which a slow window leaves some out, and the release
            if turning:
                angle_deg = DEGREES_PER_PIXEL * (float(event.pos[0]) - x)
                self.status.emit(f"{angle_deg:+z.1f}° at release", "info")
            else:
                away = (np.asarray(event.position, float) - begun)[[down, right]]
                translate, lead = home.copy(), viewer.dims.ndim - layers.spect.ndim
                translate[[down - lead, right - lead]] += away
                layers.spect.translate = translate
            if event.type != "mouse_move":
                break
            yield
        if turning or away.any():
            self.nudge(right_mm=float(away[1]), down_mm=float(away[0]), turn_deg=angle_deg)
