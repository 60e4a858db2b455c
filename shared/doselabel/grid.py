"""Voxel grids in patient space. It knows axes and millimetres; it knows no files and no organs.

Concepts
--------
*array order*
    Arrays are indexed ``[z, y, x]``: the last axis is the first axis of the file.
*patient space*
    Points are (x, y, z) in millimetres, LPS: x grows to the patient's left, y to posterior, z to superior
    (DICOM PS3.3 C.7.6.2). NIfTI files store RAS; SimpleITK converts both ways.
*canonical orientation*
    "LPI" as SimpleITK names it: index x grows to the patient's left, y to posterior, z to inferior, so slice 0
    is the topmost. It is reached by swapping and flipping axes alone: it loses nothing, and `restore` undoes
    it exactly. An oblique image stays oblique; its axes are only put in the nearest canonical order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import SimpleITK as sitk

from doselabel.errors import GeometryError

SAME_PLACE_TOL_MM = 1e-2
"""Two grids count as the same when no corner differs by more than this (file formats keep float32)."""


@dataclass(frozen=True)
class Geometry:
    """A voxel grid in patient space.

    Attributes
    ----------
    shape : tuple of int
        Number of voxels (z, y, x).
    spacing_mm : tuple of float
        Distance of voxel centres (z, y, x), mm.
    origin_mm : tuple of float
        LPS position (x, y, z) of the centre of voxel [0, 0, 0], mm.
    direction : tuple of float
        3×3 row-major matrix whose columns are the LPS unit vectors of the x, y and z index axes.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    origin_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    direction: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)

    @classmethod
    def from_sitk(cls, image: sitk.Image) -> Geometry:
        """Take the grid of a 3D SimpleITK image."""
        sx, sy, sz = image.GetSize()
        dx, dy, dz = image.GetSpacing()
        ox, oy, oz = image.GetOrigin()
        return cls((sz, sy, sx), (dz, dy, dx), (ox, oy, oz), tuple(image.GetDirection()))

    def to_sitk(self, array: np.ndarray) -> sitk.Image:
        """Make a SimpleITK image of ``array`` (z, y, x) on this grid."""
        if array.shape != self.shape:
            raise GeometryError(
                f"An array of shape {array.shape} was given for a grid of {self.shape} (z, y, x).",
                "Resample the image onto the grid first.",
            )
        if array.dtype == bool:
            array = array.astype(np.uint8)
        image = sitk.GetImageFromArray(np.ascontiguousarray(array))
        self._stamp(image)
        return image

    def _stamp(self, image: sitk.Image) -> None:
        image.SetSpacing(self.spacing_mm[::-1])
        image.SetOrigin(self.origin_mm)
        image.SetDirection(self.direction)

    @property
    def voxel_volume_ml(self) -> float:
        """Volume of one voxel, mL."""
        return float(np.prod(self.spacing_mm)) / 1000.0

    @cached_property
    def affine_lps(self) -> np.ndarray:
        """4×4 matrix from index (x, y, z, 1) to LPS mm."""
        affine = np.eye(4)
        affine[:3, :3] = np.reshape(self.direction, (3, 3)) * np.asarray(self.spacing_mm[::-1])
        affine[:3, 3] = self.origin_mm
        return affine

    def index_to_lps(self, index_zyx: np.ndarray) -> np.ndarray:
        """LPS points (…, 3: x, y, z) mm of (fractional) indices (…, 3: z, y, x)."""
        index_xyz = np.asarray(index_zyx, dtype=float)[..., ::-1]
        return index_xyz @ self.affine_lps[:3, :3].T + self.affine_lps[:3, 3]

    def lps_to_index(self, points_mm: np.ndarray) -> np.ndarray:
        """Fractional indices (…, 3: z, y, x) of LPS points (…, 3: x, y, z) mm."""
        inverse = np.linalg.inv(self.affine_lps)
        return (np.asarray(points_mm, dtype=float) @ inverse[:3, :3].T + inverse[:3, 3])[..., ::-1]

    def corners_lps(self) -> np.ndarray:
        """LPS positions (8, 3) mm of the outer corner voxels' centres."""
        high = np.asarray(self.shape) - 1
        corners = np.array([[z, y, x] for z in (0, high[0]) for y in (0, high[1]) for x in (0, high[2])])
        return self.index_to_lps(corners)

    def same_place(self, other: Geometry, tol_mm: float = SAME_PLACE_TOL_MM) -> bool:
        """Whether both grids have the same shape and all corners within ``tol_mm``."""
        return self.shape == other.shape and bool(np.abs(self.corners_lps() - other.corners_lps()).max() <= tol_mm)

    def words(self) -> str:
        """Shape, voxel size and place, for a reader."""
        shape = "×".join(str(v) for v in self.shape)
        spacing = " × ".join(f"{v:.3g}" for v in self.spacing_mm)
        origin = ", ".join(f"{v:.1f}" for v in self.origin_mm)
        return f"{shape} voxels of {spacing} mm (z, y, x), the first at ({origin}) mm"

    def overlaps(self, other: Geometry) -> bool:
        """Whether the boxes around both grids share any point of patient space."""
        a, b = self.corners_lps(), other.corners_lps()
        return bool(np.all(a.max(0) >= b.min(0)) and np.all(b.max(0) >= a.min(0)))

    def with_spacing(self, spacing_mm: tuple[float, float, float]) -> Geometry:
        """Cover the same box with voxels of another size (z, y, x); edges, not centres, are kept."""
        old, new = np.asarray(self.spacing_mm), np.asarray(spacing_mm, dtype=float)
        shape = np.maximum(1, np.ceil(np.asarray(self.shape) * old / new - 1e-6)).astype(int)
        origin = self.index_to_lps(-0.5 + 0.5 * new / old)
        return Geometry(int3(shape), float3(new), float3(origin), self.direction)


