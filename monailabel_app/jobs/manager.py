"""Queue, watch, cancel and remember jobs. Knows worker processes and files; nothing of what the jobs do.

A *lane* is a queue with one worker process: jobs of one lane run one after the other, lanes run side by side.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import re
import secrets
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from doselabel.wire import ErrorInfo, JobResult, JobStatus
from monailabel_app.refusals import Refused, explain, not_found

logger = logging.getLogger(__name__)

KEPT = 50
"""Finished jobs of one task beyond this number are forgotten; those that ended first, first."""

WAITING = 200
"""More jobs than this do not wait in one lane: the next one is refused, to be tried again."""

IDLE_S = 300.0
"""A worker that is not kept ends after this long without a job."""

Outcome = dict[str, Any]
Finish = Callable[[JobStatus, Outcome, Path], Outcome]
"""Called in the server process with what a task returned and the job's folder; returns what becomes the result."""


@dataclass
class _Job:
    status: JobStatus
    request: dict[str, Any]
    folder: Path
    result: JobResult | None = None
    wanted: bool = True
    oom_kills: int = 0
    over: threading.Event = field(default_factory=threading.Event)
    call: list[Callable[[], None]] = field(default_factory=list)


class JobManager:
    """All jobs of a server.

    Parameters
    ----------
    folder : Path
        Each job has a subfolder with its files.
    lanes : dict
        Task name → lane name.
    command : callable
        Lane name → command line of its worker.
    keep : sequence of str
        Lanes whose worker stays alive for good; the others end when idle, and give their memory back.
    finish : callable, optional
        See `Finish`.
    grace_s : float
        How long a cancelled job may take to stop by itself before its worker is ended.
    """

    def __init__(
        self,
        folder: Path,
        lanes: Mapping[str, str],
        command: Callable[[str], list[str]],
        *,
        keep: Sequence[str] = (),
        finish: Finish | None = None,
        grace_s: float = 1.5,
    ) -> None:
        self._folder = folder
        self._lane_of = dict(lanes)
        self._finish = finish
        self._lock = threading.RLock()
        self._jobs: dict[str, _Job] = {}
        folder.mkdir(parents=True, exist_ok=True)
        self._recall()
        self._lanes = {
            name: _Lane(name, command(name), self, grace_s, None if name in keep else IDLE_S)
            for name in dict.fromkeys(self._lane_of.values())
        }

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks that can be asked for."""
        return list(self._lane_of)

    def start(self, lane: str) -> None:
        """Start a lane's worker before it is needed."""
        self._lanes[lane].wake()

    def submit(
        self, task: str, request: Mapping[str, Any], *, image_id: str | None = None, user: str = ""
    ) -> JobStatus:
        """Queue a job.

        Raises
        ------
        Refused
            When there is no such task.
        """
        if task not in self._lane_of:
            raise not_found("task", task, f"There are {', '.join(self._lane_of)}.")
        with self._lock:
            lane = self._lanes[self._lane_of[task]]
            if sum(job.status.state == "queued" for job in self._of(lane.name)) >= WAITING:
                raise Refused(
                    f"{WAITING} jobs wait already.", "Try again in a minute.", status=429, code="busy", retry_after_s=60
                )
            name = secrets.token_hex(8)
            folder = self._folder / name
            folder.mkdir()
            status = JobStatus(
                id=name, task=task, image_id=image_id, user=user, state="queued", stage="waiting", created=_now()
            )
            job = _Job(status, dict(request), folder)
            _write(folder / "status.json", status.model_dump_json())
            self._jobs[name] = job
            self._tidy()
            lane.waiting.put(name)
            return self._told(job)

    def _of(self, lane: str) -> Iterator[_Job]:
        return (job for job in self._jobs.values() if self._lane_of.get(job.status.task) == lane)

    def _told(self, job: _Job) -> JobStatus:
        """A job's status; of one that waits, with its place in the queue as it is now."""
        status = job.status
        if status.state != "queued":
            return status
        ahead = sum(
            not other.status.is_over and other.status.created < status.created
            for other in self._of(self._lane_of[status.task])
        )
        return status.model_copy(update={"message": f"waiting for {ahead} job(s)"}) if ahead else status

    def list(self) -> list[JobStatus]:
        """All jobs, newest first."""
        with self._lock:
            return sorted((self._told(job) for job in self._jobs.values()), key=lambda s: s.created, reverse=True)

    def status(self, name: str) -> JobStatus:
        """How far a job is."""
        with self._lock:
            return self._told(self._job(name))

    def wait(self, name: str, timeout_s: float | None = None) -> JobStatus:
        """Wait until a job is over, or the time is."""
        job = self._job(name)
        job.over.wait(timeout_s)
        return job.status

    def when_over(self, name: str, call: Callable[[], None]) -> None:
        """Have a function called, from any thread, as soon as a job is over."""
        job = self._job(name)
        with self._lock:
            if not job.over.is_set():
                job.call.append(call)
                return
        call()

    def result(self, name: str) -> JobResult:
        """What a job made.

        Raises
        ------
        Refused
            409 while it is not done, or when it failed or was cancelled.
        """
        job = self._job(name)
        if job.result is None:
            error = job.status.error
            raise Refused(
                f"Job {name} ({job.status.task}) is {job.status.state}: it has no result."
                + (f" {error.message}" if error else ""),
                error.hint if error else "Ask again when its state is 'done'.",
                status=409,
                code=error.code if error else f"job_{job.status.state}",
            )
        return job.result

    def file(self, name: str, file: str) -> Path:
        """A file of a job's result."""
        result = self.result(name)
        if file not in result.files.values():
            raise not_found("file of this job", file, f"It has {', '.join(result.files.values()) or 'none'}.")
        return self._job(name).folder / file

    def cancel(self, name: str) -> JobStatus:
        """Stop a job; forget it with its files when it is over."""
        with self._lock:
            job = self._job(name)
            if job.status.is_over:
                del self._jobs[name]
                shutil.rmtree(job.folder, ignore_errors=True)
                return job.status
            job.wanted = False
            if job.status.state == "queued":
                self._end(job, "cancelled")
                return job.status
            job.status = job.status.model_copy(update={"message": "being cancelled"})
        self._lanes[self._lane_of[job.status.task]].interrupt(name)
        return job.status

    def close(self) -> None:
        """End all workers."""
        for lane in self._lanes.values():
            lane.close()

    # ---- called by lanes

    def _job(self, name: str) -> _Job:
        with self._lock:
            job = self._jobs.get(name)
        if job is None:
            raise not_found("job", name, "It may have been forgotten; ask for the list of jobs.")
        return job

    def begin(self, name: str) -> _Job | None:
        """Mark a job as running; None when it was cancelled meanwhile."""
        with self._lock:
            job = self._jobs.get(name)
            if job is None or not job.wanted:
                return None
            job.status = job.status.model_copy(
                update={"state": "running", "started": _now(), "stage": "starting", "message": ""}
            )
            job.oom_kills = oom_kills()
            return job

    def heard(self, job: _Job, message: Mapping[str, Any]) -> None:
        """Take in what a worker says of a job."""
        if "progress" in message:
            stage, fraction = message["progress"]
            with self._lock:
                job.status = job.status.model_copy(update={"stage": stage, "fraction": fraction})
        elif "done" in message:
            self._done(job, message["done"])
        elif "cancelled" in message:
            self._end(job, "cancelled")
        elif "error" in message:
            self._end(job, "failed", ErrorInfo(**message["error"]))

    def end_cancelled(self, name: str) -> None:
        """A job is over although its worker has not said so."""
        self._end(self._job(name), "cancelled")

    def died(self, job: _Job, code: int) -> None:
        """Say why a job has no end: its worker is gone."""
        if not job.wanted:
            self._end(job, "cancelled")
            return
        memory = code == -signal.SIGKILL and oom_kills() > job.oom_kills
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        self._end(
            job,
            "failed",
            ErrorInfo(
                code="memory" if memory else "worker",
                message=f"The worker process {how} at stage '{job.status.stage}'"
                + ("; this machine ran out of memory." if memory else "."),
                hint="Close other programs or use a machine with more memory."
                if memory
                else "Try again; the server's log has what it printed last.",
            ),
        )

    def _done(self, job: _Job, outcome: Outcome) -> None:
        try:
            if self._finish:
                outcome = self._finish(job.status, outcome, job.folder)
            job.result = JobResult(id=job.status.id, task=job.status.task, **outcome)
            _write(job.folder / "result.json", job.result.model_dump_json(by_alias=True))
        except Exception as error:
            logger.warning("Job %s: %s", job.status.id, error, exc_info=error)
            job.result = None
            self._end(job, "failed", explain(error)[1])
            return
        self._end(job, "done")

    def _end(self, job: _Job, state: str, error: ErrorInfo | None = None) -> None:
        with self._lock:
            if job.over.is_set():
                return
            update: dict[str, Any] = {"state": state, "ended": _now(), "error": error, "message": ""}
            if state == "done":
                update |= {"fraction": 1.0, "stage": "done"}
            elif error:
                update["message"] = error.message
            job.status = job.status.model_copy(update=update)
            try:
                _write(job.folder / "status.json", job.status.model_dump_json())
            except OSError as failure:  # a full disk: who waits for the job is told all the same
                logger.warning("Job %s: its end can't be written down: %s", job.status.id, failure)
            job.over.set()
            waiting = job.call[:]
        for call in waiting:
            call()

    # ---- memory

    def _recall(self) -> None:
        """Remember the jobs of an earlier run of the server; those that it left unfinished have failed."""
        for folder in sorted(self._folder.iterdir()):
            if not re.fullmatch(r"[0-9a-f]{16}", folder.name):
                continue
            try:
                status = JobStatus.model_validate_json((folder / "status.json").read_bytes())
                job = _Job(status, {}, folder)
                if not status.is_over:
                    self._end(
                        job,
                        "failed",
                        ErrorInfo(
                            code="restarted", message="The server was stopped meanwhile.", hint="Start it again."
                        ),
                    )
                elif (folder / "result.json").is_file():
                    job.result = JobResult.model_validate_json((folder / "result.json").read_bytes())
                job.over.set()
                self._jobs[status.id] = job
            except (OSError, ValueError):
                shutil.rmtree(folder, ignore_errors=True)

    def _tidy(self) -> None:
        over: dict[str, list[_Job]] = {}
        for job in self._jobs.values():
            if job.status.is_over:
                over.setdefault(job.status.task, []).append(job)
        for jobs in over.values():
            jobs.sort(key=lambda job: job.status.ended or job.status.created)
            for job in jobs[: max(0, len(jobs) - KEPT)]:
                self.cancel(job.status.id)


