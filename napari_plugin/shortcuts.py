"""Keys of the plugin: alive wherever the focus is, except in text fields, and gone when the plugin closes.

They are Qt shortcuts of the application, beside napari's key bindings: nothing of napari's or of another plugin's is
overwritten. None hides one of napari's on the viewer, image or labels layers, but undo and redo, which do the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from qtpy.QtCore import Qt
from qtpy.QtGui import QKeySequence
from qtpy.QtWidgets import QShortcut, QWidget

KEYS: Mapping[str, tuple[str, str]] = {
    "N": ("next", "next case"),
    "S": ("segment", "segment; over unsaved work of yours the result is only offered"),
    "Ctrl+Return": ("submit", "look at what changed, and submit"),
    "Q": ("previous_organ", "previous organ"),
    "W": ("next_organ", "next organ"),
    "I": ("hu_mask", "HU mask of brush, fill and polygon on and off"),
    "D": ("brush_3d", "2D or 3D brush"),
    "A": ("clicks", "correct by clicks: left belongs to the organ, right (or Ctrl) does not"),
    "G": ("fill_between_slices", "fill between slices"),
    "K": ("keep_largest", "keep the largest part"),
    ",": ("doubt_before", "previous slice that the network was not sure of"),
    ".": ("doubt_after", "next slice that the network was not sure of"),
    "O": ("outline", "outlines or filled organs"),
    "F2": ("axial", "axial view"),
    "F3": ("coronal", "coronal view"),
    "F4": ("sagittal", "sagittal view"),
    "F6": ("3d", "organs in 3D"),
    "F7": ("fit", "fit the CT into the window"),
    "Shift+Left": ("move_left", "Register: SPECT to the left on screen"),
    "Shift+Up": ("move_up", "Register: SPECT up"),
    "Shift+Down": ("move_down", "Register: SPECT down"),
    "Shift+Right": ("move_right", "Register: SPECT to the right"),
    "Ctrl+Shift+Left": ("move_turn anticlockwise", "Register: turn the SPECT anticlockwise"),
    "Ctrl+Shift+Right": ("move_turn clockwise", "Register: turn the SPECT clockwise"),
    "Ctrl+Z": ("undo", "undo; of moves of the SPECT while the tab Register is in front"),
    "Ctrl+Shift+Z": ("redo", "redo"),
    "?": ("keys", "this list"),
}
"""Key → name of the action, and what it does."""

NAPARI_KEYS: Mapping[str, str] = {
    "1 … 7": "modes of the labels layer: erase, paint, polygon, fill, pick …",
    "[ ]": "smaller or larger brush; also Shift+wheel over the image",
    "B": "protect other organs",
    "← →": "previous or next slice",
}
"""napari's own, worth knowing."""


class Shortcuts:
    """The keys of one dock.

    Parameters
    ----------
    window : QWidget
        Whose keys they are; where a dialog is open, they sleep.
    actions : mapping
        What each action's name does.
    """

    def __init__(self, window: QWidget, actions: Mapping[str, Callable[[], Any]]) -> None:
        self._made: list[QShortcut] = []
        for key, (name, _) in KEYS.items():
            shortcut = QShortcut(QKeySequence(key), window)
            shortcut.setContext(Qt.ShortcutContext.ApplicationShortcut)
            shortcut.setAutoRepeat(name in ("undo", "redo") or name.startswith("move_"))
            shortcut.activated.connect(actions[name])
            self._made.append(shortcut)

    def release(self) -> None:
        """Give the keys back; safe to call twice."""
        for shortcut in self._made:
            shortcut.setEnabled(False)
            shortcut.deleteLater()
        self._made = []


def wheel_over(resize: Callable[[int], None]) -> Callable[[Any, Any], None]:
    """Mouse-wheel callback that asks for a larger (+1) or smaller (−1) brush while Shift is held."""

    def on_wheel(_: Any, event: Any) -> None:
        if "Shift" in event.modifiers:
            resize(1 if sum(event.delta) > 0 else -1)  # some systems turn a shifted wheel sideways
            event.handled = True

    return on_wheel
