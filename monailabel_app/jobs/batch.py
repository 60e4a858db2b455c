"""One batch: a task on many CTs, one job after the other, so that whoever asks for one CT waits for one at most.

It knows the jobs' manager and ids; it does not know what the jobs do. Its status reads like MONAI Label's tasks.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from doselabel.errors import DoselabelError
from doselabel.wire import JobStatus
from monailabel_app.jobs.manager import JobManager
from monailabel_app.refusals import Refused

STOPS_S = 5.0
"""A batch that was told to stop may take so long; who starts the next one waits for it."""


class Batch:
    """At most one batch at a time; the last one is remembered."""

    def __init__(self, jobs: JobManager) -> None:
        self._jobs = jobs
        self._lock = threading.Lock()
        self._task: dict[str, Any] | None = None
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()
        self._job: str | None = None

    def start(self, task: str, images: Sequence[str], begin: Callable[[str], JobStatus]) -> dict[str, Any]:
        """Start a batch.

        Parameters
        ----------
        task : str
            What it is called.
        images : sequence of str
        begin : callable
            Queues the job of one image.

        Raises
        ------
        Refused
            While another one runs.
        """
        if self._stop.is_set() and self._thread is not None:
            self._thread.join(STOPS_S)
        with self._lock:
            if self._thread is not None and self._thread.is_alive():
                raise Refused("A batch is under way.", "Wait for it or stop it first.", status=429, code="busy")
            self._stop = threading.Event()
            self._task = {
                "id": f"batch-{datetime.now():%Y%m%dT%H%M%S%f}",
                "status": "RUNNING",
                "request": {"model": task, "images": len(images)},
                "start_ts": _now(),
                "end_ts": None,
                "details": deque(maxlen=20),
                "result": {},
            }
            self._thread = threading.Thread(target=self._run, args=(list(images), begin), name="batch", daemon=True)
            self._thread.start()
            return self._told()

    def status(self) -> dict[str, Any] | None:
        """How far the batch is; None when there was none."""
        with self._lock:
            return self._told() if self._task else None

    def wait(self) -> dict[str, Any]:
        """Wait for the end."""
        if self._thread is not None:
            self._thread.join()
        return self.status() or {}

    def stop(self) -> dict[str, Any] | None:
        """Stop after cancelling the job that runs; None when there is nothing to stop."""
        with self._lock:
            if self._task is None or self._task["status"] != "RUNNING":
                return None
            self._stop.set()
            self._task |= {"status": "STOPPED", "end_ts": _now()}
            job, told = self._job, self._told()
        if job:
            self._jobs.cancel(job)
        return told

    def _run(self, images: list[str], begin: Callable[[str], JobStatus]) -> None:
        failed = 0
        for number, image in enumerate(images, 1):
            if self._stop.is_set():
                return
            found = self._one(image, begin)
            failed += found != "done"
            with self._lock:
                assert self._task is not None
                self._task["result"][image] = found
                self._task["details"].append(f"{number} of {len(images)}: {image}: {found}")
        with self._lock:
            if self._task is not None and self._task["status"] == "RUNNING":
                all_failed = bool(images) and failed == len(images)
                self._task |= {"status": "ERROR" if all_failed else "DONE", "end_ts": _now()}

    def _one(self, image: str, begin: Callable[[str], JobStatus]) -> str:
        try:
            job = begin(image).id
            with self._lock:
                self._job, stopped = job, self._stop.is_set()
            if stopped:  # while the job was being queued
                self._jobs.cancel(job)
            status = self._jobs.wait(job)
        except DoselabelError as error:
            return str(error)
        finally:
            self._job = None
        return status.error.message if status.error else status.state

    def _told(self) -> dict[str, Any]:
        assert self._task is not None
        return {**self._task, "details": list(self._task["details"]), "result": dict(self._task["result"])}


def _now() -> str:
    return datetime.now().strftime("%Y-%m-%d %H:%M:%S")
