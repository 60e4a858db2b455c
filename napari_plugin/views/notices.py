"""Questions that wait for an answer, one beneath the other, until somebody answers. Knows Qt only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from qtpy.QtWidgets import QCheckBox, QFrame, QVBoxLayout, QWidget

from napari_plugin.views.kit import button, note, row

STYLE = "QFrame#notice { border: 1px solid %s; border-left: 5px solid %s; border-radius: 3px; }"
COLOURS = {"info": "#3a6ea8", "warning": "#b07a00", "error": "#a02030"}


class Notice(QFrame):
    """One question: text, perhaps things to choose from, and answers."""

    def __init__(
        self,
        text: str,
        answers: Mapping[str, Callable[[], None]],
        *,
        level: str = "info",
        choices: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.setObjectName("notice")
        self.setStyleSheet(STYLE % (COLOURS[level], COLOURS[level]))
        self.text = text
        self.boxes = {key: QCheckBox(words) for key, words in (choices or {}).items()}
        self.answers = {words: button(words) for words in answers}
        for words, asked in self.answers.items():
            asked.clicked.connect(lambda _=False, words=words: answers[words]())
        lines = QVBoxLayout(self)
        lines.setContentsMargins(6, 3, 4, 3)
        lines.setSpacing(2)
        lines.addWidget(note(text))
        for box in self.boxes.values():
            box.setChecked(True)
        for at in range(0, len(self.boxes), 3):
            lines.addWidget(row(*list(self.boxes.values())[at : at + 3]))
        lines.addWidget(row(*self.answers.values()))

    @property
    def chosen(self) -> Sequence[str]:
        """Keys of the boxes that are ticked."""
        return [key for key, box in self.boxes.items() if box.isChecked()]


class Notices(QWidget):
    """All open questions; of each kind one, the newest."""

    def __init__(self) -> None:
        super().__init__()
        self._shown: dict[str, Notice] = {}
        self._lines = QVBoxLayout(self)
        self._lines.setContentsMargins(0, 0, 0, 0)
        self._lines.setSpacing(2)
        self.hide()

    def ask(self, kind: str, notice: Notice) -> Notice:
        """Show a question in place of the last of its kind."""
        self.close_kind(kind)
        self._shown[kind] = notice
        self._lines.addWidget(notice)
        self.show()
        return notice

    def close_kind(self, kind: str) -> None:
        """Take a question away."""
        notice = self._shown.pop(kind, None)
        if notice is not None:
            self._lines.removeWidget(notice)
            notice.hide()
            notice.deleteLater()
        self.setVisible(bool(self._shown))

    def __getitem__(self, kind: str) -> Notice:
        return self._shown[kind]

    def __contains__(self, kind: object) -> bool:
        return kind in self._shown
