"""A study kept warm, so that an edit of its masks is answered by computing only what depends on it.

The chain is `pipeline`'s, step for step; what makes it quick is what is handed to it: files that have been read and
looked into, and a `Memory` in which every slow step is found under the hash of all that enters it. So a session's
answer is that of a full run to the last bit, however the masks were changed in between.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from doselabel.alarms import Alarm
from doselabel.dosimetry.cache import Memory, digest, fingerprint
from doselabel.dosimetry.options import DoseOptions
from doselabel.dosimetry.pipeline import compute_case
from doselabel.dosimetry.results import DoseComputation
from doselabel.dosimetry.uptake.case import Case
from doselabel.dosimetry.uptake.held import Held
from doselabel.dosimetry.uptake.masks import LabelSet, resolve, with_drafts
from doselabel.errors import LabelError, Progress, no_progress
from doselabel.labels import LabelMap, inspected
from doselabel.study import MANIFEST, Study
from doselabel.study_check import check
from doselabel.study_images import Images

LIMIT_BYTES = 2**30
"""Intermediate results of a 128³ study with four time points take some 0.3 GB."""


@dataclass(frozen=True, eq=False)
class _Opened:
    """A study's files as they were when they were read."""

    state: str
    images: Images
    checked: list[Alarm]


class Session:
    """One study's doses, again and again. Several threads may ask; they are answered one after the other.

    Parameters
    ----------
    folder : path
        Of the study. Files that change are read again, and nothing that was made of them is used.
    labels : str or Path
        The masks that drafts take the place of, as for `pipeline.run`.
    options : DoseOptions, optional
    cache : path, optional
        What a full run keeps there is used; nothing is written.
    limit_bytes : int
        What intermediate results may take; the study's own images come on top.
    workers : int
        Threads that work on one answer.
    """

    def __init__(
        self,
        folder: str | Path,
        labels: str | Path,
        options: DoseOptions | None = None,
        *,
        cache: str | Path | None = None,
        limit_bytes: int = LIMIT_BYTES,
        workers: int = 2,
    ) -> None:
        self._folder, self._labels = Path(folder), labels
        self._options, self._workers = options or DoseOptions(), workers
        self._memory = Memory(None if cache is None else Path(cache), limit_bytes=limit_bytes)
        self._opened: _Opened | None = None
        self._submitted: tuple[str, LabelSet] | None = None
        self._held = Held()
        self._lock = threading.Lock()

    def compute(
        self, drafts: Mapping[str, LabelMap] | None = None, *, progress: Progress = no_progress
    ) -> DoseComputation:
        """The study's doses with some label maps replaced by drafts.

        Parameters
        ----------
        drafts : dict, optional
            CT's file name → label map on that CT's grid, in place of the one on disk; it is looked into here. Its
            array must not be written into afterwards.
        progress : Progress

        Returns
        -------
        DoseComputation
            As `pipeline.compute` returns of the same masks; ``labels_origin`` says which are drafts.

        Raises
        ------
        LabelError
            When a draft is of no CT of the study, or not on its grid.
        """
        with self._lock:
            opened = self._open(progress)
            labels = self._label_set(opened, drawn_anew=opened.images.study.ct in (drafts or {}))
            if drafts:
                _refuse_strangers(opened.images, drafts)
                labels = with_drafts(labels, self._inspected(opened.images, drafts))
            self._memory.reused.clear()
            case = Case.of(
                opened.images, opened.checked, labels, self._options, self._memory,
                workers=self._workers, held=self._held if drafts else None,
            )  # fmt: skip
            return compute_case(case, progress)

    @property
    def nbytes(self) -> int:
        """Memory held, in bytes: intermediate results and the study's images."""
        return self._memory.nbytes + (self._opened.images.nbytes() if self._opened else 0)

    def _open(self, progress: Progress) -> _Opened:
        study = Study.load(self._folder)
        others = [name for name in (study.camera, study.blood_samples) if name is not None]
        state = _state([study.path(name) for name in (MANIFEST, *_fields(study), *others)])
        if self._opened is None or self._opened.state != state:
            progress("reading", 0.0)
            self._opened = self._submitted = None
            self._held = Held()
            self._memory = Memory(self._memory.folder, limit_bytes=self._memory.limit_bytes)
            images = Images(study)
            self._opened = _Opened(state, images, check(study, images))
        return self._opened

    def _label_set(self, opened: _Opened, drawn_anew: bool) -> LabelSet:
        study = opened.images.study
        if self._submitted is not None and self._submitted[0] == _state(_around(self._submitted[1])):
            kept = self._submitted[1]
            if kept.files and (drawn_anew or study.ct in kept.maps):
                return kept
        scheme = self._options.label_scheme
        found = resolve(study, self._labels, scheme, opened.images, drawn_anew=drawn_anew)
        self._submitted = _state(_around(found)), found
        return found

    def _inspected(self, images: Images, drafts: Mapping[str, LabelMap]) -> dict[str, LabelMap]:
        """The drafts with what is odd about them."""
        fields = _fields(images.study)

        def look(name: str) -> LabelMap:
            drawn, ct = drafts[name], images.read(fields[name], name)
            key = digest("draft", name, fingerprint(drawn.array), dict(drawn.names))
            return self._memory.hold(key, lambda: inspected(replace(drawn, findings=()), ct))

        with ThreadPoolExecutor(self._workers) as pool:
            return dict(zip(drafts, pool.map(look, drafts), strict=True))


def _refuse_strangers(images: Images, drafts: Mapping[str, LabelMap]) -> None:
    known = images.study.cts().values()
    fields = _fields(images.study)
    for name, labels in drafts.items():
        if name not in known:
            raise LabelError(f"A draft is of '{name}'; the study's CTs are {', '.join(known)}.", "Name one of them.")
        grid = images.read(fields[name], name).geometry
        if not labels.geometry.same_place(grid):
            raise LabelError(f"The draft of '{name}' is not on that CT's grid.", "Draw it on that CT.")


def _around(labels: LabelSet) -> set[Path]:
    """Files of the label maps, and their folders, where another may appear."""
    return {*labels.files.values(), *(file.parent for file in labels.files.values())}


def _fields(study: Study) -> dict[str, str]:
    """File → the manifest's field that names it."""
    return {name: field for field, name in reversed(list(study.files()))}


def _state(files: Iterable[Path]) -> str:
    """What tells that files are the same as before: names, sizes, and when they were written."""
    seen = [(str(p), s.st_size, s.st_mtime_ns, s.st_ino) for p in sorted(files) if p.exists() for s in [p.stat()]]
    return digest(seen)
