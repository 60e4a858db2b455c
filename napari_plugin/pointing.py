"""Clicks into the image for tools that work at them: left says what belongs, right (or Ctrl) what does not.

Knows the labels layer and its mouse; no tools. A drag moves the image as always.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from qtpy.QtCore import QObject, Signal

from napari_plugin.organ_labels import OrganLabels

STILL_PX = 4.0
"""A mouse that moves less between press and release has clicked."""
LEFT, RIGHT = 1, 2


class Pointing(QObject):
    """Waits for clicks while a tool is chosen that works at them.

    Signals
    -------
    clicked(tool's name, voxel (z, y, x), whether it belongs)
    chosen(tool's name)
        It waits for clicks from now on; "" when it does not any more.
    """

    clicked = Signal(str, object, bool)
    chosen = Signal(str)

    def __init__(self, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._labels: OrganLabels | None = None
        self.tool = ""

    @property
    def words(self) -> str:
        """What must be said on the canvas while it waits."""
        return "CLICKS: left belongs, right does not" if self.tool else ""

    def hold(self, labels: OrganLabels) -> None:
        """Wait for clicks on a case's labels."""
        self.let_go()
        self._labels = labels
        labels.mouse_drag_callbacks.append(self._on_press)
        labels.events.mode.connect(self._on_mode)

    def let_go(self) -> None:
        """Wait for clicks on nothing."""
        if self._labels is not None:
            self._labels.mouse_drag_callbacks.remove(self._on_press)
            self._labels.events.mode.disconnect(self._on_mode)
            self._labels = None
        self.choose("")

    def choose(self, tool: str) -> None:
        """Wait for clicks for a tool; "" for none."""
        if self._labels is None:
            tool = ""
        elif tool:
            self._labels.mode = "pan_zoom"
        if tool != self.tool:
            self.tool = tool
            self.chosen.emit(tool)

    def _on_mode(self, _: Any = None) -> None:
        if self._labels is not None and str(self._labels.mode) != "pan_zoom":
            self.choose("")

    def _on_press(self, labels: OrganLabels, event: Any) -> Iterator[None]:
        if not self.tool or event.button not in (LEFT, RIGHT):
            return
        pressed, farthest_px = np.asarray(event.pos, float), 0.0
        position, belongs = event.position, event.button == LEFT and "Control" not in event.modifiers
        yield
        while True:  # the moves, of which a slow window leaves some out, and the release
            farthest_px = max(farthest_px, float(np.linalg.norm(np.asarray(event.pos, float) - pressed)))
            if event.type != "mouse_move":
                break
            yield
        voxel = tuple(round(float(i)) for i in labels.world_to_data(position)[-3:])
        if farthest_px < STILL_PX and all(0 <= i < n for i, n in zip(voxel, labels.data.shape, strict=True)):
            self.clicked.emit(self.tool, voxel, belongs)
