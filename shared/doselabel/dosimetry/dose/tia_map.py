"""The map of time-integrated activity on the dose grid, and the dose map back on the CT. Knows no files, no curves.

The dose grid is the diagnostic CT's own, cropped to the body and made coarser by whole factors where the CT is finer
than 2 mm: finer than electrons travel there is nothing to gain.

*Reconciliation.* Each organ's voxels share the organ's fitted (with `gtm`: partial-volume corrected) time-integrated
activity: the sum over the organ's mask equals it exactly, in proportion to the reference SPECT inside the mask. The
counts that blur carried over the organ's edge are taken off the surroundings, so nothing is counted twice. What is
left is the rest of the body; it follows one curve of its own, in proportion to the reference SPECT.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from doselabel.anatomy import filled
from doselabel.dosimetry.alignment.grids import block_mean, padded
from doselabel.dosimetry.alignment.registration import onto
from doselabel.geometry import Geometry, Volume, placed, resample
from doselabel.labels import LabelMap

FINEST_MM = 2.0
MOST_VOXELS = 18e6
BODY_HU = -300.0


@dataclass(frozen=True, eq=False)
class DoseGrid:
    """Where doses are computed.

    Attributes
    ----------
    geometry : Geometry
        Covers CT voxels ``start`` to ``start + factor * shape`` (z, y, x).
    regions : (z, y, x) uint8 array
        Organ of each voxel: position in ``organs``, from 1; 0 elsewhere.
    body : (z, y, x) bool array
    hu : (z, y, x) float32 array
    """

    ct: Geometry
    start: tuple[int, int, int]
    factor: tuple[int, int, int]
    geometry: Geometry
    organs: tuple[str, ...]
    regions: NDArray[np.uint8]
    body: NDArray[np.bool_]
    hu: NDArray[np.float32]

    @classmethod
    def around(cls, ct: Volume, labels: LabelMap, organs: tuple[str, ...]) -> DoseGrid:
        """Lay a dose grid over a CT's body and its organs."""
        spacing = np.asarray(ct.geometry.spacing_mm)
        inside = ct.array > BODY_HU
        for name in organs:
            inside = inside | labels.mask(name)
        edges = [np.flatnonzero(inside.any(axis=tuple(a for a in range(3) if a != axis))) for axis in range(3)]
        low = np.array([e[0] for e in edges])
        size = np.array([e[-1] for e in edges]) + 1 - low
        finest = FINEST_MM
        while True:
            factor = np.maximum(1, np.ceil(finest / spacing - 1e-6)).astype(int)
            shape = -(-size // factor)
            if shape.prod() <= MOST_VOXELS:
                break
            finest *= 1.25
        geometry = _coarser(ct.geometry, low, factor, shape)
        start, k = _ints(low), _ints(factor)
        parts = np.stack([_blocks(labels.mask(name), start, k, geometry.shape) for name in organs])
        regions = np.where(parts.sum(axis=0) >= 0.5, parts.argmax(axis=0) + 1, 0).astype(np.uint8)
        for i in range(len(organs)):
            if not (regions == i + 1).any():  # smaller than a voxel: the one it fills most
                regions.ravel()[parts[i].argmax()] = i + 1
        hu = _blocks(ct.array, start, k, geometry.shape)
        body = np.stack([filled(plane) for plane in hu > BODY_HU]) | (regions > 0)
        return cls(ct.geometry, start, k, geometry, organs, regions, body, hu)

    def mask(self, name: str) -> NDArray[np.bool_]:
        """Voxels of an organ."""
        return self.regions == self.organs.index(name) + 1


@dataclass(frozen=True, eq=False)
class Source:
    """A reference SPECT for the map.

    Attributes
    ----------
    shape : Volume
        Distribution inside organs on a grid in the time point's CT frame (`activity.ScanActivity.shape`).
    rest : Volume
        SPECT less the organs, Bq/mL, in the same frame.
    to_diagnostic : dict
        Organ → 4×4 matrix from the time point's CT to the diagnostic CT; "" holds for the rest of the body.
    """

    shape: Volume
    rest: Volume
    to_diagnostic: Mapping[str, np.ndarray]


def organ_shares(grid: DoseGrid, source: Source, name: str) -> NDArray[np.float64]:
    """Share of an organ's activity in each of its voxels (in the order of ``mask``), adding up to 1."""
    mask = grid.mask(name)
    box = padded(ndimage.find_objects(mask.view(np.uint8))[0], (0, 0, 0), mask.shape)
    local = _part(grid.geometry, box)
    values = resample(source.shape, local, transform=source.to_diagnostic[name]).array[mask[box]]
    values = np.maximum(values.astype(float), 0)
    total = values.sum()
    return values / total if total > 0 else np.full(values.size, 1 / values.size)


def tia_map(
    grid: DoseGrid,
    shares: Mapping[str, NDArray[np.float64]],
    tia_mbq_h: Mapping[str, float],
    source: Source,
    rest_h: float,
) -> NDArray[np.float32]:
    """Time-integrated activity per voxel, MBq·h.

    Parameters
    ----------
    shares : dict
        Organ → share of its activity in each of its voxels.
    tia_mbq_h : dict
        Organ → time-integrated activity.
    rest_h : float
        Time-integrated activity of the rest of the body over its activity in the reference SPECT, h.
    """
    moved = onto(source.rest, grid.geometry, source.to_diagnostic[""])
    outside = np.maximum(moved.array, 0) * (grid.geometry.voxel_volume_ml / 1e6 * rest_h)
    tia = np.where(grid.body & (grid.regions == 0), outside, 0).astype(np.float32)
    for name in grid.organs:
        tia[grid.mask(name)] = shares[name] * tia_mbq_h[name]
    return tia


def on_ct(grid: DoseGrid, dose_gy: NDArray[np.float32], labels: LabelMap, means_gy: Mapping[str, float]) -> Volume:
    """A dose map on the whole CT's grid, Gy; organs are interpolated within themselves and keep their mean dose."""
    volume = Volume(dose_gy, grid.geometry)
    if grid.factor == (1, 1, 1):
        out = np.zeros(grid.ct.shape, np.float32)
        stop = [s + n for s, n in zip(grid.start, grid.geometry.shape, strict=True)]
        out[grid.start[0] : stop[0], grid.start[1] : stop[1], grid.start[2] : stop[2]] = dose_gy
        return Volume(out, grid.ct)
    out = resample(volume, grid.ct).array
    boxes = ndimage.find_objects(labels.array)
    for name in grid.organs:
        value = labels.value(name)
        assert value is not None  # the grid's organs are the map's
        around = boxes[value - 1]
        fine = labels.array[around] == value
        # Beyond its edge an organ's dose is that of its nearest voxel, or the edge would be mixed with outside.
        mask = grid.mask(name)
        box = padded(ndimage.find_objects(mask.view(np.uint8))[0], (3, 3, 3), mask.shape)
        nearest = ndimage.distance_transform_edt(
            ~mask[box], sampling=grid.geometry.spacing_mm, return_distances=False, return_indices=True
        )
        local = _part(grid.geometry, box)
        target = _part(grid.ct, around)
        values = resample(Volume(dose_gy[box][tuple(nearest)], local), target).array[fine]
        mean = float(values.mean(dtype=np.float64))
        out[around][fine] = values * (means_gy[name] / mean if mean > 0 else 0.0)
    return Volume(out, grid.ct)


def in_frame(volume: Volume, matrix: np.ndarray) -> Volume:
    """A volume moved rigidly."""
    return Volume(volume.array, placed(volume.geometry, matrix))


def _part(geometry: Geometry, box: tuple[slice, ...]) -> Geometry:
    """Grid of a box of voxels."""
    return Geometry(
        _ints(np.array([s.stop - s.start for s in box])),
        geometry.spacing_mm,
        _floats(geometry.index_to_lps(np.array([s.start for s in box]))),
        geometry.direction,
    )


def _coarser(geometry: Geometry, low: np.ndarray, factor: np.ndarray, shape: np.ndarray) -> Geometry:
    spacing = np.asarray(geometry.spacing_mm) * factor
    return Geometry(
        _ints(shape), _floats(spacing), _floats(geometry.index_to_lps(low + (factor - 1) / 2)), geometry.direction
    )


def _blocks(
    array: np.ndarray, start: tuple[int, int, int], factor: tuple[int, int, int], shape: tuple[int, int, int]
) -> NDArray[np.float32]:
    """Means over blocks of voxels; beyond the array its edge is repeated."""
    stop = [s + k * n for s, k, n in zip(start, factor, shape, strict=True)]
    part = array[tuple(slice(a, min(b, n)) for a, b, n in zip(start, stop, array.shape, strict=True))]
    missing = [(0, b - max(a, min(b, n))) for a, b, n in zip(start, stop, array.shape, strict=True)]
    if any(m for _, m in missing):
        part = np.pad(part, missing, mode="edge")
    return block_mean(part, factor)


def _ints(values: np.ndarray) -> tuple[int, int, int]:
    a, b, c = (int(v) for v in values)
    return a, b, c


def _floats(values: np.ndarray) -> tuple[float, float, float]:
    a, b, c = (float(v) for v in values)
    return a, b, c
