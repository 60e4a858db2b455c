"""What the paper's figures show: organs in red, their expanded regions in yellow, and the detector's boxes with scores.

Shown on demand, and kept true while the labels change. Nazari et al. 2021, Figures 2 and 3. Draws no widgets.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from napari.components import ViewerModel
from napari.layers import Labels, Shapes
from qtpy.QtCore import QObject, QTimer, Signal

from doselabel.labels import title
from doselabel.wire import OrganSegmentation
from napari_plugin import layers as scene
from napari_plugin import tools
from napari_plugin.controller import Controller
from napari_plugin.doubts import Doubts
from napari_plugin.editing import MODELS, Editing
from napari_plugin.tasks import Tasks
from napari_plugin.views.display import DisplayView

MARGIN_MM = 3.0
"""By how much the paper's AI expands a mask to the region that it measures."""
QUIET_MS = 300
TASK = "paper"


class Paper(QObject):
    """The paper's view of the open case.

    Signals
    -------
    status(text, level), changed()
        What is shown is another thing now: it went with its case, or could not be shown.
    """

    status = Signal(str, str)
    changed = Signal()

    def __init__(
        self, viewer: ViewerModel, editing: Editing, doubts: Doubts, tasks: Tasks, parent: QObject | None = None
    ) -> None:
        super().__init__(parent)
        self._viewer, self._editing, self._doubts, self._tasks = viewer, editing, doubts, tasks
        self.outlines: Labels | None = None
        self.boxes: Shapes | None = None
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(QUIET_MS)
        self._timer.timeout.connect(self._draw)
        editing.labels_changed.connect(self._on_labels)
        editing.closed.connect(self.hide)
        doubts.changed.connect(self._draw_boxes)
        viewer.dims.events.current_step.connect(self._draw_boxes)

    def hide(self) -> None:
        """Take all of it off the screen."""
        scene.remove(self._viewer, [layer for layer in (self.outlines, self.boxes) if layer is not None])
        self.outlines = self.boxes = None
        self.changed.emit()

    # ---- red and yellow

    def show_outlines(self, on: bool) -> None:
        """Show organs outlined in red and their expanded regions in yellow, or not."""
        if not on:
            scene.remove(self._viewer, [] if self.outlines is None else [self.outlines])
            self.outlines = None
        elif self._editing.layers is not None and self.outlines is None:
            labels = self._editing.layers.labels
            self.outlines = scene.add_paper_view(self._viewer, np.zeros(labels.data.shape, np.uint8), labels)
            self._viewer.layers.selection.active = labels
            self._draw()
        self.changed.emit()

    def _on_labels(self) -> None:
        if self.outlines is not None:
            self._timer.start()
        self._draw_boxes()

    def _draw(self) -> None:
        session, layer = self._editing.session, self.outlines
        if session is None or layer is None:
            return
        if self._tasks.running(TASK):
            self._timer.start()
            return
        spacing_mm = session.case.ct.geometry.spacing_mm

        def then(drawn: np.ndarray) -> None:
            if (shown := self.outlines) is not None and shown is layer:
                shown.data = drawn

        self._tasks.run(TASK, lambda _: outlined(session.array, spacing_mm), then)

    # ---- boxes

    def show_boxes(self, on: bool) -> None:
        """Show a box around what the network drew of each organ on the slice on screen, with its score, or not."""
        if not on:
            scene.remove(self._viewer, [] if self.boxes is None else [self.boxes])
            self.boxes = None
        elif self._editing.layers is not None and self.boxes is None:
            if not self._doubts.organs:
                self.status.emit("The boxes are of the network's labels: segment first.", "info")
            else:
                labels = self._editing.layers.labels
                self.boxes = scene.add_boxes(self._viewer, labels)
                self._viewer.layers.selection.active = labels
                self._draw_boxes()
        self.changed.emit()

    def _draw_boxes(self, _: Any = None) -> None:
        session, layer = self._editing.session, self.boxes
        if session is None or layer is None:
            return
        found = boxes_on(session.array, self._doubts.at, self._doubts.organs, session.values)
        words = list(found)
        layer.data = [np.array([[self._doubts.at, y, x] for y, x in corners]) for corners in found.values()]
        if words:
            layer.shape_type = "polygon"
            layer.features = {"words": words}
            layer.text = {"string": "{words}", "color": "cyan", "size": 8, "anchor": "upper_left"}


def outlined(labels: np.ndarray, spacing_mm: tools.Spacing) -> np.ndarray:
    """1 in the organs, 2 where their expanded regions lie beside them."""
    drawn = np.isin(labels, MODELS).astype(np.uint8)
    for value in MODELS:
        if (grown := tools.margin(drawn_of(labels, value), 1, spacing_mm, margin_mm=MARGIN_MM)) is not None:
            free = drawn[grown.indices] == 0
            drawn[tuple(index[free] for index in grown.indices)] = 2
    return drawn


def drawn_of(labels: np.ndarray, value: int) -> np.ndarray:
    """One organ alone, so that others do not hold it up."""
    return (labels == value).astype(np.uint8)


def boxes_on(
    labels: np.ndarray, z: int, said: Mapping[str, OrganSegmentation], values: Mapping[str, int]
) -> dict[str, list[tuple[float, float]]]:
    """Organ and score → corners (y, x) of the box around it on an axial slice, where the network has a score for it."""
    found: dict[str, list[tuple[float, float]]] = {}
    for name, organ in said.items():
        at = -1 if organ.first_slice is None else z - organ.first_slice
        score = organ.sureness[at] if 0 <= at < len(organ.sureness) else 0.0
        if score <= 0 or not 0 <= z < labels.shape[0]:
            continue
        rows, columns = np.nonzero(labels[z] == values[name])
        if len(rows):
            top, bottom = float(rows.min()) - 0.5, float(rows.max()) + 0.5
            left, right = float(columns.min()) - 0.5, float(columns.max()) + 0.5
            found[f"{title(name)} {score:.2f}"] = [(top, left), (top, right), (bottom, right), (bottom, left)]
    return found


def tie(of: Controller, view: DisplayView) -> Paper:
    """Tie the two switches of the display's view to what is shown."""
    paper = Paper(of.viewer, of.editing, of.doubts, of.tasks, of)

    def show() -> None:
        for switch, layer in ((view.paper, paper.outlines), (view.boxes, paper.boxes)):
            switch.blockSignals(True)
            switch.setChecked(layer is not None)
            switch.blockSignals(False)

    view.paper.toggled.connect(paper.show_outlines)
    view.boxes.toggled.connect(paper.show_boxes)
    paper.changed.connect(show)
    paper.status.connect(of.status)
    return paper
