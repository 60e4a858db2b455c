"""Reading what a request says: kinds of values, file kinds, and answers that JSON can hold. Knows no task."""

from __future__ import annotations

import math
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from doselabel.errors import Progress, Watch, no_progress
from doselabel.geometry import SUFFIXES
from monailabel_app.refusals import Refused

Word = TypeVar("Word", bound=str)


def progress_of(request: Mapping[str, Any]) -> Progress:
    """Whom to tell how far the work is: the job, or nobody."""
    return request.get("progress") or no_progress


def watch_of(request: Mapping[str, Any]) -> Watch | None:
    """Whom to tell figures on the way: whoever is told the progress, if it takes them."""
    return getattr(request.get("progress"), "watch", None)


def staged(progress: Progress, weights: Mapping[str, float]) -> Progress:
    """Progress of work whose stages each run from 0 to 1, told as one fraction that never runs backwards.

    ``weights`` gives the stages in their order with the share of the time each takes.
    """
    total = sum(weights.values())
    starts = {name: sum(list(weights.values())[:i]) / total for i, name in enumerate(weights)}
    reached = 0.0

    def tell(stage: str, fraction: float) -> None:
        nonlocal reached
        if stage in weights:
            reached = max(reached, starts[stage] + weights[stage] / total * fraction)
        progress(stage, reached)

    return tell


def number(request: Mapping[str, Any], key: str, default: float | None, low: float, high: float) -> float | None:
    """A number of the request, or its default.

    Raises
    ------
    Refused
        When it is no number between ``low`` and ``high``.
    """
    value = request.get(key)
    if value is None or value == "":
        return default
    try:
        result = float(value)
    except (TypeError, ValueError):
        result = math.nan
    if isinstance(value, bool) or not low <= result <= high:
        raise Refused(f"'{key}' is {value!r}; expected a number from {low:g} to {high:g}.", "Correct it.")
    return result


def choice(request: Mapping[str, Any], key: str, default: Word, allowed: tuple[Word, ...]) -> Word:
    """One of several words (a client that shows a menu may send the whole menu: its first entry counts)."""
    value = request.get(key, default)
    if isinstance(value, list | tuple):
        value = value[0] if value else default
    if value not in allowed:
        raise Refused(f"'{key}' is {value!r}; expected {' or '.join(filter(None, allowed))}.", "Correct it.")
    return value


def yes(request: Mapping[str, Any], key: str) -> bool:
    """Whether a switch is on."""
    return str(request.get(key, "")).lower() in ("true", "1", "yes")


def label_suffix(request: Mapping[str, Any]) -> str:
    """The kind of file wanted for a label map: 3D Slicer asks for ``.nrrd``."""
    suffix = str(request.get("result_extension") or ".nii.gz")
    suffix = suffix if suffix.startswith(".") else f".{suffix}"
    if suffix not in SUFFIXES or suffix == ".mhd":
        raise Refused(
            f"'result_extension' is '{suffix[:20]}'; expected one of {', '.join(s for s in SUFFIXES if s != '.mhd')}.",
            "Correct it.",
        )
    return suffix


def fresh_file(request: Mapping[str, Any], name: str, suffix: str) -> Path:
    """A new file for a result: in the job's folder, or a temporary one that MONAI Label deletes after its reply."""
    if folder := request.get("out"):
        return Path(folder) / f"{name}{suffix}"
    handle, path = tempfile.mkstemp(prefix=f"doselabel-{name}-", suffix=suffix)
    os.close(handle)
    return Path(path)


def plain(value: Any) -> Any:
    """Make a value fit for strict JSON: what is not finite becomes null."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