@dataclass(frozen=True)
class Volume:
    """An array (z, y, x) and the grid it lives on."""

    array: np.ndarray
    geometry: Geometry

    def __post_init__(self) -> None:
        if self.array.shape != self.geometry.shape:
            raise GeometryError(
                f"An array of shape {self.array.shape} was given with a grid of {self.geometry.shape} (z, y, x)."
            )

    def to_sitk(self) -> sitk.Image:
        """Make a SimpleITK image of this volume."""
        return self.geometry.to_sitk(self.array)

    @classmethod
    def from_sitk(cls, image: sitk.Image) -> Volume:
        """Take array and grid of a 3D SimpleITK image."""
        return cls(sitk.GetArrayFromImage(image), Geometry.from_sitk(image))


@dataclass(frozen=True)
class StatedGrid:
    """What a user states of a file that does not say where its voxels are.

    Attributes
    ----------
    orientation : str
        Where the file's three axes point, first axis first: one each of L/R, A/P, S/I. "LPS": the first axis grows to
        the patient's left, the second to posterior, the third to superior.
    spacing_mm : tuple of float
        Distance of voxel centres along the file's first, second and third axis, mm.
    """

    orientation: str
    spacing_mm: tuple[float, float, float]

    def __post_init__(self) -> None:
        letters = self.orientation.upper()
        if sorted("LPS".find(_TO_LPS.get(letter, "?")) for letter in letters) != [0, 1, 2]:
            raise GeometryError(
                f"'{self.orientation}' is no orientation; expected three letters, one each of L/R, A/P and S/I.",
                "LPS says that the axes grow to the patient's left, to posterior and to superior.",
            )
        if len(self.spacing_mm) != 3 or not all(0 < value < 1000 for value in self.spacing_mm):
            raise GeometryError(f"{self.spacing_mm} is no spacing; expected three lengths in mm, first axis first.")

    def grid(self, shape: tuple[int, int, int]) -> Geometry:
        """The grid of ``shape`` (z, y, x), its first voxel at 0."""
        direction = np.zeros((3, 3))
        for axis, letter in enumerate(self.orientation.upper()):
            direction["LPS".index(_TO_LPS[letter]), axis] = 1 if letter in "LPS" else -1
        return Geometry(shape, float3(self.spacing_mm[::-1]), direction=tuple(float(v) for v in direction.ravel()))


_TO_LPS = {"L": "L", "R": "L", "P": "P", "A": "P", "S": "S", "I": "S"}


def int3(values: Sequence[int] | np.ndarray) -> tuple[int, int, int]:
    """Three whole numbers."""
    a, b, c = (int(v) for v in values)
    return a, b, c


def float3(values: Sequence[float] | np.ndarray) -> tuple[float, float, float]:
    """Three numbers."""
    a, b, c = (float(v) for v in values)
    return a, b, c
