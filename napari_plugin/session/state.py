"""The state of one annotator's work on one case: what was edited, autosaved, submitted. Knows no Qt.

Deliberate submission clears the recovery file; everything else keeps it.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import numpy as np

from doselabel.labels import LabelMap
from doselabel.wire import LabelVersion
from napari_plugin.session.case import Case
from napari_plugin.session.recovery import Draft, Recovery, now


@dataclass(frozen=True)
class Snapshot:
    """A copy of the labels at one moment, safe to hand to another thread."""

    case: Case
    array: np.ndarray
    edits: int
    origin: str
    started_from: str

    def native(self) -> LabelMap:
        """Labels on the CT's own grid."""
        return self.case.to_native(self.array)


class Session:
    """Work on a case; ``array`` is the live label array that the viewer edits in place.

    Parameters
    ----------
    case : Case
        What is worked on.
    array : (z, y, x) uint8 array
        The labels on screen, canonical.
    recovery : Recovery
        Where drafts go.
    """

    def __init__(self, case: Case, array: np.ndarray, recovery: Recovery) -> None:
        self.case = case
        self.array = array
        self.recovery = recovery
        self.origin = case.origin
        self.started_from = case.started_from
        self._edits = 1 if case.restored else 0
        self._kept = self._edits
        self._submitted = 0
        self._saving = threading.Lock()  # drafts are written by the window's thread and by a worker's

    @property
    def dirty(self) -> bool:
        """Whether there is work that was not submitted."""
        return self._edits != self._submitted

    @property
    def needs_autosave(self) -> bool:
        """Whether there is work that not even the recovery file has."""
        return self.dirty and self._edits != self._kept

    @property
    def empty(self) -> bool:
        """Whether no voxel is labelled."""
        return not self.array.any()

    def edited(self) -> None:
        """Note that the labels changed by hand or tool."""
        self._edits += 1
        if self.origin == "model":
            self.origin = "corrected"

    def predicted(self, model_sha256: str) -> None:
        """Note that the labels now are a model's, untouched."""
        self._edits += 1
        self.origin = "model"
        self.started_from = model_sha256

    def abandoned(self) -> None:
        """Note that the annotator does not want the edits: nothing is left to save."""
        self._submitted = self._kept = self._edits

    def snapshot(self) -> Snapshot:
        """Copy the labels as they are now."""
        return Snapshot(self.case, self.array.copy(), self._edits, self.origin, self.started_from)

    def autosave(self, snapshot: Snapshot | None = None) -> None:
        """Write the recovery file when there is something to write; from any thread, with a snapshot."""
        with self._saving:
            if snapshot is None and self.needs_autosave:
                snapshot = self.snapshot()
            if snapshot is None or snapshot.edits in (self._kept, self._submitted):
                return
            draft = Draft(snapshot.native(), snapshot.origin, snapshot.started_from, now())
            self.recovery.save(self.case.image_id, draft)
            self._kept = snapshot.edits

    def submitted(self, snapshot: Snapshot, version: LabelVersion) -> None:
        """Note that a snapshot is on the server; edits made since then stay unsaved work."""
        with self._saving:
            self._submitted = snapshot.edits
            self.started_from = f"version {version.version}"
            if not self.dirty:
                self.recovery.clear(self.case.image_id)
        self.autosave()
