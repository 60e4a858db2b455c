"""Small patients whose images come from other physics than the dose chain's, for a test of its stated uncertainty.

The chain takes a Gaussian point-spread function, uniform organs, curves of one or two exponentials, and kernels from
files. Here the camera blurs wider in the middle of the body than at its edge and has exponential tails; organs are
uneven, move with the breath while they are scanned, and clear in two phases; attenuation and scatter correction leave a
residue; noise has a grain; a tumour nobody drew may lie beside an organ; contours, the stated resolution, the
calibration and the place of every scan are wrong by known amounts. The true dose is local deposition of electrons and,
for photons, a point kernel of attenuation coefficients with build-up: none of the shipped kernels.

It knows shapes, activities and cameras; of the product it uses file formats alone.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import fft, integrate, ndimage

from doselabel.geometry import Geometry, Volume, write_image
from doselabel.labels import LabelMap, write_labels
from doselabel.study import Study

Array = NDArray[np.float64]

SPECT_MM, FINE, CT_MM = 4.8, 2, 4.0
SPECT_SHAPE, CT_SHAPE = (44, 44, 60), (54, 54, 74)
BODY_MM = (1e4, 96.0, 136.0)
FWHM_PER_SIGMA = float(2 * np.sqrt(2 * np.log(2)))
SCHEDULES_H = ((0.5, 6.0, 24.0, 72.0), (4.0, 24.0, 72.0, 168.0), (24.0, 48.0, 96.0, 168.0))
LATEST_SINGLE_H = 100.0
"""One scan is the last before this: near the effective half-life, as the single-time-point method wants it."""
COUNTS_PER_MBQ = 4000.0
GRAIN_MM = 3.0

POPULATION_H = {"left_kidney": 50.0, "spleen": 58.0, "liver": 64.0}
POPULATION_RELATIVE_SD = 0.2
SEMI_MM = {"left_kidney": (50.0, 28.0, 26.0), "spleen": (46.0, 26.0, 34.0), "liver": (58.0, 44.0, 54.0)}
CENTRE_MM = {"left_kidney": (-18.0, 34.0, 58.0), "spleen": (18.0, -24.0, 86.0), "liver": (6.0, -10.0, -58.0)}
MBQ_ML = {"left_kidney": 0.9, "spleen": 1.0, "liver": 0.35}
DENSITY_G_CM3 = {"left_kidney": 1.06, "spleen": 1.04, "liver": 1.05}
ALPHA_BETA_GY = {"left_kidney": 2.6, "spleen": 4.0, "liver": 2.5}
REPAIR_H = 2.8
BODY_MBQ_ML = 0.03

# 177Lu, ICRP 107: electrons, and the two gamma lines (keV, per decay).
ELECTRON_GY_G_PER_MBQ_H = 0.08532
LINES = ((112.95, 0.0640, 0.163, 0.0274), (208.37, 0.1100, 0.136, 0.0297))
"""Energy keV, per decay, μ/ρ and μ_en/ρ of water in cm²/g (NIST, Hubbell & Seltzer 1995)."""


@dataclass(frozen=True)
class Errors:
    """How wrong everything is; standard deviations, or ranges of even probability."""

    contour_shared: float = 0.074
    contour_single: float = 0.061
    contour_waves_mm: float = 1.5
    psf: float = 0.10
    calibration: float = 0.05
    shift_mm: tuple[float, float] = (2.0, 10.0)
    attenuation: float = 0.03
    scatter: tuple[float, float] = (-0.01, 0.03)
    tail: tuple[float, float] = (0.02, 0.06)
    breath_mm: tuple[float, float] = (2.0, 12.0)
    uneven: float = 0.12
    tumour: float = 0.3
    """Probability of a tumour that nobody drew."""


def subset(times_h: tuple[float, ...], points: int) -> list[int]:
    """Which scans a clinic with fewer keeps: the later ones; of one alone, that near the half-life."""
    if points == 1:
        return [max(i for i, t in enumerate(times_h) if t < LATEST_SINGLE_H)]
    return list(range(len(times_h)))[-points:]


@dataclass(frozen=True, eq=False)
class Truth:
    """What is true of one organ: Gy, MBq·h, h."""

    mean_dose_gy: float
    bed_gy: float
    d_gy: dict[str, float]
    tia_mbq_h: float
    volume_ml: float


def centred(shape: tuple[int, int, int], spacing_mm: float) -> Geometry:
    """A grid whose middle is the origin of patient space."""
    z, y, x = (-(n - 1) * spacing_mm / 2 for n in shape)
    return Geometry(shape, (spacing_mm,) * 3, (x, y, z))


def make(folder: Path, seed: int, number: int, errors: Errors | None = None) -> tuple[Study, dict[str, Truth]]:
    """Write a patient: study, label maps (``drawn/``, with their errors), and return it with its truth.

    Parameters
    ----------
    folder : Path
    seed, number : int
        The same pair gives the same patient.
    errors : Errors, optional
    """
    errors = errors or Errors()
    rng = np.random.default_rng([seed, number, 177])
    spect, ct = centred(SPECT_SHAPE, SPECT_MM), centred(CT_SHAPE, CT_MM)
    fine = spect.with_spacing((SPECT_MM / FINE,) * 3)
    organs = {name: _Organ.draw(name, rng) for name in SEMI_MM}
    body = _level(fine, (0, 0, 0), BODY_MM) < 0
    maps: dict[str, Array] = {}
    taken = np.zeros(fine.shape, bool)
    for name, organ in organs.items():
        mask = (_level(fine, organ.centre_mm, organ.semi_mm) < 0) & ~taken
        taken |= mask
        uneven = np.exp(errors.uneven * _smooth(rng, fine, 12.0))
        maps[name] = np.where(mask, uneven, 0)
        maps[name] *= mask.sum() / maps[name].sum()
    masks = {name: part > 0 for name, part in maps.items()}
    tumour = np.zeros(fine.shape, bool)
    if rng.uniform() < errors.tumour:
        tumour = _beside(organs[str(rng.choice(list(organs)))], rng, fine) & ~taken & body
    maps |= {"tumour": tumour.astype(float), "body": (body & ~taken & ~tumour).astype(float)}
    curves = {name: organ.curve for name, organ in organs.items()}
    curves["tumour"] = _Curve.draw(rng, float(rng.uniform(0.8, 2.0)), 80.0)
    curves["body"] = _Curve.draw(rng, BODY_MBQ_ML, 45.0)

    camera = _Camera.draw(rng, errors)
    seen = {name: camera.blurred(part * body, fine) for name, part in maps.items()}
    residue = camera.residue(spect, rng)
    times = SCHEDULES_H[number % len(SCHEDULES_H)]
    write_image(folder / "ct.nii.gz", Volume(_ct(ct, rng), ct))
    shared = {name: errors.contour_shared * rng.standard_normal() for name in organs}
    write_labels(folder / "drawn" / "ct.nii.gz", _drawn(ct, organs, shared, errors, rng))
    points = []
    for i, time_h in enumerate(times, start=1):
        active = sum((seen[name] * curves[name].mbq_ml(time_h) for name in maps), np.zeros(spect.shape))
        image = camera.acquired(active, residue, spect, rng)
        way = rng.standard_normal(3)
        shift = way / np.linalg.norm(way) * rng.uniform(*errors.shift_mm)
        x, y, z = (float(o + s) for o, s in zip(spect.origin_mm, shift, strict=True))
        write_image(folder / f"spect_tp{i}.nii.gz", Volume(image, replace(spect, origin_mm=(x, y, z))))
        write_image(folder / f"ct_tp{i}.nii.gz", Volume(_ct(ct, rng), ct))
        write_labels(folder / "drawn" / f"ct_tp{i}.nii.gz", _drawn(ct, organs, shared, errors, rng))
        points.append({"time_h": time_h, "ct": f"ct_tp{i}.nii.gz", "spect": f"spect_tp{i}.nii.gz"})
    study = Study.model_validate(
        {
            "schema": "doselabel.study/1", "patient_id": f"C-{seed}-{number}", "nuclide": "Lu-177", "ct": "ct.nii.gz",
            "injected_activity_mbq": 7400.0, "time_points": points, "psf_fwhm_mm": camera.stated_fwhm_mm,
            "organs_absent": ("right_kidney",), "calibration_sd_percent": 100 * errors.calibration,
        }
    )  # fmt: skip
    study.save(folder)
    tia = sum((maps[name] * curves[name].mbq_h_ml() for name in maps), np.zeros(fine.shape))
    truth = {name: _truth(name, masks[name], tia, curves[name], fine) for name in organs}
    (folder / "truth.json").write_text(json.dumps({n: t.__dict__ for n, t in truth.items()}, indent=1), "utf-8")
    return Study.load(folder), truth


def curve_of(name: str, rng: np.random.Generator) -> _Curve:
    """An organ's concentration over time, as patients differ."""
    return _Organ.draw(name, rng).curve


