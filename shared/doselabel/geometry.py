"""Volumes in patient space: canonical orientation, resampling, rigid placing; and the door to files.

The one place that other rooms ask for grids (`doselabel.grid`) and images (`doselabel.images`). It knows no organs.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import permutations
from typing import Literal

import numpy as np
import SimpleITK as sitk

from doselabel.errors import GeometryError
from doselabel.grid import SAME_PLACE_TOL_MM, Geometry, StatedGrid, Volume, float3, int3
from doselabel.images import SUFFIXES, read_grid, read_image, write_image

__all__ = [
    "CANONICAL",
    "SAME_PLACE_TOL_MM",
    "SUFFIXES",
    "Geometry",
    "Interpolation",
    "StatedGrid",
    "Volume",
    "canonical",
    "check_rigid",
    "placed",
    "read_grid",
    "read_image",
    "resample",
    "restore",
    "write_image",
]

CANONICAL = "LPI"
Interpolation = Literal["linear", "nearest", "label"]


def canonical(volume: Volume) -> Volume:
    """Bring a volume into canonical orientation by swapping and flipping axes only (lossless)."""
    return Volume.from_sitk(sitk.DICOMOrient(volume.to_sitk(), CANONICAL))


def oriented(volume: Volume) -> Volume:
    """Give `canonical` as a view: the array is the volume's own, transposed and flipped, so that nothing is copied."""
    geometry = volume.geometry
    grid = np.reshape(geometry.direction, (3, 3))
    # Which of our axes (x to the left, y to posterior, z to inferior) each of its axes lies along most closely.
    along = np.abs(grid)
    axes = max(permutations(range(3)), key=lambda axes: along[range(3), axes].sum())  # our x, y, z → its axis
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
            int3(array.shape),
            float3(np.asarray(geometry.spacing_mm)[[2 - axes[2 - k] for k in range(3)]]),
            float3(geometry.index_to_lps(first)),
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
        int3(array.shape),
        float3(np.asarray(volume.geometry.spacing_mm)[[2 - source[2 - axis] for axis in range(3)]]),
        float3(volume.geometry.index_to_lps(_first_index(volume.geometry.shape, source, cosines))),
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


def away_mm(mask: np.ndarray, spacing_mm: Sequence[float] | np.ndarray) -> np.ndarray:
    """Distance (mm, float32) to the nearest voxel of a mask (z, y, x), by Maurer; not positive within it."""
    image = sitk.GetImageFromArray(mask.view(np.uint8))
    image.SetSpacing([float(v) for v in spacing_mm[::-1]])
    return sitk.GetArrayFromImage(sitk.SignedMaurerDistanceMap(image, squaredDistance=False, useImageSpacing=True))


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
