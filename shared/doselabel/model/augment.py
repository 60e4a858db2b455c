"""Training slices: which one is drawn, and how it is varied. Knows prepared cases and chance; no network, no losses.

Everything is a pure function of a case and a random generator, so that sample number n of a run is the same in any
process, on any number of processes, and after a restart.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage
from torch import Tensor

from doselabel.model.cache import Prepared
from doselabel.model.network import mask_boxes
from doselabel.model.profiles import Profile
from doselabel.model.slices import (
    CLIP_HU,
    PLANES,
    Frame,
    adjacent,
    blurred,
    channel_step,
    frame_of,
    in_plane,
    resampled,
    sampled,
    stack,
    windowed,
)

MIN_OBJECT_PX = 6
"""Smaller cuts of an organ are not taught."""

BEYOND_MM = 20.0
"""How far beyond an organ's pole a slice still teaches where the organ ends."""

LOW_DOSE, UNENHANCED = 0.3, 0.25
"""Parts of all slices that are made to look like a low-dose CT, and like a CT without contrast medium."""

FILLED_AIR = 0.2
"""Part of the slices whose lungs and bowel gas are partly filled: effusion, consolidation, or the speckle of files that
know air badly. The liver's dome must be found where no black lung frames it."""

NATIVE_HU = {"kidney": (31, 5), "liver": (56, 9), "spleen": (48, 5)}
"""Mean and spread between patients of organs without contrast medium."""


