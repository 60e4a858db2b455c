"""Renal parenchyma out of whole kidneys, by HU and distance. Knows one mask and its CT; no labels, no network.

Nazari et al. 2021 fine-tune on kidneys without renal pelvis, artery and vein. Where only whole kidneys are drawn, this
takes out of them what lies in the sinus and is no parenchyma: fat and urine (darker, or in the excretory phase much
brighter), vessels filled with contrast medium, and what is thin at the hilum. A cyst elsewhere stays, as tumours do.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy import ndimage

from doselabel.geometry import Geometry, Volume, canonical, restore

URINE_HU, BELOW_HU = 20.0, 14.0
"""Darker than this, and than the parenchyma by this, is urine or fat for sure."""
ABOVE_HU = 90.0
"""Brighter than the parenchyma by this is urine with contrast medium, or an artery."""
SMOOTH_MM = (1.5, 3.0, 4.5)
"""Blur: the least where there is contrast medium; else, with urine 25 HU away, until the noise is below `NOISE_HU`."""
PLAIN_HU, NOISE_HU, SURE = 70.0, 6.0, 3.0
"""Cortex below `PLAIN_HU` has no contrast medium; there, `SURE` standard deviations of the noise are asked for."""
SHELL_MM = (2.0, 7.0)
"""Depth below the surface that is parenchyma in every kidney: cortex."""
DEEP_MM = 6.0
"""The sinus reaches deeper than this; a spot that does not is none."""
HULL_MM = 12.0
"""Gaps of up to twice this, such as the hilum, count to the kidney's hull, from which depth is taken."""
EDGE_MM = 2.5
"""So far around what is surely no parenchyma the edge is looked for, at the middle of both HU."""
THIN_MM = 3.5
"""What a ball of this radius does not fit into, on the side of the hilum, is a vessel."""
LEAST_ML = 0.3
MIDDLE = 0.7
"""Part of the kidney's length, about its middle, where the sinus lies."""


def parenchyma(ct: np.ndarray, kidney: np.ndarray, geometry: Geometry, side: Literal["left", "right"]) -> np.ndarray:
    """Leave pelvis, sinus fat and vessels out of a kidney.

    Parameters
    ----------
    ct : (z, y, x) array
        HU.
    kidney : (z, y, x) bool array
        The whole kidney; what is parenchyma already loses next to nothing.
    geometry : Geometry
        Of both.
    side : {"left", "right"}
        The patient's; the hilum looks to the other one and forwards.

    Returns
    -------
    (z, y, x) bool array
        A part of ``kidney``.
    """
    upright = canonical(Volume(kidney.astype(np.uint8), geometry))
    hu = canonical(Volume(ct, geometry)).array
    spacing = np.array(upright.geometry.spacing_mm)
    (found,) = ndimage.find_objects(upright.array)
    margin = np.ceil((HULL_MM + 4) / spacing).astype(int)
    pads = [
        (max(0, int(m) - part.start), max(0, part.stop + int(m) - size))
        for part, m, size in zip(found, margin, upright.array.shape, strict=True)
    ]
    box = tuple(slice(max(0, part.start - int(m)), part.stop + int(m)) for part, m in zip(found, margin, strict=True))
    mask = np.pad(upright.array[box] > 0, pads)
    kept = _kept(np.pad(hu[box].astype(np.float32), pads, mode="edge"), mask, spacing, side)
    inner = tuple(slice(low, size - high) for (low, high), size in zip(pads, mask.shape, strict=True))
    whole = np.zeros(upright.array.shape, np.uint8)
    whole[box] = kept[inner]
    return restore(Volume(whole, upright.geometry), geometry).array > 0


