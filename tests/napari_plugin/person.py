"""A person at the window: a mouse and a keyboard that the window system reports, and eyes that wait for what they see.

Unlike `hands`, which tells a widget that it was clicked, a click here goes to the place on the screen: it fails where
another widget covers it, a dialog blocks it, or it must first be scrolled into sight.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from qtpy.QtCore import QPoint, QPointF, Qt
from qtpy.QtGui import QGuiApplication, QWheelEvent, QWindow
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication, QMainWindow, QMenu, QMenuBar, QScrollArea, QWidget

from tests.load import shared
from tests.napari_plugin.hands import activate, pause

LEFT, NO_KEY = Qt.MouseButton.LeftButton, Qt.KeyboardModifier.NoModifier


def until(seen: Callable[[], object], limit_s: float = 60) -> None:
    """Look until it is seen."""
    deadline = time.monotonic() + shared(limit_s)
    while not seen():
        assert time.monotonic() < deadline, "it was not seen"
        pause(20)


def click(widget: QWidget, at: QPoint | None = None, *, double: bool = False) -> None:
    """Move there, scroll it into sight, press and release."""
    at = widget.rect().center() if at is None else at
    _scroll_to(widget, at)
    place = widget.mapToGlobal(at)
    under = QApplication.widgetAt(place)
    assert under is widget or widget.isAncestorOf(under), f"{under} covers {widget}"
    assert under.isEnabled(), f"{widget}: {widget.toolTip()}"
    handle = _handle(widget)
    act = QTest.mouseDClick if double else QTest.mouseClick
    act(handle, LEFT, NO_KEY, handle.mapFromGlobal(place))


def choose(bar: QMenuBar, *path: str) -> None:
    """Click one's way through menus."""
    menu: QMenuBar | QMenu = bar
    for words in path:
        action = next(a for a in menu.actions() if a.text().replace("&", "") == words)
        click(menu, menu.actionGeometry(action).center())
        menu = action.menu()


def press(key: Qt.Key | str, keys: Qt.KeyboardModifier = NO_KEY) -> None:
    """Strike a key."""
    QTest.keyClick(_focused(), key, keys)


def write(text: str) -> None:
    """Write into the field that was clicked, in place of what is there."""
    press(Qt.Key.Key_A, Qt.KeyboardModifier.ControlModifier)
    for letter in text:
        press(letter)


def draw(canvas: QWidget, points: Sequence[QPointF]) -> None:
    """Press at the first point, move through the others, release at the last."""
    handle = _handle(canvas)
    places = [handle.mapFromGlobal(canvas.mapToGlobal(point.toPoint())) for point in points]
    assert QApplication.widgetAt(canvas.mapToGlobal(points[0].toPoint())) is canvas
    QTest.mouseMove(handle, places[0])
    QTest.mousePress(handle, LEFT, NO_KEY, places[0])
    for place in places[1:]:
        QTest.mouseMove(handle, place)
    QTest.mouseRelease(handle, LEFT, NO_KEY, places[-1])


def _handle(widget: QWidget) -> QWindow:
    handle = widget.window().windowHandle()
    assert handle is not None, f"{widget} is in no window"
    return handle


def _focused() -> QWindow:
    """Where keys go. Where a dialog was closed, a window manager gives the focus back; here there is none."""
    if (popup := QApplication.activePopupWidget()) is not None:
        return _handle(popup)
    if QGuiApplication.focusWindow() is None:
        activate(next(w for w in QApplication.topLevelWidgets() if isinstance(w, QMainWindow) and w.isVisible()))
        until(QGuiApplication.focusWindow)
    return QGuiApplication.focusWindow()


def _scroll_to(widget: QWidget, at: QPoint) -> None:
    """Turn the wheel over what scrolls, until the place is in sight."""
    area, last = widget.parentWidget(), None
    while area is not None and not isinstance(area, QScrollArea):
        area = area.parentWidget()
    if area is None:
        return
    view = area.viewport()
    while not view.rect().contains(place := widget.mapTo(view, at)) and place != last:
        last, centre = place, view.rect().center()
        turned = QPoint(0, 120 if place.y() < 0 else -120)
        event = QWheelEvent(
            QPointF(centre), QPointF(view.mapToGlobal(centre)), QPoint(), turned, Qt.MouseButton.NoButton, NO_KEY,
            Qt.ScrollPhase.NoScrollPhase, False,
        )  # fmt: skip
        QApplication.sendEvent(view, event)
