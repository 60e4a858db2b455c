"""Who passes the door, what is taken in, and how errors of whatever is behind it are told."""

import asyncio
import errno

import httpx
import pytest
from fastapi import FastAPI, HTTPException, Request, UploadFile
from monailabel.interfaces.exception import MONAILabelError, MONAILabelException

from doselabel.errors import FitError
from doselabel.wire import ErrorInfo
from monailabel_app import door
from monailabel_app.conf import ORIGINS, TOKEN
from monailabel_app.door import hang, needs
from monailabel_app.users import Users

ERRORS = {
    "typed": FitError("Found 1 point.", "Measure again."),
    "monai": MONAILabelException(MONAILabelError.INVALID_INPUT, "Model is not provided"),
    "http": HTTPException(404, "Image NOT Found"),
    "full": OSError(errno.ENOSPC, "No space left on device", "/studies/x"),
    "bug": KeyError("nothing"),
}


def behind() -> FastAPI:
    app = FastAPI()

    @app.get("/health")
    async def health():
        return "ok"

    @app.get("/fail/{how}")
    async def fail(how: str):
        raise ERRORS[how]

    @app.get("/number")
    async def number(n: int):
        return n

    @app.get("/approve", dependencies=[needs("reviewer")])
    def approve():
        return "done"

    @app.post("/take")
    async def take(request: Request):
        return len(await request.body())

    @app.post("/upload")
    def upload(file: UploadFile):
        return file.size

    return app


HERE = ("127.0.0.1", 50000)
ELSEWHERE = ("10.0.0.9", 50000)


def ask(
    path: str,
    users: Users,
    *,
    method: str = "GET",
    peer: tuple[str, int] = HERE,
    at: tuple[str, int] = ("127.0.0.1", 8000),
    files=None,
    content=None,
    **headers: str,
) -> httpx.Response:
    app = behind()
    hang(app, users)

    async def served(scope, receive, send):
        await app(scope | {"server": at}, receive, send)

    async def sent() -> httpx.Response:
        transport = httpx.ASGITransport(served, client=peer)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000") as client:
            return await client.request(method, path, headers=headers, files=files, content=content)

    return asyncio.run(sent())


@pytest.fixture
def nobody(tmp_path, monkeypatch) -> Users:
    monkeypatch.delenv(TOKEN, raising=False)
    monkeypatch.delenv(ORIGINS, raising=False)
    return Users(tmp_path)


@pytest.fixture
def users(nobody) -> Users:
    for name, role in (("ann", "annotator"), ("rev", "reviewer"), ("adm", "admin")):
        nobody.put(name, f"password of {name}", role)
    return nobody


@pytest.mark.parametrize(
    ("how", "status", "code", "message", "hint"),
    [
        ("typed", 422, "fit", "Found 1 point.", "Measure again."),
        ("monai", 400, "invalid_input", "Model is not provided", ""),
        ("http", 404, "not_found", "Image NOT Found", ""),
        ("full", 507, "disk", "No space left on device", "Free space"),
        ("bug", 500, "internal", "KeyError: 'nothing'", "log"),
    ],
)
def test_every_error_says_what_is_wrong_and_names_its_request(nobody, how, status, code, message, hint):
    reply = ask(f"/fail/{how}", nobody, **{"x-request-id": "mine-7"})
    info = ErrorInfo.model_validate(reply.json())
    assert (reply.status_code, info.code) == (status, code)
    assert message in info.message
    assert hint in info.hint
    assert reply.json()["request_id"] == reply.headers["x-request-id"] == "mine-7"
    assert "/studies" not in reply.text


def test_a_wrong_field_is_named(nobody):
    assert "n:" in ErrorInfo.model_validate(ask("/number?n=x", nobody).json()).message


def test_without_users_this_machine_is_answered_and_no_other(nobody):
    assert ask("/approve", nobody).status_code == 200
    refused = ask("/approve", nobody, peer=ELSEWHERE, at=("10.0.0.5", 8000))
    assert refused.status_code == 401
    assert "doselabel users add" in refused.json()["hint"]
    assert ask("/health", nobody, peer=ELSEWHERE).status_code == 200


def test_a_proxy_on_this_machine_does_not_make_others_local(nobody):
    assert ask("/approve", nobody, **{"x-forwarded-for": "10.0.0.9"}).status_code == 401


