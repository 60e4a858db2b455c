"""The client's answers when a server does not do what it should; the right answers are tested on a real server."""

from __future__ import annotations

import json
import socket
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest

from doselabel.errors import Cancelled, ServerError
from doselabel.wire import ErrorInfo, JobRequest, JobStatus
from napari_plugin.client import Client, inside
from napari_plugin.client import http as client_module
from napari_plugin.client.http import normal_url

URL = "http://server:8000"


def client(handler) -> Client:
    return Client(URL, transport=httpx.MockTransport(handler))


def status(state: str, fraction: float = 0.0, **more) -> httpx.Response:
    job = JobStatus(id="7", task="t", state=state, fraction=fraction, created=datetime.now(UTC), **more)
    return httpx.Response(200, content=job.model_dump_json())


def test_a_port_where_nobody_listens_is_said_in_one_line_with_a_remedy():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(ServerError, match=rf"127\.0\.0\.1:{port} refuses the connection\. Is the server running") as e:
        Client(f"127.0.0.1:{port}").info()
    assert "\n" not in str(e.value)
    assert e.value.code == "unreachable"


def test_a_refusal_arrives_with_the_servers_own_code_message_and_hint():
    refusal = ErrorInfo(code="label", message="Value 9 has no name.", hint="Renumber it.")
    for body in (refusal.model_dump(), {"detail": refusal.model_dump()}):
        with pytest.raises(ServerError, match=r"Value 9 has no name\. Renumber it\.") as caught:
            client(lambda _, body=body: httpx.Response(422, json=body)).studies()
        assert caught.value.code == "label"


@pytest.mark.parametrize(
    ("response", "message"),
    [
        (httpx.Response(500, text="Internal Server Error"), r"answered 500 to GET /doselabel/studies"),
        (httpx.Response(401, text="no"), "wants a valid token"),
        (httpx.Response(200, json=[{"patient_id": 3}]), "something else than expected"),
        (httpx.Response(200, text="<html>"), "something else than expected"),
    ],
)
def test_other_answers_are_told_in_words(response, message):
    with pytest.raises(ServerError, match=message):
        client(lambda _: response).studies()


def test_a_monai_label_server_with_another_app_is_recognised():
    def other(request: httpx.Request) -> httpx.Response:
        if request.url.path == "/info/":
            return httpx.Response(200, json={"name": "radiology"})
        return httpx.Response(404, json={"detail": "Not Found"})

    with pytest.raises(ServerError, match=r"is a MONAI Label server, but its app is 'radiology'"):
        client(other).info()
    with pytest.raises(ServerError, match="is no doselabel server"):
        client(lambda _: httpx.Response(404)).info()


def test_a_token_travels_as_bearer():
    seen = []

    def handler(request: httpx.Request) -> httpx.Response:
        seen.append(request.headers.get("authorization"))
        return httpx.Response(200, json=[])

    Client(URL, "secret", transport=httpx.MockTransport(handler)).studies()
    assert seen == ["Bearer secret"]


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("localhost:8000", "http://localhost:8000"),
        (" http://a.b:1/ ", "http://a.b:1"),
        ("https://x/y", "https://x/y"),
    ],
)
def test_addresses_are_completed(typed, meant):
    assert normal_url(typed) == meant


@pytest.mark.parametrize("typed", ["", "ftp://x", "http://", "a b", "http://x:99999"])
def test_what_is_no_address_is_refused_before_anything_is_sent(typed):
    with pytest.raises(ServerError, match="is not a server's address"):
        Client(typed)


# ---- downloads


def test_a_file_that_did_not_change_is_not_fetched_again(tmp_path):
    bodies = [b"one", b"never read", b"two"]
    tags = ['"1"', '"1"', '"2"']

    def handler(_: httpx.Request) -> httpx.Response:
        return httpx.Response(200, content=bodies.pop(0), headers={"etag": tags.pop(0)})

    with client(handler) as server:
        for expected in (b"one", b"one", b"two"):
            assert server.study_file("P", "ct.nii.gz", tmp_path).read_bytes() == expected


def test_a_download_that_breaks_off_leaves_no_half_file(tmp_path):
    class Breaking(httpx.SyncByteStream):
        def __iter__(self):
            yield b"half"
            raise httpx.ReadError("gone")

    with pytest.raises(ServerError, match=r"broke off \(gone\)"):
        client(lambda _: httpx.Response(200, stream=Breaking())).study_file("P", "ct.nii.gz", tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../ct.nii.gz", "/etc/passwd", "a/../../b", ""])
def test_a_name_that_leads_out_of_the_folder_is_refused(tmp_path, name):
    with pytest.raises(ServerError, match="would lie outside"):
        inside(tmp_path, name)


# ---- jobs


def test_a_failed_job_raises_what_the_server_says_of_it():
    failed = status("failed", error=ErrorInfo(code="model", message="No weights.", hint="Train."))
    with pytest.raises(ServerError, match=r"No weights\. Train\.") as caught:
        client(lambda _: failed).run_job("t", JobRequest())
    assert caught.value.code == "model"


def test_cancelling_reaches_the_server():
    asked = []

    def handler(request: httpx.Request) -> httpx.Response:
        asked.append(f"{request.method} {request.url.path}")
        return status("running", 0.3, stage="slices")

    def stop(stage: str, fraction: float) -> None:
        assert (stage, fraction) == ("slices", 0.3)
        raise Cancelled

    with pytest.raises(Cancelled):
        client(handler).run_job("t", JobRequest(), stop, poll_s=0)
    assert asked == ["POST /jobs/t", "DELETE /jobs/7"]


def test_a_server_too_busy_to_answer_once_does_not_end_the_job(monkeypatch):
    monkeypatch.setattr(client_module.time, "sleep", lambda _: None)
    answers = [
        status("queued"),
        httpx.ReadTimeout("busy"),
        status("running", 0.5),
        status("done", 1.0),
        httpx.Response(200, json={"id": "7", "task": "t", "files": {"labels": "l.nii.gz"}}),
    ]

    def handler(request: httpx.Request) -> httpx.Response:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert client(handler).run_job("t", JobRequest()).files == {"labels": "l.nii.gz"}


def test_submitting_sends_the_file_and_what_is_known_of_it(tmp_path: Path):
    from doselabel.wire import LabelSubmission

    sent = {}

    def handler(request: httpx.Request) -> httpx.Response:
        sent["body"] = request.read()
        version = {"image_id": "P__ct", "version": 2, "created": "2026-01-01T00:00:00Z"}
        return httpx.Response(200, content=json.dumps(version))

    path = tmp_path / "l.nii.gz"
    path.write_bytes(b"label bytes")
    stored = client(handler).submit_label("P__ct", path, LabelSubmission(author="me", started_from="version 1"))
    assert stored.version == 2
    assert b"label bytes" in sent["body"]
    assert b'"started_from":"version 1"' in sent["body"]
