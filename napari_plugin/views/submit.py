"""Hand the labels in: a bar that is always there, and the sheet that is read before anything is sent."""

from __future__ import annotations

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QDialog, QFormLayout, QLabel, QLineEdit, QSizePolicy, QVBoxLayout, QWidget

from doselabel.labels import title
from napari_plugin.session.conflict import Conflict, spoken
from napari_plugin.session.review import OrganReview, Review
from napari_plugin.views.icons import icon
from napari_plugin.views.kit import LongNote, Table, button, column, note, row


class SubmitBar(QWidget):
    """Undo, redo, discard, submit, and whether there is anything to submit."""

    undo_wanted = Signal()
    redo_wanted = Signal()
    sheet_wanted = Signal()
    discard_wanted = Signal()

    def __init__(self) -> None:
        super().__init__()
        self.undo, self.redo = button("", "Undo (Ctrl+Z)"), button("", "Redo (Ctrl+Shift+Z)")
        self.undo.clicked.connect(self.undo_wanted)
        self.redo.clicked.connect(self.redo_wanted)
        self._submit = button("Submit …")
        self._submit.clicked.connect(self.sheet_wanted)
        self._discard = button("Discard", "Return to the server's labels; your edits are put aside")
        self._discard.clicked.connect(self.discard_wanted)
        self._state = QLabel()
        self._state.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self._state.setAlignment(Qt.AlignmentFlag.AlignCenter)
        line = row(self.undo, self.redo, self._state, self._discard, self._submit, stretch=2)
        column(self, line).setContentsMargins(6, 2, 6, 2)
        self.set_dirty(False)

    def set_ready(self, ready: bool, why_not: str) -> None:
        """Allow a submission, or say why there can be none."""
        self._submit.setEnabled(ready)
        self._submit.setToolTip("Ctrl+Enter: look at what changed, then store it on the server" if ready else why_not)
        for asked in (self.undo, self.redo):
            asked.setEnabled(ready)

    def set_colour(self, colour: str) -> None:
        """Draw the icons in a theme's colour."""
        self.undo.setIcon(icon("undo", colour))
        self.redo.setIcon(icon("redo", colour))

    def set_dirty(self, dirty: bool) -> None:
        """Say whether there is work that was not submitted."""
        self._state.setText("✎ not submitted" if dirty else "")
        self._state.setToolTip("Your edits are on this computer's disk." if dirty else "No edits to submit.")
        self._discard.setEnabled(dirty)


class SubmitSheet(QDialog):
    """What is about to be handed in: volumes, change against the start, warnings, author, comment."""

    submit_wanted = Signal(str, str)
    compare_wanted = Signal(object)

    def __init__(
        self, parent: QWidget, case_title: str, author: str, review: Review, conflict: Conflict | None
    ) -> None:
        super().__init__(parent)
        self.setWindowTitle(f"Submit {case_title}")
        self.setAttribute(Qt.WidgetAttribute.WA_DeleteOnClose)
        self.setMinimumWidth(440)
        self.table = Table(["Organ", "Volume\nmL", "Change\nmL", "Dice with\nstart"])
        self.table.set_rows([_cells(organ) for organ in review.organs])
        self.warnings = LongNote(160)
        self.warnings.set_lines([f"⚠ {text}" for text in review.warnings])
        self.author, self.comment = QLineEdit(author), QLineEdit()
        self.author.setPlaceholderText("your name or initials (required)")
        self.comment.setPlaceholderText("optional")
        self.submit = button("Submit anyway" if review.warnings or conflict else "Submit")
        self.submit.setDefault(True)
        self.submit.clicked.connect(self._ask)
        cancel = button("Back to the image")
        cancel.clicked.connect(self.reject)
        self.author.textChanged.connect(self._check)
        fields = QFormLayout()
        fields.addRow("Author", self.author)
        fields.addRow("Comment", self.comment)
        lines = QVBoxLayout(self)
        lines.addWidget(note(f"<b>{case_title}</b>"))
        lines.addWidget(self.table)
        lines.addWidget(self.warnings)
        if conflict is not None:
            compare = button("Compare …")
            compare.clicked.connect(lambda: self.compare_wanted.emit(conflict))
            compare.clicked.connect(self.reject)
            lines.addWidget(note(f"⚠ {spoken(conflict)} Both are kept; the newest counts."))
            lines.addWidget(row(compare))
        lines.addLayout(fields)
        lines.addWidget(row(cancel, self.submit))
        self._check()

    def _check(self) -> None:
        named = bool(self.author.text().strip())
        self.submit.setEnabled(named)
        self.submit.setToolTip("" if named else "A submission needs its author")

    def _ask(self) -> None:
        self.submit_wanted.emit(self.author.text().strip(), self.comment.text().strip())
        self.accept()


def _cells(organ: OrganReview) -> list[str]:
    return [
        title(organ.name),
        f"{organ.volume_ml:.1f}",
        "–" if organ.change_ml is None else f"{organ.change_ml:+z.1f}",
        "–" if organ.dice is None else f"{organ.dice:.3f}",
    ]
