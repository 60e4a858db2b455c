"""A worker with tasks of the tests' own; run as a script by `test_jobs`."""

import json
import os
import signal
import time

from doselabel.errors import FitError
from monailabel_app.jobs.worker import serve


def count(request, folder, progress):
    for number in range(request.get("to", 3)):
        progress("counting", number / request.get("to", 3))
        time.sleep(request.get("pause_s", 0.0))
    print("a library that prints")
    (folder / "count.txt").write_text(str(request.get("to", 3)))
    return {"files": {"count": "count.txt"}}


def refuse(request, folder, progress):
    raise FitError("Found 1 point; expected 2.", "Measure again.")


def stumble(request, folder, progress):
    return {}["nothing"]


def die(request, folder, progress):
    progress("dying", 0.5)
    os.kill(os.getpid(), signal.SIGKILL)


def stubborn(request, folder, progress):
    progress("deaf", 0.1)
    time.sleep(60)


def asked(request, folder, progress):
    progress.watch({"step": 1, "loss": 0.5})
    (folder / "asked.json").write_text(json.dumps(request))
    return {"files": {"asked": "asked.json"}}


def who(request, folder, progress):
    (folder / "pid").write_text(str(os.getpid()))
    return {"files": {"pid": "pid"}}


serve({f.__name__: f for f in (count, refuse, stumble, die, stubborn, asked, who)})
