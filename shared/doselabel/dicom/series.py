"""What each series is: a CT, a SPECT, drawn organs, or something that is left out, and why. Knows headers only.

By SOP class and ImageType; Modality is what a vendor wrote (real SPECTs say OT or PT).
"""

from __future__ import annotations

import re
from collections.abc import Container, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from doselabel.dicom.need import Dataset
from doselabel.dicom.sort import CT, ENHANCED_CT, LEGACY_CT, NM, VOLUMES, Broken, Instance
from doselabel.errors import DicomError

Kind = Literal["ct", "spect", "rtstruct", "seg", "left out"]

SEG, RTSTRUCT = "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.481.3"
_OTHER = {
    "1.2.840.10008.5.1.4.1.1.7": "a secondary capture: a picture of a screen or a conversion, without place or unit",
    "1.2.840.10008.5.1.4.1.1.481.2": "a dose map (RTDOSE); doselabel computes its own",
    "1.2.840.10008.5.1.4.1.1.481.5": "a radiotherapy plan",
    "1.2.840.10008.5.1.4.1.1.66.7": "a label-map segmentation (LABELMAP), a class that is not read yet; export it as "
    "a binary segmentation (SEG)",
    "1.2.840.10008.5.1.4.1.1.66.1": "a spatial registration; place SPECTs by their own frame of reference",
    "1.2.840.10008.5.1.4.1.1.67": "a real-world value mapping in a file of its own; its scale is not applied",
    "1.2.840.10008.5.1.4.1.1.30": "a parametric map (derived values, neither HU nor activity)",
    "1.2.840.10008.5.1.4.1.1.104.1": "an encapsulated PDF",
    "1.2.840.10008.5.1.4.1.1.1": "a planar X-ray image",
}
_LOSSY = {"1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.81"}
_MAYBE_LOSSY = {"1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.4.93", "1.2.840.10008.1.2.4.203"}
_PROJECTIONS = {"MIP", "MINIP", "MAX IP", "MIN IP", "MAXIMUM INTENSITY PROJECTION", "PROJECTION IMAGE", "PROJECTION",
                "3D RENDERING", "VOLUME RENDERING", "VRT", "SSD"}  # fmt: skip
_MAPS = ("PERFUSION", "RCBF", "RCBV", "CBF", "CBV", "MTT", "TTP", "TMAX", "IODINE", "EFF Z", "RHO Z", "MATERIAL",
         "MONOENERGETIC", "VIRTUAL NON CONTRAST", "VNC", "SUBTRACTION")  # fmt: skip
_NM_KINDS = {
    "STATIC": "planar (STATIC): not a volume",
    "DYNAMIC": "planar and dynamic: not a volume",
    "WHOLE BODY": "planar (WHOLE BODY): not a volume",
    "GATED": "planar and gated: not a volume",
    "TOMO": "projections (TOMO): not reconstructed yet",
    "GATED TOMO": "gated projections (GATED TOMO): not reconstructed yet",
    "RECON GATED TOMO": "gated: each phase holds a part of the scan; reconstruct it ungated",
}


_SAID_ALONE = {"ATTN": "AttenuationCorrected", "SCAT": "ScatterCorrected", "DECY": "DecayCorrected"}


