"""How many label maps each CT has, without looking at the disk for every request. Knows cases and folders' times.

Whoever writes a label map in this process says so (`look_at`); what other processes write is seen by `refresh`, which
reads again only the patients in whose label folders something came or went.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from doselabel.files import too_new
from doselabel.wire import LabelState
from monailabel_app.cases import Case


@dataclass(frozen=True)
class Known:
    """What is known of one CT's label maps: how many were submitted, which tags there are, whether it is to be done,
    where the newest stands, who drew them."""

    submitted: int = 0
    tags: tuple[str, ...] = ()
    todo: bool = True
    state: LabelState | None = None
    authors: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Patient:
    """What is known of a patient's CTs, and the times of the folders that it was read from."""

    places: tuple[str, ...]
    times_ns: tuple[int, ...]
    known: dict[str, Known]


class Overview:
    """All CTs' label maps; ``changes`` counts what was read, so that a sum over all need not be made twice."""

    def __init__(self) -> None:
        self.changes = 0
        self._lock = threading.Lock()
        self._patients: dict[Path, _Patient] = {}

    def refresh(self, cases: Iterable[Case]) -> None:
        """See what others have written."""
        by_folder: dict[Path, list[Case]] = {}
        for case in cases:
            by_folder.setdefault(case.study.folder, []).append(case)
        with self._lock:
            self._patients = {folder: row for folder, row in self._patients.items() if folder in by_folder}
        for folder, own in by_folder.items():
            row = self._patients.get(folder)
            if (
                row is None
                or row.times_ns != _times_ns(row.places)
                or row.known.keys() != {case.image_id for case in own}
            ):
                self._read(folder, own)

    def look_at(self, cases: Iterable[Case]) -> None:
        """Look at one patient again: something was written."""
        own = list(cases)
        if own:
            self._read(own[0].study.folder, own)

    def _read(self, folder: Path, cases: list[Case]) -> None:
        places = _places(folder / "labels")
        times_ns = _times_ns(places)
        if too_new(times_ns):
            times_ns = ()  # like no other: it is read again
        known = {case.image_id: _known(case) for case in cases}
        with self._lock:
            if folder not in self._patients or self._patients[folder].known != known:
                self.changes += 1
            self._patients[folder] = _Patient(places, times_ns, known)

    def of(self, case: Case) -> Known:
        """What is known of one CT."""
        with self._lock:
            row = self._patients.get(case.study.folder)
        return row.known.get(case.image_id, Known()) if row else _known(case)

    def counts(self, cases: Iterable[Case]) -> dict[str, Any]:
        """How many CTs there are, and how many of each tag, as MONAI Label's `status` says it."""
        known = [self.of(case) for case in cases]
        tags = Counter(tag for row in known for tag in row.tags)
        completed = sum(row.submitted > 0 for row in known)
        return {"total": len(known), "completed": completed, "label_tags": dict(tags)}


def _known(case: Case) -> Known:
    labels = case.labels
    submitted = labels.count()
    todo = submitted == 0 or labels.reopened() is not None
    return Known(submitted, tuple(labels.tags()), todo, *labels.standing())


def _places(labels: Path) -> tuple[str, ...]:
    """A patient's label folder and those in it, down to each CT's versions: what comes or goes changes one's time."""
    found, pending = [], [(str(labels), 2)]
    while pending:
        folder, deeper = pending.pop()
        found.append(folder)
        if deeper:
            with suppress(FileNotFoundError), os.scandir(folder) as entries:
                pending += [(entry.path, deeper - 1) for entry in entries if entry.is_dir(follow_symlinks=False)]
    return tuple(found)


def _times_ns(places: Iterable[str]) -> tuple[int, ...]:
    return tuple(map(_time_ns, places))


def _time_ns(place: str) -> int:
    try:
        return os.stat(place).st_mtime_ns
    except FileNotFoundError:
        return 0
