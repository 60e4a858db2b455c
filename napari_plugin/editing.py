"""The open case on screen: its layers, brush, tools, live numbers, and its draft on disk. Knows no server.

Owned by the controller, which says when a case comes and goes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from napari.components import ViewerModel
from qtpy.QtCore import QObject, QTimer, Signal

from doselabel.errors import DoselabelError, Progress
from doselabel.labels import SEGMENTED, organ
from napari_plugin import layers as scene
from napari_plugin import tools
from napari_plugin.brush import Brush
from napari_plugin.display import Display
from napari_plugin.guard import LayerGuard
from napari_plugin.layers import CaseLayers
from napari_plugin.planes import Planes
from napari_plugin.pointing import Pointing
from napari_plugin.session.case import Case, SpectFrame
from napari_plugin.session.measure import OrganMeasure, Tally
from napari_plugin.session.recovery import Recovery
from napari_plugin.session.state import Session, Snapshot
from napari_plugin.tasks import Tasks

MEASURE_AFTER_MS = 40
AUTOSAVE_AFTER_MS = 1000
ABOVE_LETTERS = "\n\u00a0\n\u00a0"
"""Lines beneath the words in the image's corner: however narrow it is, they do not run into its lower edge's letter."""
MODELS = tuple(organ(name).index for name in SEGMENTED)
"""The organs that a model draws: all of them are its own when its labels are taken."""


@dataclass(frozen=True)
class Prepared:
    """Labels from elsewhere, and what they change; found while the session's labels had seen so many edits."""

    session: Session
    edits: int
    wanted: Callable[[np.ndarray], np.ndarray]
    change: tools.Change | None


