"""Tools at work on the open case: each in a thread, one after another, each one undo step. Draws no widgets."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from qtpy.QtCore import QCoreApplication, QObject, QTimer, Signal

from doselabel.errors import LabelError
from napari_plugin import tools
from napari_plugin.editing import Editing
from napari_plugin.organ_labels import inner_values
from napari_plugin.session.state import Session
from napari_plugin.tasks import Tasks

TASK = "tool"
AGAIN_MS = 50
"""A tool waits so long for a stroke to end."""


@dataclass(frozen=True)
class Wish:
    """What is to be done, to which organ of which case, and the click that asked for it, if one did."""

    session: Session
    name: str
    value: int
    params: Mapping[str, Any]
    click: tools.Click | None = None


class Tooling(QObject):
    """Carries out the annotator's wishes in their order.

    Signals
    -------
    status(text, level)
    """

    status = Signal(str, str)

    def __init__(self, editing: Editing, tasks: Tasks, parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._editing, self._tasks = editing, tasks
        self._wishes: deque[Wish] = deque()
        self._clicks: dict[tuple[int, int], tuple[tools.Click, ...]] = {}
        self._of: Session | None = None
        self._again = QTimer(self)
        self._again.setSingleShot(True)
        self._again.setInterval(AGAIN_MS)
        self._again.timeout.connect(self._next)
        tasks.finished.connect(self._on_over)
        tasks.failed.connect(self._on_over)
        tasks.cancelled.connect(self._on_over)

    def start(self, name: str, organ: str | None = None, **params: Any) -> bool:
        """Let a tool change an organ or region, the chosen one by default; False when it can't.

        Raises
        ------
        LabelError
            When the open case has no such organ or region.
        """
        session = self._editing.session
        if organ is None or session is None:
            return self._wish(name, None, params, None)
        if organ not in session.values:
            raise LabelError(f"'{organ}' is no organ or region of this case.", f"It has {', '.join(session.values)}.")
        return self._wish(name, session.values[organ], params, None)

    def click(self, name: str, click: tools.Click, **params: Any) -> bool:
        """Let a tool work at a click; what was clicked before stays true until the labels are changed otherwise."""
        return self._wish(name, None, params, click)

    @property
    def idle(self) -> bool:
        """Whether nothing is left to be done."""
        return not self._wishes and not self._tasks.running(TASK)

    def _wish(self, name: str, value: int | None, params: Mapping[str, Any], click: tools.Click | None) -> bool:
        session, layers = self._editing.session, self._editing.layers
        if session is None or layers is None or self._editing.why_not:
            self.status.emit(self._editing.why_not, "warning")
            return False
        chosen = int(layers.labels.selected_label) if value is None else value
        self._wishes.append(Wish(session, name, chosen, params, click))
        self._next()
        return True

    def _next(self) -> None:
        editing = self._editing
        while self._wishes and self._wishes[0].session is not editing.session:
            self._wishes.popleft()
        if not self._wishes or self._tasks.running(TASK):
            return
        if editing.layers is None or editing.layers.labels.painting:
            self._again.start()
            return
        wish, edits = self._wishes.popleft(), editing.edits
        session, frame = wish.session, editing.frame
        params, clicks = dict(wish.params), self._clicks_of(wish)
        if clicks:
            params["clicks"] = clicks
        spect = None if frame is None else frame.volume

        def work(_: Any) -> tools.Change | None:
            inner = inner_values(session.names)
            return tools.by_name(
                wish.name, session.array, wish.value, session.case.ct, params, spect=spect, inner=inner
            )

        def then(change: tools.Change | None) -> int:
            if editing.session is not session:
                return 0
            if editing.edits != edits or (editing.layers and editing.layers.labels.painting):
                self._wishes.appendleft(wish)  # what it saw is not there any more
                return 0
            return self._apply(wish, change, clicks)

        self._tasks.run(TASK, work, then)

    def _apply(self, wish: Wish, change: tools.Change | None, clicks: tuple[tools.Click, ...]) -> int:
        spoken = tools.TOOLS[wish.name].title
        if why_not := self._editing.why_not:
            self.status.emit(why_not, "warning")
            return 0
        if change is None:
            self.status.emit(f"{spoken}: nothing to change.", "info")
            return 0
        assert self._editing.layers is not None
        self._editing.layers.labels.apply(change)
        if clicks:
            self._clicks[self._key(wish)] = clicks
        volume_ml = change.voxels * wish.session.case.ct.geometry.voxel_volume_ml
        self.status.emit(f"{spoken}: {volume_ml:.1f} mL changed. Ctrl+Z undoes it.", "info")
        return change.voxels

    def _clicks_of(self, wish: Wish) -> tuple[tools.Click, ...]:
        if self._of is not wish.session:
            self._of, self._clicks = wish.session, {}
        return () if wish.click is None else (*self._clicks.get(self._key(wish), ()), wish.click)

    @staticmethod
    def _key(wish: Wish) -> tuple[int, int]:
        """What earlier clicks hold for: the labels as they are now, and this organ."""
        return wish.session.moment.token, wish.value

    def _on_over(self, action: str, *_: Any) -> None:
        if action == TASK:
            self._next()

    def wait(self, timeout_s: float = 120.0) -> int:
        """Process window events until all is done; the number of voxels that the last tool changed, or its error."""
        while True:
            changed = self._tasks.wait(TASK, timeout_s)
            if self.idle:
                return int(changed)
            QCoreApplication.processEvents()