def draw_slice(case: Prepared, plane: str, rng: np.random.Generator) -> int:
    """Choose a slice: 60 % through an organ (poles doubled), 25 % just beyond its poles, 15 % anywhere.

    Where organs are not labelled, a slice without any labelled one teaches nothing: then always through an organ.
    """
    axis = PLANES[plane]
    size = case.hu.shape[axis]
    first, last = case.organs[plane][int(rng.choice(list(case.organs[plane])))]
    kind = 0.0 if case.unlabelled else rng.random()
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
    case: Prepared,
    plane: str,
    index: int,
    profile: Profile,
    rng: np.random.Generator,
    crop_px: int,
    *,
    varied: bool = True,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Make one slice (C, H, W) in [0, 1] and its target for the network.

    Unless ``varied`` is off (the paper: a window is all): rotation ±15°, scale 0.8–1.25, elastic warp, slice-gap
    jitter, filled lungs, organ enhancement, unenhanced look, HU shift ±30, low-dose resolution and noise. No
    mirroring: left must stay left.
    """
    axis = PLANES[plane]
    step = channel_step(profile, case.spacing_mm[axis])
    if varied:
        step = max(1, round(step * rng.uniform(0.7, 2.0)))
    spacing, box, shape = (in_plane(values, plane) for values in (case.spacing_mm, case.box, case.scanned))
    frame = frame_of(profile, spacing, box, shape)
    hu = stack(case.hu, plane, index, profile.in_slices, step)
    neighbours = torch.from_numpy(adjacent(case.classes, plane, index, profile.in_slices, step))
    warp, size = _warp(frame, rng, crop_px, varied)
    frame = Frame(size, frame.scale, frame.offset)
    image = resampled(hu, frame, warp)
    if varied and rng.random() < FILLED_AIR:
        image = _filled_air(image, plane, rng)
    middle = neighbours[profile.in_slices // 2]
    # All channels' indicators: enhancement must change an organ's neighbours in depth alike.
    masks = {
        value: sampled((neighbours == value).float(), frame.index(warp))
        for value in neighbours.unique().tolist()
        if value
    }
    image = windowed(_intensities(image, masks, profile, rng) if varied else image, profile)
    if varied and rng.random() < 0.3:
        image = image ** float(np.exp(rng.normal(0, 0.25)))
    if profile.spect:
        image = torch.cat([image, _spect_channel(case, plane, index, frame, warp, rng)])
    kept = {v: (m[profile.in_slices // 2] >= 0.5).to(torch.uint8) for v, m in masks.items() if (middle == v).any()}
    kept = {v: m for v, m in kept.items() if int(m.sum()) >= MIN_OBJECT_PX}
    target = {"unlabelled": torch.tensor(case.unlabelled, dtype=torch.int64)}
    if not kept:
        target |= {
            "boxes": torch.zeros(0, 4),
            "labels": torch.zeros(0, dtype=torch.int64),
            "masks": torch.zeros(0, *image.shape[-2:], dtype=torch.uint8),
        }
        return image, target
    all_masks = torch.stack(list(kept.values()))
    target |= {
        "boxes": mask_boxes(all_masks, profile.box_pad),
        "labels": torch.tensor(list(kept), dtype=torch.int64),
        "masks": all_masks,
    }
    return image, target


def _warp(frame: Frame, rng: np.random.Generator, crop_px: int, varied: bool = True) -> tuple[Tensor, tuple[int, int]]:
    """Random crop and, if ``varied``, rotation, scale and elastic warp: positions (H, W, 2) in pixels of ``frame``."""
    angle = np.deg2rad(rng.normal(0, 7.5)).clip(-0.26, 0.26)
    zoom = np.exp(rng.uniform(np.log(0.8), np.log(1.25), 2) * 0.5 + np.log(rng.uniform(0.85, 1.2)) * 0.7)
    size = [int(min(crop_px, max(32, np.ceil(n / 32) * 32))) for n in frame.size]
    middle = (np.array(frame.size) - 1) / 2
    slack = np.maximum(0, np.array(frame.size) - np.array(size)) / 2 + 10
    if not varied:
        angle, zoom, slack = 0.0, np.ones(2), np.maximum(0, slack - 10)
    centre = middle + rng.uniform(-slack, slack)
    rows, columns = np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in size), indexing="ij")
    cos, sin = np.cos(angle), np.sin(angle)
    warp = np.stack([(cos * rows - sin * columns) * zoom[0], (sin * rows + cos * columns) * zoom[1]], -1) + centre
    positions = torch.from_numpy(warp.astype(np.float32))
    if varied and rng.random() < 0.5:
        coarse = torch.from_numpy(rng.normal(0, rng.uniform(1, 5), (1, 2, 6, 6)).astype(np.float32))
        positions += F.interpolate(coarse, size, mode="bicubic", align_corners=True)[0].permute(1, 2, 0)
    return positions, (size[0], size[1])


def _filled_air(image: Tensor, plane: str, rng: np.random.Generator) -> Tensor:
    """Fill parts of the air inside the body with what has the density of tissue (C, H, W), HU."""
    inside = torch.from_numpy(_air_inside(image, plane))
    if int(inside.sum()) < 50:
        return image
    coarse = torch.from_numpy(rng.standard_normal((1, 1, 8, 8), dtype=np.float32))
    field = F.interpolate(coarse, image.shape[-2:], mode="bicubic", align_corners=True)[0, 0]
    where = inside & (field > torch.quantile(field[inside.any(0)], float(rng.uniform(0, 0.7))))
    if rng.random() < 0.5:  # as dense as the liver, and rough
        filling = float(rng.uniform(20, 160)) + _noise(image, float(rng.uniform(30, 140)), rng.uniform(0.3, 0.8), rng)
    else:  # effusion to enhanced atelectasis
        filling = float(rng.uniform(-10, 110)) + _noise(image, float(rng.uniform(5, 25)), rng.uniform(0.3, 1.1), rng)
    return torch.where(where, filling, image)


def _air_inside(image: Tensor, plane: str) -> np.ndarray:
    """Air (C, H, W) that does not reach the picture's sides; lungs may be cut by the scan's upper end."""
    air = blurred(image.clamp(*CLIP_HU), [1.0] * 2).numpy() < CLIP_HU[0] + 10  # no fat, however noisy
    names, _ = ndimage.label(air[air.shape[0] // 2])
    sides = [names[:, :2], names[:, -2:]] + ([names[:2], names[-2:]] if plane == "axial" else [])
    outside = np.unique(np.concatenate([side.ravel() for side in sides]))
    inside = ndimage.binary_dilation(air & ~np.isin(names, outside), np.ones((1, 3, 3), bool), iterations=2)
    return inside & (image.numpy() < CLIP_HU[0] + 8)


def _intensities(image: Tensor, masks: dict[int, Tensor], profile: Profile, rng: np.random.Generator) -> Tensor:
    """Vary enhancement, calibration, resolution and noise (C, H, W), HU."""
    air = image < CLIP_HU[0] + 8
    organs: dict[str, Tensor] = {}
    for value, mask in masks.items():
        group = profile.classes[value - 1].removeprefix("left_").removeprefix("right_")
        organs[group] = (organs[group] + mask).clamp(0, 1) if group in organs else mask
    image = _unenhanced(image, organs, rng) if rng.random() < UNENHANCED else _enhanced(image, organs, rng)
    image = image + float(rng.uniform(-30, 30) if rng.random() < 0.3 else rng.normal(0, 6))
    if rng.random() < LOW_DOSE:
        image = _low_dose(image, rng)
    else:
        if rng.random() < 0.3:
            image = blurred(image, [rng.uniform(0.4, 1.1)] * 2)
        if rng.random() < 0.6:
            image = image + _noise(image, float(rng.exponential(12)), rng.uniform(0.3, 1.1), rng)
    # Noise and shift of air lie far below the window in truth: clipped values must not show them.
    return torch.where(air, torch.minimum(image, torch.tensor(CLIP_HU[0] + 15)), image)


def _enhanced(image: Tensor, organs: dict[str, Tensor], rng: np.random.Generator) -> Tensor:
    """Give organs another mean: kidneys run from unenhanced to nephrographic, others vary less."""
    for name, mask in organs.items():
        if rng.random() < 0.65:
            continue
        mean = float((image * mask).sum() / mask.sum().clamp(min=1))
        target = rng.uniform(20, 215) if name == "kidney" else mean + rng.normal(0, 22)
        image = image + mask * (target - mean)
    return image


def _unenhanced(image: Tensor, organs: dict[str, Tensor], rng: np.random.Generator) -> Tensor:
    """Take the contrast medium out: vessels and organs fall to what they are without it, bone stays."""
    keep = float(rng.uniform(0.1, 0.4))
    bright = (image - 45).clamp(min=0)
    bone = ((image - 190) / 60).clamp(0, 1)
    flat = torch.where(image > 45, 45 + bright * (keep + (1 - keep) * bone), image)
    for name, mask in organs.items():
        mean, spread = NATIVE_HU.get(name, (45, 8))
        native = mean + float(rng.normal(0, spread))
        within = native + (image - float((image * mask).sum() / mask.sum().clamp(min=1))) * float(
            rng.uniform(0.15, 0.6)
        )
        flat = flat + mask * (within - flat)
    return flat


def _low_dose(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Coarse pixels, smooth and noisy, as a CT of a SPECT/CT has them."""
    height, width = image.shape[-2:]
    coarse = float(rng.uniform(1.0, 2.7))
    noisy = image + _noise(image, float(rng.uniform(8, 45)) * coarse**0.5, rng.uniform(0.4, 1.2), rng)
    if coarse < 1.2:
        return noisy
    size = (max(8, round(height / coarse)), max(8, round(width / coarse)))
    small = F.interpolate(noisy[None], size, mode="area")
    return F.interpolate(small, (height, width), mode="bilinear", align_corners=False)[0]


