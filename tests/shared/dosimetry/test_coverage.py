"""The coverage study's patients and tables, and one patient through the whole chain. The study is a benchmark."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy import ndimage

from doselabel.dosimetry import pipeline
from doselabel.dosimetry.options import DoseOptions
from doselabel.dosimetry.uncertainty import UNSEEN_SPILL
from doselabel.dosimetry.uptake.voi import measure
from doselabel.geometry import Volume
from doselabel.labels import LabelMap
from sample_data import clinic

BENCHMARK = Path(__file__).parents[3] / "benchmarks" / "coverage.py"


@pytest.fixture(scope="module")
def coverage() -> ModuleType:
    spec = importlib.util.spec_from_file_location("coverage_benchmark", BENCHMARK)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def camera(seed: int = 0) -> clinic._Camera:
    return clinic._Camera.draw(np.random.default_rng(seed), clinic.Errors(tail=(0.05, 0.05)))


def test_the_camera_keeps_activity_and_is_not_gaussian() -> None:
    spect = clinic.centred(clinic.SPECT_SHAPE, clinic.SPECT_MM)
    fine = spect.with_spacing((clinic.SPECT_MM / clinic.FINE,) * 3)
    point = np.zeros(fine.shape)
    middle = tuple(n // 2 for n in fine.shape)
    point[middle] = 1.0
    seen = camera().blurred(point, fine) * clinic.FINE**3
    assert seen.sum() == pytest.approx(1.0, abs=0.02)
    z, y, x = np.indices(seen.shape)
    distance = clinic.SPECT_MM * np.sqrt(
        sum((a - (n - 1) / 2) ** 2 for a, n in zip((z, y, x), seen.shape, strict=True))
    )
    far = float(seen[distance > 35].sum())
    assert far > 0.005  # a Gaussian of 15 mm FWHM leaves a ten-millionth there
    edge = np.zeros(fine.shape)
    edge[middle[0], middle[1], 6] = 1.0
    assert camera().blurred(edge, fine).max() > 1.2 * camera().blurred(point, fine).max()


def test_photons_of_a_sphere_give_what_its_absorbed_fraction_says() -> None:
    """A 30 mm sphere absorbs some 6 % of 177Lu's photon energy (35.1 keV per decay); mean chord against μ_en alone."""
    fine = clinic.centred((40, 40, 40), 2.4)
    ball = clinic._level(fine, (0, 0, 0), (30.0,) * 3) < 0
    gy = clinic._photons(ball.astype(float), fine)[ball].mean()
    tia_mbq_h, mass_g = float(ball.sum()) * 2.4**3 / 1e3, float(ball.sum()) * 2.4**3 / 1e3
    emitted_gy = tia_mbq_h * 3.6e9 * 28.2 * 1.602176634e-16 / (mass_g / 1e3)  # the two gamma lines, 30.2 keV
    chord_cm = 0.75 * 3.0
    assert 0.85 * 0.029 * chord_cm < gy / emitted_gy < 1.35 * 0.029 * chord_cm


def test_a_patient_is_its_seed_and_number_and_the_chain_finds_its_dose(tmp_path: Path, coverage: ModuleType) -> None:
    first, _ = clinic.make(tmp_path / "a", 5, 1)
    cases = list(coverage.cases_of(tmp_path / "b", 5, 1, methods=("margin",)))
    assert (tmp_path / "a" / "spect_tp3.nii.gz").read_bytes() == (tmp_path / "b" / "spect_tp3.nii.gz").read_bytes()
    assert len(first.time_points) == 4
    assert {c["organ"] for c in cases} == set(clinic.SEMI_MM)
    assert {c["points"] for c in cases} == {4, 2}
    assert all(abs(coverage.z_of(c, what)) < 3 for c in cases for what in ("dose", "bed", "D50"))
    assert all(c["percent"]["counts"] > 0 and c["percent"]["spill_out"] > 1 for c in cases)


