"""How CT and SPECT are shown: window of the CT, how much of the SPECT covers it, which time point. Knows no Qt."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import numpy as np
from napari.components import ViewerModel

from napari_plugin.layers import CT_WINDOW_HU, SPECT_FROM, SPECT_OPACITY, CaseLayers, clear_below

PRESETS_HU = {"Abdomen": CT_WINDOW_HU, "Kidney": (-20.0, 280.0), "Bone": (-450.0, 1050.0), "Lung": (-1350.0, 150.0)}
"""Lowest and highest HU of a window; abdomen, bone and lung are the usual W/L 400/40, 1500/300 and 1500/−600."""

HU_PER_PIXEL = 2.0
MIDDLE_BUTTON = 3


class Display:
    """How the open case is shown; what was chosen is kept from case to case.

    Parameters
    ----------
    viewer : ViewerModel
        Where it is shown.
    changed : callable
        Called without arguments when something looks different.
    """

    def __init__(self, viewer: ViewerModel, changed: Callable[[], None]) -> None:
        self._viewer, self._changed = viewer, changed
        self._layers: CaseLayers | None = None
        self.window_hu = CT_WINDOW_HU
        self.spect_from, self.spect_opacity = SPECT_FROM, SPECT_OPACITY
        viewer.mouse_drag_callbacks.append(self._on_drag)

    def release(self) -> None:
        """Give the mouse back."""
        self.let_go()
        if self._on_drag in self._viewer.mouse_drag_callbacks:
            self._viewer.mouse_drag_callbacks.remove(self._on_drag)

    def hold(self, layers: CaseLayers) -> None:
        """Show a case as was chosen."""
        self.let_go()
        self._layers = layers
        layers.ct.contrast_limits = self.window_hu
        layers.ct.events.contrast_limits.connect(self._on_window)
        if layers.spect is not None:
            self._colour()
            self._viewer.dims.events.current_step.connect(self._on_time)

    def let_go(self) -> None:
        """Show nothing."""
        if self._layers is None:
            return
        self._layers.ct.events.contrast_limits.disconnect(self._on_window)
        if self._layers.spect is not None:
            self._viewer.dims.events.current_step.disconnect(self._on_time)
        self._layers = None

    # ---- CT

    def set_window(self, low_hu: float, high_hu: float) -> None:
        """Show these HU from black to white."""
        if self._layers is not None and high_hu > low_hu:
            self._layers.ct.contrast_limits = (low_hu, high_hu)

    @property
    def preset(self) -> str:
        """Name of the window on screen; "" when it is none of the presets."""
        return next((name for name, window in PRESETS_HU.items() if np.allclose(window, self.window_hu, atol=0.5)), "")

    # ---- SPECT

    @property
    def times_h(self) -> list[float]:
        """Hours after injection of the SPECT that are there."""
        spect = None if self._layers is None else self._layers.spect
        return [] if spect is None else list(spect.metadata["time_h"])

    @property
    def time_index(self) -> int:
        """Which of them is on screen."""
        if self._layers is None or self._layers.spect is None or self._layers.spect.ndim < 4:
            return 0
        return int(self._viewer.dims.current_step[0])

    def show_time(self, index: int) -> None:
        """Show a time point."""
        if self._layers is not None and self._layers.spect is not None and self._layers.spect.ndim > 3:
            self._viewer.dims.set_current_step(0, index)

    def set_spect(self, visible_from: float, opacity: float) -> None:
        """Show the SPECT from a part (0 to 1) of its highest activity on, with an opacity (0 to 1)."""
        self.spect_from, self.spect_opacity = visible_from, opacity
        if self._layers is not None and self._layers.spect is not None:
            self._colour()
            self._changed()

    def _colour(self) -> None:
        assert self._layers is not None
        assert self._layers.spect is not None
        self._layers.spect.colormap = clear_below(self.spect_from)
        self._layers.spect.opacity = self.spect_opacity

    # ---- what happens in the viewer

    def _on_window(self, _: Any = None) -> None:
        assert self._layers is not None
        low, high = self._layers.ct.contrast_limits
        self.window_hu = (float(low), float(high))
        self._changed()

    def _on_time(self, _: Any = None) -> None:
        self._changed()

    def _on_drag(self, viewer: ViewerModel, event: Any) -> Generator[None, None, None]:
        """Middle button: left and right change the window's width, up and down its level."""
        if self._layers is None or event.button != MIDDLE_BUTTON:
            return
        labels = self._layers.labels
        mode, labels.mode = labels.mode, "pan_zoom"  # the brush must not paint with this button
        x, y = event.pos
        low, high = self._layers.ct.contrast_limits
        yield
        while True:  # the moves, of which a quick hand leaves some out, and the release
            width = max(1.0, high - low + HU_PER_PIXEL * (event.pos[0] - x))
            level = (low + high) / 2 + HU_PER_PIXEL * (event.pos[1] - y)
            self.set_window(level - width / 2, level + width / 2)
            if event.type != "mouse_move":
                break
            yield
        labels.mode = mode
