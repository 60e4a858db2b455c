"""Which CT is in whose hands, on disk with an end: a server that starts again offers nobody's CT to somebody else."""

from __future__ import annotations

import json
import logging
import threading
import time
from pathlib import Path

from doselabel import disk

logger = logging.getLogger(__name__)

RESERVED_S = 30 * 60.0
"""A CT handed to one annotator is not offered to another for this long."""


class Reservations:
    """CTs that were handed out.

    Parameters
    ----------
    path : Path
    lasts_s : float
    """

    def __init__(self, path: Path, lasts_s: float = RESERVED_S) -> None:
        self._path = path
        self._lasts_s = lasts_s
        self.lock = threading.RLock()
        """Held by whoever chooses, so that two do not choose the same."""
        self._held: dict[str, tuple[str, float]] = {}
        try:
            rows = json.loads(path.read_text("utf-8"))
            self._held = {str(image): (str(user), float(until)) for image, (user, until) in rows.items()}
        except FileNotFoundError:
            pass
        except (OSError, ValueError, TypeError, AttributeError) as error:
            logger.warning("%s: can't be read (%s): what was handed out is offered again.", path, error)

    def of_others(self, user: str) -> set[str]:
        """CTs that are in somebody else's hands."""
        with self.lock:
            now = time.time()
            self._held = {image: row for image, row in self._held.items() if row[1] > now}
            return {image for image, (owner, _) in self._held.items() if owner != user}

    def hold(self, image: str, user: str) -> None:
        """Keep a CT for somebody."""
        with self.lock:
            self._held[image] = (user, time.time() + self._lasts_s)
            self._keep()

    def _keep(self) -> None:
        try:
            disk.write(self._path, json.dumps(self._held), durable=False)
        except OSError as error:  # it holds as long as the server runs
            logger.warning("%s: can't be written: %s", self._path, error)
