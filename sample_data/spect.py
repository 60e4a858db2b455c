"""SPECT of a made-up patient: the camera's blur, the voxel's integration, and counting noise. No anatomy of its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import fft, ndimage

from doselabel.geometry import Geometry, Volume
from sample_data.shapes import Axes

SHAPE = (62, 84, 84)
SPACING_MM = (4.8, 4.8, 4.8)
FULL_SHAPE = (72, 128, 128)
FULL_SPACING_MM = (4.42, 4.42, 4.42)
COUNTS_PER_MBQ = 4000.0
"""Counts that one MBq contributes in half an hour on two heads, attenuation included."""

GRAIN_MM = 3.0
"""σ of the part of the blur that comes after counting: a reconstruction's noise has a grain."""

FWHM_PER_SIGMA = float(2 * np.sqrt(2 * np.log(2)))


@dataclass(frozen=True)
class Camera:
    """Grid and resolution: ``fwhm_mm`` (z, y, x) is the point-spread function before voxels integrate it."""

    geometry: Geometry
    fwhm_mm: tuple[float, float, float]


def acquire(
    camera: Camera, fine: Axes, mbq_ml: np.ndarray, moved_mm: tuple[float, float, float], rng: np.random.Generator
) -> Volume:
    """Take a SPECT of an activity distribution.

    Parameters
    ----------
    camera : Camera
    fine : Axes
        Grid of ``mbq_ml``, finer than the SPECT's.
    mbq_ml : (z, y, x) array
        Activity concentration at the time of the SPECT, MBq/mL.
    moved_mm : tuple of float
        How far (x, y, z) the patient has moved from where ``fine`` says.
    rng : numpy.random.Generator

    Returns
    -------
    Volume
        Bq/mL, float32. Blur, integration and noise leave the total unbiased.
    """
    grid = camera.geometry
    sigma = np.asarray(camera.fwhm_mm) / FWHM_PER_SIGMA
    late = np.array([_kernel_sigma(GRAIN_MM / d) * d for d in grid.spacing_mm])
    image = _blurred(mbq_ml, fine.spacing_mm, np.sqrt(sigma**2 - late**2), grid.spacing_mm)
    index = [
        (o + np.arange(n) * d - m - axis[0]) / s
        for o, n, d, m, axis, s in zip(
            grid.origin_mm[::-1], grid.shape, grid.spacing_mm, moved_mm[::-1],
            (fine.z, fine.y, fine.x), fine.spacing_mm, strict=True,
        )
    ]  # fmt: skip
    mean = ndimage.map_coordinates(image, np.meshgrid(*index, indexing="ij"), order=3, mode="constant")
    per_mbq_ml = COUNTS_PER_MBQ * grid.voxel_volume_ml
    counts = rng.poisson(np.maximum(mean, 0) * per_mbq_ml).astype(float)
    counts = ndimage.gaussian_filter(counts, [GRAIN_MM / d for d in grid.spacing_mm], mode="constant")
    return Volume((counts / per_mbq_ml * 1e6).astype(np.float32), grid)


def grid_around(centre_mm: tuple[float, float, float], *, full: bool) -> Geometry:
    """SPECT grid around a point (x, y, z)."""
    shape, spacing = (FULL_SHAPE, FULL_SPACING_MM) if full else (SHAPE, SPACING_MM)
    x, y, z = (c - (n - 1) / 2 * d for c, n, d in zip(centre_mm, shape[::-1], spacing[::-1], strict=True))
    return Geometry(shape, spacing, (x, y, z))


def _blurred(
    values: np.ndarray, spacing_mm: tuple[float, ...], sigma_mm: np.ndarray, box_mm: tuple[float, ...]
) -> np.ndarray:
    """Convolve with a Gaussian and with a voxel's box (z, y, x), exactly, in Fourier space."""
    widest = [int(np.ceil((5 * s + b) / d)) for s, b, d in zip(sigma_mm, box_mm, spacing_mm, strict=True)]
    shape = [fft.next_fast_len(n + w, real=True) for n, w in zip(values.shape, widest, strict=True)]
    spectrum = fft.rfftn(values.astype(np.float32), shape)
    for axis, (n, d, s, b) in enumerate(zip(shape, spacing_mm, sigma_mm, box_mm, strict=True)):
        f = fft.rfftfreq(n, d) if axis == 2 else fft.fftfreq(n, d)
        # A fine voxel is a box of even activity, so its own width counts as well as the SPECT voxel's.
        gain = np.exp(-2 * (np.pi * s * f) ** 2) * np.sinc(b * f) * np.sinc(d * f)
        spectrum *= gain.astype(np.float32).reshape([-1 if a == axis else 1 for a in range(3)])
    wide = fft.irfftn(spectrum, shape)
    return wide[tuple(slice(n) for n in values.shape)]


def _kernel_sigma(sigma_voxels: float) -> float:
    """Width that a sampled Gaussian filter of this σ really has, in voxels."""
    line = np.zeros(41)
    line[20] = 1
    weights = ndimage.gaussian_filter1d(line, sigma_voxels)
    return float(np.sqrt((weights * (np.arange(41) - 20) ** 2).sum()))
