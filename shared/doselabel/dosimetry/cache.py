"""Keeps results of slow steps on disk under the hash of everything that made them. Knows bytes, not what they mean.

After a label edit, what did not depend on the edited map is found again: registrations, measurements of the other
time points. Kernels have their own cache (`kernels`). A cache never decides a result: a file that is missing,
damaged or unwritable only costs time.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

Entry = tuple[dict[str, Any], dict[str, np.ndarray]]
"""Plain JSON content, and arrays."""


@dataclass(frozen=True)
class Cache:
    """A folder of results; without one nothing is kept.

    Attributes
    ----------
    folder : Path or None
    reused : list of str
        What was found instead of computed, in order.
    """

    folder: Path | None = None
    reused: list[str] = field(default_factory=list)

    def fetch(self, what: str, key: str, make: Callable[[], Entry]) -> Entry:
        """The entry under ``key`` (from `digest`), else what ``make`` returns, which is then kept."""
        if self.folder is None:
            return make()
        path = self.folder / f"{key[:40]}.npz"
        found = _read(path)
        if found is not None:
            self.reused.append(what)
            return found
        entry = make()
        _write(path, entry)
        return entry


def digest(*parts: Any) -> str:
    """SHA-256 of arrays, numbers, texts, None and (nested) mappings and sequences of them."""
    state = hashlib.sha256()

    def feed(part: Any) -> None:
        if isinstance(part, np.ndarray):
            state.update(f"array{part.dtype.str}{part.shape}".encode())
            state.update(np.ascontiguousarray(part).data)
        elif isinstance(part, Mapping):
            state.update(f"map{len(part)}".encode())
            for name in sorted(part):
                feed(name)
                feed(part[name])
        elif isinstance(part, list | tuple):
            state.update(f"list{len(part)}".encode())
            for item in part:
                feed(item)
        else:
            text = repr(part).encode()
            state.update(f"{type(part).__name__}{len(text)}".encode() + text)

    feed(list(parts))
    return state.hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(path: Path) -> Entry | None:
    try:
        with np.load(path, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files if name != "__json__"}
            return json.loads(str(stored["__json__"])), arrays
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _write(path: Path, entry: Entry) -> None:
    content, arrays = entry
    buffer = io.BytesIO()
    np.savez(buffer, __json__=np.array(json.dumps(content)), **arrays)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
        with os.fdopen(handle, "wb") as file:
            file.write(buffer.getbuffer())
        os.replace(name, path)
    except OSError:
        return
