"""Speaks HTTP with the server. Knows the wire's schemas; knows no Qt, no napari and no images' contents."""

from napari_plugin.client.http import Client, inside

__all__ = ["Client", "inside"]