@dataclass(frozen=True, eq=False)
class Series:
    """Instances that belong together; ``number`` is what the plan and the user call it."""

    number: int
    kind: Kind
    reason: str
    instances: tuple[Instance, ...]

    @property
    def head(self) -> Dataset:
        """Header of the first instance."""
        return self.instances[0].header

    @property
    def uid(self) -> str:
        """SeriesInstanceUID."""
        return str(self.head.SeriesInstanceUID)

    @property
    def frame_of_reference(self) -> str:
        """FrameOfReferenceUID, "" when it has none."""
        return self.instances[0].text("FrameOfReferenceUID")

    @cached_property
    def corrections(self) -> frozenset[str] | None:
        """What CorrectedImage lists, or an enhanced PET says one by one; None when nothing is stated."""
        stated = self.head.get("CorrectedImage")
        if stated:
            return frozenset([stated] if isinstance(stated, str) else (str(v).strip().upper() for v in stated))
        said = {short: self.instances[0].text(keyword).upper() for short, keyword in _SAID_ALONE.items()}
        return frozenset(short for short, text in said.items() if text == "YES") if said["ATTN"] else None

    @property
    def contrast(self) -> bool:
        """Whether it was taken with contrast medium."""
        return bool(self.head.get("ContrastBolusAgent") or self.head.get("ContrastBolusAgentSequence"))

    @property
    def attenuation_corrected(self) -> bool | None:
        """By CorrectedImage, or by the series' name where it says NAC; None when nothing says."""
        if self.corrections is not None:
            return "ATTN" in self.corrections
        said = self.instances[0].text("SeriesDescription").upper()
        if re.search(r"\b(NAC|NO[ _-]?AC|NON[ _-]?AC|UNCORR\w*)\b", said.replace("_", " ")):
            return False
        return True if re.search(r"\b(CTAC|AC|ACSC|SCAC)\b", said.replace("_", " ")) else None

    @property
    def planes(self) -> int:
        """Number of planes."""
        return sum(int(i.header.get("NumberOfFrames") or 1) for i in self.instances)

    def words(self) -> str:
        """For a reader: its number, and what a PACS calls it without naming a patient."""
        number = self.instances[0].text("SeriesNumber")
        return f"series {self.number}" + (f" (SeriesNumber {number})" if number else "")


def sorted_series(instances: Sequence[Instance]) -> list[Series]:
    """Group instances into series; one series may give several, where it mixes an image with its localisers."""
    groups: dict[tuple[str, str, Kind, str], list[Instance]] = {}
    for instance in instances:
        found, why = _judge(instance.header)
        key = (str(instance.header.SeriesInstanceUID), str(instance.header.SOPClassUID), found, why)
        groups.setdefault(key, []).append(instance)
    split: list[tuple[Kind, str, list[Instance]]] = []
    for (_, sop, kind, reason), members in groups.items():
        single = kind in ("rtstruct", "seg") or (kind == "spect" and sop == NM)
        for part in [[m] for m in members] if single else [members]:
            split.append((kind, reason, part))

    def order(item: tuple[Kind, str, list[Instance]]) -> tuple[bool, str, str, int, str]:
        head = item[2][0]
        return (
            item[0] == "left out",
            head.text("AcquisitionDate") or head.text("AcquisitionDateTime")[:8] or head.text("StudyDate"),
            head.text("AcquisitionTime") or head.text("AcquisitionDateTime")[8:],
            int(re.sub(r"\D", "", head.text("SeriesNumber")) or 0),
            head.name,
        )

    rows = sorted(split, key=order)
    return [Series(n, kind, reason, tuple(part)) for n, (kind, reason, part) in enumerate(rows, start=1)]


def refuse_damaged(broken: Sequence[Broken], series: Sequence[Series], left_out: Container[int]) -> None:
    """Damaged files of other objects are passed over; one that may be a part of a CT or SPECT is not.

    Raises
    ------
    DicomError
        Naming the file, and the series that is incomplete without it.
    """
    for name, why, header in broken:
        if header is not None and header.get("SOPClassUID") and str(header.SOPClassUID) not in VOLUMES:
            continue
        uid = str(header.get("SeriesInstanceUID") or "") if header is not None else ""
        own = [each for each in series if each.uid == uid and each.kind in ("ct", "spect")]
        if own and all(each.number in left_out for each in own):
            continue
        others = [each for each in series if each.uid == uid]
        if others and not own:  # of a series that is left out anyhow
            continue
        if own:
            of, way = f"{own[0].words().capitalize()} is not whole without it.", f"--leave-out {own[0].number}"
            raise DicomError(
                f"{name} is damaged: {why}. {of}", f"Copy or export it again, or go without the series: {way}."
            )
        raise DicomError(
            f"{name} is damaged: {why}. It may be a part of a CT or SPECT.", "Copy or export it again, or take it away."
        )


def _image_type(header: Dataset) -> list[str]:
    value = header.get("ImageType") or []
    parts = [value] if isinstance(value, str) else list(value)
    return [re.sub(r"[_ ]+", " ", str(part)).strip().upper() for part in parts]


