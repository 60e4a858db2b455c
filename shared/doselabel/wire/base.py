"""What everything on the wire has in common, and how something failed."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """Base of everything on the wire: immutable, unknown fields ignored so that versions may differ."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class ErrorInfo(Frozen):
    """Why something failed: ``code`` for programs, ``message`` and ``hint`` for people."""

    code: str
    message: str
    hint: str = ""