def _kept(hu: np.ndarray, mask: np.ndarray, spacing: np.ndarray, side: str) -> np.ndarray:
    """The same for arrays in canonical orientation (x grows to the left, y backwards), cropped with a margin."""
    depth = _depth(_closed(mask, HULL_MM, spacing), spacing)
    shell = mask & (depth > SHELL_MM[0]) & (depth < SHELL_MM[1])
    if not shell.any():
        return mask
    for sigma_mm in SMOOTH_MM:
        smooth = _smooth(hu, mask, spacing, sigma_mm)
        usual = float(np.median(smooth[shell]))
        noise = 1.48 * float(np.median(np.abs(smooth[shell] - usual))) if usual < PLAIN_HU else 0.0
        if noise < NOISE_HU:
            break
    dark = mask & (smooth < min(URINE_HU, usual - max(BELOW_HU, SURE * noise)))
    bright = mask & (smooth > usual + ABOVE_HU)
    towards = _towards_hilum(mask, spacing, side)
    taken = np.zeros(mask.shape, bool)
    for seeds in (dark, bright):
        core = _of_sinus(seeds, depth, towards, mask, spacing)
        if not core.any():
            continue
        edge = 0.5 * (float(np.median(smooth[core])) + usual)
        near = mask & (_distance(core, spacing) < EDGE_MM)
        taken |= core | (near & ((smooth < edge) if seeds is dark else (smooth > edge)))
    rest = mask & ~taken
    thin = rest & ~_opened(rest, THIN_MM, spacing) & (towards > 0.5 * towards[mask].max()) & (depth < 2 * DEEP_MM)
    kept = rest & ~_large(thin, spacing)
    parts, count = ndimage.label(kept)
    if not count:
        return mask
    sizes = np.bincount(parts.ravel())[1:]
    return np.isin(parts, 1 + np.flatnonzero(sizes > 0.05 * sizes.max()))


def _of_sinus(
    seeds: np.ndarray, depth: np.ndarray, towards: np.ndarray, mask: np.ndarray, spacing: np.ndarray
) -> np.ndarray:
    """Those connected parts that reach deep, about the middle, and don't lie on the side away from the hilum."""
    parts, _ = ndimage.label(seeds)
    heights = np.flatnonzero(mask.any((1, 2)))
    middle, half = (heights[0] + heights[-1]) / 2, (heights[-1] - heights[0] + 1) / 2 * MIDDLE
    kept = np.zeros(mask.shape, bool)
    for number, box in enumerate(ndimage.find_objects(parts), start=1):
        part = parts[box] == number
        z = float(np.nonzero(part)[0].mean()) + box[0].start
        if (
            part.sum() * spacing.prod() / 1000 >= LEAST_ML
            and depth[box][part].max() > DEEP_MM
            and abs(z - middle) <= half
            and float(towards[box][part].mean()) > -5.0
        ):
            kept[box] |= part
    return kept


def _towards_hilum(mask: np.ndarray, spacing: np.ndarray, side: str) -> np.ndarray:
    """How far (mm) each voxel lies towards the hilum from the kidney's centre at its own height."""
    _, y, x = (np.arange(n, dtype=np.float32) for n in mask.shape)
    weight = np.maximum(mask.sum((1, 2)), 1)
    centre_y, centre_x = (mask.sum(2) @ y) / weight, (mask.sum(1) @ x) / weight
    inwards = -1.0 if side == "left" else 1.0
    dx = inwards * spacing[2] * (x[None, None, :] - centre_x[:, None, None])
    dy = -spacing[1] * (y[None, :, None] - centre_y[:, None, None])
    return (dx + 0.4 * dy) / np.hypot(1, 0.4)


def _smooth(hu: np.ndarray, mask: np.ndarray, spacing: np.ndarray, sigma_mm: float) -> np.ndarray:
    """Blurred inside the mask only: the fat around it must not darken its rim."""
    sigma = sigma_mm / spacing
    weight = ndimage.gaussian_filter(mask.astype(np.float32), sigma)
    return ndimage.gaussian_filter(np.where(mask, hu, 0).astype(np.float32), sigma) / np.maximum(weight, 1e-3)


def _depth(mask: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    return ndimage.distance_transform_edt(mask, sampling=spacing)


def _distance(mask: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    return ndimage.distance_transform_edt(~mask, sampling=spacing)


def _closed(mask: np.ndarray, radius_mm: float, spacing: np.ndarray) -> np.ndarray:
    return _depth(_distance(mask, spacing) <= radius_mm, spacing) > radius_mm


def _opened(mask: np.ndarray, radius_mm: float, spacing: np.ndarray) -> np.ndarray:
    core = _depth(mask, spacing) > radius_mm
    return _distance(core, spacing) <= radius_mm if core.any() else core


def _large(mask: np.ndarray, spacing: np.ndarray) -> np.ndarray:
    parts, count = ndimage.label(mask)
    sizes = np.bincount(parts.ravel(), minlength=count + 1) * spacing.prod() / 1000
    sizes[0] = 0
    return sizes[parts] >= LEAST_ML
