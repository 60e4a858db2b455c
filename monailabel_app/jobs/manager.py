"""Queue, watch, cancel and remember jobs. Knows lanes and files; nothing of what the jobs do.

A *lane* is a queue with one worker process: jobs of one lane run one after the other, lanes run side by side. On a
small machine one lane may give way to others: its worker stands still while they have work.
"""

from __future__ import annotations

import logging
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from doselabel.wire import ErrorInfo, JobResult, JobStatus
from monailabel_app.jobs.job import Job, Shelf, now
from monailabel_app.jobs.lane import Lane
from monailabel_app.refusals import Refused, explain, not_found

logger = logging.getLogger(__name__)

KEPT = 50
"""Finished jobs of one task beyond this number are forgotten; those that ended first, first."""

WAITING = 200
"""More jobs than this do not wait in one lane: the next one is refused, to be tried again."""

IDLE_S = 300.0
"""A worker that is not kept ends after this long without a job."""

ROWS = 100
"""Figures of a job under way that are remembered."""

PAUSED = "paused: somebody waits for a segmentation or a dose"

Outcome = dict[str, Any]
Finish = Callable[[JobStatus, Outcome, Path], Outcome]
"""Called in the server process with what a task returned and the job's folder; returns what becomes the result."""


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
    gives_way : dict, optional
        Lane → lanes that it stands still for.
    width : dict, optional
        Lane → how many workers it has, each at a job of its own; one where nothing is said.
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
        gives_way: Mapping[str, Sequence[str]] | None = None,
        width: Mapping[str, int] | None = None,
    ) -> None:
        self._shelf = Shelf(folder)
        self._gives_way = dict(gives_way or {})
        self._lane_of = dict(lanes)
        self._finish = finish
        self._lock = threading.RLock()
        self._jobs = {job.status.id: job for job in self._shelf.recall()}
        self._lanes: dict[str, list[Lane]] = {}
        for name in dict.fromkeys(self._lane_of.values()):
            idle_s = None if name in keep else IDLE_S
            first = Lane(name, command(name), self, grace_s, idle_s)
            more = (width or {}).get(name, 1) - 1
            beside = [Lane(name, command(name), self, grace_s, idle_s, first.waiting) for _ in range(more)]
            self._lanes[name] = [first, *beside]

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks that can be asked for."""
        return list(self._lane_of)

    def workers(self) -> dict[str, int]:
        """Lane → its worker's process, for those that have one at the moment."""
        pids = {name: [pid for lane in lanes if (pid := lane.pid()) is not None] for name, lanes in self._lanes.items()}
        return {name if not n else f"{name}-{n + 1}": pid for name, own in pids.items() for n, pid in enumerate(own)}

    def start(self, lane: str) -> None:
        """Start a lane's worker before it is needed."""
        for own in self._lanes[lane]:
            own.wake()

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
            lane = self._lane_of[task]
            if sum(job.status.state == "queued" for job in self._of(lane)) >= WAITING:
                raise Refused(
                    f"{WAITING} jobs wait already.", "Try again in a minute.", status=429, code="busy", retry_after_s=60
                )
            job = self._shelf.new(task, request, image_id, user)
            self._jobs[job.status.id] = job
            self._tidy()
            self._lanes[lane][0].waiting.put(job.status.id)
            self._settle()
            return self._told(job)

    def _of(self, lane: str) -> Iterator[Job]:
        return (job for job in self._jobs.values() if self._lane_of.get(job.status.task) == lane)

    def _told(self, job: Job) -> JobStatus:
        """A job's status; of one that waits, with its place in the queue as it is now."""
        status = job.status
        if status.state == "running" and self._stands_still(job):
            return status.model_copy(update={"message": PAUSED})
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

    def when_over(self, name: str, call: Callable[[], object]) -> None:
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
                self._shelf.forget(job)
                return job.status
            job.wanted = False
            if job.status.state == "queued":
                self._end(job, "cancelled")
                return job.status
            job.status = job.status.model_copy(update={"message": "being cancelled"})
        for lane in self._lanes[self._lane_of[job.status.task]]:
            lane.interrupt(name)
        return job.status

    def close(self) -> None:
        """End all workers."""
        for lanes in self._lanes.values():
            for lane in lanes:
                lane.close()

    # ---- called by lanes

    def _job(self, name: str) -> Job:
        with self._lock:
            job = self._jobs.get(name)
        if job is None:
            raise not_found("job", name, "It may have been forgotten; ask for the list of jobs.")
        return job

    def begin(self, name: str) -> Job | None:
        """Mark a job as running; None when it was cancelled meanwhile."""
        with self._lock:
            job = self._jobs.get(name)
            if job is None or not job.wanted:
                return None
            job.status = job.status.model_copy(
                update={"state": "running", "started": now(), "stage": "starting", "message": ""}
            )
            job.oom_kills = oom_kills()
            self._settle()
            return job

    def heard(self, job: Job, message: Mapping[str, Any]) -> None:
        """Take in what a worker says of a job."""
        if "progress" in message:
            stage, fraction = message["progress"]
            with self._lock:
                job.status = job.status.model_copy(update={"stage": stage, "fraction": fraction})
        elif "row" in message:
            with self._lock:
                rows = [*job.status.rows, message["row"]][-ROWS:]
                job.status = job.status.model_copy(update={"rows": rows})
        elif "done" in message:
            self._done(job, message["done"])
        elif "cancelled" in message:
            self._end(job, "cancelled")
        elif "error" in message:
            self._end(job, "failed", ErrorInfo(**message["error"]))

    def end_cancelled(self, name: str) -> None:
        """A job is over although its worker has not said so."""
        self._end(self._job(name), "cancelled")

    def died(self, job: Job, code: int) -> None:
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

    def _done(self, job: Job, outcome: Outcome) -> None:
        try:
            if self._finish:
                outcome = self._finish(job.status, outcome, job.folder)
            job.result = JobResult(id=job.status.id, task=job.status.task, **outcome)
            self._shelf.keep_result(job, job.result)
        except Exception as error:
            logger.warning("Job %s: %s", job.status.id, error, exc_info=error)
            job.result = None
            self._end(job, "failed", explain(error)[1])
            return
        self._end(job, "done")

    def _end(self, job: Job, state: str, error: ErrorInfo | None = None) -> None:
        with self._lock:
            if job.over.is_set():
                return
            update: dict[str, Any] = {"state": state, "ended": now(), "error": error, "message": ""}
            if state == "done":
                update |= {"fraction": 1.0, "stage": "done"}
            elif error:
                update["message"] = error.message
            job.status = job.status.model_copy(update=update)
            try:
                self._shelf.keep_status(job)
            except OSError as failure:  # a full disk: who waits for the job is told all the same
                logger.warning("Job %s: its end can't be written down: %s", job.status.id, failure)
            job.over.set()
            self._settle()
            waiting = job.call[:]
        for call in waiting:
            call()

    def _tidy(self) -> None:
        over: dict[str, list[Job]] = {}
        for job in self._jobs.values():
            if job.status.is_over:
                over.setdefault(job.status.task, []).append(job)
        for jobs in over.values():
            jobs.sort(key=lambda job: job.status.ended or job.status.created)
            for job in jobs[: max(0, len(jobs) - KEPT)]:
                self.cancel(job.status.id)

    # ---- giving way

    def _settle(self) -> None:
        """Let lanes stand still that give way to one with work, and the others go on."""
        for name in self._gives_way:
            running = next((job for job in self._of(name) if job.status.state == "running"), None)
            for lane in self._lanes[name]:
                lane.pause(running is not None and self._stands_still(running))

    def _stands_still(self, job: Job) -> bool:
        """Whether a running job gives way at the moment; one that is being cancelled does not."""
        others = self._gives_way.get(self._lane_of.get(job.status.task, ""), ())
        return job.wanted and any(not other.status.is_over for lane in others for other in self._of(lane))


def oom_kills() -> int:
    """How many processes this machine has ended for want of memory, as its kernel counts them; 0 where none does."""
    for file in ("/sys/fs/cgroup/memory.events", "/proc/vmstat"):
        try:
            for line in Path(file).read_text(encoding="utf-8").splitlines():
                name, _, count = line.partition(" ")
                if name == "oom_kill":
                    return int(count)
        except (OSError, ValueError):
            continue
    return 0
