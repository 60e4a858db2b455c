"""Numbers that are known beside the same numbers computed, as a table between the marks of a document."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from doselabel.errors import DoselabelError


@dataclass(frozen=True)
class Known:
    """One number that is known.

    Attributes
    ----------
    what : str
    expected : float
    tolerance : float
        Largest |computed / expected - 1|.
    unit : str
    digits : int
        Significant digits shown, those the expected number is given with and one more where that says something.
    """

    what: str
    expected: float
    tolerance: float
    unit: str = ""
    digits: int = 4

    def holds(self, computed: float) -> bool:
        """Whether a computed number lies within the tolerance."""
        return abs(computed - self.expected) <= self.tolerance * abs(self.expected)


@dataclass(frozen=True)
class Case:
    """A group of known numbers and the computation that gives them all, in the same order."""

    id: str
    title: str
    source: str
    known: tuple[Known, ...]
    compute: Callable[[], tuple[float, ...]]


def table(cases: Sequence[Case], computed: Mapping[str, Sequence[float]] | None = None) -> str:
    """Cases as a Markdown table: expected, computed, difference, tolerance.

    ``computed`` holds numbers already at hand by case; the others are computed.
    """
    lines = [
        "| case | quantity | expected | computed | difference | tolerance |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for case in cases:
        lines.append(f"| **{case.id}** | **{case.title}** ({case.source}) | | | | |")
        values = (computed or {}).get(case.id) or case.compute()
        for known, value in zip(case.known, values, strict=True):
            unit = f" {known.unit}" if known.unit else ""
            cells = (
                case.id,
                known.what,
                _digits(known.expected, known.digits) + unit,
                _digits(value, known.digits) + unit,
                _percent(100 * (value / known.expected - 1)),
                f"{100 * known.tolerance:g} %" + ("" if known.holds(value) else " **FAILS**"),
            )
            lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _digits(value: float, digits: int) -> str:
    if value != 0 and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.{digits - 1}e}"
    decimals = max(0, digits - 1 - math.floor(math.log10(abs(value)))) if value else digits - 1
    return f"{value:.{decimals}f}"


def _percent(value: float) -> str:
    """A difference in percent, coarse enough to be the same on every machine."""
    return "0.0 %" if abs(value) < 0.05 else f"{value:+.1f} %"


def between(begin: str, end: str, text: str, new: str) -> str:
    """Put a table between two marks of a Markdown text."""
    head, found, rest = text.partition(begin)
    _, closed, tail = rest.partition(end)
    if not found or not closed:
        raise DoselabelError(
            "The text has no place for the table.", f"Put the lines '{begin}' and '{end}' where it belongs."
        )
    return f"{head}{begin}\n\n{new}\n\n{end}{tail}"
