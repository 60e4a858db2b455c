"""Headers of MetaImage files (.mha, .mhd). Knows no voxels.

Source: MetaIO's documentation of the MetaImage tags. ``TransformMatrix`` lists the axes' directions one after another.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from doselabel.errors import GeometryError
from doselabel.grid import Geometry, StatedGrid
from doselabel.images.header import (
    Header,
    broken,
    checked_shape,
    detached,
    grid_of_axes,
    headless,
    placed_by_user,
    whole_numbers,
)

_LONGEST_HEADER = 1 << 20
_TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2", "MET_INT": "i4", "MET_UINT": "u4",
    "MET_LONG": "i4", "MET_ULONG": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4",
    "MET_DOUBLE": "f8",
}  # fmt: skip


def read_header(path: Path, stated: StatedGrid | None, within: Path | None) -> Header:
    """Read a MetaImage header."""
    fields, start = _fields(path)
    for name in ("NDims", "DimSize", "ElementType"):
        if name not in fields:
            raise broken(path, f"its header has no '{name}'")
    if fields.get("ObjectType", "Image") != "Image":
        raise broken(path, f"it holds an object of the type '{fields['ObjectType'][:20]}', no image")
    compressed = _true(path, fields, "CompressedData", "False")
    if not _true(path, fields, "BinaryData", "True"):
        raise GeometryError(f"{path}: holds its voxels as text.", "Save it as binary.")
    if whole_numbers(path, "HeaderSize", fields.get("HeaderSize", "0")) != [0]:
        raise GeometryError(f"{path}: skips bytes before its voxels ('HeaderSize').", "Save it again without.")
    name = fields["ElementDataFile"]
    data = path
    if name.upper() != "LOCAL":
        if name.upper().startswith("LIST") or "%" in name:
            raise GeometryError(f"{path}: its voxels are in many other files.", "Save it as one file.")
        data, start = detached(path, name, within), 0
    sizes = whole_numbers(path, "DimSize", fields["DimSize"])
    if whole_numbers(path, "NDims", fields["NDims"]) != [len(sizes)]:
        raise broken(path, f"its 'NDims' is {fields['NDims'][:20]} and its 'DimSize' {fields['DimSize'][:40]}")
    shape = checked_shape(path, sizes)
    channels = whole_numbers(path, "ElementNumberOfChannels", fields.get("ElementNumberOfChannels", "1"))
    if len(channels) != 1 or channels[0] < 1:
        raise broken(path, f"its 'ElementNumberOfChannels' is '{fields['ElementNumberOfChannels'][:20]}'")
    _refuse_other_scales(path, fields)
    order = "BinaryDataByteOrderMSB" if "BinaryDataByteOrderMSB" in fields else "ElementByteOrderMSB"
    big = _true(path, fields, order, "False")
    code = _TYPES.get(fields["ElementType"].upper())
    if code is None:
        raise broken(path, f"its header declares the unknown type '{fields['ElementType'][:20]}'")
    return Header(
        path=path,
        data=data,
        encoding="zlib" if compressed else "raw",
        start=start,
        skip=0,
        grid=_grid(path, fields, shape, len(sizes), stated),
        dtype=np.dtype(code).newbyteorder(">" if big else "<"),
        channels=channels[0],
        interleaved=True,
        texts=fields,
    )


def _fields(path: Path) -> tuple[dict[str, str], int]:
    fields: dict[str, str] = {}
    with path.open("rb") as file:
        while "ElementDataFile" not in fields:
            line = file.readline(1 << 16)
            key, equals, value = line.decode("utf-8", "replace").partition("=")
            if not equals or file.tell() > _LONGEST_HEADER:
                if "NDims" in fields:
                    raise broken(path, "its header does not end with 'ElementDataFile'")
                file.seek(0)
                raise headless(path, "a MetaImage", file.read(400))
            fields[key.strip()] = value.strip()
        return fields, file.tell()


def _grid(
    path: Path, fields: dict[str, str], shape: tuple[int, int, int], dimensions: int, stated: StatedGrid | None
) -> Geometry:
    matrix = next((name for name in ("TransformMatrix", "Rotation", "Orientation") if name in fields), None)
    origin = next((name for name in ("Offset", "Position", "Origin") if name in fields), None)
    spaced = "ElementSpacing" if "ElementSpacing" in fields else None
    for name, there in (("TransformMatrix", matrix), ("ElementSpacing", spaced), ("Offset", origin)):
        if there is None:
            return placed_by_user(path, stated, f"no '{name}'", shape)
    axes = np.reshape(_numbers(path, fields, matrix, dimensions**2), (dimensions, dimensions)).T[:3, :3]
    spacing = _numbers(path, fields, spaced, dimensions)[:3]
    return grid_of_axes(path, shape, axes * spacing, _numbers(path, fields, origin, dimensions)[:3], spacing)


def _refuse_other_scales(path: Path, fields: dict[str, str]) -> None:
    """Tags that change values or lengths, and that most readers pass over."""
    for name, plain in (("ElementToIntensityFunctionSlope", 1.0), ("ElementToIntensityFunctionOffset", 0.0)):
        if name in fields and _numbers(path, fields, name, 1)[0] != plain:
            raise GeometryError(
                f"{path}: its values are to be scaled ('{name}' is {fields[name][:20]}), which many readers don't do.",
                "Save the image with its real values.",
            )
    if fields.get("DistanceUnits", "mm") not in ("mm", "?", ""):
        raise GeometryError(
            f"{path}: states its grid in {fields['DistanceUnits'][:20]}; expected mm.", "Save it in mm."
        )


def _true(path: Path, fields: dict[str, str], name: str, default: str) -> bool:
    said = fields.get(name, default).strip().lower()
    if said[:1] not in ("t", "1", "y", "f", "0", "n"):
        raise broken(path, f"its '{name}' is '{said[:20]}'; expected True or False")
    return said[0] in "t1y"


def _numbers(path: Path, fields: dict[str, str], name: str | None, count: int) -> np.ndarray:
    said = fields[name or ""]
    try:
        numbers = [float(word) for word in said.split()]
    except ValueError as error:
        raise broken(path, f"its '{name}' is '{said[:40]}'") from error
    if len(numbers) != count:
        raise broken(path, f"its '{name}' has {len(numbers)} numbers ({said[:40]}); expected {count}")
    return np.array(numbers)
