"""What others stored while somebody worked on the same case, in words and numbers. Knows label maps; no Qt."""

from __future__ import annotations

from dataclasses import dataclass

from doselabel.labels import LabelMap, title
from doselabel.wire import LabelVersion

BY_TIME = 1_000_000


@dataclass(frozen=True)
class Conflict:
    """Versions of the open case that others stored, and that the labels on screen do not know of.

    ``mine`` is the version that was stored without knowing them; None while nothing was submitted.
    """

    image_id: str
    others: tuple[LabelVersion, ...]
    mine: LabelVersion | None = None


def called(version: LabelVersion, otherwise: str = "a label map") -> str:
    """A version as a person reads it; ``otherwise`` one of a server that keeps only one, numbered by the time."""
    return f"version {version.version}" if version.version < BY_TIME else otherwise


def spoken(conflict: Conflict) -> str:
    """A conflict in one sentence."""
    newest = conflict.others[0]
    who = newest.author or "Somebody"
    count = "" if len(conflict.others) == 1 else f" and {len(conflict.others) - 1} more"
    text = f"{who} stored {called(newest)}{count} of this case ({newest.created.astimezone():%H:%M})"
    if conflict.mine is None:
        return f"{text} while you work on it."
    if conflict.mine.version < newest.version:
        return f"{text} without having seen your version {conflict.mine.version}."
    return f"{text} while you worked; your version {conflict.mine.version} is newer and counts."


def differences(mine: LabelMap, theirs: LabelMap) -> list[tuple[str, float, float, float]]:
    """Organ, volume here and there in mL, and Dice, of two label maps on one grid."""
    found = []
    for name in dict.fromkeys([*mine.present(), *theirs.present()]):
        a, b = mine.mask(name), theirs.mask(name)
        total = int(a.sum()) + int(b.sum())
        found.append((title(name), mine.volume_ml(name), theirs.volume_ml(name), 2 * int((a & b).sum()) / total))
    return found
