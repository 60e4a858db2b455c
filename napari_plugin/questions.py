"""What the annotator must answer: a result that waits, a draft, a conflict, a lost layer, a submission.

Ties the controller's parts to notices and to the submit sheet; decides nothing itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from qtpy.QtCore import QObject
from qtpy.QtWidgets import QWidget

from doselabel.labels import LabelMap, title
from doselabel.wire import LabelVersion
from napari_plugin import layers as scene
from napari_plugin.controller import Controller
from napari_plugin.segmenting import Offer
from napari_plugin.session.conflict import Conflict, called, spoken
from napari_plugin.session.review import Review
from napari_plugin.views.notices import Notice, Notices
from napari_plugin.views.submit import SubmitSheet


class Questions(QObject):
    """Shows each question where it is seen, and carries the answer back.

    Attributes
    ----------
    notices : Notices
        The questions on screen.
    sheet : SubmitSheet or None
        The submit sheet while it is open.
    """

    def __init__(self, controller: Controller, window: QWidget) -> None:
        super().__init__(window)
        self._of, self._window = controller, window
        self.notices = Notices()
        self.sheet: SubmitSheet | None = None
        self._conflict: Conflict | None = None
        self._overlay: Any = None
        self._later: set[str] = set()
        controller.segmenting.offered.connect(self._on_offer)
        controller.segmenting.withdrawn.connect(lambda: self.notices.close_kind("offer"))
        controller.drafts_found.connect(self.show_drafts)
        controller.case_opened.connect(self._on_case)
        controller.editing.layers_lost.connect(self._on_layer)
        controller.editing.layers_back.connect(lambda: self.notices.close_kind("layer"))
        controller.handing.reviewed.connect(self._on_review)
        controller.handing.conflict.connect(self._on_conflict)
        controller.handing.compared.connect(self._on_compared)

    # ---- the model's result

    def _on_offer(self, offer: Offer) -> None:
        answers = {"Take it": self._take_offer, "Keep mine": self._of.segmenting.keep_mine}
        text = "<b>Model result ready.</b> Your labels are as you left them. Take it (tick the organs), or keep yours?"
        organs = {name: title(name) for name in offer.organs}
        self.notices.ask("offer", Notice(text, answers, choices=organs))

    def _take_offer(self) -> None:
        notice = self.notices["offer"]
        chosen = list(notice.chosen)
        self._of.take_offer(None if len(chosen) == len(notice.boxes) else chosen)

    # ---- drafts

    def show_drafts(self, image_ids: Sequence[str]) -> None:
        """Offer unsaved work of earlier sessions, once."""
        image_ids = [image_id for image_id in image_ids if image_id not in self._later]
        if not image_ids:
            self.notices.close_kind("drafts")
            return
        count = f"{len(image_ids)} unsaved case{'s' if len(image_ids) > 1 else ''}"
        text = f"<b>{count}</b> on this computer: {', '.join(image_ids[:3])}{' …' if len(image_ids) > 3 else ''}"
        answers = {
            "Resume": lambda: self._of.open_case(image_ids[0]),
            "Later": lambda: self._put_off(image_ids),
        }
        self.notices.ask("drafts", Notice(text, answers, level="warning"))

    def _put_off(self, image_ids: Sequence[str]) -> None:
        self._later.update(image_ids)
        self.notices.close_kind("drafts")

    def _on_case(self, _: Any) -> None:
        for kind in ("layer", "conflict", "leave"):
            self.notices.close_kind(kind)
        self.hide_overlay()
        if "drafts" in self.notices:
            self.show_drafts(self._of.drafts())

    def ask_leave(self, go: Callable[[], None]) -> None:
        """Leave the case, after a question when there is work that was not submitted."""
        session, unplaced = self._of.session, self._of.registering.unsaved
        if session is None or not (session.dirty or unplaced):
            go()
            return

        def gone() -> None:
            self.notices.close_kind("leave")
            go()

        text = f"<b>{session.case.title}</b> "
        text += "is not submitted. It stays on this computer as a draft." if session.dirty else "has moved SPECTs."
        if unplaced:
            times = ", ".join(f"{time_h:g} h" for time_h in unplaced)
            text += f" The place of the SPECT at {times} is not saved, and is forgotten."
        answers = {"Leave it": gone, "Stay": lambda: self.notices.close_kind("leave")}
        self.notices.ask("leave", Notice(text, answers, level="warning"))

    # ---- layers

    def _on_layer(self, what: str, name: str) -> None:
        back = "Put it back" if what == "removed" else "Name it back"
        text = f"The layer <b>{name}</b> was {what}. Your labels are safe."
        answers = {back: self._of.editing.put_layers_back, "Leave it": lambda: self.notices.close_kind("layer")}
        self.notices.ask("layer", Notice(text, answers, level="warning"))

    # ---- submission

    def ask_submit(self) -> None:
        """Open the sheet, once its numbers are there."""
        if self.sheet is None:
            self._of.handing.review()

    def _on_review(self, review: Review, conflict: Conflict | None) -> None:
        session = self._of.session
        if session is None or self.sheet is not None:
            return
        self.sheet = SubmitSheet(self._window, session.case.title, self._of.settings.author, review, conflict)
        self.sheet.submit_wanted.connect(self._of.submit)
        self.sheet.compare_wanted.connect(self._on_conflict)
        self.sheet.finished.connect(self._on_sheet_closed)
        self.sheet.open()

    def _on_sheet_closed(self, _: int) -> None:
        self.sheet = None

    # ---- what others stored

    def _on_conflict(self, conflict: Conflict) -> None:
        self._conflict = conflict
        self._ask_conflict(spoken(conflict))

    def _ask_conflict(self, text: str) -> None:
        assert self._conflict is not None
        theirs = self._conflict.others[0]
        answers = {
            "Compare": lambda: self._of.handing.compare(theirs),
            f"Take {called(theirs, 'theirs')}": lambda: self._settle(theirs),
            "Keep mine": lambda: self._settle(None),
        }
        self.notices.ask("conflict", Notice(text, answers, level="warning"))

    def _on_compared(self, version: LabelVersion, labels: LabelMap, rows: Sequence[tuple]) -> None:
        self.hide_overlay()
        name = f"{called(version).capitalize()} · {version.author or 'no name'}"
        self._overlay = scene.add_version(self._of.viewer, labels, name)
        if self._of.layers is not None:
            self._of.viewer.layers.selection.active = self._of.layers.labels
        lines = [f"{organ}: {mine:.1f} → {their:.1f} mL, Dice {dice:.3f}" for organ, mine, their, dice in rows]
        if self._conflict is not None:
            head = f"{spoken(self._conflict)} Thin lines: {called(version)}. Yours → theirs:"
            self._ask_conflict("<br>".join([head, *lines]))

    def _settle(self, version: LabelVersion | None) -> None:
        assert self._conflict is not None
        if version is None:
            self._of.handing.keep_mine(self._conflict)
        else:
            self._of.take_version(version)
        self.notices.close_kind("conflict")
        self.hide_overlay()

    def hide_overlay(self) -> None:
        """Take the version that was compared off the screen."""
        if self._overlay is not None:
            scene.remove(self._of.viewer, [self._overlay])
            self._overlay = None
