"""What 3D Slicer's modules and OHIF ask of a real server, in their order and form.

After MONAI Label's plugins: slicer/MONAILabel, slicer/MONAILabelReviewer and ohifv3.
"""

import hashlib
import json
import time

import numpy as np
import pytest
from requests_toolbelt.multipart import decoder

from doselabel.geometry import Volume, read_image, write_image
from doselabel.labels import read_labels

CT = "P-001__ct_tp3"
EVERY_SEGMENT = [
    {"name": "left_kidney", "idx": 1},
    {"name": "right_kidney", "idx": 2},
    {"name": "liver", "idx": 3},
    {"name": "spleen", "idx": 4},
    {"name": "Segment_6 (1)", "idx": 5},
]
"""3D Slicer sends the names of all its segments, also of empty ones that nobody named."""


@pytest.fixture(scope="module")
def server(served):
    """Their own: which CTs others have labelled or reserved must not decide what Slicer is handed."""
    with served() as found:
        yield found


def infer(http, tmp_path, image, **params):
    reply = http.post(
        "/infer/kidney_liver",
        params={"image": image, "output": "all"},
        files={"params": (None, json.dumps(params | {"result_extension": ".nrrd", "restore_label_idx": False}))},
    )
    assert reply.status_code == 200, reply.text
    params, image = decoder.MultipartDecoder(reply.content, reply.headers["content-type"]).parts
    file = tmp_path / "answer.nrrd"
    file.write_bytes(image.content)
    return json.loads(params.text), file


def test_slicer_annotates(http, tmp_path, label_file, server):
    assert http.get("/auth/").json()["enabled"] is False
    info = http.get("/info/").json()
    assert "config" not in info
    assert info["models"]["kidney_liver"]["type"] == "segmentation"
    assert info["datastore"]["total"] > 0
    assert set(info["train_stats"]) == {"kidney_liver"}

    sample = http.post("/activelearning/random", json={"client_id": "user-xyz"}).json()
    assert sample["id"] in sample["name"], "Slicer keeps the file under its name and takes it from there"
    downloaded = http.get("/datastore/image", params={"image": sample["id"]})
    assert sample["name"] in downloaded.headers["content-disposition"]
    assert sample["checksum"] == f"SHA256:{hashlib.sha256(downloaded.content).hexdigest()}"
    http.head("/datastore/image", params={"image": sample["id"], "check_sum": sample["checksum"]}).raise_for_status()
    assert http.head("/datastore/image", params={"image": sample["id"], "check_sum": "SHA256:0"}).status_code == 404

    params, file = infer(http, tmp_path, CT, client_id="user-xyz", result_dtype="uint8")
    there = [int(v) for v in np.unique(read_image(file).array) if v]
    assert sorted(params["label_names"].values()) == there, "it names the segments it finds one after the other"
    original = http.get("/datastore/", params={"output": "all"}).json()["objects"][CT]["labels"]["original"]
    assert original["info"]["params"]["label_names"] == params["label_names"]
    http.get("/datastore/label", params={"label": CT, "tag": "original"}).raise_for_status()

    saved = http.put(
        "/datastore/label",
        params={"image": CT},
        data={"params": json.dumps({"label_info": EVERY_SEGMENT, "client_id": "user-xyz"})},
        files={"label": ("tmpabc.nii.gz", label_file.read_bytes())},
    )
    assert saved.json()["image"] == CT
    final = http.get("/datastore/label/info", params={"label": CT, "tag": "final"}).json()
    assert final["params"]["label_names"] == {"left_kidney": 1, "right_kidney": 2, "liver": 3}
    assert http.get("/info/").json()["datastore"]["completed"] >= 1


def test_no_two_images_have_a_name_in_common(http):
    objects = http.get("/datastore/", params={"output": "all"}).json()["objects"]
    names = [known["image"]["info"]["name"] for known in objects.values()]
    assert len(set(names)) == len(names) > 4


def test_a_changed_ct_has_another_checksum(http, server, boxes):
    before = http.get("/datastore/image/info", params={"image": "P-001__ct_tp1"}).json()
    path = server.log.parents[1] / "P-001" / "ct_tp1.nii.gz"
    ct = read_image(path)
    write_image(path, Volume(ct.array + 1, ct.geometry))
    after = http.get("/datastore/image/info", params={"image": "P-001__ct_tp1"}).json()
    assert after["name"] == before["name"]
    assert after["checksum"] != before["checksum"]
    assert after["checksum"] == f"SHA256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def test_a_viewer_on_another_machine_is_not_told_where_files_lie(http):
    """Slicer opens a path it is told when it finds a file there: on its own machine that is another patient's."""
    elsewhere = {"X-Forwarded-For": "10.0.0.9"}
    assert http.post("/activelearning/first", json={}).json()["path"].startswith("/")
    assert http.post("/activelearning/first", json={}, headers=elsewhere).status_code == 401


def test_a_segment_that_is_there_needs_a_name_that_can_be(http, label_file):
    named = [{"name": "left_kidney", "idx": 1}, {"name": "2 (1)", "idx": 2}, {"name": "liver", "idx": 3}]
    reply = http.put(
        "/datastore/label",
        params={"image": CT},
        data={"params": json.dumps({"label_info": named})},
        files={"label": ("l.nii.gz", label_file.read_bytes())},
    )
    assert reply.status_code == 422
    assert "'2 (1)' is no name" in reply.json()["message"]


