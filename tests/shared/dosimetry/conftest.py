"""Studies of ellipsoids whose activity, curve and dose are known exactly: what the chain must give back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import ndimage

from doselabel.geometry import Geometry, Volume, write_image
from doselabel.labels import NAMES, LabelMap, write_labels
from doselabel.study import Study

TIME_H = (0.5, 6.0, 24.0, 72.0)
BODY_MM = (1e4, 110.0, 160.0)


def centred(shape: Sequence[int], spacing_mm: Sequence[float]) -> Geometry:
    """A grid whose middle is the origin of patient space."""
    z, y, x = (-(n - 1) * s / 2 for n, s in zip(shape, spacing_mm, strict=True))
    return Geometry(tuple(shape), tuple(spacing_mm), (x, y, z))


def inside(grid: Geometry, centre_mm: Sequence[float], semi_mm: Sequence[float], parts: int = 1) -> np.ndarray:
    """Part of each voxel (z, y, x) inside an ellipsoid (z, y, x); ``parts`` samples per axis."""
    squares = []
    for n, s, c, a in zip(grid.shape, grid.spacing_mm, centre_mm, semi_mm, strict=True):
        at = (np.arange(n * parts) + 0.5) * (s / parts) - n * s / 2
        squares.append(((at - c) / a) ** 2)
    z, y, x = np.meshgrid(*squares, indexing="ij", sparse=True)
    filled = (z + y + x <= 1).astype(np.float32)
    nz, ny, nx = grid.shape
    return filled.reshape(nz, parts, ny, parts, nx, parts).mean(axis=(1, 3, 5))


@dataclass(frozen=True)
class Ellipsoid:
    """An organ: where, how large, and its curve A (exp(-l1 t) - exp(-l2 t)) in MBq."""

    centre_mm: tuple[float, float, float]
    semi_mm: tuple[float, float, float]
    amplitude_mbq: float
    lambda1_per_h: float = np.log(2) / 50
    lambda2_per_h: float = np.log(2) / 1.0

    def activity_mbq(self, time_h: float) -> float:
        return self.amplitude_mbq * (np.exp(-self.lambda1_per_h * time_h) - np.exp(-self.lambda2_per_h * time_h))

    @property
    def tia_mbq_h(self) -> float:
        return self.amplitude_mbq * (1 / self.lambda1_per_h - 1 / self.lambda2_per_h)

    @property
    def volume_ml(self) -> float:
        return float(4 / 3 * np.pi * np.prod(self.semi_mm)) / 1000


ONE_KIDNEY = {"left_kidney": Ellipsoid((0, 0, 0), (52, 29, 26), 100.0)}
KIDNEYS_AND_LIVER = {
    "left_kidney": Ellipsoid((0, 30, 72), (52, 29, 26), 100.0),
    "right_kidney": Ellipsoid((-6, 32, -72), (50, 28, 26), 90.0),
    "liver": Ellipsoid((40, -45, -60), (50, 45, 60), 80.0),
}


def make_study(
    folder: Path,
    organs: Mapping[str, Ellipsoid],
    *,
    spect_grid: Geometry,
    ct_grid: Geometry,
    sigma_mm: float = 5.1,
    times_h: Sequence[float] = TIME_H,
    background_bq_ml: float = 0.0,
    shifts_mm: Mapping[int, tuple[float, float, float]] | None = None,
    noise: float = 0.0,
    seed: int = 0,
    tp_ct_grid: Geometry | None = None,
    body_mm: tuple[float, float, float] = BODY_MM,
) -> Study:
    """Write a study and its true masks (``truth/``); SPECT shifts are (z, y, x) mm by time point."""
    rng = np.random.default_rng(seed)
    write_image(folder / "ct.nii.gz", Volume(_ct(ct_grid, organs, body_mm, rng), ct_grid))
    write_labels(folder / "truth" / "ct.nii.gz", label_map(ct_grid, organs))
    points = []
    k = 2
    fine = spect_grid.with_spacing(tuple(s / k for s in spect_grid.spacing_mm))
    for i, time in enumerate(times_h, start=1):
        shift = np.asarray((shifts_mm or {}).get(i - 1, (0, 0, 0)), dtype=float)
        uptake = np.zeros(fine.shape, np.float32)
        body = inside(fine, (0, 0, 0), body_mm)
        uptake += background_bq_ml * body
        for organ in organs.values():
            occupied = inside(fine, np.asarray(organ.centre_mm) + shift, organ.semi_mm, 2)
            uptake += occupied * (organ.activity_mbq(time) * 1e6 / organ.volume_ml - background_bq_ml)
        blurred = ndimage.gaussian_filter(uptake, sigma_mm / np.asarray(fine.spacing_mm), truncate=5)
        nz, ny, nx = spect_grid.shape
        spect = blurred.reshape(nz, k, ny, k, nx, k).mean(axis=(1, 3, 5))
        if noise:
            spect = rng.poisson(spect / noise) * noise
        write_image(folder / f"spect_tp{i}.nii.gz", Volume(spect.astype(np.float32), spect_grid))
        point = {"time_h": time, "ct": "ct.nii.gz", "spect": f"spect_tp{i}.nii.gz"}
        if tp_ct_grid is not None:
            point["ct"] = f"ct_tp{i}.nii.gz"
            write_image(folder / point["ct"], Volume(_ct(tp_ct_grid, organs, body_mm, rng), tp_ct_grid))
            write_labels(folder / "truth" / point["ct"], label_map(tp_ct_grid, organs))
        points.append(point)
    study = Study.model_validate(
        {
            "schema": "doselabel.study/1",
            "patient_id": "T-10",
            "nuclide": "Lu-177",
            "injected_activity_mbq": 7400,
            "ct": "ct.nii.gz",
            "time_points": points,
            "psf_fwhm_mm": [sigma_mm * np.sqrt(8 * np.log(2))] * 3,
        }
    )
    study.save(folder)
    return Study.load(folder)


def label_map(grid: Geometry, organs: Mapping[str, Ellipsoid]) -> LabelMap:
    array = np.zeros(grid.shape, np.uint8)
    values = {name: value for value, name in NAMES.items()}
    for name, organ in organs.items():
        array[inside(grid, organ.centre_mm, organ.semi_mm, 3) > 0.5] = values[name]
    return LabelMap(array, grid)


def _ct(
    grid: Geometry, organs: Mapping[str, Ellipsoid], body_mm: tuple[float, float, float], rng: np.random.Generator
) -> np.ndarray:
    hu = np.where(inside(grid, (0, 0, 0), body_mm) > 0.5, 40.0, -1000.0)
    for organ in organs.values():
        hu[inside(grid, organ.centre_mm, organ.semi_mm) > 0.5] = 150.0
    return (hu + rng.normal(0, 10, grid.shape)).astype(np.int16)


@pytest.fixture(scope="session")
def three_organs(tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Kidneys and liver, four time points, PSF σ 5.1 mm, a little background, the 24 h SPECT 8 mm off."""
    return make_study(
        tmp_path_factory.mktemp("dose") / "three",
        KIDNEYS_AND_LIVER,
        spect_grid=centred((60, 64, 84), (4.42, 4.42, 4.42)),
        ct_grid=centred((88, 92, 120), (3.0, 3.0, 3.0)),
        background_bq_ml=2000.0,
        shifts_mm={2: (4.0, -5.0, 4.8)},
        noise=50.0,
    )


@pytest.fixture(scope="session")
def known() -> SimpleNamespace:
    """The builders above, for tests that need an arrangement of their own."""
    return SimpleNamespace(
        Ellipsoid=Ellipsoid,
        ONE_KIDNEY=ONE_KIDNEY,
        KIDNEYS_AND_LIVER=KIDNEYS_AND_LIVER,
        TIME_H=TIME_H,
        centred=centred,
        inside=inside,
        label_map=label_map,
        make_study=make_study,
    )
