"""What a child process of the server owes to the machine: an end with its parent, and an end to its memory."""

from __future__ import annotations

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """Be ended by the kernel when the thread that started this process is; a process that stands still hears nothing.

    Only Linux can; elsewhere a child notices that its input has ended.
    """
    if not sys.platform.startswith("linux"):
        return
    parent = os.getppid()
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it went in the moment before
        os.kill(os.getpid(), signal.SIGKILL)


def limit_memory(count: int, *, addresses: bool = False) -> None:
    """Let this process have at most so many bytes: what it asks for beyond fails as a `MemoryError`.

    Parameters
    ----------
    count : int
        0: no limit.
    addresses : bool
        Count whatever is mapped; else only memory that is written to, as libraries map far more than they use.
    """
    try:
        import resource
    except ImportError:  # not on Windows, where servers are tried out only
        return
    what = resource.RLIMIT_AS if addresses else resource.RLIMIT_DATA
    hard = resource.getrlimit(what)[1]
    wanted = count or hard  # 0 also lifts what it has from its parent
    resource.setrlimit(what, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))
