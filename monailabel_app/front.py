"""What every request passes first: who may ask, which door is ours, and errors that say why. Knows HTTP only.

MONAI Label's own routes run behind it unchanged, save those that `monailabel_app.standard` takes over.
"""

from __future__ import annotations

import hmac
import ipaddress
import json
import logging
import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import parse_qs, urlsplit

from fastapi import FastAPI
from starlette.datastructures import Headers
from starlette.routing import Match

from doselabel.wire import ErrorInfo
from monailabel_app.conf import ORIGINS, TOKEN
from monailabel_app.refusals import Refused, answer, explain

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

CLOSED = ("/proxy", "/reload", "/infer/wsi")
"""MONAI Label's routes that lead out of the studies, or that nothing here serves."""


class Front:
    """ASGI application in front of MONAI Label's.

    Parameters
    ----------
    inner : ASGI application
        MONAI Label's.
    own : FastAPI
        Answers whatever it has a route for.

    Web pages of other origins are refused, save those in the environment variable ``DOSELABEL_ORIGINS``.
    """

    def __init__(self, inner: App, own: FastAPI) -> None:
        self._inner = inner
        self._own = own
        self._origins = {o.strip().rstrip("/") for o in os.environ.get(ORIGINS, "").split(",") if o.strip()}
        self._token = os.environ.get(TOKEN, "")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check, pass on, and turn every error into an `ErrorInfo`."""
        if scope["type"] != "http":
            await self._inner(scope, receive, send)
            return
        try:
            self._check(scope)
        except Refused as refusal:
            await answer(*explain(refusal))(scope, receive, send)
            return
        ours = any(route.matches(scope)[0] == Match.FULL for route in self._own.router.routes)
        held = _Held(send)
        error: Exception | None = None
        try:
            await (self._own if ours else self._inner)(scope, receive, held)
        except Exception as raised:
            error = raised
        if held.start is None:
            if error:
                raise error
            return
        status, info = explain(error) if error else _retold(held.start["status"], held.body)
        if error and info.code == "internal":
            logger.error("%s %s", scope["method"], scope["path"], exc_info=error)
        await answer(status, info)(scope, receive, send)

    def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        known = {urlsplit(origin).netloc for origin in self._origins}
        if _is_loopback((scope.get("server") or ("",))[0]) and host not in known and not _is_loopback(_name(host)):
            # A web page may let its own name point at this machine (DNS rebinding).
            raise Refused(f"This server is not called '{host}'.", status=403)
        origin = headers.get("origin", "")
        if origin and origin not in self._origins and urlsplit(origin).netloc != host:
            raise Refused(
                f"Web pages from {origin} may not use this server.",
                f"Start it with {ORIGINS}={origin} if they should.",
                status=403,
            )
        if self._token and not hmac.compare_digest(
            headers.get("authorization", "").encode(), f"Bearer {self._token}".encode()
        ):
            raise Refused("This server asks for a token.", f"Give the value of {TOKEN}.", status=401, code="token")
        path, query = scope["path"], parse_qs(scope.get("query_string", b"").decode("latin-1"))
        if path.startswith(CLOSED):
            raise Refused(f"{path} is closed on this server.", status=404, code="not_found")
        if path.startswith("/session") and "uncompress" in query:
            raise Refused("Archives are not unpacked on this server.", "Upload a NIfTI file.", status=403)


class _Held:
    """Passes a reply on, but holds back one that reports an error."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.start: MutableMapping[str, Any] | None = None
        self.body = b""

    async def __call__(self, message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start" and message["status"] >= 400:
            self.start = message
        elif self.start is None:
            await self._send(message)
        else:
            self.body += message.get("body", b"")


def _retold(status: int, body: bytes) -> tuple[int, ErrorInfo]:
    """What a framework's own error reply says, as `ErrorInfo`."""
    try:
        detail = json.loads(body)["detail"]
    except (ValueError, KeyError, TypeError):
        detail = body.decode("utf-8", "replace")
    if isinstance(detail, list):
        detail = "; ".join(f"{'.'.join(map(str, row.get('loc', ())))}: {row.get('msg', '')}" for row in detail)
    return status, ErrorInfo(code="not_found" if status == 404 else f"http_{status}", message=str(detail))


def _name(host: str) -> str:
    return host.rpartition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"
