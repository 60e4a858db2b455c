"""The way in from napari's menus and preferences."""

from __future__ import annotations

import contextlib
import gc
import sys
import threading
from dataclasses import replace
from importlib import import_module
from typing import Any

from napari.settings import get_plugin_settings
from napari.viewer import Viewer
from npe2 import PluginManager
from qtpy.QtCore import QTimer
from qtpy.QtWidgets import QWidget

from napari_plugin.session.settings import DEFAULT_URL, Settings

PLUGIN, WIDGET = "doselabel", "Annotate and dose"
SLOW = (
    "napari_plugin.views.canvas",
    "doselabel.dosimetry.alignment.registration",
    "doselabel.images.nifti",
    "scipy.sparse.linalg",
)
"""Modules that take tenths of a second, for plots, a SPECT's place, images, a correction by clicks."""
WARM = "doselabel-warm"
THREE = {True: "napari-orthogonal-views.show", False: "napari-orthogonal-views.delete_cleanup"}
"""Its commands; it has no widget. The second one leaves nothing of it in the window."""
SHOWN_AFTER_MS = 500


def open_dock(viewer: Viewer) -> None:
    """Open the dock, or bring it to the front."""
    viewer.window.add_plugin_dock_widget(PLUGIN, WIDGET)


def show_three(viewer: Viewer, on: bool) -> str:
    """Show three linked views beside each other, or one again; why it can't be, "" when it can."""
    try:
        PluginManager.instance().commands.execute(THREE[on], args=(viewer,))
    except Exception as error:  # another plugin's: whatever it says
        return f"napari-orthogonal-views can't be used: {type(error).__name__}: {error} Expected: version 0.5."
    if on:
        QTimer.singleShot(SHOWN_AFTER_MS, lambda: _fit(viewer))
    return ""


def _fit(viewer: Viewer) -> None:
    """Fit the views beside the large one, which begin as large as the scene was before they had their place."""
    with contextlib.suppress(AttributeError, RuntimeError):  # another version's, or gone again
        for view in viewer.window._qt_window.findChildren(QWidget):
            if type(view).__name__ == "OrthoViewWidget":
                view.vm_container.viewer_model.reset_view()


def warm_up() -> None:
    """Load in a thread what a dock needs sooner or later, but not to be seen."""
    if not all(name in sys.modules for name in SLOW):
        threading.Thread(target=_load, name=WARM, daemon=True).start()


def _load() -> None:
    for name in SLOW:
        import_module(name)
    gc.freeze()  # libraries stay: napari need not look through them whenever a layer is removed


def preferred() -> Settings:
    """What the plugin remembers; where it remembers nothing yet, what napari's preferences say."""
    remembered = Settings.load()
    try:
        settings: Any = get_plugin_settings(PLUGIN)
        stated = settings.annotating
    except KeyError:  # imported without being installed
        return remembered
    unused = remembered.urls == (DEFAULT_URL,)
    return replace(
        remembered,
        author=remembered.author or stated.author.strip(),
        urls=(stated.server,) if unused and stated.server.strip() else remembered.urls,
    )
