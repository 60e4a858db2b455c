"""Where voxels are: orientation, spacing, reading, writing and resampling of 3D images.

The one place that knows axes and millimetres. It knows no organs and no files' meaning.

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

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import nibabel
import numpy as np
import SimpleITK as sitk
from scipy.optimize import linear_sum_assignment

from doselabel.errors import GeometryError

CANONICAL = "LPI"
SUFFIXES = (".nii.gz", ".nii", ".nrrd", ".mha", ".mhd")
SAME_PLACE_TOL_MM = 1e-2
"""Two grids count as the same when no corner differs by more than this (file formats keep float32)."""

Interpolation = Literal["linear", "nearest", "label"]


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

    def overlaps(self, other: Geometry) -> bool:
        """Whether the boxes around both grids share any point of patient space."""
        a, b = self.corners_lps(), other.corners_lps()
        return bool(np.all(a.max(0) >= b.min(0)) and np.all(b.max(0) >= a.min(0)))

    def with_spacing(self, spacing_mm: tuple[float, float, float]) -> Geometry:
        """Cover the same box with voxels of another size (z, y, x); edges, not centres, are kept."""
        old, new = np.asarray(self.spacing_mm), np.asarray(spacing_mm, dtype=float)
        shape = np.maximum(1, np.ceil(np.asarray(self.shape) * old / new - 1e-6)).astype(int)
        origin = self.index_to_lps(-0.5 + 0.5 * new / old)
        return Geometry(_int3(shape), _float3(new), _float3(origin), self.direction)


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


def read_image(path: str | Path) -> Volume:
    """Read a 3D scalar image (NIfTI, NRRD, MetaImage).

    Raises
    ------
    GeometryError
        When the file is missing, is not an image, is not 3D, or holds vectors, NaN or infinity.
    """
    path = Path(path)
    if not path.is_file():
        raise GeometryError(f"{path}: there is no such file.", "Check the path, or the name in study.json.")
    if not path.name.lower().endswith(SUFFIXES):
        raise GeometryError(
            f"{path}: is not a kind of image that can be read; expected one of {', '.join(SUFFIXES)}.",
            "Convert it to NIfTI.",
        )
    try:
        image = sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise GeometryError(
            f"{path}: cannot be read as an image ({_last_line(error)}).",
            "Check that the file is complete and of the kind its name says; export it again if not.",
        ) from error
    if image.GetDimension() == 4 and image.GetSize()[3] == 1:
        image = image[:, :, :, 0]
    if image.GetDimension() != 3 or image.GetNumberOfComponentsPerPixel() != 1:
        raise GeometryError(
            f"{path}: has {image.GetDimension()} dimensions and {image.GetNumberOfComponentsPerPixel()} "
            "component(s) per voxel; expected a 3D image with one.",
            "Split a time series into one file per time point.",
        )
    volume = Volume.from_sitk(image)
    _refuse_non_finite(path, volume)
    return volume


def _refuse_non_finite(path: Path, volume: Volume) -> None:
    if volume.array.dtype.kind != "f":
        return
    array = volume.array
    if path.name.lower().endswith((".nii", ".nii.gz")):
        # ITK's NIfTI reader turns NaN and infinity into 0 without a word, so look at the file itself.
        array = np.asanyarray(nibabel.nifti1.Nifti1Image.from_filename(path).dataobj)
    bad = array.size - np.count_nonzero(np.isfinite(array))
    if bad:
        raise GeometryError(
            f"{path}: holds {bad} value(s) that are not finite (NaN or infinity).",
            "Export it again; a mask of 'no data' must be 0 in a SPECT and −1000 HU in a CT.",
        )


def write_image(path: str | Path, volume: Volume, metadata: dict[str, str] | None = None) -> Path:
    """Write a volume atomically: a reader sees the old file or the new one, never half of one."""
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
        sitk.WriteImage(image, temporary, useCompression=suffix != ".nii")
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return path


def canonical(volume: Volume) -> Volume:
    """Bring a volume into canonical orientation by swapping and flipping axes only (lossless)."""
    return Volume.from_sitk(sitk.DICOMOrient(volume.to_sitk(), CANONICAL))


def oriented(volume: Volume) -> Volume:
    """Give `canonical` as a view: the array is the volume's own, transposed and flipped, so that nothing is copied."""
    geometry = volume.geometry
    grid = np.reshape(geometry.direction, (3, 3))
    # Which of our axes (x to the left, y to posterior, z to inferior) each of its axes lies along most closely.
    ours = {int(patient): int(axis) for axis, patient in zip(*linear_sum_assignment(-np.abs(grid.T)), strict=True)}
    axes = [ours[patient] for patient in range(3)]  # our x, y, z → its axis
    backwards = [grid[patient, axes[patient]] * (-1 if patient == 2 else 1) < 0 for patient in range(3)]
    array = volume.array.transpose([2 - axes[2 - k] for k in range(3)])
    array = np.flip(array, [k for k in range(3) if backwards[2 - k]])
    first = np.zeros(3)
    for patient in range(3):
        if backwards[patient]:
            first[2 - axes[patient]] = geometry.shape[2 - axes[patient]] - 1
    signs = [-1.0 if back else 1.0 for back in backwards]
    return Volume(
        array,
        Geometry(
            _int3(array.shape),
            _float3(np.asarray(geometry.spacing_mm)[[2 - axes[2 - k] for k in range(3)]]),
            _float3(geometry.index_to_lps(first)),
            tuple(float(v) for v in (grid[:, axes] * signs).ravel()),
        ),
    )


