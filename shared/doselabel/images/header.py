"""What an image file says of itself before a voxel is read; the checks that all kinds share. Knows no format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from doselabel.errors import GeometryError
from doselabel.grid import Geometry, StatedGrid, float3
from doselabel.images.stream import Encoding

SHEAR_TOL = 2e-3
"""Axes count as perpendicular when the cosine between any two is below this (0.1°)."""
FARTHEST_MM = 1e5
"""No scanner's coordinates are farther from their origin than 100 m."""
AGREE_TOL_MM = 0.5
"""Two statements of one grid agree when no corner differs by more than this, or by a quarter of a voxel."""


@dataclass(frozen=True)
class Header:
    """What a file declares.

    Attributes
    ----------
    path : Path
        The file named.
    data : Path
        Where its voxels are: the same file, unless they are detached.
    encoding : {"raw", "gzip", "zlib"}
    start : int
        Where the encoded voxels begin in ``data``.
    skip : int
        Decoded bytes before the first voxel.
    grid : Geometry
    dtype : numpy.dtype
        As stored, with its byte order.
    channels : int
        Values per voxel, or volumes in a series: 1 for an image.
    interleaved : bool
        Whether a voxel's values lie together (a vector image) or volume follows volume (a 4D NIfTI).
    slope, intercept : float
        Real value = slope × stored + intercept.
    texts : dict of str to str
        What else the header says, by key.
    """

    path: Path
    data: Path
    encoding: Encoding
    start: int
    skip: int
    grid: Geometry
    dtype: np.dtype
    channels: int = 1
    interleaved: bool = False
    slope: float = 1.0
    intercept: float = 0.0
    texts: Mapping[str, str] = field(default_factory=dict)

    @property
    def byte_count(self) -> int:
        """Bytes of all voxels, decoded."""
        z, y, x = self.grid.shape
        return z * y * x * self.channels * self.dtype.itemsize

    @property
    def scaled(self) -> bool:
        """Whether stored values are not the real ones."""
        return (self.slope, self.intercept) != (1.0, 0.0)


def broken(path: Path, found: str) -> GeometryError:
    """The error for a file whose header makes no sense."""
    return GeometryError(
        f"{path}: cannot be read as an image ({found}).",
        "Check that the file is complete and of the kind its name says; export it again if not.",
    )


_LOOKS_LIKE: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b", "gzip data (compressed twice?)"),
    (b"PK\x03\x04", "a zip archive"),
    (b"BZh", "bzip2 data"),
    (b"\xfd7zXZ", "xz data"),
    (b"\x28\xb5\x2f\xfd", "zstd data"),
    (b"\x1f\x9d", "data of compress (.Z)"),
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"II*\0", "a TIFF picture"),
    (b"MM\0*", "a TIFF picture"),
    (b"%PDF", "a PDF file"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"NRRD000", "an NRRD file"),
    (b"ObjectType", "a MetaImage file"),
    (b"NDims", "a MetaImage file"),
    (b"version https://git-lfs", "a pointer of Git LFS, whose file was not fetched"),
)
"""First bytes of what is found under an image's name."""


def headless(path: Path, kind: str, head: bytes) -> GeometryError:
    """The error for a file that does not begin with the header its name promises: says what it looks like instead."""
    looks = looks_like(head)
    return broken(path, f"it does not begin with {kind} header" + (f"; {looks}" if looks else ""))


def looks_like(head: bytes) -> str:
    """What a file is by its first bytes, as half a sentence; empty when they tell nothing."""
    start = head[:64].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if not head:
        return "it is empty"
    if head[128:132] == b"DICM":
        return "it looks like a DICOM file"
    if head[344:347] in (b"n+1", b"ni1"):
        size = int.from_bytes(head[:4], "little")
        return "it looks like a NIfTI file" if size == 348 else f"it states a header of {size} bytes, expected 348"
    if start.startswith((b"<!doctype html", b"<html")):
        return "it looks like a web page"
    if found := next((words for magic, words in _LOOKS_LIKE if head.startswith(magic)), None):
        return f"it looks like {found}"
    if not head.strip(b"\0"):
        return "it begins with zeros only"
    if all(9 <= byte <= 13 or 32 <= byte < 127 for byte in head[:64]):
        return f"it begins with the text {head[:20].decode().strip()!r}"
    return ""


def whole_numbers(path: Path, name: str, text: str) -> list[int]:
    """The whole numbers that a header's field lists; anything else raises GeometryError."""
    try:
        return [int(word) for word in text.split()]
    except ValueError as error:
        raise broken(path, f"its '{name}' is '{text[:40]}'; expected whole numbers") from error


def checked_shape(path: Path, sizes: Sequence[int]) -> tuple[int, int, int]:
    """Shape (z, y, x) of sizes (x, y, z, and ones); anything else raises GeometryError."""
    sizes = [int(size) for size in sizes]
    if any(size < 1 for size in sizes):
        raise broken(path, f"its header declares a size of {' × '.join(map(str, sizes))} voxels")
    if len(sizes) == 5 and sizes[3] == 1 and sizes[4] > 1:
        raise GeometryError(
            f"{path}: has 5 dimensions, with {sizes[4]} values per voxel (colours or a vector); expected a 3D image.",
            "Save it as integers or floats, one number per voxel.",
        )
    if len(sizes) < 3 or any(size != 1 for size in sizes[3:]):
        raise GeometryError(
            f"{path}: has {len(sizes)} dimensions ({' × '.join(map(str, sizes))}); expected a 3D image.",
            "Split a time series into one file per time point.",
        )
    return sizes[2], sizes[1], sizes[0]


