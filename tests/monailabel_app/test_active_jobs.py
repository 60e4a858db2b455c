"""Predictions to choose by, made as jobs of a real server; and every task by plain ``/infer``, as any client asks."""

import json
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import httpx
import pytest
from requests_toolbelt.multipart import decoder

from doselabel.labels import read_labels
from doselabel.wire import JobStatus
from monailabel_app.jobs.batch import Batch
from monailabel_app.launch import Running, running
from tests.load import shared

PATIENCE_S = 500
CTS = ("P-001__ct", "P-001__ct_tp1", "P-002__ct", "P-002__ct_tp1")


@pytest.fixture(scope="module")
def server(tmp_path_factory, boxes, untrained) -> Iterator[Running]:
    root = tmp_path_factory.mktemp("active") / "studies"
    for name in ("P-001", "P-002"):
        boxes.make_patient(root / name, name, times_h=(24.0,))
    with running(root, conf={"checkpoint": str(untrained), "replay": "none"}) as found:
        yield found


@pytest.fixture
def http(server, label_file) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=PATIENCE_S, trust_env=False) as client:
        if not client.get("/doselabel/labels/P-001__ct").json():
            content = label_file.read_bytes()
            client.post("/doselabel/labels/P-001__ct", files={"file": ("l.nii.gz", content)}).raise_for_status()
        yield client


def batch_over(http) -> dict:
    end = time.monotonic() + PATIENCE_S
    while (task := http.get("/batch/infer").json())["status"] == "RUNNING":
        waiting = [job for job in http.get("/jobs").json() if job["state"] in ("queued", "running")]
        assert len(waiting) <= 1, "whoever asks for one CT waits for one at most"
        assert time.monotonic() < end
        time.sleep(0.05)
    return task


def summary(http, image: str) -> dict:
    info = http.get("/datastore/label/info", params={"label": image, "tag": "original"}).json()
    return info.get("params", {}).get("segmentation", {})


def test_scores_are_made_as_jobs_once_for_each_model_and_end_as_a_batch(http, server):
    began = time.monotonic()
    reply = http.post("/doselabel/active/score")
    asked_s = time.monotonic() - began
    assert (reply.status_code, reply.json()) == (202, {"images": 3})
    assert asked_s < shared(2.0), "nothing is predicted while somebody waits"
    refused = http.post("/doselabel/active/score")
    assert (refused.status_code, refused.json()["code"]) == (429, "busy")
    task = batch_over(http)
    assert (task["status"], task["result"]) == ("DONE", dict.fromkeys(CTS[1:], "done"))
    for image in CTS[1:]:
        assert summary(http, image)["planes"] == ["axial", "coronal", "sagittal"]
    assert summary(http, CTS[0]) == {}, "what is done already is not predicted for choosing"
    assert http.post("/doselabel/active/score").json() == {"images": 0}


def test_a_batch_of_scores_is_stopped_and_goes_on_where_it_was(http, server):
    http.put("/doselabel/labels/P-001__ct/reopen", json={"comment": "again"}).raise_for_status()
    assert http.post("/doselabel/active/score").json() == {"images": 1}
    assert http.delete("/batch/infer").json()["status"] == "STOPPED"
    end = time.monotonic() + PATIENCE_S
    while any(job["state"] in ("queued", "running") for job in http.get("/jobs").json()):
        assert time.monotonic() < end
        time.sleep(0.05)
    left = http.post("/doselabel/active/score").json()["images"]
    assert left in (0, 1)  # none: it was done before the stop came
    assert batch_over(http)["status"] == ("DONE" if left else "STOPPED")
    assert len(summary(http, CTS[0])["planes"]) == 3


def test_a_stop_while_a_job_is_being_queued_cancels_that_job():
    """The moment between asking for a job and knowing its id, held still."""
    asked, let, cancelled = threading.Event(), threading.Event(), threading.Event()

    class Jobs:
        def cancel(self, job):
            assert job == "one"
            cancelled.set()

        def wait(self, job):
            assert cancelled.wait(10), "nobody cancelled the job that had just been queued"
            return JobStatus(id=job, task="segment", state="cancelled", created=datetime.now(UTC))

    def begin(image):
        asked.set()
        assert let.wait(10)
        return JobStatus(id="one", task="segment", state="queued", created=datetime.now(UTC))

    batch = Batch(Jobs())
    batch.start("segment", ["P-001__ct", "P-002__ct"], begin)
    assert asked.wait(10)
    assert batch.stop()["status"] == "STOPPED"
    let.set()
    assert batch.wait()["result"] == {"P-001__ct": "cancelled"}
    batch.start("segment", [], begin)
    assert batch.wait()["status"] == "DONE"


def test_both_arms_are_told_apart_in_the_report(http, label_file):
    content = label_file.read_bytes()
    for _ in range(4):
        found = http.get("/doselabel/next", params={"strategy": "active", "user": "ada"}).json()
        if not found["image_id"]:
            break
        assert found["reason"]
        http.post(
            f"/doselabel/labels/{found['image_id']}", files={"file": ("l.nii.gz", content)}, data={"params": "{}"}
        ).raise_for_status()
    report = http.get("/doselabel/active/report").json()
    assert sum(arm["submitted"] for arm in report.values()) == sum(arm["offered"] for arm in report.values()) >= 3
    assert report["strided"]["mean_changed"] is not None


def infer(http, tmp_path, model: str, image: str, **params):
    reply = http.post(f"/infer/{model}", params={"image": image}, data={"params": json.dumps(params)})
    assert reply.status_code == 200, reply.text
    parts = decoder.MultipartDecoder(reply.content, reply.headers["content-type"]).parts
    said = json.loads(parts[0].text)
    if len(parts) == 1:
        return said, None
    file = tmp_path / "answer.nii.gz"
    file.write_bytes(parts[1].content)
    return said, file


def test_the_paper_s_reading_and_a_consensus_by_vote_by_plain_infer(http, tmp_path):
    said, file = infer(http, tmp_path, "kidney_liver_paper", CTS[0])
    assert sorted(said["segmentation"]["planes"]) == ["axial", "coronal", "sagittal"]
    assert read_labels(file).present() is not None
    said, _ = infer(http, tmp_path, "kidney_liver", CTS[0], planes="all", consensus="vote", gap_fill="linear")
    assert len(said["segmentation"]["planes"]) == 3
    refused = http.post("/infer/kidney_liver", params={"image": CTS[0]}, data={"params": '{"consensus": "most"}'})
    assert refused.status_code == 422
    assert refused.json()["message"] == "'consensus' is 'most'; expected mean or vote."


def test_a_registration_by_plain_infer_brings_the_label_map_along(http, tmp_path, boxes):
    said, file = infer(http, tmp_path, "registration", CTS[1])
    assert abs(said["registration"]["shift_mm"]) < 0.5
    carried = read_labels(file)
    assert carried.volume_ml("liver") == pytest.approx(boxes.label_map.volume_ml("liver"), rel=0.02)


def test_a_dose_that_can_t_be_is_refused_by_plain_infer_as_what_was_asked_not_as_a_fault_of_the_server(http):
    asked = {"labels": "final", "report": False}  # one time point, and no half-life stated
    reply = http.post("/infer/dosimetry", params={"image": CTS[1]}, data={"params": json.dumps(asked)})
    assert (reply.status_code, reply.json()["code"]) == (422, "fit"), reply.text
    assert "half_life" in reply.json()["hint"]