# ---- the patient


@dataclass(frozen=True)
class _Curve:
    """Concentration: uptake, and clearance in two phases; amplitudes MBq/mL, rates 1/h."""

    amplitudes: tuple[float, ...]
    rates: tuple[float, ...]

    @classmethod
    def draw(cls, rng: np.random.Generator, mbq_ml: float, half_life_h: float) -> _Curve:
        slow = min(half_life_h * float(np.exp(POPULATION_RELATIVE_SD * rng.standard_normal())), 150.0)
        fast, uptake, part = rng.uniform(8, 20), rng.uniform(0.3, 1.5), rng.uniform(0.0, 0.2)
        amplitudes = (mbq_ml * (1 - part), mbq_ml * part, -mbq_ml)
        return cls(amplitudes, tuple(float(np.log(2) / t) for t in (slow, fast, uptake)))

    def mbq_ml(self, time_h: float) -> float:
        return float(sum(a * np.exp(-k * time_h) for a, k in zip(self.amplitudes, self.rates, strict=True)))

    def mbq_h_ml(self) -> float:
        return float(sum(a / k for a, k in zip(self.amplitudes, self.rates, strict=True)))

    def protraction(self) -> float:
        """Lea-Catcheside factor by brute force: the double integral on a grid of times."""
        t = np.concatenate([np.linspace(0, 12, 2401), np.linspace(12, 1200, 12000)[1:]])
        a = sum(x * np.exp(-k * t) for x, k in zip(self.amplitudes, self.rates, strict=True))
        mu, left, total = np.log(2) / REPAIR_H, np.zeros_like(t), 0.0
        for i in range(1, t.size):
            h = t[i] - t[i - 1]
            left[i] = left[i - 1] * np.exp(-mu * h) + 0.5 * h * (a[i] + a[i - 1] * np.exp(-mu * h))
        total = float(integrate.trapezoid(a, t))
        return 2 * float(integrate.trapezoid(a * left, t)) / total**2


