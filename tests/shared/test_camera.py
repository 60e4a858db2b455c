"""The camera file: units, what it refuses, and counts that become Bq/mL."""

from __future__ import annotations

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import ndimage

from doselabel.camera import Camera, DeadTime, Recovery, Resolution, Sensitivity, cps_per_mbq
from doselabel.cli import main
from doselabel.errors import CalibrationError, StudyError
from doselabel.geometry import Geometry, Volume, write_image
from doselabel.io.report_stated import stated
from doselabel.reading import read_spect
from doselabel.study import Study
from doselabel.study_check import examine

GRID = Geometry((24, 24, 24), (4.0, 4.0, 4.0), (-46.0, -46.0, -46.0))
COMPLETE = Camera(
    name="a",
    nuclide="Lu-177",
    sensitivity=Sensitivity(cps_per_mbq=10.0, sd_cps_per_mbq=0.3),
    resolution=Resolution(fwhm_mm=(12.0, 11.0, 11.0), sd_mm=(0.3, 0.2, 0.2)),
    dead_time=DeadTime(tau_us=5.0, sd_us=0.2, model="paralyzable"),
)


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (9.4, "cps/MBq", 9.4),
        (0.0094, "cps/kBq", 9.4),
        (9.4e-6, "cps/Bq", 9.4),
        (20.868, "counts/min/µCi", 9.4),  # 60 s/min × 0.037 MBq/µCi = 2.22
        (20.868, "counts/min/uCi", 9.4),
    ],
)
def test_every_unit_of_sensitivity_is_converted_explicitly(value: float, unit: str, expected: float) -> None:
    assert cps_per_mbq(value, unit) == pytest.approx(expected, rel=1e-6)


def test_a_factor_in_bq_ml_per_count_needs_duration_and_voxel() -> None:
    factor = COMPLETE.sensitivity.bq_ml_per_count(1800, 0.064)
    assert factor == pytest.approx(1e6 / (10 * 1800 * 0.064))
    assert cps_per_mbq(factor, "Bq/mL per count", duration_s=1800, voxel_ml=0.064) == pytest.approx(10.0)
    with pytest.raises(CalibrationError, match="one scan duration"):
        cps_per_mbq(factor, "Bq/mL per count")
    with pytest.raises(CalibrationError, match="no unit of sensitivity"):
        cps_per_mbq(1.0, "counts/MBq")
    with pytest.raises(CalibrationError, match="above 0"):
        cps_per_mbq(-1.0, "cps/MBq")


@pytest.mark.parametrize("model", ["paralyzable", "nonparalyzable"])
def test_dead_time_is_undone(model: str) -> None:
    dead_time = DeadTime(tau_us=5.0, sd_us=0.1, model=model)
    true = 60_000.0
    seen = true * math.exp(-0.3) if model == "paralyzable" else true / 1.3
    assert dead_time.factor(seen) * seen == pytest.approx(true)
    assert dead_time.factor(0.0) == 1.0
    with pytest.raises(CalibrationError, match="can't be observed"):
        dead_time.factor(250_000.0)


def test_a_camera_file_is_written_and_read_and_refused_by_field(tmp_path: Path) -> None:
    path = tmp_path / "camera.json"
    COMPLETE.save(path)
    assert Camera.load(path) == COMPLETE
    content = json.loads(path.read_text("utf-8"))
    content["sensitivity"]["cps_per_mbq"] = -3
    path.write_text(json.dumps(content))
    with pytest.raises(CalibrationError, match=r"sensitivity\.cps_per_mbq"):
        Camera.load(path)
    path.write_text("{")
    with pytest.raises(CalibrationError, match="not a camera file"):
        Camera.load(path)
    with pytest.raises(CalibrationError, match="no such camera file"):
        Camera.load(tmp_path / "none.json")


def test_recovery_rises_from_nothing_to_one() -> None:
    curve = Recovery(
        half_ml=2.0, exponent=0.8, covariance=((0.01, 0.0), (0.0, 0.01)), volume_ml=(1.0,), coefficient=(0.4,)
    )
    assert curve.at(2.0)[0] == pytest.approx(0.5)
    assert curve.at(1e6)[0] > 0.99 > 0.01 > curve.at(1e-4)[0]
    assert curve.at(2.0)[1] > 0


# ---- a study in counts


