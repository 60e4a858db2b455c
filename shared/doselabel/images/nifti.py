"""Headers of NIfTI-1 and NIfTI-2 files. Knows no voxels.

Sources: the NIfTI-1 header file nifti1.h (methods 1 to 3 of orientation, xyzt_units, extensions) and nifti2.h.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Literal

import nibabel
import numpy as np

from doselabel.errors import GeometryError
from doselabel.grid import Geometry, StatedGrid
from doselabel.images.header import (
    Header,
    broken,
    checked_shape,
    grid_of_axes,
    headless,
    placed_by_user,
    same_grid,
)
from doselabel.images.stream import GZIP_MAGIC, Encoding, Voxels

_LONGEST_HEADER = 1 << 24
_RAS_TO_LPS = np.diag([-1.0, -1.0, 1.0])


def read_header(path: Path, stated: StatedGrid | None) -> Header:
    """Read a NIfTI header, plain or gzipped, whatever the file's name says."""
    with path.open("rb") as file:
        encoding: Encoding = "gzip" if file.read(2) == GZIP_MAGIC else "raw"
    with Voxels(path, encoding) as stream:
        head = stream.read(544)
        kind = _kind(path, head)
        least = kind.single_vox_offset
        offset = float(kind.from_fileobj(io.BytesIO(head[: least - 4] + bytes(4)), check=False)["vox_offset"])
        if not least <= offset <= _LONGEST_HEADER:
            raise broken(path, f"its voxels would begin at byte {offset:g}")
        skip = int(offset)
        head += stream.read(skip - len(head)) if skip > len(head) else b""
    if len(head) < skip:
        raise broken(path, f"it ends in its header, after {len(head)} bytes")
    header = kind.from_fileobj(io.BytesIO(head[: least - 4] + bytes(4)), check=False)
    sizes = [int(v) for v in header["dim"][1 : 1 + int(header["dim"][0])]]
    channels = sizes.pop(3) if len(sizes) == 4 else 1
    if channels < 1:
        raise broken(path, f"its header declares {channels} volumes")
    shape = checked_shape(path, sizes)
    slope, intercept = _scaling(path, header)
    return Header(
        path=path,
        data=path,
        encoding=encoding,
        start=0,
        skip=skip,
        grid=_grid(path, header, shape, stated),
        dtype=_dtype(path, header),
        channels=channels,
        slope=slope,
        intercept=intercept,
        texts=_extensions(head[:skip], least, header.endianness),
    )


def _kind(path: Path, head: bytes) -> type[nibabel.nifti1.Nifti1Header]:
    orders: dict[int, Literal["little", "big"]] = {
        int.from_bytes(head[:4], order): order for order in ("little", "big")
    }
    second = 540 in orders
    magic = head[4:12] if second else head[344:348]
    if (second and magic.startswith(b"n+2")) or (348 in orders and magic == b"n+1\0"):
        count = int.from_bytes(head[16:24] if second else head[40:42], orders[540 if second else 348])
        if not 1 <= count <= 7:  # which is also how other readers tell the byte order
            raise broken(path, f"its header declares {count} dimensions")
        return nibabel.nifti2.Nifti2Header if second else nibabel.nifti1.Nifti1Header
    if magic.startswith((b"ni1", b"ni2")):
        raise GeometryError(
            f"{path}: is the header of a pair of files (.hdr and .img); its voxels are in another file.",
            "Save it as one file, .nii.gz.",
        )
    if 348 in orders and len(head) >= 348 and not magic.startswith(b"n"):
        raise GeometryError(
            f"{path}: is an ANALYZE 7.5 file, which does not say which side is left.",
            "Convert it to NIfTI with the orientation stated.",
        )
    raise headless(path, "a NIfTI", head)


def _dtype(path: Path, header: nibabel.nifti1.Nifti1Header) -> np.dtype:
    code = int(header["datatype"])
    try:
        dtype = np.dtype(header.get_data_dtype())
    except (KeyError, nibabel.spatialimages.HeaderDataError) as error:
        raise broken(path, f"its header declares the unknown data type {code}") from error
    if dtype.kind not in "iuf" or dtype.itemsize > 8:
        raise GeometryError(
            f"{path}: holds {_OTHER_TYPES.get(code, 'values')} (data type {code}); expected one number per voxel.",
            "Save it as integers or floats.",
        )
    return dtype