@dataclass(frozen=True)
class _Organ:
    """An ellipsoid (z, y, x) mm with a curve."""

    name: str
    centre_mm: Array
    semi_mm: Array
    curve: _Curve

    @classmethod
    def draw(cls, name: str, rng: np.random.Generator) -> _Organ:
        size = np.exp(0.08 * rng.standard_normal()) * np.exp(0.05 * rng.standard_normal(3))
        level = MBQ_ML[name] * float(np.exp(0.3 * rng.standard_normal()))
        curve = _Curve.draw(rng, level, POPULATION_H[name])
        return cls(name, np.asarray(CENTRE_MM[name]) + rng.normal(0, 3, 3), np.asarray(SEMI_MM[name]) * size, curve)


def _level(grid: Geometry, centre_mm: Array | tuple, semi_mm: Array | tuple) -> Array:
    """Distance (mm, below 0 inside) from an ellipsoid's surface, to first order."""
    axes = [
        (np.arange(n) - (n - 1) / 2) * s - c for n, s, c in zip(grid.shape, grid.spacing_mm, centre_mm, strict=True)
    ]
    z, y, x = np.meshgrid(*axes, indexing="ij", sparse=True)
    a, b, c = (float(v) for v in semi_mm)
    rho = np.sqrt((z / a) ** 2 + (y / b) ** 2 + (x / c) ** 2)
    steep = np.sqrt((z / a**2) ** 2 + (y / b**2) ** 2 + (x / c**2) ** 2) / np.maximum(rho, 1e-6)
    return (rho - 1) / np.maximum(steep, 1e-6)


def _smooth(rng: np.random.Generator, grid: Geometry, sigma_mm: float) -> Array:
    """Smooth noise of mean 0 and standard deviation 1."""
    field = ndimage.gaussian_filter(rng.standard_normal(grid.shape), [sigma_mm / s for s in grid.spacing_mm])
    return (field - field.mean()) / field.std()


def _beside(organ: _Organ, rng: np.random.Generator, grid: Geometry) -> NDArray[np.bool_]:
    """A sphere of 8 to 14 mm radius, 2 to 12 mm off an organ."""
    radius, gap, way = rng.uniform(8, 14), rng.uniform(2, 12), rng.standard_normal(3)
    way /= np.linalg.norm(way)
    reach = 1 / np.linalg.norm(way / organ.semi_mm)
    return _level(grid, organ.centre_mm + way * (reach + radius + gap), (radius,) * 3) < 0


