"""A uniform sphere seen with a Gaussian point-spread function: recovery, how counts follow its outline, how well its
volume is known.

Closed forms. Knows volumes and widths; no organs, no images. Gear et al., Eur. J. Nucl. Med. Mol. Imaging 45:2456
(2018), uses these slopes for organs of any shape, by their volume.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from scipy.integrate import quad
from scipy.special import erf

from doselabel.errors import DoseError

FWHM_PER_SIGMA = 2.0 * math.sqrt(2.0 * math.log(2.0))
CT_FWHM_MM = 1.0
"""Assumed sharpness of a diagnostic CT."""


def sphere_recovery(volume_ml: float, fwhm_mm: float) -> float:
    """Share of a uniform sphere's activity that a Gaussian blur leaves inside the sphere, 0 to 1.

    The sphere's self-overlap ``1 - 3s/4r + s³/16r³`` averaged over the blur, in closed form.
    """
    require_positive(volume_ml=volume_ml, fwhm_mm=fwhm_mm)
    radius, sigma = radius_mm(volume_ml), fwhm_mm / FWHM_PER_SIGMA
    z2 = 2.0 * (radius / sigma) ** 2
    z, gone = math.sqrt(z2), math.exp(-z2)
    whole = erf(z) - 2.0 * z * gone / math.sqrt(math.pi)
    linear = 4.0 * sigma / math.sqrt(2.0 * math.pi) * (1.0 - (1.0 + z2) * gone)
    cubic = 16.0 * sigma**3 / math.sqrt(2.0 * math.pi) * (1.0 - (1.0 + z2 + z2**2 / 2.0) * gone)
    return float(whole - 0.75 * linear / radius + cubic / (16.0 * radius**3))


def recovery_volume_slope(volume_ml: float, fwhm_mm: float) -> float:
    """d ln R / d ln v of `sphere_recovery`; ``-3`` times it is d ln R / d ln FWHM, R being one of r / FWHM."""
    step = 1e-4
    up, down = (sphere_recovery(volume_ml * math.exp(s), fwhm_mm) for s in (step, -step))
    return math.log(up / down) / (2.0 * step)


def counts_volume_slope(volume_ml: float, fwhm_mm: float, margin_mm: float = 0.0) -> float:
    """d ln C / d ln v: how the counts in a volume of interest follow the outlined volume.

    The object is a sphere of ``volume_ml``; the volume of interest is the contour plus a margin. Without margin it is
    ``φ/(2R)``, with ``φ = erf(√2 r/σ) - 2σ/(r√2π) (1 - exp(-2r²/σ²))`` twice the blurred sphere's value at its
    edge (Gear 2018, section on counts). A sharp image and a margin both make it 0 beyond the edge.
    """
    require_positive(volume_ml=volume_ml, fwhm_mm=fwhm_mm)
    require_not_negative(margin_mm=margin_mm)
    radius, sigma = radius_mm(volume_ml), fwhm_mm / FWHM_PER_SIGMA
    edge = radius + margin_mm

    def shell(s: float) -> float:
        return s**2 * _blurred_sphere(s, radius, sigma)

    inside = sphere_recovery(volume_ml, fwhm_mm) * radius**3 / 3.0
    if margin_mm > 0:
        inside += quad(shell, radius, edge)[0]
    return float(shell(edge) / inside * radius / 3.0)


@lru_cache
def transfer_volume_slope(volume_ml: float, fwhm_mm: float) -> float:
    """d ln A / d ln v: how the activity that a transfer matrix finds follows the outlined volume.

    The object is a sphere of ``volume_ml`` without background. The matrix takes an outline near it for the object, and
    a shell of 5 σ for the tissue around; it looks at the outline plus 1 σ, where little is left of the edge's blur, and
    at the shell from there to 3 σ. Large spheres tend to 0.25; read within the outline itself it would be 0.5.
    """
    require_positive(volume_ml=volume_ml, fwhm_mm=fwhm_mm)
    true, sigma = radius_mm(volume_ml), fwhm_mm / FWHM_PER_SIGMA

    def mean(radius: float, start: float, stop: float) -> float:
        """Of a blurred sphere from one distance to another."""
        whole = quad(lambda s: s**2 * _blurred_sphere(s, radius, sigma), start, stop)[0]
        return float(3.0 * whole / (stop**3 - start**3))

    def activity(radius: float) -> float:
        near, far, outer = radius + sigma, radius + 3.0 * sigma, radius + 5.0 * sigma
        looked_at = ((1e-6, near), (near, far))
        shown = [mean(true, *part) for part in looked_at]
        matrix = [[mean(radius, *part), mean(outer, *part) - mean(radius, *part)] for part in looked_at]
        return float(np.linalg.solve(matrix, shown)[0]) * radius**3

    step = 1e-3
    return math.log(activity(true * math.exp(step)) / activity(true * math.exp(-step))) / (6.0 * step)


def volume_relative_sd(
    volume_ml: float, *, spacing_mm: Sequence[float], fwhm_mm: float, contour_relative_sd: float = 0.0
) -> float:
    """Relative standard uncertainty of a volume outlined on an image.

    ``u(d)² = a²/6 + FWHM²/(4 ln 2)`` for the diameter of the sphere of that volume (two edges, each uncertain by
    the voxel a, rectangular, and by the blur), ``u(v)/v = 3 u(d)/d`` (Gear 2018, section on volume), and the
    observer's or network's own error in quadrature.

    Parameters
    ----------
    volume_ml : float
    spacing_mm : sequence of 3 float
        Voxel size (z, y, x) of the image outlined; its mean square counts.
    fwhm_mm : float
        Resolution of the image outlined (the CT's for CT contours).
    contour_relative_sd : float
        Systematic error of the contour, relative to the volume.
    """
    require_positive(volume_ml=volume_ml)
    require_not_negative(fwhm_mm=fwhm_mm, contour_relative_sd=contour_relative_sd)
    diameter = 2.0 * radius_mm(volume_ml)
    voxel = float(np.mean(np.square(spacing_mm)))
    edges = math.sqrt(voxel / 6.0 + fwhm_mm**2 / (4.0 * math.log(2.0)))
    return math.hypot(3.0 * edges / diameter, contour_relative_sd)


def _blurred_sphere(s: float, radius: float, sigma: float) -> float:
    """Value at distance s > 0 from the centre of a unit sphere blurred by a Gaussian."""
    root = sigma * math.sqrt(2.0)
    near, far = (radius - s) / root, (radius + s) / root
    skin = sigma / (s * math.sqrt(2.0 * math.pi)) * (math.exp(-(near**2)) - math.exp(-(far**2)))
    return float(0.5 * (erf(near) + erf(far)) - skin)


def radius_mm(volume_ml: float) -> float:
    """Radius of the sphere of a volume, mm."""
    return (3.0e3 * volume_ml / (4.0 * math.pi)) ** (1.0 / 3.0)


def require_positive(**values: float) -> None:
    """Raise DoseError naming the first value that is not a number above 0."""
    for name, value in values.items():
        if not (math.isfinite(value) and value > 0):
            raise DoseError(f"{name} is {value}, expected a number above 0.")


def require_not_negative(**values: float) -> None:
    """Raise DoseError naming the first value that is not a number of 0 or above."""
    for name, value in values.items():
        if not (math.isfinite(value) and value >= 0):
            raise DoseError(f"{name} is {value}, expected a number of 0 or above.")