def restore(volume: Volume, native: Geometry) -> Volume:
    """Undo `canonical`: put a volume back on the native grid, voxel for voxel.

    Raises
    ------
    GeometryError
        When ``volume`` is not the canonical form of ``native``.
    """
    ours = np.reshape(volume.geometry.direction, (3, 3))
    theirs = np.reshape(native.direction, (3, 3))
    cosines = theirs.T @ ours  # [native axis, our axis], both x, y, z: a signed permutation
    source = np.abs(cosines).argmax(axis=1)
    array = volume.array.transpose([2 - source[2 - axis] for axis in range(3)])
    flipped = [axis for axis in range(3) if cosines[2 - axis, source[2 - axis]] < 0]
    array = np.ascontiguousarray(np.flip(array, flipped))
    back = Geometry(
        _int3(array.shape),
        _float3(np.asarray(volume.geometry.spacing_mm)[[2 - source[2 - axis] for axis in range(3)]]),
        _float3(volume.geometry.index_to_lps(_first_index(volume.geometry.shape, source, cosines))),
        native.direction,
    )
    if not np.allclose(np.abs(cosines).max(axis=1), 1, atol=1e-4) or not back.same_place(native):
        raise GeometryError(
            f"A volume of {volume.geometry.shape} does not fall back on the native grid {native.shape}.",
            "Resample it instead: it was not made by reorienting an image on that grid.",
        )
    return Volume(array, native)


def _first_index(shape: tuple[int, int, int], source: np.ndarray, cosines: np.ndarray) -> np.ndarray:
    """Index (z, y, x) in the reoriented array of the native grid's voxel [0, 0, 0]."""
    index = np.zeros(3)
    for native_axis, our_axis in enumerate(source):
        if cosines[native_axis, our_axis] < 0:
            index[2 - our_axis] = shape[2 - our_axis] - 1
    return index


