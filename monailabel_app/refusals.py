"""How an error becomes an answer: exception → HTTP status + `ErrorInfo`. Knows no routes."""

from __future__ import annotations

import errno

from fastapi.responses import JSONResponse
from monailabel.interfaces.exception import MONAILabelException
from starlette.exceptions import HTTPException

from doselabel.errors import DoselabelError, ServerError
from doselabel.wire import ErrorInfo

_DISK = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT}


class Refused(ServerError):
    """A request that is not granted; carries its HTTP status."""

    def __init__(self, message: str, hint: str = "", *, status: int = 422, code: str = "refused") -> None:
        super().__init__(message, hint)
        self.status = status
        self.code = code


class JobFailed(ServerError):
    """A job ended without a result; carries what it said."""

    def __init__(self, info: ErrorInfo) -> None:
        super().__init__(info.message, info.hint)
        self.code = info.code


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
        return error.status_code, ErrorInfo(code=f"http_{error.status_code}", message=str(error.detail))
    if isinstance(error, MemoryError):
        return 500, ErrorInfo(
            code="memory", message="The memory did not suffice.", hint="Use a machine with more memory."
        )
    if isinstance(error, OSError) and error.errno in _DISK:
        return 500, ErrorInfo(
            code="disk",
            message=f"{error.filename or 'A file'} can't be written: {error.strerror}.",
            hint="See that the studies folder is writable and its disk not full.",
        )
    return 500, ErrorInfo(
        code="internal",
        message=f"An error that should not happen: {type(error).__name__}: {error}",
        hint="The server's log has the details; please report it.",
    )


def answer(status: int, info: ErrorInfo) -> JSONResponse:
    """The reply; ``detail`` is where clients of FastAPI servers look for a reason."""
    return JSONResponse({**info.model_dump(), "detail": f"{info.message} {info.hint}".strip()}, status)
