"""Slices of a CT as the network sees them: planes, pixel size, window.

Volumes come in canonical orientation (`doselabel.geometry.canonical`: index x grows to the patient's left, y to
posterior, z to inferior), so the network always sees the same view. It knows millimetres and HU, no files, no
chance and no losses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from doselabel.geometry import Geometry, Volume, resample
from doselabel.model.cross import dilated, eroded
from doselabel.model.profiles import Profile

PLANES = {"axial": 0, "coronal": 1, "sagittal": 2}
"""Axis of a canonical (z, y, x) array that each plane is perpendicular to."""

BODY_HU = -300.0
"""What is denser belongs to the body (or the table)."""

CLIP_HU = (-125.0, 275.0)
"""Kept when slices are resampled: beyond the window, so that it can be shifted, but without air's −1000 pulling
the average of edge pixels out of it. Public sets whose HU are known only inside this window look like any other."""


RECENT = 256
"""Resampled slices kept for the next pictures, 30 to 100 MB: locating organs has seen most of a scan already."""


@dataclass(frozen=True)
class Frame:
    """The pixel grid the network sees, laid over one slice of an array.

    Pixel (row, column) of the network is at ``offset + scale * (row, column)`` in pixels of the array.
    """

    size: tuple[int, int]
    scale: tuple[float, float]
    offset: tuple[float, float]

    def to_network(self, index: np.ndarray, axis: int) -> np.ndarray:
        """Positions in network pixels of array indices along rows (axis 0) or columns (axis 1)."""
        return (np.asarray(index, float) - self.offset[axis]) / self.scale[axis]

    def index(self, warp: Tensor | None = None) -> Tensor:
        """Array positions (H, W, 2: row, column) of the network's pixels.

        ``warp`` (H, W, 2) holds positions in network pixels instead of the regular ones.
        """
        if warp is None:
            rows = torch.arange(self.size[0], dtype=torch.float32)
            columns = torch.arange(self.size[1], dtype=torch.float32)
            warp = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1)
        return warp * torch.tensor(self.scale) + torch.tensor(self.offset)


def in_plane(values: Sequence | np.ndarray, plane: str) -> tuple:
    """The two entries of a (z, y, x) triple that are rows and columns of a plane."""
    return tuple(value for axis, value in enumerate(values) if axis != PLANES[plane])


def body_box(hu: np.ndarray) -> tuple[slice, slice, slice]:
    """Box (z, y, x) around the largest thing denser than `BODY_HU`; the whole array when there is none.

    z always spans the whole array: a body goes on beyond the scan.
    """
    step = tuple(max(1, size // 128) for size in hu.shape)
    coarse = hu[:: step[0], :: step[1], :: step[2]]
    # Where HU are known only inside a window, its lower end stands for all that is below.
    coarse = coarse > max(BODY_HU, float(coarse.min()) + 5)
    parts, count = ndimage.label(dilated(eroded(coarse)))
    if not count:
        return slice(0, hu.shape[0]), slice(0, hu.shape[1]), slice(0, hu.shape[2])
    sizes = np.bincount(parts.ravel())
    box = ndimage.find_objects(parts)[int(sizes[1:].argmax())]
    grown = [
        slice(max(0, (part.start - 1) * s), min(size, (part.stop + 1) * s))
        for part, s, size in zip(box, step, hu.shape, strict=True)
    ]
    return slice(0, hu.shape[0]), grown[1], grown[2]


def frame_of(
    profile: Profile, spacing_mm: tuple[float, float], box: tuple[slice, slice], shape: tuple[int, int]
) -> Frame:
    """Lay the network's pixels over a box of a slice, at a fixed pixel size or (paper) that of the whole slice.

    ``shape`` is that of the whole slice as it was scanned, of which the array may hold a part.
    """
    pixel_mm = profile.pixel_mm or max(n * mm for n, mm in zip(shape, spacing_mm, strict=True)) / profile.side_px
    size, scale, offset = [], [], []
    for part, mm in zip(box, spacing_mm, strict=True):
        length = part.stop - part.start
        pixels = max(32, int(np.ceil(length * mm / pixel_mm)))
        size.append(pixels)
        scale.append(pixel_mm / mm)
        offset.append(part.start + (length - 1) / 2 - (pixels - 1) / 2 * pixel_mm / mm)
    return Frame((size[0], size[1]), (scale[0], scale[1]), (offset[0], offset[1]))


def channel_step(profile: Profile, spacing_mm: float) -> int:
    """How many slices apart the channels are."""
    return max(1, round(profile.slice_gap_mm / spacing_mm))


def adjacent(array: np.ndarray, plane: str, index: int, channels: int, step: int) -> np.ndarray:
    """Adjacent slices (C, rows, columns) around ``index``, ``step`` apart; at the ends the last one repeats."""
    along = np.moveaxis(array, PLANES[plane], 0)  # a view; np.take would copy a whole flipped volume
    return np.stack([along[k] for k in neighbours(index, len(along), channels, step)])


def neighbours(index: int, size: int, channels: int, step: int) -> list[int]:
    """Slices around ``index``, ``step`` apart, of an image of ``size`` slices; at the ends the last one repeats."""
    wanted = index + step * (np.arange(channels) - channels // 2)
    return np.clip(wanted, 0, size - 1).tolist()


def stack(hu: np.ndarray, plane: str, index: int, channels: int, step: int) -> Tensor:
    """Adjacent slices of a CT, clipped to `CLIP_HU`."""
    return torch.from_numpy(adjacent(hu, plane, index, channels, step).astype(np.float32).clip(*CLIP_HU))


def resampled(image: Tensor, frame: Frame, warp: Tensor | None = None, fill: float = CLIP_HU[0]) -> Tensor:
    """Sample slices (C, rows, columns) on the network's pixels (C, H, W), averaging where these are coarser."""
    index, low, high = _regular(frame) if warp is None else _reach(frame.index(warp))
    image = image[:, low[0] : high[0], low[1] : high[1]] - fill
    sigma = [0.5 * max(0.0, s**2 - 1) ** 0.5 for s in frame.scale]
    if max(sigma) > 0.3:
        image = blurred(image, sigma)
    return sampled(image, index) + fill