def resample(
    volume: Volume,
    geometry: Geometry,
    *,
    interpolation: Interpolation = "linear",
    transform: np.ndarray | None = None,
    fill: float = 0.0,
) -> Volume:
    """Resample a volume onto another grid in physical space.

    Parameters
    ----------
    volume : Volume
        The moving image.
    geometry : Geometry
        The grid wanted.
    interpolation : {"linear", "nearest", "label"}
        "label" interpolates each label's indicator linearly and takes the strongest: smoother and less
        biased in volume than "nearest".
    transform : (4, 4) array, optional
        Maps LPS points of the moving image to the frame of ``geometry``, mm.
    fill : float
        Value outside the moving image.

    Returns
    -------
    Volume
        Same dtype as the input for labels, float32 for "linear".
    """
    if interpolation == "label":
        return _resample_label(volume, geometry, transform)
    linear = interpolation == "linear"
    moving = volume.to_sitk()
    if linear:
        moving = sitk.Cast(moving, sitk.sitkFloat32)
    resampler = sitk.ResampleImageFilter()
    resampler.SetSize(geometry.shape[::-1])
    resampler.SetOutputSpacing(geometry.spacing_mm[::-1])
    resampler.SetOutputOrigin(geometry.origin_mm)
    resampler.SetOutputDirection(geometry.direction)
    resampler.SetInterpolator(sitk.sitkLinear if linear else sitk.sitkNearestNeighbor)
    resampler.SetDefaultPixelValue(fill)
    if transform is not None:
        resampler.SetTransform(_sitk_affine(np.linalg.inv(check_rigid(transform))))
    return Volume(sitk.GetArrayFromImage(resampler.Execute(moving)), geometry)


def _resample_label(volume: Volume, geometry: Geometry, transform: np.ndarray | None) -> Volume:
    best = np.full(geometry.shape, 0.5, dtype=np.float32)
    result = np.zeros(geometry.shape, dtype=volume.array.dtype)
    for value in np.unique(volume.array):
        if value == 0:
            continue
        indicator = Volume((volume.array == value).astype(np.float32), volume.geometry)
        weight = resample(indicator, geometry, transform=transform).array
        won = weight >= best
        result[won] = value
        best[won] = weight[won]
    return Volume(result, geometry)


def placed(geometry: Geometry, matrix: np.ndarray) -> Geometry:
    """Move a grid rigidly: ``matrix`` (4×4) maps LPS points of the grid to where they shall be, mm."""
    matrix = check_rigid(matrix)
    origin = matrix[:3, :3] @ np.asarray(geometry.origin_mm) + matrix[:3, 3]
    direction = matrix[:3, :3] @ np.reshape(geometry.direction, (3, 3))
    # A product of rotations drifts off orthogonal by rounding, which SimpleITK refuses.
    u, _, vt = np.linalg.svd(direction)
    return Geometry(
        geometry.shape,
        geometry.spacing_mm,
        (float(origin[0]), float(origin[1]), float(origin[2])),
        tuple(float(v) for v in (u @ vt).ravel()),
    )


def check_rigid(transform: np.ndarray) -> np.ndarray:
    """Return a 4×4 transform as float64, or say why it is not a rigid one."""
    matrix = np.asarray(transform, dtype=float)
    rotation = matrix[:3, :3] if matrix.shape == (4, 4) else None
    if (
        rotation is None
        or not np.isfinite(matrix).all()
        or not np.allclose(matrix[3], (0, 0, 0, 1))
        or not np.allclose(rotation @ rotation.T, np.eye(3), atol=1e-4)
        or np.linalg.det(rotation) < 0
    ):
        raise GeometryError(
            f"A transform of shape {matrix.shape} is not rigid; expected a 4×4 rotation + translation (LPS, mm).",
            "Only rotations and shifts between SPECT and CT are allowed: they conserve counts.",
        )
    return matrix


def _sitk_affine(matrix: np.ndarray) -> sitk.AffineTransform:
    affine = sitk.AffineTransform(3)
    affine.SetMatrix(matrix[:3, :3].ravel().tolist())
    affine.SetTranslation(matrix[:3, 3].tolist())
    return affine


def _int3(values: Sequence[int] | np.ndarray) -> tuple[int, int, int]:
    a, b, c = (int(v) for v in values)
    return a, b, c


def _float3(values: np.ndarray) -> tuple[float, float, float]:
    a, b, c = (float(v) for v in values)
    return a, b, c


def _last_line(error: Exception) -> str:
    return str(error).strip().splitlines()[-1].strip()
