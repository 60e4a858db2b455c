"""Lesions in a warm liver: activity, mass, dose, histogram and BED of spheres whose truth is known in closed form."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import ndimage

from doselabel.dosimetry import pipeline
from doselabel.dosimetry.options import DoseOptions
from doselabel.dosimetry.physics.kernels import Ellipsoid, self_s_value, sphere
from doselabel.dosimetry.results import DoseComputation, write_dose
from doselabel.errors import DoseError
from doselabel.geometry import Volume, write_image
from doselabel.labels import LabelMap, write_labels
from doselabel.study import Study

SIGMA_MM = 5.1
TIME_H = (24.0, 72.0, 144.0)
LIVER_SEMI_MM = (50.0, 45.0, 60.0)
LIVER_BQ_ML, LIVER_HALF_LIFE_H = 3e5, 60.0
LESION_BQ_ML, LESION_HALF_LIFE_H = 2e6, 80.0
LESIONS = {
    "tumour_1": (10.0, (-12.0, 8.0, 27.0), 0.05),
    "tumour_2": (3.0, (20.0, -9.0, 2.0), 0.15),
    "tumour_3": (1.0, (-8.3, 5.6, -28.9), 0.30),
}
"""Volume (mL), centre (z, y, x) mm, and how far the dose may be off."""
DRAWN_AS = {3: "liver", 7: "Tumour 1", 8: "tumour_2", 9: "tumour-3", 10: "speck"}
PLAIN = DoseOptions(registration="stored")


def radius_mm(volume_ml: float) -> float:
    return (3e3 * volume_ml / (4 * np.pi)) ** (1 / 3)


def tia_mbq_h(bq_ml: float, volume_ml: float, half_life_h: float) -> float:
    return bq_ml * volume_ml / 1e6 * half_life_h / np.log(2)


@pytest.fixture(scope="module")
def lesions(known: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """A liver with three lesions and a speck of 0.1 mL, mono-exponential, PSF σ 5.1 mm, a tepid body."""
    folder = tmp_path_factory.mktemp("lesions") / "study"
    ct = known.centred((76, 72, 84), (2.0, 2.0, 2.0))
    spect = known.centred((36, 34, 40), (4.42, 4.42, 4.42))
    fine = spect.with_spacing(tuple(s / 4 for s in spect.spacing_mm))
    drawn = LabelMap(
        np.zeros(ct.shape, np.uint8), ct, {3: "liver", 7: "Tumour 1", 8: "tumour_2", 9: "tumour-3", 10: "speck"}
    )
    drawn.array[known.inside(ct, (0, 0, 0), LIVER_SEMI_MM, 3) > 0.5] = 3
    parts = {"liver": known.inside(fine, (0, 0, 0), LIVER_SEMI_MM, 2)}
    for value, (name, (volume_ml, centre, _)) in enumerate(LESIONS.items(), start=7):
        drawn.array[known.inside(ct, centre, (radius_mm(volume_ml),) * 3, 4) > 0.5] = value
        parts[name] = known.inside(fine, centre, (radius_mm(volume_ml),) * 3, 4)
    drawn.array[60:62, 40:43, 30:32] = 10
    body = np.abs(np.arange(84) - 42) < 38
    hu = np.where(body, 60, -1000).astype(np.int16) * np.ones(ct.shape, np.int16)
    write_image(folder / "ct.nii.gz", Volume(hu, ct))
    write_labels(folder / "truth" / "ct.nii.gz", drawn)
    points = []
    for i, time_h in enumerate(TIME_H, start=1):
        liver = LIVER_BQ_ML * 2 ** (-time_h / LIVER_HALF_LIFE_H)
        lesion = LESION_BQ_ML * 2 ** (-time_h / LESION_HALF_LIFE_H)
        uptake = 0.02 * liver + parts["liver"] * 0.98 * liver
        for name in LESIONS:
            uptake = uptake + parts[name] * (lesion - liver)
        blurred = ndimage.gaussian_filter(uptake.astype(np.float32), SIGMA_MM / fine.spacing_mm[0], truncate=5)
        nz, ny, nx = spect.shape
        image = blurred.reshape(nz, 4, ny, 4, nx, 4).mean(axis=(1, 3, 5))
        write_image(folder / f"spect_tp{i}.nii.gz", Volume(image, spect))
        points.append({"time_h": time_h, "ct": "ct.nii.gz", "spect": f"spect_tp{i}.nii.gz"})
    study = Study.model_validate(
        {
            "schema": "doselabel.study/1", "patient_id": "L-1", "nuclide": "Lu-177", "injected_activity_mbq": 7400,
            "ct": "ct.nii.gz", "time_points": points, "psf_fwhm_mm": [SIGMA_MM * np.sqrt(8 * np.log(2))] * 3,
        }
    )  # fmt: skip
    study.save(folder)
    return Study.load(folder)


@pytest.fixture(scope="module")
def done(lesions: Study, tmp_path_factory: pytest.TempPathFactory) -> tuple[DoseComputation, Path]:
    out = tmp_path_factory.mktemp("lesion-out")
    found = pipeline.compute(lesions, lesions.folder / "truth", PLAIN, cache=out / "cache")
    write_dose(found, lesions, out)
    return found, out


def true_dose_gy(volume_ml: float) -> float:
    """Superposition: a sphere of what the lesion has above the liver, in a liver without a hole."""
    own = self_s_value(sphere(volume_ml), "Lu-177", density_g_cm3=1.04)
    liver = self_s_value(Ellipsoid(LIVER_SEMI_MM), "Lu-177", density_g_cm3=1.04)
    liver_ml = 4 / 3 * np.pi * np.prod(LIVER_SEMI_MM) / 1e3
    above = tia_mbq_h(LESION_BQ_ML, volume_ml, LESION_HALF_LIFE_H) - tia_mbq_h(
        LIVER_BQ_ML, volume_ml, LIVER_HALF_LIFE_H
    )
    return 3.6 * (above * own + tia_mbq_h(LIVER_BQ_ML, liver_ml, LIVER_HALF_LIFE_H) * liver)


@pytest.mark.parametrize("name", LESIONS)
def test_lesions_of_10_3_and_1_ml_are_within_5_15_and_30_percent(done: tuple, name: str) -> None:
    volume_ml, _, tolerance = LESIONS[name]
    found = done[0].results.organs[name]
    assert found.volume_ml == pytest.approx(volume_ml, rel=0.06)
    assert found.mass_g == pytest.approx(found.volume_ml * 1.04)
    assert found.tia_mbq_h == pytest.approx(tia_mbq_h(LESION_BQ_ML, volume_ml, LESION_HALF_LIFE_H), rel=tolerance)
    assert found.mean_dose_gy == pytest.approx(true_dose_gy(volume_ml), rel=tolerance)
    assert abs(found.mean_dose_gy - true_dose_gy(volume_ml)) < 2 * found.dose_sd_gy
    assert found.dvh.d_gy["D98"] < found.dvh.d_gy["D50"] < found.dvh.d_gy["D2"]
    assert found.bed_gy is not None
    assert found.bed_gy > found.mean_dose_gy


def test_the_liver_without_its_lesions_is_within_3_percent(done: tuple) -> None:
    found = done[0].results.organs["liver"]
    liver_ml = 4 / 3 * np.pi * np.prod(LIVER_SEMI_MM) / 1e3 - sum(ml for ml, _, _ in LESIONS.values())
    own = self_s_value(Ellipsoid(LIVER_SEMI_MM), "Lu-177", density_g_cm3=1.05) * 3.6
    true_tia = tia_mbq_h(LIVER_BQ_ML, liver_ml, LIVER_HALF_LIFE_H)
    assert found.volume_ml == pytest.approx(liver_ml, rel=0.005)
    assert found.tia_mbq_h == pytest.approx(true_tia, rel=0.03)
    # The self-dose, and what the lesions' photons and border electrons add to it.
    whole = tia_mbq_h(LIVER_BQ_ML, liver_ml + 14.0, LIVER_HALF_LIFE_H)
    assert own * whole * 0.97 < found.mean_dose_gy < own * whole * 1.03


def test_a_speck_is_refused_alone_and_its_reason_told(done: tuple, lesions: Study) -> None:
    results = done[0].results
    assert set(results.organs) == {"liver", *LESIONS}
    assert set(results.failed) == {"speck"}
    assert "of their activity" in results.failed["speck"].message
    alone = DoseOptions(registration="stored", organs=("liver", *LESIONS))
    assert pipeline.run(lesions, lesions.folder / "truth", alone).organs == results.organs


def test_without_partial_volume_correction_small_lesions_are_refused_and_the_liver_is_not(lesions: Study) -> None:
    results = pipeline.run(lesions, lesions.folder / "truth", DoseOptions(voi="margin", registration="stored"))
    assert set(results.organs) == {"liver"}
    assert set(results.failed) == {*LESIONS, "speck"}
    assert all("gtm" in reason.hint for reason in results.failed.values())


def test_the_files_know_the_lesions_by_name(done: tuple) -> None:
    from doselabel.labels import read_labels

    _, out = done
    assert set(read_labels(out / "masks_ct.nii.gz").present()) == {"liver", *LESIONS, "speck"}
    assert set(read_labels(out / "voi_tp1.nii.gz").present()) == {"liver", *LESIONS}


def test_density_and_radiobiology_can_be_stated_for_one_lesion_or_all(lesions: Study) -> None:
    options = DoseOptions.read(
        {"organ_density_g_cm3": "tumour:1.00/Tumour 2:1.2", "alpha_beta_gy": ["tumour_2:5", "liver:2.5"]}
    )
    assert [options.density_of(n) for n in ("tumour_1", "tumour_2", "tumour", "liver")] == [1.0, 1.2, 1.0, 1.05]
    assert options.alpha_beta_gy == {
        "left_kidney": 2.6, "right_kidney": 2.6, "tumour": 10.0, "tumour_2": 5.0, "liver": 2.5
    }  # fmt: skip
    for wrong in ("tumour", "tumour:-1", "1:2", {"tumour": "heavy"}):
        with pytest.raises(DoseError, match="organ_density_g_cm3"):
            DoseOptions.read({"organ_density_g_cm3": wrong})
