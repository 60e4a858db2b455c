"""What was done already, by the content of everything that made it. Knows files and hashes, not what a step does.

A step of a patient leaves ``<step>.json`` in the patient's folder when it is finished, and only then: which files it
read, by size, time and SHA-256, under which options, and what it found. While they are the same, it is not done again.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from doselabel import __version__, disk
from doselabel.dosimetry.cache import digest
from doselabel.files import file_sha256, too_new

SCHEMA = "doselabel.cohort/1"


@dataclass(frozen=True)
class Done:
    """A finished step.

    Attributes
    ----------
    result : dict
        What it says of itself.
    reused : bool
        It was finished before.
    """

    result: dict[str, Any]
    reused: bool


def once(
    record: Path, inputs: Sequence[Path], options: Mapping[str, Any], made: Sequence[Path], make: Callable[[], Any]
) -> Done:
    """Do a step unless it is done.

    Parameters
    ----------
    record : Path
        Its file, ``<step>.json``.
    inputs : sequence of Path
        Every file that the step reads.
    options : mapping
        Everything else that it depends on; the version of doselabel is added.
    made : sequence of Path
        What it leaves on the disk: if some of it is gone, it is done again.
    make : callable
        Does it, and returns what is to be kept of it, as plain JSON content.

    Returns
    -------
    Done
    """
    old = _read(record)
    stamps = {str(path): _stamp(path, old.get("inputs", {}).get(str(path))) for path in inputs}
    key = digest(__version__, options, [[path.name, stamps[str(path)][2]] for path in inputs])
    if old.get("key") == key and all(path.exists() for path in made):
        return Done(old["result"], True)
    record.unlink(missing_ok=True)
    began, wall, cpu = datetime.now(UTC), time.monotonic(), time.process_time()
    result = make()
    content = {
        "schema": SCHEMA,
        "key": key,
        "version": __version__,
        "began": began.isoformat(timespec="milliseconds"),
        "seconds": round(time.monotonic() - wall, 3),
        "cpu_seconds": round(time.process_time() - cpu, 3),
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "inputs": stamps,
        "result": result,
    }
    disk.make_folder(record.parent)
    disk.write(record, json.dumps(content, indent=1))
    return Done(result, False)


def _stamp(path: Path, known: list[Any] | None) -> list[Any]:
    """Size, time and SHA-256; a file of the size and time known is not read again."""
    stat = path.stat()
    if known and known[:2] == [stat.st_size, stat.st_mtime_ns] and not too_new([stat.st_mtime_ns]):
        return known
    return [stat.st_size, stat.st_mtime_ns, file_sha256(path)]


def _read(record: Path) -> dict[str, Any]:
    try:
        content = json.loads(record.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) and content.get("schema") == SCHEMA else {}