def _drawn(
    ct: Geometry, organs: dict[str, _Organ], shared: dict[str, float], errors: Errors, rng: np.random.Generator
) -> LabelMap:
    """Contours as somebody drew them: too large or too small as a whole, and wavy; waves move no volume."""
    values = {"left_kidney": 1, "liver": 3, "spleen": 4}
    array = np.zeros(ct.shape, np.uint8)
    for name, organ in organs.items():
        error = shared[name] + errors.contour_single * rng.standard_normal()
        drawn_ml = 4e-3 / 3 * np.pi * float(np.prod(organ.semi_mm)) * max(1 + error, 0.3)
        wavy = _level(ct, organ.centre_mm, organ.semi_mm) + errors.contour_waves_mm * _smooth(rng, ct, 14.0)
        voxels = round(drawn_ml / ct.voxel_volume_ml)
        edge = np.partition(wavy, voxels, axis=None)[voxels]
        array[(wavy < edge) & (array == 0)] = values[name]
    return LabelMap(array, ct, {value: name for name, value in values.items()})


def _ct(ct: Geometry, rng: np.random.Generator) -> NDArray[np.int16]:
    hu = np.where(_level(ct, (0, 0, 0), BODY_MM) < 0, 40.0, -1000.0)
    return (hu + rng.normal(0, 10, ct.shape)).astype(np.int16)


# ---- the camera


