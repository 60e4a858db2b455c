"""Label maps as a stock MONAI Label server has them: by its app's numbers, without names. Knows files; no requests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from doselabel.errors import LabelError
from doselabel.labels import LabelMap, known_name, read_labels, region, write_labels


def numbering_of(about: Mapping[str, Any], model: str = "") -> dict[int, str]:
    """Value → name in the label maps of a model, or of the app: all its models' together.

    Parameters
    ----------
    about : mapping
        What the server says of itself (``GET /info/``).
    """
    models = about.get("models") or {}
    stated = [models[model].get("labels")] if model in models else [about.get("labels")]
    stated += [one.get("labels") for one in models.values() if model not in models and isinstance(one, dict)]
    found: dict[int, str] = {}
    for labels in sorted(stated, key=lambda one: not isinstance(one, dict)):  # numbers count before an order
        pairs = labels.items() if isinstance(labels, dict) else _in_order(labels or ())
        for name, value in pairs:
            number = value[0] if isinstance(value, list) and value else value
            if isinstance(number, int) and 0 < number < 256 and number not in found and name not in found.values():
                found[number] = str(name)
    return dict(sorted(found.items()))


def named(raw: Path, path: Path, numbering: Mapping[int, str]) -> Path:
    """Write a label map that came without names with those that the app states; other values are called label_N."""
    try:
        names = {value: _plain(name, value) for value, name in numbering.items()}
        every = {value: names.get(value, f"label_{value}") for value in range(1, 256)}
        labels = read_labels(raw, names=every)
    finally:
        raw.unlink(missing_ok=True)
        raw.with_name(f".{raw.name}.etag").unlink(missing_ok=True)
    present = set(labels.present())
    kept = {value: name for value, name in labels.names.items() if name in present}
    return write_labels(path, LabelMap(labels.array, labels.geometry, kept))


def numbered(labels: LabelMap, numbering: Mapping[int, str]) -> tuple[LabelMap, dict[str, int]]:
    """The map in the app's numbers; what the app does not know gets numbers behind them, and is told by name."""
    numbers = {_plain(name, value): value for value, name in numbering.items()}
    lut = np.zeros(256, np.uint8)
    told: dict[str, int] = {}
    for value, name in sorted(labels.names.items()):
        if name not in labels.present():
            continue
        if name.startswith("label_") and name[6:].isdigit():
            numbers.setdefault(name, int(name[6:]))
        number = numbers.setdefault(name, max([0, *numbers.values()]) + 1)
        if number > 255:
            raise LabelError(f"The server's labels leave no number for '{name}'.")
        lut[value], told[name] = number, number
    return LabelMap(lut[labels.array], labels.geometry, {number: name for name, number in told.items()}), told


def _in_order(labels: Sequence[Any]) -> list[tuple[str, int]]:
    named = [str(name) for name in labels if str(name).lower() != "background"]
    return [(name, number) for number, name in enumerate(named, 1)]


def _plain(name: str, value: int) -> str:
    """A name as our tables have it; one that can't be a name is called by its value."""
    try:
        return region(known_name(name)).name
    except LabelError:
        return f"label_{value}"
