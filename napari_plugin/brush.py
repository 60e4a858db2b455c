"""Brush, organ and outlines of the open case, as the annotator chose them. Knows the labels layer, no case."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from qtpy.QtCore import QObject, Signal

from napari_plugin.organ_labels import OrganLabels
from napari_plugin.shortcuts import wheel_over

BRUSH_MM = 12.0


class Brush(QObject):
    """How the labels are painted and drawn.

    Signals
    -------
    changed(diameter_mm, sphere, step_mm), protect_changed(on), outline_changed(on), organ_changed(value)
    mode_changed(napari's name of the labels layer's mode)
    """

    changed = Signal(float, bool, float)
    protect_changed = Signal(bool)
    outline_changed = Signal(bool)
    organ_changed = Signal(int)
    mode_changed = Signal(str)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._labels: OrganLabels | None = None
        self._size_mm = BRUSH_MM
        self._outline = True

    def hold(self, labels: OrganLabels) -> None:
        """Paint on a case's labels from now on."""
        self.let_go()
        self._labels = labels
        for event, slot in self._events():
            event.connect(slot)
        labels.mouse_wheel_callbacks.append(wheel_over(self._on_wheel))
        labels.brush_mm = self._size_mm
        labels.contour = 2 if self._outline else 0
        self._tell()
        self._on_organ()

    def let_go(self) -> None:
        """Paint on nothing."""
        if self._labels is not None:
            for event, slot in self._events():
                event.disconnect(slot)
            self._labels = None

    @property
    def sphere(self) -> bool:
        """Whether the brush is a sphere that paints through slices."""
        return self._labels is not None and self._labels.n_edit_dimensions == 3

    @property
    def words(self) -> str:
        """What must be said on the canvas while painting: a sphere paints where nobody looks."""
        if self._labels is None or not self.sphere or self._labels.mode not in ("paint", "erase"):
            return ""
        return f"3D BRUSH {self._labels.brush_mm:.0f} mm"

    def set_mode(self, mode: str) -> None:
        """Choose what the mouse does on the labels; they become the layer that is worked on."""
        if self._labels is not None:
            self._labels.mode = mode

    def set_size(self, diameter_mm: float) -> None:
        """Set the brush's diameter, mm; the nearest that the voxels allow."""
        self._size_mm = diameter_mm
        if self._labels is not None:
            self._labels.brush_mm = diameter_mm
            self._tell()

    def set_sphere(self, on: bool) -> None:
        """Choose between a sphere through slices and a disk in the slice on screen; the diameter is kept."""
        if self._labels is not None:
            diameter_mm = self._labels.brush_mm
            self._labels.n_edit_dimensions = 3 if on else 2
            self._labels.brush_mm = diameter_mm

    def set_hu_range(self, hu_range: tuple[float, float] | None) -> None:
        """Let brush and eraser touch only voxels in a range of HU; None: all."""
        if self._labels is not None:
            self._labels.hu_range = hu_range

    def set_protect(self, on: bool) -> None:
        """Choose whether painting spares other organs."""
        if self._labels is not None:
            self._labels.preserve_labels = on

    @property
    def outline(self) -> bool:
        """Whether outlines are drawn instead of filled organs."""
        return self._outline

    def set_outline(self, on: bool) -> None:
        """Draw outlines instead of filled organs, also of the cases to come."""
        self._outline = on
        if self._labels is not None:
            self._labels.contour = 2 if on else 0
        self.outline_changed.emit(on)

    def select_organ(self, value: int) -> None:
        """Choose the organ that is edited."""
        if self._labels is not None:
            self._labels.selected_label = value

    def step_organ(self, step: int) -> None:
        """Choose the previous or next organ or region."""
        if self._labels is not None:
            values = list(self._labels.names)
            now = self._labels.selected_label
            at = values.index(now) if now in values else 0
            self.select_organ(values[(at + step) % len(values)])

    # ---- what happens on the layer

    def _events(self) -> list[tuple[Any, Callable[..., None]]]:
        assert self._labels is not None
        events = self._labels.events
        telling = (events.brush_size, events.n_edit_dimensions, events.mode, events.preserve_labels)
        return [*((event, self._tell) for event in telling), (events.selected_label, self._on_organ)]

    def _tell(self, _: Any = None) -> None:
        if self._labels is not None:
            self.changed.emit(self._labels.brush_mm, self.sphere, 2 * self._labels.finest_mm)
            self.protect_changed.emit(bool(self._labels.preserve_labels))
            self.outline_changed.emit(self._outline)
            self.mode_changed.emit(str(self._labels.mode))

    def _on_organ(self, _: Any = None) -> None:
        if self._labels is not None:
            self.organ_changed.emit(int(self._labels.selected_label))

    def _on_wheel(self, step: int) -> None:
        if self._labels is not None:
            self._labels.brush_size = max(1, self._labels.brush_size + 2 * step)
