"""Factors recovered from simulated phantom scans by other physics than the fits assume, within their own ±.

The scans have a point-spread function with exponential tails, are sampled and noisy (Poisson, then correlated as a
reconstruction correlates), and what was filled in is not what is stated: every run draws the activity meter's error.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
from scipy import fft, ndimage
from scipy.stats import norm

from doselabel.calibration import rates, resolution, sensitivity
from doselabel.camera import COVERAGE_K
from doselabel.errors import CalibrationError
from doselabel.geometry import Geometry, Volume

RUNS = 40
NEEDED = 0.92
TRUE_CPS_PER_MBQ = 9.4
SPACING = 4.42
FINE = 2
TAIL = 0.12
"""Part of the counts in tails that fall off as exp(-r / 9 mm)."""


def psf(sigma_mm: float, spacing: float, tail: float = TAIL) -> np.ndarray:
    """A Gaussian core and exponential tails, sum 1, (z, y, x)."""
    half = int(60 / spacing)
    axis = np.arange(-half, half + 1) * spacing
    r = np.sqrt(axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2)
    core, wide = np.exp(-0.5 * (r / sigma_mm) ** 2), np.exp(-r / 9.0)
    return (1 - tail) * core / core.sum() + tail * wide / wide.sum()


def blurred(fine: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Convolved by FFT with room for the tails, and binned to the scan's voxels."""
    shape = [fft.next_fast_len(n + k, real=True) for n, k in zip(fine.shape, kernel.shape, strict=True)]
    full = fft.irfftn(fft.rfftn(fine, shape) * fft.rfftn(kernel, shape), shape)
    same = full[tuple(slice(k // 2, k // 2 + n) for n, k in zip(fine.shape, kernel.shape, strict=True))]
    nz, ny, nx = (n // FINE for n in fine.shape)
    return np.maximum(same, 0).reshape(nz, FINE, ny, FINE, nx, FINE).sum(axis=(1, 3, 5))


def radii(shape: tuple[int, ...], centre_mm: tuple[float, ...] = (0.0, 0.0, 0.0)) -> np.ndarray:
    axes = [(np.arange(n) - (n - 1) / 2) * SPACING / FINE - c for n, c in zip(shape, centre_mm, strict=True)]
    return np.sqrt(axes[0][:, None, None] ** 2 + axes[1][:, None] ** 2 + axes[2] ** 2)


def scan(expected: np.ndarray, rng: np.random.Generator, spacing: float = SPACING) -> Volume:
    """Poisson counts; spread over neighbours, as a reconstruction does, conserving them."""
    counts = rng.poisson(expected).astype(float)
    mixed = ndimage.gaussian_filter(counts - expected, 0.6) + expected
    return Volume(np.maximum(mixed, 0), Geometry(expected.shape, (spacing,) * 3))


def meter_errors(seed: int) -> np.ndarray:
    """Errors of a standard normal distribution, every fortieth part of it once: coverage is not to depend on luck."""
    return np.random.default_rng(seed).permutation(norm.ppf((np.arange(RUNS) + 0.5) / RUNS))


def share_within(runs: list[tuple[float, float]], truth: float) -> float:
    return float(np.mean([abs(value - truth) <= COVERAGE_K * sd for value, sd in runs]))


@pytest.fixture(scope="module")
def kernel() -> np.ndarray:
    return psf(4.8, SPACING / FINE)


def test_sensitivity_of_a_point_source_and_a_petri_dish(kernel: np.ndarray) -> None:
    for disc_mm in (0.0, 27.0):
        fine = np.zeros((64, 64, 64))
        if disc_mm:
            axis = (np.arange(64) - 31.5) * SPACING / FINE
            fine[31:33] = np.hypot(axis[:, None], axis) <= disc_mm
        else:
            fine[31, 33, 30] = 1
        # Grown by hand: a box wide enough for margin and background.
        wide = np.pad(fine / fine.sum(), 16)
        shape = blurred(wide, kernel)
        runs = []
        for seed in range(RUNS):
            rng = np.random.default_rng(seed)
            stated = 20.0
            true_mbq = stated * (1 + 0.02 * meter_errors(1)[seed])
            image = scan(shape * TRUE_CPS_PER_MBQ * true_mbq * 600 + 0.4, rng)
            found = sensitivity.of_source(image, activity_mbq=stated, duration_s=600, margin_mm=45.0)
            runs.append((found.sensitivity.cps_per_mbq, found.sensitivity.sd_cps_per_mbq))
        assert share_within(runs, TRUE_CPS_PER_MBQ) >= NEEDED, disc_mm
        assert np.mean([sd for _, sd in runs]) < 0.05 * TRUE_CPS_PER_MBQ


def test_sensitivity_of_a_cylinder(kernel: np.ndarray) -> None:
    axis = (np.arange(96) - 47.5) * SPACING / FINE
    inside = (np.hypot(axis[:, None], axis) <= 88.0)[None] & (np.abs(axis) <= 80.0)[:, None, None]
    volume_ml = inside.sum() * (SPACING / FINE) ** 3 / 1e3
    shape = blurred(inside / inside.sum(), kernel)
    runs = []
    for seed in range(RUNS):
        rng = np.random.default_rng(seed)
        true_mbq = 500 * (1 + 0.02 * meter_errors(1)[seed])
        stated_ml = volume_ml * (1 + 0.01 * meter_errors(2)[seed])
        image = scan(shape * TRUE_CPS_PER_MBQ * true_mbq * 300, rng)
        found = sensitivity.of_cylinder(image, activity_mbq=500, volume_ml=stated_ml, duration_s=300)
        runs.append((found.sensitivity.cps_per_mbq, found.sensitivity.sd_cps_per_mbq))
    assert share_within(runs, TRUE_CPS_PER_MBQ) >= NEEDED
    assert np.mean([sd for _, sd in runs]) < 0.05 * TRUE_CPS_PER_MBQ


FINE_MM = 0.75
FINE_AXIS_MM = np.arange(-80, 81) * FINE_MM


@cache
def sum_of_tails() -> float:
    """Of the tails alone, over the whole cube; a Gaussian's sum is a product of three."""
    squares = FINE_AXIS_MM**2
    return float(np.exp(-np.sqrt(squares[:, None, None] + squares[:, None] + squares) / 9.0).sum())


def true_fwhm_mm(sigma_mm: float, tail: float = TAIL) -> float:
    """Width at half maximum of the tailed function itself, from a fine profile through the middle of `psf`."""
    core, wide = np.exp(-0.5 * (FINE_AXIS_MM / sigma_mm) ** 2), np.exp(-np.abs(FINE_AXIS_MM) / 9.0)
    line = (1 - tail) * core / core.sum() ** 3 + tail * wide / sum_of_tails()
    above = np.flatnonzero(line >= line.max() / 2)
    low, high = above[0], above[-1]
    half = line.max() / 2
    left = low - (line[low] - half) / (line[low] - line[low - 1])
    right = high + (line[high] - half) / (line[high] - line[high + 1])
    return FINE_MM * (right - left)


def test_resolution_of_a_point_a_line_and_a_sphere_s_edge() -> None:
    for kind in ("point", "line", "sphere"):
        runs = []
        for seed in range(RUNS):
            rng = np.random.default_rng(seed)
            sigma = rng.uniform(4.2, 6.5)
            truth = true_fwhm_mm(sigma, 0.06)
            kernel = psf(sigma, SPACING / FINE, 0.06)
            at = tuple(rng.uniform(-2, 2, 3))
            shape = (56, 56, 56)
            if kind == "point":
                fine = np.zeros(shape)
                fine[tuple(28 + np.round(np.array(at)).astype(int))] = 1.0
                counts = 4e5
            elif kind == "line":
                fine = np.zeros(shape)
                fine[:, 28, 27] = 1.0
                counts = 3e6
            else:
                fine = np.clip((16.0 - radii(shape, at)) / (SPACING / FINE) + 0.5, 0, 1)
                counts = 2e6
            image = scan(blurred(fine / fine.sum(), kernel) * counts + 0.2, rng)
            found = {
                "point": resolution.of_point,
                "line": resolution.of_line,
                "sphere": lambda v: resolution.of_sphere(v, 4 / 3 * math.pi * 4.096),
            }[kind](image).resolution
            axis = 1
            runs.append((found.fwhm_mm[axis] - truth, found.sd_mm[axis]))
        assert share_within(runs, 0.0) >= NEEDED, (kind, runs)
        assert np.mean([sd for _, sd in runs]) < 1.2, kind


@pytest.mark.parametrize("model", ["paralyzable", "nonparalyzable"])
def test_dead_time_of_a_decaying_source(model: rates.Model) -> None:
    runs = []
    for seed in range(RUNS):
        rng = np.random.default_rng(seed)
        tau, ratio = 4.5e-6, 6.0
        observed = []
        for n in (60_000.0, 60_000.0 / ratio):
            m = n * math.exp(-n * tau) if model == "paralyzable" else n / (1 + n * tau)
            observed.append(rng.poisson(m * 60) / 60)
        stated = ratio * (1 + 0.005 * meter_errors(3)[seed])
        found = rates.dead_time(observed, (stated, 1.0), model=model)
        runs.append((found.tau_us, found.sd_us))
        assert found.factor(observed[0]) == pytest.approx(60_000 / observed[0], rel=0.05)
    assert share_within(runs, 4.5) >= NEEDED
    assert np.mean([sd for _, sd in runs]) < 0.5


def test_recovery_of_spheres() -> None:
    """Six spheres by a known Gaussian: the curve gives each within its ±, and the recovery of one in between."""
    from doselabel.dosimetry.physics.spheres import sphere_recovery

    volumes = (0.5, 1.15, 2.6, 5.6, 11.5, 26.5)
    true = np.array([sphere_recovery(v, 12.0) for v in volumes])
    runs = []
    for seed in range(RUNS):
        rng = np.random.default_rng(seed)
        curve = rates.recovery_curve(volumes, true * (1 + 0.03 * rng.standard_normal(6)))
        value, sd = curve.at(4.0)
        runs.append((value - sphere_recovery(4.0, 12.0), sd))
    assert share_within(runs, 0.0) >= NEEDED
    assert np.mean([sd for _, sd in runs]) < 0.025


def test_recovery_of_one_sphere_is_read_off_its_own_volume() -> None:
    from doselabel.dosimetry.physics.spheres import sphere_recovery

    shape, at = (72, 72, 72), (1.3, -2.1, 0.7)
    radius = (3e3 * 11.5 / (4 * math.pi)) ** (1 / 3)
    fine = np.clip((radius - radii(shape, at)) / (SPACING / FINE) + 0.5, 0, 1)
    image = ndimage.gaussian_filter(fine * 9e4 + 1e4, 5.1 / (SPACING / FINE))
    n = 72 // FINE
    binned = image.reshape(n, FINE, n, FINE, n, FINE).mean(axis=(1, 3, 5))
    origin = -(n - 1) / 2 * SPACING
    volume = Volume(binned, Geometry((n, n, n), (SPACING,) * 3, (origin,) * 3))
    found = rates.sphere_recovery(volume, at[::-1], 11.5, 1e5, 1e4)
    assert found == pytest.approx(sphere_recovery(11.5, 5.1 * math.sqrt(8 * math.log(2))), abs=0.03)


def test_what_gives_no_factor_is_refused() -> None:
    grid = Geometry((20, 20, 20), (SPACING,) * 3)
    empty = Volume(np.zeros((20, 20, 20)), grid)
    for call in (
        lambda: sensitivity.of_source(empty, activity_mbq=10, duration_s=60),
        lambda: sensitivity.of_cylinder(empty, activity_mbq=10, volume_ml=5000, duration_s=60),
        lambda: sensitivity.of_source(Volume(np.ones((20, 20, 20)), grid), activity_mbq=0, duration_s=60),
        lambda: resolution.of_point(empty),
        lambda: resolution.of_line(empty),
        lambda: resolution.of_sphere(empty, -1),
        lambda: rates.dead_time((10.0, 20.0), (1.0, 2.0)),
        lambda: rates.dead_time((7000.0, 1000.0), (6.0, 1.0)),
        lambda: rates.recovery_curve([1.0, 2.0], [0.3, 0.4]),
    ):
        with pytest.raises(CalibrationError):
            call()
