"""By how much an activity measured in one SPECT may be wrong: noise, place, spill. Knows one image, no times, no doses.

Every method of `voi` is linear in the image: an organ's activity is Σ response · C. So what an error of the image makes
of it follows from the response alone:

- *counts*: the noise is taken from the image itself. What neighbouring voxels differ by, less what the organs' blurred
  masks explain, gives its size and its grain (differences over one and over two voxels); its variance goes with the
  activity. Summed over the response, with the grain's correlation.
- *place*: a shift of the image changes the sum by its gradient and, where an organ stands alone, by its curvature.
- *spill-in*: what is hotter outside the masks than the transfer matrix explains (a tumour nobody drew) is taken as a
  source there; what it sheds into the organ is an error of unknown size, as large as itself.
- *bias*: a method that corrects nothing differs from the transfer matrix on the same image by a known amount.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from doselabel.dosimetry.alignment.grids import Box, cut_array, sigma_from_fwhm
from doselabel.dosimetry.physics.spheres import sphere_recovery
from doselabel.dosimetry.uptake.voi import VoiResult
from doselabel.geometry import Volume

LARGEST_GRAIN = 0.9
"""Correlation of neighbouring voxels is not believed above this: smooth structure, not noise, looks like that."""

NOISE_SIGMAS = 3.0
"""What lies less than this above the model outside the masks is noise."""

SMALLEST_COUNTS_SD = 1e-4

UNMEASURED_COUNTS_SD = 0.05
"""Where no noise can be measured: what a curve assumes of its points."""


@dataclass(frozen=True)
class ActivityErrors:
    """Errors of one organ's activity in one SPECT, relative to it.

    Attributes
    ----------
    counts : float
        Standard deviation from noise.
    per_mm, per_mm2 : float
        What a shift does: s mm (standard deviation along each axis) give hypot(per_mm · s, per_mm2 · s²).
    spill_in : float
        What activity outside all masks sheds into the organ, where it is more than the model has.
    bias : float
        How much too high (too low below 0) the method is, by the transfer matrix on the same image.
    """

    counts: float
    per_mm: float
    per_mm2: float
    spill_in: float
    bias: float = 0.0

    def place(self, sd_mm: float) -> float:
        """Relative error from a place known to ``sd_mm`` along each axis."""
        return float(np.hypot(self.per_mm * sd_mm, self.per_mm2 * sd_mm**2))


@dataclass(frozen=True, eq=False)
class ScanModel:
    """What a transfer matrix says of one image, whatever method is to be judged by it.

    Attributes
    ----------
    box : tuple of slice
        Index box of the SPECT that ``unexplained`` covers.
    activity_mbq : dict
        By organ.
    unexplained : (z, y, x) array
        What sources outside all masks would add to the image, Bq/mL.
    variance_per_bq_ml, correlated_voxels : float
        Variance of the noise over the activity concentration; how many voxels one grain makes alike.
    """

    box: Box
    activity_mbq: Mapping[str, float]
    unexplained: NDArray[np.float32]
    variance_per_bq_ml: float
    correlated_voxels: float


def scan_model(spect: Volume, reference: VoiResult, psf_fwhm_mm: Sequence[float]) -> ScanModel:
    """Look at an image (Bq/mL) by what `gtm` found in it with a PSF (z, y, x)."""
    transfer = reference.gtm
    assert transfer is not None  # the reference is a transfer matrix's
    values = cut_array(spect.array.astype(np.float32, copy=False), reference.box)
    seen = cut_array(np.ones(spect.array.shape, np.float32), reference.box) > 0
    model = np.zeros_like(values)
    for region in transfer.regions:
        model += np.float32(transfer.concentration(region)) * transfer.blurred[region]
    per_activity, correlated = _noise(values, model, seen)
    sigma = np.asarray(sigma_from_fwhm(psf_fwhm_mm)) / np.asarray(spect.geometry.spacing_mm)
    source = _unexplained(values, model, seen, transfer.blurred, transfer.regions, reference, sigma, per_activity)
    activities = {name: organ.activity_mbq for name, organ in reference.organs.items()}
    return ScanModel(reference.box, activities, source, per_activity, correlated)


def errors_of(
    spect: Volume, found: VoiResult, model: ScanModel, psf_fwhm_mm: Sequence[float]
) -> dict[str, ActivityErrors]:
    """Errors of every organ that was measured.

    Parameters
    ----------
    spect : Volume
        Bq/mL.
    found : VoiResult
        What was measured.
    model : ScanModel
        Of the same image; an organ that it lacks has the bias of a sphere.
    psf_fwhm_mm : (z, y, x)
        With which the model was computed.
    """
    values = cut_array(spect.array.astype(np.float32, copy=False), model.box)
    spacing = np.asarray(spect.geometry.spacing_mm)
    sigma = np.asarray(sigma_from_fwhm(psf_fwhm_mm)) / spacing
    slopes = [np.gradient(values, float(h), axis=axis) for axis, h in enumerate(spacing)]
    bends = [
        ndimage.correlate1d(values, [1, -2, 1], axis=axis, mode="nearest") / h**2 for axis, h in enumerate(spacing)
    ]
    mean = np.maximum(ndimage.gaussian_filter(values, sigma), 0)
    out = {}
    for name, organ in found.organs.items():
        bq = organ.activity_mbq * 1e6
        if not bq > 0:
            out[name] = ActivityErrors(1.0, 0.0, 0.0, 0.0)
            continue
        response = _moved(organ.response_ml, found.box, model.box)
        variance = float(np.vdot(response**2, mean)) * model.variance_per_bq_ml * model.correlated_voxels
        noise = float(np.sqrt(variance)) / bq
        slope = np.array([float(np.vdot(response, s)) for s in slopes]) / bq
        bend = np.array([float(np.vdot(response, b)) for b in bends]) / bq
        per_mm2 = float(np.sqrt(0.5 * np.sum(bend**2) + 0.25 * bend.sum() ** 2))
        other, bias = model.activity_mbq.get(name, 0.0), 0.0
        if found.gtm is None:
            bias = organ.activity_mbq / other - 1 if other > 0 else unknown(organ.mask_ml, psf_fwhm_mm).bias
        out[name] = ActivityErrors(
            counts=max(noise, SMALLEST_COUNTS_SD),
            per_mm=float(np.linalg.norm(slope)),
            per_mm2=per_mm2,
            spill_in=abs(float(np.vdot(response, model.unexplained))) / bq,
            bias=bias,
        )
    return out


def unknown(mask_ml: float, psf_fwhm_mm: Sequence[float]) -> ActivityErrors:
    """Errors where no transfer matrix can be had: the bias is what a sphere of that volume loses."""
    recovery = sphere_recovery(mask_ml, float(np.prod(psf_fwhm_mm) ** (1 / 3)))
    return ActivityErrors(counts=UNMEASURED_COUNTS_SD, per_mm=0.0, per_mm2=0.0, spill_in=0.0, bias=recovery - 1)


def _noise(values: NDArray[np.float32], model: NDArray[np.float32], seen: NDArray[np.bool_]) -> tuple[float, float]:
    """Variance of the noise per activity concentration (Bq/mL), and the voxels that one grain correlates.

    For noise of correlation ρ between neighbours and ρ^(d²) at d voxels, as a Gaussian filter leaves it, the second
    difference over d voxels has the variance σ² (6 − 8 ρ^(d²) + 2 ρ^(4d²)).
    """
    residual = values - model
    where = seen & (model > 0.05 * float(model.max()))
    grains, variances = [], []
    for axis in range(3):
        found = []
        for step in (1, 2):
            kernel = np.zeros(2 * step + 1, np.float32)
            kernel[[0, step, -1]] = 1, -2, 1
            squares = ndimage.correlate1d(residual, kernel, axis=axis, mode="nearest") ** 2
            found.append(float(squares[where].mean(dtype=np.float64)) if where.any() else 0.0)
        table = np.linspace(0, LARGEST_GRAIN, 91)
        expected = _difference(table) / _difference(table**4)
        ratio = found[0] / found[1] if found[1] > 0 else 1.0
        rho = float(np.interp(-ratio, -expected, table))
        grains.append(rho)
        variances.append(found[0] / float(_difference(rho)))
    level = float(values[where].mean(dtype=np.float64)) if where.any() else 1.0
    lags = np.arange(-12, 13) ** 2
    correlated = float(np.prod([np.sum(np.power(rho, lags)) if rho > 0 else 1.0 for rho in grains]))
    return float(np.mean(variances)) / max(level, 1e-9), correlated


def _difference(rho: NDArray[np.float64] | float) -> NDArray[np.float64] | float:
    return 6 - 8 * rho + 2 * rho**4


def _unexplained(
    values: NDArray[np.float32],
    model: NDArray[np.float32],
    seen: NDArray[np.bool_],
    blurred: Mapping[str, NDArray[np.float32]],
    regions: Sequence[str],
    reference: VoiResult,
    sigma: NDArray[np.float64],
    per_activity: float,
) -> NDArray[np.float32]:
    """What sources outside all masks would add to the image, where it is hotter there than the model."""
    inside = np.maximum.reduce([blurred[r] for r in regions if r in reference.organs or r.startswith("excluded:")])
    outside = seen & (inside < 0.5)
    noise = np.sqrt(per_activity * np.maximum(model, 0))
    residual = np.where(outside, values - model, 0)
    hot = np.where(residual > NOISE_SIGMAS * noise, residual, 0).astype(np.float32)
    spread = ndimage.gaussian_filter(hot, sigma)
    power = float(np.vdot(spread[outside], spread[outside]))
    scale = float(np.vdot(hot[outside], spread[outside])) / power if power > 0 else 0.0
    return scale * spread


def _moved(array: NDArray[np.float32], box: Box, onto: Box) -> NDArray[np.float32]:
    """An array of one index box on another."""
    z, y, x = (slice(b.start - a.start, b.stop - a.start) for a, b in zip(box, onto, strict=True))
    return cut_array(array, (z, y, x))
