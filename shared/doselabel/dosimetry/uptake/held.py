"""What an edit leaves where it is: how images lie to each other is found anew only when their masks change much."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np

from doselabel.labels import LabelMap

T = TypeVar("T")

SMALL = 0.1
"""An edit that changes less than this part of every organ moves no image by more than its place is known: the edge
of half a kidney drawn 2 mm farther out moves that kidney's centre by 0.5 mm."""


class Held:
    """Holds nothing: what a full run finds, it finds of the masks that it was given."""

    def find(self, what: str, maps: Sequence[LabelMap], make: Callable[[], T]) -> T:
        """What ``make`` finds of the label maps, on their own grids; ``what`` names it."""
        return make()


class HeldThroughEdits(Held):
    """Holds what was found, as long as no organ has changed by `SMALL` of its volume since; for a session's drafts."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[tuple[LabelMap, ...], Any]] = {}

    def find(self, what: str, maps: Sequence[LabelMap], make: Callable[[], T]) -> T:
        """What was found, or of a larger change ``make``."""
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
    return bool((count <= SMALL * np.bincount(before.array.ravel(), minlength=length))[1:].all())
