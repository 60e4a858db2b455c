"""The dock is there soon after the menu's click: in a process of its own, where nothing of ours is loaded yet."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from tests.load import shared

pytestmark = pytest.mark.e2e
OPENED_S = 2.0
"""What a user waits at most; the least of three processes: the first one reads every file from the disk."""
LATER = ("matplotlib", "nibabel", "scipy.optimize", "scipy.sparse.linalg", "torch")
CHILD = f"""
import json, sys, threading, time
import napari
from qtpy.QtWidgets import QApplication
from napari_plugin.opening import PLUGIN, SLOW, WARM, WIDGET
from tests.napari_plugin.hands import pause

viewer = napari.Viewer(show=True)
pause(1000)
began_s = time.thread_time()
dock, widget = viewer.window.add_plugin_dock_widget(PLUGIN, WIDGET)
early = [name for name in {LATER} if name in sys.modules]
for _ in range(5):
    QApplication.processEvents()
drawn, spent_s = widget.tabs.isVisible(), time.thread_time() - began_s
for _ in range(600):
    pause(100)
    if all(name in sys.modules for name in SLOW) and not [t for t in threading.enumerate() if t.name == WARM]:
        break
warm = [name for name in {LATER} if name in sys.modules]
print(json.dumps(dict(spent_s=spent_s, drawn=drawn, early=early, warm=warm)))
widget.cleanup()
viewer.close()
"""


def test_a_dock_is_drawn_before_what_it_does_not_need_yet_is_loaded(tmp_path):
    """CPU of the window's thread; the rest is loaded in another one, so that no tab waits for it."""
    if not os.environ.get("DISPLAY"):
        pytest.skip("needs a display: run under xvfb-run")
    home = {name: str(tmp_path) for name in ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME")}
    spent_s = []
    for _ in range(3):
        found = opened(os.environ | home)
        assert found["drawn"]
        assert found["early"] == []
        assert found["warm"] == [name for name in LATER if name != "torch"]
        spent_s.append(found["spent_s"])
        if min(spent_s) < OPENED_S:
            break
    print({"spent_s": min(spent_s)})
    assert min(spent_s) < shared(OPENED_S)


def opened(env: dict[str, str]) -> dict:
    done = subprocess.run(
        [sys.executable, "-c", CHILD], env=env, capture_output=True, encoding="utf-8", timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