@dataclass(frozen=True, eq=False)
class _Camera:
    """A camera in two layers: sharp at the body's edge, less so in its middle; with tails, breath, and a factor."""

    sharp_fwhm_mm: Array
    wide_fwhm_mm: Array
    tail: float
    tail_mm: float
    breath_mm: float
    factor: float
    slope: float
    scatter: float
    stated_fwhm_mm: tuple[float, float, float]

    @classmethod
    def draw(cls, rng: np.random.Generator, errors: Errors) -> _Camera:
        sharp = rng.uniform(10.0, 13.0) * rng.uniform(0.95, 1.05, 3)
        wide = sharp + rng.uniform(1.0, 4.0)
        stated = (sharp + wide) / 2 * (1 + errors.psf * rng.standard_normal())
        x, y, z = (float(v) for v in np.maximum(stated, 4.0))
        return cls(
            sharp, wide, rng.uniform(*errors.tail), rng.uniform(15, 30), rng.uniform(*errors.breath_mm),
            1 + errors.calibration * rng.standard_normal(), errors.attenuation * rng.standard_normal(),
            rng.uniform(*errors.scatter), (x, y, z),
        )  # fmt: skip

    def blurred(self, activity: Array, fine: Geometry) -> Array:
        """Image of an activity map on the SPECT's grid, before noise."""
        edge = np.clip(1 + _level(fine, (0, 0, 0), BODY_MM) / 90.0, 0, 1)
        out = self._conv(activity * edge, fine, self.sharp_fwhm_mm) + self._conv(
            activity * (1 - edge), fine, self.wide_fwhm_mm
        )
        nz, ny, nx = (n // FINE for n in fine.shape)
        return out.reshape(nz, FINE, ny, FINE, nx, FINE).mean(axis=(1, 3, 5))

    def _conv(self, activity: Array, fine: Geometry, fwhm_mm: Array) -> Array:
        # The grain's blur comes later and is part of the width.
        sigma = np.sqrt((fwhm_mm / FWHM_PER_SIGMA) ** 2 - GRAIN_MM**2)
        shape = [
            fft.next_fast_len(n + int(80 / s), real=True) for n, s in zip(fine.shape, fine.spacing_mm, strict=True)
        ]
        f = [fft.fftfreq(shape[0], fine.spacing_mm[0]), fft.fftfreq(shape[1], fine.spacing_mm[1]),
             fft.rfftfreq(shape[2], fine.spacing_mm[2])]  # fmt: skip
        z, y, x = np.meshgrid(*f, indexing="ij", sparse=True)
        core = np.exp(-2 * np.pi**2 * ((sigma[0] * z) ** 2 + (sigma[1] * y) ** 2 + (sigma[2] * x) ** 2))
        tails = 1 / (1 + (2 * np.pi * self.tail_mm / 2.5) ** 2 * (z**2 + y**2 + x**2)) ** 2
        # Breath: more time near the end of expiration, mean place 0.
        phase = np.linspace(0, np.pi, 41)
        place = self.breath_mm * (np.sin(phase) ** 4 - np.mean(np.sin(phase) ** 4))
        breath = np.exp(-2j * np.pi * z * place).mean(axis=-1, keepdims=True)
        gain = ((1 - self.tail) * core + self.tail * tails) * breath
        back = fft.irfftn(fft.rfftn(activity, shape) * gain, shape)
        return back[tuple(slice(n) for n in fine.shape)]

    def residue(self, spect: Geometry, rng: np.random.Generator) -> Array:
        """What attenuation correction leaves: too much or too little, more so in the middle, and a little uneven."""
        depth = np.clip(-_level(spect, (0, 0, 0), BODY_MM) / 90.0, 0, 1)
        return 1 + self.slope * (0.4 + depth) + 0.01 * _smooth(rng, spect, 40.0)

    def acquired(self, active: Array, residue: Array, spect: Geometry, rng: np.random.Generator) -> NDArray[np.float32]:
        """Counts with a grain, corrected and calibrated, Bq/mL."""
        per_mbq_ml = COUNTS_PER_MBQ * spect.voxel_volume_ml
        veil = self.scatter * ndimage.gaussian_filter(active, 40.0 / SPECT_MM)
        counts = rng.poisson(np.maximum((active + veil) * residue, 0) * per_mbq_ml).astype(float)
        counts = ndimage.gaussian_filter(counts, GRAIN_MM / SPECT_MM)
        return (counts / per_mbq_ml * 1e6 * self.factor).astype(np.float32)


# ---- the dose


def _truth(name: str, mask: NDArray[np.bool_], tia_mbq_h_ml: Array, curve: _Curve, fine: Geometry) -> Truth:
    density = DENSITY_G_CM3[name]
    electrons = tia_mbq_h_ml * (ELECTRON_GY_G_PER_MBQ_H / density)
    dose = electrons[mask] + _photons(tia_mbq_h_ml, fine)[mask]
    mean = float(dose.mean())
    bed = mean * (1 + curve.protraction() * mean / ALPHA_BETA_GY[name])
    hottest = np.sort(dose)[::-1]
    d = {f"D{p}": float(hottest[int(np.ceil(p / 100 * dose.size)) - 1]) for p in (2, 50, 98)}
    volume = float(mask.sum()) * fine.voxel_volume_ml
    return Truth(mean, bed, d, float(tia_mbq_h_ml[mask].sum()) * fine.voxel_volume_ml, volume)


def _photons(tia_mbq_h_ml: Array, fine: Geometry) -> Array:
    """Photon dose, Gy: point kernel E μ_en e^(−μr) (1 + μr) / 4πr² in water, on blocks of two voxels."""
    nz, ny, nx = (n // 2 for n in fine.shape)
    coarse = tia_mbq_h_ml.reshape(nz, 2, ny, 2, nx, 2).mean(axis=(1, 3, 5))
    h_cm = 2 * fine.spacing_mm[0] / 10
    axes = [(np.arange(2 * n) - n) * h_cm for n in coarse.shape]
    z, y, x = np.meshgrid(*axes, indexing="ij", sparse=True)
    r = np.sqrt(z**2 + y**2 + x**2)
    kernel = np.zeros(r.shape)
    ball_cm = h_cm * (3 / (4 * np.pi)) ** (1 / 3)
    for kev, per_decay, mu, mu_en in LINES:
        gy = kev * 1.602176634e-16 * per_decay * mu_en / 1e-3 * 3.6e9  # J·cm²/kg per MBq·h
        far = np.exp(-mu * r) * (1 + mu * r) / (4 * np.pi * np.maximum(r, 1e-9) ** 2)
        far[r < 1e-9] = ball_cm / (4 / 3 * np.pi * ball_cm**3)  # mean of 1/4πr² over the ball of one voxel
        kernel += gy * far
    size = [fft.next_fast_len(3 * n, real=True) for n in coarse.shape]
    total = fft.irfftn(fft.rfftn(coarse * h_cm**3, size) * fft.rfftn(kernel, size), size)
    part = total[tuple(slice(n, 2 * n) for n in coarse.shape)]
    return part.repeat(2, 0).repeat(2, 1).repeat(2, 2)