class _Lane:
    """A queue, the thread that empties it, and its worker process."""

    def __init__(
        self, name: str, command: list[str], manager: JobManager, grace_s: float, idle_s: float | None
    ) -> None:
        self.name = name
        self.waiting: queue.Queue[str | None] = queue.Queue()
        self._command = command
        self._manager = manager
        self._grace_s = grace_s
        self._idle_s = idle_s
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()
        self._closed = False
        self._ready = False
        threading.Thread(target=self._run, name=f"lane-{name}", daemon=True).start()

    def wake(self) -> None:
        self._worker()

    def interrupt(self, name: str) -> None:
        """Ask the worker to stop a job, and end it when it does not."""
        process = self._process
        if process is None:
            return
        self._send(process, {"cancel": name})
        if not self._ready:  # it is still importing; when it comes to the job, it reads that nobody wants it
            self._manager.end_cancelled(name)
            return

        def insist() -> None:
            if not self._manager.wait(name, self._grace_s).is_over and process.poll() is None:
                process.kill()

        threading.Thread(target=insist, daemon=True).start()

    def close(self) -> None:
        self._closed = True
        self.waiting.put(None)
        self._end_worker()

    def _run(self) -> None:
        while (name := self._next()) is not None:
            job = self._manager.begin(name)
            if job is None:
                continue
            try:
                self._work(name, job)
            except Exception as error:  # a lane that ended would leave all later jobs waiting for ever
                logger.exception("Lane %s", self.name)
                self._manager.heard(job, {"error": explain(error)[1].model_dump()})

    def _work(self, name: str, job: _Job) -> None:
        try:
            process = self._worker()
        except OSError as error:
            self._manager.heard(job, {"error": {"code": "worker", "message": f"No worker starts: {error}"}})
            return
        self._send(
            process,
            {"run": name, "task": job.status.task, "request": job.request, "folder": str(job.folder)},
        )
        if not job.wanted:  # cancelled while the worker was starting
            self.interrupt(name)
        self._watch(process, job)

    def _next(self) -> str | None:
        try:
            return self.waiting.get(timeout=self._idle_s)
        except queue.Empty:
            self._end_worker()
            return self.waiting.get()

    def _end_worker(self) -> None:
        with self._lock:
            if self._process and self._process.poll() is None:
                self._process.kill()  # it has no job: nothing is lost
                self._process.wait()

    def _watch(self, process: subprocess.Popen[str], job: _Job) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            message = json.loads(line)
            if message.get("ready"):
                self._ready = True
            if message.get("id") == job.status.id:
                self._manager.heard(job, message)
            if job.over.is_set():
                return
        if not self._closed:
            self._manager.died(job, process.wait())

    def _worker(self) -> subprocess.Popen[str]:
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                environment = os.environ.copy()
                environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // 2)))
                self._ready = False
                self._process = subprocess.Popen(
                    self._command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    encoding="utf-8",
                    env=environment,
                )
            return self._process

    @staticmethod
    def _send(process: subprocess.Popen[str], message: Mapping[str, Any]) -> None:
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(message) + "\n")
            process.stdin.flush()
        except (BrokenPipeError, OSError):
            pass  # it died: the reader of its output notices


def _now() -> datetime:
    return datetime.now(UTC)


def _write(path: Path, text: str) -> None:
    temporary = path.with_name(f".writing-{path.name}")
    temporary.write_text(text, "utf-8")
    os.replace(temporary, path)


def oom_kills() -> int:
    """How many processes this machine has ended for want of memory, as its kernel counts them; 0 where none does."""
    for file in ("/sys/fs/cgroup/memory.events", "/proc/vmstat"):
        try:
            for line in Path(file).read_text().splitlines():
                name, _, count = line.partition(" ")
                if name == "oom_kill":
                    return int(count)
        except (OSError, ValueError):
            continue
    return 0
