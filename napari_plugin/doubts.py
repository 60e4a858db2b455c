"""Slices on which the network was not sure: kept while its labels are on screen, found by key. No widgets.

They belong to the model's labels: gone when those are undone, submitted, or replaced, and back when they are redone.
"""

from __future__ import annotations

from collections.abc import Mapping

from napari.components import ViewerModel
from qtpy.QtCore import QObject, Signal

from doselabel.labels import organ, title
from doselabel.wire import OrganSegmentation, SegmentationSummary, SliceDoubt
from napari_plugin.editing import Editing


class Doubts(QObject):
    """What the network said of the slices of the open case.

    Signals
    -------
    changed()
        Others are shown, or none; or another organ was chosen.
    status(text, level)
    """

    changed = Signal()
    status = Signal(str, str)

    def __init__(self, viewer: ViewerModel, editing: Editing, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._viewer, self._editing = viewer, editing
        self._summary: SegmentationSummary | None = None
        self._shown = False
        editing.labels_changed.connect(self._on_labels)
        editing.closed.connect(lambda: self.take(None))
        editing.brush.organ_changed.connect(lambda _: self.changed.emit())
        editing.captions.append(self._caption)
        self.changed.connect(editing.say)

    def take(self, summary: SegmentationSummary | None) -> None:
        """Keep what goes with the model's labels that are on screen now."""
        self._summary = summary
        self._shown = summary is not None
        self.changed.emit()

    @property
    def summary(self) -> SegmentationSummary | None:
        """What the network said; None when the labels on screen are not the model's, nor made of them."""
        return self._summary if self._shown else None

    @property
    def organs(self) -> Mapping[str, OrganSegmentation]:
        """What was said of each organ."""
        return {} if self.summary is None else self.summary.organs

    @property
    def chosen(self) -> OrganSegmentation | None:
        """What was said of the organ that is edited."""
        layers = self._editing.layers
        value = None if layers is None else int(layers.labels.selected_label)
        return next((found for name, found in self.organs.items() if organ(name).index == value), None)

    @property
    def by_slice(self) -> dict[int, list[tuple[str, SliceDoubt]]]:
        """Axial slice, from the head → organs to look at there, and why."""
        found: dict[int, list[tuple[str, SliceDoubt]]] = {}
        for name, said in self.organs.items():
            for doubt in said.doubts:
                found.setdefault(doubt.slice, []).append((name, doubt))
        return dict(sorted(found.items()))

    @property
    def slices(self) -> int:
        """How many axial slices the open case has."""
        return 0 if self._editing.layers is None else self._editing.layers.labels.data.shape[0]

    @property
    def at(self) -> int:
        """The axial slice on screen."""
        layers = self._editing.layers
        return 0 if layers is None else round(float(layers.labels.world_to_data(self._viewer.dims.point)[-3]))

    def step(self, direction: int) -> None:
        """Go to the next (+1, to the feet) or previous (−1) slice to look at, in the axial plane."""
        layers, by_slice = self._editing.layers, self.by_slice
        if layers is None:
            return
        if not by_slice:
            self.status.emit("No slice is marked: segment first, or the network was sure of all.", "info")
            return
        at = self.at
        beyond = [z for z in by_slice if (z - at) * direction > 0]
        if not beyond:
            self.status.emit(f"No slice to look at {'below' if direction > 0 else 'above'} this one.", "info")
            return
        self.go(min(beyond, key=lambda z: abs(z - at)))

    def go(self, z: int) -> None:
        """Show an axial slice, and choose the organ to look at there."""
        layers = self._editing.layers
        if layers is None:
            return
        if self._editing.planes.plane != "axial":
            self._editing.planes.show("axial")
        self._viewer.dims.set_point(self._viewer.dims.ndim - 3, float(layers.labels.data_to_world((z, 0, 0))[0]))
        here = [organ(name).index for name, _ in self.by_slice.get(z, [])]
        if here and int(layers.labels.selected_label) not in here:
            self._editing.brush.select_organ(here[0])

    def words(self, z: int) -> list[str]:
        """What is doubtful on a slice, a line for each organ."""
        return [f"{title(name)}: {doubt.text}" for name, doubt in self.by_slice.get(z, [])]

    def _caption(self) -> str:
        if not self.organs or self._editing.planes.plane != "axial":
            return ""
        return "\n".join(f"? {line}" for line in self.words(self.at))

    def _on_labels(self) -> None:
        session, summary = self._editing.session, self._summary
        of_model = session is not None and summary is not None and session.started_from == summary.model_sha256
        if of_model != self._shown:
            self._shown = of_model
            self.changed.emit()
