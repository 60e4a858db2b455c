"""A small client of the doselabel server: typed answers, timeouts, downloads streamed to disk, readable errors.

It knows routes (doselabel.wire lists them) and files; it knows no Qt and does not look into images.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote, urlsplit

import httpx
import pydantic

from doselabel.errors import Cancelled, Progress, ServerError, no_progress
from doselabel.study import Registration
from doselabel.wire import (
    ErrorInfo,
    JobRequest,
    JobResult,
    JobStatus,
    LabelSubmission,
    LabelVersion,
    NextCase,
    ServerInfo,
    StudyInfo,
)

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 60.0
UPLOAD_TIMEOUT_S = 300.0
POLL_S = 0.5
LOOPBACK = ("127.0.0.1", "localhost", "::1")
LOST_CONTACT_S = 30.0
"""A running job survives a server that does not answer for this long; then following it is given up, unless told
to be more patient."""

Model = TypeVar("Model", bound=pydantic.BaseModel)
Answer = TypeVar("Answer")


class Client:
    """One server.

    Parameters
    ----------
    url : str
        Such as ``http://127.0.0.1:8000``; ``http://`` may be left out.
    token : str, optional
        Sent as a bearer token.
    transport : httpx.BaseTransport, optional
        How requests travel; the network by default.

    All methods block, may be called from any thread, and raise `ServerError` with a message for people.
    """

    def __init__(self, url: str, token: str | None = None, *, transport: httpx.BaseTransport | None = None) -> None:
        self.url = normal_url(url)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._http = httpx.Client(
            base_url=self.url,
            headers=headers,
            timeout=httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            transport=transport,
            follow_redirects=True,
            trust_env=urlsplit(self.url).hostname not in LOOPBACK,  # a proxy can't know this machine's own server
        )

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ---- who answers, and what it has

    def info(self, timeout_s: float | None = None) -> ServerInfo:
        """Ask who answers; tells a MONAI Label server with another app from one that is none at all."""
        try:
            return self._model(ServerInfo, "GET", "/doselabel/info", **_within(timeout_s))
        except ServerError as error:
            if error.code != "http_404":
                raise
            raise self._not_doselabel() from error

    def studies(self) -> list[StudyInfo]:
        """List patients, also those that can't be used (their ``error`` says why)."""
        return self._models(StudyInfo, "GET", "/doselabel/studies")

    def study_file(
        self, patient_id: str, name: str, folder: Path, progress: Callable[[float], None] | None = None
    ) -> Path:
        """Fetch an image of a study into ``folder``; a file already there and unchanged is kept."""
        route = f"/doselabel/studies/{quote(patient_id, safe='')}/file/{quote(name)}"
        return self._download(route, inside(folder, name), progress)

    def set_registration(self, patient_id: str, time_point: int, registration: Registration) -> StudyInfo:
        """Store how a time point's SPECT is brought onto its CT."""
        return self._model(
            StudyInfo,
            "PUT",
            f"/doselabel/studies/{quote(patient_id, safe='')}/registration/{time_point}",
            json=registration.model_dump(mode="json"),
        )

    def next_case(self, strategy: str = "", user: str = "") -> NextCase:
        """Ask which case to annotate next, and why."""
        query = {key: value for key, value in (("strategy", strategy), ("user", user)) if value}
        return self._model(NextCase, "GET", "/doselabel/next", params=query)

    # ---- labels

    def label_versions(self, image_id: str, timeout_s: float | None = None) -> list[LabelVersion]:
        """List the label maps of a CT, newest first."""
        route = f"/doselabel/labels/{quote(image_id, safe='')}"
        return self._models(LabelVersion, "GET", route, **_within(timeout_s))

    def label_file(self, image_id: str, version: int, path: Path) -> Path:
        """Fetch one version of a label map to ``path``."""
        return self._download(f"/doselabel/labels/{quote(image_id, safe='')}/{version}", path)

    def submit_label(self, image_id: str, path: Path, submission: LabelSubmission) -> LabelVersion:
        """Store a label map as a new version."""
        with path.open("rb") as file:
            return self._model(
                LabelVersion,
                "POST",
                f"/doselabel/labels/{quote(image_id, safe='')}",
                data={"params": submission.model_dump_json()},
                files={"file": (path.name, file, "application/octet-stream")},
                timeout=httpx.Timeout(UPLOAD_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            )

    # ---- jobs

    def start_job(self, task: str, request: JobRequest) -> JobStatus:
        """Start a job: an infer task's name, or "train"."""
        return self._model(JobStatus, "POST", f"/jobs/{quote(task, safe='')}", json=request.model_dump(mode="json"))

    def jobs(self) -> list[JobStatus]:
        """List the server's jobs."""
        return self._models(JobStatus, "GET", "/jobs")

    def job(self, job_id: str) -> JobStatus:
        """Ask how far a job is."""
        return self._model(JobStatus, "GET", f"/jobs/{quote(job_id, safe='')}")

    def job_result(self, job_id: str) -> JobResult:
        """Fetch what a finished job made."""
        return self._model(JobResult, "GET", f"/jobs/{quote(job_id, safe='')}/result")

    def job_file(self, job_id: str, name: str, path: Path, progress: Callable[[float], None] | None = None) -> Path:
        """Fetch a file of a job's result to ``path``."""
        return self._download(f"/jobs/{quote(job_id, safe='')}/file/{quote(name)}", path, progress)

    def cancel_job(self, job_id: str) -> JobStatus:
        """Cancel a job."""
        return self._model(JobStatus, "DELETE", f"/jobs/{quote(job_id, safe='')}")

    def run_job(
        self,
        task: str,
        request: JobRequest,
        progress: Progress = no_progress,
        *,
        on_status: Callable[[JobStatus], None] | None = None,
        poll_s: float = POLL_S,
        patience_s: float = LOST_CONTACT_S,
    ) -> JobResult:
        """Start a job and follow it to its end; if ``progress`` raises, the job is cancelled on the server.

        Parameters
        ----------
        progress : Progress
            Called at every poll with the job's stage and fraction.
        on_status : callable, optional
            Called with every `JobStatus` seen, for those who want more than stage and fraction.
        patience_s : float
            How long a server that does not answer is waited for; `math.inf` until ``progress`` raises.

        Raises
        ------
        ServerError
            When the job fails (with the server's own code, message and hint) or contact is lost.
        Cancelled
            When ``progress`` raised it, or somebody else cancelled the job.
        """
        status = self.start_job(task, request)
        try:
            while not status.is_over:
                if on_status is not None:
                    on_status(status)
                progress(status.stage or status.state, status.fraction)
                time.sleep(poll_s)
                status = self.patiently(
                    lambda job_id=status.id: self.job(job_id),
                    lambda last=status: progress(f"{last.stage} (no answer, waiting)", last.fraction),
                    patience_s,
                )
        except ServerError as error:
            if error.code == "not_found":
                raise ServerError(f"{self.url} was restarted and forgot this job.", "Start it again.") from error
            raise
        except BaseException:
            self._cancel_quietly(status.id)
            raise
        if on_status is not None:
            on_status(status)
        if status.state == "cancelled":
            raise Cancelled(status.message or "cancelled on the server")
        if status.state == "failed":
            raise _server_error(status.error or ErrorInfo(code="server", message=status.message or "The job failed."))
        progress("done", 1.0)
        waiting = lambda: progress("fetching the result (no answer, waiting)", 1.0)  # noqa: E731
        return self.patiently(lambda: self.job_result(status.id), waiting, patience_s)

    def patiently(
        self, ask: Callable[[], Answer], waiting: Callable[[], None], patience_s: float = LOST_CONTACT_S
    ) -> Answer:
        """Ask, and ask again while the server does not answer; ``waiting`` may raise to give up earlier."""
        deadline = time.monotonic() + patience_s
        while True:
            try:
                return ask()
            except Unreachable:
                if time.monotonic() > deadline:
                    raise
            waiting()
            time.sleep(1.0)

    def _cancel_quietly(self, job_id: str) -> None:
        # The work is being given up in any case; the reason for that must reach the caller.
        with contextlib.suppress(ServerError):
            self.cancel_job(job_id)

    # ---- one request

    def _send(self, method: str, route: str, **options: Any) -> httpx.Response:
        try:
            response = self._http.request(method, route, **options)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error
        if response.is_error:
            raise self._refused(response)
        return response

    def _model(self, model: type[Model], method: str, route: str, **options: Any) -> Model:
        response = self._send(method, route, **options)
        try:
            return model.model_validate_json(response.content)
        except pydantic.ValidationError as error:
            raise self._not_understood(route, error) from error

    def _models(self, model: type[Model], method: str, route: str, **options: Any) -> list[Model]:
        response = self._send(method, route, **options)
        try:
            return pydantic.TypeAdapter(list[model]).validate_json(response.content)  # type: ignore[valid-type]
        except pydantic.ValidationError as error:
            raise self._not_understood(route, error) from error

    def _download(self, route: str, path: Path, progress: Callable[[float], None] | None = None) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        etag_file = path.with_name(f".{path.name}.etag")
        partial = path.with_name(f".{path.name}.part")
        try:
            with self._http.stream("GET", route) as response:
                if response.is_error:
                    response.read()
                    raise self._refused(response)
                etag = response.headers.get("etag", "")
                if etag and path.is_file() and etag_file.is_file() and etag_file.read_text() == etag:
                    return path
                self._receive(response, partial, progress)
        except httpx.HTTPError as error:
            partial.unlink(missing_ok=True)
            raise self._unreachable(error) from error
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        os.replace(partial, path)
        if etag:
            etag_file.write_text(etag)
        return path

    def _receive(self, response: httpx.Response, path: Path, progress: Callable[[float], None] | None) -> None:
        total = int(response.headers.get("content-length", 0))
        with path.open("wb") as file:
            for chunk in response.iter_bytes(1 << 20):
                file.write(chunk)
                if progress is not None and total:
                    progress(min(1.0, response.num_bytes_downloaded / total))

    # ---- what went wrong, in words

    def _unreachable(self, error: httpx.HTTPError) -> ServerError:
        if isinstance(error, httpx.ConnectTimeout):
            found = f"did not answer within {CONNECT_TIMEOUT_S:g} s"
        elif isinstance(error, httpx.ConnectError):
            found = "refuses the connection" if "refused" in str(error).lower() else f"can't be reached ({error})"
        elif isinstance(error, httpx.TimeoutException):
            found = "answers too slowly"
        else:
            found = f"broke off ({error or type(error).__name__})"
        return Unreachable(
            f"{self.url} {found}.", "Is the server running there? Start it with `doselabel serve STUDIES`."
        )

    def _refused(self, response: httpx.Response) -> ServerError:
        try:
            return _server_error(ErrorInfo.model_validate(_error_body(response)))
        except (pydantic.ValidationError, ValueError):
            pass
        if response.status_code in (401, 403):
            return ServerError(f"{self.url} wants a valid token.", "Enter the token its administrator gave you.")
        request = response.request
        error = ServerError(
            f"{self.url} answered {response.status_code} to {request.method} {request.url.path}.",
            "Its log (GET /logs/) may say why.",
        )
        error.code = f"http_{response.status_code}"
        return error

    def _not_understood(self, route: str, error: pydantic.ValidationError) -> ServerError:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        return ServerError(
            f"{self.url}{route} answered something else than expected ({where}: {first['msg']}).",
            "Server and plugin may be of different versions.",
        )

    def _not_doselabel(self) -> ServerError:
        try:
            name = self._send("GET", "/info/").json().get("name", "unnamed")
        except (ServerError, ValueError, AttributeError):
            return ServerError(f"{self.url} answers, but is no doselabel server.", "Check address and port.")
        return ServerError(
            f"{self.url} is a MONAI Label server, but its app is '{name}'.",
            "Start it with `--app monailabel_app`.",
        )


class Unreachable(ServerError):
    """Nobody answers at the address, or not in time; asking again may help."""

    code = "unreachable"


def _within(timeout_s: float | None) -> dict[str, httpx.Timeout]:
    return {} if timeout_s is None else {"timeout": httpx.Timeout(timeout_s)}


def normal_url(url: str) -> str:
    """Complete an address a person typed.

    Raises
    ------
    ServerError
        When it can't be an address of a server.
    """
    text = url.strip()
    text = (text if "://" in text else f"http://{text}").rstrip("/")
    try:
        parts = urlsplit(text)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port is None or parts.port > 0)
    except ValueError:
        valid = False
    if not valid or any(c.isspace() for c in text):
        raise ServerError(f"'{url}' is not a server's address.", "Expected something like http://127.0.0.1:8000.")
    return text


def inside(folder: Path, name: str) -> Path:
    """Path of a file in ``folder`` by a name the server gave, which must not lead out of it."""
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()) or path == folder.resolve():
        raise ServerError(f"The server names a file '{name}', which would lie outside {folder}.")
    return path


def _server_error(info: ErrorInfo) -> ServerError:
    error = ServerError(info.message, info.hint)
    error.code = info.code
    return error


def _error_body(response: httpx.Response) -> Mapping[str, Any]:
    """FastAPI puts what its HTTPException carries under "detail"; ours may stand there or at the top."""
    body = response.json()
    if isinstance(body, dict) and isinstance(body.get("detail"), dict):
        body = body["detail"]
    if not isinstance(body, dict):
        raise ValueError("not an object")
    return body
