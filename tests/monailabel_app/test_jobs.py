"""Jobs: queued, watched, cancelled, and honest when they fail. A real worker process, tasks of the tests' own."""

import errno
import json
import sys
import time
from pathlib import Path

import pytest

from doselabel import disk
from monailabel_app.jobs import manager
from monailabel_app.jobs.manager import JobManager
from monailabel_app.refusals import Refused

WORKER = [sys.executable, str(Path(__file__).with_name("tiny_worker.py"))]
PATIENCE_S = 500
"""Only a machine with much else to do needs nearly this long."""
LANES = dict.fromkeys(("count", "refuse", "stumble", "die", "stubborn", "asked", "who"), "infer")


@pytest.fixture(scope="module")
def jobs(tmp_path_factory):
    jobs = JobManager(tmp_path_factory.mktemp("jobs"), LANES, lambda lane: WORKER, grace_s=1.0)
    yield jobs
    jobs.close()


def ended(jobs, name, timeout_s=PATIENCE_S):
    status = jobs.wait(name, timeout_s)
    assert status.is_over
    return status


def until(condition, timeout_s=PATIENCE_S):
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_job_ends_with_its_files(jobs):
    job = jobs.submit("count", {"to": 4}, image_id="P-001__ct", user="ada")
    status = ended(jobs, job.id)
    assert (status.state, status.fraction, status.user, status.image_id) == ("done", 1.0, "ada", "P-001__ct")
    assert jobs.result(job.id).files == {"count": "count.txt"}
    assert jobs.file(job.id, "count.txt").read_text("utf-8") == "4"


def test_a_task_is_given_what_was_asked_and_nothing_else_and_may_tell_figures(jobs):
    job = jobs.submit("asked", {"to": 4, "planes": "all"})
    assert ended(jobs, job.id).rows == [{"step": 1, "loss": 0.5}]
    assert json.loads(jobs.file(job.id, "asked.json").read_text("utf-8")) == {"to": 4, "planes": "all"}


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


def test_a_killed_worker_is_told_and_the_next_job_runs(jobs, monkeypatch):
    monkeypatch.setattr(manager, "oom_kills", lambda: 3)
    error = ended(jobs, jobs.submit("die", {}).id).error
    assert error.code == "worker"
    assert "signal 9" in error.message
    assert "dying" in error.message
    assert "memory" not in error.message
    assert ended(jobs, jobs.submit("count", {}).id).state == "done"


def test_lack_of_memory_is_named_only_when_the_kernel_counted_it(jobs, monkeypatch):
    counts = iter([3, 4])
    monkeypatch.setattr(manager, "oom_kills", lambda: next(counts))
    error = ended(jobs, jobs.submit("die", {}).id).error
    assert error.code == "memory"
    assert "ran out of memory" in error.message


def test_this_machine_s_count_of_lacks_of_memory_is_a_number():
    assert manager.oom_kills() >= 0


def test_cancel_stops_a_running_job_and_spares_the_worker(jobs):
    before = _pid(jobs)
    job = jobs.submit("count", {"to": 600, "pause_s": 0.1})
    until(lambda: jobs.status(job.id).stage == "counting")
    jobs.cancel(job.id)
    assert ended(jobs, job.id).state == "cancelled"
    assert _pid(jobs) == before


def test_a_job_that_does_not_listen_is_ended_with_its_worker(jobs):
    before = _pid(jobs)
    job = jobs.submit("stubborn", {})
    until(lambda: jobs.status(job.id).stage == "deaf")
    jobs.cancel(job.id)
    assert ended(jobs, job.id).state == "cancelled"
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


def test_jobs_are_remembered_after_a_restart_of_the_server_and_unfinished_ones_have_failed(tmp_path):
    first = JobManager(tmp_path, LANES, lambda lane: WORKER)
    done = first.submit("count", {})
    ended(first, done.id)
    cut = first.submit("count", {"to": 600, "pause_s": 0.1})
    waits = first.submit("count", {})
    (tmp_path / "0123456789abcdef").mkdir()  # not even begun when the server was killed
    first.close()
    second = JobManager(tmp_path, LANES, lambda lane: WORKER)
    assert {status.id: status.state for status in second.list()} == {
        done.id: "done",
        cut.id: "failed",
        waits.id: "failed",
    }
    assert second.status(cut.id).error.code == "restarted"
    assert second.file(done.id, "count.txt").read_text("utf-8") == "3"
    assert not (tmp_path / "0123456789abcdef").exists()
    second.close()


def test_a_disk_that_is_full_at_the_end_of_a_job_fails_that_job_and_no_other(tmp_path, monkeypatch):
    jobs = JobManager(tmp_path, LANES, lambda lane: WORKER)
    write = disk.write

    def full(path, text, **how):
        if path.name == "result.json" or ("ended" in text and '"ended":null' not in text):
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, text, **how)

    monkeypatch.setattr(disk, "write", full)
    error = ended(jobs, jobs.submit("count", {}).id).error
    assert error.code == "disk"
    monkeypatch.setattr(disk, "write", write)
    assert ended(jobs, jobs.submit("count", {}).id).state == "done"
    jobs.close()