def test_tails_and_breath_take_what_the_budget_takes_for_unseen() -> None:
    """Activities by `gtm`, right masks and width, no noise, with and without what is no Gaussian."""
    spect, ct = clinic.centred(clinic.SPECT_SHAPE, clinic.SPECT_MM), clinic.centred(clinic.CT_SHAPE, clinic.CT_MM)
    fine = spect.with_spacing((clinic.SPECT_MM / clinic.FINE,) * 3)
    right = {"contour_shared": 0.0, "contour_single": 0.0, "contour_waves_mm": 0.0, "psf": 0.0}
    rng = np.random.default_rng(9)
    organs = {name: clinic._Organ.draw(name, rng) for name in clinic.SEMI_MM}
    active = np.where(clinic._level(fine, (0, 0, 0), clinic.BODY_MM) < 0, clinic.BODY_MBQ_ML, 0.0)
    for name, organ in organs.items():
        active[clinic._level(fine, organ.centre_mm, organ.semi_mm) < 0] = clinic.MBQ_ML[name]
    masks = clinic._drawn(ct, organs, dict.fromkeys(organs, 0.0), clinic.Errors(**right), rng)

    def found(tail: tuple[float, float], breath_mm: tuple[float, float]) -> np.ndarray:
        """The mean tail and breath of the study's patients, or none."""
        errors = clinic.Errors(**right, tail=tail, breath_mm=breath_mm)
        drawn = clinic._Camera.draw(np.random.default_rng(4), errors)
        image = ndimage.gaussian_filter(drawn.blurred(active, fine), clinic.GRAIN_MM / clinic.SPECT_MM)
        scan = Volume((image * 1e6).astype(np.float32), spect)
        seen = measure(scan, masks, method="gtm", psf_fwhm_mm=drawn.stated_fwhm_mm).organs
        return np.array([seen[name].activity_mbq for name in organs])

    lost = 1 - found((0.04, 0.04), (7.0, 7.0)) / found((0.0, 1e-6), (0.0, 1e-3))
    assert lost.min() > 0
    assert lost.mean() == pytest.approx(UNSEEN_SPILL, abs=0.01)


@pytest.mark.parametrize("error", [0.0, -0.2])
def test_waves_of_a_contour_move_no_volume(error: float) -> None:
    """A contour's stated error is one of volume; what waves added would not be stated by anybody."""
    ct = clinic.centred(clinic.CT_SHAPE, clinic.CT_MM)
    organs = {name: clinic._Organ.draw(name, np.random.default_rng(3)) for name in ("left_kidney", "liver")}
    shared = dict.fromkeys(organs, error)

    def drawn(waves_mm: float) -> LabelMap:
        errors = clinic.Errors(contour_single=0.0, contour_waves_mm=waves_mm)
        return clinic._drawn(ct, organs, shared, errors, np.random.default_rng(4))

    wavy, even = drawn(1.5), drawn(0.0)
    for name, organ in organs.items():
        true_ml = 4e-3 / 3 * np.pi * organ.semi_mm.prod()
        assert wavy.volume_ml(name) == pytest.approx((1 + error) * true_ml, rel=0.005)
        assert (wavy.mask(name) != even.mask(name)).mean() > 0.05 * even.mask(name).mean()


@pytest.mark.parametrize("sharp", [True, False], ids=["a Gaussian camera", "tails and breath"])
def test_with_true_masks_every_d_x_is_within_ten_percent(tmp_path: Path, sharp: bool) -> None:
    """D2, D50 and D98 of uneven organs seen by a camera of 4000 counts/MBq, noise and all, by `gtm`."""
    still = {"tail": (0.0, 1e-4), "breath_mm": (0.0, 0.01)} if sharp else {}
    right = clinic.Errors(
        contour_shared=0.0, contour_single=0.0, contour_waves_mm=0.0, psf=0.0, calibration=0.0, shift_mm=(0.0, 1e-3),
        attenuation=0.0, scatter=(0.0, 0.0), tumour=0.0, **still,
    )  # fmt: skip
    study, truth = clinic.make(tmp_path, 7, 1, right)
    done = pipeline.compute(study, tmp_path / "drawn", DoseOptions(voi="gtm", registration="stored")).results
    for name, true in truth.items():
        assert true.d_gy["D2"] > 1.1 * true.d_gy["D98"]
        for x, gy in true.d_gy.items():
            assert done.organs[name].dvh.d_gy[x] == pytest.approx(gy, rel=0.10), (name, x)


def test_the_table_marks_what_does_not_cover(coverage: ModuleType) -> None:
    rng = np.random.default_rng(0)

    def drawn(scale: float) -> str:
        z = scale * rng.standard_normal(400)
        return coverage.row("x", z, 0.1 * z, np.full(400, 0.1), 0)

    assert "off" not in drawn(1.0)
    assert drawn(1.5).count("off") == 3
    assert drawn(0.6).count("off") == 2
