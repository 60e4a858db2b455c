"""The real window with real clicks and keys, against a real server process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication, QLineEdit

from napari_plugin.session.settings import Settings

pytestmark = pytest.mark.e2e


@pytest.fixture
def dock(window, server, tmp_path):
    from napari_plugin.dock import DoselabelDock

    dock = DoselabelDock(window, Settings(folder=tmp_path, author="ada"))
    window.window.add_dock_widget(dock, name="doselabel", area="right")
    dock.server_view.connect_wanted.emit(server, "")
    dock.controller.wait("connect", 120)
    yield dock
    if dock.controller.session is not None:
        dock.controller.session.abandoned()
    dock.cleanup()


def opened(dock, image_id: str, truth: np.ndarray | None = None):
    dock.controller.open_case(image_id)
    dock.controller.wait("case", 120)
    if truth is not None:
        dock.controller.editing.replace(truth, "")
        dock.controller.layers.labels.data_setitem(np.nonzero(truth == 3), 3)  # nothing changes, nothing is edited
        assert dock.controller.session.origin == "model"
        voxel = tuple(np.argwhere(truth == 0)[:1].T)
        dock.controller.layers.labels.data_setitem(voxel, 3)
    QTest.qWaitForWindowExposed(dock.window())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        QApplication.setActiveWindow(dock.window())  # without a window manager nobody else does


def keep(dock, name: str) -> np.ndarray:
    """Take a picture of the window; a folder named in DOSELABEL_SCREENSHOTS keeps it to be looked at."""
    folder = os.environ.get("DOSELABEL_SCREENSHOTS")
    return dock.viewer.screenshot(str(Path(folder) / f"{name}.png") if folder else None, canvas_only=False, flash=False)


def press(dock, key: Qt.Key, modifier: Qt.KeyboardModifier = Qt.KeyboardModifier.NoModifier) -> None:
    QTest.keyClick(dock.window().focusWidget() or dock, key, modifier)


def click(widget) -> None:
    QTest.mouseClick(widget, Qt.MouseButton.LeftButton)


def test_views_keys_notices_and_the_sheet_by_mouse_and_keyboard(dock, truth):
    controller = dock.controller
    opened(dock, "P-002__ct_tp2", truth)
    drawn = controller.session.array.copy()
    keep(dock, "axial")

    # keys are alive after a click in the dock, and dead in a text field
    QTest.mouseClick(dock.edit_view._table.viewport(), Qt.MouseButton.LeftButton, pos=QPoint(20, 30))
    assert controller.layers.labels.selected_label == 2
    press(dock, Qt.Key.Key_F3)
    assert controller.editing.planes.plane == "coronal"
    keep(dock, "coronal")
    press(dock, Qt.Key.Key_Q)
    assert controller.layers.labels.selected_label == 1
    field = QLineEdit(dock)
    field.show()
    field.setFocus()
    press(dock, Qt.Key.Key_Q)
    assert (field.text(), controller.layers.labels.selected_label) == ("q", 1)
    field.deleteLater()

    # every view button
    for plane in ("sagittal", "axial", "3d"):
        click(dock.planes_view.buttons[plane])
        assert controller.editing.planes.plane == plane
        keep(dock, plane)
    click(dock.planes_view.buttons["axial"])

    # a removed layer is offered back
    labels = controller.layers.labels
    labels.locked = False
    dock.viewer.layers.remove(labels)
    keep(dock, "layer-removed")
    click(dock.questions.notices["layer"].answers["Put it back"])
    assert labels in dock.viewer.layers
    assert "layer" not in dock.questions.notices

    # leaving unsaved work asks
    dock.edit_view._table.setFocus()
    press(dock, Qt.Key.Key_N)
    assert not controller.tasks.running("case")
    click(dock.questions.notices["leave"].answers["Stay"])

    # a model's result over hand work is offered
    controller.segment()
    controller.wait("segment", 600)
    assert np.array_equal(controller.session.array, drawn)
    keep(dock, "offer")
    click(dock.questions.notices["offer"].answers["Keep mine"])
    assert controller.segmenting.offer is None

    # the sheet
    press(dock, Qt.Key.Key_Return, Qt.KeyboardModifier.ControlModifier)
    controller.wait("review", 120)
    sheet = dock.questions.sheet
    assert sheet.table.rowCount() == 3
    sheet.author.clear()
    assert not sheet.submit.isEnabled()
    QTest.keyClicks(sheet.author, "eve")
    folder = os.environ.get("DOSELABEL_SCREENSHOTS")
    if folder:
        sheet.grab().save(str(Path(folder) / "sheet.png"))
    click(sheet.submit)
    assert controller.wait("submit", 120).author == "eve"
    assert not controller.session.dirty
    keep(dock, "submitted")


def test_a_window_killed_in_a_stroke_leaves_its_draft_which_is_offered_voxel_for_voxel(dock, server, tmp_path):
    drawn = tmp_path / "drawn.npy"
    script = Path(__file__).with_name("killed_window.py")
    command = [sys.executable, str(script), server, str(tmp_path), str(drawn)]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=600, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    controller = dock.controller
    controller.connect(server)
    controller.wait("connect", 120)
    notice = dock.questions.notices["drafts"]
    assert "1 unsaved case" in notice.text
    keep(dock, "draft")
    click(notice.answers["Resume"])
    assert controller.wait("case", 120).restored
    assert np.array_equal(controller.session.snapshot().native().array, np.load(drawn))
    assert "drafts" not in dock.questions.notices
