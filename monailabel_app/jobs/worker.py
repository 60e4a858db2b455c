"""The process that does the work: reads jobs from stdin, writes progress and results to stdout, a JSON object a line.

It stays alive between jobs, so that torch and the network are loaded once. When the server goes away (stdin ends)
it ends too. Lines in: ``{"run": id, "task", "request", "folder"}`` and ``{"cancel": id}``; lines out:
``{"ready": true}``, ``{"id", "progress": [stage, fraction]}``, ``{"id", "row": {...}}``, ``{"id", "done": {...}}``,
``{"id", "error": {...}}``, ``{"id", "cancelled": true}``.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from doselabel.errors import Cancelled, Progress
from monailabel_app.process import end_with_parent, limit_memory
from monailabel_app.refusals import explain
from monailabel_app.startup import PROFILE

Task = Callable[[dict[str, Any], Path, Progress], dict[str, Any]]
"""``task(request, folder, progress)`` writes its files into ``folder`` and returns what `JobResult` has room for;
``files`` maps roles to names of those files. ``progress.watch`` takes figures on the way."""

TELL_EVERY_S = 0.1


def serve(tasks: Mapping[str, Task], warm_up: Callable[[], None] | None = None) -> None:
    """Work off jobs until stdin ends."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what libraries print must not end up between our lines
    mail = Mail(out)
    threading.Thread(target=mail.read, daemon=True).start()
    if warm_up:
        try:
            warm_up()
        except Exception:
            traceback.print_exc()  # the job that needs it will say what is wrong
    mail.tell(ready=True)
    while True:
        job = mail.jobs.get()
        _work(tasks[job["task"]], job, mail)


def _work(task: Task, job: dict[str, Any], mail: Mail) -> None:
    name = job["run"]
    told_at, told = float("-inf"), ""

    def progress(stage: str, fraction: float) -> None:
        nonlocal told_at, told
        if name in mail.cancelled:
            raise Cancelled
        now = time.monotonic()
        if stage != told or now - told_at >= TELL_EVERY_S:
            told_at, told = now, stage
            mail.tell(id=name, progress=[stage, min(1.0, max(0.0, float(fraction)))])

    progress.watch = lambda row: mail.tell(id=name, row=dict(row))  # type: ignore[attr-defined]
    try:
        progress("starting", 0.0)
        done = task(job["request"], Path(job["folder"]), progress)
        mail.tell(id=name, done=done)
    except Cancelled:
        mail.tell(id=name, cancelled=True)
    except BaseException as error:
        _, info = explain(error)
        if info.code == "internal":
            traceback.print_exc()
        mail.tell(id=name, error=info.model_dump())
        if not isinstance(error, Exception):
            raise


class Mail:
    """Lines to and from the server."""

    def __init__(self, out: IO[str]) -> None:
        self.jobs: queue.Queue[dict[str, Any]] = queue.Queue()
        self.cancelled: set[str] = set()
        self._out = out
        self._lock = threading.Lock()

    def read(self) -> None:
        for line in sys.stdin:
            message = json.loads(line)
            if "cancel" in message:
                self.cancelled.add(message["cancel"])
            else:
                self.jobs.put(message)
        os._exit(0)  # the server is gone: nobody waits for what is under way

    def tell(self, **message: Any) -> None:
        line = json.dumps(message)
        with self._lock:
            self._out.write(line + "\n")
            self._out.flush()


def main() -> None:
    """Entry of ``python -m monailabel_app.jobs.worker``."""
    parser = argparse.ArgumentParser(prog="doselabel worker")
    parser.add_argument("--conf", required=True, help="the server's options as JSON")
    parser.add_argument("--lane", required=True, choices=("infer", "dose", "draft", "train"))
    arguments = parser.parse_args()

    end_with_parent()

    from monailabel_app.conf import Conf
    from monailabel_app.tasks import Tasks

    conf = Conf.from_json(arguments.conf)
    limit_memory(round(conf.memory_gb * 2**30))
    began = time.monotonic()
    if arguments.lane == "train" and hasattr(os, "nice"):
        os.nice(5)  # somebody waits for a segmentation, nobody for a step of training
    tasks = Tasks(conf)

    def warm_up() -> None:
        tasks.warm_up()
        if PROFILE in os.environ:
            sys.stderr.write(f"{time.monotonic() - began:7.2f} s  libraries and network of the segmentation's worker\n")

    serve(tasks.jobs(), warm_up if arguments.lane == "infer" else None)


if __name__ == "__main__":
    main()
