"""What an uploaded label map has to be before it is kept; looked at in a process of its own, with bounded memory.

A damaged or hostile file can take down, fill up or hold up whoever reads it: that is a child here, never the server.
`check` reads a file; a `Checker` has children that do, and speaks with them in JSON lines. It knows studies and label
maps; it knows no HTTP and keeps nothing.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from doselabel.alarms import Alarm, finding
from doselabel.errors import DoselabelError, LabelError, OffGridError
from doselabel.geometry import read_image
from doselabel.labels import LabelMap, read_labels, region, write_labels
from doselabel.study import Study
from monailabel_app.process import limit_memory
from monailabel_app.refusals import Refused, explain, upload_words

MAX_VOXEL_BYTES = 64
"""What is uploaded for a CT has at most this many bytes for every voxel of it: eight volumes of the longest numbers."""
MEMORY_BYTES = 6 << 30
"""Address space of a child."""
PATIENCE_S = 300.0
"""After this a child is ended: no label map takes so long, also on a machine with much else to do."""
CHILDREN = 2


@dataclass(frozen=True)
class Upload:
    """An uploaded file, and what it is said to be.

    Attributes
    ----------
    file : str
    study, ct, image_id : str
        The study's folder, and the CT that it was drawn on.
    names : dict, optional
        Value → organ, when the file does not carry its own.
    scheme : str
        Numbering, see `doselabel.labels.SCHEMES`.
    out : str
        Where the label map is written, under our own numbers; "": nowhere, and an image of any kind is good.
    prediction : str
        What it is compared with, if anything.
    """

    file: str
    study: str
    ct: str
    image_id: str
    names: Mapping[int, str] | None = None
    scheme: str = ""
    out: str = ""
    prediction: str = ""


@dataclass(frozen=True)
class Checked:
    """What an upload turned out to be: volumes of its organs, in ml, what is odd, and 1 − Dice to the prediction."""

    organs_ml: dict[str, float]
    alarms: list[Alarm]
    changed: dict[str, float] = field(default_factory=dict)


Check = Callable[[Upload], Checked]


def check(upload: Upload) -> Checked:
    """Read an upload here and now.

    Raises
    ------
    LabelError, GeometryError
        When it is damaged, no label map, or not on the CT's grid.
    """
    file, study = Path(upload.file), Study.load(Path(upload.study))
    try:
        if not upload.out:
            return _tagged(file, study, upload)
        names, nameless = _names(upload.names or {})
        labels = _read(file, study, upload.ct, names=names or None, scheme=upload.scheme or None)
        if wrong := [error for name, error in nameless.items() if name in labels.present()]:
            raise wrong[0]
        labels = labels.renumbered()
    except DoselabelError as error:
        raise of_upload(error, file, upload.image_id) from error
    write_labels(Path(upload.out), labels)
    volumes = {name: round(labels.volume_ml(name), 3) for name in labels.present()}
    return Checked(volumes, list(labels.findings), _changed(labels, upload.prediction))


def _changed(labels: LabelMap, prediction: str) -> dict[str, float]:
    """1 − Dice of each organ that either shows; nothing where the prediction can't be compared."""
    if not prediction:
        return {}
    try:
        before = read_labels(Path(prediction), expect=labels.geometry)
    except (DoselabelError, OSError):  # it is only compared with: what is wrong with it is no fault of the upload
        return {}
    names = {**labels.names, **before.names}.values()
    shown = set(labels.present()) | set(before.present())
    return {name: _lost(_mask(before, name), _mask(labels, name)) for name in dict.fromkeys(names) if name in shown}


def _mask(labels: LabelMap, name: str) -> np.ndarray:
    return np.isin(labels.array, [value for value, own in labels.names.items() if own == name])


def _lost(before: np.ndarray, after: np.ndarray) -> float:
    return round(1 - 2 * float((before & after).sum()) / max(1, int(before.sum()) + int(after.sum())), 4)


def _names(given: Mapping[int, str]) -> tuple[dict[int, str], dict[str, LabelError]]:
    """Value → organ, and what is wrong with names that are none: a viewer also sends those of empty segments."""
    names, nameless = {}, {}
    for value, name in given.items():
        try:
            names[int(value)] = region(name).name
        except LabelError as error:
            names[int(value)] = f"nameless_{value}"
            nameless[names[int(value)]] = error
    return names, nameless


def _tagged(file: Path, study: Study, upload: Upload) -> Checked:
    """What is kept under a tag may be any image that is whole; if it is a label map, what is odd about it is said."""
    try:
        return Checked({}, list(_read(file, study, upload.ct).findings))
    except (LabelError, OffGridError) as error:  # a dose map, a probability: an image all the same
        why = of_upload(error, file, upload.image_id).message.splitlines()[0]
    read_image(file, max_bytes=_most_bytes(study, upload.ct))
    return Checked({}, [finding("label-unread", f"It is kept as an image, and not as a label map. {why}")])


