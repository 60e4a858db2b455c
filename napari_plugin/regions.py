"""Regions beside and in the organs: lesions, and what is not counted at a time point. Draws no widgets."""

from __future__ import annotations

from qtpy.QtCore import QObject, Signal

from doselabel.errors import DoselabelError
from doselabel.organs import excluded_at, title
from napari_plugin.editing import Editing

PELVIS = "renal_pelvis"


class Regions(QObject):
    """Adds regions to the open case's labels, and names them.

    Signals
    -------
    status(text, level)
    """

    status = Signal(str, str)

    def __init__(self, editing: Editing, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._editing = editing

    @property
    def why_none_excluded(self) -> str:
        """Why nothing can be left out of what is counted on the open case's CT; "" when it can."""
        session = self._editing.session
        if session is None or any(p.image_id == session.case.image_id for p in session.case.study.time_points):
            return ""
        return "No SPECT is counted on this CT: open the time point's own CT."

    def add(self, name: str = "", *, excluded: bool = False) -> int:
        """Let there be a region, and choose it to be drawn; its value, 0 when there can be none."""
        session = self._editing.session
        if session is None:
            self.status.emit("Open a case first.", "warning")
            return 0
        if excluded and self.why_none_excluded:
            self.status.emit(self.why_none_excluded, "warning")
            return 0
        try:
            value = self._editing.add_region(name or (self._pelvis() if excluded else self._next_lesion()))
        except DoselabelError as error:
            self.status.emit(str(error), "warning")
            return 0
        drawn = session.names[value]
        counted = "it is not counted" if excluded_at(drawn) is not None else "it gets its own row in the dose table"
        self.status.emit(f"Draw {title(drawn)}; over an organ, too: {counted}.", "info")
        return value

    def rename(self, value: int, name: str) -> None:
        """Call a region otherwise."""
        try:
            self._editing.rename_region(value, name)
        except DoselabelError as error:
            self.status.emit(str(error), "warning")

    def _next_lesion(self) -> str:
        assert self._editing.session is not None
        taken, number = set(self._editing.session.names.values()), 1
        while f"tumour_{number}" in taken:
            number += 1
        return f"tumour_{number}"

    def _pelvis(self) -> str:
        """Of the time point on screen, where several are counted on one CT."""
        session, frame = self._editing.session, self._editing.frame
        assert session is not None
        seen = [p for p in session.case.study.time_points if p.image_id == session.case.image_id]
        return f"{PELVIS}_tp{frame.index + 1}" if len(seen) > 1 and frame is not None else PELVIS
