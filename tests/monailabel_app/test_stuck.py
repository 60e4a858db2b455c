"""Jobs that can't get stuck, against a real server process: stopped in any stage, paused, refused, or cut off."""

import email
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from doselabel.wire import JobResult, JobStatus
from monailabel_app.conf import STATE
from monailabel_app.jobs.manager import PAUSED, WAITING
from monailabel_app.launch import Running, running
from tests.load import shared

PATIENCE_S = 500
"""Only a machine with much else to do needs nearly this long."""
STOPPED_WITHIN_S = 2.0

CONF = {"replay": "none", "pause_training": "yes"}


@pytest.fixture(scope="module")
def root(tmp_path_factory, boxes) -> Path:
    root = tmp_path_factory.mktemp("stuck") / "studies"
    boxes.make_patient(root / "P-001", "P-001")
    return root


@pytest.fixture(scope="module")
def busy(root, untrained) -> Iterator[Running]:
    with running(root, conf=CONF | {"checkpoint": str(untrained)}) as server:
        yield server


@pytest.fixture
def http(busy, label_file) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=busy.url, timeout=PATIENCE_S, trust_env=False) as client:
        if not client.get("/doselabel/labels/P-001__ct").json():
            with label_file.open("rb") as file:
                client.post("/doselabel/labels/P-001__ct", files={"file": file}).raise_for_status()
        yield client


def start(http, task, **params) -> str:
    image = None if task == "train" else "P-001__ct"
    reply = http.post(f"/jobs/{task}", json={"image_id": image, "params": params})
    assert reply.status_code == 202, reply.text
    assert reply.headers["Location"] == f"/jobs/{reply.json()['id']}"
    return reply.json()["id"]


def until(http, name, condition) -> JobStatus:
    end = time.monotonic() + PATIENCE_S
    while not condition(status := JobStatus.model_validate(http.get(f"/jobs/{name}").json())):
        assert time.monotonic() < end, status
        time.sleep(0.02)
    return status


def cancelled_within_s(http, name) -> float:
    began = time.monotonic()
    http.delete(f"/jobs/{name}").raise_for_status()
    assert until(http, name, lambda status: status.is_over).state == "cancelled"
    return time.monotonic() - began


@pytest.mark.parametrize(("task", "stages"), [("train", 2), ("dosimetry", 3), ("kidney_liver", 1)])
def test_a_job_is_stopped_within_two_seconds_in_whatever_stage_it_is(http, task, stages):
    waits, seen = {}, set()
    name = start(http, task, steps=100_000) if task == "train" else start(http, task)
    waits["as its worker starts"] = cancelled_within_s(http, name)
    for _ in range(stages):
        name = start(http, task, steps=100_000) if task == "train" else start(http, task)
        status = until(http, name, lambda s: s.is_over or (s.state == "running" and s.stage not in seen | {"starting"}))
        if status.is_over:
            assert status.state == "done", status
            break
        seen.add(status.stage)
        waits[status.stage] = cancelled_within_s(http, name)
    assert len(waits) > 1
    assert max(waits.values()) < shared(STOPPED_WITHIN_S), waits


def test_events_tell_every_change_until_the_job_is_over_and_then_end(http):
    name = start(http, "kidney_liver")
    with http.stream("GET", f"/jobs/{name}/events") as reply:
        assert reply.headers["content-type"].startswith("text/event-stream")
        lines = [line for line in reply.iter_lines() if line.startswith("data: ")]
    told = [JobStatus.model_validate_json(line[6:]) for line in lines]
    assert told[-1].state == "done"
    assert [status.fraction for status in told] == sorted(status.fraction for status in told)
    assert len({status.stage for status in told}) > 2


def test_a_result_comes_as_json_or_with_its_files_in_parts(http):
    name = start(http, "kidney_liver")
    until(http, name, lambda status: status.is_over)
    result = JobResult.model_validate(http.get(f"/jobs/{name}/result").json())
    reply = http.get(f"/jobs/{name}/result", headers={"Accept": "multipart/form-data"})
    head = f"Content-Type: {reply.headers['content-type']}\r\n\r\n".encode()
    parts = {
        p.get_param("name", header="content-disposition"): p
        for p in email.message_from_bytes(head + reply.content).get_payload()
    }
    assert json.loads(parts["result"].get_payload(decode=True))["id"] == name
    assert parts["labels"].get_filename() == result.files["labels"]
    assert parts["labels"].get_payload(decode=True) == http.get(f"/jobs/{name}/file/{result.files['labels']}").content


