"""SPECT onto CT: move it, let it be found, read how well it fits and what that does to each organ, store it."""

from __future__ import annotations

from qtpy.QtCore import Signal
from qtpy.QtWidgets import QCheckBox, QLabel, QToolButton, QWidget

from doselabel.labels import title
from napari_plugin.session.alignment import Quality
from napari_plugin.views.kit import Table, button, column, narrow, note, number, row

MOVES = {
    "←": ("left", (-1, 0, 0), "Shift+←"),
    "↑": ("up", (0, -1, 0), "Shift+↑"),
    "↓": ("down", (0, 1, 0), "Shift+↓"),
    "→": ("right", (1, 0, 0), "Shift+→"),
    "↺": ("turn anticlockwise", (0, 0, -1), "Ctrl+Shift+←"),
    "↻": ("turn clockwise", (0, 0, 1), "Ctrl+Shift+→"),
}
"""Sign of a move → its words, its steps to the right, down and clockwise, and its key."""


class RegisterView(QWidget):
    """The SPECT on screen, and where it lies."""

    nudge_wanted = Signal(float, float, float)
    drag_wanted = Signal(bool)
    automatic_wanted = Signal()
    ct_wanted = Signal()
    ct_shown = Signal(bool)
    before_wanted = Signal(bool)
    undo_wanted = Signal()
    redo_wanted = Signal()
    back_wanted = Signal()
    save_wanted = Signal()

    def __init__(self) -> None:
        super().__init__()
        self._moved = self._fit = ""
        self._time_h: float | None = None
        self.head = note()
        self.automatic = button("Fit to organs", "Move the SPECT to where its uptake fits the organs on screen best")
        self.ct = button("Bring its CT", "Register the SPECT's own CT to this diagnostic CT, and show it over it")
        self.show_ct = QCheckBox("show")
        self.show_ct.setToolTip("The SPECT's own CT over the diagnostic CT, in cyan")
        self.show_ct.setChecked(True)
        self.moves: dict[str, QToolButton] = {}
        for sign, (words, _, key) in MOVES.items():
            made = QToolButton()
            made.setText(sign)
            made.setToolTip(f"{words} ({key})")
            made.setAccessibleName(words)
            made.setAutoRepeat(True)
            made.setStyleSheet("padding: 0; margin: 0;")
            made.setFixedSize(29, 26)
            made.clicked.connect(lambda _=False, sign=sign: self.nudge(sign))
            self.moves[sign] = made
        self.step = number(2, 0.1, 20, "mm", step=0.5, decimals=1, tip="One step")
        self.angle = number(1, 0.1, 15, "°", step=0.5, decimals=1, tip="One turn")
        for field, width_px in ((self.step, 54), (self.angle, 46)):
            narrow(field, width_px)
        self.drag = QCheckBox("Drag moves the SPECT (with Ctrl: turns it)")
        self.drag.setToolTip("Left mouse button over the image; off: it moves the image, as always")
        self.said = note()
        self.table = Table(["Organ", "stored\nMBq", "now\nMBq", "Δ\n%"])
        self.before = button("Before", "Show where the study has it; again: where it is now")
        self.before.setCheckable(True)
        self.undo, self.redo = button("Undo", "Ctrl+Z while this tab is in front"), button("Redo", "Ctrl+Shift+Z")
        self.back = button("As stored", "Back to where the study has it")
        self.save = button("Save to study", "Store this place; doses use it from then on")
        self._connect()
        lines = column(
            self,
            self.head,
            row(self.automatic, self.ct, self.show_ct, stretch=0),
            row(*self.moves.values(), self.step, self.angle, QLabel(), stretch=8),
            self.drag,
            self.said,
            self.table,
            row(self.before, self.undo, self.redo, self.back),
            row(self.save),
        )
        lines.addStretch(1)
        self.set_place(None, False, (0.0, 0.0), False, False, "")

    def _connect(self) -> None:
        self.automatic.clicked.connect(self.automatic_wanted)
        self.ct.clicked.connect(self.ct_wanted)
        self.show_ct.toggled.connect(self.ct_shown)
        self.drag.toggled.connect(self.drag_wanted)
        self.before.toggled.connect(self.before_wanted)
        self.undo.clicked.connect(self.undo_wanted)
        self.redo.clicked.connect(self.redo_wanted)
        self.back.clicked.connect(self.back_wanted)
        self.save.clicked.connect(self.save_wanted)

    def nudge(self, sign: str) -> None:
        """Ask for one step of a move of `MOVES`."""
        right, down, turn = MOVES[sign][1]
        step = self.step.value()
        self.nudge_wanted.emit(right * step, down * step, turn * self.angle.value())

    def set_place(
        self,
        time_h: float | None,
        diagnostic: bool,
        moved: tuple[float, float],
        undoable: bool,
        redoable: bool,
        brought: str,
    ) -> None:
        """Show which SPECT is on screen, on which CT, and how far it is from its stored place.

        Parameters
        ----------
        time_h : float or None
            None when there is no SPECT.
        diagnostic : bool
            Whether the CT on screen is the diagnostic one.
        moved : (mm, °)
        undoable, redoable : bool
        brought : str
            How its own CT was brought onto the diagnostic one; "" when it was not.
        """
        there = time_h is not None
        for asked in (self.automatic, *self.moves.values(), self.before, self.drag):
            asked.setEnabled(there)
        away = moved[0] > 0.005 or moved[1] > 0.005
        self.save.setEnabled(there and away)
        self.back.setEnabled(there and away)
        self.undo.setEnabled(undoable)
        self.redo.setEnabled(redoable)
        self.ct.setVisible(diagnostic)
        self.show_ct.setVisible(diagnostic and bool(brought))
        if not there:
            self.head.setText("No SPECT is on screen: open a case that has one.")
            self.said.setText("")
            self.table.set_rows([])
            return
        where = "on the diagnostic CT" if diagnostic else "on its own CT"
        unknown = " Its own CT may lie elsewhere: bring it here first." if diagnostic and not brought else ""
        self.head.setText(f"<b>SPECT at {time_h:g} h</b> {where}. {brought}{unknown}")
        if time_h != self._time_h:
            self._fit = ""
        self._time_h = time_h
        self._moved = f"Moved {moved[0]:.1f} mm, {moved[1]:.1f}° from the stored place." if away else "As stored."
        self.said.setText(f"{self._moved}<br>{self._fit}")

    def set_quality(self, quality: Quality) -> None:
        """Show how well the place fits, and what it does to the organs' activities."""
        self._fit = quality.why_not
        if quality.now is not None and quality.stored is not None:
            self._fit = f"Fit to the organs (R², 1 is perfect): {quality.stored:.3f} → <b>{quality.now:.3f}</b>"
        self.said.setText(f"{self._moved}<br>{self._fit}")
        self.table.set_rows(
            [
                [
                    title(a.name),
                    f"{a.stored_mbq:.3g}",
                    f"{a.now_mbq:.3g}",
                    "–" if a.change_percent is None else f"{a.change_percent:+z.1f}",
                ]
                for a in quality.activities
            ]
        )
