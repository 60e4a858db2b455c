"""Organs: their numbers, names, colours and densities. Knows no files.

One table, `ORGANS`. Regions outside it, such as the lesions ``tumour_1`` and ``tumour_2``, are known by the name that
their map gives them (`region`).
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass

from doselabel.errors import LabelError


@dataclass(frozen=True)
class Organ:
    """One row of the label table.

    Attributes
    ----------
    index : int
        Value in a label map; 0 for a region outside the table, whose value is its map's own.
    name : str
        What files, results and the wire call it.
    title : str
        What a person reads.
    color : str
        ``#rrggbb``.
    density_g_cm3 : float
        Mass density. ICRP 110 (2009) tables, except the kidney: Nazari et al. 2021 use 1.06.
    """

    index: int
    name: str
    title: str
    color: str
    density_g_cm3: float


ORGANS: tuple[Organ, ...] = (
    Organ(1, "left_kidney", "Left kidney", "#e6a03c", 1.06),
    Organ(2, "right_kidney", "Right kidney", "#46b4dc", 1.06),
    Organ(3, "liver", "Liver", "#a8503c", 1.05),
    Organ(4, "spleen", "Spleen", "#8c64be", 1.04),
    Organ(5, "tumour", "Tumour", "#6ebe50", 1.04),
)
NAMES: dict[int, str] = {organ.index: organ.name for organ in ORGANS}
ALL_ORGANS = "*"
"""Stands for every organ where a study names organs, as in `study_fields.TimePoint.exclude`."""
SEGMENTED = ("left_kidney", "right_kidney", "liver")
"""The organs the network looks for."""

REGION_DENSITY_G_CM3 = 1.04
"""Taken for a region outside the table unless another is stated: soft tissue of MIRD Pamphlet 17."""
_REGION_NAME = re.compile(r"[^\W\d_]\w{0,39}")
_EXCLUDED_NAME = re.compile(r"(?:excluded|(?:(?:left|right)_)?renal_pelvis)(?:_tp([1-9]\d?))?")
_LESION_NAME = re.compile(r"(?:tumour|cyst|lesion|metastas[ei]s)(?:_\w+)?")
_REGION_COLORS = ("#d2d25a", "#e6788c", "#5ad2b4", "#c8a0e6", "#e6b48c", "#78a0f0", "#b4dc78", "#f08cd2")

_KIDNEY_NAMES = {
    frozenset((kidney, side)): f"{ours}_kidney"
    for kidney in ("kidney", "kid")
    for ours, sides in (("left", ("left", "l", "lt")), ("right", ("right", "r", "rt")))
    for side in sides
}
"""How tools and AAPM TG-263 (``Kidney_L``) name them, in any order of the two words."""
_ALIASES = {"lkidney": "left_kidney", "rkidney": "right_kidney", "tumor": "tumour"}


def organ(key: str | int) -> Organ:
    """Find an organ by name (spaces, case and common aliases forgiven) or index.

    Raises
    ------
    LabelError
        When the table has no such organ.
    """
    name = plain_name(key) if isinstance(key, str) else key
    for row in ORGANS:
        if name in (row.index, row.name):
            return row
    raise LabelError(
        f"'{key}' is not in the label table; it has {', '.join(row.name for row in ORGANS)}.",
        "Use one of these names, or add the organ to doselabel.labels.ORGANS.",
    )


def region(name: str) -> Organ:
    """Find an organ of the table, or make of any other name a region of soft tissue, such as ``tumour_1``.

    Raises
    ------
    LabelError
        When the name is none: it must begin with a letter and have at most 40 letters, digits and ``_``.
    """
    plain = plain_name(name)
    for row in ORGANS:
        if plain == row.name:
            return row
    if not _REGION_NAME.fullmatch(plain):
        raise LabelError(
            f"'{name}' is no name for a region; expected a letter, then up to 39 letters, digits or '_'.",
            "Rename it, for example tumour_1.",
        )
    color = _REGION_COLORS[zlib.crc32(plain.encode()) % len(_REGION_COLORS)]
    return Organ(0, plain, title(plain), color, REGION_DENSITY_G_CM3)


def excluded_at(name: str) -> int | None:
    """Tell a region that is not counted, such as urine in the renal pelvis, from one that is measured.

    Returns
    -------
    int or None
        The time point (1, 2, …) for which it is not counted, 0 for each that is seen on the map's CT; None for organs
        and lesions. Such regions are called ``excluded`` or ``renal_pelvis``, with ``left_`` or ``right_`` before, and
        ``_tp2`` behind where it is for one time point.
    """
    match = _EXCLUDED_NAME.fullmatch(plain_name(name))
    return None if match is None else int(match[1] or 0)


def lies_in_organ(name: str) -> bool:
    """Whether a region is a part of the organ around it to those who look for organs: a lesion, or what is excluded."""
    return bool(_LESION_NAME.fullmatch(plain_name(name))) or excluded_at(name) is not None


def plain_name(name: str) -> str:
    """A name as our table writes it: case, blanks and usual aliases forgiven."""
    plain = name.strip().lower().replace(" ", "_").replace("-", "_")
    words = re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())
    if len(words) == 2 and not re.search(r"\d", name) and (kidney := _KIDNEY_NAMES.get(frozenset(words))):
        return kidney
    return _ALIASES.get(plain, plain)


def title(name: str) -> str:
    """What a person reads for an organ's name, in the table or not."""
    known = {row.name: row.title for row in ORGANS}
    return known.get(name, name.replace("_", " ").capitalize())
