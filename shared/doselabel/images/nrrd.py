"""Headers of NRRD files. Knows no voxels.

Source: the format's definition (teem, "NRRD0001" to "NRRD0005"): fields, key/value pairs, encodings, spaces.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from doselabel.errors import GeometryError
from doselabel.grid import Geometry, StatedGrid
from doselabel.images.header import Header, broken, checked_shape, detached, grid_of_axes, placed_by_user
from doselabel.images.stream import Encoding

_LONGEST_HEADER = 1 << 24
_TYPES = {
    "i1": "signed char|int8|int8_t",
    "u1": "uchar|unsigned char|uint8|uint8_t",
    "i2": "short|short int|signed short|signed short int|int16|int16_t",
    "u2": "ushort|unsigned short|unsigned short int|uint16|uint16_t",
    "i4": "int|signed int|int32|int32_t",
    "u4": "uint|unsigned int|uint32|uint32_t",
    "i8": "longlong|long long|long long int|signed long long|signed long long int|int64|int64_t",
    "u8": "ulonglong|unsigned long long|unsigned long long int|uint64|uint64_t",
    "f4": "float",
    "f8": "double",
}
_SPACES = {
    "left-posterior-superior": (1, 1, 1),
    "lps": (1, 1, 1),
    "right-anterior-superior": (-1, -1, 1),
    "ras": (-1, -1, 1),
    "left-anterior-superior": (1, -1, 1),
    "las": (1, -1, 1),
}
_ENCODINGS: dict[str, Encoding] = {"raw": "raw", "gzip": "gzip", "gz": "gzip"}


def read_header(path: Path, stated: StatedGrid | None, within: Path | None) -> Header:
    """Read an NRRD header."""
    fields, texts, start = _fields(path)
    for name in ("type", "dimension", "sizes", "encoding"):
        if name not in fields:
            raise broken(path, f"its header has no '{name}'")
    data, start = _data(path, fields, start, within)
    encoding = _ENCODINGS.get(fields["encoding"].lower())
    if encoding is None:
        raise GeometryError(
            f"{path}: its voxels are encoded as '{fields['encoding'][:20]}'; expected raw or gzip.",
            "Save it again as NRRD with gzip, or as NIfTI.",
        )
    sizes = _numbers(path, "sizes", fields["sizes"], int)
    axis = _channel_axis(path, fields, len(sizes))
    channels = int(sizes.pop(axis)) if axis is not None else 1
    shape = checked_shape(path, [int(v) for v in sizes])
    return Header(
        path=path,
        data=data,
        encoding=encoding,
        start=start,
        skip=0,
        grid=_grid(path, fields, shape, stated),
        dtype=_dtype(path, fields),
        channels=channels,
        interleaved=axis == 0,
        texts=texts,
    )


def _fields(path: Path) -> tuple[dict[str, str], dict[str, str], int]:
    """Fields, key/value pairs, and where the voxels begin."""
    with path.open("rb") as file:
        if not re.fullmatch(rb"NRRD000\d\r?\n", file.readline(32)):
            raise broken(path, "it does not begin with an NRRD header")
        fields: dict[str, str] = {}
        texts: dict[str, str] = {}
        while True:
            line = file.readline(_LONGEST_HEADER)
            if not line or file.tell() > _LONGEST_HEADER:
                if fields.get("data file"):  # a detached header may end with the file
                    break
                raise broken(path, "its header does not end")
            text = line.decode("utf-8", "replace").rstrip("\r\n")
            if not text:
                break
            if text.startswith("#"):
                continue
            if ":=" in text and (": " not in text or text.index(":=") < text.index(": ")):
                key, _, value = text.partition(":=")
                texts[key.strip()] = value
            else:
                key, _, value = text.partition(":")
                fields[_FIELD_NAMES.get(key.strip().lower(), key.strip().lower())] = value.strip()
        return fields, texts, file.tell()


_FIELD_NAMES = {"datafile": "data file", "lineskip": "line skip", "byteskip": "byte skip"}


def _data(path: Path, fields: dict[str, str], start: int, within: Path | None) -> tuple[Path, int]:
    name = fields.get("data file")
    if int(fields.get("line skip", "0") or 0) or int(fields.get("byte skip", "0") or 0):
        raise GeometryError(f"{path}: skips lines or bytes before its voxels.", "Save it again without 'byte skip'.")
    if name is None:
        return path, start
    if name.upper().startswith("LIST") or "%" in name:
        raise GeometryError(f"{path}: its voxels are in many other files.", "Save it as one file.")
    return detached(path, name, within), 0


def _dtype(path: Path, fields: dict[str, str]) -> np.dtype:
    name = " ".join(fields["type"].lower().split())
    code = next((code for code, names in _TYPES.items() if name in names.split("|")), None)
    if code is None:
        raise broken(path, f"its header declares the unknown type '{name[:20]}'")
    dtype = np.dtype(code)
    if dtype.itemsize > 1 and "endian" not in fields:
        raise broken(path, "its header has no 'endian'")
    return dtype.newbyteorder(">" if fields.get("endian", "little").lower() == "big" else "<")


def _channel_axis(path: Path, fields: dict[str, str], dimensions: int) -> int | None:
    """Which axis is no axis of space."""
    if dimensions == 3:
        return None
    vectors = _vectors(fields.get("space directions", ""))
    none = [axis for axis, vector in enumerate(vectors) if vector is None]
    kinds = fields.get("kinds", "").lower().split()
    if not none:
        none = [axis for axis, kind in enumerate(kinds) if kind not in ("domain", "space", "???")]
    if dimensions == 4 and len(none) == 1 and none[0] in (0, 3):
        return none[0]
    if dimensions == 4 and not none:
        return 3
    raise GeometryError(
        f"{path}: has {dimensions} dimensions; expected a 3D image.",
        "Split a time series into one file per time point.",
    )


def _grid(path: Path, fields: dict[str, str], shape: tuple[int, int, int], stated: StatedGrid | None) -> Geometry:
    space = fields.get("space", "").lower()
    vectors = [v for v in _vectors(fields.get("space directions", "")) if v is not None]
    if not space:
        return placed_by_user(path, stated, "no 'space'", shape)
    if not vectors:
        return placed_by_user(path, stated, "no 'space directions'", shape)
    if space not in _SPACES:
        raise GeometryError(
            f"{path}: its 'space' is '{space[:40]}'; expected left-posterior-superior, right-anterior-superior or "
            "left-anterior-superior.",
            "Save it again in patient space.",
        )
    units = set(re.findall(r'"([^"]*)"', fields.get("space units", ""))) - {"mm", ""}
    if units:
        raise GeometryError(f"{path}: states its grid in {', '.join(sorted(units))}; expected mm.", "Save it in mm.")
    sign = np.array(_SPACES[space], dtype=float)
    axes = np.array(vectors[:3], dtype=float)
    origin = _vectors(fields.get("space origin", "(0,0,0)"))[0]
    if axes.shape != (3, 3) or origin is None or len(origin) != 3:
        raise broken(path, "its 'space directions' or 'space origin' are not those of three axes")
    return grid_of_axes(path, shape, axes.T * sign[:, None] + 0.0, np.array(origin) * sign + 0.0)


def _vectors(text: str) -> list[list[float] | None]:
    found: list[list[float] | None] = []
    for match in re.finditer(r"none|\(([^)]*)\)", text):
        try:
            found.append([float(v) for v in match[1].split(",")] if match[1] is not None else None)
        except ValueError:
            found.append([float("nan")] * 3)
    return found


def _numbers(path: Path, name: str, text: str, kind: type) -> list:
    try:
        return [kind(v) for v in text.split()]
    except ValueError as error:
        raise broken(path, f"its '{name}' is '{text[:40]}'") from error
