"""Hand the labels in, with a name and a comment."""

from __future__ import annotations

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QLabel, QLineEdit, QWidget

from napari_plugin.views.kit import button, column, note, row


class SubmitView(QWidget):
    """Author, comment, submit."""

    submit_wanted = Signal(str, str)
    discard_wanted = Signal()

    def __init__(self, author: str) -> None:
        super().__init__()
        self._author = QLineEdit(author)
        self._author.setPlaceholderText("your name or initials")
        self._comment = QLineEdit()
        self._comment.setPlaceholderText("optional comment")
        self._submit = button("Submit labels", "Ctrl+Enter: store as a new version on the server")
        self._submit.clicked.connect(self.ask)
        self._discard = button("Discard edits", "Return to the server's labels; your edits are put aside")
        self._discard.clicked.connect(self.discard_wanted)
        self._state = note()
        column(
            self,
            row(QLabel("Author"), self._author, self._comment, stretch=2),
            row(self._submit, self._state, self._discard, stretch=1),
        )
        self.set_dirty(False)

    def ask(self) -> None:
        """Ask for the labels to be stored."""
        self.submit_wanted.emit(self._author.text().strip(), self._comment.text().strip())

    @property
    def author(self) -> str:
        """Who annotates."""
        return self._author.text().strip()

    def set_busy(self, busy: bool) -> None:
        """Allow only one submission at a time."""
        self._submit.setEnabled(not busy)

    def set_dirty(self, dirty: bool) -> None:
        """Say whether there is work that was not submitted."""
        self._state.setText("Edits not submitted." if dirty else "No edits to submit.")
        self._discard.setEnabled(dirty)

    def submitted(self) -> None:
        """Forget the comment: it belonged to that version."""
        self._comment.clear()