def _noise(image: Tensor, sd: float, grain_px: float, rng: np.random.Generator) -> Tensor:
    noise = torch.from_numpy(rng.standard_normal(tuple(image.shape), dtype=np.float32))
    if grain_px > 0.35:
        noise = blurred(noise, [grain_px] * 2)
        noise = noise / noise.std()
    return sd * noise


def _spect_channel(
    case: Prepared, plane: str, index: int, frame: Frame, warp: Tensor, rng: np.random.Generator
) -> Tensor:
    """The uptake of the middle slice (1, H, W), shifted by up to about 15 mm; empty without one, or by chance."""
    if case.spect is None or rng.random() < 0.25:
        return torch.zeros(1, *warp.shape[:2])
    axis = PLANES[plane]
    shift_mm = rng.normal(0, 5.0, 3).clip(-15, 15)
    across = int(np.clip(index + round(shift_mm[axis] / case.spacing_mm[axis]), 0, case.spect.shape[axis] - 1))
    picture = torch.from_numpy(np.take(case.spect, across, axis).astype(np.float32))[None]
    pixel_mm = np.array(frame.scale) * np.array(in_plane(case.spacing_mm, plane))
    moved = warp + torch.from_numpy((np.array(in_plane(shift_mm, plane)) / pixel_mm).astype(np.float32))
    return resampled(picture, frame, moved, fill=0.0) * float(rng.uniform(0.6, 1.5))
