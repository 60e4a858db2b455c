"""Lanes whose work is done elsewhere: a real Dask scheduler and two workers, each a process that can be killed."""

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from doselabel.errors import ServerError
from monailabel_app.conf import Conf
from monailabel_app.jobs.manager import JobManager
from monailabel_app.launch import check_workers, free_port, running
from tests.load import shared

distributed = pytest.importorskip("distributed")

TINY = str(Path(__file__).with_name("tiny_worker.py"))
TASKS = dict.fromkeys(("count", "refuse", "stumble", "die", "stubborn", "who"), "infer")
PATIENCE_S = 500
STOPPED_WITHIN_S = 2.0


class Cluster:
    """A scheduler, and workers that come and go."""

    def __init__(self) -> None:
        port = free_port()
        self.address = f"tcp://127.0.0.1:{port}"
        self.scheduler = self._start("scheduler", "--host", "127.0.0.1", "--port", str(port))
        self.workers: list[subprocess.Popen[bytes]] = []

    @staticmethod
    def _start(*what: str) -> subprocess.Popen[bytes]:
        line = [sys.executable, "-m", "dask", *what, "--no-dashboard"]
        return subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def add(self) -> subprocess.Popen[bytes]:
        """A worker as on a host of its own: one job at a time, and nobody who starts it again."""
        one = self._start("worker", self.address, "--nthreads", "1", "--no-nanny", "--host", "127.0.0.1")
        self.workers.append(one)
        with distributed.Client(self.address, timeout=PATIENCE_S, set_as_default=False) as client:
            client.wait_for_workers(sum(w.poll() is None for w in self.workers), timeout=PATIENCE_S)
        return one

    def doing(self) -> dict[int, list[int]]:
        """Dask worker → the processes that it has for jobs."""
        alive = [w.pid for w in self.workers if w.poll() is None]
        return {pid: [child.pid for child in psutil.Process(pid).children()] for pid in alive}

    def close(self) -> None:
        for process in (*self.workers, self.scheduler):
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    found = Cluster()
    try:
        found.add()
        found.add()
        yield found
    finally:
        found.close()


@contextmanager
def manager(cluster, folder, width=1) -> Iterator[JobManager]:
    line = [sys.executable, "-m", "monailabel_app.jobs.remote", cluster.address, TINY]
    jobs = JobManager(folder, TASKS, lambda lane: line, grace_s=1.0, width={"infer": width})
    try:
        yield jobs
    finally:
        jobs.close()


@pytest.fixture
def jobs(cluster, tmp_path) -> Iterator[JobManager]:
    with manager(cluster, tmp_path / "jobs") as found:
        yield found


def ended(jobs, name):
    status = jobs.wait(name, PATIENCE_S)
    assert status.is_over
    return status


def until(condition):
    end = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.02)
    return found


def test_a_job_is_done_by_a_process_of_a_worker_elsewhere_which_stays_warm(cluster, jobs):
    pids = set()
    for _ in range(2):
        job = jobs.submit("who", {})
        assert ended(jobs, job.id).state == "done"
        pids.add(int(jobs.file(job.id, "pid").read_text("utf-8")))
    everybody = {pid for own in cluster.doing().values() for pid in own}
    assert pids <= everybody
    assert psutil.Process(min(pids)).ppid() in {w.pid for w in cluster.workers}


def test_progress_files_and_typed_errors_arrive(jobs):
    job = jobs.submit("count", {"to": 20, "pause_s": 0.2})
    until(lambda: jobs.status(job.id).fraction > 0.2)
    assert jobs.status(job.id).stage == "counting"
    assert ended(jobs, job.id).state == "done"
    assert jobs.file(job.id, "count.txt").read_text("utf-8") == "20"
    error = ended(jobs, jobs.submit("refuse", {}).id).error
    assert (error.code, error.message, error.hint) == ("fit", "Found 1 point; expected 2.", "Measure again.")
    error = ended(jobs, jobs.submit("die", {}).id).error
    assert error.code == "worker"
    assert "code -9" in error.message
    assert ended(jobs, jobs.submit("count", {}).id).state == "done"


