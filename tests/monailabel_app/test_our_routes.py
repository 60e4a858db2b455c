"""The routes of `doselabel.wire` against a real server process: patients P-002 and P-003."""

import io
import time

from doselabel.geometry import read_image
from doselabel.labels import read_labels
from doselabel.wire import (
    ErrorInfo,
    JobResult,
    JobStatus,
    LabelSubmission,
    LabelVersion,
    NextCase,
    ServerInfo,
    StudyInfo,
)
from monailabel_app.conf import STATE
from tests.load import shared

PATIENCE_S = 300
"""Only a machine with much else to do needs nearly this long."""


def over(http, job_id, timeout_s=PATIENCE_S) -> JobStatus:
    end = time.monotonic() + timeout_s
    while not (status := JobStatus.model_validate(http.get(f"/jobs/{job_id}").json())).is_over:
        assert time.monotonic() < end, status
        time.sleep(0.1)
    return status


def start(http, task, **request) -> JobStatus:
    reply = http.post(f"/jobs/{task}", json=request)
    assert reply.status_code == 202, reply.text
    status = JobStatus.model_validate(reply.json())
    assert reply.headers["location"] == f"/jobs/{status.id}"
    return status


def submit(http, image_id, path, **fields) -> LabelVersion:
    with path.open("rb") as file:
        params = LabelSubmission(**fields).model_dump_json()
        reply = http.post(f"/doselabel/labels/{image_id}", files={"file": (path.name, file)}, data={"params": params})
    assert reply.status_code == 200, reply.text
    return LabelVersion.model_validate(reply.json())


def test_the_server_says_who_it_is(http):
    info = ServerInfo.model_validate(http.get("/doselabel/info").json())
    assert info.infers == ["kidney_liver", "kidney_liver_paper", "registration", "dosimetry"]
    assert info.trainers == ["train"]
    assert info.model.profile == "fast"
    assert info.organs["liver"] == 3


def test_studies_are_listed_and_a_broken_one_with_its_error(http):
    infos = {s.patient_id: s for s in map(StudyInfo.model_validate, http.get("/doselabel/studies").json())}
    assert [image.image_id for image in infos["P-002"].images][:2] == ["P-002__ct", "P-002__ct_tp1"]
    assert infos["P-002"].time_points[1].time_h == 24.0
    assert "schema" in infos["broken"].error.message


def test_a_study_s_files_are_given_out_and_no_others(http):
    reply = http.get("/doselabel/studies/P-002/file/spect_tp1.nii.gz")
    assert reply.status_code == 200
    assert reply.content[:2] == b"\x1f\x8b"
    assert http.get("/doselabel/studies/P-002/file/study.json").status_code == 404


def test_a_draft_s_dose_is_answered_and_the_draft_is_kept_by_nobody(http, label_file, served_root):
    names = ["P-004__ct", "P-004__ct_tp1", "P-004__ct_tp2", "P-004__ct_tp3"]
    files = [("files", (f"{name}.nii.gz", label_file.read_bytes())) for name in names]
    reply = http.post(
        "/doselabel/draft", files=files, data={"params": '{"organs": ["left_kidney"], "registration": "stored"}'}
    )
    assert reply.status_code == 202, reply.text
    job = over(http, reply.json()["id"])
    assert job.state == "done", job
    found = JobResult.model_validate(http.get(f"/jobs/{job.id}/result").json()).dose
    assert found.organs["left_kidney"].mean_dose_gy > 0
    assert found.warnings[0].startswith("Draft, not submitted")
    assert http.get("/doselabel/labels/P-004__ct").json() == []
    assert not list((served_root / STATE / "tmp").rglob("doselabel-drafts-*"))


def test_drafts_of_two_patients_are_refused(http, label_file):
    files = [("files", (f"{name}.nii.gz", label_file.read_bytes())) for name in ("P-004__ct", "P-003__ct")]
    reply = http.post("/doselabel/draft", files=files)
    assert reply.status_code == 422
    assert "one patient at a time" in reply.json()["message"]


def test_a_registration_is_kept_in_the_study(http):
    matrix = [[1, 0, 0, 3.5], [0, 1, 0, 0], [0, 0, 1, -8.0], [0, 0, 0, 1]]
    reply = http.put("/doselabel/studies/P-002/registration/1", json={"matrix": matrix, "method": "manual"})
    assert StudyInfo.model_validate(reply.json()).time_points[1].spect_to_ct.matrix[2][3] == -8.0
    kept = next(s for s in http.get("/doselabel/studies").json() if s["patient_id"] == "P-002")
    assert kept["time_points"][1]["spect_to_ct"]["method"] == "manual"
    reply = http.put("/doselabel/studies/P-002/registration/1", json={"matrix": [[2, 0, 0, 0], *matrix[1:]]})
    assert reply.status_code == 422
    assert "not rigid" in reply.json()["message"]


def test_a_submission_is_a_version_that_can_be_fetched_reviewed_and_is_not_offered_again(http, label_file, boxes):
    first = submit(http, "P-002__ct", label_file, author="ada", comment="first")
    second = submit(http, "P-002__ct", label_file, author="ada")
    assert (first.version, second.version) == (1, 2)
    versions = [LabelVersion.model_validate(v) for v in http.get("/doselabel/labels/P-002__ct").json()]
    assert [v.version for v in versions] == [2, 1]
    reviewed = http.put("/doselabel/labels/P-002__ct/1/review", json={"approved": True, "reviewer": "eva"})
    assert LabelVersion.model_validate(reviewed.json()).approved
    got = label_file.with_name("got.nii.gz")
    got.write_bytes(http.get("/doselabel/labels/P-002__ct/1").content)
    assert (read_labels(got).array == boxes.organs()).all()