def test_a_training_stands_still_while_somebody_waits_for_a_segmentation(http):
    training = start(http, "train", steps=100_000)
    until(http, training, lambda status: status.stage == "training" and status.rows)
    stats, told = http.get("/info/").json()["train_stats"]["kidney_liver"], http.get("/train/").json()["details"]
    assert stats["loss"] == stats["rows"][-1]["loss"] > 0
    assert stats["step"] % 20 == 0
    assert told[1].startswith("step 20: loss ")
    segmentation = start(http, "kidney_liver")
    assert http.get(f"/jobs/{training}").json()["message"] == PAUSED
    until(http, segmentation, lambda status: status.is_over)
    before = until(http, training, lambda status: not status.message).fraction
    until(http, training, lambda status: status.fraction > before)
    cancelled_within_s(http, training)


def test_what_can_t_be_written_at_the_end_of_a_job_fails_it_and_the_next_one_runs(http, root):
    name = start(http, "kidney_liver")
    (root / STATE / "jobs" / name / "result.json").mkdir()
    assert until(http, name, lambda status: status.is_over).state == "failed"
    after = start(http, "kidney_liver")
    assert until(http, after, lambda status: status.is_over).state == "done"


def test_the_queue_has_an_end_and_says_when_to_come_again(http):
    names = [start(http, "train", steps=100_000)]
    until(http, names[0], lambda status: status.state == "running")
    names += [start(http, "train") for _ in range(WAITING)]
    assert http.get(f"/jobs/{names[-1]}").json()["message"] == f"waiting for {WAITING} job(s)"
    reply = http.post("/jobs/train", json={})
    assert (reply.status_code, reply.json()["code"]) == (429, "busy")
    assert int(reply.headers["Retry-After"]) > 0
    for name in names[2:]:
        http.delete(f"/jobs/{name}").raise_for_status()
    assert http.get(f"/jobs/{names[1]}").json()["message"] == "waiting for 1 job(s)"
    for name in names[:2]:
        cancelled_within_s(http, name)


def test_a_server_that_is_killed_leaves_no_worker_and_remembers_what_it_did_not_finish(root, untrained, label_file):
    conf = CONF | {"checkpoint": str(untrained)}
    own = root.parent / "killed"
    shutil.copytree(root / "P-001", own / "P-001")
    with (
        running(own, conf=conf) as server,
        httpx.Client(base_url=server.url, timeout=PATIENCE_S, trust_env=False) as http,
    ):
        with label_file.open("rb") as file:
            http.post("/doselabel/labels/P-001__ct", files={"file": file}).raise_for_status()
        training = start(http, "train", steps=100_000)
        until(http, training, lambda status: status.stage == "training")
        waiting = start(http, "train")
        segmentation = start(http, "kidney_liver")  # the training's worker stands still now
        workers = children(server.process.pid)
        assert len(workers) >= 2
        server.process.kill()
        server.process.wait()
        end = time.monotonic() + PATIENCE_S
        while any(alive(pid) for pid in workers):
            assert time.monotonic() < end
            time.sleep(0.05)
    with (
        running(own, conf=conf) as server,
        httpx.Client(base_url=server.url, timeout=PATIENCE_S, trust_env=False) as http,
    ):
        jobs = {job["id"]: job for job in http.get("/jobs").json()}
        for name in (training, waiting, segmentation):
            assert jobs[name]["state"] in ("failed", "done"), "nothing runs for ever"
        assert jobs[training]["error"]["code"] == jobs[waiting]["error"]["code"] == "restarted"
        assert not list((own / STATE / "tmp").glob("doselabel-*"))


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text("utf-8").split()]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text("utf-8").rpartition(")")[2].split()[0] != "Z"