def in_counts(folder: Path, **changes: object) -> dict:
    rng = np.random.default_rng(0)
    write_image(folder / "ct.nii.gz", Volume(np.full(GRID.shape, 60, np.int16), GRID))
    write_image(folder / "spect.nii.gz", Volume(rng.poisson(50, GRID.shape).astype(np.float32), GRID))
    COMPLETE.save(folder / "camera.json")
    content = {
        "schema": "doselabel.study/1", "patient_id": "C-1", "nuclide": "Lu-177", "injected_activity_mbq": 7400,
        "ct": "ct.nii.gz", "camera": "camera.json", "spect_unit": "counts",
        "time_points": [
            {"time_h": 24, "ct": "ct.nii.gz", "spect": "spect.nii.gz", "scan_duration_min": 30, "count_rate_cps": 2e4}
        ],
    }  # fmt: skip
    content |= changes
    (folder / "study.json").write_text(json.dumps(content))
    return content


def test_counts_become_bq_ml_by_the_camera_file(tmp_path: Path) -> None:
    in_counts(tmp_path)
    study = Study.load(tmp_path)
    counts = np.random.default_rng(0).poisson(50, GRID.shape)
    factor = 1e6 / (10 * 1800 * 0.064) * COMPLETE.dead_time.factor(2e4)
    np.testing.assert_allclose(read_spect(study, 0).array, counts * factor, rtol=1e-5)
    assert study.resolution_fwhm_mm == (12.0, 11.0, 11.0)
    assert study.calibration_relative_sd == pytest.approx(0.03)
    study.psf_fwhm_mm = (9.0, 9.0, 9.0)
    assert study.resolution_fwhm_mm == (9.0, 9.0, 9.0)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"camera": None}, "in counts, and there is no camera file"),
        ({"camera": "other.json"}, "field 'camera'.*no such file"),
        ({"camera": "../camera.json"}, "outside the study folder"),
        ({"nuclide": "I-131"}, "camera.json is for Lu-177, the study's nuclide is I-131"),
        (
            {"time_points": [{"time_h": 24, "ct": "ct.nii.gz", "spect": "spect.nii.gz"}]},
            r"time_points\[0\].scan_duration_min' is missing",
        ),
    ],
)
def test_counts_that_cannot_be_converted_are_refused_at_the_door(tmp_path: Path, changes: dict, message: str) -> None:
    in_counts(tmp_path, **changes)
    with pytest.raises(StudyError, match=message) as caught:
        Study.load(tmp_path)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("changes", "dead_time", "said"),
    [
        ({}, True, None),
        ({"rate": None}, True, "time_points[0] is not stated: not corrected"),
        ({}, False, "is stated, and the camera file has no dead time"),
        ({"spect_unit": "Bq/mL"}, True, "is stated, and the SPECTs are in Bq/mL"),
        ({"rate": None}, False, None),
    ],
)
def test_dead_time_that_is_stated_by_halves_is_a_warning(
    tmp_path: Path, changes: dict, dead_time: bool, said: str | None
) -> None:
    in_counts(tmp_path, **{k: v for k, v in changes.items() if k != "rate"})
    if not dead_time:
        COMPLETE.model_copy(update={"dead_time": None}).save(tmp_path / "camera.json")
    study = Study.load(tmp_path)
    if "rate" in changes:
        study.time_points[0].count_rate_cps = changes["rate"]
    found = [a for a in examine(study).alarms if a.code == "dead-time-uncorrected"]
    assert [said in alarm.sentence for alarm in found] == ([True] if said else [])
    lines = stated(SimpleNamespace(), study)["Dead time"]
    assert lines == ("" if not dead_time else f"5.00 µs, paralyzable; corrected in {0 if said else 1} of 1 scans")


# ---- the command


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["sensitivity", "--value", "-3"], "is not above 0"),
        (["sensitivity", "--value", "nan"], "no finite number"),
        (["sensitivity", "--value", "9", "--sd-percent", "-2"], "is below 0"),
        (["dead-time", "--rates-cps", "4", "0", "--activities-mbq", "6", "1"], "is not above 0"),
        (["resolution", "x.nii.gz", "--kind", "sphere", "--volume-ml", "0"], "is not above 0"),
    ],
)
def test_a_number_that_cannot_be_is_refused_by_the_command(
    tmp_path: Path, given: list[str], said: str, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["calibrate", *given, "--camera", str(tmp_path / "camera.json")])
    assert said in capsys.readouterr().err
    assert not (tmp_path / "camera.json").exists()


