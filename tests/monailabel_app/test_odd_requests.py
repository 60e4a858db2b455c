"""Every route of a real server asked as no client of ours does: refused in words, never an error of its own."""

import json
import re
import socket
from urllib.parse import quote

import httpx
import pytest

NAMES = [
    "../../etc/passwd",
    "..",
    "\0",
    "x" * 3000,
    "é💥",
    "-1",
    "1e9",
    "P-001__ct\n",
    "{model}",
    "a/b",
    "%",
    "null",
    " ",
]
TEXTS = ["", "null", "[]", "NaN", '{"a":', '"text"', "1e999", '{"params": NaN}', "[" * 5000, '{"x": "\\ud800"}', "\0"]
QUERIES = [
    {"image": "../P-001", "label": "../P-001", "tag": "../final", "user": "x" * 5000, "strategy": "../first"},
    {"image": "P-001__ct", "label": "P-001__ct", "tag": "x/y", "sha256": "../../champion", "limit_cases": "-1"},
    {"image": "\0", "label": "\0", "tag": "\0", "output": "everything", "expiry": "-5", "lines": "1e9"},
    {
        "image": ["a", "b"],
        "label": ["a", "b"],
        "tag": "",
        "images": "some",
        "session_id": "../../x",
        "approved": "maybe",
    },
]
BODIES = [
    {"files": {"file": ("x", b""), "files": ("y", b""), "label": ("z", b"")}},
    {"files": {"file": ("../../x.nii.gz", b"\x1f\x8b" + b"\0" * 50)}, "data": {"params": "[]"}},
    {"files": {"label": ("x.nrrd", b"NRRD0005\ndata file: /etc/passwd\n\n")}, "data": {"params": '{"label_info": 7}'}},
    {"files": {"label": ("x.mha", b"ObjectType = Image\nElementDataFile = /etc/passwd\n")}, "data": {"params": "{"}},
    {"data": {"params": "null", "info": "[]", "username": "", "password": "\0", "grant_type": "code"}},
    {"content": b"\xff\xfe" * 100, "headers": {"content-type": "application/json"}},
    {"content": b"x", "headers": {"content-type": "multipart/form-data"}},
    {"content": b"--b\r\nbroken", "headers": {"content-type": "multipart/form-data; boundary=b"}},
    {"content": b"{}", "headers": {"content-type": "text/xml; charset=nonsense"}},
]


@pytest.fixture(scope="module")
def routes(server) -> list[tuple[str, str]]:
    paths = httpx.get(f"{server.url}/openapi.json", trust_env=False).json()["paths"]
    found = [(method.upper(), path) for path, methods in paths.items() for method in methods]
    assert len(found) > 50
    return sorted(found)


def filled(path: str, name: str) -> str:
    return re.sub(r"\{[^}]*\}", lambda _: quote(name, safe=""), path)


def good(reply: httpx.Response, what: object) -> None:
    """A refusal in words, or an answer that is none of our business here."""
    assert reply.status_code < 500, (what, reply.status_code, reply.text[:300])
    if reply.status_code >= 400 and reply.request.method != "HEAD":
        said = reply.json()
        assert said["code"], what
        assert said["code"] != "internal", what
        assert said["message"], what
        assert said["request_id"] == reply.headers["x-request-id"], what
    assert "root:" not in reply.text, "a file of the server was read out"


def starts_work(method: str, path: str) -> bool:
    """What these requests might really begin, with nothing wrong about them."""
    return method == "POST" and path.startswith(("/train", "/batch", "/doselabel/active", "/scoring/"))


def test_names_that_are_none(http, routes):
    for method, path in routes:
        if "{" in path:
            for name in NAMES:
                reply = http.request(method, filled(path, name))
                good(reply, (method, path, name))
                if name != ".." and ("{image_id}" in path or "{patient_id}" in path):  # a client resolves ".." itself
                    assert reply.status_code in (404, 405, 422), (method, path, name, reply.status_code)


def test_queries_that_make_no_sense(http, routes):
    for method, path in routes:
        if not starts_work(method, path):
            for query in QUERIES:
                good(http.request(method, filled(path, "x"), params=query), (method, path, query))


def test_bodies_of_a_wrong_kind(http, routes):
    for method, path in routes:
        if method in ("POST", "PUT") and not starts_work(method, path):
            for body in BODIES:
                good(
                    http.request(method, filled(path, "P-001__ct"), params={"image": "P-001__ct"}, **body), (path, body)
                )
            for text in TEXTS:
                headers = {"content-type": "application/json"}
                reply = http.request(method, filled(path, "x"), content=text.encode(), headers=headers)
                good(reply, (method, path, text))
                good(http.request(method, filled(path, "x"), data={"params": text}), (method, path, text))


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /info/ HTTP/1.1\r\n\r\n",
        b"GET /info/ HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: a\x00b\r\n\r\n",
        b"GET //info/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"GET /info/ HTTP/1.0\r\n\r\n",
        b"PUT /datastore/label?image=P-001__ct HTTP/1.1\r\nHost: localhost\r\nContent-Length: -5\r\n\r\n",
        b"PUT /datastore/label HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999999999999\r\n\r\nx",
        b"POST /auth/token HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"BREW /info/ HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    ],
    ids=range(10),
)
def test_bytes_that_are_hardly_http(http, server, sent):
    address = httpx.URL(server.url)
    with socket.create_connection((address.host, address.port), timeout=60) as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        reply = connection.recv(65536)
    assert not reply or reply.startswith((b"HTTP/1.1 4", b"HTTP/1.1 2"))
    assert http.get("/health").json()["status"] == "ok"


def test_nothing_of_all_this_was_kept(http):
    versions = http.get("/doselabel/labels/P-001__ct").json()
    assert all(version["error"] is None for version in versions)
    assert json.dumps(http.get("/jobs").json()).count('"running"') <= 1
