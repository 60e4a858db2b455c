"""Keeps results of slow steps under the hash of everything that made them. Knows bytes, not what they mean.

After a label edit, what did not depend on the edited map is found again: registrations, measurements of the other
time points. `Cache` keeps little and on disk, `Memory` keeps much more while it lives. Kernels have their own cache
(`kernels`). A cache never decides a result: a file that is missing, damaged or unwritable only costs time.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
import threading
import weakref
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

Entry = tuple[dict[str, Any], dict[str, np.ndarray]]
"""Plain JSON content, and arrays."""

T = TypeVar("T")


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
        found = self.kept(key)
        if found is not None:
            self.reused.append(what)
            return found
        entry = make()
        _write(self._file(self.folder, key), entry)
        return entry

    def kept(self, key: str) -> Entry | None:
        """The entry that the folder has under ``key``."""
        return None if self.folder is None else _read(self._file(self.folder, key))

    @staticmethod
    def _file(folder: Path, key: str) -> Path:
        return folder / f"{key[:40]}.npz"

    def hold(self, key: str, make: Callable[[], T]) -> T:
        """What ``make`` returns; a `Memory` makes it once. For steps too quick to be written to disk."""
        return make()


@dataclass(frozen=True)
class Memory(Cache):
    """Results kept in memory, the least recently used given up first. Several threads may use it.

    What is handed out is shared: nobody may write into it. What a `Cache` left in ``folder`` is found there, and
    nothing is written to it.

    Attributes
    ----------
    limit_bytes : int
        Arrays held take no more than this.
    """

    limit_bytes: int = 2**30
    _held: OrderedDict[str, tuple[Any, int]] = field(default_factory=OrderedDict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def fetch(self, what: str, key: str, make: Callable[[], Entry]) -> Entry:
        """The entry under ``key``, else what ``make`` returns, which is then kept."""
        made = False

        def first() -> Entry:
            nonlocal made
            found = self.kept(key)
            made = found is None
            return make() if found is None else found

        entry = self.hold(key, first)
        if not made:
            self.reused.append(what)
        return entry

    def hold(self, key: str, make: Callable[[], T]) -> T:
        """What is under ``key``, else what ``make`` returns, which is then kept."""
        with self._lock:
            if key in self._held:
                self._held.move_to_end(key)
                return self._held[key][0]
        value = make()
        with self._lock:
            self._held[key] = value, _nbytes(value)
            while self.nbytes > self.limit_bytes and self._held:
                self._held.popitem(last=False)
        return value

    @property
    def nbytes(self) -> int:
        """Memory that the arrays held take, in bytes."""
        return sum(size for _, size in self._held.values())


def _nbytes(value: Any) -> int:
    """Bytes of the arrays in a (nested) value."""
    if isinstance(value, np.ndarray):
        return value.nbytes
    if isinstance(value, Mapping):
        return sum(map(_nbytes, value.values()))
    if isinstance(value, list | tuple):
        return sum(map(_nbytes, value))
    return _nbytes(vars(value)) if is_dataclass(value) else 0


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


_FINGERPRINTS: dict[int, tuple[weakref.ref[np.ndarray], str]] = {}


def fingerprint(array: np.ndarray) -> str:
    """Digest of an array that nobody writes into any more; computed once for each."""
    known = _FINGERPRINTS.get(id(array))
    if known is None or known[0]() is not array:
        number = id(array)
        known = weakref.ref(array, lambda _: _FINGERPRINTS.pop(number, None)), digest(array)
        _FINGERPRINTS[number] = known
    return known[1]


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
