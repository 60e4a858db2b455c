"""What passes the front door, and how errors of whatever is behind it are told."""

import errno

import httpx
import pytest
from fastapi import FastAPI, HTTPException
from monailabel.interfaces.exception import MONAILabelError, MONAILabelException

from doselabel.errors import FitError
from doselabel.wire import ErrorInfo
from monailabel_app.conf import ORIGINS, TOKEN
from monailabel_app.front import Front

ERRORS = {
    "typed": FitError("Found 1 point.", "Measure again."),
    "monai": MONAILabelException(MONAILabelError.INVALID_INPUT, "Model is not provided"),
    "http": HTTPException(404, "Image NOT Found"),
    "full": OSError(errno.ENOSPC, "No space left on device", "/studies/x"),
    "bug": KeyError("nothing"),
}


def inner() -> FastAPI:
    app = FastAPI()

    @app.get("/fail/{how}")
    async def fail(how: str):
        raise ERRORS[how]

    @app.get("/number")
    async def number(n: int):
        return n

    @app.get("/whose")
    async def whose():
        return "inner"

    return app


def own() -> FastAPI:
    app = FastAPI()

    @app.get("/whose")
    def whose():
        return "own"

    return app


async def ask(path: str, server: tuple[str, int] = ("127.0.0.1", 8000), **headers: str) -> httpx.Response:
    async def at(scope, receive, send):
        await Front(inner(), own())(scope | {"server": server}, receive, send)

    transport = httpx.ASGITransport(at)
    async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
        return await client.get(path, headers=headers)


def get(path: str, **kwargs) -> httpx.Response:
    import asyncio

    return asyncio.run(ask(path, **kwargs))


def test_our_routes_come_before_those_behind():
    assert get("/whose").json() == "own"
    assert get("/number?n=3").json() == 3


@pytest.mark.parametrize(
    ("how", "status", "code", "message", "hint"),
    [
        ("typed", 422, "fit", "Found 1 point.", "Measure again."),
        ("monai", 400, "invalid_input", "Model is not provided", ""),
        ("http", 404, "not_found", "Image NOT Found", ""),
        ("full", 500, "disk", "/studies/x can't be written: No space left on device.", "writable"),
        ("bug", 500, "internal", "KeyError: 'nothing'", "log"),
    ],
)
def test_every_error_says_what_is_wrong(how, status, code, message, hint):
    reply = get(f"/fail/{how}")
    info = ErrorInfo.model_validate(reply.json())
    assert (reply.status_code, info.code) == (status, code)
    assert message in info.message
    assert hint in info.hint


def test_a_wrong_field_is_named():
    assert "n:" in ErrorInfo.model_validate(get("/number?n=x").json()).message


def test_with_a_token_set_only_its_bearers_pass(monkeypatch):
    monkeypatch.setenv(TOKEN, "secret")
    assert get("/whose").status_code == 401
    assert get("/whose", authorization="Bearer wrong").status_code == 401
    assert get("/whose", authorization="Bearer secret").status_code == 200


def test_a_named_origin_passes_and_no_other(monkeypatch):
    monkeypatch.setenv(ORIGINS, "https://viewer.example")
    assert get("/whose", origin="https://viewer.example").status_code == 200
    assert get("/whose", origin="https://evil.example").status_code == 403


def test_a_strange_name_is_refused_on_this_machine_and_allowed_on_a_network():
    assert get("/whose", host="evil.example").status_code == 403
    assert get("/whose", host="localhost:8000").status_code == 200
    assert get("/whose", host="hospital.example", server=("10.0.0.5", 8000)).status_code == 200