def test_the_jobs_of_one_task_do_not_push_out_another_s(tmp_path, monkeypatch):
    monkeypatch.setattr(manager, "KEPT", 2)
    jobs = JobManager(tmp_path, LANES, lambda lane: WORKER)
    kept = jobs.submit("who", {})
    ended(jobs, kept.id)
    others = []
    for _ in range(4):
        others.append(jobs.submit("count", {}).id)
        ended(jobs, others[-1])
    assert jobs.status(kept.id).state == "done"
    assert jobs.result(kept.id).files == {"pid": "pid"}
    with pytest.raises(Refused):
        jobs.status(others[0])
    jobs.close()


def test_the_place_in_the_queue_is_told_as_it_is_now_and_the_queue_has_an_end(tmp_path, monkeypatch):
    monkeypatch.setattr(manager, "WAITING", 2)
    jobs = JobManager(tmp_path, LANES, lambda lane: WORKER)
    first = jobs.submit("count", {"to": 600, "pause_s": 0.1})
    until(lambda: jobs.status(first.id).state == "running")
    second, third = jobs.submit("count", {}), jobs.submit("count", {})
    assert jobs.status(third.id).message == "waiting for 2 job(s)"
    with pytest.raises(Refused) as refusal:
        jobs.submit("count", {})
    assert (refusal.value.status, refusal.value.retry_after_s) == (429, 60)
    jobs.cancel(second.id)
    assert jobs.status(third.id).message == "waiting for 1 job(s)"
    jobs.cancel(first.id)
    assert ended(jobs, third.id).state == "done"
    jobs.close()


def test_a_job_is_cancelled_at_once_while_its_worker_is_still_importing(tmp_path):
    gate = tmp_path / "gate"
    slow = [
        sys.executable,
        "-c",
        f"import os, time, runpy\nwhile not os.path.exists({str(gate)!r}): time.sleep(0.05)\n"
        f"runpy.run_path({WORKER[1]!r})",
    ]
    jobs = JobManager(tmp_path / "jobs", LANES, lambda lane: slow)
    job = jobs.submit("count", {})
    until(lambda: jobs.status(job.id).state == "running")
    jobs.cancel(job.id)
    assert ended(jobs, job.id).state == "cancelled", "the worker can't have heard of it: it waits at the gate"
    after = jobs.submit("count", {})
    gate.touch()
    assert ended(jobs, after.id).state == "done"
    assert not (tmp_path / "jobs" / job.id / "count.txt").exists()
    jobs.close()


def test_who_waits_is_called_once_when_the_job_is_over_also_when_it_was_before(jobs):
    called = []
    job = jobs.submit("count", {})
    jobs.when_over(job.id, lambda: called.append("then"))
    ended(jobs, job.id)
    until(lambda: called)
    jobs.when_over(job.id, lambda: called.append("at once"))
    assert called == ["then", "at once"]


def test_an_idle_worker_gives_its_memory_back_unless_it_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(manager, "IDLE_S", 0.1)
    lanes = {"who": "kept", "count": "other"}
    jobs = JobManager(tmp_path, lanes, lambda lane: WORKER, keep=("kept",))
    before = _pid(jobs)
    for _ in range(2):
        assert ended(jobs, jobs.submit("count", {}).id).state == "done"
        until(lambda: jobs._lanes["other"][0]._process.poll() is not None)
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


def test_a_lane_stands_still_while_another_has_work_and_then_goes_on(tmp_path):
    lanes = {"count": "train", "stubborn": "infer"}
    jobs = JobManager(tmp_path, lanes, lambda lane: WORKER, grace_s=0.2, gives_way={"train": ["infer"]})
    slow = jobs.submit("count", {"to": 100_000, "pause_s": 0.01})
    until(lambda: jobs.status(slow.id).stage == "counting")
    urgent = jobs.submit("stubborn", {})
    assert jobs.status(slow.id).message == manager.PAUSED
    until(lambda: jobs.status(urgent.id).stage == "deaf")
    still = jobs.status(slow.id).fraction
    time.sleep(0.5)
    assert jobs.status(slow.id).fraction == still
    jobs.cancel(urgent.id)
    ended(jobs, urgent.id)
    assert jobs.status(slow.id).message == ""
    until(lambda: jobs.status(slow.id).fraction > still)
    waits = jobs.submit("stubborn", {})
    jobs.cancel(slow.id)
    assert ended(jobs, slow.id, 60).state == "cancelled", "also one that stands still can be cancelled"
    jobs.cancel(waits.id)
    jobs.close()


def _pid(jobs) -> str:
    job = jobs.submit("who", {})
    ended(jobs, job.id)
    return jobs.file(job.id, "pid").read_text("utf-8")
