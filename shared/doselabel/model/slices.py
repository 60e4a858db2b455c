"""Slices of a CT as the network sees them: planes, pixel size, sampling for training, augmentation.

Volumes come in canonical orientation (`doselabel.geometry.canonical`: index x grows to the patient's left, y to
posterior, z to inferior), so the network always sees the same view. It knows millimetres and HU, no files of
checkpoints and no losses.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from doselabel.errors import ModelError
from doselabel.geometry import canonical, read_image
from doselabel.model.cases import TrainCase, case_labels
from doselabel.model.network import mask_boxes
from doselabel.model.profiles import Profile

PLANES = {"axial": 0, "coronal": 1, "sagittal": 2}
"""Axis of a canonical (z, y, x) array that each plane is perpendicular to."""

BODY_HU = -300.0
"""What is denser belongs to the body (or the table)."""

CLIP_HU = (-250.0, 450.0)
"""Kept when slices are resampled: beyond the window, so that it can be shifted, but without air's −1000 pulling
the average of edge pixels out of it."""

MIN_OBJECT_PX = 6
"""Smaller cuts of an organ are not taught."""


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


def in_plane(values: Sequence, plane: str) -> tuple:
    """The two entries of a (z, y, x) triple that are rows and columns of a plane."""
    return tuple(value for axis, value in enumerate(values) if axis != PLANES[plane])


def body_box(hu: np.ndarray) -> tuple[slice, slice, slice]:
    """Box (z, y, x) around the largest thing denser than `BODY_HU`; the whole array when there is none.

    z always spans the whole array: a body goes on beyond the scan.
    """
    step = tuple(max(1, size // 128) for size in hu.shape)
    coarse = hu[:: step[0], :: step[1], :: step[2]] > BODY_HU
    parts, count = ndimage.label(ndimage.binary_opening(coarse))
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
    """Lay the network's pixels over a slice: over the body at a fixed pixel size, or (paper) over the whole slice."""
    if profile.pixel_mm is None:
        pixel_mm = max(n * mm for n, mm in zip(shape, spacing_mm, strict=True)) / profile.side_px
        box = (slice(0, shape[0]), slice(0, shape[1]))
    else:
        pixel_mm = profile.pixel_mm
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
    axis = PLANES[plane]
    wanted = index + step * (np.arange(channels) - channels // 2)
    return np.moveaxis(np.take(array, np.clip(wanted, 0, array.shape[axis] - 1), axis=axis), axis, 0)


def stack(hu: np.ndarray, plane: str, index: int, channels: int, step: int) -> Tensor:
    """Adjacent slices of a CT, clipped to `CLIP_HU`."""
    return torch.from_numpy(adjacent(hu, plane, index, channels, step).astype(np.float32).clip(*CLIP_HU))


def resampled(image: Tensor, frame: Frame, warp: Tensor | None = None, fill: float = CLIP_HU[0]) -> Tensor:
    """Sample slices (C, rows, columns) on the network's pixels (C, H, W), averaging where these are coarser."""
    index = frame.index(warp)
    low = (index.amin((0, 1)).floor().long() - 4).clamp(min=0)
    high = index.amax((0, 1)).ceil().long() + 5
    image = image[:, low[0] : high[0], low[1] : high[1]] - fill
    sigma = [0.5 * max(0.0, s**2 - 1) ** 0.5 for s in frame.scale]
    if max(sigma) > 0.3:
        image = _blur(image, sigma)
    return sampled(image, index - low) + fill


def sampled(image: Tensor, index: Tensor) -> Tensor:
    """Interpolate slices (C, rows, columns) linearly at positions (H, W, 2: row, column); 0 outside."""
    grid = (index.flip(-1) * 2 + 1) / torch.tensor([image.shape[-1], image.shape[-2]]) - 1
    return F.grid_sample(image[None], grid[None], align_corners=False)[0]


def windowed(hu: Tensor, profile: Profile) -> Tensor:
    """Apply the HU window and bring it to [0, 1]."""
    low, high = profile.hu_window
    return ((hu - low) / (high - low)).clamp(0, 1)


def _blur(image: Tensor, sigma: Sequence[float]) -> Tensor:
    """Gaussian blur of slices, zero outside; a sum of shifts, which is much quicker than a one-channel convolution."""
    for axis, s in zip((1, 2), sigma, strict=True):
        if s <= 0.3:
            continue
        reach = int(np.ceil(2.5 * s))
        taps = np.exp(-0.5 * (np.arange(-reach, reach + 1) / s) ** 2)
        padded = F.pad(image, (0, 0, reach, reach) if axis == 1 else (reach, reach))
        length = image.shape[axis]
        image = sum(padded.narrow(axis, k, length) * float(tap) for k, tap in enumerate(taps / taps.sum()))  # type: ignore[assignment]
    return image


@dataclass(frozen=True)
class Loaded:
    """A case in memory: canonical HU (int16), class indices (uint8), and where to look."""

    patient: str
    hu: np.ndarray
    classes: np.ndarray
    spacing_mm: tuple[float, float, float]
    box: tuple[slice, slice, slice]
    organs: dict[str, dict[int, tuple[int, int]]] = field(repr=False)
    """plane → class → first and last slice that shows it."""


def load_case(case: TrainCase, profile: Profile) -> Loaded:
    """Read one case.

    Raises
    ------
    ModelError
        When CT and labels do not lie on the same grid, or none of the profile's organs is there.
    """
    ct, labels = read_image(case.ct), case_labels(case)
    if not ct.geometry.same_place(labels.geometry, tol_mm=0.1):
        raise ModelError(
            f"{case.labels}: lies on a grid of {labels.geometry.shape}, {case.ct} on one of {ct.geometry.shape}, "
            "or elsewhere in space.",
            "A label map for training must be drawn on its own CT.",
        )
    lut = np.zeros(256, np.uint8)
    for index, name in enumerate(profile.classes, start=1):
        if (value := labels.value(name)) is not None:
            lut[value] = index
    volume = canonical(ct)
    classes = lut[canonical(labels.volume).array]
    hu = np.clip(volume.array, -1024, 3071).astype(np.int16)
    organs: dict[str, dict[int, tuple[int, int]]] = {}
    boxes = ndimage.find_objects(classes, max_label=len(profile.classes))
    for plane, axis in PLANES.items():
        organs[plane] = {
            index: (box[axis].start, box[axis].stop - 1) for index, box in enumerate(boxes, start=1) if box
        }
    if not organs["axial"]:
        raise ModelError(
            f"{case.labels}: shows none of {', '.join(profile.classes)}.", "Leave this case out of training."
        )
    return Loaded(case.patient, hu, classes, volume.geometry.spacing_mm, body_box(hu), organs)


BEYOND_MM = 20.0
"""How far beyond an organ's pole a slice still teaches where the organ ends."""


def draw_slice(case: Loaded, plane: str, rng: np.random.Generator) -> int:
    """Choose a slice: 60 % through an organ (poles doubled), 25 % just beyond its poles, 15 % anywhere."""
    axis = PLANES[plane]
    size = case.hu.shape[axis]
    first, last = case.organs[plane][rng.choice(list(case.organs[plane]))]
    kind = rng.random()
    if kind < 0.6:
        near = max(1, round(6.0 / case.spacing_mm[axis]))
        slices = np.arange(first, last + 1)
        pole = (slices < first + near) | (slices > last - near)
        return int(rng.choice(slices, p=(1 + pole) / (1 + pole).sum()))
    if kind < 0.85:
        reach = max(1, round(BEYOND_MM / case.spacing_mm[axis]))
        index = first - rng.integers(1, reach + 1) if rng.random() < 0.5 else last + rng.integers(1, reach + 1)
        return int(np.clip(index, 0, size - 1))
    return int(rng.integers(size))


def training_slice(
    case: Loaded, plane: str, index: int, profile: Profile, rng: np.random.Generator, crop_px: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """Make one augmented slice (C, H, W) in [0, 1] and its target for the network.

    Rotation ±15°, scale 0.8–1.25, elastic warp, slice-gap jitter, organ enhancement, HU shift ±30, low-dose
    noise and blur. No mirroring: left must stay left.
    """
    axis = PLANES[plane]
    step = max(1, round(channel_step(profile, case.spacing_mm[axis]) * rng.uniform(0.7, 2.0)))
    spacing, box = in_plane(case.spacing_mm, plane), in_plane(case.box, plane)
    shape = in_plane(case.hu.shape, plane)
    frame = frame_of(profile, spacing, box, shape)
    hu = stack(case.hu, plane, index, profile.in_slices, step)
    neighbours = torch.from_numpy(adjacent(case.classes, plane, index, profile.in_slices, step))
    warp, size = _warp(frame, rng, crop_px)
    frame = Frame(size, frame.scale, frame.offset)
    image = resampled(hu, frame, warp)
    middle = neighbours[profile.in_slices // 2]
    present = [value for value in neighbours.unique().tolist() if value]
    masks = {}
    for value in present:
        # All channels' indicators: enhancement must change an organ's neighbours in depth alike.
        masks[value] = sampled((neighbours == value).float(), frame.index(warp))
    image = _intensities(image, masks, profile, rng)
    kept = {v: (m[profile.in_slices // 2] >= 0.5).to(torch.uint8) for v, m in masks.items() if (middle == v).any()}
    kept = {v: m for v, m in kept.items() if int(m.sum()) >= MIN_OBJECT_PX}
    if not kept:
        height, width = image.shape[-2:]
        empty = torch.zeros(0, dtype=torch.int64)
        return image, {
            "boxes": torch.zeros(0, 4),
            "labels": empty,
            "masks": torch.zeros(0, height, width, dtype=torch.uint8),
        }
    all_masks = torch.stack(list(kept.values()))
    labels = torch.tensor(list(kept), dtype=torch.int64)
    return image, {"boxes": mask_boxes(all_masks, profile.box_pad), "labels": labels, "masks": all_masks}


def _warp(frame: Frame, rng: np.random.Generator, crop_px: int) -> tuple[Tensor, tuple[int, int]]:
    """Random rotation, scale, crop and elastic warp: positions (H, W, 2) in pixels of ``frame``."""
    angle = np.deg2rad(rng.normal(0, 7.5)).clip(-0.26, 0.26)
    zoom = np.exp(rng.uniform(np.log(0.8), np.log(1.25), 2) * 0.5 + np.log(rng.uniform(0.85, 1.2)) * 0.7)
    size = [int(min(crop_px, max(32, np.ceil(n / 32) * 32))) for n in frame.size]
    middle = (np.array(frame.size) - 1) / 2
    slack = np.maximum(0, np.array(frame.size) - np.array(size)) / 2 + 10
    centre = middle + rng.uniform(-slack, slack)
    rows, columns = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in size), indexing="ij")
    cos, sin = np.cos(angle), np.sin(angle)
    warp = np.stack([(cos * rows - sin * columns) * zoom[0], (sin * rows + cos * columns) * zoom[1]], -1) + centre
    positions = torch.from_numpy(warp.astype(np.float32))
    if rng.random() < 0.5:
        coarse = torch.from_numpy(rng.normal(0, rng.uniform(1, 5), (1, 2, 6, 6)).astype(np.float32))
        positions += F.interpolate(coarse, size, mode="bicubic", align_corners=True)[0].permute(1, 2, 0)
    return positions, (size[0], size[1])


def _intensities(image: Tensor, masks: dict[int, Tensor], profile: Profile, rng: np.random.Generator) -> Tensor:
    groups = {v: profile.classes[v - 1].removeprefix("left_").removeprefix("right_") for v in masks}
    for group in set(groups.values()):
        if rng.random() > 0.5:
            continue
        mask = torch.stack([m for v, m in masks.items() if groups[v] == group]).sum(0).clamp(0, 1)
        mean = float((image * mask).sum() / mask.sum().clamp(min=1))
        # Kidneys run from unenhanced to the nephrographic phase, the liver varies less.
        target = rng.uniform(15, 220) if group == "kidney" else mean + rng.normal(0, 25)
        image = image + mask * (target - mean)
    shift = rng.uniform(-30, 30) if rng.random() < 0.5 else rng.normal(0, 5)
    image = image + float(shift)
    if rng.random() < 0.3:
        image = _blur(image, [rng.uniform(0.4, 1.2)] * 2)
    if rng.random() < 0.7:
        sd = float(rng.exponential(20))
        noise = torch.from_numpy(rng.standard_normal(tuple(image.shape), dtype=np.float32))
        if rng.random() < 0.7:
            grain = rng.uniform(0.5, 1.3)
            noise = _blur(noise, [grain] * 2)
            noise = noise / noise.std()
        image = image + sd * noise
    image = windowed(image, profile)
    if rng.random() < 0.3:
        image = image ** float(np.exp(rng.normal(0, 0.25)))
    return image
