"""Jobs: queued, watched, cancelled, and honest when they fail. A real worker process, tasks of the tests' own."""

import sys
import time
from pathlib import Path

import pytest

from monailabel_app.jobs import manager
from monailabel_app.jobs.manager import JobManager
from monailabel_app.refusals import Refused

WORKER = [sys.executable, str(Path(__file__).with_name("tiny_worker.py"))]
LANES = dict.fromkeys(("count", "refuse", "stumble", "die", "stubborn", "who"), "infer")


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    jobs = JobManager(tmp_path_factory.mktemp("jobs"), LANES, lambda lane: WORKER, grace_s=1.0)
    yield jobs
    jobs.close()


def ended(jobs, name, timeout_s=60):
    status = jobs.wait(name, timeout_s)
    assert status.is_over
    return status


def until(condition, timeout_s=30):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_job_ends_with_its_files(jobs):
    job = jobs.submit("count", {"to": 4}, image_id="P-001__ct", user="ada")
    status = ended(jobs, job.id)
    assert (status.state, status.fraction, status.user, status.image_id) == ("done", 1.0, "ada", "P-001__ct")
    assert jobs.result(job.id).files == {"count": "count.txt"}
    assert jobs.file(job.id, "count.txt").read_text() == "4"


def test_a_running_job_says_how_far_it_is_and_has_no_result_yet(jobs):
    job = jobs.submit("count", {"to": 20, "pause_s": 0.1})
    until(lambda: jobs.status(job.id).fraction > 0.2)
    assert jobs.status(job.id).stage == "counting"
    with pytest.raises(Refused) as refusal:
        jobs.result(job.id)
    assert refusal.value.status == 409
    jobs.cancel(job.id)
    ended(jobs, job.id)


def test_a_typed_error_reaches_the_asker(jobs):
    error = ended(jobs, jobs.submit("refuse", {}).id).error
    assert (error.code, error.message, error.hint) == ("fit", "Found 1 point; expected 2.", "Measure again.")


def test_an_unforeseen_error_is_named(jobs):
    error = ended(jobs, jobs.submit("stumble", {}).id).error
    assert error.code == "internal"
    assert "KeyError" in error.message


def test_a_killed_worker_is_told_as_lack_of_memory_and_the_next_job_runs(jobs):
    error = ended(jobs, jobs.submit("die", {}).id).error
    assert error.code == "memory"
    assert "dying" in error.message
    assert ended(jobs, jobs.submit("count", {}).id).state == "done"


def test_cancel_stops_a_running_job_and_spares_the_worker(jobs):
    before = _pid(jobs)
    job = jobs.submit("count", {"to": 600, "pause_s": 0.1})
    until(lambda: jobs.status(job.id).stage == "counting")
    jobs.cancel(job.id)
    assert ended(jobs, job.id, 5).state == "cancelled"
    assert _pid(jobs) == before


def test_a_job_that_does_not_listen_is_ended_with_its_worker(jobs):
    before = _pid(jobs)
    job = jobs.submit("stubborn", {})
    until(lambda: jobs.status(job.id).stage == "deaf")
    jobs.cancel(job.id)
    assert ended(jobs, job.id, 10).state == "cancelled"
    assert _pid(jobs) != before


def test_a_waiting_job_is_cancelled_without_having_run(jobs):
    first = jobs.submit("count", {"to": 600, "pause_s": 0.1})
    second = jobs.submit("count", {"to": 1})
    assert jobs.status(second.id).state == "queued"
    assert jobs.status(second.id).message == "waiting for 1 job(s)"
    assert jobs.cancel(second.id).state == "cancelled"
    jobs.cancel(first.id)
    ended(jobs, first.id)
    with pytest.raises(Refused, match="is cancelled"):
        jobs.result(second.id)


def test_the_worker_stays_alive_between_jobs(jobs):
    assert _pid(jobs) == _pid(jobs)


def test_a_finished_job_is_forgotten_with_its_files(jobs):
    job = jobs.submit("count", {})
    ended(jobs, job.id)
    file = jobs.file(job.id, "count.txt")
    jobs.cancel(job.id)
    assert not file.exists()
    with pytest.raises(Refused) as refusal:
        jobs.status(job.id)
    assert refusal.value.status == 404


def test_an_unknown_task_or_file_is_refused(jobs):
    with pytest.raises(Refused, match="no task 'nothing'"):
        jobs.submit("nothing", {})
    job = jobs.submit("count", {})
    ended(jobs, job.id)
    with pytest.raises(Refused, match="no file"):
        jobs.file(job.id, "../status.json")


def test_finished_jobs_are_remembered_after_a_restart_of_the_server(tmp_path):
    first = JobManager(tmp_path, LANES, lambda lane: WORKER)
    job = first.submit("count", {})
    ended(first, job.id)
    (tmp_path / "0123456789abcdef").mkdir()  # what a server left that was killed at work
    first.close()
    second = JobManager(tmp_path, LANES, lambda lane: WORKER)
    assert [status.state for status in second.list()] == ["done"]
    assert second.file(job.id, "count.txt").read_text() == "3"
    assert not (tmp_path / "0123456789abcdef").exists()
    second.close()


def test_an_idle_worker_gives_its_memory_back_unless_it_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(manager, "IDLE_S", 0.1)
    lanes = {"who": "kept", "count": "other"}
    jobs = JobManager(tmp_path, lanes, lambda lane: WORKER, keep=("kept",))
    before = _pid(jobs)
    for _ in range(2):
        assert ended(jobs, jobs.submit("count", {}).id).state == "done"
        until(lambda: jobs._lanes["other"]._process.poll() is not None)
    assert _pid(jobs) == before
    jobs.close()


def test_what_happens_in_the_server_process_at_the_end_of_a_job_can_fail_it(tmp_path):
    def finish(status, outcome, folder):
        raise OSError("disk full")

    jobs = JobManager(tmp_path, LANES, lambda lane: WORKER, finish=finish)
    status = ended(jobs, jobs.submit("count", {}).id)
    assert status.state == "failed"
    assert "disk full" in status.error.message
    jobs.close()


def _pid(jobs) -> str:
    job = jobs.submit("who", {})
    ended(jobs, job.id)
    return jobs.file(job.id, "pid").read_text()