@pytest.mark.parametrize("task", ["count", "stubborn"])
def test_a_cancelled_job_is_over_within_two_seconds_and_its_process_is_gone(cluster, jobs, task):
    job = jobs.submit(task, {"to": 10_000, "pause_s": 0.1})
    until(lambda: jobs.status(job.id).stage in ("counting", "deaf"))
    busy = {pid for own in cluster.doing().values() for pid in own}
    began = time.monotonic()
    jobs.cancel(job.id)
    assert ended(jobs, job.id).state == "cancelled"
    assert time.monotonic() - began < shared(STOPPED_WITHIN_S)
    until(lambda: any(not psutil.pid_exists(pid) for pid in busy))
    assert ended(jobs, jobs.submit("count", {}).id).state == "done"


def test_a_host_that_dies_costs_time_and_no_job(cluster, jobs):
    job = jobs.submit("count", {"to": 40, "pause_s": 0.2})
    until(lambda: jobs.status(job.id).fraction > 0.1)
    (host,) = [pid for pid in cluster.doing() if at_work(cluster, pid)]
    victim = next(w for w in cluster.workers if w.pid == host)
    victim.kill()
    victim.wait()
    assert ended(jobs, job.id).state == "done"
    assert jobs.file(job.id, "count.txt").read_text("utf-8") == "40"
    cluster.add()


def at_work(cluster, pid: int) -> bool:
    """Whether a Dask worker has a task at the moment."""
    with distributed.Client(cluster.address, set_as_default=False) as client:
        pids = client.run(lambda: __import__("os").getpid())
        return any(pids[address] == pid and keys for address, keys in client.processing().items())


def test_as_many_jobs_run_side_by_side_as_the_lane_is_wide(cluster, tmp_path):
    with manager(cluster, tmp_path / "jobs", width=2) as jobs:
        both = [jobs.submit("count", {"to": 10_000, "pause_s": 0.1}).id for _ in range(2)]
        third = jobs.submit("count", {}).id
        until(lambda: all(jobs.status(name).fraction > 0 for name in both))
        assert jobs.status(third).state == "queued"
        jobs.cancel(both[1])
        assert ended(jobs, third).state == "done"
        assert jobs.status(both[0]).state == "running"
        assert len(jobs.workers()) == 2
        jobs.cancel(both[0])
        ended(jobs, both[0])


def test_what_a_server_that_was_killed_had_running_elsewhere_is_ended(cluster, tmp_path):
    with manager(cluster, tmp_path / "jobs") as jobs:
        job = jobs.submit("stubborn", {})
        until(lambda: jobs.status(job.id).stage == "deaf")
        before = {pid for own in cluster.doing().values() for pid in own}
        psutil.Process(jobs.workers()["infer"]).kill()
        assert ended(jobs, job.id).error.code == "worker"
        until(lambda: any(not psutil.pid_exists(pid) for pid in before))


def test_a_server_does_not_start_for_workers_that_are_not_there(tmp_path, cluster, monkeypatch):
    with pytest.raises(ServerError, match="expected an address"):
        Conf.read(str(tmp_path), {"workers": "host:8786"})
    from monailabel_app.jobs import remote

    monkeypatch.setattr(remote, "CONNECT_S", 2.0)
    with pytest.raises(ServerError, match="no Dask scheduler answers"):
        check_workers(f"tcp://127.0.0.1:{free_port()}")
    empty = Cluster()
    try:
        until(lambda: answers(empty.address))
        with pytest.raises(ServerError, match="has no workers"):
            check_workers(empty.address)
    finally:
        empty.close()
    check_workers(cluster.address)


def answers(address: str) -> bool:
    try:
        distributed.Client(address, timeout=1, set_as_default=False).close()
    except OSError:
        return False
    return True


def test_a_real_server_segments_on_a_dask_worker(cluster, tmp_path, boxes, untrained):
    root = tmp_path / "studies"
    boxes.make_patient(root / "P-001", "P-001", times_h=(24.0,))
    conf = {"checkpoint": str(untrained), "workers": cluster.address, "replay": "none"}
    with (
        running(root, conf=conf) as server,
        httpx.Client(base_url=server.url, timeout=PATIENCE_S, trust_env=False) as http,
    ):
        reply = http.post("/infer/kidney_liver", params={"image": "P-001__ct", "output": "json"})
        assert reply.status_code == 200, reply.text
        assert reply.json()["segmentation"]["profile"] == "fast"
        names = [" ".join(psutil.Process(p).cmdline()) for own in cluster.doing().values() for p in own]
        assert any("jobs.worker" in line and str(root) in line for line in names)
