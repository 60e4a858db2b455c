"""How results are worded: units of keys, options, engines, software. Knows the shape of `DoseResults`, no layout."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from doselabel.io.numerals import NOTHING, significant
from doselabel.study import Study
from doselabel.wire import DoseResults

SMALL_PRINT = "Research use only. Not a medical device. Not for diagnosis or for decisions on treatment."
ENGINES = {"organ": "organ S-value", "local": "local deposition", "voxel-s": "voxel S-value convolution"}
_UNITS = {
    "mm": "mm", "h": "h", "mbq": "MBq", "gy": "Gy", "g_cm3": "g/cm³", "percent": "%", "ml": "mL", "g": "g",
    "kev": "keV", "kg": "kg", "s": "s", "seconds": "s", "mbq_h": "MBq·h", "gbq": "GBq",
}  # fmt: skip


def injected(study: Study) -> str:
    """Time of administration."""
    return study.injection_time.isoformat(" ", "minutes") if study.injection_time else "time not stated"


def hours(times: Sequence[float]) -> str:
    """Times in a row."""
    return ", ".join(f"{t:g}" for t in times) + " h"


def split_unit(key: str) -> tuple[str, str]:
    """Name and unit of a key such as ``lambda1_per_h`` or ``margin_mm``.

    >>> split_unit("lambda1_per_h"), split_unit("margin_mm"), split_unit("voi")
    (('λ1', '1/h'), ('margin', 'mm'), ('voi', ''))
    """
    words = key.split("_")
    unit = ""
    if len(words) > 2 and words[-2] == "per" and words[-1] in _UNITS:
        unit, words = f"1/{_UNITS[words[-1]]}", words[:-2]
    else:
        for n in (2, 1):
            if len(words) > n and "_".join(words[-n:]) in _UNITS:
                unit, words = _UNITS["_".join(words[-n:])], words[:-n]
                break
    return " ".join(words).replace("lambda", "λ"), unit


def spell(key: str) -> str:
    """A dotted key in words, its unit in brackets.

    >>> spell("alpha_beta_gy.left_kidney")
    'alpha beta, left kidney (Gy)'
    """
    parts = [split_unit(part) for part in key.split(".")]
    unit = next((u for _, u in reversed(parts) if u), "")
    text = ", ".join(name for name, _ in parts)
    return f"{text} ({unit})" if unit else text


def say(value: Any) -> str:
    """Any value of options or provenance as a reader wants it."""
    if value is None or value == "":
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        return significant(value, 4)
    if isinstance(value, Mapping):
        return ", ".join(f"{spell(str(k))} {say(v)}" for k, v in value.items()) or NOTHING
    if isinstance(value, list | tuple):
        return ", ".join(say(v) for v in value) or "none"
    return str(value)


def software_of(results: DoseResults) -> str:
    """Software and its version, as the provenance states it."""
    stated = results.provenance.get("software") or results.provenance.get("version")
    return say(stated) if stated else "not stated"


def reader(text: str) -> str:
    """A warning with the names of parameters as a reader knows them.

    >>> reader("the points do not determine lambda2_per_h")
    'the points do not determine λ2'
    """
    return re.sub(r"\bamplitude(\d?)_mbq\b", r"amplitude\1", re.sub(r"\blambda(\d)_per_h\b", r"λ\1", text))
