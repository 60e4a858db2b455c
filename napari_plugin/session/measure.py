"""Live numbers of each organ: volume, mass, mean HU, mean activity concentration. Knows arrays, no files, no Qt.

Works on the bounding box of each organ, so a correction on a large CT is measured in milliseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from doselabel.errors import LabelError
from doselabel.geometry import Geometry, Volume
from doselabel.organs import NAMES, excluded_at, region, title


@dataclass(frozen=True)
class OrganMeasure:
    """One organ's numbers; ``mass_g`` is volume × the label table's density, `None` means unknown."""

    value: int
    name: str
    volume_ml: float
    mass_g: float | None
    mean_hu: float
    mean_bq_ml: float | None

    @property
    def title(self) -> str:
        """What a person reads."""
        return title(self.name)


def measure(
    labels: np.ndarray, ct: Volume, spect: Volume | None = None, names: Mapping[int, str] = NAMES
) -> list[OrganMeasure]:
    """Measure every organ of a label array.

    Parameters
    ----------
    labels : (z, y, x) uint8 array
        On the CT's grid.
    ct : Volume
        HU.
    spect : Volume, optional
        Bq/mL, on any grid whose axes are parallel to the CT's; interpolated linearly at the organ's voxels.

    Returns
    -------
    list of OrganMeasure
        In the order of the labels' values.
    """
    measures = []
    for index, box in enumerate(ndimage.find_objects(labels)):
        if box is None:
            continue
        value = index + 1
        mask = labels[box] == value
        voxels = int(np.count_nonzero(mask))
        known = names.get(value)
        name = known or f"label {value}"
        volume_ml = voxels * ct.geometry.voxel_volume_ml
        measures.append(
            OrganMeasure(
                value,
                name,
                volume_ml,
                None if known is None else _mass_g(name, volume_ml),
                float(ct.array[box][mask].mean(dtype=np.float64)),
                None if spect is None else _mean_at(spect, ct.geometry, box, mask),
            )
        )
    return measures


def _mass_g(name: str, volume_ml: float) -> float | None:
    if excluded_at(name) is not None:
        return None
    try:
        return volume_ml * region(name).density_g_cm3
    except LabelError:
        return None


def _mean_at(image: Volume, grid: Geometry, box: tuple[slice, ...], mask: np.ndarray) -> float:
    """Mean of an image over a mask drawn on another, parallel grid."""
    start = np.array([s.start for s in box], dtype=float)
    offset = image.geometry.lps_to_index(grid.index_to_lps(start))
    step = np.asarray(grid.spacing_mm) / np.asarray(image.geometry.spacing_mm)
    values = ndimage.affine_transform(
        image.array.astype(np.float32, copy=False), step, offset, output_shape=mask.shape, order=1, mode="constant"
    )
    return float(values[mask].mean(dtype=np.float64))
