"""Watches the layers of the open case: one that is removed or renamed behind the plugin's back is noticed.

Knows napari's layer list; knows no Qt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from napari.components import ViewerModel
from napari.layers import Layer


class LayerGuard:
    """Our layers in a viewer.

    Parameters
    ----------
    viewer : ViewerModel
        Where they are.
    noticed : callable
        Called as ``noticed("removed" or "renamed", name)``, with the name the layer had.
    """

    def __init__(self, viewer: ViewerModel, noticed: Callable[[str, str], None]) -> None:
        self._viewer = viewer
        self._noticed = noticed
        self._layers: list[Layer] = []
        self._names: dict[Layer, str] = {}

    def watch(self, layers: Sequence[Layer]) -> None:
        """Watch these, bottom first, instead of any before."""
        self.let_go()
        self._layers = list(layers)
        self._names = {layer: layer.name for layer in layers}
        self._viewer.layers.events.removed.connect(self._on_removed)
        for layer in layers:
            layer.events.name.connect(self._on_name)

    def let_go(self) -> None:
        """Watch nothing: the case is being closed."""
        if self._layers:
            self._viewer.layers.events.removed.disconnect(self._on_removed)
            for layer in self._layers:
                layer.events.name.disconnect(self._on_name)
        self._layers, self._names = [], {}

    @property
    def missing(self) -> list[Layer]:
        """Those that are not in the viewer any more."""
        return [layer for layer in self._layers if layer not in self._viewer.layers]

    def put_back(self) -> None:
        """Put removed layers back where they were, and give renamed ones their name."""
        for at, layer in enumerate(self._layers):
            if layer not in self._viewer.layers:
                layer.locked = True
                self._viewer.layers.insert(min(at, len(self._viewer.layers)), layer)
        for layer, name in list(self._names.items()):
            if layer.name != name:
                layer.name = name

    def _on_removed(self, event: Any) -> None:
        if event.value in self._names:
            self._noticed("removed", self._names[event.value])

    def _on_name(self, event: Any) -> None:
        layer = event.source
        if layer in self._names and layer.name != self._names[layer]:
            self._noticed("renamed", self._names[layer])