def unplaced(path: Path, missing: str) -> GeometryError:
    """The error for a file that does not say where its voxels are."""
    return GeometryError(
        f"{path}: does not say where its voxels are in the patient ({missing}); left and right would be a guess.",
        "Export it again with its orientation. Of an image that a study names, orientation and spacing can be stated: "
        "`doselabel study place STUDY FILE --orientation LPS --spacing-mm X Y Z` keeps them in study.json.",
    )


def placed_by_user(path: Path, stated: StatedGrid | None, missing: str, shape: tuple[int, int, int]) -> Geometry:
    """The grid that a user stated for a file without one; raises GeometryError when there is none."""
    if stated is None:
        raise unplaced(path, missing)
    return stated.grid(shape)


def grid_of_axes(
    path: Path,
    shape: tuple[int, int, int],
    axes: np.ndarray,
    origin: np.ndarray,
    spacing_mm: np.ndarray | None = None,
) -> Geometry:
    """The grid of three step vectors.

    Parameters
    ----------
    axes : (3, 3) array
        Columns: the step (LPS, mm) from one voxel to the next along x, y and z of the file.
    origin : (3,) array
        LPS position of the first voxel, mm.
    spacing_mm : (3,) array, optional
        What the file states besides as distance of voxels along x, y, z; taken when it agrees to a part in 1000.

    Raises
    ------
    GeometryError
        When the spacing is another, the axes are sheared, or one has no length. Axes off perpendicular by rounding
        are put right about the image's middle.
    """
    spacing = np.linalg.norm(axes, axis=0)
    for stated in (spacing, *([spacing_mm] if spacing_mm is not None else [])):
        if not (np.isfinite(stated) & (stated > 1e-6)).all():
            raise broken(path, f"its voxel size is {' × '.join(f'{v:g}' for v in stated)} mm")
    if not (np.abs(origin) < FARTHEST_MM).all():
        raise broken(path, f"its first voxel is at ({', '.join(f'{v:g}' for v in origin)}) mm")
    cosines = axes / spacing
    if spacing_mm is not None:
        if not np.allclose(spacing_mm, spacing, rtol=1e-3):
            raise GeometryError(
                f"{path}: states two sizes of a voxel: {' × '.join(f'{v:.4g}' for v in spacing_mm)} mm, and "
                f"{' × '.join(f'{v:.4g}' for v in spacing)} mm by its axes.",
                "Keep the right one: export the image again.",
            )
        spacing = spacing_mm
    gram = cosines.T @ cosines
    worst = float(np.abs(gram - np.eye(3)).max())
    if worst > SHEAR_TOL:
        tilt = np.degrees(np.arcsin(min(worst, 1.0)))
        raise GeometryError(
            f"{path}: its axes are {tilt:.1f}° off perpendicular: gantry tilt (a sheared grid).",
            "Gantry tilt: resample first, onto a grid with perpendicular axes, when the series is converted.",
        )
    if worst > 1e-6:
        u, _, vt = np.linalg.svd(cosines)
        middle = (np.asarray(shape[::-1]) - 1) / 2
        moved = u @ vt
        origin = origin + (cosines - moved) * spacing @ middle
        cosines = moved
    direction = tuple(float(v) for v in cosines.ravel())
    return Geometry(shape, float3(spacing[::-1]), float3(origin), direction)


def same_grid(a: Geometry, b: Geometry) -> float | None:
    """How far (mm) two statements of one grid differ when that is too much; None when they agree."""
    tolerance = max(AGREE_TOL_MM, 0.25 * min(a.spacing_mm))
    apart = float(np.abs(a.corners_lps() - b.corners_lps()).max())
    return apart if apart > tolerance else None


def detached(path: Path, name: str, within: Path | None) -> Path:
    """The file that holds a header's voxels, when the header may point at one.

    Parameters
    ----------
    path : Path
        The header.
    name : str
        What it names.
    within : Path or None
        The study folder that both must lie in; None: nothing may be detached.

    Raises
    ------
    GeometryError
        Before anything of the other file is read.
    """
    shown = name if len(name) <= 80 else name[:77] + "…"
    if within is None:
        raise GeometryError(
            f"{path}: its voxels are in another file ('{shown}'), which is not read.",
            "Save it as one file: .nii.gz, .nrrd or .mha. Only files of a study, inside its folder, may come in two.",
        )
    try:
        data = (path.parent / name).resolve()
    except (OSError, ValueError, RuntimeError) as error:  # a name that can be none, a loop of links
        raise broken(path, f"its voxels are in {shown!r}, which is no name of a file") from error
    if not data.is_relative_to(within.resolve()):
        raise GeometryError(
            f"{path}: its voxels are in '{shown}', outside the study folder; that is not read.",
            "Save it as one file: .nii.gz, .nrrd or .mha.",
        )
    if not data.is_file():
        raise GeometryError(
            f"{path}: its voxels are in '{shown}', and there is no such file beside it.",
            "Copy that file too, or save the image as one file.",
        )
    return data
