"""Twelve patients on a real Dask scheduler and two workers; what is killed loses nothing, and nothing is redone."""

from __future__ import annotations

import ast
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import distributed
import filelock
import numpy as np
import pytest
from dask.utils import parse_timedelta
from distributed.cli.dask_worker import main as dask_worker

from doselabel.cohort.patient import Job
from doselabel.cohort.run import run, studies_of
from doselabel.dosimetry.results import DOSE_MAP, RESULTS, read_results
from doselabel.geometry import read_image

PATIENCE_S = 400
HELD = "P-004"
"""A patient whose lock the test holds, so that the cohort stands in the middle until it lets go."""


def until(condition):
    end = time.monotonic() + PATIENCE_S
    while not (found := condition()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


class Cluster:
    def __init__(self, folder: Path) -> None:
        place = folder / "scheduler.json"
        self.scheduler = self._start("scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(place))
        self.workers = {
            name: self._start(
                "worker", "--scheduler-file", str(place), "--host", "127.0.0.1", "--name", name,
                "--nthreads", "1", "--no-nanny", "--local-directory", str(folder),
            ) for name in ("one", "two")
        }  # fmt: skip
        until(lambda: place.is_file() and place.stat().st_size)
        self.client = distributed.Client(scheduler_file=str(place), timeout=PATIENCE_S, set_as_default=False)
        self.client.wait_for_workers(2, timeout=PATIENCE_S)
        self.address = self.client.scheduler.address

    @staticmethod
    def _start(*what: str) -> subprocess.Popen[bytes]:
        line = [sys.executable, "-m", "dask", *what, "--no-dashboard"]
        return subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def who_has(self, patient: str) -> str | None:
        """Name of the worker that a patient was given to."""
        info = self.client.scheduler_info(n_workers=-1)["workers"]
        for address, keys in self.client.processing().items():
            if any(f"-{patient}-" in str(key) for key in keys):
                return info[address]["name"]
        return None

    def close(self) -> None:
        self.client.close()
        for process in (*self.workers.values(), self.scheduler):
            process.kill()
            process.wait()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    found = Cluster(tmp_path_factory.mktemp("dask"))
    yield found
    found.close()


def jobs_of(studies: Path, out: Path) -> list[Job]:
    options = {"registration": "stored"}
    tasks = ("segment", "register", "dose")
    return [Job(study, out, tasks, options=options, report=False) for study in studies_of(studies)]


@pytest.fixture(scope="module")
def serial(twelve, tmp_path_factory):
    out = tmp_path_factory.mktemp("serial")
    outcomes = run(jobs_of(twelve, out), workers=0)
    assert [outcome.error for outcome in outcomes] == [None] * 12
    return out


def records(out: Path) -> dict[str, bytes]:
    return {str(path.relative_to(out)): path.read_bytes() for path in out.glob("*/*.json")}


def hold(out: Path) -> filelock.BaseFileLock:
    (out / HELD).mkdir(parents=True)
    lock = filelock.FileLock(str(out / HELD / ".lock"))
    lock.acquire()
    return lock


def assert_same(out: Path, serial: Path) -> None:
    names = sorted(path.name for path in out.iterdir() if path.is_dir())
    assert names == [f"P-{number:03d}" for number in range(12)]
    for name in names:
        one, other = out / name / "dose", serial / name / "dose"
        a, b = (read_results(folder / RESULTS).model_dump(exclude={"provenance"}) for folder in (one, other))
        assert a == b
        assert np.array_equal(read_image(one / DOSE_MAP).array, read_image(other / DOSE_MAP).array)
        files = {path.name for path in other.iterdir()}
        assert {path.name for path in one.iterdir()} == files
        for mask in (file for file in files if file.startswith(("masks", "voi"))):
            assert np.array_equal(read_image(one / mask).array, read_image(other / mask).array)


def test_a_client_that_is_killed_is_started_again_and_nothing_is_done_twice(cluster, twelve, serial, tmp_path):
    out = tmp_path / "out"
    lock = hold(out)
    line = [sys.executable, "-m", "doselabel.cli", "batch", str(twelve), "--out", str(out), "--no-report",
            "--registration", "stored", "--scheduler", cluster.address]  # fmt: skip
    client = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    until(lambda: len(list(out.glob("*/dose.json"))) >= 5)
    client.send_signal(signal.SIGKILL)
    client.wait()
    finished = records(out)
    assert not (out / HELD / "dose.json").exists()
    lock.release()
    outcomes = run(jobs_of(twelve, out), scheduler=cluster.address)
    assert [outcome.error for outcome in outcomes] == [None] * 12
    after = records(out)
    assert {name: after[name] for name in finished} == finished
    reused = {f"{o.name}/{step}.json" for o in outcomes for step in o.reused}
    computed = {f"{o.name}/{step}.json" for o in outcomes for step in o.computed}
    assert finished.keys() <= reused
    assert reused | computed == after.keys()
    assert not reused & computed
    assert_same(out, serial)


def test_a_worker_that_is_killed_costs_time_and_no_patient(cluster, twelve, serial, tmp_path):
    out = tmp_path / "out"
    lock, outcomes = hold(out), []
    thread = threading.Thread(
        target=lambda: outcomes.extend(run(jobs_of(twelve, out), scheduler=cluster.address)), daemon=True
    )
    thread.start()
    until(lambda: len(list(out.glob("*/dose.json"))) >= 3)
    victim = cluster.workers[until(lambda: cluster.who_has(HELD))]
    os.kill(victim.pid, signal.SIGKILL)
    victim.wait()
    lock.release()
    thread.join(PATIENCE_S)
    assert [outcome.error for outcome in outcomes] == [None] * 12
    assert_same(out, serial)
    assert sum(process.poll() is None for process in cluster.workers.values()) == 1


def test_what_the_page_gives_to_slurms_workers_is_taken_by_dask():
    """`7h45m` was not: every job ended as soon as it began."""
    page = (Path(__file__).parents[3] / "docs/clinic.md").read_text("utf-8")
    words = ast.literal_eval(re.search(r"worker_extra_args=(\[.*?\])", page)[1])
    known = {option for parameter in dask_worker.params for option in parameter.opts}
    given = dict(zip(words[::2], words[1::2], strict=True))
    assert set(given) <= known
    hours, minutes, seconds = map(int, re.search(r'walltime="(\d+):(\d+):(\d+)"', page).groups())
    walltime_s = 3600 * hours + 60 * minutes + seconds
    assert 0 < sum(parse_timedelta(text) for text in given.values()) <= walltime_s
