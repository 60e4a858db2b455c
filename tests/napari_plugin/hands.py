"""A person's hands on the dock of a real window: a case opened, keys, buttons, and pictures to be looked at."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import numpy as np
from qtpy.QtCore import QEventLoop, Qt, QTimer
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication


def opened(dock, image_id: str, truth: np.ndarray | None = None):
    dock.controller.open_case(image_id)
    dock.controller.wait("case", 120)
    if truth is not None:
        dock.controller.editing.replace(truth, "")
        labels = dock.controller.layers.labels  # with what another test may have submitted beside the model's organs
        labels.data_setitem(np.nonzero(labels.data == 3), 3)  # nothing changes, nothing is edited
        assert dock.controller.session.origin == "model"
        voxel = tuple(np.argwhere(truth == 0)[:1].T)
        labels.data_setitem(voxel, 3)
    activate(dock)


def pause(ms: int) -> None:
    """Let the window live for a while; `QTest.qWait` is vispy's where it draws, and keeps a core busy meanwhile."""
    loop = QEventLoop()
    QTimer.singleShot(ms, loop.quit)
    loop.exec()


def activate(dock) -> None:
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
