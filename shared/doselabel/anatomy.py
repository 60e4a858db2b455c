"""Left and right in patient space: parting two kidneys that share a value, giving lesions to their organ.

It knows masks, grids and the body's plan; it knows no files and no label tables. What is odd about a map is said by
`doselabel.label_findings`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy import ndimage

from doselabel.errors import LabelError
from doselabel.geometry import Geometry, Volume, oriented

BODY_HU = -300
"""Above this a voxel is body; lung is not, and not needed to find the middle."""
LARGE_PART = 0.15
"""A piece of at least this part of the largest piece is a kidney; smaller ones are crumbs of the nearer one."""
APART_MM = 30.0
"""Centres of two kidneys are at least this far apart, left to right."""
OFF_MIDDLE_MM = 20.0
"""A lone kidney's centre lies at least this far from the middle, else its side is not decided without a CT."""
ACROSS_MM = 110.0
"""One piece wider than this, left to right, is both kidneys (a horseshoe kidney, or masks that touch)."""


def middle_x_mm(ct: Volume) -> float | None:
    """LPS x of the body's middle, from a CT; None when the CT shows no body."""
    upright = oriented(ct)
    body = np.zeros(upright.array.shape[2], np.int64)
    for plane in upright.array[:: max(1, len(upright.array) // 60)]:
        body += np.count_nonzero(plane > BODY_HU, axis=0)
    if not body.any():
        return None
    middle = float(np.interp(0.5, np.cumsum(body) / body.sum(), np.arange(body.size)))
    centre = (np.asarray(upright.geometry.shape) - 1) / 2
    return float(upright.geometry.index_to_lps(np.array([centre[0], centre[1], middle]))[0])


def filled(plane: np.ndarray) -> np.ndarray:
    """A (y, x) mask with the holes it encloses: `scipy.ndimage.binary_fill_holes`, in a third of the time."""
    around, count = ndimage.label(~plane)
    outside = np.zeros(count + 1, bool)
    for edge in (around[0], around[-1], around[:, 0], around[:, -1]):
        outside[edge] = True
    outside[0] = False
    return ~outside[around]


def split_kidneys(
    mask: np.ndarray, geometry: Geometry, middle_mm: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Part a mask of both kidneys by their sides in patient space.

    Parameters
    ----------
    mask : (z, y, x) bool array
    geometry : Geometry
    middle_mm : float, optional
        LPS x of the body's middle (`middle_x_mm`). Without it two kidneys are parted at the middle between them, and
        the side of a lone one is decided by the image's middle when it is clear.

    Returns
    -------
    left, right : (z, y, x) bool arrays
        Of the patient's left and right kidney; together they are ``mask``.

    Raises
    ------
    LabelError
        When there is one kidney and its side can't be told.
    """
    left, right = np.zeros_like(mask, dtype=bool), np.zeros_like(mask, dtype=bool)
    box = _box(mask)
    if box is None:
        return left, right
    pieces, count = ndimage.label(mask[box], ndimage.generate_binary_structure(3, 3))
    sizes = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
    centres = np.array(ndimage.center_of_mass(pieces > 0, pieces, np.arange(1, count + 1)))
    x_mm = geometry.index_to_lps(centres + [axis.start for axis in box])[:, 0]
    large = np.flatnonzero(sizes >= LARGE_PART * sizes.max())
    if middle_mm is None:
        middle_mm = _middle_between(mask, geometry, x_mm[large], sizes[large])
    for number in range(count):
        piece = pieces == number + 1
        if number in large and _width_mm(piece, geometry) > ACROSS_MM:
            part = _x_mm(piece.shape, [axis.start for axis in box], geometry) > middle_mm
            left[box] |= piece & part
            right[box] |= piece & ~part
        else:
            (left if x_mm[number] > middle_mm else right)[box] |= piece
    return left, right


def _middle_between(mask: np.ndarray, geometry: Geometry, x_mm: np.ndarray, sizes: np.ndarray) -> float:
    if np.ptp(x_mm) >= APART_MM:
        return float(x_mm.min() + x_mm.max()) / 2
    image_middle = float(geometry.index_to_lps((np.asarray(mask.shape) - 1) / 2)[0])
    centre = float(np.average(x_mm, weights=sizes))
    if _width_mm(mask, geometry) > ACROSS_MM:
        return centre
    if abs(centre - image_middle) < OFF_MIDDLE_MM:
        raise LabelError(
            f"The kidneys share one value, and there is one of them, {abs(centre - image_middle):.0f} mm from the "
            "image's middle: whether it is the left or the right one can't be told.",
            "Give the CT too, or name the kidney.",
        )
    return image_middle


def into_organs(lesion: np.ndarray, organs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Give each piece of a lesion's mask to the organ that it touches most.

    Parameters
    ----------
    lesion : (z, y, x) bool array
    organs : dict of str to (z, y, x) bool array

    Returns
    -------
    dict of str to (z, y, x) bool array
        Organ → the voxels of the lesion that are its; pieces that touch no organ are in none.
    """
    found = {name: np.zeros_like(lesion, dtype=bool) for name in organs}
    structure = ndimage.generate_binary_structure(3, 3)
    pieces, count = ndimage.label(lesion, structure)
    for number, box in enumerate(ndimage.find_objects(pieces, max_label=count), start=1):
        wide = tuple(slice(max(0, axis.start - 1), axis.stop + 1) for axis in box)
        piece = pieces[wide] == number
        shell = ndimage.binary_dilation(piece, structure) & ~piece
        contact = {name: int(np.count_nonzero(organ[wide] & shell)) for name, organ in organs.items()}
        name = max(contact, key=contact.__getitem__, default="")
        if name and contact[name]:
            found[name][wide] |= piece
    return found


def _box(mask: np.ndarray) -> tuple[slice, slice, slice] | None:
    box = ndimage.find_objects(mask.view(np.uint8) if mask.dtype == bool else mask.astype(np.uint8))
    return box[0] if box else None


def _x_mm(shape: tuple[int, ...], start: list[int], geometry: Geometry) -> np.ndarray:
    """LPS x (mm) of every voxel of a crop."""
    row = geometry.affine_lps[0]
    z, y, x = (first + np.arange(size) for first, size in zip(start, shape, strict=True))
    return row[2] * z[:, None, None] + row[1] * y[None, :, None] + row[0] * x[None, None, :] + row[3]


def _width_mm(mask: np.ndarray, geometry: Geometry) -> float:
    """Extent left to right, mm."""
    box = _box(mask)
    if box is None:
        return 0.0
    x_mm = _x_mm(mask[box].shape, [axis.start for axis in box], geometry)[mask[box]]
    return float(np.ptp(x_mm)) + min(geometry.spacing_mm)


# ---- what a mask looks like


@dataclass(frozen=True, eq=False)
class Region:
    """One organ's mask in the box around it.

    Attributes
    ----------
    mask : (z, y, x) bool array
        In its box.
    box : tuple of slice
        Where that is in the label map.
    geometry : Geometry
        The label map's grid.
    """

    mask: np.ndarray
    box: tuple[slice, slice, slice]
    geometry: Geometry

    @cached_property
    def volume_ml(self) -> float:
        """Volume, mL."""
        return float(np.count_nonzero(self.mask)) * self.geometry.voxel_volume_ml

    @cached_property
    def centre_x_mm(self) -> float:
        """LPS x of the centre; it grows to the patient's left."""
        centre = np.array(ndimage.center_of_mass(self.mask)) + [axis.start for axis in self.box]
        return float(self.geometry.index_to_lps(centre)[0])

    @property
    def cut(self) -> bool:
        """Whether it touches the image's edge."""
        return any(
            axis.start == 0 or axis.stop == size for axis, size in zip(self.box, self.geometry.shape, strict=True)
        )

    @cached_property
    def large_pieces_x_mm(self) -> tuple[float, ...]:
        """LPS x of the centres of its large pieces, ascending."""
        coarse = self.mask[::2, ::2, ::2] if min(self.mask.shape) > 12 else self.mask
        step = 2 if coarse is not self.mask else 1
        pieces, count = ndimage.label(coarse, ndimage.generate_binary_structure(3, 3))
        sizes = np.bincount(pieces.ravel(), minlength=count + 1)[1:]
        large = np.flatnonzero(sizes >= LARGE_PART * sizes.max()) + 1
        centres = step * np.array(ndimage.center_of_mass(coarse, pieces, large)) + [axis.start for axis in self.box]
        return tuple(sorted(float(x) for x in self.geometry.index_to_lps(centres)[:, 0]))

    @property
    def width_mm(self) -> float:
        """Extent left to right, mm."""
        return _width_mm(self.mask, self.geometry)


def regions(array: np.ndarray, names: Mapping[int, str], geometry: Geometry) -> dict[str, Region]:
    """The masks in a label map (z, y, x), by name; a name without voxels has none."""
    found = {}
    for value, box in enumerate(ndimage.find_objects(array), start=1):
        if box is not None and value in names:
            found[names[value]] = Region(array[box] == value, box, geometry)
    return found


def describe(array: np.ndarray, geometry: Geometry, ct: Volume | None = None) -> list[str]:
    """A row for every value of a label map: volume, side in the patient, mean HU when the CT is given."""
    middle = middle_x_mm(ct) if ct is not None else None
    known = middle is not None
    if middle is None:
        middle = float(geometry.index_to_lps((np.asarray(geometry.shape) - 1) / 2)[0])
    rows = []
    for value, box in enumerate(ndimage.find_objects(array), start=1):
        if box is None:
            continue
        mask = array[box] == value
        centre = np.array(ndimage.center_of_mass(mask)) + [axis.start for axis in box]
        away = float(geometry.index_to_lps(centre)[0]) - middle
        row = f"{value:>3}: {np.count_nonzero(mask) * geometry.voxel_volume_ml:8.1f} mL, {abs(away):4.0f} mm to the "
        row += f"{'left' if away > 0 else 'right'} of the {'body' if known else 'image'}'s middle"
        if ct is not None and ct.geometry.same_place(geometry):
            row += f", mean {float(ct.array[box][mask].mean()):.0f} HU"
        rows.append(row)
    return rows
