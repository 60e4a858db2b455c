"""A lane's worker on another machine; ``python -m monailabel_app.jobs.remote tcp://HOST:8786 -m …`` stands for it.

To the server this process is a worker like any other (`monailabel_app.jobs.worker` has the lines). Each job becomes a
task of a Dask scheduler; the Dask worker that takes it runs ``python -m …`` over there, keeps it warm for the next job,
and sends back what it says. All machines see the studies folder under the same path, so that no image is sent.

A host that dies costs time and no job: Dask gives the task to another one. A task that nobody wants any more, since it
was cancelled or the server is gone, is ended where it runs.
"""

from __future__ import annotations

import json
import os
import queue
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from monailabel_app.jobs.worker import Mail

LOOK_S = 0.2
"""Between two looks whether somebody still wants a job."""
IDLE_S = 300.0
"""A warm process ends after this long without a job."""
RETRIES = 2
CONNECT_S = 30.0

Message = dict[str, Any]


# ---- on the machine that does the work


class _Warm:
    """A worker process that is kept between jobs."""

    kept: dict[tuple[str, ...], list[_Warm]]
    lock: threading.Lock

    def __init__(self, arguments: tuple[str, ...]) -> None:
        self.arguments = arguments
        self.said: queue.Queue[Message | None] = queue.Queue()
        self._started = threading.Event()
        self._end: threading.Timer | None = None
        # The thread that starts it lives as long as it does: the process ends with that thread (see `process`).
        threading.Thread(target=self._read, name="doselabel-worker", daemon=True).start()
        self._started.wait()

    def _read(self) -> None:
        try:
            self.process = subprocess.Popen(
                [sys.executable, *self.arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                encoding="utf-8",
                env={"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // 2))} | os.environ,
            )
        finally:
            self._started.set()
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.put(json.loads(line))
        self.process.wait()
        self.said.put(None)

    @classmethod
    def take(cls, arguments: tuple[str, ...]) -> _Warm:
        """One that waits, or a new one."""
        with cls.lock:
            while found := cls.kept.get(arguments):
                warm = found.pop()
                if warm._end:
                    warm._end.cancel()
                if warm.process.poll() is None:
                    return warm
        return cls(arguments)

    def keep(self) -> None:
        """Let it wait for the next job, for a while."""
        self._end = threading.Timer(IDLE_S, self.process.kill)
        self._end.daemon = True
        self._end.start()
        with self.lock:
            self.kept.setdefault(self.arguments, []).append(self)

    def ask(self, message: Message) -> None:
        """Give it a job."""
        assert self.process.stdin is not None
        with suppress(OSError):  # it died: its output ends
            self.process.stdin.write(json.dumps(message) + "\n")
            self.process.stdin.flush()


_Warm.kept, _Warm.lock = {}, threading.Lock()


def work(arguments: tuple[str, ...], job: Message, key: str) -> Message:
    """Run a job in a process of this machine; return how it ended, in a worker's words."""
    from distributed import get_worker

    there = get_worker()
    if not Path(job["folder"]).is_dir():
        return _failed(
            f"{socket.gethostname()} does not see {job['folder']}.",
            "Mount the studies folder there under the same path.",
        )
    process = _Warm.take(arguments)
    process.ask(job)
    looked = time.monotonic()
    while True:
        message: Message | None = {}
        with suppress(queue.Empty):
            message = process.said.get(timeout=LOOK_S)
        if message is None:
            code = process.process.wait()
            return _failed(f"The worker process on {socket.gethostname()} ended with code {code}.", "Try again.")
        if time.monotonic() - looked > LOOK_S:
            looked = time.monotonic()
            task = there.state.tasks.get(key)
            if task is None or task.state != "executing":
                process.process.kill()
                return {"cancelled": True}
        if message.get("id") != job["run"]:
            continue
        if "progress" in message or "row" in message:
            there.log_event(key, message)
            continue
        process.keep()
        return message


def _failed(message: str, hint: str) -> Message:
    return {"error": {"code": "worker", "message": message, "hint": hint}}


# ---- on the server's machine


def serve(address: str, arguments: tuple[str, ...]) -> None:
    """Pass jobs on until stdin ends."""
    from distributed import Client

    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    mail = Mail(out)
    threading.Thread(target=mail.read, daemon=True).start()
    client = Client(address, timeout=CONNECT_S, set_as_default=False)
    mail.tell(ready=True)
    while True:
        job = mail.jobs.get()
        told = _pass_on(client, mail, arguments, job)
        mail.tell(**(dict(told) | {"id": job["run"]}))


def _pass_on(client: Any, mail: Mail, arguments: tuple[str, ...], job: Message) -> Mapping[str, Any]:
    name = job["run"]
    key = f"doselabel-{name}"
    if name in mail.cancelled:
        return {"cancelled": True}
    client.subscribe_topic(key, lambda event: mail.tell(**event[1]))
    future = client.submit(work, arguments, job, key, key=key, pure=False, retries=RETRIES)
    try:
        while not future.done():
            if name in mail.cancelled:
                future.cancel()
                return {"cancelled": True}
            time.sleep(LOOK_S)
        return dict(future.result())
    except Exception as error:
        return _failed(f"No machine finished the job ({type(error).__name__}: {error}).", "Look at the Dask workers.")
    finally:
        with suppress(Exception):
            client.unsubscribe_topic(key)


def check(address: str) -> int:
    """How many Dask workers there are.

    Raises
    ------
    OSError
        When no scheduler answers.
    """
    from distributed import Client

    with Client(address, timeout=CONNECT_S, set_as_default=False) as client:
        return len(client.scheduler_info(n_workers=-1)["workers"])


def main() -> None:
    """Entry of ``python -m monailabel_app.jobs.remote``."""
    from monailabel_app.jobs import remote  # by its name, so that a task is sent as a name and not as code
    from monailabel_app.process import end_with_parent

    end_with_parent()
    remote.serve(sys.argv[1], tuple(sys.argv[2:]))


if __name__ == "__main__":
    main()
