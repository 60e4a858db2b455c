"""Studies on disk: what is written comes back, and bad input is named by file, field and remedy."""

from __future__ import annotations

import json

import numpy as np
import pytest

from doselabel.errors import StudyError
from doselabel.geometry import Geometry, Volume, read_image, write_image
from doselabel.study import Registration, Study


def edit(study: Study, **changes) -> None:
    """Change the manifest as a person with an editor would."""
    manifest = study.folder / "study.json"
    content = json.loads(manifest.read_text("utf-8"))
    for place, value in changes.items():
        target, keys = content, place.split("__")
        for key in keys[:-1]:
            target = target[int(key) if key.isdigit() else key]
        if value is None:
            del target[keys[-1]]
        else:
            target[keys[-1]] = value
    manifest.write_text(json.dumps(content))


def test_a_saved_study_comes_back_equal(small_study):
    assert Study.load(small_study.folder) == small_study
    assert Study.load(small_study.folder / "study.json").nuclide == "Lu-177"
    assert [alarm.code for alarm in small_study.check()] == ["activity-unchecked"]


def test_image_ids_name_every_ct_the_diagnostic_one_first(small_study):
    assert list(small_study.cts()) == ["P-001__ct", *(f"P-001__ct_tp{i}" for i in (1, 2, 3, 4))]


def test_a_registration_is_stored_in_the_study(small_study):
    matrix = np.eye(4)
    matrix[2, 3] = -8.0
    small_study.time_points[1].spect_to_ct = Registration(matrix=tuple(map(tuple, matrix)), method="manual")
    small_study.save()
    assert Study.load(small_study.folder).time_points[1].spect_to_ct.matrix[2][3] == -8.0


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"time_points__2__time_h": -24}, r"time_points\[2\]\.time_h.*greater than 0.*-24"),
        ({"time_points__1__time_h": 50}, r"not increasing"),
        ({"reporting": {"residual_activity_mbq": 9e4}}, r"90000 MBq were left .* more than the 7400 MBq injected"),
        ({"time_points__0__spect": "none.nii.gz"}, r"time_points\[0\]\.spect.*none\.nii\.gz"),
        ({"ct": "../elsewhere/ct.nii.gz"}, r"field 'ct'.*outside"),
        ({"nuclide": "lutetium"}, r"nuclide.*Lu-177"),
        ({"injected_activity_mbq": None}, r"'injected_activity_mbq' is missing"),
        ({"injected_activity_mbq": -1}, r"injected_activity_mbq"),
        ({"injected_activity": 7400}, r"'injected_activity' is not known"),
        ({"patient_id": "../../etc"}, r"patient_id"),
        ({"organs_absent": ["heart"]}, r"organs_absent.*left_kidney"),
        ({"schema": "doselabel.study/9"}, r"schema.*doselabel\.study/1"),
        ({"psf_fwhm_mm": [12, 12, -1]}, r"psf_fwhm_mm"),
        ({"time_points": []}, r"time_points"),
    ],
)
def test_a_bad_manifest_is_named_by_file_and_field(small_study, changes, expected):
    edit(small_study, **changes)
    with pytest.raises(StudyError, match=expected) as caught:
        Study.load(small_study.folder)
    assert "study.json" in caught.value.message
    assert caught.value.hint


def test_json_with_a_missing_comma_is_located(small_study):
    manifest = small_study.folder / "study.json"
    manifest.write_text(manifest.read_text("utf-8").replace(",", "", 1))
    with pytest.raises(StudyError, match=r"study\.json: is not JSON .*line"):
        Study.load(small_study.folder)


def test_a_text_file_named_nii_gz_is_named(small_study):
    (small_study.folder / "spect_tp3.nii.gz").write_text("hello")
    with pytest.raises(StudyError, match=r"time_points\[2\]\.spect.*spect_tp3\.nii\.gz: cannot be read"):
        Study.load(small_study.folder).check()


@pytest.mark.parametrize(
    ("scale", "offset", "expected"),
    [(1.0, 1024.0, "rescale intercept"), (0.0002, 0.2, "attenuation"), (0.02, -20.0, "not a CT's range")],
)
def test_a_ct_in_other_units_is_refused(small_study, scale, offset, expected):
    path = small_study.path("ct_tp2.nii.gz")
    ct = read_image(path)
    write_image(path, Volume(ct.array.astype(np.float32) * scale + offset, ct.geometry))
    with pytest.raises(StudyError, match=rf"time_points\[1\]\.ct.*Hounsfield.*{expected}"):
        small_study.check()


@pytest.mark.parametrize(("value", "expected"), [(-1e4, "negative"), (np.nan, "not finite")])
def test_a_spect_that_is_not_an_activity_is_refused(small_study, value, expected):
    path = small_study.path("spect_tp1.nii.gz")
    spect = read_image(path)
    spect.array[0, 0, 0] = value
    write_image(path, spect)
    with pytest.raises(StudyError, match=rf"time_points\[0\]\.spect.*{expected}"):
        small_study.check()


def test_a_spect_beside_the_ct_is_refused(small_study):
    path = small_study.path("spect_tp1.nii.gz")
    spect = read_image(path)
    away = Geometry(spect.geometry.shape, spect.geometry.spacing_mm, (500.0, 0.0, 0.0))
    write_image(path, Volume(spect.array, away))
    with pytest.raises(StudyError, match="outside the CT"):
        small_study.check()


def test_a_spect_that_its_stored_transform_brings_onto_the_ct_is_accepted(small_study):
    path = small_study.path("spect_tp1.nii.gz")
    spect = read_image(path)
    x, y, z = spect.geometry.origin_mm
    write_image(path, Volume(spect.array, Geometry(spect.geometry.shape, spect.geometry.spacing_mm, (x + 900, y, z))))
    matrix = np.eye(4)
    matrix[0, 3] = -900.0
    small_study.time_points[0].spect_to_ct = Registration(matrix=tuple(map(tuple, matrix)), method="manual")
    assert [alarm.code for alarm in small_study.check()] == ["activity-unchecked"]


def test_more_activity_than_was_injected_is_an_alarm(small_study):
    path = small_study.path("spect_tp1.nii.gz")
    spect = read_image(path)
    write_image(path, Volume(spect.array * 1e4, spect.geometry))
    (alarm,) = small_study.check()
    assert alarm.severity == "alarm"
    assert "more than the 7400 MBq injected" in alarm.sentence


def test_an_empty_exclusion_mask_is_said_and_an_organ_has_one(small_study):
    ct = read_image(small_study.path("ct.nii.gz"))
    write_image(small_study.path("none.nii.gz"), Volume(np.zeros(ct.array.shape, np.uint8), ct.geometry))
    small_study.time_points[0].exclude = {"Left kidney": "none.nii.gz"}
    assert "exclusion-empty" in [alarm.code for alarm in small_study.check()]
    with pytest.raises(ValueError, match="names one organ twice"):
        small_study.time_points[0].exclude = {"Left kidney": "a", "left_kidney": "b"}
    small_study.time_points[0].exclude = {"1": "none.nii.gz"}
    with pytest.raises(StudyError, match="no name"):
        small_study.check()


def test_an_exclusion_mask_on_another_grid_is_refused(small_study):
    small_study.time_points[0].exclude = {"left_kidney": "spect_tp2.nii.gz"}
    with pytest.raises(StudyError, match=r"exclude\.left_kidney"):
        small_study.check()