@pytest.mark.parametrize("kind", [".nrrd", ".nii.gz", ".nii", ".mha"])
def test_ohif_saves_whatever_it_calls_label_bin(http, tmp_path, label_file, kind, boxes):
    file = write_image(tmp_path / f"sent{kind}", Volume(boxes.organs(), boxes.grid))
    reply = http.put(
        "/datastore/label",
        params={"image": CT},
        data={"params": json.dumps({"label_info": EVERY_SEGMENT[:3]})},
        files={"label": ("label.bin", file.read_bytes(), "application/octet-stream")},
        headers={"accept": "application/json, multipart/form-data"},
    )
    assert reply.status_code == 200, reply.text
    got = tmp_path / "got.nii.gz"
    got.write_bytes(http.get("/datastore/label", params={"label": CT, "tag": "final"}).content)
    assert (read_labels(got).array == boxes.organs()).all()


def test_ohif_asks_without_the_last_slash_and_for_16_bits(http, tmp_path):
    assert http.get("/info", follow_redirects=True).json()["models"]
    _, file = infer(http, tmp_path, CT, result_dtype="uint16", result_compress=False)
    assert read_image(file).array.dtype == np.uint16


def test_slicer_s_reviewer_approves_and_flags(http, label_file):
    http.get("/").raise_for_status()  # its test of the connection
    image = "P-001__ct_tp2"
    for _ in range(2):
        saved = http.put(
            "/datastore/label", params={"image": image}, files={"label": ("l.nii.gz", label_file.read_bytes())}
        )
        assert saved.status_code == 200

    def say(status, **more):
        meta = {"status": status, "approvedBy": "eva", "level": "hard", "comment": "seen", "editTime": 1} | more
        return http.put(
            "/datastore/updatelabelinfo",
            params={"label": image, "tag": "final"},
            data={"params": json.dumps({"segmentationMeta": meta})},
        )

    say("flagged").raise_for_status()
    versions = http.get(f"/doselabel/labels/{image}").json()
    assert [(v["version"], v["flagged"]) for v in versions][:2] == [
        (versions[0]["version"], True),
        (versions[1]["version"], False),
    ]
    say("approved").raise_for_status()  # of the version that counts now: the one before
    approved = [v["version"] for v in http.get(f"/doselabel/labels/{image}").json() if v["approved"]]
    assert approved == [versions[1]["version"]]
    final = http.get("/datastore/", params={"output": "all"}).json()["objects"][image]["labels"]["final"]["info"]
    assert final["version"] == versions[1]["version"]
    assert final["segmentationMeta"] | {"editTime": 0} == {
        "status": "approved",
        "approvedBy": "eva",
        "level": "hard",
        "comment": "seen",
        "editTime": 0,
    }
    assert [row["name"] for row in final["label_info"]] == ["left_kidney", "right_kidney", "liver"]


def test_batch_inference_keeps_predictions_and_tells_how_far_it_is(http):
    started = http.post("/batch/infer/kidney_liver", params={"images": "unlabeled"}, json={"max_batch_size": 2})
    assert started.json()["status"] == "RUNNING"
    end = time.monotonic() + 300
    while (task := http.get("/batch/infer").json())["status"] == "RUNNING":
        assert time.monotonic() < end
        time.sleep(0.2)
    assert task["status"] == "DONE"
    assert list(task["result"].values()) == ["done", "done"]
    objects = http.get("/datastore/", params={"output": "all"}).json()["objects"]
    assert all("original" in objects[image]["labels"] for image in task["result"])
    assert http.get("/batch/infer", params={"check_if_running": True}).status_code == 404
    refused = http.post("/batch/infer/nothing")
    assert (refused.status_code, refused.json()["code"]) == (404, "not_found")


def test_scoring_refuses_methods_that_are_not_there(http):
    refused = http.post("/scoring/dice", json={})
    assert (refused.status_code, refused.json()["code"]) == (404, "not_found")
    assert "doselabel evaluate" in refused.json()["hint"]


def test_a_session_takes_one_image(http, label_file):
    made = http.put("/session/", files={"files": ("scan.bin", label_file.read_bytes())}).json()
    assert http.get(f"/session/{made['session_id']}").json()["path"] == ""
    http.delete(f"/session/{made['session_id']}").raise_for_status()
    assert http.get(f"/session/{made['session_id']}").status_code == 404
    refused = http.put("/session/", files={"files": ("scan.nii.gz", b"no image")})
    assert refused.status_code == 422


def test_the_events_of_a_job_end_with_its_end(http):
    job = http.post("/jobs/kidney_liver", json={"image_id": CT})
    assert job.status_code == 202
    with http.stream("GET", f"{job.headers['location']}/events") as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        told = [json.loads(line[5:]) for line in stream.iter_lines() if line.startswith("data:")]
    assert told[-1]["state"] == "done"
    assert len({status["state"] for status in told}) > 1 or len(told) == 1
