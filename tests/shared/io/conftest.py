"""A small study of ellipsoids with results made by hand: what a report needs, without running the pipeline."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from doselabel.dosimetry.curves.fit import fit
from doselabel.geometry import Geometry, Volume, write_image
from doselabel.labels import ORGANS, LabelMap
from doselabel.study import Study
from doselabel.wire import DoseResults, DvhCurve, OrganDose, TimeActivity

TIME_H = (0.5, 6.0, 24.0, 72.0)
ORGAN_BOXES = {  # centre (z, y, x) and semi-axes in mm, in a field of 240 × 280 × 400 mm
    "left_kidney": ((120, 175, 260), (52, 29, 26)),
    "right_kidney": ((110, 175, 140), (52, 29, 26)),
    "liver": ((160, 120, 120), (55, 62, 68)),
}
GRID = Geometry((40, 56, 80), (6.0, 5.0, 5.0), (-200.0, -140.0, -900.0))


@dataclass(frozen=True)
class Example:
    """Everything `write_report` wants."""

    study: Study
    labels: dict[str, LabelMap]
    dose: Volume
    results: DoseResults
    truth: dict


def ellipsoid(center_mm: tuple[float, ...], semi_mm: tuple[float, ...]) -> np.ndarray:
    axes = [(np.arange(n) + 0.5) * s for n, s in zip(GRID.shape, GRID.spacing_mm, strict=True)]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    return sum(((c - m) / s) ** 2 for c, m, s in zip((z, y, x), center_mm, semi_mm, strict=True)) <= 1


def organ_result(name: str, dose_gy: np.ndarray, volume_ml: float, scale: float) -> OrganDose:
    activity = scale * np.array([62.0, 118.0, 96.0, 44.5])
    fitted = fit(TIME_H, activity, nuclide="Lu-177", model="uptake")
    density = next(o.density_g_cm3 for o in ORGANS if o.name == name)
    grid = np.linspace(0, dose_gy.max(), 120)
    curve = DvhCurve(
        dose_gy=grid.tolist(),
        volume_percent=[float(100 * np.mean(dose_gy >= g)) for g in grid],
        d_gy={f"D{p}": float(np.percentile(dose_gy, 100 - p)) for p in (2, 30, 50, 70, 90, 98)},
        min_gy=float(dose_gy.min()), max_gy=float(dose_gy.max()), mean_gy=float(dose_gy.mean()),
    )  # fmt: skip
    times = np.concatenate([np.linspace(0, 72, 100), np.linspace(73, 350, 100)])
    mean = curve.mean_gy
    return OrganDose(
        volume_ml=volume_ml, density_g_cm3=density, mass_g=volume_ml * density, activity_mbq=activity.tolist(),
        recovery_coefficient=[0.888] * 4, tia_mbq_h=fitted.tia_mbq_h, tia_sd_mbq_h=0.08 * fitted.tia_mbq_h,
        effective_half_life_h=fitted.effective_half_life_h, mean_dose_gy=mean, dose_sd_gy=0.13 * mean,
        dose_gy_by_engine={"organ": 1.01 * mean, "local": 0.98 * mean, "voxel-s": mean},
        dose_gy_per_gbq=mean / 7.4, bed_gy=1.12 * mean, eqd2_gy=0.63 * mean, dvh=curve,
        tac=TimeActivity(
            model="uptake", parameters=dict(fitted.params),
            parameter_sd={k: abs(v) / 10 for k, v in fitted.params.items()},
            time_h=list(TIME_H), activity_mbq=activity.tolist(), activity_sd_mbq=(0.06 * activity).tolist(),
            residual_mbq=fitted.residuals_mbq.tolist(), curve_time_h=times.tolist(),
            curve_activity_mbq=fitted.activity(times).tolist(), extrapolated_fraction=fitted.extrapolated_fraction,
            degrees_of_freedom=fitted.degrees_of_freedom,
            tia_mbq_h_by_model={"uptake": fitted.tia_mbq_h, "mono": 1.3 * fitted.tia_mbq_h},
        ),
        uncertainty_percent={"volume": 4.2, "recovery": 3.1, "calibration": 5.0, "fit": 8.0, "s_value": 2.0},
        warnings=[f"extrapolation: {100 * fitted.extrapolated_fraction:.0f} % of the TIA lies after the last point"],
    )  # fmt: skip


@pytest.fixture(scope="session")
def example(tmp_path_factory: pytest.TempPathFactory) -> Example:
    folder: Path = tmp_path_factory.mktemp("io") / "P-001"
    rng = np.random.default_rng(1)
    body = ellipsoid((120, 140, 200), (900, 115, 175))
    array, values = np.zeros(GRID.shape, np.uint8), {"liver": 3, "left_kidney": 1, "right_kidney": 2}
    for name, value in values.items():
        array[ellipsoid(*ORGAN_BOXES[name])] = value
    labels = LabelMap(array, GRID)
    hu = np.where(body, 40.0, -1000.0) + np.where(array == 3, 60, 0) + np.where((array == 1) | (array == 2), 130, 0)
    hu = (hu + rng.normal(0, 12, GRID.shape)).astype(np.int16)
    uptake = np.where(body, 2e3, 0.0) + np.where(array == 3, 4e4, 0) + np.where((array == 1) | (array == 2), 3e5, 0)
    names = ["ct.nii.gz", *(f"ct_tp{i}.nii.gz" for i in (1, 2, 3, 4))]
    for name in names:
        write_image(folder / name, Volume(hu, GRID))
    points = []
    for i, time in enumerate(TIME_H, start=1):
        spect = rng.poisson(np.roll(uptake, 2 if i == 2 else 0, axis=0) * np.exp(-time / 72) / 50) * 50.0
        write_image(folder / f"spect_tp{i}.nii.gz", Volume(spect.astype(np.float32), GRID))
        points.append({"time_h": time, "ct": f"ct_tp{i}.nii.gz", "spect": f"spect_tp{i}.nii.gz"})
    study = Study.model_validate(
        {"schema": "doselabel.study/1", "patient_id": "P-001", "nuclide": "Lu-177", "injected_activity_mbq": 7400,
         "injection_time": "2026-03-02T09:15:00", "ct": "ct.nii.gz", "time_points": points,
         "psf_fwhm_mm": (12.0, 12.0, 12.0)}
    )  # fmt: skip
    study.save(folder)
    study = Study.load(folder)
    noise = rng.normal(1, 0.08, GRID.shape)
    dose = (noise * (np.where(array == 3, 0.5, 0.02) + np.where((array == 1) | (array == 2), 2.3, 0))).astype(
        np.float32
    )
    organs = {
        name: organ_result(name, dose[array == value], labels.volume_ml(name), 4.0 if name == "liver" else 1.0)
        for name, value in (("left_kidney", 1), ("right_kidney", 2), ("liver", 3))
    }
    moved = np.eye(4)
    moved[2, 3] = -12.0
    results = DoseResults(
        patient_id="P-001", nuclide="Lu-177", injected_activity_mbq=7400, time_h=list(TIME_H), organs=organs,
        options={"voi": "gtm", "tac": "uptake", "engine": "voxel-s", "margin_mm": 3.0},
        registration=[
            {"time_point": i, "method": "organ" if i == 1 else "identity", "merit_before": 0.71, "merit_after": 0.93,
             "matrix": (moved if i == 1 else np.eye(4)).tolist()}
            for i in range(4)
        ],
        labels_origin="masks drawn by hand", reviewed=False,
        warnings=["time_points[1]: SPECT and CT are 12 mm apart along z before registration."],
        provenance={
            "created": "2026-03-09T14:02:11+00:00", "software": {"doselabel": "0.1.0", "python": "3.11"},
            "inputs": {name: "ab" * 32 for name in names},
            "kernel": {"nuclide": "Lu-177", "material": "icru4", "sha256": "cd" * 32},
        },
    )  # fmt: skip
    truth = {
        "organs": {
            name: {"mass_g": o.mass_g * 1.01, "tia_mbq_h": o.tia_mbq_h * 0.98, "mean_dose_gy": o.mean_dose_gy * 1.03}
            for name, o in organs.items()
        }
    }
    cts = dict.fromkeys(names, labels)
    return Example(study, cts, Volume(dose, GRID), results, truth)
