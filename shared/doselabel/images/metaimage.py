"""Headers of MetaImage files (.mha, .mhd). Knows no voxels.

Source: MetaIO's documentation of the MetaImage tags. ``TransformMatrix`` lists the axes' directions one after another.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from doselabel.errors import GeometryError
from doselabel.grid import Geometry, StatedGrid
from doselabel.images.header import Header, broken, checked_shape, detached, grid_of_axes, placed_by_user

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
    compressed = _true(fields.get("CompressedData", "False"))
    if not _true(fields.get("BinaryData", "True")):
        raise GeometryError(f"{path}: holds its voxels as text.", "Save it as binary.")
    if int(_numbers(path, fields, "HeaderSize", "0")[0]):
        raise GeometryError(f"{path}: skips bytes before its voxels ('HeaderSize').", "Save it again without.")
    name = fields["ElementDataFile"]
    data = path
    if name.upper() != "LOCAL":
        if name.upper().startswith("LIST") or "%" in name:
            raise GeometryError(f"{path}: its voxels are in many other files.", "Save it as one file.")
        data, start = detached(path, name, within), 0
    sizes = [int(v) for v in _numbers(path, fields, "DimSize")]
    shape = checked_shape(path, sizes)
    big = _true(fields.get("BinaryDataByteOrderMSB", fields.get("ElementByteOrderMSB", "False")))
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
        channels=int(_numbers(path, fields, "ElementNumberOfChannels", "1")[0]),
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
                raise broken(path, "it does not begin with a MetaImage header")
            fields[key.strip()] = value.strip()
        return fields, file.tell()


def _grid(
    path: Path, fields: dict[str, str], shape: tuple[int, int, int], dimensions: int, stated: StatedGrid | None
) -> Geometry:
    matrix = next((name for name in ("TransformMatrix", "Rotation", "Orientation") if name in fields), None)
    for name, there in (("TransformMatrix", matrix), ("ElementSpacing", "ElementSpacing" in fields)):
        if not there:
            return placed_by_user(path, stated, f"no '{name}'", shape)
    assert matrix is not None
    origin = next((name for name in ("Offset", "Position", "Origin") if name in fields), "Offset")
    try:
        axes = np.reshape(_numbers(path, fields, matrix), (dimensions, dimensions)).T[:3, :3]
        spacing = np.array(_numbers(path, fields, "ElementSpacing"))[:3]
        first = np.array(_numbers(path, fields, origin, "0 " * dimensions))[:3]
        return grid_of_axes(path, shape, axes * spacing, first, spacing)
    except ValueError as error:
        raise broken(path, f"its grid makes no sense: {error}") from error


def _true(text: str) -> bool:
    return text.strip().lower().startswith(("t", "1", "y"))


def _numbers(path: Path, fields: dict[str, str], name: str, default: str = "") -> list[float]:
    try:
        return [float(v) for v in fields.get(name, default).split()]
    except ValueError as error:
        raise broken(path, f"its '{name}' is '{fields.get(name, '')[:40]}'") from error
