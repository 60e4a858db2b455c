"""Training cases made ready once and read from disk ever after. Knows files and arrays; draws nothing, teaches nothing.

A prepared case is a folder of two ``.npy`` files in canonical orientation, cropped to the body, that are mapped into
memory: however many cases there are, only the slices in use are held, and all worker processes share them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy import ndimage

from doselabel.alarms import Alarm
from doselabel.errors import ModelError, Progress, no_progress
from doselabel.geometry import canonical
from doselabel.model.cases import TrainCase, case_ct, case_labels, unlabelled
from doselabel.model.profiles import Profile
from doselabel.model.slices import PLANES, body_box, uptake_on
from doselabel.reading import read_of_study

FORMAT = "prepared/3"
CARD, HU, CLASSES = "case.json", "hu.npy", "classes.npy"


@dataclass(frozen=True)
class Prepared:
    """A case on disk, mapped into memory.

    Attributes
    ----------
    home : Path
        Its folder.
    patient : str
    hu : (z, y, x) int16 array
    classes : (z, y, x) uint8 array
        Class indices of the profile.
    spacing_mm : tuple of float
        (z, y, x).
    scanned : tuple of int
        Shape (z, y, x) of the whole image, of which the arrays hold the body.
    organs : dict
        Plane → class → first and last slice that shows it.
    unlabelled : tuple of int
        Classes about which this case says nothing.
    spect : (z, y, x) float16 array, optional
        Uptake on the CT's grid, 1 is the 99.5th percentile inside the body.
    findings : tuple of Alarm
        What was odd about the label map.
    """

    home: Path
    patient: str
    hu: np.ndarray = field(repr=False)
    classes: np.ndarray = field(repr=False)
    spacing_mm: tuple[float, float, float]
    scanned: tuple[int, int, int]
    organs: dict[str, dict[int, tuple[int, int]]] = field(repr=False)
    unlabelled: tuple[int, ...] = ()
    spect: np.ndarray | None = field(repr=False, default=None)
    findings: tuple[Alarm, ...] = ()

    @property
    def box(self) -> tuple[slice, slice, slice]:
        """The body: all of it, since the arrays are cropped to it."""
        return tuple(slice(0, n) for n in self.hu.shape)  # type: ignore[return-value]


def prepare(
    cases: Sequence[TrainCase], profile: Profile, folder: Path, progress: Progress = no_progress
) -> list[Prepared]:
    """Make cases ready below ``folder``; what is there already, and unchanged, is only opened.

    A case that came ready (`doselabel.model.carry`) is only opened, too.

    Raises
    ------
    ModelError
        When CT and labels do not lie on the same grid, or none of the profile's organs is there.
    """
    ready = []
    for number, case in enumerate(cases):
        progress("loading", number / len(cases))
        if case.ready:
            _check_ready(case, case.ready, profile)
        home = case.ready or Path(folder) / _key(case, profile)
        if not home.is_dir():
            _write(case, profile, home)
        ready.append(opened(home))
    return ready


def _check_ready(case: TrainCase, home: Path, profile: Profile) -> None:
    if case.parenchyma:
        raise ModelError(
            f"{case.patient}: came packed, with kidneys as they were drawn; parenchyma is to be learned.",
            "Train stages on parenchyma where the CTs are.",
        )
    classes = json.loads((home / CARD).read_text("utf-8"))["classes"]
    if tuple(classes) != profile.classes:
        raise ModelError(
            f"{case.patient}: was packed for {', '.join(classes)}; this network learns {', '.join(profile.classes)}.",
            "Pack the cases again with the same --start, --profile and --learn-organs.",
        )


def _key(case: TrainCase, profile: Profile) -> str:
    """A name that changes with the files, what their values mean, and the classes."""
    files = [case.ct, case.labels, *([case.spect] if case.spect and profile.spect else [])]
    stamps = [(str(Path(f).resolve()), Path(f).stat().st_size, Path(f).stat().st_mtime_ns) for f in files]
    meant = [case.patient, sorted((case.names or {}).items()), case.unlabelled, case.scheme, case.merge_lesions]
    told = [FORMAT, stamps, *meant, case.absent, case.parenchyma, profile.classes]
    return f"{case.patient[:40]}-{hashlib.sha256(json.dumps(told).encode()).hexdigest()[:16]}"


def _write(case: TrainCase, profile: Profile, home: Path) -> None:
    ct = case_ct(case)
    labels = case_labels(case, ct)
    lut = np.zeros(256, np.uint8)
    for index, name in enumerate(profile.classes, start=1):
        for value, meant in labels.names.items():
            if meant == name:
                lut[value] = index
    volume = canonical(ct)
    classes = lut[canonical(labels.volume).array]
    boxes = ndimage.find_objects(classes, max_label=len(profile.classes))
    if not any(boxes):
        raise ModelError(
            f"{case.labels}: shows none of {', '.join(profile.classes)}.", "Leave this case out of training."
        )
    body = _holding(body_box(volume.array), boxes)
    boxes = ndimage.find_objects(classes[body], max_label=len(profile.classes))
    organs = {
        plane: {index: (box[axis].start, box[axis].stop - 1) for index, box in enumerate(boxes, start=1) if box}
        for plane, axis in PLANES.items()
    }
    silent = [profile.classes.index(name) + 1 for name in unlabelled(case, labels, profile.classes)]
    card = {
        "patient": case.patient,
        "classes": profile.classes,
        "spacing_mm": volume.geometry.spacing_mm,
        "scanned": volume.array.shape,
        "organs": organs,
        "unlabelled": silent,
        "findings": [alarm.of_file(f"{case.patient}, {case.labels.name}").model_dump() for alarm in labels.findings],
    }
    home.parent.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(prefix=".preparing-", dir=home.parent))
    try:
        np.save(staged / HU, np.clip(volume.array[body], -1024, 3071).astype(np.int16))
        np.save(staged / CLASSES, classes[body])
        if profile.spect and case.spect:
            np.save(
                staged / "spect.npy", uptake_on(read_of_study(case.spect), volume.geometry)[body].astype(np.float16)
            )
        (staged / CARD).write_text(json.dumps(card), "utf-8")
        try:
            os.rename(staged, home)
        except OSError:
            if not home.is_dir():  # another process was first: its work is as good
                raise
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _holding(body: tuple[slice, ...], boxes: list) -> tuple[slice, ...]:
    """The body, widened where an organ reaches beyond it."""
    known = [body, *(box for box in boxes if box)]
    return tuple(slice(min(b[k].start for b in known), max(b[k].stop for b in known)) for k in range(3))


def opened(home: Path) -> Prepared:
    """Open a prepared case: its arrays are mapped, not read."""
    card = json.loads((home / CARD).read_text("utf-8"))
    organs = {
        plane: {int(index): tuple(ends) for index, ends in found.items()} for plane, found in card["organs"].items()
    }
    spect = home / "spect.npy"
    return Prepared(
        home,
        card["patient"],
        np.load(home / HU, mmap_mode="r"),
        np.load(home / CLASSES, mmap_mode="r"),
        tuple(card["spacing_mm"]),
        tuple(card["scanned"]),
        organs,
        tuple(card["unlabelled"]),
        np.load(spect, mmap_mode="r") if spect.is_file() else None,
        tuple(Alarm.model_validate(alarm) for alarm in card.get("findings", ())),
    )
