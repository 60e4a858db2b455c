"""Nuclide, injected activity and time of injection, as the SPECTs state them. Nothing is guessed: what is not stated,
or contradicts itself, is a question."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from doselabel.dicom.need import Dataset
from doselabel.dicom.series import NM, Series
from doselabel.dicom.timing import moment

NUCLIDES = ("Lu-177", "Y-90", "I-131")
_LEAST_MBQ, _MOST_MBQ = 50.0, 50_000.0
_SAME_ACTIVITY = 0.01


@dataclass(frozen=True)
class Stated:
    """What the files say; None, with ``why``, where they don't say it or it can't be."""

    nuclide: str | None
    nuclide_why: str
    activity_mbq: float | None
    activity_why: str
    time: datetime | None
    time_why: str
    drug: str = ""


def stated(spects: Sequence[Series]) -> Stated:
    """What SPECTs say of the injection, agreed among them."""
    items = [(series, item) for series in spects for item in _items(series.head)]
    nuclide, nuclide_why = _nuclide(items)
    activity, activity_why = _activity(items)
    time, time_why = _time(items)
    drugs = {str(item.get("Radiopharmaceutical") or "").strip() for _, item in items} - {""}
    return Stated(nuclide, nuclide_why, activity, activity_why, time, time_why, drugs.pop() if len(drugs) == 1 else "")


def _items(header: Dataset) -> list[Dataset]:
    return list(header.get("RadiopharmaceuticalInformationSequence") or [])


def named(text: str) -> str | None:
    """A nuclide in a text such as "^177^Lutetium", "Lu-177 DOTATATE" or "Iodine 131"; None when there is none."""
    for symbol, name, mass in (("Lu", "luteti", "177"), ("Y", "yttri", "90"), ("I", "iod", "131")):
        pattern = rf"(?<!\d){mass}\W*m?\W*({symbol}(?![a-z])|{name})|(?<![A-Za-z])({symbol}|{name}\w*)\W*{mass}(?!\d)"
        if re.search(pattern, text, re.IGNORECASE):
            return f"{symbol}-{mass}"
    return None


def _nuclide(items: list[tuple[Series, Dataset]]) -> tuple[str | None, str]:
    texts = set()
    for _, item in items:
        codes = item.get("RadionuclideCodeSequence") or []
        texts |= {str(code.get("CodeMeaning") or "") for code in codes}
        if not codes:
            texts.add(str(item.get("Radiopharmaceutical") or ""))
    texts -= {""}
    found = {named(text) for text in texts}
    known = found - {None}
    if len(known) == 1 and None not in found:
        return known.pop(), "by its code"
    if len(known) > 1:
        return None, f"the files name {' and '.join(sorted(str(k) for k in known))}"
    return None, f"the files name {', '.join(sorted(texts))!r}" if texts else "no file names the nuclide"


def _activity(items: list[tuple[Series, Dataset]]) -> tuple[float | None, str]:
    """RadionuclideTotalDose is in MBq in NM objects and in Bq in PET objects (PS3.3 C.8.4.10, C.8.9.2), and vendors mix
    them up; a therapy's activity is told by its size."""
    found: list[tuple[float, str]] = []
    for series, item in items:
        value = item.get("RadionuclideTotalDose")
        number = float(value) if value not in (None, "") else 0.0
        if number == 0:
            continue  # 0 stands for "not stated"
        fits = [(number * factor, unit) for factor, unit in ((1.0, "MBq"), (1e-6, "Bq")) if _can_be(number * factor)]
        if len(fits) != 1:
            return None, f"{series.words()} states {number:g}, which is no therapy's activity in Bq or MBq"
        own = "MBq" if str(series.head.SOPClassUID) == NM else "Bq"
        odd = "" if fits[0][1] == own else f", though such objects state {own}"
        found.append((fits[0][0], f"stated as {number:g} {fits[0][1]}{odd}"))
    if not found:
        return None, "the files state no injected activity (0 or nothing)"
    activities = [a for a, _ in found]
    if max(activities) - min(activities) > _SAME_ACTIVITY * max(activities):
        return None, f"the files state {', '.join(f'{a:g}' for a in sorted(set(activities)))} MBq"
    return found[0]


def _can_be(activity_mbq: float) -> bool:
    return _LEAST_MBQ <= activity_mbq <= _MOST_MBQ


def _time(items: list[tuple[Series, Dataset]]) -> tuple[datetime | None, str]:
    times = [(series, at) for series, item in items if (at := moment(item.get("RadiopharmaceuticalStartDateTime")))]
    if times:
        moments = {at for _, at in times}
        if (max(moments) - min(moments)).total_seconds() > 60:
            return None, "the files state different times: " + ", ".join(
                f"{at:%Y-%m-%d %H:%M}" for at in sorted(moments)
            )
        return min(moments), "RadiopharmaceuticalStartDateTime"
    clock = {
        str(item.get("RadiopharmaceuticalStartTime")) for _, item in items if item.get("RadiopharmaceuticalStartTime")
    }
    if clock:
        return None, f"the files state a time of day ({', '.join(sorted(clock))}) and no date"
    return None, "no file states it"
