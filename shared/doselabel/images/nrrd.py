"""Headers of NRRD files. Knows no voxels.

Source: the format's definition (teem, "NRRD0001" to "NRRD0005"): fields, key/value pairs, encodings, spaces.
"""

from __future__ import annotations

import re
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
    sizes = whole_numbers(path, "sizes", fields["sizes"])
    if whole_numbers(path, "dimension", fields["dimension"]) != [len(sizes)]:
        raise broken(path, f"its 'dimension' is {fields['dimension'][:20]} and its 'sizes' are {fields['sizes'][:40]}")
    if "old min" in fields and "old max" in fields:
        raise GeometryError(
            f"{path}: its values stand for others ('old min' {fields['old min'][:20]}, 'old max' "
            f"{fields['old max'][:20]}).",
            "Save the image with its real values.",
        )
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
        first = file.readline(400)
        if not (version := re.fullmatch(rb"NRRD000(\d)\r?\n", first)):
            raise headless(path, "an NRRD", first)
        if not 1 <= int(version[1]) <= 5:
            raise broken(path, f"its version is {int(version[1])}; versions 1 to 5 are known")
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
                key, colon, value = text.partition(":")
                name = _FIELD_NAMES.get(key.strip().lower(), key.strip().lower())
                if not colon or name in fields:
                    found = f"the field '{name[:20]}' twice" if colon else f"the line '{text[:20]}', which is no field"
                    raise broken(path, f"its header has {found}")
                fields[name] = value.strip()
        return fields, texts, file.tell()


_FIELD_NAMES = {"datafile": "data file", "lineskip": "line skip", "byteskip": "byte skip"}


def _data(path: Path, fields: dict[str, str], start: int, within: Path | None) -> tuple[Path, int]:
    name = fields.get("data file")
    if any(any(whole_numbers(path, skip, fields.get(skip, "0"))) for skip in ("line skip", "byte skip")):
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
    order = {"little": "<", "big": ">"}.get(fields.get("endian", "little").lower())
    if order is None:
        raise broken(path, f"its 'endian' is '{fields['endian'][:20]}'; expected little or big")
    return dtype.newbyteorder(order)  # type: ignore[arg-type]


_IN_SPACE = ("domain", "space", "???", "none")


def _channel_axis(path: Path, fields: dict[str, str], dimensions: int) -> int | None:
    """Which axis is no axis of space."""
    kinds = fields.get("kinds", "").lower().split()
    if dimensions == 3:
        if odd := [kind for kind in kinds if kind not in _IN_SPACE]:
            raise GeometryError(
                f"{path}: one of its three axes is of the kind '{odd[0][:20]}', none of space; expected a 3D image.",
                "Save it as a 3D image.",
            )
        return None
    vectors = _vectors(fields.get("space directions", ""))
    none = [axis for axis, vector in enumerate(vectors) if vector is None]
    if not none:
        none = [axis for axis, kind in enumerate(kinds) if kind not in _IN_SPACE]
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
    units = set(re.findall(r'"([^"]*)"', fields.get("space units", "") + fields.get("units", ""))) - {"mm", "", "???"}
    if units:
        raise GeometryError(f"{path}: states its grid in {', '.join(sorted(units))}; expected mm.", "Save it in mm.")
    sign = np.array(_SPACES[space], dtype=float)
    if "space origin" not in fields:
        return placed_by_user(path, stated, "no 'space origin'", shape)
    origins = _vectors(fields["space origin"])
    if [len(v) for v in vectors] != [3, 3, 3] or [len(v or ()) for v in origins] != [3]:
        raise broken(path, "its 'space directions' or 'space origin' are not those of three axes")
    axes, origin = np.array(vectors, dtype=float), np.array(origins[0], dtype=float)
    return grid_of_axes(path, shape, axes.T * sign[:, None] + 0.0, origin * sign + 0.0)


def _vectors(text: str) -> list[list[float] | None]:
    found: list[list[float] | None] = []
    for match in re.finditer(r"none|\(([^)]*)\)", text):
        try:
            found.append([float(v) for v in match[1].split(",")] if match[1] is not None else None)
        except ValueError:
            found.append([float("nan")] * 3)
    return found
