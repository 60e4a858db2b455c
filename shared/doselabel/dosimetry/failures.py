"""One organ's failure stays its own: gathers what went wrong by organ and goes on with the others. Computes nothing.

Organs share a calculation: one transfer matrix, one rest of the body, one dose map. So an organ that fails is not
skipped half-way, where its traces would change the others' last digits: the calculation is made again without it, as
if nobody had asked for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TypeVar

from doselabel.errors import DoselabelError
from doselabel.labels import title

T = TypeVar("T")


class OrganFailures(Exception):
    """Some organs can't be computed; ``reasons`` says why, by organ."""

    def __init__(self, reasons: Mapping[str, DoselabelError]) -> None:
        super().__init__(", ".join(reasons))
        self.reasons = dict(reasons)


class Failures:
    """Reasons by organ; an organ's first one counts."""

    def __init__(self) -> None:
        self.reasons: dict[str, DoselabelError] = {}

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Keep what fails inside as that organ's reason."""
        try:
            yield
        except DoselabelError as error:
            self.add({name: error})

    def add(self, reasons: Mapping[str, DoselabelError]) -> None:
        """Keep reasons found elsewhere."""
        self.reasons = {**reasons, **self.reasons}

    def settle(self) -> None:
        """Raise OrganFailures if there are any."""
        if self.reasons:
            raise OrganFailures(self.reasons)


def with_the_rest(
    asked: Sequence[str], failed: Mapping[str, DoselabelError], compute: Callable[[tuple[str, ...]], T]
) -> tuple[T, dict[str, DoselabelError]]:
    """Compute as many of the organs as can be computed.

    Parameters
    ----------
    asked : sequence of str
    failed : dict
        Organs that are known not to work, with the reason.
    compute : callable
        Takes organs; raises OrganFailures for those that fail.

    Returns
    -------
    T
        What ``compute`` returned for the organs that work.
    dict
        The others, with the reason.

    Raises
    ------
    DoselabelError
        When no organ is left: the first organ's reason.
    """
    reasons = dict(failed)
    while organs := tuple(name for name in asked if name not in reasons):
        try:
            return compute(organs), reasons
        except OrganFailures as found:
            reasons |= found.reasons
    (_, error), *others = reasons.items()
    more = f" (Nor could {', '.join(title(n) for n, _ in others)} be computed.)" if others else ""
    raise type(error)(error.message + more, error.hint) from error