@lru_cache(maxsize=4)
def _regular(frame: Frame) -> tuple[Tensor, Tensor, Tensor]:
    """`_reach` of the frame itself: the same for every slice of a scan."""
    return _reach(frame.index())


def _reach(index: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The part of an array, from (row, column) to another, that pixels at ``index`` need; and their places in it."""
    low = (index.amin((0, 1)).floor().long() - 4).clamp(min=0)
    return index - low, low, index.amax((0, 1)).ceil().long() + 5


def sampled(image: Tensor, index: Tensor) -> Tensor:
    """Interpolate slices (C, rows, columns) linearly at positions (H, W, 2: row, column); 0 outside."""
    grid = (index.flip(-1) * 2 + 1) / torch.tensor([image.shape[-1], image.shape[-2]]) - 1
    return F.grid_sample(image[None], grid[None], align_corners=False)[0]


def windowed(hu: Tensor, profile: Profile) -> Tensor:
    """Apply the HU window and bring it to [0, 1]."""
    low, high = profile.hu_window
    return ((hu - low) / (high - low)).clamp(0, 1)


class Pictures:
    """Slices of one CT (z, y, x) as the network sees them in use; what neighbours share is resampled once."""

    def __init__(self, hu: np.ndarray, spacing_mm: tuple[float, float, float], profile: Profile) -> None:
        self._hu, self._profile = hu, profile
        self._steps = {plane: channel_step(profile, spacing_mm[axis]) for plane, axis in PLANES.items()}
        self._recent: dict[tuple[str, int, Frame], Tensor] = {}

    def of(self, plane: str, index: int, frame: Frame) -> Tensor:
        """One slice (C, H, W) in [0, 1], with its neighbours as channels."""
        size = self._hu.shape[PLANES[plane]]
        there = neighbours(index, size, self._profile.in_slices, self._steps[plane])
        return torch.cat([self._one(plane, k, frame) for k in there])

    def _one(self, plane: str, index: int, frame: Frame) -> Tensor:
        key = (plane, index, frame)
        if key not in self._recent:
            self._recent[key] = windowed(resampled(stack(self._hu, plane, index, 1, 1), frame), self._profile)
            if len(self._recent) > RECENT:
                del self._recent[next(iter(self._recent))]
        return self._recent[key]


def uptake(activity: np.ndarray) -> np.ndarray:
    """Bring a SPECT of any unit to [0, about 1]: 1 is the 99.5th percentile of what is above its mean."""
    hot = activity[activity > activity.mean()]
    return np.clip(activity / max(float(np.percentile(hot, 99.5)) if hot.size else 1.0, 1e-12), 0, 1.5)


def blurred(image: Tensor, sigma: Sequence[float]) -> Tensor:
    """Gaussian blur of slices, zero outside; a sum of shifts, which is much quicker than a one-channel convolution."""
    for axis, s in zip((1, 2), sigma, strict=True):
        if s <= 0.3:
            continue
        reach = int(np.ceil(2.5 * s))
        taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / s) ** 2)
        padded = F.pad(image, (0, 0, reach, reach) if axis == 1 else (reach, reach))
        length = image.shape[axis]
        image = torch.zeros_like(image)
        for k, tap in enumerate(taps / taps.sum()):
            image.add_(padded.narrow(axis, k, length), alpha=float(tap))
    return image


def uptake_on(spect: Volume, grid: Geometry) -> np.ndarray:
    """The `uptake` (z, y, x) float32 of a SPECT on a CT's grid; 0 outside the SPECT."""
    return uptake(resample(spect, grid).array).astype(np.float32)
