"""A person's hands on napari's canvas: clicks and strokes at places of the image."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from qtpy.QtCore import QEvent, QPointF, Qt
from qtpy.QtGui import QMouseEvent
from qtpy.QtWidgets import QApplication, QWidget

LEFT, RIGHT, NONE = Qt.MouseButton.LeftButton, Qt.MouseButton.RightButton, Qt.MouseButton.NoButton


def canvas_of(window: QWidget) -> QWidget:
    """The widget that napari draws on."""
    return next(w for w in window.findChildren(QWidget) if type(w).__name__.startswith("CanvasBackend"))


def pixel(viewer, world: Sequence[float]) -> QPointF:
    """Where a place in the scene is on the canvas (2D view)."""
    canvas, camera, dims = canvas_of(viewer.window._qt_window), viewer.scene.camera, viewer.dims
    away = np.array([world[axis] for axis in dims.displayed]) - np.asarray(camera.center[-2:])
    y, x = away * camera.zoom
    return QPointF(canvas.width() / 2 + x, canvas.height() / 2 + y)


def send(canvas: QWidget, kind: QEvent.Type, at: QPointF, button=LEFT, held=NONE, keys=None) -> None:
    """Tell the canvas of the mouse."""
    keys = Qt.KeyboardModifier.NoModifier if keys is None else keys
    event = QMouseEvent(kind, at, QPointF(canvas.mapToGlobal(at)), button, held, keys)
    QApplication.sendEvent(canvas, event)


def click(canvas: QWidget, at: QPointF, button=LEFT, keys=None) -> None:
    """Move there, press and release."""
    send(canvas, QEvent.Type.MouseMove, at, NONE, keys=keys)
    send(canvas, QEvent.Type.MouseButtonPress, at, button, button, keys)
    send(canvas, QEvent.Type.MouseButtonRelease, at, button, keys=keys)


def drag(
    canvas: QWidget, points: Sequence[QPointF], button=LEFT, each: Callable[[], object] = lambda: None, keys=None
) -> None:
    """Press at the first, move through the others, release at the last; ``each`` is called after every event."""
    send(canvas, QEvent.Type.MouseMove, points[0], NONE, keys=keys)
    send(canvas, QEvent.Type.MouseButtonPress, points[0], button, button, keys)
    for point in points[1:]:
        each()
        send(canvas, QEvent.Type.MouseMove, point, NONE, button, keys)
    each()
    send(canvas, QEvent.Type.MouseButtonRelease, points[-1], button, keys=keys)
    each()
