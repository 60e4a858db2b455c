"""What a person should see before labels are handed in: each organ's change, and what looks wrong. Knows arrays only.

What is odd about sides, volumes and tissue is found by `doselabel.label_findings`, as wherever a map is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from doselabel.anatomy import regions
from doselabel.geometry import Volume
from doselabel.label_findings import findings
from doselabel.labels import NAMES, SEGMENTED, title

CRUMB_ML = 0.05
"""Parts smaller than this are no reason to warn while they are few."""

MANY_PARTS = 4


@dataclass(frozen=True)
class OrganReview:
    """One organ's labels against those they started from; None where that is not known.

    ``dice`` is 1 when both are empty.
    """

    value: int
    name: str
    volume_ml: float
    change_ml: float | None
    dice: float | None


@dataclass(frozen=True)
class Review:
    """All organs of either label map, and warnings as sentences."""

    organs: tuple[OrganReview, ...]
    warnings: tuple[str, ...]


def review(
    labels: np.ndarray,
    start: np.ndarray | None,
    ct: Volume,
    absent: Sequence[str] = (),
    names: Mapping[int, str] = NAMES,
) -> Review:
    """Compare labels with their start, and look for what is probably wrong.

    Parameters
    ----------
    labels, start : (z, y, x) uint8 arrays
        On the CT's grid; ``start`` is None when it is not known.
    ct : Volume
        Canonical, HU.
    absent : sequence of str
        Organs the patient is said not to have.
    """
    now, before = _boxes(labels), {} if start is None else _boxes(start)
    organs = []
    for value in sorted({*now, *before}):
        box = _union(now.get(value), before.get(value))
        mask = labels[box] == value
        volume_ml = _ml(np.count_nonzero(mask), ct)
        change_ml = dice = None
        if start is not None:
            old = start[box] == value
            both, total = np.count_nonzero(mask & old), np.count_nonzero(mask) + np.count_nonzero(old)
            change_ml = volume_ml - _ml(np.count_nonzero(old), ct)
            dice = 2 * both / total if total else 1.0
        organs.append(OrganReview(value, names.get(value, f"label {value}"), volume_ml, change_ml, dice))
    warnings = _missing(organs, absent)
    for value, box in now.items():
        name = names.get(value)
        if name is None:
            warnings.append(
                f"Label {value} is outside the label table: {_ml((labels[box] == value).sum(), ct):.1f} mL."
            )
            continue
        warnings += _parts(name, labels[box] == value, ct)
    warnings += [alarm.sentence for alarm in findings(regions(labels, names, ct.geometry), ct)]
    return Review(tuple(organs), tuple(dict.fromkeys(warnings)))


def _missing(organs: Sequence[OrganReview], absent: Sequence[str]) -> list[str]:
    drawn = {organ.name for organ in organs if organ.volume_ml > 0}
    gone = {organ.name for organ in organs if organ.volume_ml == 0}
    found = [f"{title(n)} is not drawn." for n in SEGMENTED if n not in drawn | gone and n not in absent]
    found += [f"{title(n)} was removed." for n in sorted(gone)]
    return found + [f"{title(n)} is drawn, but the patient is said to have none." for n in absent if n in drawn]


def _parts(name: str, mask: np.ndarray, ct: Volume) -> list[str]:
    parts, number = ndimage.label(mask)
    sizes_ml = np.sort([_ml(n, ct) for n in np.bincount(parts.ravel())[1:]])[:-1]
    if number > 1 and (sizes_ml[-1] >= CRUMB_ML or number > MANY_PARTS):
        return [f"{title(name)} is in {number} parts; beside the largest: {sizes_ml.sum():.1f} mL."]
    return []


def _boxes(labels: np.ndarray) -> dict[int, tuple[slice, ...]]:
    return {i + 1: box for i, box in enumerate(ndimage.find_objects(labels)) if box is not None}


def _union(a: tuple[slice, ...] | None, b: tuple[slice, ...] | None) -> tuple[slice, ...]:
    if a is None or b is None:
        found = a if b is None else b
        assert found is not None
        return found
    return tuple(slice(min(p.start, q.start), max(p.stop, q.stop)) for p, q in zip(a, b, strict=True))


def _ml(voxels: int, ct: Volume) -> float:
    return float(voxels) * ct.geometry.voxel_volume_ml
