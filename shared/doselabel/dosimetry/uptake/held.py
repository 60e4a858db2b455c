"""What an edit leaves where it is: how images lie to each other is found anew only when their masks change much."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from doselabel.labels import LabelMap

T = TypeVar("T")

SMALL = 0.1
"""Parts of their volumes by which the organs of a map may change, all together. One kidney that loses nearly so much
at one end moves a sample patient's SPECTs by .5 to 1.1 mm, whose places are known to 1.0 to 1.2 mm; were each organ
allowed as much, they would move by 4 mm."""


class Held:
    """Holds what was found, as long as the organs have not changed by more than `SMALL` since.

    A full run begins with an empty one, and finds everything of the masks that it was given; a session's drafts share
    one.
    """

    def __init__(self) -> None:
        self._found: dict[str, tuple[tuple[LabelMap, ...], Any]] = {}

    def find(self, what: str, maps: Sequence[LabelMap], make: Callable[[], T]) -> T:
        """What is held of such label maps (each on its own grid) under ``what``, else what ``make`` returns."""
        kept = self._found.get(what)
        if kept is not None and all(_nearly(a, b) for a, b in zip(kept[0], maps, strict=True)):
            return kept[1]
        found = make()
        self._found[what] = tuple(maps), found
        return found


def _nearly(before: LabelMap, now: LabelMap) -> bool:
    if before.names != now.names or before.array.shape != now.array.shape:
        return False
    changed = before.array != now.array
    if not changed.any():
        return True
    length = int(max(before.array.max(), now.array.max())) + 1
    count = np.bincount(before.array[changed], minlength=length) + np.bincount(now.array[changed], minlength=length)
    whole = np.bincount(before.array.ravel(), minlength=length)
    return bool(np.all(whole[count > 0] > 0) and np.sum(count[1:] / np.maximum(whole[1:], 1)) <= SMALL)
