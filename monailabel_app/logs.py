"""The server's log as JSON lines, each with the request it belongs to. Knows files and loggers; no routes.

What any library logs while a request is answered carries the id that the client is told in ``X-Request-ID`` and in
every error, and the name of who asked.
"""

from __future__ import annotations

import logging
from logging.handlers import RotatingFileHandler
from pathlib import Path

import structlog

FILE = "server.jsonl"
MOST_BYTES, KEPT = 20 << 20, 5

requests = logging.getLogger("doselabel.requests")
"""One line for each request that was answered."""


def keep_logs(folder: Path) -> None:
    """Write everything that is logged into ``folder`` from now on; five files of 20 MiB at most."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    handler = RotatingFileHandler(folder / FILE, maxBytes=MOST_BYTES, backupCount=KEPT, encoding="utf-8", delay=True)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.format_exc_info,
                structlog.processors.JSONRenderer(ensure_ascii=False),
            ],
            foreign_pre_chain=[
                structlog.contextvars.merge_contextvars,
                structlog.stdlib.add_log_level,
                structlog.stdlib.add_logger_name,
                structlog.stdlib.ExtraAdder(),
                structlog.processors.TimeStamper(fmt="iso", utc=True),
            ],
        )
    )
    logging.getLogger().addHandler(handler)
    requests.setLevel(logging.INFO)
    requests.addHandler(handler)
    requests.propagate = False  # on the console they are told by uvicorn
