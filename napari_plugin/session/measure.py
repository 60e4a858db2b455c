"""Live numbers of each organ: volume, mass, mean HU, activity, change. Knows arrays, no files, no Qt.

Only voxels that changed are counted, so that a correction on a large CT is measured in some tens of milliseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from doselabel.errors import LabelError
from doselabel.geometry import Geometry, Volume
from doselabel.organs import NAMES, excluded_at, region, title

KEPT_STARTS = 4


@dataclass(frozen=True)
class OrganMeasure:
    """One organ's numbers; ``mass_g`` is volume × the label table's density, `None` means unknown.

    ``change_ml`` is the volume minus that of the labels that these started from.
    """

    value: int
    name: str
    volume_ml: float
    mass_g: float | None
    mean_hu: float
    mean_bq_ml: float | None
    change_ml: float | None = None

    @property
    def activity_mbq(self) -> float | None:
        """All of the organ's activity."""
        return None if self.mean_bq_ml is None else self.mean_bq_ml * self.volume_ml / 1e6

    @property
    def title(self) -> str:
        """What a person reads."""
        return title(self.name)


class Tally:
    """Each organ's voxels, HU and activity in sums, brought up to date by the voxels that changed since.

    Parameters
    ----------
    ct : Volume
        HU, on the labels' grid.
    spect : Volume, optional
        Bq/mL, on any grid whose axes are parallel to the CT's; interpolated linearly at the organs' voxels.
    """

    def __init__(self, ct: Volume, spect: Volume | None = None) -> None:
        self.spect = spect
        self._ct = ct
        self._seen = np.zeros(ct.array.shape, np.uint8)
        self._voxels, self._hu, self._bq_ml = (np.zeros(256) for _ in range(3))
        self._starts: list[tuple[np.ndarray, dict[int, float]]] = []

    def follow(self, labels: np.ndarray) -> Tally:
        """Count what is not as it was the last time: one look at each slice, and sums over what changed there.

        Safe in a thread while the labels are edited: an edit in between is found the next time.
        """
        for z, seen in enumerate(self._seen):
            if np.array_equal(labels[z], seen):
                continue
            now = labels[z].copy()
            y, x = np.nonzero(now != seen)
            hu = self._ct.array[z][y, x]
            bq_ml = None if self.spect is None else _values_at(self.spect, self._ct.geometry, (z, y, x))
            for sign, values in ((-1, seen[y, x]), (1, now[y, x])):
                self._voxels += sign * np.bincount(values, minlength=256)
                self._hu += sign * np.bincount(values, hu, 256)
                if bq_ml is not None:
                    self._bq_ml += sign * np.bincount(values, bq_ml, 256)
            seen[:] = now
        return self

    def measures(self, names: Mapping[int, str] = NAMES, start: np.ndarray | None = None) -> list[OrganMeasure]:
        """Each organ's numbers, in the order of the labels' values; ``start`` is what they are compared with."""
        ml = self._ct.geometry.voxel_volume_ml
        before = None if start is None else self._volumes_ml(start)
        found = []
        for value in (int(v) for v in np.flatnonzero(self._voxels) if v > 0):
            known, voxels = names.get(value), self._voxels[value]
            name, volume_ml = known or f"label {value}", float(voxels * ml)
            found.append(
                OrganMeasure(
                    value,
                    name,
                    volume_ml,
                    None if known is None else _mass_g(name, volume_ml),
                    float(self._hu[value] / voxels),
                    None if self.spect is None else float(self._bq_ml[value] / voxels),
                    None if before is None else volume_ml - before.get(value, 0.0),
                )
            )
        return found

    def _volumes_ml(self, start: np.ndarray) -> dict[int, float]:
        """Volumes of labels that stay as they are; those asked for lately are kept."""
        for known, volumes in self._starts:
            if known is start:
                return volumes
        ml = self._ct.geometry.voxel_volume_ml
        boxes = ((i, box) for i, box in enumerate(ndimage.find_objects(start), 1) if box is not None)
        volumes = {value: np.count_nonzero(start[box] == value) * ml for value, box in boxes}
        self._starts = [(start, volumes), *self._starts[: KEPT_STARTS - 1]]
        return volumes


def measure(
    labels: np.ndarray, ct: Volume, spect: Volume | None = None, names: Mapping[int, str] = NAMES
) -> list[OrganMeasure]:
    """Measure every organ of a label array (z, y, x; uint8) on the CT's grid. See `Tally`."""
    return Tally(ct, spect).follow(labels).measures(names)


def _mass_g(name: str, volume_ml: float) -> float | None:
    if excluded_at(name) is not None:
        return None
    try:
        return volume_ml * region(name).density_g_cm3
    except LabelError:
        return None


def _values_at(image: Volume, grid: Geometry, voxels: tuple[int, np.ndarray, np.ndarray]) -> np.ndarray:
    """Values of an image at voxels of another, parallel grid."""
    offset = image.geometry.lps_to_index(grid.index_to_lps(np.zeros(3)))
    step = np.asarray(grid.spacing_mm) / np.asarray(image.geometry.spacing_mm)
    z, y, x = (o + s * np.asarray(v, float) for o, s, v in zip(offset, step, voxels, strict=True))
    there = np.array([np.full(y.shape, z), y, x])
    return ndimage.map_coordinates(image.array, there, np.float64, order=1, mode="constant")