def _judge(header: Dataset) -> tuple[Kind, str]:
    """What an instance is; what is left out says what it is."""
    sop, kind = str(header.SOPClassUID), _image_type(header)
    if sop == RTSTRUCT:
        return "rtstruct", ""
    if sop == SEG:
        return "seg", ""
    if sop in _OTHER or sop.startswith("1.2.840.10008.5.1.4.1.1.7."):
        reason = _OTHER.get(sop, _OTHER["1.2.840.10008.5.1.4.1.1.7"])
        return "left out", f"{reason}; its pixel data are lossy, too" if _is_lossy(header) else reason
    if sop.startswith("1.2.840.10008.5.1.4.1.1.88"):
        return "left out", "a structured report"
    if sop.startswith("1.2.840.10008.5.1.4.1.1.4"):
        return "left out", "an MR image"
    if sop not in VOLUMES:
        return "left out", f"of a class that is no CT, SPECT or drawn organ ({_sop_name(header)})"
    picture = _not_a_volume(header, kind)
    if picture:
        return "left out", picture
    if sop in (CT, ENHANCED_CT, LEGACY_CT):
        return _judge_ct(header, kind)
    return _judge_emission(header, sop, kind)


def _not_a_volume(header: Dataset, kind: list[str]) -> str:
    if _is_lossy(header):
        return "lossy pixel data: values are not those that were measured; export it uncompressed"
    if int(header.get("SamplesPerPixel") or 1) != 1:
        return "a colour picture"
    if not header.get("Rows") or not header.get("Columns"):
        return "an object without an image"
    if "LOCALIZER" in kind or "SCOUT" in kind or "TOPOGRAM" in kind:
        return "a localiser (LOCALIZER)"
    if _PROJECTIONS & set(kind):
        return f"a projection ({(_PROJECTIONS & set(kind)).pop()}), not a volume"
    return ""


def _is_lossy(header: Dataset) -> bool:
    syntax = str(header.file_meta.get("TransferSyntaxUID", "")) if hasattr(header, "file_meta") else ""
    said = str(header.get("LossyImageCompression") or "")
    return syntax in _LOSSY or said == "01" or (syntax in _MAYBE_LOSSY and said != "00")


def _judge_ct(header: Dataset, kind: list[str]) -> tuple[Kind, str]:
    for part in kind[2:]:
        named = next((name for name in _MAPS if name in part), None)
        if named:
            return "left out", f"a map ({part}), not HU"
    if "MPR" in kind or "REFORMATTED" in kind or any(part.startswith("CSA MPR") for part in kind):
        return "left out", "reformatted (MPR) from another series; import the original"
    scales = _rescales(header)
    units = {str(scale.get("RescaleType") or "").strip().upper() for scale in scales} - {"", "HU", "US"}
    if units:
        return "left out", f"a CT in '{units.pop()}', not HU"
    if any(scale.get("RescaleSlope") is None for scale in scales):
        return "left out", "a CT without RescaleSlope and RescaleIntercept: its values are not HU"
    return "ct", ""


def _rescales(header: Dataset) -> list[Dataset]:
    """Where the rescale slope of each plane would be: the header, or functional groups."""
    frames = header.get("PerFrameFunctionalGroupsSequence")
    if not frames:
        return [header]
    name = "PixelValueTransformationSequence"
    shared = next(iter(header.get("SharedFunctionalGroupsSequence") or []), Dataset())
    return [(frame.get(name) or shared.get(name) or [Dataset()])[0] for frame in frames]


def _judge_emission(header: Dataset, sop: str, kind: list[str]) -> tuple[Kind, str]:
    if "TRANSMISSION" in kind:
        return "left out", "an attenuation map (TRANSMISSION)"
    if sop != NM:
        series_type = header.get("SeriesType") or []
        first = str(series_type if isinstance(series_type, str) else (list(series_type) or [""])[0]).upper()
        if first in ("DYNAMIC", "GATED"):
            return "left out", f"{first.lower()}: each part holds some of the scan; export the static image"
        return "spect", ""
    third = kind[2] if len(kind) > 2 else ""
    if third == "RECON TOMO":
        return "spect", ""
    if third in _NM_KINDS:
        return "left out", f"nuclear medicine, {_NM_KINDS[third]}"
    return "left out", f"nuclear medicine whose ImageType ({'/'.join(kind) or 'none'}) does not say RECON TOMO"


def _sop_name(header: Dataset) -> str:
    return str(getattr(header.SOPClassUID, "name", header.SOPClassUID))
