"""The plane on screen: axial, coronal or sagittal, the right way up, with letters that say so. Knows napari, no Qt.

Concepts
--------
*plane*
    Two of the display frame's axes (z to inferior, y to posterior, x to the patient's left), laid out as radiologists
    read them: the patient's right at the left of axial and coronal, anterior at the left of sagittal. napari's own
    roll and transpose can arrive at the same axes mirrored on the diagonal; they are brought back to this layout.
    Time is never among the axes on screen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from napari.components import ViewerModel
from napari.components.overlays import TextOverlay
from napari.layers import Layer

from napari_plugin.layers import CaseLayers

PLANES = {"axial": (0, 1, 2), "coronal": (1, 0, 2), "sagittal": (2, 0, 1)}
"""Order of the axes (z, y, x): the one that is scrolled, the vertical one, the horizontal one."""

ENDS = ("S", "I"), ("A", "P"), ("R", "L")
"""Where the axes z, y, x begin and end."""

EDGES = {"top_center": (-2, 0), "bottom_center": (-2, 1), "middle_left": (-1, 0), "middle_right": (-1, 1)}
"""Canvas edge → (axis on screen, its beginning or end)."""

MARGIN = 0.04
LETTER_PT = 14.0


class Planes:
    """Which plane of the open case is on screen.

    Parameters
    ----------
    viewer : ViewerModel
        Where it is shown.
    changed : callable
        Called with "axial", "coronal", "sagittal" or "3d".
    """

    def __init__(self, viewer: ViewerModel, changed: Callable[[str], None]) -> None:
        self._viewer, self._changed = viewer, changed
        self._layers: CaseLayers | None = None
        self._hidden: list[Layer] = []
        self._busy = False
        self._fitted: tuple = ()

    # ---- a case comes and goes

    def hold(self, layers: CaseLayers) -> None:
        """Show a case in an axial slice, fitted to its CT."""
        self.let_go()
        self._layers = layers
        dims, overlays = self._viewer.dims, self._viewer.canvas.overlays
        dims.rollable = tuple(axis >= dims.ndim - 3 for axis in range(dims.ndim))
        for edge in EDGES:
            overlays[_key(edge)] = TextOverlay(position=edge, font_size=LETTER_PT, box=False, color="#e08a00")
        overlays.axes.visible = False  # the letters say more
        dims.events.order.connect(self._on_order)
        dims.events.ndisplay.connect(self._on_order)
        self._viewer.canvas.events.size.connect(self._on_size)
        self.show("axial")

    def let_go(self) -> None:
        """Leave the viewer as it is without a case."""
        if self._layers is None:
            return
        self._show_hidden()
        self._viewer.dims.events.order.disconnect(self._on_order)
        self._viewer.dims.events.ndisplay.disconnect(self._on_order)
        self._viewer.canvas.events.size.disconnect(self._on_size)
        for edge in EDGES:
            self._viewer.canvas.overlays.pop(_key(edge), None)
        self._layers = None

    # ---- planes

    @property
    def plane(self) -> str:
        """What is on screen."""
        if self._viewer.dims.ndisplay == 3:
            return "3d"
        scrolled = self._viewer.dims.order[-3] - (self._viewer.dims.ndim - 3)
        return next(name for name, order in PLANES.items() if order[0] == scrolled)

    @property
    def letters(self) -> dict[str, str]:
        """The letter at each edge of the canvas: where the patient's right, left, front … is."""
        if self._viewer.dims.ndisplay == 3:
            return dict.fromkeys(EDGES, "")
        first = self._viewer.dims.ndim - 3
        return {edge: ENDS[self._viewer.dims.order[at] - first][end] for edge, (at, end) in EDGES.items()}

    def show(self, plane: str) -> None:
        """Show "axial", "coronal" or "sagittal", upright and fitted to the CT; or the organs in "3d"."""
        if self._layers is None:
            return
        dims = self._viewer.dims
        first = dims.ndim - 3
        self._busy = True
        try:
            if plane == "3d":
                self._hide_images()
                dims.order = tuple(range(dims.ndim))
                dims.ndisplay = 3
                self._viewer.scene.camera.set_view_direction((0.0, 1.0, 0.0), (-1.0, 0.0, 0.0))  # from the front
            else:
                dims.ndisplay = 2
                self._show_hidden()
                dims.order = (*range(first), *(first + axis for axis in PLANES[plane]))
        finally:
            self._busy = False
        self.fit()
        self._tell()

    def fit(self) -> None:
        """Fit the CT into the canvas: SPECT often reaches far beyond it."""
        if self._layers is None:
            return
        ct, dims, camera = self._layers.ct, self._viewer.dims, self._viewer.scene.camera
        shown = [axis - (dims.ndim - 3) for axis in dims.displayed]
        low, high = (np.asarray(end)[shown] for end in ct.extent.world)
        size = high - low + np.abs(np.asarray(ct.scale)[shown])
        height, width = self._viewer.canvas.size
        camera.center = tuple(((low + high) / 2).tolist())
        room = (height, width) if dims.ndisplay == 2 else (min(height, width),) * 3
        camera.zoom = (1 - MARGIN) * float(min(r / s for r, s in zip(room, size, strict=True)))
        self._fitted = (tuple(camera.center), camera.zoom)

    # ---- what others do to the viewer

    def _on_size(self, _: Any = None) -> None:
        """Stay fitted when the canvas grows or shrinks, unless somebody has moved or zoomed."""
        camera = self._viewer.scene.camera
        if (tuple(camera.center), camera.zoom) == self._fitted:
            self.fit()

    def _on_order(self, _: Any = None) -> None:
        if self._busy or self._layers is None:
            return
        dims = self._viewer.dims
        first = dims.ndim - 3
        self._busy = True
        try:
            if dims.ndisplay == 2:
                space = [axis - first for axis in dims.order if axis >= first]
                wanted = next((o for o in PLANES.values() if o[0] == space[0]), PLANES["axial"])
                order = (*range(first), *(first + axis for axis in wanted))
                if tuple(dims.order) != order:
                    dims.order = order
                self._show_hidden()
            else:
                self._hide_images()
        finally:
            self._busy = False
        self.fit()
        self._tell()

    def _tell(self) -> None:
        for edge, letter in self.letters.items():
            overlay = self._viewer.canvas.overlays[_key(edge)]
            overlay.text, overlay.visible = letter, bool(letter)
        self._changed(self.plane)

    def _hide_images(self) -> None:
        """Let the organs be seen: as volumes, CT and SPECT would hide them."""
        assert self._layers is not None
        for layer in (self._layers.ct, self._layers.spect):
            if layer is not None and layer.visible:
                layer.visible = False
                self._hidden.append(layer)

    def _show_hidden(self) -> None:
        for layer in self._hidden:
            layer.visible = True
        self._hidden = []


def _key(edge: str) -> str:
    return f"doselabel_{edge}"
