"""Organs and lesions drawn on a CT (RTSTRUCT, SEG): which they are, on which CT, whose. Knows headers; writes nothing.

A segment or contour is taken by its name, or by what it is coded as; whatever is no organ of the table and no lesion is
named and left out. What lies beside the CT's own slices is refused: nothing is resampled.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pydicom.multival import MultiValue
from pydicom.sr.coding import Code

from doselabel.dicom.need import Dataset
from doselabel.dicom.series import Series
from doselabel.dicom.volume import Stack
from doselabel.dicom.write_seg import LESION, ORGAN_TYPES
from doselabel.errors import DicomError
from doselabel.labels import NAMES, known_name
from doselabel.schemes import KIDNEYS

_ON_SLICE_MM, _ON_SLICE = 0.1, 0.02
"""How far a contour may lie off its slice: positions are written with few digits."""
_ON_VOXEL = 0.05
_KIDNEY, _SIDES = "64033007", {"left": "7771000", "right": "24028007"}
"""SNOMED CT."""
_LESION_NAME = re.compile(r"(tumou?r|lesion|metastas[ei]s|gtv)s?[ _-]?0*(\d{0,3})(?:[ _].*)?", re.IGNORECASE)
_LESION_MEANING = re.compile(r"neoplasm|mass|lesion|tumou?r|metasta", re.IGNORECASE)
_DERIVED = re.compile(r"minus|ring|margin|shell|exp", re.IGNORECASE)
_CLOSED = {"CLOSED_PLANAR", "CLOSEDPLANAR_XOR"}


@dataclass(frozen=True, eq=False)
class Drawn:
    """One RTSTRUCT or SEG, and the CT that it was drawn on.

    Attributes
    ----------
    names : dict
        Number of the segment or ROI → organ or lesion.
    places : dict
        The same number → what lies on which plane of the CT: (plane, contour in rows and columns), or (plane, frame,
        first row, first column).
    author, reviewer : str
        As stated; not pseudonymised yet.
    words : tuple of str
        What was left out, and why.
    """

    series: Series
    ct: Series
    names: Mapping[int, str]
    places: Mapping[int, Sequence[tuple[Any, ...]]]
    author: str
    reviewer: str = ""
    approved: bool = False
    words: tuple[str, ...] = ()

    def sentence(self) -> str:
        """For the plan."""
        state = ", approved" if self.approved else ""
        taken = f"drawn on series {self.ct.number}{state}: {', '.join(dict.fromkeys(self.names.values()))}"
        return "; ".join([taken, *self.words])


@dataclass
class _Taken:
    """What has been recognised so far."""

    names: dict[int, str] = field(default_factory=dict)
    places: dict[int, list[tuple[Any, ...]]] = field(default_factory=dict)
    words: list[str] = field(default_factory=list)

    def add(self, number: int, name: str, places: list[tuple[Any, ...]]) -> None:
        if name not in {*NAMES.values(), KIDNEYS} or name == "tumour":
            name = self._free(name)
        self.names[number], self.places[number] = name, places

    def _free(self, name: str) -> str:
        """Lesions are one each: a second one of a name gets a number."""
        stem, n, free = re.sub(r"_\d+$", "", name), 2, name
        while free in self.names.values():
            free, n = f"{stem}_{n}", n + 1
        return free


def all_drawn(
    series: Sequence[Series], cts: Sequence[Series], stacks: Mapping[int, Stack]
) -> tuple[list[Drawn], dict[int, str]]:
    """What can be taken, the oldest first, and of each series what becomes of it."""
    found, fate = [], {}
    for each in sorted(series, key=_made_at):
        try:
            found.append(drawn(each, cts, stacks))
            fate[each.number] = found[-1].sentence()
        except DicomError as error:
            fate[each.number] = f"left out: {error.message}"
    for one in found:
        if sum(other.ct is one.ct for other in found) > 1:
            fate[one.series.number] += "; one of several on this CT: the last approved one counts, else the last"
    return found, fate


def _made_at(series: Series) -> tuple[str, str]:
    """When it was drawn; a PACS's order and SeriesNumber say nothing of it."""
    head = series.head
    kinds = ("StructureSet", "Content", "InstanceCreation", "Series")
    kind = next((kind for kind in kinds if head.get(f"{kind}Date")), "Series")
    return str(head.get(f"{kind}Date") or ""), str(head.get(f"{kind}Time") or "")


def drawn(series: Series, cts: Sequence[Series], stacks: Mapping[int, Stack]) -> Drawn:
    """Find the CT that organs were drawn on, and the organs.

    Raises
    ------
    DicomError
        When there is no such CT among ``cts``, or nothing to take.
    """
    read, (named, frames) = (_seg, _seg_refers(series.head)) if series.kind == "seg" else (_rt, _rt_refers(series.head))
    found = [ct for ct in cts if ct.uid in named] or [ct for ct in cts if ct.frame_of_reference in frames]
    if not found:
        raise DicomError("drawn on a series that is no CT of the study", "Give that CT's series, too.")
    refused: list[DicomError] = []
    for ct in found:
        try:
            return read(series, ct, stacks[ct.number])
        except DicomError as error:
            refused.append(error)
    raise refused[0]


