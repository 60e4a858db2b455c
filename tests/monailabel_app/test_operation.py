"""What an operator sees of a real server process: health, metrics, logs, the history of models, a CT that vanished."""

import json
import os
import re
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import httpx
import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from monailabel_app.conf import STATE
from monailabel_app.metrics import resident_bytes

IDLE_BYTES = 2.5 * 2**30


def test_health_says_what_is_not_well_and_the_log_why(http, server, served_root):
    assert http.get("/health").json() == {"status": "ok", "not_well": ["studies"]}
    assert "Self-check: studies: 1 of 6 studies can't be used: broken" in server.log.read_text("utf-8")


def test_metrics_are_prometheus_text_and_name_no_patient(http):
    http.get("/datastore/image/info", params={"image": "P-001__ct"})
    reply = http.get("/metrics")
    families = {family.name: family for family in text_string_to_metric_families(reply.text)}
    assert {sample.value for sample in families["doselabel_cts"].samples} == {20.0}
    assert [s.value for s in families["doselabel_studies_broken"].samples] == [1.0]
    routes = {sample.labels["route"] for sample in families["doselabel_requests"].samples}
    assert "/datastore/image/info" in routes
    assert "P-001" not in reply.text
    workers = {s.labels["lane"]: s.value for s in families["doselabel_worker_memory_bytes"].samples}
    assert workers["infer"] > 0


def test_an_error_has_the_id_under_which_the_log_has_it(http, served_root):
    reply = http.get("/datastore/image/info", params={"image": "nothing"}, headers={"X-Request-ID": "my-own.id"})
    assert (reply.status_code, reply.json()["request_id"]) == (404, "my-own.id")
    row = logged(served_root, "my-own.id")
    assert (row["event"], row["status"], row["path"]) == ("request", 404, "/datastore/image/info")


def logged(root: Path, request_id: str) -> dict:
    """A request's line in the log, which is written after the reply has gone out."""
    end = time.monotonic() + 300
    while True:
        lines = (root / STATE / "log" / "server.jsonl").read_text("utf-8").splitlines(keepends=True)
        rows = [json.loads(line) for line in lines if line.endswith("\n")]
        if found := [row for row in rows if row.get("request_id") == request_id and row["event"] == "request"]:
            return found[0]
        assert time.monotonic() < end
        time.sleep(0.1)


def test_the_history_of_models_is_data_for_programs_and_a_page_for_browsers(http):
    assert isinstance(http.get("/doselabel/models").json(), list)
    page = http.get("/doselabel/models", headers={"Accept": "text/html"})
    assert page.headers["content-type"].startswith("text/html")
    assert "Which model answers" in page.text
    refused = http.post("/doselabel/model/rollback", params={"sha256": "feed"})
    assert refused.json()["code"] == "model"


def test_a_ct_that_vanishes_is_said_to_be_gone_and_its_patient_alone_is_broken(http, served_root):
    folder = served_root / "P-001"
    (folder / "ct_tp3.nii.gz").rename(folder.parent / "away.nii.gz")
    try:
        reply = http.get("/datastore/image", params={"image": "P-001__ct_tp3"})
        assert reply.status_code in (404, 422)
        assert reply.json()["hint"]
        end = time.monotonic() + 300
        while not by_id(http)["P-001"]["error"]:
            assert time.monotonic() < end
            time.sleep(0.2)
        assert "no such file" in by_id(http)["P-001"]["error"]["message"]
        assert by_id(http)["P-002"]["error"] is None
    finally:
        (folder.parent / "away.nii.gz").rename(folder / "ct_tp3.nii.gz")
    end = time.monotonic() + 300
    while by_id(http)["P-001"]["error"]:
        assert time.monotonic() < end
        time.sleep(0.2)


def by_id(http) -> dict:
    return {info["patient_id"]: info for info in http.get("/doselabel/studies").json()}


def test_an_idle_server_with_its_workers_fits_the_memory_it_should(http, server):
    http.post("/infer/kidney_liver", params={"image": "P-002__ct", "output": "json"}).raise_for_status()
    pids = [server.process.pid, *descendants(server.process.pid)]
    assert len(pids) >= 2
    assert sum(resident_bytes(pid) for pid in pids) < IDLE_BYTES


def descendants(pid: int) -> list[int]:
    own = [int(child) for f in Path(f"/proc/{pid}/task").glob("*/children") for child in f.read_text("utf-8").split()]
    return own + [deeper for child in own for deeper in descendants(child)]


def test_a_worker_that_wants_more_memory_than_it_may_have_fails_that_job_alone(tmp_path):
    code = (
        "import numpy as np\nfrom monailabel_app.process import limit_memory\n"
        "from monailabel_app.refusals import explain\n"
        "limit_memory(1 << 30)\n"
        "try:\n    np.ones(3 << 30, np.uint8)\nexcept MemoryError as error:\n    print(explain(error)[1].code)\n"
        "print(len(np.ones(1 << 20, np.uint8)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, encoding="utf-8", env=os.environ, check=True
    )
    assert done.stdout.split() == ["memory", "1048576"]


def test_nobody_without_a_role_reads_metrics(server):
    forwarded = httpx.get(f"{server.url}/metrics", headers={"X-Forwarded-For": "10.0.0.7"}, trust_env=False)
    assert forwarded.status_code == 401


def test_the_server_loads_nothing_that_monai_only_offers_to_use(http, server):
    maps = Path(f"/proc/{server.process.pid}/maps")
    if not maps.is_file():
        pytest.skip("needs /proc to see what a process has loaded")
    assert http.get("/info/").status_code == 200
    loaded = {part for line in maps.read_text("utf-8").splitlines() for part in Path(line[73:]).parts}
    assert "torch" in loaded
    assert sorted(loaded & {"pandas", "sklearn", "transformers"}) == []


def test_one_worker_loads_beside_the_server_from_its_first_moment(http, server):
    assert http.get("/info/").status_code == 200
    children = psutil.Process(server.process.pid).children(recursive=True)
    (worker,) = [child for child in children if child.cmdline()[-2:] == ["--lane", "infer"]]
    first_line = re.search(r"\[(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)", server.log.read_text("utf-8"))
    assert first_line, "the server says something once it has imported its libraries"
    assert worker.create_time() < datetime.fromisoformat(first_line[1]).timestamp()
