"""Our routes in MONAI Label's own FastAPI app: which of its routes stay, which are ours, and that none lacks a role."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, FastAPI, Form, Response
from fastapi.routing import APIRoute
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from starlette.routing import BaseRoute, Mount

from monailabel_app import metrics, routes, standard
from monailabel_app.door import OPEN, hang, role_of
from monailabel_app.oidc import Issuer
from monailabel_app.refusals import Refused
from monailabel_app.routes import Annotator
from monailabel_app.users import Users

if TYPE_CHECKING:
    from monailabel_app.app import DoselabelApp

KEPT = ("/", "/favicon.ico", "/openapi.json", "/docs", "/static")
"""MONAI Label's routes that stay: pages without a patient. All others are ours, or closed."""


def join(server: FastAPI, app: DoselabelApp, users: Users | Issuer) -> None:
    """Let a running FastAPI app of MONAI Label answer our routes, behind our door."""
    router = APIRouter()
    _add_accounts(router, users)
    _add_operation(router, app)
    routes.add(router, app)
    standard.add(router, app)
    check_roles(router.routes)
    server.router.routes[:] = [route for route in server.router.routes if getattr(route, "path", None) in KEPT]
    server.include_router(router)
    server.openapi_schema = None
    hang(server, users)


def check_roles(found: list[BaseRoute]) -> None:
    """Make sure that every route says who may use it: one that was forgotten would be open to all who can log in."""
    for route in found:
        if isinstance(route, Mount):
            continue
        assert isinstance(route, APIRoute), route
        roles = [role_of(d) for d in route.dependencies]
        roles += [getattr(d.call, "role", None) for d in route.dependant.dependencies]
        if route.path not in OPEN and not any(roles):
            raise AssertionError(f"{route.path}: says no role; use needs() in its arguments")


def _add_accounts(router: APIRouter, users: Users | Issuer) -> None:
    """What 3D Slicer and MONAI Label's client ask to log in (OAuth 2.0 password grant, RFC 6749 section 4.3)."""

    @router.get("/auth/")
    def enabled() -> dict[str, Any]:
        return {"enabled": users.any, "client_id": users.client_id, "realm": "doselabel"}

    @router.post("/auth/token")
    def token(
        username: Annotated[str, Form(max_length=100)] = "",
        password: Annotated[str, Form(max_length=1000)] = "",
        grant_type: Annotated[str, Form(max_length=100)] = "password",
    ) -> dict[str, Any]:
        if not users.any:
            return {"access_token": None, "token_type": None}
        if grant_type != "password":
            raise Refused(f"The grant '{grant_type[:40]}' is not known.", "Send grant_type=password.", status=400)
        return users.grant(username, password)

    @router.get("/auth/token/valid")
    def valid(who: Annotator) -> dict[str, Any]:
        return {"username": who.name, "name": who.name, "email": None, "role": who.role, "roles": who.roles}


def _add_operation(router: APIRouter, app: DoselabelApp) -> None:
    metrics.watch(app)

    @router.get("/health")
    def health() -> dict[str, Any]:
        """Open to everybody, so it says what is not well and not why: the log does."""
        wrong = [check.name for check in app.checks if not check.well]
        return {"status": "ok", "not_well": wrong}

    @router.get("/metrics")
    def told(_: Annotator) -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE_PLAIN_0_0_4)
