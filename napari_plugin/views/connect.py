"""Where the server is, and whether it answers."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QLabel, QLineEdit, QWidget

from doselabel.wire import ServerInfo
from napari_plugin.views.kit import button, column, note, row


class ConnectView(QWidget):
    """Server address with history, optional token, and who answers."""

    connect_wanted = Signal(str, str)

    def __init__(self, urls: Sequence[str]) -> None:
        super().__init__()
        self._url = QComboBox()
        self._url.setEditable(True)
        self._url.setMinimumWidth(150)
        self._url.setToolTip("Address of the doselabel server")
        self._token = QLineEdit()
        self._token.setPlaceholderText("token")
        self._token.setEchoMode(QLineEdit.EchoMode.Password)
        self._token.setToolTip("Only for servers that ask for one; it is not stored")
        self._token.setFixedWidth(64)
        self._connect = button("Connect")
        self._connect.clicked.connect(self._ask)
        self._url.lineEdit().returnPressed.connect(self._ask)
        self._state = note("Not connected.")
        column(self, row(QLabel("Server"), self._url, self._token, self._connect, stretch=1), self._state)
        self.set_urls(urls)

    def set_urls(self, urls: Sequence[str]) -> None:
        """Show the history, newest first."""
        self._url.clear()
        self._url.addItems(list(urls))

    def set_busy(self, busy: bool) -> None:
        """Show that an answer is awaited."""
        self._connect.setEnabled(not busy)
        if busy:
            self._state.setText("Connecting …")

    def set_connected(self, info: ServerInfo) -> None:
        """Show who answers."""
        model = f"model {info.model.profile} {info.model.sha256[:8]}" if info.model else "no model"
        self._state.setText(
            f"● {info.name} {info.version} · {info.studies} patients · {info.labelled} of {info.images} CTs labelled · "
            f"{model}"
        )

    def set_disconnected(self, text: str = "Not connected.") -> None:
        """Show that nobody answers."""
        self._state.setText(text)

    def _ask(self) -> None:
        self.connect_wanted.emit(self._url.currentText(), self._token.text())
