"""A window that paints one stroke, waits for its draft, and dies in the next. Run by test_window.py in a process."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import napari
import numpy as np
from qtpy.QtCore import QEvent, QEventLoop, QPointF, Qt
from qtpy.QtGui import QMouseEvent
from qtpy.QtWidgets import QApplication, QWidget

from napari_plugin.dock import NAME, DoselabelDock
from napari_plugin.session.settings import Settings


def send(canvas: QWidget, kind: QEvent.Type, at: QPointF, pressed: bool) -> None:
    left, none = Qt.MouseButton.LeftButton, Qt.MouseButton.NoButton
    button = none if kind == QEvent.Type.MouseMove else left
    place = canvas.mapToGlobal(at)
    event = QMouseEvent(kind, at, place, button, left if pressed else none, Qt.KeyboardModifier.NoModifier)
    QApplication.sendEvent(canvas, event)


def stroke(canvas: QWidget, y: float, *, release: bool) -> None:
    """Draw from left to right through the canvas's middle third."""
    points = [QPointF(canvas.width() * part, canvas.height() * y) for part in (0.4, 0.45, 0.5, 0.55)]
    send(canvas, QEvent.Type.MouseMove, points[0], pressed=False)
    send(canvas, QEvent.Type.MouseButtonPress, points[0], pressed=True)
    for point in points[1:]:
        send(canvas, QEvent.Type.MouseMove, point, pressed=True)
    if release:
        send(canvas, QEvent.Type.MouseButtonRelease, points[-1], pressed=False)


def main(url: str, folder: Path, drawn: Path) -> None:
    viewer = napari.Viewer(show=True)
    viewer.window.resize(1400, 900)
    dock = DoselabelDock(viewer, Settings(folder=folder, author="ada"))
    viewer.window.add_dock_widget(dock, name=NAME, area="right")
    controller = dock.controller
    controller.connect(url)
    controller.wait("connect", 120)
    controller.open_case("P-001__ct_tp1")
    controller.wait("case", 120)
    window = dock.window()
    canvas = next(w for w in window.findChildren(QWidget) if type(w).__name__.startswith("CanvasBackend"))
    labels = controller.layers.labels
    labels.mode, labels.selected_label = "paint", 4

    loop = QEventLoop()
    controller.finished.connect(lambda action, _: loop.quit() if action == "autosave" else None)
    stroke(canvas, 0.5, release=True)
    assert controller.session.array.any(), "the stroke painted nothing"
    loop.exec_()
    np.save(drawn, controller.session.snapshot().native().array)

    stroke(canvas, 0.6, release=False)
    assert labels.painting, "the second stroke is not under way"
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
