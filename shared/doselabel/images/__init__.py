"""Image files in and out: the one door through which voxels enter. Knows files and grids; no organs, no units.

A file is trusted no more than it deserves: its header is read first, its grid and size are compared with what is
expected, and then exactly the voxels it declares are read from the file that was named, with its checksums.
"""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from doselabel.errors import GeometryError
from doselabel.grid import Geometry, StatedGrid, Volume
from doselabel.images import metaimage, nrrd
from doselabel.images.header import Header, broken
from doselabel.images.stream import Voxels, cut_off, packed_as

__all__ = ["SUFFIXES", "read_grid", "read_header", "read_image", "slabs", "write_image"]

SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd")
MAX_BYTES = 1 << 33
"""An image of more than 8 GiB is no CT and no SPECT."""


def read_image(
    path: str | Path,
    *,
    expect: Geometry | None = None,
    stated: StatedGrid | None = None,
    within: str | Path | None = None,
    max_bytes: int = MAX_BYTES,
) -> Volume:
    """Read a 3D scalar image (NIfTI-1, NIfTI-2, NRRD, MetaImage).

    Parameters
    ----------
    path : path
    expect : Geometry, optional
        The grid it must lie on; another one is refused before a voxel is read.
    stated : StatedGrid, optional
        Orientation and spacing, for a file that states none. A file that does is read by its own.
    within : path, optional
        The study folder inside which a header may have its voxels in another file. Default: nowhere.
    max_bytes : int
        An image that declares more is refused before a voxel is read.

    Returns
    -------
    Volume
        With the file's data type; float32 where the file states a slope or intercept (float64 for a float64 file).

    Raises
    ------
    GeometryError
        When the file is missing, is not an image, is cut off or damaged, is not 3D, does not say where it is, or holds
        vectors, NaN or infinity.
    """
    header = read_header(path, stated=stated, within=within, max_bytes=max_bytes)
    if header.channels != 1:
        raise GeometryError(
            f"{header.path}: has {header.channels} values per voxel; expected a 3D image with one.",
            "Split a time series into one file per time point.",
        )
    if expect is not None and not header.grid.same_place(expect):
        raise GeometryError(
            f"{header.path}: lies on a grid of {header.grid.words()}; expected {expect.words()}.",
            "Resample it onto that grid first.",
        )
    array = np.empty(header.grid.shape, _real_type(header))
    bad = 0
    direct = array.dtype == header.dtype and not header.scaled
    for z, slab in enumerate(slabs(header, array if direct else None)):
        if not direct:
            array[z] = slab[0]
        if array.dtype.kind == "f":
            bad += slab.size - np.count_nonzero(np.isfinite(array[z]))
    if bad:
        raise GeometryError(
            f"{header.path}: holds {bad} value(s) that are not finite (NaN or infinity).",
            "Export it again; a mask of 'no data' must be 0 in a SPECT and −1000 HU in a CT.",
        )
    return Volume(array, header.grid)


def read_grid(path: str | Path, *, stated: StatedGrid | None = None, within: str | Path | None = None) -> Geometry:
    """The grid an image file declares, without reading its voxels; raises as `read_image` does."""
    return read_header(path, stated=stated, within=within).grid


def read_header(
    path: str | Path,
    *,
    stated: StatedGrid | None = None,
    within: str | Path | None = None,
    max_bytes: int = MAX_BYTES,
) -> Header:
    """What an image file declares; raises as `read_image` does, for what can be known without reading voxels."""
    path = Path(path)
    if path.is_dir():
        raise GeometryError(
            f"{path}: is a folder; expected one image file ({', '.join(SUFFIXES)}).",
            "Convert a folder of DICOM slices to one NIfTI file, with its orientation.",
        )
    if not path.is_file():
        raise GeometryError(f"{path}: there is no such file.", "Check the path, or the name in study.json.")
    name = path.name.lower()
    if not name.endswith(SUFFIXES):
        raise GeometryError(
            f"{path}: is not a kind of image that can be read; expected one of {', '.join(SUFFIXES)}.",
            "Convert it to NIfTI.",
        )
    inside = Path(within) if within is not None else None
    with _opening(path):
        if name.endswith((".nii", ".nii.gz")):
            from doselabel.images import nifti  # nibabel brings pydicom: tenths of a second for who reads none

            header = nifti.read_header(path, stated)
        elif name.endswith(".nrrd"):
            header = nrrd.read_header(path, stated, inside)
        else:
            header = metaimage.read_header(path, stated, inside)
    if header.byte_count > max_bytes:
        several = f" with {header.channels} values per voxel" if header.channels > 1 else ""
        raise GeometryError(
            f"{path}: declares {_size(header.byte_count)} of voxels ({header.grid.words()}){several}; at most "
            f"{_size(max_bytes)} are read here.",
            "Is it the right file? If it is, save it with one value per voxel, of a smaller type, or crop it.",
        )
    return header


