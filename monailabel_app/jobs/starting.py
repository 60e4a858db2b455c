"""Starting worker processes; the segmentation's own before the server has imported anything, so that both load at once.

Imports nothing large.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence

from doselabel.errors import ServerError
from monailabel_app.conf import Conf

FIRST = "infer"
"""The lane whose worker a server always has."""

KEPT_MEMORY = {
    "MALLOC_MMAP_THRESHOLD_": str(32 * 2**20),
    "MALLOC_TRIM_THRESHOLD_": str(256 * 2**20),
    "MALLOC_TOP_PAD_": str(64 * 2**20),
}
"""glibc's settings: a worker keeps up to 256 MiB that it has let go of. Given back at once and asked for again, every
page of an image's arrays is zeroed by the kernel each time: a fifth of an edited dose's time."""

_waiting: dict[tuple[str, ...], subprocess.Popen[str]] = {}


def worker_command(conf: Conf, lane: str) -> list[str]:
    """Command line of a lane's worker, here or on a Dask worker's machine."""
    worker = ["-m", "monailabel_app.jobs.worker", "--conf", conf.to_json(), "--lane", lane]
    elsewhere = ["-m", "monailabel_app.jobs.remote", conf.workers] if conf.workers else []
    return [sys.executable, *elsewhere, *worker]


def start_first(arguments: Sequence[str]) -> None:
    """Start the first lane's worker for a server with these arguments; wrong ones the server refuses itself."""
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    parser.add_argument("--studies", required=True)
    parser.add_argument("--conf", nargs=2, action="append", default=[])
    try:
        given, _ = parser.parse_known_args(arguments)
        command = worker_command(Conf.read(given.studies, dict(given.conf)), FIRST)
        _waiting[tuple(command)] = _start(command)
    except (argparse.ArgumentError, ServerError, OSError):
        return


def worker(command: Sequence[str]) -> subprocess.Popen[str]:
    """Give the worker that was started already for this command line, else start one.

    Raises
    ------
    OSError
        When none can be started.
    """
    ready = _waiting.pop(tuple(command), None)
    return ready if ready is not None and ready.poll() is None else _start(command)


def _start(command: Sequence[str]) -> subprocess.Popen[str]:
    environment = KEPT_MEMORY | os.environ
    environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // 2)))
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8", env=environment
    )