class Editing(QObject):
    """Work on the labels of one case at a time.

    Attributes
    ----------
    session : Session or None
        State of the open case.
    layers : CaseLayers or None
        Its layers.
    brush : Brush
        How they are painted.
    pointing : Pointing
        Clicks on them for the tools that work at clicks.
    planes : Planes
        Which plane of them is on screen.
    display : Display
        How CT and SPECT are shown.
    captions : list of callable
        Who else has words for the image's corner; asked whenever another slice is shown.
    frames : list of SpectFrame
        Its SPECTs, each where it is shown now.
    edits : int
        Rises with every change of the labels: the same number, the same labels.

    Signals
    -------
    status(text, level), labels_changed(), measured(list of OrganMeasure)
    layers_lost("removed" or "renamed", name), layers_back(), opened(), closed()
    named(names)
        Value → organ or region of the open case.
    plane_changed("axial", "coronal", "sagittal" or "3d"), display_changed()
    """

    status = Signal(str, str)
    labels_changed = Signal()
    measured = Signal(object)
    named = Signal(object)
    layers_lost = Signal(str, str)
    layers_back = Signal()
    opened = Signal()
    closed = Signal()
    plane_changed = Signal(str)
    display_changed = Signal()

    def __init__(self, viewer: ViewerModel, tasks: Tasks, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.viewer = viewer
        self.session: Session | None = None
        self.layers: CaseLayers | None = None
        self.brush = Brush(self)
        self.pointing = Pointing(self)
        self.planes = Planes(viewer, self.plane_changed.emit)
        self.plane_changed.connect(self.say)
        self.display = Display(viewer, self.display_changed.emit)
        self.frames: list[SpectFrame] = []
        self.edits = 0
        self.captions: list[Callable[[], str]] = []
        self._tasks = tasks
        self._guard = LayerGuard(viewer, self._on_layer)
        self._measured_frame: object = None
        self._tally: Tally | None = None
        self._measure_timer = self._single_shot(MEASURE_AFTER_MS, self.measure)
        self._autosave_timer = self._single_shot(AUTOSAVE_AFTER_MS, self._autosave)
        viewer.dims.events.current_step.connect(self.say)
        self.brush.changed.connect(lambda *_: self.say())
        self.pointing.chosen.connect(lambda _: self.say())

    def _single_shot(self, interval_ms: int, slot: Callable[[], None]) -> QTimer:
        timer = QTimer(self)
        timer.setSingleShot(True)
        timer.setInterval(interval_ms)
        timer.timeout.connect(slot)
        return timer

    # ---- a case comes and goes

    def show(self, case: Case, recovery: Recovery) -> None:
        """Put a case on screen in place of the one before, whose unsaved work is kept."""
        self.close()
        self.layers = scene.add_case(self.viewer, case)
        labels = self.layers.labels
        self.session = Session(case, labels.data, recovery)
        self._show_names()
        self.frames = list(case.spects)
        labels.events.edited.connect(self._on_edited)
        labels.events.labels_update.connect(self._on_painting)
        self._guard.watch(self.layers.all())
        self.brush.hold(labels)
        self.pointing.hold(labels)
        self.planes.hold(self.layers)
        self.display.hold(self.layers)
        self.opened.emit()
        self.labels_changed.emit()
        self.measure()
        self.say()

    def close(self) -> None:
        """Keep unsaved work and take the case off the screen."""
        self.keep_work()
        self.session, self.frames, self._tally = None, [], None
        self.brush.let_go()
        self.pointing.let_go()
        self.planes.let_go()
        self.display.let_go()
        self._guard.let_go()
        if self.layers is not None:
            self.layers.labels.events.edited.disconnect(self._on_edited)
            self.layers.labels.events.labels_update.disconnect(self._on_painting)
            scene.remove(self.viewer, self.layers.all())
            self.layers = None
            self.viewer.canvas.overlays.text.visible = False
            self.closed.emit()

    def put_layers_back(self) -> None:
        """Bring back layers that somebody removed or renamed; the labels are as they were."""
        self._guard.put_back()
        if self.layers is not None:
            self.viewer.layers.selection.active = self.layers.labels
        self.layers_back.emit()

    def cleanup(self, *, leave_layers: bool = False) -> None:
        """Keep unsaved work and let go of the viewer; without touching it when its window is closing."""
        self._measure_timer.stop()
        if leave_layers:
            self.keep_work()
            self.session = None
        else:
            self.viewer.dims.events.current_step.disconnect(self.say)
            self.close()
            self.display.release()

    def keep_work(self) -> None:
        """Write the draft now: the case is about to leave the screen."""
        self._autosave_timer.stop()
        if self.session is not None:
            try:
                self.session.autosave()
            except (OSError, DoselabelError) as error:
                self.status.emit(f"The draft could not be kept: {error}", "error")

    # ---- labels

    def change_to(self, array: np.ndarray) -> tools.Change | None:
        """What must change for the labels to become another map's; from any thread. See `becoming`."""
        assert self.session is not None
        now = self.session.array
        return tools.difference(now, tools.whole(now), becoming(array)(now))

    def prepare(self, session: Session, wanted: Callable[[np.ndarray], np.ndarray]) -> Prepared:
        """Find in a thread what labels from elsewhere change: on a large CT it takes longer than a window may stall.

        ``wanted`` makes the new labels of those that are there; it is asked again when an edit came in between.
        """
        while True:
            edits, now = self.edits, session.array
            found = Prepared(session, edits, wanted, tools.difference(now, tools.whole(now), wanted(now)))
            if edits == self.edits or self.session is not session:
                return found

    def take_prepared(self, found: Prepared, origin: str, started_from: str, start: np.ndarray) -> bool:
        """Take over what was prepared, as `take` does; False, and a word to the annotator, when it can't be now."""
        if self.session is not found.session or self.layers is None:
            return False
        if self.layers.labels.painting:
            self.status.emit("A stroke was under way, and nothing was taken. Finish it and take again.", "warning")
            return False
        if self.edits == found.edits:
            change = found.change
        else:  # an edit since the thread ended, a blink ago
            now = self.session.array
            change = tools.difference(now, tools.whole(now), found.wanted(now))
        self.take(change, origin, started_from, start)
        return True

    def replace(self, array: np.ndarray, model_sha256: str) -> None:
        """Take over a model's labels (canonical array) as one undo step.

        Organs the model does not look for (`doselabel.labels.SEGMENTED` are those it does) keep their voxels.
        """
        self.take(self.change_to(array), "model", model_sha256, array)

    def add_region(self, name: str) -> int:
        """Let there be a region of that name, and choose it to be drawn; its value."""
        assert self.session is not None
        value = self.session.added(name)
        self._show_names()
        self.brush.select_organ(value)
        return value

    def rename_region(self, value: int, name: str) -> None:
        """Call a region otherwise; raises LabelError when it can't be."""
        assert self.session is not None
        try:
            self.session.rename(value, name)
        finally:
            self._show_names()
        self.labels_changed.emit()
        self._autosave_timer.start()

    def _show_names(self) -> None:
        if self.session is not None and self.layers is not None:
            if self.layers.labels.names is not self.session.names:
                self.layers.labels.names = self.session.names
            self.named.emit(self.session.names)
            self._measure_timer.start()

    def take(self, change: tools.Change | None, origin: str, started_from: str, start: np.ndarray) -> None:
        """Take over labels from elsewhere as one undo step, and remember where they come from."""
        assert self.session is not None
        assert self.layers is not None
        if self.layers.labels.names is not self.session.names:
            self._show_names()
        if change is not None:
            self.layers.labels.apply(change)
        self.session.taken(origin, started_from, start)
        self._autosave_timer.start()
        scene.look_at(self.viewer, self.layers.labels)
        self.labels_changed.emit()

    @property
    def untouched(self) -> bool:
        """Whether nothing would be lost by other labels in place of these: no work of hands, no stroke under way."""
        if self.session is None or self.layers is None:
            return True
        return not (self.session.by_hand or self.layers.labels.painting)

    @property
    def why_not(self) -> str:
        """Why the labels can't be changed by a tool; "" when they can."""
        if self.session is None or self.layers is None:
            return "Open a case first."
        if self.layers.labels in self._guard.missing:
            return "The organs' layer was removed from the list; put it back first."
        return ""

    @property
    def frame(self) -> SpectFrame | None:
        """The SPECT on screen."""
        return None if self.session is None else scene.spect_at(self.frames, self.viewer)

    def undo(self) -> None:
        """Undo the last edit."""
        if self.layers is not None:
            self.layers.labels.undo()

    def redo(self) -> None:
        """Redo the last undone edit."""
        if self.layers is not None:
            self.layers.labels.redo()

    def make_room_for_dose(self) -> None:
        """Let a dose map be seen: organs as outlines on top, still the layer that is painted on; no SPECT."""
        if self.layers is None:
            return
        if self.layers.spect is not None:
            self.layers.spect.visible = False
        self.brush.set_outline(True)
        layers = self.viewer.layers
        layers.move(layers.index(self.layers.labels), len(layers))
        layers.selection.active = self.layers.labels
        self.say()

    # ---- live numbers and draft

    def measure(self) -> None:
        """Measure all organs in a thread; ``measured`` follows."""
        session = self.session
        if session is None:
            return
        if self._tasks.running("measure"):
            self._measure_timer.start()
            return
        frame = self.frame
        self._measured_frame = frame
        spect = None if frame is None else frame.volume
        if self._tally is None or self._tally.spect is not spect:
            self._tally = Tally(session.case.ct, spect)
        tally = self._tally

        def work(_: Progress) -> list[OrganMeasure]:
            return tally.follow(session.array).measures(session.names, session.moment.start)

        self._tasks.run("measure", work, self.measured.emit)

    def _autosave(self) -> None:
        session = self.session
        if session is None or not session.needs_autosave:
            return
        snapshot: Snapshot = session.snapshot()
        if not self._tasks.run("autosave", lambda _: session.autosave(snapshot)):
            self._autosave_timer.start()

    # ---- what happens in the viewer

    def _on_edited(self, event: Any) -> None:
        self.edits += 1
        if self.session is None:
            return
        {"edit": self.session.edited, "undo": self.session.undone, "redo": self.session.redone}[event.how]()
        self.labels_changed.emit()
        self._measure_timer.start()
        if not self._autosave_timer.isActive():
            self._autosave_timer.start()

    def _on_painting(self, _: Any = None) -> None:
        self._measure_timer.start()

    def _on_layer(self, what: str, name: str) -> None:
        self.keep_work()
        self.layers_lost.emit(what, name)

    def say(self, _: Any = None) -> None:
        """Write into the image's corner what must be known of the slice on screen."""
        if self.session is None or self.layers is None:
            return
        parts = []
        frame = self.frame
        if frame is not None and self.layers.spect is not None and self.layers.spect.visible:
            doubt = "" if frame.registered else "\n(not registered to this CT)"
            parts.append(f"SPECT {frame.time_h:g} h p.i., kBq/mL{doubt}")
        if frame is not self._measured_frame:
            self._measure_timer.start()
        parts += [*(caption() for caption in self.captions), self.brush.words, self.pointing.words]
        text = self.viewer.canvas.overlays.text
        text.font_size = 8
        text.position = "bottom_left"
        words = "\n".join(part for part in parts if part)
        words = words and words + ABOVE_LETTERS
        if words != text.text:
            text.visible = False  # napari finds the place of more lines when they come into sight
            text.text = words
        text.visible = bool(words)


def becoming(array: np.ndarray, values: Sequence[int] = MODELS) -> Callable[[np.ndarray], np.ndarray]:
    """How labels become another map's.

    Organs that are not among ``values`` keep their voxels: the others are laid around them, when they are not all
    that the map holds.
    """
    keep = np.ones(256, bool)
    keep[[0, *values]] = False

    def wanted(now: np.ndarray) -> np.ndarray:
        new = np.where(keep[array], 0, array) if set(values) != set(MODELS) else array
        return np.where(keep[now], now, new)

    return wanted
