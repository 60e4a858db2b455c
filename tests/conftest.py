"""The suite by processes side by side: what stays together, what begins first, and what a failure shows."""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # side by side, the workers have taken the cores already
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"):
        os.environ.setdefault(name, "1")

from tests import samples  # NumPy reads these when it is loaded

TOGETHER = {
    "windows": ("tests/napari_plugin/", "tests/e2e/test_walk.py"),
    "server": ("tests/monailabel_app/",),
    "network": ("tests/shared/model/",),
}
"""What one process has whole: two windows on one display would fight for the focus, most server tests share one, and
most of the network's a model that has learned something."""

SERVERS = {"server", "window", "served", "busy", "guarded", "cluster", "orthanc"}
"""Fixtures that start a server or a window: tests with one are slow."""

SLOW = (
    "tests/e2e/",
    "tests/test_tutorials.py",
    "tests/test_examples.py",
    "tests/test_docs.py",
    "tests/test_house.py::test_the_packages_are_typed",
    "tests/test_house.py::test_the_wheel",
    "tests/monailabel_app/test_draft_dose.py",
    "tests/monailabel_app/test_infer_tasks.py",
    "tests/monailabel_app/test_launch.py::test_the_server_of_a_launcher",
    "tests/monailabel_app/test_stuck.py",
    "tests/monailabel_app/test_train_status.py",
    "tests/monailabel_app/test_under_load.py",
    "tests/napari_plugin/test_stalls.py",
    "tests/napari_plugin/test_never_lose.py",
    "tests/shared/calibration/",
    "tests/shared/dosimetry/test_coverage.py",
    "tests/shared/dosimetry/test_lesions.py",
    "tests/shared/dosimetry/test_placement.py",
    "tests/shared/dosimetry/test_registration.py",
    "tests/shared/dosimetry/test_samples.py",
    "tests/shared/model/test_carry.py",
    "tests/shared/model/test_crossval.py",
    "tests/shared/model/test_edge.py",
    "tests/shared/model/test_engine.py",
    "tests/shared/model/test_evaluate.py",
    "tests/shared/model/test_network.py",
    "tests/shared/model/test_paper.py",
    "tests/shared/model/test_train.py",
    "tests/shared/test_label_findings.py",
    "tests/shared/test_phantom.py",
    "tests/shared/test_plausibility.py",
)
"""What else lasts seconds rather than moments, by the beginnings of its names."""

# Images come and go by the thousand: their memory is kept, not given back each time. By a call and not by the
# environment, which servers under test would inherit; theirs is `monailabel_app.jobs.starting.KEPT_MEMORY`.
if sys.platform == "linux":
    with contextlib.suppress(AttributeError):  # another C library than GNU's has no such call
        for setting, most_bytes in ((-3, 2**28), (-1, 2**29)):  # M_MMAP_THRESHOLD and M_TRIM_THRESHOLD of malloc.h
            ctypes.CDLL(None).mallopt(setting, most_bytes)


def pytest_configure(config: pytest.Config) -> None:
    """Keep dose kernels and sample patients for this run, all its processes, and not in the home of whoever runs it."""
    for name in ("DOSELABEL_CACHE", samples.FOLDER):
        if name not in os.environ:
            folder = tempfile.TemporaryDirectory(prefix="doselabel-tests-")
            os.environ[name] = folder.name
            config.add_cleanup(folder.cleanup)


def together(nodeid: str) -> str:
    """Name of what a test stays with: its own file, if nothing larger."""
    return next((name for name, homes in TOGETHER.items() if nodeid.startswith(homes)), nodeid.partition("::")[0])


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is slow; begin with what lasts longest, so that nobody is left alone with it at the end."""
    for item in items:
        if item.nodeid.startswith(SLOW) or SERVERS & set(getattr(item, "fixturenames", ())):
            item.add_marker("slow")
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: _turn(item.nodeid))


def _turn(nodeid: str) -> int:
    """When a worker begins with it: what stays together, then files with something slow, then the others."""
    file, name = nodeid.partition("::")[0], together(nodeid)
    if name in TOGETHER:
        return list(TOGETHER).index(name)
    return len(TOGETHER) + (not any(file.startswith(slow) or slow.startswith(file) for slow in SLOW))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give a worker at a time what stays together."""
    from xdist.scheduler import LoadScopeScheduling

    class Together(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return together(nodeid)

    config.option.loadscopereorder = False
    return Together(config, log)


LOG_LINES = 40
BEGAN = pytest.StashKey[float]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Remember when a test began."""
    item.stash[BEGAN] = time.time()
    return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Show beside a failure how to have it alone, how busy the machine was, and what servers said meanwhile."""
    report = yield
    if report.failed:
        report.sections.append(("alone", f"python -m pytest '{item.nodeid}'"))
        report.sections.append(("load of the machine", " ".join(f"{load:.1f}" for load in os.getloadavg())))
        base = item.config._tmp_path_factory.getbasetemp()
        for log in sorted(base.rglob("*.log")):
            if log.stat().st_mtime >= item.stash[BEGAN]:
                lines = log.read_text("utf-8", "replace").splitlines()
                report.sections.append((f"end of {log}", "\n".join(lines[-LOG_LINES:])))
    return report
