"""Keys of the plugin, chosen so that none hides one of napari's on the viewer, image or labels layers.

=================  ======================================
key                does
=================  ======================================
N                  next case
S                  segment
Ctrl+Enter         submit
Q / W              previous / next organ (as in 3D Slicer)
I                  HU mask of the brush on and off
D                  2D / 3D brush
G                  fill between slices
K                  keep the largest part
O                  outlines or filled organs
Shift+wheel        brush size (over the image)
=================  ======================================

Undo (Ctrl+Z), redo, brush size ([ and ]), paint, erase, fill, pick and polygon are napari's own.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from napari.components import ViewerModel

KEYS: Mapping[str, str] = {
    "n": "next",
    "s": "segment",
    "Control-Enter": "submit",
    "q": "previous_organ",
    "w": "next_organ",
    "i": "hu_mask",
    "d": "brush_3d",
    "g": "fill_between_slices",
    "k": "keep_largest",
    "o": "outline",
}


def bind(viewer: ViewerModel, actions: Mapping[str, Callable[[], Any]]) -> None:
    """Bind the keys to actions by name."""
    for key, name in KEYS.items():
        viewer.bind_key(key, _pressed(actions[name]), overwrite=True)


def unbind(viewer: ViewerModel) -> None:
    """Give the keys back."""
    for key in KEYS:
        viewer.bind_key(key, None)


def wheel_over(resize: Callable[[int], None]) -> Callable[[Any, Any], None]:
    """Mouse-wheel callback that asks for a larger (+1) or smaller (−1) brush while Shift is held."""

    def on_wheel(_: Any, event: Any) -> None:
        if "Shift" in event.modifiers:
            resize(1 if sum(event.delta) > 0 else -1)  # some systems turn a shifted wheel sideways
            event.handled = True

    return on_wheel


def _pressed(action: Callable[[], Any]) -> Callable[[Any], None]:
    def on_key(_: Any) -> None:
        action()

    return on_key
