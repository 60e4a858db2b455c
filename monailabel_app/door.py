"""The one door of MONAI Label's app: who asks, from where, how much is taken in, and errors that say why.

It knows HTTP and `monailabel_app.users`; it knows no route but those that are open to everybody. *Who* somebody is,
is settled here, before a byte of a body is read; *what* a route asks for, its ``needs(role)`` says.

Without users and without a token in the environment the server answers programs on its own machine alone.
"""

from __future__ import annotations

import hmac
import ipaddress
import logging
import os
import re
import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.params import Depends as Dependency
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from structlog.contextvars import bound_contextvars

from doselabel.wire import ErrorInfo
from monailabel_app import metrics
from monailabel_app.conf import ORIGINS, TOKEN
from monailabel_app.logs import requests
from monailabel_app.oidc import Issuer
from monailabel_app.refusals import Refused, answer, explain
from monailabel_app.users import ROLES, User, Users

logger = logging.getLogger(__name__)

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

OPEN = ("/", "/favicon.ico", "/auth/", "/auth", "/auth/token", "/health")
"""What a client may ask before it has logged in; no patient is behind it."""
OPEN_FOLDERS = ("/static/",)

MAX_BODY_BYTES = 1 << 20
"""Of a request without files."""
MAX_UPLOAD_BYTES = 1 << 30
"""Of a request with files."""
MAX_LOGIN_BYTES = 1 << 14
"""Of a request by somebody who has not logged in."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_FORWARDED = ("forwarded", "x-forwarded-for", "x-real-ip")


def needs(role: str) -> Any:
    """Make the dependency that lets a role, and those above it, use a route; it gives the `User`."""
    assert role in ROLES

    def allowed(request: Request) -> User:
        user: User | None = request.scope.get("state", {}).get("user")
        if user is None:
            raise Refused("Nobody is logged in.", "Log in first.", status=401, code="login")
        if not user.may(role):
            raise Refused(
                f"This is for the role '{role}'; {user.name or 'you'} has '{user.role}'.",
                "Ask an admin of the server.",
                status=403,
                code="role",
            )
        return user

    allowed.role = role  # type: ignore[attr-defined]
    return Depends(allowed)


def role_of(dependency: Dependency) -> str | None:
    """The role that a dependency made by `needs` asks for."""
    return getattr(dependency.dependency, "role", None)


def is_here(request: Request) -> bool:
    """Whether the one who asks sits at the server's own machine, and so may be told where files lie on it."""
    return _local(request.scope, Headers(scope=request.scope))


def hang(server: FastAPI, users: Users | Issuer) -> None:
    """Put the door in front of all routes of a running FastAPI app, with one CORS middleware before it."""
    origins = _origins()
    cors = Middleware(
        CORSMiddleware,
        allow_origins=sorted(origins),
        allow_methods=["*"],
        allow_headers=["*"],
        allow_credentials=bool(origins),
        expose_headers=["Location", "ETag", "X-Request-ID", "Retry-After", "Content-Disposition"],
    )
    server.user_middleware[:] = [cors, Middleware(Door, users=users, origins=origins)]
    server.exception_handlers[HTTPException] = _told
    server.exception_handlers[RequestValidationError] = _told
    server.middleware_stack = server.build_middleware_stack()