_OTHER_TYPES = {0: "values of no type", 1: "single bits", 32: "complex numbers", 128: "colours", 1536: "128-bit floats",
                1792: "complex numbers", 2048: "complex numbers", 2304: "colours"}  # fmt: skip


def _scaling(path: Path, header: nibabel.nifti1.Nifti1Header) -> tuple[float, float]:
    slope, intercept = float(header["scl_slope"]), float(header["scl_inter"])
    if np.isnan(slope) or (slope == 0 and (intercept == 0 or np.isnan(intercept))):
        return 1.0, 0.0  # nifti1.h: a slope of 0 says that there is no scaling; NaN is how nibabel writes that
    if slope == 0 or not np.isfinite([slope, intercept]).all():
        raise broken(path, f"it states a slope of {slope:g} and an intercept of {intercept:g}, which is no scaling")
    return slope, intercept


def _grid(
    path: Path, header: nibabel.nifti1.Nifti1Header, shape: tuple[int, int, int], stated: StatedGrid | None
) -> Geometry:
    unit = int(header["xyzt_units"]) & 7
    if unit in (1, 3):
        raise GeometryError(
            f"{path}: states its voxel size in {'metres' if unit == 1 else 'micrometres'}; expected millimetres.",
            "Save it with its voxel size in millimetres.",
        )
    qform = sform = None
    if int(header["sform_code"]) > 0:
        affine = np.array([header["srow_x"], header["srow_y"], header["srow_z"]], dtype=float)
        sform = _from_affine(path, shape, affine, np.abs(np.asarray(header["pixdim"][1:4], dtype=float)))
    if int(header["qform_code"]) > 0:
        if header["pixdim"][0] == 0:  # nifti1.h: a qfac of 0 is taken as 1
            header["pixdim"][0] = 1
        try:
            qform = _from_affine(path, shape, np.asarray(header.get_qform(), dtype=float)[:3])
        except (ValueError, nibabel.spatialimages.HeaderDataError) as error:
            raise broken(path, f"its qform makes no sense: {error}") from error
    if sform is None and qform is None:
        return placed_by_user(path, stated, "qform and sform codes are 0", shape)
    if sform is not None and qform is not None and (apart := same_grid(sform, qform)) is not None:
        raise GeometryError(
            f"{path}: its two statements of where it is differ by up to {apart:.1f} mm: qform says "
            f"{_words(qform)}, sform says {_words(sform)}.",
            "Keep the right one: export the image again, or write one of them into both.",
        )
    return sform or qform  # type: ignore[return-value]


def _from_affine(
    path: Path, shape: tuple[int, int, int], affine_ras: np.ndarray, spacing_mm: np.ndarray | None = None
) -> Geometry:
    lps = _RAS_TO_LPS @ affine_ras + 0.0  # no negative zeros
    return grid_of_axes(path, shape, lps[:, :3], lps[:, 3], spacing_mm)


def _words(grid: Geometry) -> str:
    axes = "".join(nibabel.aff2axcodes(np.diag([-1.0, -1.0, 1.0, 1.0]) @ grid.affine_lps))
    spacing = " × ".join(f"{v:.3g}" for v in grid.spacing_mm[::-1])
    origin = ", ".join(f"{v:.1f}" for v in grid.origin_mm)
    return f"axes {axes}, voxels {spacing} mm, first voxel at ({origin}) mm"


def _extensions(head: bytes, start: int, endianness: str) -> dict[str, str]:
    """Texts of the header's extensions by their code; nifti1.h: a flag of four bytes, then size, code, content."""
    texts: dict[str, str] = {}
    if len(head) <= start or not head[start - 4]:
        return texts
    order = "little" if endianness == "<" else "big"
    place = start
    while place + 8 <= len(head):
        size = int.from_bytes(head[place : place + 4], order)  # type: ignore[arg-type]
        code = int.from_bytes(head[place + 4 : place + 8], order)  # type: ignore[arg-type]
        if size < 8 or place + size > len(head):
            break
        texts[f"extension {code} at {place}"] = head[place + 8 : place + size].decode("utf-8", "replace").rstrip("\0 ")
        place += size
    return texts