def test_next_cases_of_two_annotators_differ(http):
    ada = NextCase.model_validate(http.get("/doselabel/next", params={"user": "ada"}).json())
    eva = NextCase.model_validate(http.get("/doselabel/next", params={"user": "eva"}).json())
    again = NextCase.model_validate(http.get("/doselabel/next", params={"user": "ada"}).json())
    assert ada.image_id != eva.image_id
    assert again.image_id == ada.image_id
    assert ada.reason
    assert ada.remaining > 1


def test_a_segmentation_job_gives_labels_and_a_summary_and_is_kept_as_prediction(http, tmp_path):
    job = start(http, "kidney_liver", image_id="P-002__ct_tp1", user="ada")
    assert over(http, job.id).state == "done"
    result = JobResult.model_validate(http.get(f"/jobs/{job.id}/result").json())
    assert set(result.segmentation.organs) == {"left_kidney", "right_kidney", "liver"}
    path = tmp_path / result.files["labels"]
    path.write_bytes(http.get(f"/jobs/{job.id}/file/{result.files['labels']}").content)
    read_labels(path)
    objects = http.get("/datastore/", params={"output": "all"}).json()["objects"]
    assert "original" in objects["P-002__ct_tp1"]["labels"]
    doubtful = http.get("/doselabel/next", params={"strategy": "doubtful", "user": "kim"}).json()
    assert "predictions" in doubtful["reason"]


def test_the_server_answers_at_once_while_a_job_runs_and_the_job_can_be_cancelled(http, label_file):
    submit(http, "P-003__ct", label_file, author="ada")
    job = start(http, "train", params={"steps": 100_000})
    end = time.monotonic() + PATIENCE_S
    while http.get(f"/jobs/{job.id}").json()["stage"] != "training":
        assert time.monotonic() < end
        time.sleep(0.2)
    waits = []
    for _ in range(10):
        began = time.monotonic()
        assert http.get("/info/").status_code == 200
        waits.append(time.monotonic() - began)
    assert max(waits) < shared(1.0)
    refused = http.get(f"/jobs/{job.id}/result")
    assert refused.status_code == 409
    assert ErrorInfo.model_validate(refused.json()).code == "job_running"
    http.delete(f"/jobs/{job.id}")
    assert over(http, job.id).state == "cancelled"


def test_training_without_a_validation_list_keeps_the_champion_unless_told_and_can_be_undone(http, label_file):
    submit(http, "P-003__ct_tp1", label_file, author="ada")
    before = http.get("/doselabel/info").json()["model"]["sha256"]
    kept = start(http, "train", params={"steps": 2})
    assert over(http, kept.id).state == "done"
    training = http.get(f"/jobs/{kept.id}/result").json()["training"]
    assert not training["promoted"]
    assert training["reason"].startswith("Not decidable")
    assert http.get("/doselabel/info").json()["model"]["sha256"] == before
    forced = start(http, "train", user="ada", params={"steps": 2, "promote": True})
    over(http, forced.id)
    training = http.get(f"/jobs/{forced.id}/result").json()["training"]
    assert training["promoted"]
    assert "because the request said so" in training["reason"]
    assert http.get("/doselabel/info").json()["model"]["sha256"] == training["model_sha256"] != before
    assert http.post("/doselabel/model/rollback").json()["sha256"] == before


def test_a_dose_from_submitted_labels_has_map_results_and_report(http, label_file, tmp_path):
    submit(http, "P-003__ct", label_file, author="ada")
    job = start(http, "dosimetry", image_id="P-003__ct_tp2")
    status = over(http, job.id)
    assert status.state == "done", status
    result = JobResult.model_validate(http.get(f"/jobs/{job.id}/result").json())
    assert result.dose.patient_id == "P-003"
    assert set(result.dose.organs) == {"left_kidney", "right_kidney", "liver"}
    assert {"dose", "results", "report"} <= set(result.files)
    path = tmp_path / "dose.nii.gz"
    path.write_bytes(http.get(f"/jobs/{job.id}/file/{result.files['dose']}").content)
    assert read_image(path).array.max() > 0
    assert b"<html" in http.get(f"/jobs/{job.id}/file/{result.files['report']}").content


def test_a_dose_without_labels_is_refused_with_what_to_do(http):
    job = start(http, "dosimetry", image_id="P-004__ct")
    error = over(http, job.id).error
    assert error.code == "label"
    assert "P-004" in error.message
    assert "labels = model" in error.hint


def test_an_option_of_the_dose_that_is_not_known_is_refused(http):
    job = start(http, "dosimetry", image_id="P-004__ct", params={"vio": "gtm"})
    error = over(http, job.id).error
    assert error.code == "dose"
    assert "vio" in error.message


def test_a_text_file_named_as_an_image_is_refused_by_name(http):
    file = {"label": ("label.nii.gz", io.BytesIO(b"no image"))}
    reply = http.put("/datastore/label", params={"image": "P-004__ct"}, files=file)
    assert reply.status_code == 422
    assert reply.json()["code"] == "geometry"
    reply = http.post("/doselabel/labels/P-004__ct", files={"file": ("a.txt", io.BytesIO(b"no image"))})
    assert reply.status_code == 422
    assert "is no image" in reply.json()["message"]
