"""When a file's time says enough: disks keep it in steps, so that two changes in one step look like one."""

from __future__ import annotations

import time
from collections.abc import Iterable

STEP_NS = 100_000_000
"""No disk's steps are longer (ext4, xfs, btrfs: that of the kernel's clock, at most 10 ms)."""


def too_new(times_ns: Iterable[int]) -> bool:
    """Whether something changed so shortly ago that a further change might show the same time."""
    return time.time_ns() - max(times_ns, default=0) < STEP_NS
