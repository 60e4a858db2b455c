"""Where an image lies in the viewer. Knows axes and millimetres; knows no napari and no organs.

Concepts
--------
*display frame*
    The viewer's world: millimetres along the canonical index axes (z, y, x) of the case's CT, which for an
    upright CT are (inferior, posterior, left). In it every image has a diagonal transform, so napari's brush
    is a true sphere and no image is resampled without need, even when the CT is oblique.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from doselabel.errors import GeometryError
from doselabel.geometry import Geometry, Volume, canonical, check_rigid, resample

PARALLEL_TOL = 1e-4
"""Axes count as parallel when no direction cosine differs by more than this (0.006°)."""


@dataclass(frozen=True)
class Placement:
    """A diagonal transform: world = scale · index + translate, all (z, y, x), mm."""

    scale_mm: tuple[float, float, float]
    translate_mm: tuple[float, float, float]


def place(geometry: Geometry, ct: Geometry) -> Placement:
    """Place a grid in the display frame of a canonical CT.

    Raises
    ------
    GeometryError
        When its axes are not parallel to the CT's; `onto_frame` brings it there.
    """
    if not parallel(geometry, ct):
        raise GeometryError("An image's axes are not parallel to the CT's.", "Resample it onto the CT's frame.")
    axes = np.reshape(ct.direction, (3, 3))
    x, y, z = axes.T @ np.asarray(geometry.origin_mm)
    return Placement(geometry.spacing_mm, (float(z), float(y), float(x)))


def parallel(geometry: Geometry, ct: Geometry) -> bool:
    """Whether two grids have the same axes."""
    return bool(np.allclose(geometry.direction, ct.direction, rtol=0, atol=PARALLEL_TOL))


def moved(volume: Volume, transform: np.ndarray) -> Volume:
    """Move an image rigidly in patient space (4×4, LPS, mm) by changing where its grid is: voxels are kept."""
    matrix = check_rigid(transform)
    old = volume.geometry
    direction = matrix[:3, :3] @ np.reshape(old.direction, (3, 3))
    x, y, z = matrix[:3, :3] @ np.asarray(old.origin_mm) + matrix[:3, 3]
    return Volume(
        volume.array,
        Geometry(old.shape, old.spacing_mm, (float(x), float(y), float(z)), tuple(direction.ravel().tolist())),
    )


def onto_frame(volume: Volume, ct: Geometry, transform: np.ndarray | None = None, *, fill: float = 0.0) -> Volume:
    """Bring an image onto axes parallel to a canonical CT's, keeping its voxels where possible.

    Parameters
    ----------
    transform : (4, 4) array, optional
        Maps LPS points of the image to LPS points of the CT, mm.
    fill : float
        Value of what lies outside the image, when it is resampled.

    Returns
    -------
    Volume
        The image's own voxels when its axes are (a permutation of) the CT's; otherwise resampled linearly at
        its own spacing.
    """
    if transform is not None:
        volume = moved(volume, transform)
    upright = canonical(volume)
    if parallel(upright.geometry, ct):
        return upright
    axes = np.reshape(ct.direction, (3, 3))
    corners = upright.geometry.corners_lps() @ axes  # (8, 3) along the CT's x, y, z axes
    spacing = upright.geometry.spacing_mm
    low, high = corners.min(axis=0), corners.max(axis=0)
    size = np.ceil((high - low) / np.asarray(spacing[::-1]) - 1e-6).astype(int) + 1
    x, y, z = axes @ low
    grid = Geometry((int(size[2]), int(size[1]), int(size[0])), spacing, (float(x), float(y), float(z)), ct.direction)
    return resample(upright, grid, fill=fill)
