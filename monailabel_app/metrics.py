"""What a Prometheus server asks for. Knows jobs, studies and requests by number; no patient is named in a metric."""

from __future__ import annotations

import shutil
from collections import Counter as Tally
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.process_collector import ProcessCollector

if TYPE_CHECKING:
    from monailabel_app.app import DoselabelApp

SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)

registry = CollectorRegistry()
_answered = Counter("doselabel_requests", "Requests answered", ("method", "route", "status"), registry=registry)
_took = Histogram(
    "doselabel_request_seconds", "Time until a request was answered", ("route",), buckets=SECONDS, registry=registry
)
ProcessCollector(registry=registry)


def answered(method: str, route: str, status: int, seconds: float) -> None:
    """Count a request; ``route`` is the pattern, so that ids make no series of their own."""
    _answered.labels(method, route, str(status)).inc()
    _took.labels(route).observe(seconds)


def watch(app: DoselabelApp) -> None:
    """Have what the app knows told as well."""
    registry.register(_Known(app))


def text() -> bytes:
    """Everything, in Prometheus's text format."""
    return generate_latest(registry)


class _Known:
    def __init__(self, app: DoselabelApp) -> None:
        self._app = app

    def collect(self) -> Iterator[Metric]:
        """What is asked of a collector."""
        app = self._app
        jobs = GaugeMetricFamily("doselabel_jobs", "Jobs that are remembered", labels=("task", "state"))
        memory = GaugeMetricFamily("doselabel_worker_memory_bytes", "Resident memory of a worker", labels=("lane",))
        if app.jobs is not None:
            for (task, state), count in Tally((job.task, job.state) for job in app.jobs.list()).items():
                jobs.add_metric((task, state), count)
            for lane, pid in app.jobs.workers().items():
                memory.add_metric((lane,), resident_bytes(pid))
        yield jobs
        yield memory
        store = app.datastore()
        status = store.status()
        yield GaugeMetricFamily("doselabel_cts", "Annotatable CTs", status["total"])
        yield GaugeMetricFamily("doselabel_cts_labelled", "CTs with a submitted label map", status["completed"])
        broken = sum(info.error is not None for info in store.studies())
        yield GaugeMetricFamily("doselabel_studies_broken", "Patients that can't be used", broken)
        free = shutil.disk_usage(app.options.state).free
        yield GaugeMetricFamily("doselabel_disk_free_bytes", "Free space where the studies lie", free)
        yield GaugeMetricFamily(
            "doselabel_well",
            "Whether the self-check at the start found nothing",
            int(all(check.well for check in app.checks)),
        )


def resident_bytes(pid: int) -> int:
    """Memory of a process that is its own share (PSS); 0 where nobody tells."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines():
            if line.startswith("Pss:"):
                return 1024 * int(line.split()[1])
    except (OSError, ValueError):
        pass
    return 0