def recognised(*texts: str, lesion: bool = False) -> str:
    """The organ or lesion that one of some names stands for, "" when none does.

    Of a lesion its word and number stay, and nothing else that somebody wrote: it may be a patient's name.
    """
    for text in texts:
        name = known_name(text.strip())
        if name == KIDNEYS or (name in NAMES.values() and name != "tumour"):
            return name
        match = _LESION_NAME.fullmatch(text.strip())
        if match and not _DERIVED.search(text):
            word = match[1].lower().replace("tumor", "tumour").replace("metastases", "metastasis")
            return f"{word}_{int(match[2])}" if match[2] else word
    return "lesion" if lesion else ""


# ---- SEG


def _seg_refers(head: Dataset) -> tuple[set[str], set[str]]:
    series = {str(item.get("SeriesInstanceUID")) for item in head.get("ReferencedSeriesSequence") or []}
    return series, {str(head.get("FrameOfReferenceUID") or "")} - {""}


def _seg(series: Series, ct: Series, stack: Stack) -> Drawn:
    head, taken = series.head, _Taken()
    _same_frame(str(head.get("FrameOfReferenceUID") or ""), ct)
    frames: dict[int, list[tuple[Any, ...]]] = {}
    wanted = {}
    for segment in head.get("SegmentSequence") or []:
        number, label = int(segment.SegmentNumber), str(segment.get("SegmentLabel") or "")
        name = _organ_of(segment)
        if name:
            wanted[number] = name
        else:
            taken.words.append(f"'{label}' is no organ of the table and no lesion")
    if not wanted:
        raise DicomError("; ".join(taken.words) or "holds no segment")
    shared = (head.get("SharedFunctionalGroupsSequence") or [Dataset()])[0]
    for index, group in enumerate(head.get("PerFrameFunctionalGroupsSequence") or []):
        part = group.get("SegmentIdentificationSequence") or shared.get("SegmentIdentificationSequence")
        number = int(part[0].ReferencedSegmentNumber) if part else 0
        if number in wanted:
            frames.setdefault(number, []).append(_frame_place(index, group, shared, stack, ct))
    for number, name in wanted.items():
        taken.add(number, name, frames.get(number, []))
    author = str(head.get("ContentCreatorName") or "") or _people(head.get("OperatorsName"))
    return Drawn(series, ct, taken.names, taken.places, author, words=tuple(taken.words))


def _organ_of(segment: Dataset) -> str:
    """By what it is called, else by what it is coded as."""
    name = recognised(str(segment.get("TrackingID") or ""), str(segment.get("SegmentLabel") or ""))
    kinds = segment.get("SegmentedPropertyTypeCodeSequence")
    if name or not kinds:
        return name
    if _is(segment.get("SegmentedPropertyCategoryCodeSequence"), LESION.value):
        return "lesion" if _LESION_MEANING.search(str(kinds[0].get("CodeMeaning") or "")) else ""
    if _is(kinds, _KIDNEY):
        modifiers = kinds[0].get("SegmentedPropertyTypeModifierCodeSequence")
        side = next((side for side, code in _SIDES.items() if _is(modifiers, code)), "")
        return f"{side}_kidney" if side else KIDNEYS
    return next((organ for organ, code in ORGAN_TYPES.items() if _is(kinds, code.value)), "")


def _is(sequence: Any, sct: str) -> bool:
    """Whether a code is one of SNOMED CT; its older form (SRT) counts, too."""
    if not sequence or not sequence[0].get("CodeValue"):
        return False
    try:
        code = Code(str(sequence[0].CodeValue), str(sequence[0].get("CodingSchemeDesignator") or ""), "")
        return bool(code == Code(sct, "SCT", ""))
    except KeyError:  # a code of SRT that pydicom can't translate
        return False


def _frame_place(index: int, group: Dataset, shared: Dataset, stack: Stack, ct: Series) -> tuple[Any, ...]:
    """Plane, frame, and where the frame's first pixel lies on the plane."""

    def of(name: str, value: str) -> np.ndarray:
        item = group.get(name) or shared.get(name)
        try:
            return np.array([float(v) for v in item[0][value].value])
        except (TypeError, KeyError, ValueError) as error:
            raise DicomError(f"its frame {index + 1} does not say where it lies ({value})") from error

    position = of("PlanePositionSequence", "ImagePositionPatient")
    along = of("PlaneOrientationSequence", "ImageOrientationPatient").reshape(2, 3)
    spacing = of("PixelMeasuresSequence", "PixelSpacing")
    z, off_mm = _plane_at(position, stack)
    plane = stack.planes[z]
    first = _in_plane(position, stack, z)
    grid = np.allclose(along, plane.orientation, atol=2e-3) and np.allclose(spacing, plane.spacing_mm, rtol=1e-3)
    if not grid or off_mm > _tolerance_mm(stack) or np.abs(first - np.rint(first)).max() > _ON_VOXEL:
        raise DicomError(f"its frame {index + 1} is not on the voxels of series {ct.number}; nothing is resampled")
    return z, index, round(first[0]), round(first[1])


