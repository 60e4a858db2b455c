"""Writing files so that a power cut leaves the old one or the new one, never half of one. Knows nothing of content."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

UNFINISHED = ".writing-"
"""What was interrupted begins with this, and may be removed."""


def write(path: Path, text: str, *, mode: int = 0o644, durable: bool = True) -> None:
    """Replace a text file; what is not ``durable`` may be lost by a power cut, though not by a kill."""

    def fill(temporary: Path) -> None:
        temporary.write_text(text, "utf-8")

    _replace(path, fill, mode, durable)


def copy(source: Path, target: Path) -> None:
    """Replace a file by a copy of another one."""
    _replace(target, lambda temporary: shutil.copyfile(source, temporary), 0o644, True)


def append(path: Path, line: str) -> None:
    """Add a line to a text file; a line that a crash cut off before is ended first."""
    with path.open("ab") as file:
        whole = file.tell() == 0 or _last_byte(path) == b"\n"
        file.write((b"" if whole else b"\n") + line.encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _last_byte(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read()


def make_folder(path: Path) -> None:
    """Make a folder and those above it, so that they are there after a power cut too."""
    if path.is_dir():
        return
    make_folder(path.parent)
    path.mkdir(exist_ok=True)
    sync(path.parent)


def sweep(folder: Path) -> None:
    """Remove what a writer that was killed has left in a folder; nobody may be writing into it."""
    for path in folder.glob(f"{UNFINISHED}*"):
        path.unlink(missing_ok=True)


def own_temporary_folder(folder: Path) -> None:
    """Let all that is temporary be in a folder from now on, and remove what a server that was killed has left there."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    os.environ["TMPDIR"] = str(folder)
    tempfile.tempdir = str(folder)


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, on the disk itself."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _replace(path: Path, fill: Callable[[Path], object], mode: int, durable: bool) -> None:
    handle, name = tempfile.mkstemp(prefix=f"{UNFINISHED}{path.name}-", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        fill(temporary)
        temporary.chmod(mode)
        if durable:
            sync(temporary)
        os.replace(temporary, path)
        if durable:
            sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)
