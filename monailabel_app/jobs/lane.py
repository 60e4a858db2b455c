"""A queue, the thread that empties it, and its worker process. Knows lines of JSON; nothing of what the jobs do."""

from __future__ import annotations

import json
import logging
import queue
import signal
import subprocess
import threading
from collections.abc import Mapping
from typing import Any, Protocol

from doselabel.wire import JobStatus
from monailabel_app.jobs import starting
from monailabel_app.jobs.job import Job
from monailabel_app.refusals import explain

logger = logging.getLogger(__name__)

CAN_PAUSE = hasattr(signal, "SIGSTOP")


class Told(Protocol):
    """Who is told what becomes of the jobs of a lane."""

    def begin(self, name: str) -> Job | None:
        """Mark a job as running; None when it was cancelled meanwhile."""

    def heard(self, job: Job, message: Mapping[str, Any]) -> None:
        """Take in what a worker says of a job."""

    def died(self, job: Job, code: int) -> None:
        """A job has no end: its worker is gone."""

    def end_cancelled(self, name: str) -> None:
        """A job is over although its worker has not said so."""

    def wait(self, name: str, timeout_s: float | None = None) -> JobStatus:
        """Wait until a job is over, or the time is."""


class Lane:
    """Works off jobs, one after the other.

    Parameters
    ----------
    name : str
    command : list of str
        Command line of its worker.
    told : Told
    grace_s : float
        How long a cancelled job may take to stop by itself before its worker is ended.
    idle_s : float, optional
        The worker ends after this long without a job, and gives its memory back; None: never.
    waiting : queue.Queue, optional
        Shared with lanes that work off the same jobs.
    """

    def __init__(
        self,
        name: str,
        command: list[str],
        told: Told,
        grace_s: float,
        idle_s: float | None,
        waiting: queue.Queue[str | None] | None = None,
    ) -> None:
        self.name = name
        self.waiting: queue.Queue[str | None] = waiting or queue.Queue()
        self._at: str | None = None
        self._command = command
        self._told = told
        self._grace_s = grace_s
        self._idle_s = idle_s
        self._process: subprocess.Popen[str] | None = None
        self._doomed: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()
        self._closed = False
        self._ready = False
        self._paused = False
        threading.Thread(target=self._run, name=f"lane-{name}", daemon=True).start()

    def wake(self) -> None:
        """Start the worker before it is needed."""
        self._worker()

    def interrupt(self, name: str) -> None:
        """Ask the worker to stop a job, if it is at it, and end it when it does not."""
        process = self._process
        if process is None or self._at != name:
            return
        self.pause(False)
        self._send(process, {"cancel": name})
        if not self._ready:  # it is still importing; when it comes to the job, it reads that nobody wants it
            self._told.end_cancelled(name)
            return

        def insist() -> None:
            if not self._told.wait(name, self._grace_s).is_over and process.poll() is None:
                self._doomed = process
                process.kill()
                self._told.end_cancelled(name)  # the process may take a while to go, with much memory to give back

        threading.Thread(target=insist, daemon=True).start()

    def pause(self, wanted: bool) -> None:
        """Let the worker stand still, as it is, or go on."""
        with self._lock:
            if wanted == self._paused or not CAN_PAUSE:
                return
            self._paused = wanted
            self._signal()

    def _signal(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGSTOP if self._paused else signal.SIGCONT)

    def pid(self) -> int | None:
        """The worker's process; None when none is there."""
        process = self._process
        return process.pid if process is not None and process.poll() is None else None

    def close(self) -> None:
        """End the worker and the thread."""
        self._closed = True
        self.waiting.put(None)
        self._end_worker()

    def _run(self) -> None:
        while (name := self._next()) is not None:
            self._at = name
            try:
                if job := self._told.begin(name):
                    self._try(name, job)
            except Exception:  # a lane that ended would leave all later jobs waiting for ever
                logger.exception("Lane %s", self.name)

    def _try(self, name: str, job: Job) -> None:
        try:
            self._work(name, job)
        except Exception as error:
            logger.exception("Lane %s", self.name)
            self._end_worker()  # what it says of this job must not be taken for the next one's
            self._told.heard(job, {"error": explain(error)[1].model_dump()})

    def _work(self, name: str, job: Job) -> None:
        try:
            process = self._worker()
        except OSError as error:
            self._told.heard(job, {"error": {"code": "worker", "message": f"No worker starts: {error}"}})
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

    def _watch(self, process: subprocess.Popen[str], job: Job) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            message = json.loads(line)
            if message.get("ready"):
                self._ready = True
            if message.get("id") == job.status.id:
                self._told.heard(job, message)
            if job.over.is_set() and process is not self._doomed:
                return
        if not self._closed:
            self._told.died(job, process.wait())

    def _worker(self) -> subprocess.Popen[str]:
        with self._lock:
            if self._process is None or self._process.poll() is not None:
                self._ready = False
                self._process = starting.worker(self._command)
                self._signal()
            return self._process

    @staticmethod
    def _send(process: subprocess.Popen[str], message: Mapping[str, Any]) -> None:
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(message) + "\n")
            process.stdin.flush()
        except (BrokenPipeError, OSError):
            pass  # it died: the reader of its output notices
