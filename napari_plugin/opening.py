"""The way in from napari's menus and preferences."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from napari.settings import get_plugin_settings
from napari.viewer import Viewer
from npe2 import PluginManager

from napari_plugin.session.settings import DEFAULT_URL, Settings

PLUGIN, WIDGET = "doselabel", "Annotate and dose"
THREE = "napari-orthogonal-views.toggle"
"""Its command; it has no widget."""


def open_dock(viewer: Viewer) -> None:
    """Open the dock, or bring it to the front."""
    viewer.window.add_plugin_dock_widget(PLUGIN, WIDGET)


def show_three(viewer: Viewer) -> str:
    """Show three linked views beside each other, or one again; why it can't be, "" when it can."""
    try:
        PluginManager.instance().commands.execute(THREE, args=(viewer,))
    except Exception as error:  # another plugin's: whatever it says
        return f"napari-orthogonal-views can't be used: {type(error).__name__}: {error} Expected: version 0.5."
    return ""


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
