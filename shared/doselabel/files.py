"""What tells that a file is the same as before: its hash, and its time, where that says enough. Knows no content."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

STEP_NS = 100_000_000
"""Disks keep times in steps, and two changes in one look like one. None is longer (ext4, xfs, btrfs: that of the
kernel's clock, at most 10 ms)."""


def too_new(times_ns: Iterable[int]) -> bool:
    """Whether something changed so shortly ago that a further change might show the same time."""
    return time.time_ns() - max(times_ns, default=0) < STEP_NS


def file_sha256(file: str | Path) -> str:
    """SHA-256 of a file, in hex; it is read again only when its time, size or place have changed."""
    stat = Path(file).stat()
    if too_new([stat.st_mtime_ns]):
        return _sha256(file)
    return _known(file, stat.st_mtime_ns, stat.st_size, stat.st_ino)


@lru_cache(maxsize=65_536)
def _known(file: str | Path, *_stat: int) -> str:
    return _sha256(file)


def _sha256(file: str | Path) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