def _size(byte_count: int) -> str:
    return f"{byte_count / 1e9:.1f} GB" if byte_count >= 1e8 else f"{byte_count / 1e6:.1f} MB"


@contextmanager
def _opening(path: Path) -> Iterator[None]:
    """What the system says of a file that it will not open or read, as an error of ours."""
    try:
        yield
    except OSError as error:
        raise GeometryError(
            f"{path}: can't be read: {error.strerror or error}.", "Mend the file's permissions, or copy it again."
        ) from error


def slabs(header: Header, into: np.ndarray | None = None) -> Iterator[np.ndarray]:
    """The voxels in pieces, each checked for being there, the end for length and checksum.

    Parameters
    ----------
    header : Header
    into : array, optional
        Filled with the voxels (z, y, x), when the header has one channel and neither scaling nor another byte order.

    Yields
    ------
    (channels, y, x) array
        The planes z = 0, 1, … of an image or of an interleaved one, or, where volumes follow one another, (1, y, x)
        planes of volume 0, 1, …. Real values in the machine's byte order; valid until the next one.
    """
    z, y, x = header.grid.shape
    together = header.channels if header.interleaved else 1
    count = z if header.interleaved else z * header.channels
    stored = np.empty((y, x, together), header.dtype)
    declared, read = header.byte_count, 0
    with _opening(header.data), Voxels(header.data, header.encoding, header.start) as stream:
        packed = packed_as(stream.peek())
        if header.encoding not in ("raw", packed):
            raise broken(header.path, f"its header says that its voxels are packed ({header.encoding}); they are not")
        if header.skip + declared > stream.at_most:
            if header.encoding == "raw" and packed != "raw":
                raise broken(header.path, f"its header says that its voxels are not packed; they seem to be ({packed})")
            there = max(0, stream.at_most - header.skip)
            raise cut_off(header.path, declared, there, at_most=header.encoding != "raw")
        stream.read(header.skip)
        for number in range(count):
            target: np.ndarray = stored if into is None else into[number]
            read += stream.fill(memoryview(target).cast("B"))  # type: ignore[arg-type]
            if read < (number + 1) * stored.nbytes:
                raise cut_off(header.path, declared, read)
            yield into[number][None] if into is not None else _real(header, np.moveaxis(stored, 2, 0))
        stream.finish(declared)


def _real_type(header: Header) -> np.dtype:
    if not header.scaled:
        return header.dtype.newbyteorder("=")
    return np.dtype(np.float64 if header.dtype.kind == "f" and header.dtype.itemsize == 8 else np.float32)


def _real(header: Header, stored: np.ndarray) -> np.ndarray:
    if not header.scaled:
        return stored.astype(_real_type(header), copy=False)
    return (stored.astype(np.float64) * header.slope + header.intercept).astype(_real_type(header))


def write_image(path: str | Path, volume: Volume, metadata: dict[str, str] | None = None) -> Path:
    """Write a volume atomically: a reader sees the old file or the new one, never half of one.

    Raises
    ------
    OSError
        When the disk does not take it; the old file is unchanged.
    """
    path = Path(path)
    image = volume.to_sitk()
    for key, value in (metadata or {}).items():
        image.SetMetaData(key, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = next((s for s in SUFFIXES if path.name.lower().endswith(s) and s != ".mhd"), None)
    if suffix is None:
        raise GeometryError(
            f"{path}: is not a kind of image that can be written; expected .nii.gz, .nii, .nrrd or .mha."
        )
    handle, temporary = tempfile.mkstemp(suffix=suffix, prefix=".writing-", dir=path.parent)
    os.close(handle)
    try:
        _write(image, temporary, volume.array.nbytes, packed=suffix != ".nii")
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return path


def _write(image: sitk.Image, file: str, byte_count: int, *, packed: bool) -> None:
    """Write a file and read it again: on a full disk ITK's NIfTI writer leaves a part of one, and says nothing."""
    try:
        sitk.WriteImage(image, file, useCompression=packed)
        for _ in slabs(read_header(file)):
            pass
    except (RuntimeError, GeometryError) as error:
        with open(file, "wb") as probe:  # the system's own word for what is wrong
            probe.write(bytes(byte_count))
            probe.flush()
            os.fsync(probe.fileno())
        raise OSError(errno.EIO, f"The image was not written whole ({error})", file) from error