# ---- RTSTRUCT


def _rt_refers(head: Dataset) -> tuple[set[str], set[str]]:
    series, frames = set(), {str(head.get("FrameOfReferenceUID") or "")}
    for frame in head.get("ReferencedFrameOfReferenceSequence") or []:
        frames.add(str(frame.get("FrameOfReferenceUID") or ""))
        for study in frame.get("RTReferencedStudySequence") or []:
            series |= {str(s.get("SeriesInstanceUID")) for s in study.get("RTReferencedSeriesSequence") or []}
    frames |= {str(r.get("ReferencedFrameOfReferenceUID")) for r in head.get("StructureSetROISequence") or []}
    return series, frames - {""}


def _rt(series: Series, ct: Series, stack: Stack) -> Drawn:
    head, taken = series.head, _Taken()
    status = str(head.get("ApprovalStatus") or "").strip().upper()
    if status == "REJECTED":
        raise DicomError("its reviewer rejected it (ApprovalStatus)")
    contours = {int(c.ReferencedROINumber): c for c in head.get("ROIContourSequence") or []}
    gross = {int(o.ReferencedROINumber) for o in head.get("RTROIObservationsSequence") or []
             if str(o.get("RTROIInterpretedType") or "").upper() == "GTV"}  # fmt: skip
    unknown = []
    for roi in head.get("StructureSetROISequence") or []:
        number, text = int(roi.ROINumber), str(roi.get("ROIName") or "")
        name = recognised(text, lesion=number in gross)
        if not name:
            unknown.append(f"'{text}'")
            continue
        try:
            _same_frame(str(roi.get("ReferencedFrameOfReferenceUID") or ""), ct)
            places, word = _contours(contours.get(number), stack)
        except DicomError as error:
            taken.words.append(f"'{text}' left out: {error.message}")
            continue
        taken.words += [f"'{text}' {word}"] if word else []
        taken.add(number, name, places)
    if unknown:
        taken.words.append(f"no organs of the table and no lesions: {', '.join(unknown[:12])}")
    if not taken.names:
        raise DicomError("; ".join(taken.words) or "holds no contour")
    author = _people(head.get("OperatorsName")) or str(head.get("StructureSetLabel") or "")
    return Drawn(series, ct, taken.names, taken.places, author, str(head.get("ReviewerName") or ""),
                 status == "APPROVED", tuple(taken.words))  # fmt: skip


def _contours(item: Dataset | None, stack: Stack) -> tuple[list[tuple[Any, ...]], str]:
    """Closed contours on the CT's planes, and a word about others."""
    places, seen, off, opened = [], set(), [], 0
    for contour in (item.get("ContourSequence") if item is not None else None) or []:
        try:
            points = np.array([float(v) for v in contour.get("ContourData") or []]).reshape(-1, 3)
        except (TypeError, ValueError) as error:
            raise DicomError("the points of a contour are no triples of numbers") from error
        if str(contour.get("ContourGeometricType")) not in _CLOSED or len(points) < 3:
            opened += 1
            continue
        z, off_mm = _plane_at(points, stack)
        off += [off_mm] if off_mm > _tolerance_mm(stack) else []
        if (z, points.tobytes()) not in seen:  # one that is there twice would cancel itself
            seen.add((z, points.tobytes()))
            places.append((z, _in_plane(points, stack, z)))
    if off:
        raise DicomError(f"{len(off)} of its contours lie up to {max(off):.2f} mm off the CT's slices")
    planes = {z for z, _ in places}
    skipped = max(planes) - min(planes) + 1 - len(planes) if planes else 0
    words = [f"has {opened} open contour(s), which enclose nothing"] if opened else []
    words += [f"has no contour on {skipped} slice(s) between its first and last"] if skipped else []
    if opened and not places:
        raise DicomError("it has open contours or points alone")
    return places, " and ".join(words)


# ---- places


def _same_frame(uid: str, ct: Series) -> None:
    if uid and ct.frame_of_reference and uid != ct.frame_of_reference:
        raise DicomError("drawn in another frame of reference than the CT's")


def _tolerance_mm(stack: Stack) -> float:
    return max(_ON_SLICE_MM, _ON_SLICE * stack.geometry.spacing_mm[0])


def _plane_at(points: np.ndarray, stack: Stack) -> tuple[int, float]:
    """The plane nearest to points (LPS), and how far the farthest of them is off it."""
    heights = np.atleast_1d(points @ np.cross(*stack.planes[0].orientation))
    z = int(np.abs(stack.heights_mm - np.median(heights)).argmin())
    return z, float(np.abs(heights - stack.heights_mm[z]).max())


def _in_plane(points: np.ndarray, stack: Stack, z: int) -> np.ndarray:
    """Rows and columns of points (LPS) on a plane."""
    plane = stack.planes[z]
    return ((points - plane.position_mm) @ plane.orientation[::-1].T) / np.asarray(plane.spacing_mm)


def _people(value: Any) -> str:
    names = list(value) if isinstance(value, MultiValue) else [value or ""]
    return ", ".join(str(name) for name in names if str(name).strip())
