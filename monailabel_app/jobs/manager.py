"""Queue, watch, cancel and remember jobs. Knows worker processes and files; nothing of what the jobs do.

A *lane* is a queue with one worker process: jobs of one lane run one after the other, lanes run side by side.
"""

from __future__ import annotations

import json
import os
import queue
import re
import secrets
import shutil
import signal
import subprocess
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from doselabel.wire import ErrorInfo, JobResult, JobStatus
from monailabel_app.refusals import Refused, explain, not_found

KEPT = 50
"""Finished jobs beyond this number are forgotten, the oldest first."""

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
    over: threading.Event = field(default_factory=threading.Event)


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
        grace_s: float = 10.0,
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
            ahead = sum(
                not job.status.is_over and self._lane_of.get(job.status.task) == lane.name
                for job in self._jobs.values()
            )
            name = secrets.token_hex(8)
            folder = self._folder / name
            folder.mkdir()
            status = JobStatus(
                id=name,
                task=task,
                image_id=image_id,
                user=user,
                state="queued",
                stage="waiting",
                message=f"waiting for {ahead} job(s)" if ahead else "",
                created=_now(),
            )
            self._jobs[name] = _Job(status, dict(request), folder)
            self._tidy()
            lane.waiting.put(name)
            return status

    def list(self) -> list[JobStatus]:
        """All jobs, newest first."""
        with self._lock:
            return sorted((job.status for job in self._jobs.values()), key=lambda s: s.created, reverse=True)

    def status(self, name: str) -> JobStatus:
        """How far a job is."""
        return self._job(name).status

    def wait(self, name: str, timeout_s: float | None = None) -> JobStatus:
        """Wait until a job is over, or the time is."""
        job = self._job(name)
        job.over.wait(timeout_s)
        return job.status

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

    def died(self, job: _Job, code: int) -> None:
        """Say why a job has no end: its worker is gone."""
        if not job.wanted:
            self._end(job, "cancelled")
            return
        killed = code == -signal.SIGKILL
        how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
        self._end(
            job,
            "failed",
            ErrorInfo(
                code="memory" if killed else "worker",
                message=f"The worker process {how} at stage '{job.status.stage}'"
                + ("; this machine probably ran out of memory." if killed else "."),
                hint="Close other programs or use a machine with more memory."
                if killed
                else "Try again; the server's log has what it printed last.",
            ),
        )

    def _done(self, job: _Job, outcome: Outcome) -> None:
        try:
            if self._finish:
                outcome = self._finish(job.status, outcome, job.folder)
            job.result = JobResult(id=job.status.id, task=job.status.task, **outcome)
        except Exception as error:
            self._end(job, "failed", explain(error)[1])
            return
        (job.folder / "result.json").write_text(job.result.model_dump_json(by_alias=True), "utf-8")
        self._end(job, "done")

    def _end(self, job: _Job, state: str, error: ErrorInfo | None = None) -> None:
        with self._lock:
            update: dict[str, Any] = {"state": state, "ended": _now(), "error": error, "message": ""}
            if state == "done":
                update |= {"fraction": 1.0, "stage": "done"}
            elif error:
                update["message"] = error.message
            job.status = job.status.model_copy(update=update)
            (job.folder / "status.json").write_text(job.status.model_dump_json(), "utf-8")
        job.over.set()

    # ---- memory

    def _recall(self) -> None:
        """Remember finished jobs of an earlier run of the server; what it left unfinished is removed."""
        for folder in sorted(self._folder.iterdir()):
            if not re.fullmatch(r"[0-9a-f]{16}", folder.name):
                continue
            try:
                status = JobStatus.model_validate_json((folder / "status.json").read_bytes())
                result = folder / "result.json"
                job = _Job(status, {}, folder)
                if result.is_file():
                    job.result = JobResult.model_validate_json(result.read_bytes())
                job.over.set()
                self._jobs[status.id] = job
            except (OSError, ValueError):
                shutil.rmtree(folder, ignore_errors=True)

    def _tidy(self) -> None:
        over = [job for job in self._jobs.values() if job.status.is_over]
        for job in sorted(over, key=lambda job: job.status.created)[: max(0, len(over) - KEPT)]:
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
        threading.Thread(target=self._run, name=f"lane-{name}", daemon=True).start()

    def wake(self) -> None:
        self._worker()

    def interrupt(self, name: str) -> None:
        """Ask the worker to stop a job, and end it when it does not."""
        process = self._process
        if process is None:
            return
        self._send(process, {"cancel": name})

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
                process = self._worker()
            except OSError as error:
                self._manager.heard(job, {"error": {"code": "worker", "message": f"No worker starts: {error}"}})
                continue
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
