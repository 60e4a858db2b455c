"""Resolution (FWHM) from a point source, a line source or the edge of a hot sphere. Knows an image, no patients.

The width is that of the Gaussian that fits best, voxels integrated over: what partial-volume correction uses. A real
point-spread function has tails, so the Gaussian's width differs from the width at half of the maximum read off the
profile (NEMA NU 1); half that difference's range, rectangular, is part of the uncertainty.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage, optimize
from scipy.special import erf

from doselabel.camera import Resolution
from doselabel.errors import CalibrationError
from doselabel.geometry import Geometry, Volume

FWHM_PER_SIGMA = 2.0 * math.sqrt(2.0 * math.log(2.0))
AXES = ("z", "y", "x")
CUT_MM = 45.0
"""Half the box around a source that is fitted."""
LINE_SLICES = 5
UNMEASURED_RELATIVE_SD = 0.10
"""Of the width along a line source, which is taken from the other two."""


SPHERE_SHAPE_RELATIVE_SD = 0.03
"""Assumed: an edge can't tell a PSF's tails from a wider core. Tails with 6 % of the counts widen it by 3 %."""


@dataclass(frozen=True, eq=False)
class MeasuredResolution:
    """A resolution, its parts of uncertainty (mm, k = 1, mean over axes), and a measured and a fitted profile."""

    resolution: Resolution
    parts: dict[str, float]
    profile_mm: NDArray[np.float64]
    profile: NDArray[np.float64]
    fitted: NDArray[np.float64]


def of_point(image: Volume) -> MeasuredResolution:
    """FWHM along all three axes from a point source (in air or in a cold phantom).

    Raises
    ------
    CalibrationError
        When the source is at the edge, or no Gaussian fits.
    """
    box, start = _around_peak(image)
    spacing = np.asarray(image.geometry.spacing_mm)
    axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(box.shape, spacing, strict=True)]
    top, base = float(box.max()), float(np.median(box))

    def model(p: NDArray[np.float64]) -> NDArray[np.float64]:
        z, y, x = (_bins(a, c, abs(s), h) for a, c, s, h in zip(axes, p[1:4], p[4:7], spacing, strict=True))
        return np.asarray(p[0] * z[:, None, None] * y[None, :, None] * x[None, None, :] + p[7])

    sigma0 = _guess_sigma(box - base, axes)
    p0 = np.array([(top - base) * float(np.prod(sigma0 * math.sqrt(2 * math.pi) / spacing)), *start, *sigma0, base])
    p, cov = _fit(lambda p: (model(p) - box).ravel(), p0)
    fwhm = np.abs(p[4:7]) * FWHM_PER_SIGMA
    fit_sd = np.sqrt(np.diag(cov))[4:7] * FWHM_PER_SIGMA
    peak = np.unravel_index(int(box.argmax()), box.shape)
    lines = [box[:, peak[1], peak[2]], box[peak[0], :, peak[2]], box[peak[0], peak[1], :]]
    direct = np.array([_width(line - p[7], h) for line, h in zip(lines, spacing, strict=True)])
    # A profile read off voxels is also as wide as a voxel: NEMA's width, less that.
    direct = np.sqrt(np.maximum(direct**2 - FWHM_PER_SIGMA**2 * spacing**2 / 12, spacing**2 / 12))
    shown = model(p)
    return _measured(
        fwhm, fit_sd, np.abs(fwhm - direct), "point source, Gaussian fit",
        axes[2], lines[2], shown[peak[0], peak[1], :],
    )  # fmt: skip


def of_line(image: Volume) -> MeasuredResolution:
    """FWHM across a line source from the slices across it; along it the mean of the other two is taken.

    The line may be tilted: every slice has its own centre.
    """
    counts = image.array.astype(float)
    spacing = np.asarray(image.geometry.spacing_mm)
    hot = np.argwhere(counts > 0.5 * np.percentile(counts, 99.9)) * spacing
    if len(hot) < 2 * LINE_SLICES:
        raise CalibrationError("The image holds no line source.", "Give the scan of a line source.")
    along = int(np.argmax(np.ptp(hot, axis=0)))
    turned = np.moveaxis(counts, along, 0)
    across = [a for a in range(3) if a != along]
    low, high = (hot[:, along] / spacing[along]).min(), (hot[:, along] / spacing[along]).max()
    inner = np.arange(math.ceil(low + 0.15 * (high - low)), math.floor(high - 0.15 * (high - low)) + 1)
    if len(inner) < LINE_SLICES:
        raise CalibrationError(
            f"The line source crosses {len(inner)} slices; expected {LINE_SLICES} at least.", "Use a longer one."
        )
    found, direct, shown = [], [], None
    for i in inner:
        plane = Volume(turned[i][None], _plane_geometry(image, along))
        box, start = _around_peak(plane)
        axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(box.shape[1:], spacing[across], strict=True)]
        flat, base = box[0], float(np.median(box))
        sigma0 = _guess_sigma((flat - base)[None], [np.zeros(1), *axes])[1:]

        def model(p: NDArray[np.float64], axes: list[NDArray[np.float64]] = axes) -> NDArray[np.float64]:
            a, b = (_bins(x, c, abs(s), h) for x, c, s, h in zip(axes, p[1:3], p[3:5], spacing[across], strict=True))
            return np.asarray(p[0] * a[:, None] * b[None, :] + p[5])

        amount = (float(flat.max()) - base) * float(np.prod(sigma0 * math.sqrt(2 * math.pi) / spacing[across]))
        p, _ = _fit(lambda p, m=model, f=flat: (m(p) - f).ravel(), np.array([amount, *start[1:], *sigma0, base]))
        found.append(np.abs(p[3:5]) * FWHM_PER_SIGMA)
        peak = np.unravel_index(int(flat.argmax()), flat.shape)
        widths = [_width(flat[:, peak[1]] - p[5], spacing[across[0]]), _width(flat[peak[0]] - p[5], spacing[across[1]])]
        direct.append(np.sqrt(np.maximum(np.square(widths) - FWHM_PER_SIGMA**2 * spacing[across] ** 2 / 12, 0.1)))
        shown = (axes[1], flat[peak[0]], model(p)[peak[0]])
    assert shown is not None
    widths_mm, profile_mm = np.array(found), np.array(direct)
    fwhm, fit_sd, shape = np.zeros(3), np.zeros(3), np.zeros(3)
    fwhm[across] = widths_mm.mean(axis=0)
    fit_sd[across] = widths_mm.std(axis=0, ddof=1) / math.sqrt(len(inner))
    shape[across] = np.abs(widths_mm.mean(axis=0) - profile_mm.mean(axis=0))
    fwhm[along] = fwhm[across].mean()
    fit_sd[along] = UNMEASURED_RELATIVE_SD * fwhm[along]
    how = f"line source along {AXES[along]}, {len(inner)} slices; the width along it is the mean of the others"
    return _measured(fwhm, fit_sd, shape, how, *shown)


def of_sphere(image: Volume, volume_ml: float) -> MeasuredResolution:
    """FWHM (the same along all axes) from the blurred edge of a hot sphere of known volume.

    The profile of a uniform sphere blurred by a Gaussian is known in closed form; centre, contrast, background and
    width are fitted, the radius is given. With the radius free as well the width changes; that is part of the
    uncertainty.
    """
    if not (math.isfinite(volume_ml) and volume_ml > 0):
        raise CalibrationError(f"volume_ml is {volume_ml}; expected a number above 0.")
    radius = (3e3 * volume_ml / (4 * math.pi)) ** (1 / 3)
    box, start = _around_peak(image, radius + CUT_MM)
    spacing = np.asarray(image.geometry.spacing_mm)
    axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(box.shape, spacing, strict=True)]
    centre0 = np.array(ndimage.center_of_mass(np.clip(box - 0.4 * box.max(), 0, None)))
    start = (centre0 - (np.array(box.shape) - 1) / 2) * spacing

    def distances(centre: NDArray[np.float64]) -> NDArray[np.float64]:
        z, y, x = (a - c for a, c in zip(axes, centre, strict=True))
        return np.sqrt(z[:, None, None] ** 2 + y[None, :, None] ** 2 + x**2)

    def model(p: NDArray[np.float64], r: float) -> NDArray[np.float64]:
        # A voxel blurs like a Gaussian of its own variance.
        sigma = math.sqrt(p[4] ** 2 + float(np.mean(spacing**2)) / 12)
        return np.asarray(p[0] * _blurred_sphere(distances(p[1:4]), r, sigma) + p[5])

    base = float(np.median(box))
    p0 = np.array([float(box.max()) - base, *start, 5.0, base])
    p, cov = _fit(lambda p: (model(p, radius) - box).ravel(), p0)
    free, _ = _fit(lambda p: (model(p[:6], abs(p[6])) - box).ravel(), np.array([*p, radius]))
    fwhm = np.full(3, abs(p[4]) * FWHM_PER_SIGMA)
    fit_sd = np.full(3, math.sqrt(cov[4, 4]) * FWHM_PER_SIGMA)
    with_free_radius = abs(abs(p[4]) - abs(free[4])) * FWHM_PER_SIGMA
    shape = np.hypot(np.full(3, with_free_radius), SPHERE_SHAPE_RELATIVE_SD * math.sqrt(3.0) * fwhm)
    middle = [round(c / h + (n - 1) / 2) for c, h, n in zip(p[1:4], spacing, box.shape, strict=True)]
    shown = model(p, radius)
    how = f"edge of a sphere of {volume_ml:g} mL"
    return _measured(fwhm, fit_sd, shape, how, axes[2], box[middle[0], middle[1]], shown[middle[0], middle[1]])


# ---- small parts


def _measured(
    fwhm: NDArray[np.float64],
    fit_sd: NDArray[np.float64],
    shape_difference: NDArray[np.float64],
    how: str,
    x: NDArray[np.float64],
    line: NDArray[np.float64],
    fitted: NDArray[np.float64],
) -> MeasuredResolution:
    shape_sd = shape_difference / math.sqrt(3.0)
    sd = np.hypot(fit_sd, shape_sd)
    a, b, c = (float(v) for v in fwhm)
    u, v, w = (float(s) for s in sd)
    found = Resolution(fwhm_mm=(a, b, c), sd_mm=(u, v, w), how=how)
    parts = {"fit": float(fit_sd.mean()), "shape of the PSF": float(shape_sd.mean())}
    return MeasuredResolution(found, parts, x, line, fitted)


def _around_peak(image: Volume, half_mm: float = CUT_MM) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """A box of whole voxels around the hottest place, and where in it (mm from its middle) that is."""
    counts = image.array.astype(float)
    if not np.isfinite(counts).all() or not counts.max() > 0:
        raise CalibrationError("The image holds no counts, or values that are not finite.", "Give the phantom's scan.")
    smooth = ndimage.gaussian_filter(counts, [0.8 if n > 1 else 0 for n in counts.shape])
    peak = [int(i) for i in np.unravel_index(int(smooth.argmax()), counts.shape)]
    spacing = image.geometry.spacing_mm
    box, start = [], []
    for n, at, h in zip(counts.shape, peak, spacing, strict=True):
        reach = int(half_mm / h) if n > 1 else 0
        low, high = max(at - reach, 0), min(at + reach + 1, n)
        if n > 1 and min(at - low, high - 1 - at) * h < 12.0:
            raise CalibrationError("The source lies at the edge of the image.", "Give an image that holds it whole.")
        box.append(slice(low, high))
        start.append((at - low - (high - low - 1) / 2) * h)
    return counts[tuple(box)], np.array(start)


def _plane_geometry(image: Volume, along: int) -> Geometry:
    spacing = [s for i, s in enumerate(image.geometry.spacing_mm) if i != along]
    shape = [n for i, n in enumerate(image.array.shape) if i != along]
    return Geometry((1, shape[0], shape[1]), (image.geometry.spacing_mm[along], spacing[0], spacing[1]))


def _bins(x: NDArray[np.float64], centre: float, sigma: float, h: float) -> NDArray[np.float64]:
    """Part of a unit Gaussian in each voxel of an axis."""
    s = max(sigma, 1e-3) * math.sqrt(2.0)
    return np.asarray(0.5 * (erf((x + h / 2 - centre) / s) - erf((x - h / 2 - centre) / s)))


def _guess_sigma(box: NDArray[np.float64], axes: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    weights = np.clip(box - 0.2 * box.max(), 0, None)
    total = weights.sum()
    out = []
    for axis, a in enumerate(axes):
        line = weights.sum(axis=tuple(i for i in range(3) if i != axis)) / total
        middle = float(line @ a)
        out.append(max(1.3 * math.sqrt(float(line @ (a - middle) ** 2)), 1.0))
    return np.array(out)


def _fit(
    residuals: Callable[..., NDArray[np.float64]], p0: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    found = optimize.least_squares(residuals, p0, x_scale=np.maximum(np.abs(p0), 1.0), max_nfev=200)
    dof = max(len(found.fun) - len(p0), 1)
    covariance = np.linalg.pinv(found.jac.T @ found.jac) * float(found.fun @ found.fun) / dof
    if not np.isfinite(found.x).all():
        raise CalibrationError("No Gaussian fits the source.", "Check that the image shows one source.")
    return found.x, covariance


def _width(line: NDArray[np.float64], h: float) -> float:
    """Width at half maximum of a profile: parabola through the peak, straight lines at the half (NEMA NU 1), mm."""
    i = int(np.clip(line.argmax(), 1, len(line) - 2))
    a, b, c = line[i - 1], line[i], line[i + 1]
    curve = a - 2 * b + c
    top = b - (a - c) ** 2 / (8 * curve) if curve < 0 else b
    half = top / 2
    below = np.flatnonzero(line < half)
    left, right = below[below < i], below[below > i]
    if not (left.size and right.size):
        raise CalibrationError("The source's profile does not fall to half its maximum.", "Look at the image.")
    low, high = left[-1], right[0]
    at_low = low + (half - line[low]) / (line[low + 1] - line[low])
    at_high = high - (half - line[high]) / (line[high - 1] - line[high])
    return float((at_high - at_low) * h)


def _blurred_sphere(s: NDArray[np.float64], radius: float, sigma: float) -> NDArray[np.float64]:
    """Value at distance s from the centre of a unit sphere blurred by a Gaussian."""
    root = sigma * math.sqrt(2.0)
    s = np.maximum(s, 1e-3)
    near, far = (radius - s) / root, (radius + s) / root
    skin = sigma / (s * math.sqrt(2.0 * math.pi)) * (np.exp(-(near**2)) - np.exp(-(far**2)))
    return np.asarray(0.5 * (erf(near) + erf(far)) - skin)
