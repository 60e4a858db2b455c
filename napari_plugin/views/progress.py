"""What was said last and what runs, at the foot of the dock, always as high together: nothing above them moves."""

from __future__ import annotations

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QHBoxLayout, QLabel, QProgressBar, QPushButton, QSizePolicy, QVBoxLayout, QWidget

SHOWN = {
    "case": "Open",
    "segment": "Segment",
    "train": "Train",
    "dose": "Dose",
    "compare": "Compare",
    "export": "Export",
    "align": "Fit",
    "ct": "Bring CT",
}
"""Tasks worth telling of, and their names."""


SAID_PX, WORK_PX = 36, 34


class Footer(QWidget):
    """The latest task with its progress and a cancel button; while none runs, the last word that was said."""

    cancelled = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self._running: dict[str, tuple[str, float]] = {}
        self.said = QLabel()
        self.said.setWordWrap(True)
        self.stage = QLabel()
        for label in (self.said, self.stage):
            label.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Ignored)
        self.said.setAlignment(Qt.AlignmentFlag.AlignTop)  # of a long word its beginning is seen
        self._bar = QProgressBar()
        self._bar.setRange(0, 1000)
        self._bar.setTextVisible(False)
        self._bar.setFixedHeight(8)
        self.cancel = QPushButton("Cancel")
        self.cancel.clicked.connect(lambda: self.cancelled.emit(self.action))
        self._work = QWidget()
        self._work.setFixedHeight(WORK_PX)
        bars = QVBoxLayout()
        bars.setSpacing(1)
        bars.addWidget(self.stage, 1)
        bars.addWidget(self._bar)
        line = QHBoxLayout(self._work)
        line.setContentsMargins(6, 0, 6, 2)
        line.addLayout(bars, 1)
        line.addWidget(self.cancel)
        lines = QVBoxLayout(self)
        lines.setContentsMargins(0, 0, 0, 0)
        lines.setSpacing(0)
        lines.addWidget(self.said)
        lines.addWidget(self._work)
        self._show()

    @property
    def action(self) -> str:
        """The task that is shown: the one that began last; "" when none runs."""
        return next(reversed(self._running), "")

    def start(self, action: str) -> None:
        """A task has begun."""
        if action in SHOWN:
            self._running[action] = ("starting", 0.0)
            self._show()

    def report(self, action: str, stage: str, fraction: float) -> None:
        """A task is so far."""
        if action in self._running:
            self._running[action] = (stage, fraction)
            self._show()

    def stop(self, action: str) -> None:
        """A task is over."""
        self._running.pop(action, None)
        self._show()

    def say(self, text: str, style: str) -> None:
        """Show one line; all of it when the mouse asks."""
        self.said.setText(text)
        self.said.setToolTip(text)
        self.said.setStyleSheet(style)

    def _show(self) -> None:
        self._work.setVisible(bool(self.action))
        self.said.setFixedHeight(SAID_PX if self.action else SAID_PX + WORK_PX)
        if self.action:
            stage, fraction = self._running[self.action]
            others = f" · and {len(self._running) - 1} more" if len(self._running) > 1 else ""
            self.stage.setText(f"{SHOWN[self.action]}: {stage} · {100 * fraction:.0f} %{others}")
            self.stage.setToolTip(self.stage.text())
            self._bar.setValue(round(1000 * fraction))