def test_a_factor_per_count_and_a_camera_of_one_nuclide(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    kept = ["--camera", str(tmp_path / "camera.json")]
    factor = ["sensitivity", "--value", "868.06", "--unit", "Bq/mL per count"]
    assert main(["calibrate", *factor, *kept]) == 2
    assert "Give duration_s and voxel_ml" in capsys.readouterr().err
    assert main(["calibrate", *factor, "--duration-s", "1800", "--voxel-ml", "0.064", *kept]) == 0
    found = Camera.load(tmp_path / "camera.json")
    assert found.sensitivity.cps_per_mbq == pytest.approx(10.0, rel=1e-4)
    assert "voxels of 0.064 mL, 1800 s" in found.sensitivity.how
    assert found.nuclide == "Lu-177"
    assert main(["calibrate", "sensitivity", "--value", "9", "--nuclide", "131I", *kept]) == 2
    assert "is for Lu-177, and the factor is for I-131" in capsys.readouterr().err
    assert Camera.load(tmp_path / "camera.json") == found


def test_calibrate_fills_one_camera_file(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    axis = (np.arange(48) - 23.5) * 4.0
    r2 = axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2
    point = np.exp(-0.5 * r2 / 5.0**2)
    counts = np.random.default_rng(1).poisson(point / point.sum() * 10.0 * 20.0 * 600 + 0.2)
    grid = Geometry((48, 48, 48), (4.0, 4.0, 4.0), (-94.0, -94.0, -94.0))
    image = write_image(tmp_path / "point.nii.gz", Volume(counts.astype(np.float32), grid))
    spheres = np.zeros(grid.shape, np.float32)
    where = {
        11.5: (-60.0, -60.0, -60.0),
        5.6: (60.0, -60.0, -60.0),
        2.6: (-60.0, 60.0, -60.0),
        1.15: (60.0, 60.0, 60.0),
    }

    for ml, (x, y, z) in where.items():
        r = np.sqrt((axis[:, None, None] - z) ** 2 + (axis[:, None] - y) ** 2 + (axis - x) ** 2)
        spheres += np.clip(((3e3 * ml / 4 / math.pi) ** (1 / 3) - r) / 4 + 0.5, 0, 1).astype(np.float32)
    hot = write_image(tmp_path / "spheres.nii.gz", Volume(ndimage.gaussian_filter(spheres * 1e5, 1.25), grid))
    camera = tmp_path / "camera.json"
    kept = ["--camera", str(camera)]
    decayed = str(20.0 * 2 ** (24 / 159.528))
    runs = [
        ["sensitivity", str(image), "--activity-mbq", decayed, "--hours-after-assay", "24", "--duration-s", "600"],
        ["resolution", str(image), "--kind", "point"],
        ["recovery", str(hot), "--true-bq-ml", "1e5"]
        + [part for ml, at in where.items() for part in ("--sphere", f"{ml}:" + ",".join(map(str, at)))],
        ["dead-time", "--rates-cps", "44449", "9512", "--activities-mbq", "6", "1"],
    ]
    for run in runs:
        assert main(["calibrate", *run, *kept]) == 0, capsys.readouterr().err
    found = Camera.load(camera)
    assert abs(found.sensitivity.cps_per_mbq - 10.0) < 2 * found.sensitivity.sd_cps_per_mbq
    # The blob was sampled, not integrated over its voxels: it is a Gaussian narrower by one voxel's own variance.
    sigma = math.sqrt(5.0**2 - 4.0**2 / 12)
    assert found.resolution.fwhm_mm == pytest.approx([sigma * math.sqrt(8 * math.log(2))] * 3, rel=0.02)
    assert found.recovery.at(11.5)[0] > found.recovery.at(1.15)[0]
    assert found.dead_time.tau_us == pytest.approx(5.0, abs=1.0)
    for what in ("sensitivity", "resolution", "recovery", "dead_time"):
        assert (tmp_path / f"camera_{what}.png").stat().st_size > 5000
    assert "± " in capsys.readouterr().out
    assert main(["calibrate", "sensitivity", "--value", "20.868", "--unit", "counts/min/uCi", *kept]) == 0
    assert Camera.load(camera).sensitivity.cps_per_mbq == pytest.approx(9.4)
    assert main(["calibrate", "sensitivity", *kept]) == 2
    assert "Not given: image" in capsys.readouterr().err
    for none in ("3;1", "-3:1,2,3", "3:1,2,inf"):
        assert main(["calibrate", "recovery", str(hot), "--true-bq-ml", "1", f"--sphere={none}", *kept]) == 2
