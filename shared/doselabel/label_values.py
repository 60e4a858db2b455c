"""Voxels of a label map as small whole numbers, taken plane by plane. Knows no names and no organs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from doselabel.errors import LabelError
from doselabel.images import slabs
from doselabel.images.header import Header
from doselabel.label_names import Carried

WHOLE_TOL = 1e-3
"""A float within this of a whole number is that number: tools that rescale leave such."""
MOST_CHANNELS = 255


@dataclass(frozen=True, eq=False)
class Values:
    """What a label map's file holds.

    Attributes
    ----------
    array : (z, y, x) uint8 array
        Of layers: the values of ``Carried.names``, smaller segments over larger ones. Of one-hot volumes: 1 for the
        first, or 0 for it when it is the background.
    voxels : dict
        Of segments: value in ``Carried.names`` → its voxels before smaller segments took any.
    """

    array: np.ndarray
    voxels: Mapping[int, int] = field(default_factory=dict)


def read_values(header: Header, found: Carried) -> Values:
    """Read the values of a label map: plain, in Slicer's layers, or one volume per organ (one-hot).

    Raises
    ------
    LabelError
        When a value is not a whole number from 0 to 255.
    GeometryError
        When the voxels can't be read.
    """
    if header.channels > MOST_CHANNELS:
        raise LabelError(
            f"{header.path}: has {header.channels} volumes; a label map has one, or one for each organ.",
            "Is it a time series? Give the label map.",
        )
    if found.layers:
        return _of_layers(header, found)
    if header.channels > 1:
        return Values(_of_volumes(header))
    array = np.empty(header.grid.shape, np.uint8)
    for _, z, plane in _planes(header):
        array[z] = plane
    return Values(array)


def _planes(header: Header) -> Iterator[tuple[int, int, np.ndarray]]:
    """(channel, z, plane as uint8) of every plane."""
    depth = header.grid.shape[0]
    for number, slab in enumerate(slabs(header)):
        for channel, plane in enumerate(slab):
            if header.interleaved:
                yield channel, number, _whole(header, plane)
            else:
                yield number // depth, number % depth, _whole(header, plane)


def _whole(header: Header, plane: np.ndarray) -> np.ndarray:
    if plane.dtype == np.uint8:
        return plane
    if plane.dtype.kind == "f":
        rounded = np.rint(plane)
        off = ~(np.abs(plane - rounded) <= WHOLE_TOL)  # NaN is off, too
        if off.any():
            raise LabelError(
                f"{header.path}: holds values that are not whole numbers ({plane[off][0]:g}); a label map has whole "
                "numbers from 0 to 255.",
                "If it was resampled, resample it again with nearest neighbour; if it is a probability, threshold it.",
            )
        plane = rounded
    low, high = plane.min(), plane.max()
    if low < 0 or high > 255:
        raise LabelError(
            f"{header.path}: holds values from {low:g} to {high:g}; a label map has whole numbers from 0 to 255.",
            "Give the label map (no CT, no dose map), with 0 where nothing is drawn and organs numbered from 1 to 255.",
        )
    return plane.astype(np.uint8)


def _of_layers(header: Header, found: Carried) -> Values:
    luts = np.zeros((header.channels, 256), np.uint8)
    for (layer, value), number in found.layers.items():
        if not (layer < header.channels and 0 < value < 256 and number < 256):
            raise LabelError(
                f"{header.path}: its segment '{found.names[number]}' is said to be value {value} of layer {layer}; it "
                f"has {header.channels} layer(s) of values up to 255.",
                "Save the segmentation again.",
            )
        luts[layer, value] = number
    known = luts > 0
    layers = np.zeros((header.channels, *header.grid.shape), np.uint8)
    for channel, z, plane in _planes(header):
        nameless = (plane > 0) & ~known[channel][plane]
        if nameless.any():
            raise LabelError(
                f"{header.path}: has the value {plane[nameless][0]} in layer {channel}, which no segment names.",
                "Save the segmentation again.",
            )
        layers[channel, z] = luts[channel][plane]
    counts = {int(n): int(np.count_nonzero(layers[layer] == n)) for (layer, _), n in found.layers.items()}
    if header.channels == 1:
        return Values(layers[0], counts)
    array = np.zeros(header.grid.shape, np.uint8)
    of = {number: layer for (layer, _), number in found.layers.items()}
    for number in sorted(counts, key=lambda n: -counts[n]):
        array[layers[of[number]] == number] = number
    return Values(array, counts)


def _of_volumes(header: Header) -> np.ndarray:
    array = np.zeros(header.grid.shape, np.uint8)
    taken = np.zeros(header.grid.shape, bool)
    first = 0
    for channel, z, plane in _planes(header):
        if plane.max() > 1:
            raise LabelError(
                f"{header.path}: has {header.channels} volumes with values up to {plane.max()}; several volumes are "
                "read as one for each organ, of 0 and 1.",
                "Save the label map as one volume.",
            )
        own = plane > 0
        if (own & taken[z]).any():
            raise LabelError(
                f"{header.path}: has {header.channels} volumes, and some voxels are 1 in two of them.",
                "Give every voxel to one organ.",
            )
        taken[z] |= own
        array[z][own] = channel + 1
        first += int(np.count_nonzero(own)) if channel == 0 else 0
    if taken.all() and first > array.size / 2:
        array -= 1  # the first volume is the background
    return array
