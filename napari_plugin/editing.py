"""The open case on screen: its layers, brush, tools, live numbers, and its draft on disk. Knows no server.

Owned by the controller, which says when a case comes and goes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from napari.components import ViewerModel
from qtpy.QtCore import QObject, QTimer, Signal

from doselabel.errors import DoselabelError, LabelError
from doselabel.labels import ORGANS, SEGMENTED, organ
from napari_plugin import layers as scene
from napari_plugin import tools
from napari_plugin.layers import CaseLayers
from napari_plugin.session.case import Case
from napari_plugin.session.measure import measure
from napari_plugin.session.recovery import Recovery
from napari_plugin.session.state import Session, Snapshot
from napari_plugin.shortcuts import wheel_over
from napari_plugin.tasks import Tasks

MEASURE_AFTER_MS = 300
AUTOSAVE_AFTER_MS = 10_000
BRUSH_MM = 12.0
KIDNEYS = ("left_kidney", "right_kidney")


class Editing(QObject):
    """Work on the labels of one case at a time.

    Attributes
    ----------
    session : Session or None
        State of the open case.
    layers : CaseLayers or None
        Its layers.

    Signals
    -------
    status(text, level), labels_changed(), measured(list of OrganMeasure)
    brush_changed(diameter_mm, sphere, step_mm), protect_changed(on), outline_changed(on),
    organ_changed(value)
    """

    status = Signal(str, str)
    labels_changed = Signal()
    measured = Signal(object)
    brush_changed = Signal(float, bool, float)
    protect_changed = Signal(bool)
    organ_changed = Signal(int)
    outline_changed = Signal(bool)

    def __init__(self, viewer: ViewerModel, tasks: Tasks, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.viewer = viewer
        self.session: Session | None = None
        self.layers: CaseLayers | None = None
        self._tasks = tasks
        self._brush_mm = BRUSH_MM
        self._outline = False
        self._measured_frame: object = None
        self._measure_timer = self._single_shot(MEASURE_AFTER_MS, self.measure)
        self._autosave_timer = self._single_shot(AUTOSAVE_AFTER_MS, self._autosave)
        viewer.dims.events.current_step.connect(self._on_slice)

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
        for event, slot in self._label_events():
            event.connect(slot)
        labels.mouse_wheel_callbacks.append(wheel_over(self._on_wheel))
        labels.brush_mm = self._brush_mm
        labels.contour = 2 if self._outline else 0
        self.labels_changed.emit()
        self.measure()
        self._on_brush()
        self._on_organ()

    def close(self) -> None:
        """Keep unsaved work and take the case off the screen."""
        self.keep_work()
        self.session = None
        if self.layers is not None:
            for event, slot in self._label_events():
                event.disconnect(slot)
            scene.remove(self.viewer, self.layers.all())
            self.layers = None
            self.viewer.canvas.overlays.text.visible = False

    def cleanup(self, *, leave_layers: bool = False) -> None:
        """Keep unsaved work and let go of the viewer; without touching it when its window is closing."""
        self._measure_timer.stop()
        if leave_layers:
            self.keep_work()
            self.session = None
        else:
            self.viewer.dims.events.current_step.disconnect(self._on_slice)
            self.close()

    def keep_work(self) -> None:
        """Write the draft now: the case is about to leave the screen."""
        self._autosave_timer.stop()
        if self.session is not None:
            try:
                self.session.autosave()
            except (OSError, DoselabelError) as error:
                self.status.emit(f"The draft could not be kept: {error}", "error")

    # ---- labels

    def replace(self, array: np.ndarray, model_sha256: str) -> None:
        """Take over a model's labels (canonical array) as one undo step.

        Organs the model does not look for (`doselabel.labels.SEGMENTED` are those it does) keep their voxels.
        """
        assert self.session is not None
        assert self.layers is not None
        now = self.session.array
        by_hand = (now > 0) & ~np.isin(now, [_value(name) for name in SEGMENTED])
        change = tools.difference(now, tools.whole(now), np.where(by_hand, now, array))
        if change is not None:
            self.layers.labels.apply(change)
        self.session.predicted(model_sha256)
        scene.look_at(self.viewer, self.layers.labels)
        self.labels_changed.emit()

    def tool(self, name: str, organ: str | None = None, **params: Any) -> int:
        """Apply a correction tool at once, as one undo step; see `Controller.tool`."""
        if self.session is None or self.layers is None:
            self.status.emit("Open a case first.", "warning")
            return 0
        spoken = name.replace("_", " ").capitalize()
        value = int(self.layers.labels.selected_label) if organ is None else _value(organ)
        try:
            change = self._change(name, self.session, value, params)
        except DoselabelError as error:
            self.status.emit(str(error), "error")
            return 0
        if change is None:
            self.status.emit(f"{spoken}: nothing to change.", "info")
            return 0
        self.layers.labels.apply(change)
        volume_ml = change.voxels * self.session.case.ct.geometry.voxel_volume_ml
        self.status.emit(f"{spoken}: {volume_ml:.1f} mL changed. Ctrl+Z undoes it.", "info")
        return change.voxels

    def _change(self, name: str, session: Session, value: int, params: dict[str, Any]) -> tools.Change | None:
        array, ct = session.array, session.case.ct
        left, right = (_value(kidney) for kidney in KIDNEYS)
        if name == "swap":
            return tools.swap(array, left, right)
        if name == "mirror":
            if value not in (left, right):
                raise LabelError("Only a kidney can be mirrored.", "Select the kidney to copy to the other side.")
            return tools.mirror(array, value, right if value == left else left, ct.array)
        if name in ("keep_largest", "fill_holes", "clear"):
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

    # ---- brush and organ

    @property
    def brush_3d(self) -> bool:
        """Whether the brush is a sphere that paints through slices."""
        return self.layers is not None and self.layers.labels.n_edit_dimensions == 3

    def set_brush_mm(self, diameter_mm: float) -> None:
        """Set the brush's diameter, mm; the nearest that the voxels allow."""
        self._brush_mm = diameter_mm
        if self.layers is not None:
            self.layers.labels.brush_mm = diameter_mm
            self._on_brush()

    def set_brush_3d(self, on: bool) -> None:
        """Choose between a sphere through slices and a disk in the slice on screen; the diameter is kept."""
        if self.layers is not None:
            diameter_mm = self.layers.labels.brush_mm
            self.layers.labels.n_edit_dimensions = 3 if on else 2
            self.layers.labels.brush_mm = diameter_mm

    def set_hu_range(self, hu_range: tuple[float, float] | None) -> None:
        """Let brush and eraser touch only voxels in a range of HU; None: all."""
        if self.layers is not None:
            self.layers.labels.hu_range = hu_range

    def set_protect(self, on: bool) -> None:
        """Choose whether painting spares other organs."""
        if self.layers is not None:
            self.layers.labels.preserve_labels = on

    @property
    def outline(self) -> bool:
        """Whether outlines are drawn instead of filled organs."""
        return self._outline

    def set_outline(self, on: bool) -> None:
        """Draw outlines instead of filled organs, also of the cases to come."""
        self._outline = on
        if self.layers is not None:
            self.layers.labels.contour = 2 if on else 0
        self.outline_changed.emit(on)

    def make_room_for_dose(self) -> None:
        """Let a dose map be seen: organs as outlines on top, still the layer that is painted on; no SPECT."""
        if self.layers is None:
            return
        if self.layers.spect is not None:
            self.layers.spect.visible = False
        self.set_outline(True)
        layers = self.viewer.layers
        layers.move(layers.index(self.layers.labels), len(layers))
        layers.selection.active = self.layers.labels
        self._on_slice()

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

    # ---- live numbers and draft

    def measure(self) -> None:
        """Measure all organs in a thread; ``measured`` follows."""
        session = self.session
        if session is None:
            return
        if self._tasks.running("measure"):
            self._measure_timer.start()
            return
        frame = scene.spect_at(session.case, self.viewer)
        self._measured_frame = frame
        spect = None if frame is None else frame.volume
        self._tasks.run("measure", lambda _: measure(session.array, session.case.ct, spect), self.measured.emit)

    def _autosave(self) -> None:
        session = self.session
        if session is None or not session.needs_autosave:
            return
        snapshot: Snapshot = session.snapshot()
        if not self._tasks.run("autosave", lambda _: session.autosave(snapshot)):
            self._autosave_timer.start()

    # ---- what happens in the viewer

    def _label_events(self) -> list[tuple[Any, Callable[..., None]]]:
        assert self.layers is not None
        events = self.layers.labels.events
        return [
            (events.edited, self._on_edited),
            (events.labels_update, self._on_painting),
            (events.brush_size, self._on_brush),
            (events.n_edit_dimensions, self._on_brush),
            (events.mode, self._on_brush),
            (events.preserve_labels, self._on_brush),
            (events.selected_label, self._on_organ),
        ]

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

    def _on_brush(self, _: Any = None) -> None:
        if self.layers is None:
            return
        labels = self.layers.labels
        self.brush_changed.emit(labels.brush_mm, self.brush_3d, 2 * labels.finest_mm)
        self.protect_changed.emit(bool(labels.preserve_labels))
        self._on_slice()

    def _on_organ(self, _: Any = None) -> None:
        if self.layers is not None:
            self.organ_changed.emit(int(self.layers.labels.selected_label))

    def _on_wheel(self, step: int) -> None:
        if self.layers is not None:
            self.layers.labels.brush_size = max(1, self.layers.labels.brush_size + 2 * step)

    def _on_slice(self, _: Any = None) -> None:
        if self.session is None or self.layers is None:
            return
        parts = []
        frame = scene.spect_at(self.session.case, self.viewer)
        if frame is not None and self.layers.spect is not None and self.layers.spect.visible:
            doubt = "" if frame.registered else " (not registered to this CT)"
            parts.append(f"SPECT {frame.time_h:g} h p.i.{doubt}")
        if frame is not self._measured_frame:
            self._measure_timer.start()
        if any(layer.name == scene.DOSE_NAME and layer.visible for layer in self.viewer.layers):
            parts.append("colours: absorbed dose, Gy")
        if self.brush_3d and self.layers.labels.mode in ("paint", "erase"):
            parts.append(f"3D BRUSH {self.layers.labels.brush_mm:.0f} mm")
        text = self.viewer.canvas.overlays.text
        text.text, text.visible = " · ".join(parts), bool(parts)


def _value(name: str) -> int:
    return organ(name).index
