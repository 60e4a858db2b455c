"""The state of one annotator's work on one case: what was edited, autosaved, submitted, and where it came from.

Knows no Qt. Deliberate submission clears the recovery file; everything else keeps it.

Concepts
--------
*moment*
    One state of the labels: where they come from goes with the labels, so that undo brings both back.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from doselabel.errors import LabelError
from doselabel.labels import NAMES, LabelMap, region, title
from doselabel.wire import LabelVersion
from napari_plugin.session.case import Case
from napari_plugin.session.recovery import Draft, Recovery, content_of, now

MOST_VALUES = 255
HISTORY = 100
"""Steps that can be undone: as many as napari's labels layer keeps."""


@dataclass(frozen=True)
class Moment:
    """One state of the labels in the history of edits.

    Attributes
    ----------
    token : int
        Its own number; the same number, the same labels.
    origin : {"model", "corrected", "imported"}
        What these labels are.
    started_from : str
        The model's hash, or "version N".
    start : (z, y, x) uint8 array or None
        The labels that the correction started from; None when they are not known any more.
    """

    token: int
    origin: str
    started_from: str
    start: np.ndarray | None


@dataclass(frozen=True)
class Snapshot:
    """A copy of the labels at one moment, safe to hand to another thread."""

    case: Case
    array: np.ndarray
    moment: Moment
    seen: int | None
    names: Mapping[int, str]

    def native(self) -> LabelMap:
        """Labels on the CT's own grid."""
        return self.case.to_native(self.array, self.names)


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

    Attributes
    ----------
    names : dict
        Value → organ or region. Replaced by another when one is added, never changed.
    """

    def __init__(self, case: Case, array: np.ndarray, recovery: Recovery) -> None:
        self.case = case
        self.array = array
        self.names: Mapping[int, str] = dict(case.labels.names)
        self.recovery = recovery
        self.seen = case.seen
        self.moment = Moment(1 if case.restored else 0, case.origin, case.started_from, case.start)
        self._last = self.moment.token
        self._past: deque[Moment] = deque(maxlen=HISTORY)
        self._future: list[Moment] = []
        self._kept = self._last
        self._submitted = 0
        self._sent = {case.content: self._last} if case.restored else {}
        self._saving = threading.Lock()  # drafts are written by the window's thread and by a worker's
        self._naming = threading.Lock()
        # Room for a snapshot, touched by a thread: to touch new memory takes longer than a window may stall.
        self._room: deque[np.ndarray] = deque(maxlen=1)
        threading.Thread(target=lambda: self._room.append(np.ones_like(array)), daemon=True).start()

    # ---- what the values stand for

    @property
    def labels(self) -> LabelMap:
        """The labels on screen, on the canonical grid; the array is the live one."""
        return LabelMap(self.array, self.case.ct.geometry, dict(self.names))

    def adopted(self, labels: LabelMap) -> np.ndarray:
        """A map's array under the values that names have here; names that it brings are known from now on."""
        with self._naming:
            ours = labels.renumbered(self.names)
            if ours.names != self.names:  # the same names stay the same object: nothing is drawn anew
                self.names = dict(ours.names)
        return ours.array

    @property
    def values(self) -> dict[str, int]:
        """What stands for each organ and region, by name."""
        return {name: value for value, name in self.names.items()}

    def added(self, name: str) -> int:
        """The value that stands for an organ or region; a new one if it is not known yet.

        Raises
        ------
        LabelError
            When it is no name, or there are too many.
        """
        name = region(name).name
        with self._naming:
            if (known := self.values.get(name)) is not None:
                return known
            value = max(self.names) + 1
            if value > MOST_VALUES:
                raise LabelError(f"A label map holds {MOST_VALUES} regions at most.", "Give some the same name.")
            self.names = {**self.names, value: name}
        return value

    def rename(self, value: int, name: str) -> None:
        """Call a region otherwise.

        Raises
        ------
        LabelError
            When it is an organ of the table, or the name is none or taken.
        """
        name = region(name).name
        if value in NAMES:
            raise LabelError(f"{title(NAMES[value])} is an organ of the label table and keeps its name.")
        with self._naming:
            if name in self.names.values() and self.names[value] != name:
                raise LabelError(f"There is a region '{title(name)}' already.", "Choose another name.")
            self.names = {**self.names, value: name}
        self.moment = replace(self.moment, token=self._next())

    # ---- where the labels come from

    @property
    def origin(self) -> str:
        """What the labels on screen are."""
        return self.moment.origin

    @property
    def started_from(self) -> str:
        """The model's hash or the version that the labels on screen started from."""
        return self.moment.started_from

    def edited(self) -> None:
        """Note that the labels changed by hand or tool: one step that can be undone."""
        self._past.append(self.moment)
        self._future.clear()
        origin = "corrected" if self.origin == "model" else self.origin
        self.moment = replace(self.moment, token=self._next(), origin=origin)

    def taken(self, origin: str, started_from: str, start: np.ndarray) -> None:
        """Note that the labels are now a model's or another version's; after `edited`, when a voxel changed."""
        self.moment = Moment(self._next(), origin, started_from, start)

    def undone(self) -> None:
        """Note that the last step was undone: its labels came from elsewhere, perhaps."""
        if self._past:
            self._future.append(self.moment)
            self.moment = self._past.pop()

    def redone(self) -> None:
        """Note that the last undone step is there again."""
        if self._future:
            self._past.append(self.moment)
            self.moment = self._future.pop()

    @property
    def by_hand(self) -> bool:
        """Whether the labels hold work of hands that was not submitted."""
        return self.dirty and self.origin != "model"

    def _next(self) -> int:
        self._last += 1
        return self._last

    # ---- what is safe

    @property
    def dirty(self) -> bool:
        """Whether there is work that was not submitted."""
        return self.moment.token != self._submitted

    @property
    def needs_autosave(self) -> bool:
        """Whether the recovery file is behind: it lacks work, or holds what was undone."""
        return self.moment.token != self._kept

    @property
    def empty(self) -> bool:
        """Whether no voxel is labelled."""
        return not self.array.any()

    def abandoned(self) -> None:
        """Note that the annotator does not want the edits: nothing is left to save."""
        self._submitted = self._kept = self.moment.token

    def snapshot(self) -> Snapshot:
        """Copy the labels as they are now."""
        try:
            copy = self._room.pop()
        except IndexError:
            copy = np.empty_like(self.array)
        np.copyto(copy, self.array)
        return Snapshot(self.case, copy, self.moment, self.seen, self.names)

    def autosave(self, snapshot: Snapshot | None = None) -> None:
        """Bring the recovery file up to date; from any thread, with a snapshot, which is used up by it."""
        with self._saving:
            if snapshot is None and self.needs_autosave:
                snapshot = self.snapshot()
            if snapshot is None or snapshot.moment.token == self._kept:
                return
            if snapshot.moment.token == self._submitted:
                if not self.dirty:  # what the draft held was undone, or is on the server
                    self.recovery.clear(self.case.image_id)
                    self._kept = self._submitted
                return
            moment = snapshot.moment
            draft = Draft(snapshot.native(), moment.origin, moment.started_from, now(), snapshot.seen)
            self.recovery.save(self.case.image_id, draft)
            self._kept = moment.token
            self._room.append(snapshot.array)

    def sent(self, snapshot: Snapshot, labels: LabelMap) -> None:
        """Note that a snapshot is on its way to the server; ``labels`` is it, on the CT's own grid."""
        self._sent[content_of(labels)] = snapshot.moment.token

    def submitted(self, content: str, version: LabelVersion) -> None:
        """Note that labels sent before are on the server; edits made since then stay unsaved work."""
        self.seen = max(version.version, self.seen or 0)
        token = self._sent.pop(content, None)
        if token is None:
            return
        with self._saving:
            self._submitted = token
            name = f"version {version.version}"
            start = self.array.copy() if self.moment.token == token else None
            self.moment = replace(self.moment, started_from=name, start=start)
            self._past = deque(
                (replace(m, started_from=name) if m.token == token else m for m in self._past), maxlen=HISTORY
            )
            if not self.dirty:
                self.recovery.clear(self.case.image_id)
                self._kept = token
        self.autosave()