def _read(file: Path, study: Study, ct: str, **how: Any) -> LabelMap:
    return read_labels(
        file,
        expect=study.grid(ct),
        stated=study.stated_place(ct),
        max_bytes=_most_bytes(study, ct),
        ct=partial(study.read, ct),
        **how,
    )


def _most_bytes(study: Study, ct: str) -> int:
    return MAX_VOXEL_BYTES * math.prod(study.grid(ct).shape)


def of_upload(error: DoselabelError, file: Path, image_id: str) -> DoselabelError:
    """What is wrong with an uploaded label map, without the name it has on this machine."""
    message = upload_words(error.message, file, "The label map").replace("grid of its CT", f"grid of {image_id}")
    return (LabelError if isinstance(error, OffGridError) else type(error))(message, error.hint)


class Checker:
    """Looks at uploads in child processes, which stay alive: starting one takes longer than most label maps do.

    Parameters
    ----------
    children : int
        At most so many at a time; further uploads wait.
    memory_bytes, patience_s
        What one upload may take.
    """

    def __init__(
        self, children: int = CHILDREN, memory_bytes: int = MEMORY_BYTES, patience_s: float = PATIENCE_S
    ) -> None:
        self._memory_bytes = memory_bytes
        self._patience_s = patience_s
        self._free = threading.BoundedSemaphore(children)
        self._lock = threading.Lock()
        self._idle: list[subprocess.Popen[str]] = []

    def __call__(self, upload: Upload) -> Checked:
        """Do what `check` does, in a child.

        Raises
        ------
        DoselabelError
            What `check` raises; also when the child runs out of memory or time, or dies.
        """
        with self._free:
            child = self._child()
            late = threading.Event()

            def give_up() -> None:
                late.set()
                child.kill()

            timer = threading.Timer(self._patience_s, give_up)
            timer.start()
            try:
                line = self._ask(child, upload)
            finally:
                timer.cancel()
            if not line:
                child.kill()
                child.wait()
                raise Refused(
                    f"Reading the file took longer than {self._patience_s:.0f} s."
                    if late.is_set()
                    else "The process that read the file ended: it is damaged, or of a kind that can't be.",
                    "Write the label map anew, as NIfTI.",
                )
            with self._lock:
                self._idle.append(child)
        answer = json.loads(line)
        if error := answer.get("error"):
            if error["code"] in _FAMILY:
                raise _FAMILY[error["code"]](error["message"], error["hint"])
            raise Refused(error["message"], error["hint"], status=error["status"], code=error["code"])
        alarms = [Alarm.model_validate(row) for row in answer["alarms"]]
        return Checked(answer["organs_ml"], alarms, answer["changed"])

    def close(self) -> None:
        """End all children."""
        with self._lock:
            for child in self._idle:
                child.kill()
                child.wait()
            self._idle.clear()

    @staticmethod
    def _ask(child: subprocess.Popen[str], upload: Upload) -> str:
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write(json.dumps(asdict(upload)) + "\n")
            child.stdin.flush()
            return child.stdout.readline()
        except (OSError, ValueError):
            return ""

    def _child(self) -> subprocess.Popen[str]:
        with self._lock:
            while self._idle:
                child = self._idle.pop()
                if child.poll() is None:
                    return child
        return subprocess.Popen(
            [sys.executable, "-m", "monailabel_app.checking", str(self._memory_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            env=os.environ | {"OMP_NUM_THREADS": "1", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS": "1"},
        )


_FAMILY: dict[str, type[DoselabelError]] = {kind.code: kind for kind in DoselabelError.__subclasses__()}


def main() -> None:
    """Look at uploads until stdin ends, which it does with the server."""
    limit_memory(int(sys.argv[1]))
    limit_memory(int(sys.argv[1]), addresses=True)
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not end up between our lines
    for line in sys.stdin:
        given = json.loads(line)
        if given["names"]:
            given["names"] = {int(value): name for value, name in given["names"].items()}
        try:
            found = check(Upload(**given))
            alarms = [alarm.model_dump(mode="json") for alarm in found.alarms]
            answer = {"organs_ml": found.organs_ml, "alarms": alarms, "changed": found.changed}
        except Exception as error:
            answer = {"error": _told(error)}
        out.write(json.dumps(answer) + "\n")
        out.flush()


def _told(error: Exception) -> dict[str, Any]:
    if isinstance(error, MemoryError) or "bad_alloc" in str(error):
        return {
            "code": "too_long",
            "status": 413,
            "message": "Reading the file takes more memory than an upload may.",
            "hint": "Store the label map as 8-bit whole numbers on its CT's grid.",
        }
    status, info = explain(error)
    if info.code == "internal":
        traceback.print_exc()
    return {**info.model_dump(), "status": status}


if __name__ == "__main__":
    main()
