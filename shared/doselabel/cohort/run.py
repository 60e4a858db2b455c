"""All patients of a cohort: by this process, by workers of its own, or by those of a Dask scheduler.

A patient is one task. Whoever does it writes what is finished to the cohort's folder, so nothing hangs on the client,
the scheduler or a worker: a worker that dies costs the step it was at, and a client that dies is started again.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from doselabel import __version__
from doselabel.cohort.patient import Job, Outcome, work
from doselabel.errors import Cancelled, Progress, ServerError, StudyError, no_progress
from doselabel.study import Study

MEMORY = 4 * 2**30
"""Bytes for a worker; those of a cluster of its own are restarted above."""
CONNECT_S = 30.0
LOOK_S = 0.5
"""Between two looks whether a patient is still wanted."""


class Interrupted(KeyboardInterrupt):
    """Ctrl+C; ``outcomes`` holds what was finished before."""

    def __init__(self, outcomes: list[Outcome]) -> None:
        super().__init__()
        self.outcomes = outcomes


def run(
    jobs: Sequence[Job], *, workers: int | None = None, scheduler: str | None = None, progress: Progress = no_progress
) -> list[Outcome]:
    """Have all patients done.

    Parameters
    ----------
    jobs : sequence of Job
        One for each patient, with different study folders.
    workers : int, optional
        Processes of a cluster of its own; 0: this process, one patient after the other. Default: as many as there
        are cores, and 4 GiB of memory for each.
    scheduler : str, optional
        Address of a Dask scheduler instead; all its machines see studies and cohort under the same paths.
    progress : Progress
        Called with patients done, and the time that is left by the pace so far.

    Returns
    -------
    list of Outcome
        In the order of ``jobs``.

    Raises
    ------
    Interrupted
        On Ctrl+C: what runs is stopped.
    ServerError
        When no scheduler answers, it goes away, or its workers are of another version.
    """
    done: dict[str, Outcome] = {}
    told = _Told(len(jobs), progress)
    try:
        for outcome in _outcomes(jobs, workers, scheduler, told):
            done[outcome.name] = outcome
            told.of(outcome)
    except KeyboardInterrupt:
        raise Interrupted([done[job.study.name] for job in jobs if job.study.name in done]) from None
    return [done[job.study.name] for job in jobs]


def default_workers() -> int:
    """As many as cores and memory allow."""
    import psutil

    return max(1, min(os.cpu_count() or 1, psutil.virtual_memory().total // MEMORY))


def _outcomes(jobs: Sequence[Job], workers: int | None, scheduler: str | None, told: _Told) -> Iterator[Outcome]:
    if workers == 0 and scheduler is None:
        for job in jobs:
            yield work(job)
        return
    with _client(scheduler, workers) as client:
        _same_version(client, scheduler)
        yield from _by_dask(client, jobs, told)


@contextmanager
def _client(scheduler: str | None, workers: int | None) -> Iterator[Any]:
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise ServerError("Dask is not installed.", "pip install 'doselabel[cohort]', or --workers 0.") from error
    if scheduler is None:
        with (
            LocalCluster(
                n_workers=workers or default_workers(),
                threads_per_worker=1,
                memory_limit=MEMORY,
                host="127.0.0.1",
                dashboard_address="127.0.0.1:0",
                silence_logs="ERROR",
            ) as cluster,
            Client(cluster, set_as_default=False) as client,
        ):
            yield client
        return
    try:
        client = Client(scheduler, timeout=CONNECT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ServerError(
            f"{scheduler}: no Dask scheduler answers ({error}).", "Start `dask scheduler`, and give its tcp:// address."
        ) from error
    with client:
        yield client


def _same_version(client: Any, scheduler: str | None) -> None:
    """Code is sent by its name: workers must have it, and the same."""
    found = client.run(_version)
    if other := {where: version for where, version in found.items() if version != __version__}:
        where, version = next(iter(other.items()))
        raise ServerError(
            f"{scheduler}: the worker {where} has doselabel {version}; here it is {__version__}.",
            "Install the same version on all machines.",
        )


def _version() -> str:
    return __version__


def _by_dask(client: Any, jobs: Sequence[Job], told: _Told) -> Iterator[Outcome]:
    from distributed import CancelledError, as_completed

    names = {}
    run = f"{socket.gethostname()}-{os.getpid()}-{time.time_ns()}"
    for job in jobs:
        key = f"doselabel-{job.study.name}-{run}"
        future = client.submit(_there, job, key, key=key, pure=False)
        names[future.key] = (job, future)
    waiting = as_completed([future for _, future in names.values()], loop=client.loop)
    try:
        for future in waiting:
            job, _ = names.pop(future.key)
            error = future.exception()
            if isinstance(error, CancelledError):
                raise ServerError(
                    f"The scheduler went away; {told.done} of {told.count} patients are done.",
                    "Start it again, and the same command: it goes on.",
                )
            yield future.result() if error is None else _lost(job, error)
            future.release()
    finally:
        left = [future for _, future in names.values()]
        if left and client.status == "running":
            client.cancel(left, force=True)


def _lost(job: Job, error: BaseException) -> Outcome:
    """A patient whose workers died, again and again."""
    from distributed import KilledWorker

    if isinstance(error, KilledWorker):
        message = "the workers that took this patient died, again and again."
        hint = "Mostly they ran out of memory: give them more, or look at the sizes of this patient's images."
        return Outcome(job.study.name, error={"step": "worker", "message": message, "hint": hint})
    return Outcome(job.study.name, error={"step": "worker", "message": f"{type(error).__name__}: {error}", "hint": ""})


def _there(job: Job, key: str) -> Outcome:
    """Do a patient on a worker, as long as somebody wants it."""
    from distributed import get_worker

    if not job.study.is_dir():
        message = f"{socket.gethostname()} does not see {job.study}."
        hint = "Mount studies and cohort there under the same paths."
        return Outcome(job.study.name, error={"step": "worker", "message": message, "hint": hint})
    worker, looked = get_worker(), time.monotonic()

    def look(stage: str, fraction: float) -> None:
        nonlocal looked
        if time.monotonic() - looked > LOOK_S:
            looked = time.monotonic()
            task = worker.state.tasks.get(key)
            if task is None or task.state != "executing":
                raise Cancelled

    return work(job, look)


class _Told:
    """Progress in patients, with the time that is left."""

    def __init__(self, count: int, progress: Progress) -> None:
        self.count, self.done, self._computed = count, 0, 0
        self._progress, self._began = progress, time.monotonic()
        progress(f"0 of {count} patients", 0.0)

    def of(self, outcome: Outcome) -> None:
        """Count a patient."""
        self.done += 1
        self._computed += bool(outcome.computed) or outcome.error is not None
        left_s = (time.monotonic() - self._began) / max(1, self._computed) * (self.count - self.done)
        left = f", about {duration(left_s)} left" if self._computed and self.done < self.count else ""
        failed = f" ({outcome.error['step']} failed)" if outcome.error else ""
        self._progress(f"{self.done} of {self.count} patients, {outcome.name}{failed}{left}", self.done / self.count)


def duration(seconds: float) -> str:
    """Time in the two units that matter.

    >>> duration(42), duration(372), duration(60 * 125)
    ('42 s', '6 min', '2 h 5 min')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def studies_of(root: Path) -> list[Path]:
    """The folders of all studies.

    Raises
    ------
    StudyError
        When there is none.
    """
    found = Study.find(root)
    if not found:
        raise StudyError(f"{root}: holds no study.", "Give a folder of study folders (docs/study.md).")
    return [folder.resolve() for folder in found]
