"""One job, and where it is remembered: a folder with its state, its result and its files. Knows no queue."""

from __future__ import annotations

import logging
import re
import secrets
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from doselabel import disk
from doselabel.wire import ErrorInfo, JobResult, JobStatus

logger = logging.getLogger(__name__)

STOPPED = ErrorInfo(code="restarted", message="The server was stopped meanwhile.", hint="Start it again.")

_STATUS, _RESULT = "status.json", "result.json"
_NAME = re.compile(r"[0-9a-f]{16}")


@dataclass
class Job:
    """One job.

    Attributes
    ----------
    status : JobStatus
    request : dict
        What its task is called with; empty for one of an earlier run of the server.
    folder : Path
        Its files.
    result : JobResult, optional
        Once it is done.
    wanted : bool
        False from when somebody cancelled it.
    oom_kills : int
        How many processes the machine had ended for want of memory when it began.
    over : threading.Event
        Set when nothing more will happen.
    call : list of callable
        Called then.
    """

    status: JobStatus
    request: dict[str, Any]
    folder: Path
    result: JobResult | None = None
    wanted: bool = True
    oom_kills: int = 0
    over: threading.Event = field(default_factory=threading.Event)
    call: list[Callable[[], object]] = field(default_factory=list)


class Shelf:
    """The folders of all jobs.

    Parameters
    ----------
    folder : Path
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def new(self, task: str, request: Mapping[str, Any], image_id: str | None, user: str) -> Job:
        """Make a job, with its folder."""
        name = secrets.token_hex(8)
        status = JobStatus(
            id=name, task=task, image_id=image_id, user=user, state="queued", stage="waiting", created=now()
        )
        job = Job(status, dict(request), self._folder / name)
        try:
            job.folder.mkdir()
            self.keep_status(job)
        except OSError:
            self.forget(job)
            raise
        return job

    @staticmethod
    def keep_status(job: Job) -> None:
        """Write down how far a job is."""
        disk.write(job.folder / _STATUS, job.status.model_dump_json(), durable=False)

    @staticmethod
    def keep_result(job: Job, result: JobResult) -> None:
        """Write down what a job made."""
        disk.write(job.folder / _RESULT, result.model_dump_json(by_alias=True), durable=False)

    @staticmethod
    def forget(job: Job) -> None:
        """Remove a job's files."""
        shutil.rmtree(job.folder, ignore_errors=True)

    def recall(self) -> Iterator[Job]:
        """The jobs of an earlier run of the server; those that it left unfinished have failed."""
        for folder in sorted(self._folder.iterdir()):
            if not _NAME.fullmatch(folder.name):
                continue
            try:
                status = JobStatus.model_validate_json((folder / _STATUS).read_bytes())
                job = Job(status, {}, folder)
                if not status.is_over:
                    self._fail(job)
                elif (folder / _RESULT).is_file():
                    job.result = JobResult.model_validate_json((folder / _RESULT).read_bytes())
            except (OSError, ValueError):
                shutil.rmtree(folder, ignore_errors=True)
                continue
            job.over.set()
            yield job

    def _fail(self, job: Job) -> None:
        update = {"state": "failed", "ended": now(), "error": STOPPED, "message": STOPPED.message}
        job.status = job.status.model_copy(update=update)
        try:
            self.keep_status(job)
        except OSError as error:  # a full disk: it is known all the same
            logger.warning("Job %s: its end can't be written down: %s", job.status.id, error)


def now() -> datetime:
    """This moment."""
    return datetime.now(UTC)
