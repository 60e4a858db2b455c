"""How an error becomes an answer: exception → HTTP status + `ErrorInfo`. Knows no routes."""

from __future__ import annotations

import errno
from pathlib import Path

from monailabel.interfaces.exception import MONAILabelException
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse  # FastAPI's own, without FastAPI: workers and checks need none

from doselabel.errors import DoselabelError, ServerError
from doselabel.wire import ErrorInfo

_FULL = {errno.ENOSPC, errno.EDQUOT}
_NO_MEMORY = ("bad_alloc", "DefaultCPUAllocator", "out of memory")
"""How libraries say that they got none: numpy, SimpleITK, torch on a CPU and on a GPU."""
_OUR_FAULT = {"cancelled", "disk", "internal", "memory", "restarted", "server", "timeout", "worker"}
"""Codes of jobs that failed for no fault of what was asked."""
_SHUT = {errno.EACCES, errno.EPERM, errno.EROFS}


class Refused(ServerError):
    """A request that is not granted; carries its HTTP status."""

    def __init__(
        self, message: str, hint: str = "", *, status: int = 422, code: str = "refused", retry_after_s: int = 0
    ) -> None:
        super().__init__(message, hint)
        self.status = status
        self.code = code
        self.retry_after_s = retry_after_s


class JobFailed(ServerError):
    """A job ended without a result; carries what it said, and whether that is the server's fault or the request's."""

    def __init__(self, info: ErrorInfo) -> None:
        super().__init__(info.message, info.hint)
        self.code = info.code
        self.status = 500 if info.code in _OUR_FAULT else 422


def not_found(what: str, name: str, hint: str = "") -> Refused:
    """Refuse an id that nothing stands for."""
    shown = name if len(name) <= 80 else name[:77] + "…"
    return Refused(f"There is no {what} '{shown}'.", hint, status=404, code="not_found")


def explain(error: BaseException) -> tuple[int, ErrorInfo]:
    """HTTP status and `ErrorInfo` of an exception."""
    if isinstance(error, DoselabelError):
        status = getattr(error, "status", 500 if isinstance(error, ServerError) else 422)
        return status, ErrorInfo(code=error.code, message=error.message, hint=error.hint)
    if isinstance(error, MONAILabelException):
        return 400, ErrorInfo(code=error.error.value.lower(), message=str(error.msg))
    if isinstance(error, HTTPException):
        if isinstance(error.__cause__, DoselabelError | OSError):  # FastAPI calls all that befalls a body "an error"
            return explain(error.__cause__)
        code = "not_found" if error.status_code == 404 else f"http_{error.status_code}"
        return error.status_code, ErrorInfo(code=code, message=str(error.detail))
    if isinstance(error, MemoryError) or any(words in str(error) for words in _NO_MEMORY):
        return 500, ErrorInfo(
            code="memory",
            message="The memory that this process may have did not suffice.",
            hint="Raise --conf memory_gb, or use a machine with more memory.",
        )
    if isinstance(error, OSError) and error.errno in _FULL | _SHUT:
        full = error.errno in _FULL
        return 507 if full else 500, ErrorInfo(
            code="disk",
            message=f"The server's disk does not take it: {error.strerror}. What was there before is unchanged.",
            hint="Free space on the server's disk." if full else "Let the server use its studies folder (permissions).",
        )
    return 500, ErrorInfo(
        code="internal",
        message=f"An error that should not happen: {type(error).__name__}: {error}",
        hint="The server's log has the details; please report it.",
    )


def upload_words(message: str, file: Path, what: str) -> str:
    """What is wrong with an uploaded file, called ``what`` instead of the name that it has on this machine."""
    own = f"{file}: "
    return message.replace(own, f"{what}: " if f"{own}its " in message else f"{what} ", 1)


def answer(status: int, info: ErrorInfo, request_id: str = "", error: BaseException | None = None) -> JSONResponse:
    """The reply; ``detail`` is where clients of FastAPI servers look for a reason, ``request_id`` is in the log too."""
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else {}
    if wait := getattr(error, "retry_after_s", 0):
        headers["Retry-After"] = str(wait)
    detail = f"{info.message} {info.hint}".strip()
    return JSONResponse({**info.model_dump(), "detail": detail, "request_id": request_id}, status, headers)
