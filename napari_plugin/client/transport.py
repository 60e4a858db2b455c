"""One request to a server: timeouts, downloads streamed to disk, typed answers, errors in words. Knows no routes."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
import pydantic

from doselabel.errors import ServerError
from doselabel.wire import ErrorInfo

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 60.0
LOOPBACK = ("127.0.0.1", "localhost", "::1")

Model = TypeVar("Model", bound=pydantic.BaseModel)


class Transport:
    """Requests to one server.

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

    def __exit__(self, *_: object) -> None:
        self.close()

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
            return server_error(ErrorInfo.model_validate(_error_body(response)))
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


class Unreachable(ServerError):
    """Nobody answers at the address, or not in time; asking again may help."""

    code = "unreachable"


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


def server_error(info: ErrorInfo) -> ServerError:
    """The error that a server told of."""
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
