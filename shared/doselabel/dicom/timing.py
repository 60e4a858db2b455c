"""When a series was acquired, and for how long. Never by SeriesDate, ContentDate or StudyDate: a reconstruction may be
weeks later, and two days' scans may carry one StudyDate."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from doselabel.dicom.need import Dataset
from doselabel.dicom.series import Series
from doselabel.dicom.sort import Instance

_LONGEST_S = 6 * 3600.0


def moment(text: object) -> datetime | None:
    """A DICOM date-time (DT), or date and time written together; its offset from UTC, if any, is put aside."""
    found = re.match(r"(\d{8})(\d{2})?(\d{2})?(\d{2})?(\.\d{1,6})?", str(text or "").strip())
    if not found or not found[2]:
        return None
    try:
        exact = datetime.strptime(found[1] + found[2] + (found[3] or "00") + (found[4] or "00"), "%Y%m%d%H%M%S")
    except ValueError:
        return None
    return exact + timedelta(seconds=float(found[5] or 0))


def joined(date: object, time: object) -> datetime | None:
    """A date (DA) and a time (TM), both stated."""
    day, clock = str(date or "").strip().replace(".", ""), str(time or "").strip().replace(":", "")
    return moment(day + clock) if re.fullmatch(r"\d{8}", day) and clock else None


def started(series: Series) -> datetime | None:
    """When the acquisition of a series began; None when it does not say."""
    times = [at for instance in series.instances if (at := _started(instance)) is not None]
    return min(times) if times else None


def _started(instance: Instance) -> datetime | None:
    header = instance.header
    frames = [moment(content.get("FrameAcquisitionDateTime")) for content in _frames(header)]
    if times := [at for at in frames if at is not None]:
        return min(times)
    return joined(header.get("AcquisitionDate"), header.get("AcquisitionTime")) or moment(
        header.get("AcquisitionDateTime")
    )


def _frames(header: Dataset) -> list[Dataset]:
    """What each frame of an enhanced object says of itself."""
    groups = header.get("PerFrameFunctionalGroupsSequence") or []
    return [content for frame in groups for content in frame.get("FrameContentSequence") or []]


def _spans(instance: Instance) -> list[tuple[datetime | None, float | None]]:
    """Begin and length (ms) of each slice of an instance."""
    whole = _float(instance.header.get("ActualFrameDuration"))
    return [
        (moment(frame.get("FrameAcquisitionDateTime")), _float(frame.get("FrameAcquisitionDuration")) or whole)
        for frame in _frames(instance.header)
    ] or [(_started(instance), whole)]


def duration_s(series: Series) -> float | None:
    """From the first to the last projection, or bed; None when nothing says."""
    header = series.head
    if "RotationInformationSequence" in header:
        seconds = sum(_rotation_s(item, header) for item in header.RotationInformationSequence)
        if 0 < seconds <= _LONGEST_S:
            return seconds
    spans = [span for instance in series.instances for span in _spans(instance)]
    known = [(at, at + timedelta(milliseconds=length)) for at, length in spans if at is not None and length]
    if len(spans) > 1 and len(known) == len(spans):
        seconds = (max(end for _, end in known) - min(begin for begin, _ in known)).total_seconds()
        if 0 < seconds <= _LONGEST_S:
            return seconds
    stated = _float(header.get("AcquisitionDuration"))
    if stated is not None and 0 < stated <= _LONGEST_S:
        return stated
    return _starguide_s(header)


def _rotation_s(item: Dataset, header: Dataset) -> float:
    """PS3.3 C.8.4.12: views of one rotation times the duration of each; some files count the views of all heads."""
    views, milliseconds = _float(item.get("NumberOfFramesInRotation")), _float(item.get("ActualFrameDuration"))
    if not views or not milliseconds:
        return 0.0
    arc, step, heads = (
        _float(v) for v in (item.get("ScanArc"), item.get("AngularStep"), header.get("NumberOfDetectors"))
    )
    if arc and step and heads and heads > 1 and abs(views - heads * round(abs(arc / step))) < 0.5:
        views /= heads
    return views * milliseconds / 1000


def _starguide_s(header: Dataset) -> float | None:
    """GE StarGuide states a scan's duration in ImageComments alone, in ms."""
    maker = f"{header.get('Manufacturer') or ''} {header.get('ManufacturerModelName') or ''}".upper()
    found = re.search(r"(\d{4,8})\s*(?:ms|msec)?\b", str(header.get("ImageComments") or ""))
    if "STARGUIDE" not in maker.replace(" ", "") or not found:
        return None
    seconds = int(found[1]) / 1000
    return seconds if 30 <= seconds <= _LONGEST_S else None


def _float(value: object) -> float | None:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
