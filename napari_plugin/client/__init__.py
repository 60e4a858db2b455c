"""Speaks HTTP with the server, ours or a stock MONAI Label. Knows the wire's schemas; knows no Qt and no napari."""

from __future__ import annotations

from doselabel.wire import ServerInfo
from napari_plugin.client.http import Client, OtherApp, inside
from napari_plugin.client.stock import StockClient

__all__ = ["Client", "inside", "reached"]


def reached(url: str, token: str | None = None) -> tuple[Client, ServerInfo]:
    """Connect to a server: a doselabel server, or a MONAI Label server with another app, which can do less.

    Raises
    ------
    ServerError
        When nobody answers there, or something else does.
    """
    client = Client(url, token)
    try:
        return client, client.info()
    except OtherApp:
        client.close()
    except BaseException:
        client.close()
        raise
    other = StockClient(url, token)
    try:
        return other, other.info()
    except BaseException:
        other.close()
        raise
