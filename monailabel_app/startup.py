"""What the start of a server spends its time on, told when `doselabel serve --profile-start` asks for it."""

from __future__ import annotations

import os
import sys
import time

PROFILE = "DOSELABEL_PROFILE_START"
"""Environment variable: when the server was asked to start, in seconds since the epoch."""

_marks: list[tuple[str, float]] = []


def mark(what: str) -> None:
    """Say that something is done which began with the mark before."""
    if PROFILE in os.environ:
        _marks.append((what, time.time()))


def report_start() -> None:
    """Print what took how long."""
    if PROFILE not in os.environ:
        return
    before = began = float(os.environ[PROFILE])
    for what, at in _marks:
        sys.stderr.write(f"{at - before:7.2f} s  {what}\n")
        before = at
    sys.stderr.write(f"{before - began:7.2f} s  in all, until the server answers\n")
    sys.stderr.flush()
