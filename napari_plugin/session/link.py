"""What is known of the server: one state, one line, one colour. Knows words; knows no Qt and no requests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from urllib.parse import urlsplit

from doselabel.wire import ServerInfo
from napari_plugin.client.stock import MISSING, STOCK

LinkState = Literal["offline", "connecting", "connected", "lost"]


@dataclass(frozen=True)
class Link:
    """The connection as a person should see it.

    Attributes
    ----------
    url : str
        The server that everything is sent to; "" when there is none.
    detail : str
        Why there is none, or why it does not answer.
    waiting : int
        Submissions kept on this computer until the server answers.
    """

    state: LinkState = "offline"
    url: str = ""
    detail: str = ""
    info: ServerInfo | None = None
    user: str = ""
    waiting: int = 0

    @property
    def stock(self) -> bool:
        """Whether it is a MONAI Label server with another app."""
        return self.info is not None and self.info.name.startswith(STOCK)

    @property
    def text(self) -> str:
        """The chip's words."""
        parts = [self._head]
        if self.info is not None and self.state == "connected":
            model = self.info.model
            ours = [self.info.version, f"{model.profile} {model.sha256[:8]}" if model else "no model"]
            parts += [STOCK] if self.stock else ours
        if self.user and self.url:
            parts.append(self.user)
        if self.waiting:
            parts.append(f"{self.waiting} to send")
        return " · ".join(parts)

    @property
    def tip(self) -> str:
        """What the chip says to those who ask."""
        lines = [self.url or "No server is connected."]
        if self.info is not None:
            info = self.info
            lines.append(f"{info.name} {info.version}: {info.studies} patients, {info.labelled} of {info.images} CTs")
            model = f"model {info.model.name} {info.model.sha256}" if info.model else "no model"
            lines.append(MISSING if self.stock else model)
        if self.waiting:
            lines.append(f"{self.waiting} submission(s) are kept here and sent when it answers.")
        return "\n".join([*lines, self.detail] if self.detail else lines)

    @property
    def _head(self) -> str:
        host = urlsplit(self.url).netloc or self.url
        return {
            "offline": "not connected",
            "connecting": f"connecting to {host} …",
            "connected": host,
            "lost": f"{host} does not answer",
        }[self.state]
