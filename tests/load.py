"""How long something may last on the machine as it is: limits are meant for one with a core to spare."""

from __future__ import annotations

import os
from pathlib import Path


def shared(limit_s: float) -> float:
    """A time limit, times how many that want to run share a core at the moment, or did in the last minute."""
    wanting = [os.getloadavg()[0]] if hasattr(os, "getloadavg") else []
    now = Path("/proc/loadavg")
    if now.is_file():
        wanting.append(float(now.read_text("ascii").split()[3].partition("/")[0]))
    return limit_s * max(1.0, *(count / (os.cpu_count() or 1) for count in wanting))
