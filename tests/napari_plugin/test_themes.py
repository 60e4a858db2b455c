"""Switching themes again and again: every layer is painted, and nobody leaves a painter open.

A window once ended with "QBackingStore::endPaint() called with active painter" and a segmentation fault in `paint` of
napari's `_layer_delegate`, after a theme was switched. What is known of it:

- *Proven:* those words come from a paint event in Python that fails after ``QPainter(self)``, while somebody keeps the
  exception (napari's notifications, pytest): its frame keeps the painter open on the window's own pixels. It needs no
  napari, no theme and no thread; what is painted next into that window is not defined. ``with QPainter(self)`` ends it.
- *Proven:* our one paint event (`napari_plugin.views.strip`) does so, also when it fails. It was written
  after the crash had been reported: it was not its painter.
- *Proven:* in a whole walk napari's models are touched by the window's thread alone (`tests/e2e/test_walk.py`).
- *Seen:* 40 switches with layers of each kind (`DOSELABEL_THEME_SWITCHES`) did not bring it back, with our dock or
  without; nor did errors thrown within `paint` of napari's delegate, whose painter is Qt's own and is ended by Qt.
- *Not known:* which painter it was, or whether it was this at all. napari (the colour box of a labels layer)
  and superqt (every slider) open theirs without an end.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from qtpy.QtCore import qInstallMessageHandler

from doselabel.geometry import Volume
from napari_plugin import layers as scene
from napari_plugin.dock import NAME, DoselabelDock
from napari_plugin.session.recovery import Recovery
from napari_plugin.session.settings import Settings
from tests.napari_plugin.conftest import GRID, ct_hu
from tests.napari_plugin.hands import pause

SWITCHES = int(os.environ.get("DOSELABEL_THEME_SWITCHES", "10"))
FAILING = """
import json, os, sys
from pathlib import Path
from napari.components import ViewerModel
from qtpy.QtCore import qInstallMessageHandler
from qtpy.QtGui import QPainter
from qtpy.QtWidgets import QApplication, QWidget
from napari_plugin.controller import Controller
from napari_plugin.session.settings import Settings
from napari_plugin.views.strip import SliceStrip

class LeftOpen(QWidget):
    def paintEvent(self, event):
        painter = QPainter(self)
        raise RuntimeError("while painting")

class Ours(SliceStrip):
    def _draw(self, painter):
        raise RuntimeError("while painting")

def told(view):
    said, kept = [], []
    qInstallMessageHandler(lambda kind, where, text: said.append(text))
    view.setVisible(True)
    for _ in range(3):
        try:
            view.repaint()
            app.processEvents()
        except RuntimeError as error:
            kept.append(error)
    assert kept
    return [text for text in said if "painter" in text]

app = QApplication([])
controller = Controller(ViewerModel(), Settings(folder=Path(sys.argv[1])))
print(json.dumps([told(Ours(controller.doubts)), told(LeftOpen())]), flush=True)
os._exit(0)  # a window with an open painter does not end well
"""


def test_a_paint_event_of_ours_that_fails_leaves_no_painter_open(tmp_path):
    """In a process of its own, beside one that leaves it open: that brings the very words of the crash, every time."""
    command, offscreen = [sys.executable, "-c", FAILING, str(tmp_path)], os.environ | {"QT_QPA_PLATFORM": "offscreen"}
    done = subprocess.run(command, env=offscreen, capture_output=True, encoding="utf-8", timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    ours, left_open = json.loads(done.stdout.splitlines()[-1])
    assert ours == []
    assert any("endPaint() called with active painter" in text for text in left_open)


def test_every_painter_of_ours_is_ended():
    """``with QPainter(…)`` ends also when what it draws fails."""
    code = {path: path.read_text("utf-8") for path in (Path(__file__).parents[2] / "napari_plugin").rglob("*.py")}
    opened = [line.strip() for text in code.values() for line in text.splitlines() if "Painter(" in line]
    assert opened
    assert [line for line in opened if not line.startswith("with QPainter(")] == []


@pytest.mark.parametrize("ours", [True, False], ids=["with our dock", "napari alone"])
def test_themes_are_switched_while_layers_of_each_kind_are_painted(window, make_case, truth, tmp_path, ours):
    said: list[str] = []
    before = qInstallMessageHandler(lambda kind, where, text: said.append(text))
    dock = None
    try:
        if ours:
            dock = DoselabelDock(window, Settings(folder=tmp_path, author="ada"))
            window.window.add_dock_widget(dock, name=NAME, area="right")
            case = make_case(labels=truth)
            dock.controller.editing.show(case, Recovery(tmp_path, "http://nobody"))
            scene.add_dose(window, Volume(abs(ct_hu()).astype("float32"), GRID), case.ct.geometry, [100.0, 500.0])
        else:
            window.add_image(ct_hu())
            window.add_labels(truth)
        window.add_points([[1, 2, 3]])
        window.add_shapes([np.array([[0, 0, 0], [0, 5, 5]])], shape_type="line")
        window.add_surface((np.array([[0.0, 0, 0], [0, 9, 0], [0, 0, 9]]), np.array([[0, 1, 2]])))
        window.add_vectors(np.array([[[0.0, 0, 0], [1, 1, 1]]]))
        window.add_tracks(np.array([[0.0, 0, 1, 1], [0, 1, 2, 2]]))
        for i in range(SWITCHES):
            window.theme = ("light", "dark")[i % 2]
            if i % 3 == 0:  # thumbnails are made anew while the list is painted
                window.layers[0].refresh()
                window.dims.set_current_step(window.dims.ndim - 3, i % 20)
            pause(20)
        assert window.theme == ("light", "dark")[(SWITCHES - 1) % 2]
        assert not [text for text in said if "painter" in text.lower()]
    finally:
        qInstallMessageHandler(before)
        if dock is not None:
            dock.controller.session.abandoned()
            dock.cleanup()