def test_with_users_everybody_logs_in_and_a_role_holds_those_below_it(users):
    assert ask("/approve", users).status_code == 401
    assert ask("/approve", users).headers["www-authenticate"] == "Bearer"
    assert ask("/nowhere", users).status_code == 401, "what there is, is told to nobody"
    for name, status in (("ann", 403), ("rev", 200), ("adm", 200)):
        bearer = f"Bearer {users.token(name)}"
        assert ask("/approve", users, authorization=bearer, peer=ELSEWHERE).status_code == status


@pytest.mark.parametrize("wrong", ["Bearer nonsense", "Basic YTpi", "Bearer "])
def test_a_wrong_token_opens_nothing(users, wrong):
    assert ask("/approve", users, authorization=wrong).status_code == 401


def test_a_token_in_the_environment_is_an_admin_s(nobody, monkeypatch):
    monkeypatch.setenv(TOKEN, "secret")
    assert ask("/approve", nobody).status_code == 401
    assert ask("/approve", nobody, authorization="Bearer wrong").status_code == 401
    assert ask("/approve", nobody, authorization="Bearer secret").status_code == 200


def test_a_damaged_list_of_users_lets_nobody_in(users, tmp_path):
    bearer = f"Bearer {users.token('adm')}"
    (tmp_path / "users.json").write_text("{")
    assert ask("/approve", users).status_code == 401
    refused = ask("/approve", users, authorization=bearer)
    assert refused.status_code == 500
    assert "can't be read" in refused.json()["message"]


def test_a_named_origin_passes_with_its_preflight_and_no_other(users, monkeypatch):
    monkeypatch.setenv(ORIGINS, "https://viewer.example")
    asked = {"origin": "https://viewer.example", "access-control-request-method": "PUT"}
    asked["access-control-request-headers"] = "authorization"
    preflight = ask("/approve", users, method="OPTIONS", **asked)
    assert preflight.status_code == 200
    assert preflight.headers["access-control-allow-origin"] == "https://viewer.example"
    bearer = f"Bearer {users.token('rev')}"
    reply = ask("/approve", users, origin="https://viewer.example", authorization=bearer)
    assert reply.status_code == 200
    assert reply.headers["access-control-allow-origin"] == "https://viewer.example"
    refused = ask("/approve", users, origin="https://viewer.example")
    assert refused.status_code == 401
    assert refused.headers["access-control-allow-origin"] == "https://viewer.example", "the page may read why"
    evil = ask("/approve", users, origin="https://evil.example", authorization=bearer)
    assert evil.status_code == 403
    assert "access-control-allow-origin" not in evil.headers


def test_a_strange_name_is_refused_where_nobody_logs_in(nobody, tmp_path):
    assert ask("/approve", nobody, host="evil.example").status_code == 403
    assert ask("/approve", nobody, host="localhost:8000").status_code == 200
    Users(tmp_path).put("rev", "password", "reviewer")
    bearer = f"Bearer {nobody.token('rev')}"
    assert ask("/approve", nobody, host="hospital.example", authorization=bearer).status_code == 200


def endless(count: int, first: bytes = b""):
    async def parts():
        yield first
        for _ in range(count):
            yield b"x" * 1000

    return parts()


def test_no_body_is_taken_beyond_its_limit_whether_it_says_its_length_or_not(users, monkeypatch):
    monkeypatch.setattr(door, "MAX_BODY_BYTES", 10_000)
    monkeypatch.setattr(door, "MAX_UPLOAD_BYTES", 20_000)
    bearer = f"Bearer {users.token('ann')}"
    post = {"method": "POST", "authorization": bearer}
    assert ask("/take", users, content=b"x" * 10_000, **post).json() == 10_000
    assert ask("/take", users, content=b"x" * 10_001, **post).status_code == 413
    assert ask("/take", users, content=endless(11), **post).status_code == 413
    assert ask("/upload", users, files={"file": b"x" * 15_000}, **post).json() == 15_000
    refused = ask("/upload", users, files={"file": b"x" * 25_000}, **post)
    assert (refused.status_code, refused.json()["code"]) == (413, "too_long")
    head = b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n'
    chunked = {"content-type": "multipart/form-data; boundary=b"}
    assert ask("/upload", users, content=endless(25, head), **post, **chunked).status_code == 413


def test_nothing_of_a_stranger_s_body_is_read(users):
    read = []

    async def parts():
        for part in range(100):
            read.append(part)
            yield b"x"

    reply = ask("/upload", users, method="POST", content=parts(), **{"content-type": "multipart/form-data; boundary=b"})
    assert reply.status_code == 401
    assert not read
