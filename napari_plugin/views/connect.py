"""The connection's chip, and beneath it, when it is asked for, where the server is."""

from __future__ import annotations

from collections.abc import Sequence

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QComboBox, QLineEdit, QPushButton, QSizePolicy, QWidget

from napari_plugin.session.link import Link
from napari_plugin.views.kit import button, column, row

COLOURS = {"offline": "#5a6068", "connecting": "#8a5a00", "connected": "#1f6f3d", "lost": "#a02030"}


class ConnectView(QWidget):
    """One coloured chip that says where everything is sent; a click unfolds address and token."""

    connect_wanted = Signal(str, str)

    def __init__(self, urls: Sequence[str]) -> None:
        super().__init__()
        self.chip = QPushButton()
        self.chip.setCheckable(True)
        self.chip.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
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
        written = self._url.lineEdit()
        assert written is not None  # it is editable
        written.returnPressed.connect(self._ask)
        self._form = row(self._url, self._token, self._connect, stretch=0)
        self.chip.toggled.connect(self._form.setVisible)
        column(self, self.chip, self._form)
        self.set_urls(urls)
        self.set_link(Link())

    def set_urls(self, urls: Sequence[str]) -> None:
        """Show the history, newest first."""
        self._url.clear()
        self._url.addItems(list(urls))

    def set_link(self, link: Link) -> None:
        """Show the state of the connection."""
        self.chip.setText(f"● {link.text}")
        self.chip.setToolTip(link.tip + "\nClick to change the server.")
        self.chip.setStyleSheet(
            f"QPushButton {{ background: {COLOURS[link.state]}; color: white; text-align: left; padding: 3px 6px; }}"
        )
        self._connect.setEnabled(link.state != "connecting")
        self.chip.setChecked(link.state in ("offline", "connecting"))
        self._form.setVisible(self.chip.isChecked())

    def _ask(self) -> None:
        self.connect_wanted.emit(self._url.currentText(), self._token.text())