class Door:
    """ASGI middleware.

    Parameters
    ----------
    app : ASGI application
    users : Users or Issuer
    origins : set of str
        Web pages of these origins may use the server; its own always may.
    """

    def __init__(self, app: App, *, users: Users | Issuer, origins: set[str]) -> None:
        self._inner = app
        self._users = users
        self._origins = origins
        self._token = os.environ.get(TOKEN, "")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check, pass on, and turn every error into an `ErrorInfo`."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._inner(scope, receive, send)
            return
        headers = Headers(scope=scope)
        name = headers.get("x-request-id", "")
        state = scope.setdefault("state", {})
        state["request_id"] = name if _REQUEST_ID.fullmatch(name) else secrets.token_hex(8)
        told, began = _Told(send, state["request_id"]), time.monotonic()
        with bound_contextvars(request_id=state["request_id"]):
            try:
                await self._pass_on(scope, receive, headers, told)
            finally:
                _remember(scope, told.status, time.monotonic() - began)

    async def _pass_on(self, scope: Scope, receive: Receive, headers: Headers, told: _Told) -> None:
        state = scope["state"]
        try:
            self._check_page(scope, headers)
            state["user"] = self._user(scope, headers)
            limit = _limit(state["user"], headers)
            with bound_contextvars(user=state["user"].name if state["user"] else ""):
                await self._inner(scope, _bounded(receive, headers, limit), told)
        except Exception as error:
            if told.status:
                raise
            status, info = explain(error)
            if info.code == "internal":
                logger.error("%s %s [%s]", scope["method"], scope["path"], state["request_id"], exc_info=error)
            await answer(status, info, state["request_id"], error)(scope, receive, told)

    def _check_page(self, scope: Scope, headers: Headers) -> None:
        """Refuse web pages of other origins, and, where nobody logs in, names that are not this machine's."""
        host = headers.get("host", "")
        known = {urlsplit(origin).netloc for origin in self._origins}
        here = _is_loopback((scope.get("server") or ("",))[0])
        if here and not self._closed and host not in known and not _is_loopback(_name(host)):
            # A web page may let its own name point at this machine (DNS rebinding).
            raise Refused(f"This server is not called '{host[:80]}'.", status=403)
        origin = headers.get("origin", "")
        if origin and origin not in self._origins and urlsplit(origin).netloc != host:
            raise Refused(
                f"Web pages from {origin[:80]} may not use this server.",
                f"Start it with {ORIGINS}={origin[:80]} if they should.",
                status=403,
            )

    @property
    def _closed(self) -> bool:
        """Whether everybody has to log in."""
        return bool(self._token) or self._users.any

    def _user(self, scope: Scope, headers: Headers) -> User | None:
        """Who asks.

        Raises
        ------
        Refused, WrongLogin
            When the route is not open and it can't be told.
        """
        kind, _, token = headers.get("authorization", "").partition(" ")
        if self._closed and token and kind.lower() == "bearer":
            if self._token and hmac.compare_digest(token.encode(), self._token.encode()):
                return User("token", "admin")
            try:
                return self._users.bearer(token)
            except Exception:
                if _is_open(scope["path"]):
                    return None
                raise
        if not self._closed and _local(scope, headers):
            return User("", "admin")
        if _is_open(scope["path"]):
            return None
        if self._closed:
            raise Refused("This server asks who you are.", "Log in, or give its token.", status=401, code="login")
        raise Refused(
            "This server has no users yet: it answers programs on its own machine only.",
            "Add users there: doselabel users add STUDIES NAME --role annotator.",
            status=401,
            code="login",
        )


class _Told:
    """Passes a reply on with the request's id, and knows its status once it has begun."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._request_id = request_id
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["X-Request-ID"] = self._request_id
            headers["X-Content-Type-Options"] = "nosniff"
            headers.setdefault("Cache-Control", "no-store")
        await self._send(message)


def _remember(scope: Scope, status: int, seconds: float) -> None:
    """Count a request and write it down; ``status`` is 0 when its client went before there was an answer."""
    route = getattr(scope.get("route"), "path", "")
    metrics.answered(scope["method"], route, status, seconds)
    user = scope["state"].get("user")
    requests.info(
        "request",
        extra={
            "method": scope["method"],
            "path": scope["path"],
            "status": status,
            "ms": round(1000 * seconds),
            "who": user.name if user else "",
        },
    )


async def _told(request: Request, error: Exception) -> Any:
    """What a framework's own error says, as `ErrorInfo`."""
    request_id = request.scope.get("state", {}).get("request_id", "")
    if isinstance(error, RequestValidationError):
        rows = [f"{'.'.join(map(str, row.get('loc', ())))}: {row.get('msg', '')}" for row in error.errors()]
        return answer(422, ErrorInfo(code="http_422", message="; ".join(rows)[:2000]), request_id)
    return answer(*explain(error), request_id, error)


def _limit(user: User | None, headers: Headers) -> int:
    if user is None:
        return MAX_LOGIN_BYTES
    return MAX_UPLOAD_BYTES if headers.get("content-type", "").startswith("multipart/") else MAX_BODY_BYTES


def _bounded(receive: Receive, headers: Headers, limit: int) -> Receive:
    """Refuse a body that says, or turns out, to be longer than ``limit`` bytes."""
    if (said := headers.get("content-length", "0")).isdigit() and int(said) > limit:
        raise _too_long(int(said), limit)
    taken = 0

    async def bounded() -> Message:
        nonlocal taken
        message = await receive()
        taken += len(message.get("body", b""))
        if taken > limit:
            raise _too_long(taken, limit)
        return message

    return bounded


def _too_long(found: int, limit: int) -> Refused:
    return Refused(
        f"The request has {_size(found)} or more; at most {_size(limit)} are taken.",
        "Compress the image (.nii.gz), or put the patient's folder into the studies folder.",
        status=413,
        code="too_long",
    )


def _size(count: int) -> str:
    return f"{count / 2**20:.0f} MiB" if count >= 2**20 else f"{count} bytes"


def _is_open(path: str) -> bool:
    return path in OPEN or path.startswith(OPEN_FOLDERS)


def _origins() -> set[str]:
    return {o.strip().rstrip("/") for o in os.environ.get(ORIGINS, "").split(",") if o.strip()}


def _local(scope: Scope, headers: Headers) -> bool:
    """Whether a request comes from this machine itself, and was not passed on for somebody else."""
    peer = (scope.get("client") or ("",))[0]
    passed_on = any(name in headers for name in _FORWARDED)
    return _is_loopback(peer) and _is_loopback(_name(headers.get("host", ""))) and not passed_on


def _name(host: str) -> str:
    return host.rpartition("]")[0].lstrip("[") if host.startswith("[") else host.partition(":")[0]


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"
