"""The infer tasks called plainly, as MONAI Label does outside our server."""

import json
from pathlib import Path

import pytest

from doselabel.errors import LabelError, RegistrationError
from doselabel.geometry import Geometry, Volume, read_image, write_image
from doselabel.labels import read_labels
from doselabel.wire import DoseResults, LabelSubmission, SegmentationSummary
from monailabel_app.conf import Conf
from monailabel_app.datastore import StudyDatastore
from monailabel_app.infers.dosimetry import Dosimetry
from monailabel_app.infers.kidney_liver import KidneyLiver
from monailabel_app.infers.registration import RegistrationTask
from monailabel_app.models import ModelStore
from monailabel_app.refusals import Refused
from monailabel_app.request import staged
from monailabel_app.tasks import Tasks


@pytest.fixture
def kidney_liver(tmp_path, untrained):
    return KidneyLiver(ModelStore(tmp_path / "model", untrained))


def test_a_segmentation_is_a_fresh_file_with_names_and_a_summary_that_json_can_hold(kidney_liver, studies):
    request = {"image": str(studies / "P-001" / "ct.nii.gz")}
    file, answer = kidney_liver(request)
    other, _ = kidney_liver(request)
    assert file != other
    assert not Path(file).is_relative_to(studies)
    assert set(read_labels(file).names.values()) == {"left_kidney", "right_kidney", "liver"}
    SegmentationSummary.model_validate(json.loads(json.dumps(answer["segmentation"], allow_nan=False)))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("planes", "two"),
        ("consensus", "any"),
        ("gap_fill", "cubic"),
        ("result_extension", ".exe"),
        ("result_extension", "/../x.nii.gz"),
        ("result_dtype", "float64"),
        ("score_threshold", "high"),
    ],
)
def test_a_value_that_can_t_be_used_is_named(kidney_liver, studies, key, value):
    with pytest.raises(Refused, match=key):
        kidney_liver({"image": str(studies / "P-001" / "ct.nii.gz"), key: value})


def test_a_dose_from_masks_nobody_reviewed_says_so_and_its_progress_never_runs_backwards(
    kidney_liver, studies, label_file, tmp_path
):
    StudyDatastore(studies).submit("P-001__ct", label_file, LabelSubmission(author="ada"))
    told = []
    request = {
        "image": str(studies / "P-001" / "ct_tp1.nii.gz"),
        "labels": "model",
        "report": False,
        "registration": "stored",
        "out": str(tmp_path),
        "progress": lambda stage, fraction: told.append(fraction),
    }
    _, answer = Dosimetry(kidney_liver, tmp_path / "cache")(request)
    results = DoseResults.model_validate_json((tmp_path / "results.json").read_text("utf-8"))
    assert results == DoseResults.model_validate(answer["dose"])
    assert not results.reviewed
    assert results.warnings[0].startswith("The label maps of ct_tp1, ct_tp2, ct_tp3 were predicted")
    assert "completed by the model" in results.labels_origin
    assert not (tmp_path / "report.html").exists()
    assert told == sorted(told)


def test_stages_that_each_run_from_0_to_1_are_told_as_one_fraction():
    told = []
    tell = staged(lambda stage, fraction: told.append((stage, fraction)), {"first": 1.0, "second": 3.0})
    for stage, fraction in [("first", 0.0), ("first", 1.0), ("second", 0.5), ("first", 1.0), ("other", 0.2)]:
        tell(stage, fraction)
    assert told == [("first", 0.0), ("first", 0.25), ("second", 0.625), ("first", 0.625), ("other", 0.625)]


def test_the_paper_s_reading_is_three_planes_and_two_of_three_unless_told_otherwise(untrained, studies, tmp_path):
    paper = Tasks(Conf(str(studies), checkpoint=str(untrained))).infers["kidney_liver_paper"]
    request = {"image": str(studies / "P-001" / "ct.nii.gz"), "consensus": "", "out": str(tmp_path)}
    assert set(paper(request)[1]["segmentation"]["planes"]) == {"axial", "coronal", "sagittal"}
    assert paper(request | {"planes": "axial"})[1]["segmentation"]["planes"] == ["axial"]
    assert {key: value[0] for key, value in paper.config().items() if isinstance(value, list)} == {
        "planes": "all",
        "consensus": "vote",
        "gap_fill": "linear",
    }


def test_the_diagnostic_ct_s_label_map_is_brought_onto_a_shifted_ct(studies, label_file, tmp_path, boxes):
    shifted = Geometry(boxes.grid.shape, boxes.grid.spacing_mm, (-188.0 + 16.0, -188.0, -60.0))
    ct = read_image(studies / "P-001" / "ct_tp2.nii.gz")
    write_image(studies / "P-001" / "ct_tp2.nii.gz", Volume(ct.array, shifted))
    request = {"image": str(studies / "P-001" / "ct_tp2.nii.gz"), "out": str(tmp_path)}
    file, answer = RegistrationTask()(request)
    assert file is None, "nothing was drawn yet that could be carried over"
    assert answer["registration"]["matrix"][0][3] == pytest.approx(-16, abs=1)
    StudyDatastore(studies).submit("P-001__ct", label_file, LabelSubmission(author="ada"))
    file, answer = RegistrationTask()(request)
    carried = read_labels(file)
    assert carried.geometry.same_place(shifted)
    assert answer["label_names"] == {"left_kidney": 1, "right_kidney": 2, "liver": 3}
    for name in answer["label_names"]:
        assert carried.volume_ml(name) == pytest.approx(boxes.label_map.volume_ml(name), rel=0.05)
    with pytest.raises(RegistrationError, match="is the diagnostic CT"):
        RegistrationTask()({"image": str(studies / "P-001" / "ct.nii.gz")})


def test_a_spect_is_brought_onto_the_organs_of_its_ct(studies, label_file, boxes):
    request = {"image": str(studies / "P-001" / "ct_tp1.nii.gz"), "moving": "spect"}
    with pytest.raises(LabelError, match="no label map has been submitted"):
        RegistrationTask()(request)
    StudyDatastore(studies).submit("P-001__ct_tp1", label_file, LabelSubmission(author="ada"))
    spect = read_image(studies / "P-001" / "spect_tp1.nii.gz")
    moved = Geometry(boxes.grid.shape, boxes.grid.spacing_mm, (-188.0, -188.0 + 8.0, -60.0))
    write_image(studies / "P-001" / "spect_tp1.nii.gz", Volume(spect.array, moved))
    found = RegistrationTask()(request)[1]["registration"]
    assert found["matrix"][1][3] == pytest.approx(-8, abs=1.5)
    assert found["agreement_after"] > found["agreement_before"]
