"""The suite on several cores (`make test WORKERS=2`): what stays together, and what begins first."""

from __future__ import annotations

import os
from typing import Any

import pytest

ONE_DISPLAY = ("tests/napari_plugin/", "tests/e2e/")
"""Two windows on one display would fight for the focus: one worker has them all."""

BEGIN_FIRST = (*ONE_DISPLAY, "tests/monailabel_app/")
"""What lasts long begins first, so that no worker is left alone with it at the end."""

if "PYTEST_XDIST_WORKER" in os.environ:  # side by side, the workers have taken the cores already
    for name in ("OMP_NUM_THREADS", "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS"):
        os.environ.setdefault(name, "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put first what begins first, where there are workers to divide it among; each file keeps its order."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: next((i for i, at in enumerate(BEGIN_FIRST) if item.nodeid.startswith(at)), 99))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give a worker a whole file at a time, whose tests share what they make, or all windows."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "windows" if nodeid.startswith(ONE_DISPLAY) else nodeid.partition("::")[0]

    config.option.loadscopereorder = False
    return ByFile(config, log)
