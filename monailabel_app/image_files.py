"""The CTs' files as they are given out: whole, under a name and with a checksum of their own. Knows cases and files."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from doselabel.errors import StudyError
from doselabel.files import file_sha256
from doselabel.study import Study
from monailabel_app.cases import Case
from monailabel_app.whole import whole

_OURS = ("path", "name", "checksum", "patient_id")


class Images:
    """Files of CTs.

    Parameters
    ----------
    copies : Path
        Where a copy is kept of an image that can't stand alone (see `monailabel_app.whole`).
    """

    def __init__(self, copies: Path) -> None:
        self._copies = copies
        self._lock = threading.Lock()
        self._notes: dict[str, dict[str, Any]] = {}
        self._hashes: dict[str, str] = {}

    def file_of(self, study: Study, name: str) -> Path:
        """An image that a study names, as one file that says itself where it is.

        Raises
        ------
        StudyError
            When it has gone since the study was read.
        """
        path = whole(study, name, self._copies)
        if not path.is_file():
            raise StudyError(f"{study.patient_id}: the file '{name}' is gone.", "Put it back from a backup.")
        return path

    def info(self, case: Case) -> dict[str, Any]:
        """What is known without reading a CT.

        3D Slicer keeps what it downloads under ``name`` and takes it from there the next time unless ``checksum``
        says that it is another file: the one is this CT's alone, the other changes with it.
        """
        info: dict[str, Any] = {"path": str(case.path), "name": case.name, "patient_id": case.study.patient_id}
        if case.time_h is not None:
            info["time_h"] = case.time_h
        if digest := self._hashes.get(str(case.path)):
            info["checksum"] = f"SHA256:{digest}"
        with self._lock:
            return info | self._notes.get(case.image_id, {})

    def checksum(self, case: Case) -> str:
        """Hash of what is given out, ``SHA256:…``."""
        digest = file_sha256(self.file_of(case.study, case.file))
        self._hashes[str(case.path)] = digest
        return f"SHA256:{digest}"

    def note(self, case: Case, info: Mapping[str, Any]) -> None:
        """Remember what a strategy notes of a CT, until the server stops."""
        with self._lock:
            kept = self._notes.setdefault(case.image_id, {})
            kept.update({key: value for key, value in info.items() if key not in _OURS})
