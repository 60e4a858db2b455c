"""The one connection to a server: who it is, whether it answers, what it lists. Knows threads and requests; no widgets.

What is sent goes through ``client``, and the chip shows ``link``: both always name the same server.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from qtpy.QtCore import QObject, QTimer, Signal

from doselabel.errors import DoselabelError, Progress, ServerError
from doselabel.wire import LabelVersion, ServerInfo, StudyInfo
from napari_plugin.client import Client, reached
from napari_plugin.client.http import Unreachable, normal_url
from napari_plugin.session.link import Link
from napari_plugin.tasks import Tasks

BEAT_MS = 1500
BEAT_TIMEOUT_S = 2.5
"""A server that vanishes is called lost after at most the two together."""


class Connection(QObject):
    """Connects, listens for the server's heartbeat, and lists its studies.

    Signals
    -------
    changed(Link)
        The chip has something else to say.
    listed(ServerInfo, list of StudyInfo)
        Connected, or something changed on the server.
    answering()
        The server answers for the first time, or again.
    versions(image_id, list of LabelVersion)
        What the server has of the watched image, at every heartbeat.
    """

    changed = Signal(object)
    listed = Signal(object, object)
    answering = Signal()
    versions = Signal(str, object)

    def __init__(self, tasks: Tasks, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self.client: Client | None = None
        self.link = Link()
        self.studies: list[StudyInfo] = []
        self.watched: Callable[[], str | None] = lambda: None
        self._clients: list[Client] = []
        self._tasks = tasks
        self._timer = QTimer(self)
        self._timer.setSingleShot(True)
        self._timer.setInterval(BEAT_MS)
        self._timer.timeout.connect(self._beat)
        tasks.failed.connect(self._on_failed)

    @property
    def info(self) -> ServerInfo | None:
        """Who answers."""
        return self.link.info

    def set(self, **changes: Any) -> None:
        """Change what the chip says."""
        link = replace(self.link, **changes)
        if link != self.link:
            self.link = link
            self.changed.emit(link)

    def connect_to(self, url: str, token: str | None = None) -> bool:
        """Connect to a server; from now on nothing goes to another one. False: an attempt is under way."""
        if self._tasks.running("connect"):
            return False
        if self.client is None or _address(url) != self.client.url:
            self.client, self.studies = None, []
            self.set(info=None, waiting=0)
        self.set(state="connecting", url=_address(url), detail="")

        def work(_: Progress) -> tuple[Client, ServerInfo, list[StudyInfo]]:
            client, info = reached(url, token)
            try:
                return client, info, client.studies()
            except BaseException:
                client.close()
                raise

        def then(found: tuple[Client, ServerInfo, list[StudyInfo]]) -> ServerInfo:
            self.client, info, studies = found
            self._clients.append(self.client)
            self.studies = studies
            self.set(state="connected", url=self.client.url, info=info)
            self.answering.emit()
            self.listed.emit(info, studies)
            self._timer.start()
            return info

        return self._tasks.run("connect", work, then)

    def show_list(self, info: ServerInfo, studies: list[StudyInfo]) -> None:
        """Take over what the server lists."""
        self.studies = studies
        self.set(info=info)
        self.listed.emit(info, studies)

    def refresh(self) -> None:
        """Ask for the list anew."""
        if (client := self.client) is not None:
            self._tasks.run("list", lambda _: (client.info(), client.studies()), lambda found: self.show_list(*found))

    def cleanup(self) -> None:
        """Let go of all servers; running requests have ended."""
        self._timer.stop()
        for client in self._clients:
            client.close()
        self.client = None

    # ---- heartbeat

    def _beat(self) -> None:
        if (client := self.client) is None:
            return
        image_id = self.watched()

        def work(_: Progress) -> tuple[Client, ServerInfo | None, list[LabelVersion], ServerError | None]:
            try:
                info = client.info(BEAT_TIMEOUT_S)
                versions = client.label_versions(image_id, BEAT_TIMEOUT_S) if image_id else []
                return client, info, versions, None
            except ServerError as error:
                return client, None, [], error

        def then(found: tuple[Client, ServerInfo | None, list[LabelVersion], ServerError | None]) -> None:
            beaten, info, versions, error = found
            if beaten is not self.client:
                return
            self._timer.start()
            if error is not None:
                self._lose(error)
                return
            before, was = self.info, self.link.state
            self.set(state="connected", detail="", info=info)
            if image_id:
                self.versions.emit(image_id, versions)
            if was == "lost":
                self.answering.emit()
            if was == "lost" or info != before:
                self.refresh()

        if not self._tasks.run("heartbeat", work, then):
            self._timer.start()

    def _lose(self, error: ServerError) -> None:
        if self.link.state in ("connected", "connecting"):
            self.set(state="lost", detail=str(error))

    def _on_failed(self, action: str, error: DoselabelError) -> None:
        if action == "connect":
            if self.client is None:
                self.set(state="offline", url="", detail=str(error))
            else:
                self._lose(error if isinstance(error, ServerError) else ServerError(str(error)))
        elif self.client is not None and isinstance(error, Unreachable):
            self._lose(error)


def _address(url: str) -> str:
    try:
        return normal_url(url)
    except ServerError:
        return url
