"""A study's images, each read from its file once and handed on. Knows fields, files and units; judges nothing."""

from __future__ import annotations

import threading

from doselabel.geometry import Volume
from doselabel.reading import read_field, read_spect
from doselabel.study import Study


class Images:
    """What has been read of a study; several threads may ask, and each file is read for all of them."""

    def __init__(self, study: Study) -> None:
        self.study = study
        self._read: dict[str, Volume] = {}
        self._spects: dict[int, Volume] = {}
        self._lock = threading.RLock()

    def read(self, field: str, name: str) -> Volume:
        """An image as its file holds it; raises StudyError naming the manifest's field."""
        with self._lock:
            if name not in self._read:
                self._read[name] = read_field(self.study, field, name)
            return self._read[name]

    def spect(self, index: int) -> Volume:
        """A time point's SPECT in Bq/mL in the middle of its scan."""
        with self._lock:
            if index not in self._spects:
                stored = self.read(f"time_points[{index}].spect", self.study.time_points[index].spect)
                self._spects[index] = read_spect(self.study, index, stored)
            return self._spects[index]

    def nbytes(self) -> int:
        """Memory held, in bytes."""
        with self._lock:
            held = {id(v): v.array.nbytes for v in (*self._read.values(), *self._spects.values())}
            return sum(held.values())
