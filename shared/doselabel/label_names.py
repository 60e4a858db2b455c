"""Names of label values, from where tools write them. Knows headers and small text files; no voxels, no organs.

- our own header (`METADATA_KEY`);
- Slicer's ``.seg.nrrd``: ``SegmentN_Name``, ``SegmentN_LabelValue``, ``SegmentN_Layer``;
- Caret/Connectome Workbench XML in a NIfTI extension (``<Label Key="5" …>liver</Label>``), as TotalSegmentator writes
  with ``--ml``;
- colour tables beside the file: ITK-SNAP's label descriptions and Slicer's colour tables
  (``.label``, ``.ctbl``, ``.txt``).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

from doselabel.errors import LabelError
from doselabel.images import SUFFIXES
from doselabel.images.header import Header

METADATA_KEY = "doselabel_labels"
_LARGEST_TABLE = 1 << 20
_INVENTED = re.compile(r"(segment|label|roi|region|structure|object|class)?[ _-]*\d*", re.IGNORECASE)
_SNAP = re.compile(r'\s*(\d+)\s+\d+\s+\d+\s+\d+\s+[\d.]+\s+[01]\s+[01]\s+"(.*)"\s*')
_SLICER = re.compile(r"\s*(\d+)\s+(\S+)\s+\d+\s+\d+\s+\d+\s+\d+\s*")


@dataclass(frozen=True)
class Carried:
    """What a file says of its values.

    Attributes
    ----------
    names : dict
        Value → name; empty when it says nothing.
    layers : dict
        Segments in layers: (layer, value there) → value in ``names``. Empty for a plain map.
    atlas : bool
        Whether the names are a whole body's, of which only organs and lesions matter here.
    source : str
        Where the names are from, for a reader.
    """

    names: Mapping[int, str]
    layers: Mapping[tuple[int, int], int] = field(default_factory=dict)
    atlas: bool = False
    source: str = ""


def carried(header: Header) -> Carried:
    """The names that go with a label map's file; names that tools invent ("Segment_1", "Label 3") are none.

    Raises
    ------
    LabelError
        When there are some and they can't be read.
    """
    found = _carried(header)
    invented = found.names and all(_INVENTED.fullmatch(name.strip()) for name in found.names.values())
    return Carried({}) if invented and not any(layer for layer, _ in found.layers) else found


def _carried(header: Header) -> Carried:
    own = header.texts.get(METADATA_KEY) or next(
        (text.partition("=")[2] for text in header.texts.values() if text.startswith(f"{METADATA_KEY}=")), ""
    )
    if own:
        try:
            names = {int(value): str(name) for value, name in json.loads(own.rstrip("\x00 ")).items()}
        except (ValueError, AttributeError, RecursionError) as error:
            raise LabelError(
                f"{header.path}: its label names can't be read ({error}).", "Save the map again."
            ) from error
        return Carried(names, source="its header")
    if is_of_segments(header):
        return _segments(header)
    for text in header.texts.values():
        if "<Label" in text and (names := _caret(header.path, text)):
            return Carried(names, atlas=True, source="its NIfTI header")
    return _beside(header.path)


def is_of_segments(header: Header) -> bool:
    """Whether it is Slicer's ``.seg.nrrd``, which is stored cropped to what was drawn."""
    return any(re.fullmatch(r"Segment\d+_(Name|LabelValue)", key) for key in header.texts)


def _segments(header: Header) -> Carried:
    names: dict[int, str] = {}
    layers: dict[tuple[int, int], int] = {}
    number = 0
    while (name := header.texts.get(f"Segment{number}_Name")) is not None:
        try:
            value = int(header.texts.get(f"Segment{number}_LabelValue", number + 1))
            layer = int(header.texts.get(f"Segment{number}_Layer", 0))
        except ValueError as error:
            raise LabelError(f"{header.path}: its segment '{name}' has no whole number as label value.") from error
        if (layer, value) in layers:
            raise LabelError(
                f"{header.path}: its segments '{names[layers[layer, value]]}' and '{name}' both are value {value} of "
                f"layer {layer}.",
                "Save the segmentation again.",
            )
        names[number + 1] = name
        layers[layer, value] = number + 1
        number += 1
    return Carried(names, layers, source="its segments")


def _caret(path: Path, text: str) -> dict[int, str]:
    start, end = text.find("<"), text.rfind(">")
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise LabelError(f"{path}: the label names in its header are XML with definitions, which is not read.")
    try:
        root = ElementTree.fromstring(text[start : end + 1])
        return {int(row.attrib["Key"]): (row.text or "").strip() for row in root.iter("Label")}
    except (ElementTree.ParseError, KeyError, ValueError) as error:
        raise LabelError(f"{path}: the label names in its header can't be read ({error}).") from error


def _beside(path: Path) -> Carried:
    stem = next((path.name[: -len(s)] for s in SUFFIXES if path.name.lower().endswith(s)), path.stem)
    for ending in (".label", ".ctbl", ".txt", "_labels.txt", "-label_ColorTable.ctbl", "_ColorTable.ctbl"):
        table = path.with_name(stem + ending)
        if table.is_file() and table.stat().st_size <= _LARGEST_TABLE:
            names = colour_table(table)
            if names:
                return Carried(names, source=table.name)
    return Carried({})


def colour_table(path: Path) -> dict[int, str]:
    """Names in an ITK-SNAP or Slicer colour table; empty when it is neither."""
    names: dict[int, str] = {}
    for line in path.read_text("utf-8", errors="replace").splitlines():
        if line.startswith("#"):
            continue
        found = _SNAP.fullmatch(line) or _SLICER.fullmatch(line)
        if found:
            names[int(found[1])] = found[2]
    return {value: name for value, name in names.items() if value}
