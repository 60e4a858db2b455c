"""Which patients there are on disk, and which of them can be used. Knows studies; no label maps, no server.

There is no index file: what is on disk is the truth, so that server, batch process and a person with a file browser
never disagree. A look at the disk is made beside the requests, never under a lock that they wait for, and reads only
what has changed: two looks at a folder's time for each patient.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from doselabel.errors import DoselabelError, StudyError
from doselabel.files import too_new
from doselabel.study import MANIFEST, Study
from monailabel_app.cases import Case, cases_of, suffix_of
from monailabel_app.refusals import not_found

RESCAN_S = 1.0
"""New and changed patient folders are noticed within this time, and that which a look takes."""

Signature = tuple[int, ...]


@dataclass(frozen=True)
class _Known:
    """A patient folder as it was when it was read; ``places`` are the folders of the files that it names."""

    study: Study | StudyError
    places: tuple[str, ...] = ()
    signature: Signature = ()


@dataclass(frozen=True)
class Seen:
    """What one look at the disk found.

    Attributes
    ----------
    cases : dict
        Image id → CT: patient by patient, the diagnostic CT first.
    studies, broken : dict
        Patient → study, and folder → why it can't be used.
    """

    cases: dict[str, Case] = field(default_factory=dict)
    studies: dict[str, Study] = field(default_factory=dict)
    broken: dict[str, StudyError] = field(default_factory=dict)


class Patients:
    """A folder of patient folders.

    Parameters
    ----------
    root : Path
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._known: dict[Path, _Known] = {}
        self._seen = Seen()
        self._looked = float("-inf")
        self._looking = threading.Lock()
        self._watched = False
        self.refresh()

    def refresh(self) -> None:
        """Look at the disk now."""
        with self._looking:
            self._look()

    def now(self) -> Seen:
        """What there is, at most a little older than `RESCAN_S`; nobody waits for somebody else's look."""
        late = not self._watched and time.monotonic() - self._looked > RESCAN_S
        if late and self._looking.acquire(blocking=False):
            try:
                self._look()
            finally:
                self._looking.release()
        return self._seen

    def watched(self) -> None:
        """Somebody else calls `refresh` every `RESCAN_S`: a request need not."""
        self._watched = True

    def case(self, image_id: str) -> Case:
        """The CT with this id.

        Raises
        ------
        Refused
            When there is none.
        """
        if found := self.now().cases.get(image_id):
            return found
        raise not_found("image", image_id, "Ask for the list of studies again; it may have changed.")

    def study(self, patient_id: str) -> Study:
        """The study of a patient.

        Raises
        ------
        Refused, StudyError
            When there is none, or it can't be used.
        """
        seen = self.now()
        if patient_id in seen.broken:
            raise seen.broken[patient_id]
        if found := seen.studies.get(patient_id):
            return found
        raise not_found("patient", patient_id)

    def _look(self) -> None:
        known: dict[Path, _Known] = {}
        root = self._root.resolve()
        for folder in Study.find(self._root):
            if folder.name.startswith("."):  # what other systems leave beside a folder, such as ._P-001
                continue
            old = self._known.get(folder)
            with suppress(FileNotFoundError):  # it went in this moment
                known[folder] = old if old is not None and _as_it_was(folder, old) else _read(folder, root)
        same = known.keys() == self._known.keys() and all(_same(row, self._known[at]) for at, row in known.items())
        self._known = known
        if not same:
            self._seen = _taken(known)
        self._looked = time.monotonic()


def _taken(known: dict[Path, _Known]) -> Seen:
    seen = Seen()
    for folder, row in known.items():
        study = row.study
        if isinstance(study, StudyError):
            seen.broken[folder.name] = study
            continue
        cases = list(cases_of(study))
        if taken := next((case for case in cases if case.image_id in seen.cases), None):
            both = f"'{seen.cases[taken.image_id].study.folder.name}' and '{folder.name}'"
            seen.broken[folder.name] = StudyError(
                f"{folder / MANIFEST}: two CTs would have the id '{taken.image_id}' (in {both}).",
                "Every patient_id must be there once.",
            )
            continue
        seen.studies[study.patient_id] = study
        seen.cases.update((case.image_id, case) for case in cases)
    return seen


def _same(row: _Known, before: _Known) -> bool:
    return row is before or (isinstance(row.study, StudyError) and str(row.study) == str(before.study))


def _as_it_was(folder: Path, old: _Known) -> bool:
    """Whether nothing changed; a broken study may be whole without a new manifest, and is read again each time."""
    return bool(old.signature) and old.signature == _signature(folder, old.places)


def _read(folder: Path, root: Path) -> _Known:
    os.stat(folder / MANIFEST)
    study = _load(folder, root)
    if isinstance(study, StudyError):
        return _Known(study)
    places = tuple(sorted({str(folder), *(str((folder / name).parent) for _, name in study.files())}))
    signature = _signature(folder, places)
    return _Known(study, places, () if too_new(signature[1:]) else signature)


def _signature(folder: Path, places: tuple[str, ...]) -> Signature:
    """What changes when a manifest is written, or a file that it names comes or goes."""
    stat = os.stat(f"{folder}/{MANIFEST}")
    return (stat.st_size, stat.st_mtime_ns, *(os.stat(place).st_mtime_ns for place in places))


def _load(folder: Path, root: Path) -> Study | StudyError:
    for inside in (folder, folder / "labels"):
        if inside.is_symlink() and not inside.resolve().is_relative_to(root):
            return StudyError(
                f"{inside.relative_to(folder.parent)}: leads out of the studies folder.", "Copy the patient into it."
            )
    try:
        study = Study.load(folder)
    except StudyError as error:
        return error
    except DoselabelError as error:
        return StudyError(error.message, error.hint)
    except OSError as error:
        return StudyError(f"{folder / MANIFEST}: can't be read ({error.strerror}).", "Let the server read it.")
    stems: dict[str, str] = {}
    for name in dict.fromkeys([study.ct, *(point.ct for point in study.time_points)]):
        stem = Path(name).name.removesuffix(suffix_of(Path(name)))
        if stem in stems:
            return StudyError(
                f"{folder / MANIFEST}: the CTs '{stems[stem]}' and '{name}' have the same name.",
                "Rename one: a CT is known by its file name.",
            )
        stems[stem] = name
    return study
