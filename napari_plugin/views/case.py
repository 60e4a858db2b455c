"""Which case is open, the one before and the next; and all of them in a popup, to search and to choose from."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from qtpy.QtCore import QPoint, Qt, Signal
from qtpy.QtWidgets import (
    QComboBox,
    QFrame,
    QHeaderView,
    QLabel,
    QLineEdit,
    QProgressBar,
    QPushButton,
    QSizePolicy,
    QTreeWidget,
    QTreeWidgetItem,
    QWidget,
)

from doselabel.labels import title
from doselabel.wire import ImageInfo, StudyInfo
from napari_plugin.session.case import Case
from napari_plugin.views.kit import button, column, note, row

DRAFT = "✎ "
ID = Qt.ItemDataRole.UserRole
STATES = {"submitted": "✓", "approved": "✓✓", "flagged": "⚑"}

Filter = Callable[[ImageInfo, Collection[str], str], bool]
FILTERS: Mapping[str, Filter] = {
    "all": lambda image, drafts, user: True,
    "unlabelled": lambda image, drafts, user: not image.versions,
    "drafts": lambda image, drafts, user: image.image_id in drafts,
    "submitted": lambda image, drafts, user: image.versions > 0,
    "flagged": lambda image, drafts, user: image.state == "flagged",
    "mine": lambda image, drafts, user: bool(user) and user in image.authors,
}
"""Which CTs to list: told by what the server says of one, the drafts on this computer, and who annotates."""


class CaseView(QWidget):
    """The bar ‹ case ›; ``browser`` is its popup."""

    next_wanted = Signal(str)
    open_wanted = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self.browser = CaseBrowser(self)
        self.browser.open_wanted.connect(self.open_wanted)
        self.back, self.next = button("‹", "The case that was open before"), button("›")
        for asked in (self.back, self.next):
            asked.setFixedWidth(34)
            asked.setEnabled(False)
        self.name = QPushButton("no case is open ▾")
        self.name.setSizePolicy(QSizePolicy.Policy.Ignored, QSizePolicy.Policy.Fixed)
        self.name.setToolTip("All cases: search, filter, open")
        self.name.clicked.connect(self._browse)
        self._opened = self._closed = self._before = ""
        self.back.clicked.connect(lambda: self.open_wanted.emit(self._before))
        self.next.clicked.connect(lambda: self.next_wanted.emit(self.strategy))
        column(self, row(self.back, self.name, self.next, stretch=1)).setContentsMargins(6, 0, 6, 0)
        self.set_reason("")

    @property
    def strategy(self) -> str:
        """Strategy chosen."""
        return self.browser.strategy.currentText()

    def set_strategies(self, names: Sequence[str], chosen: str = "") -> None:
        """Offer the server's strategies."""
        box = self.browser.strategy
        chosen = chosen or box.currentText()
        box.clear()
        box.addItems(list(names))
        if chosen in names:
            box.setCurrentText(chosen)

    def set_studies(self, studies: Sequence[StudyInfo], drafts: Collection[str], user: str) -> None:
        """List what the server has."""
        self.next.setEnabled(bool(studies))
        self.browser.set_studies(studies, drafts, user)

    def set_drafts(self, drafts: Collection[str]) -> None:
        """Mark the cases that have work on this computer which was not submitted."""
        self.browser.set_drafts(drafts)
        self._name_it()

    def set_reason(self, text: str) -> None:
        """Show why this case."""
        self.next.setToolTip("Next case (key N)" + (f"\nThis one: {text}" if text else ""))
        self.browser.reason.setText(f"Why this one: {text}")
        self.browser.reason.setVisible(bool(text))

    def set_case(self, case: Case | None) -> None:
        """Show which case is open."""
        if case is None:
            self._closed, self._opened = self._opened or self._closed, ""
            self.name.setText("no case is open ▾")
            return
        self._opened, self._title = case.image_id, case.title
        if self._closed != self._opened:
            self._before = self._closed
        self.back.setEnabled(bool(self._before))
        study = case.study
        spects = ", ".join(f"{frame.time_h:g} h" for frame in case.spects)
        self.name.setToolTip(
            f"{case.title}"
            + (f"\n{study.nuclide}, {study.injected_activity_mbq:g} MBq" if study.nuclide else "")
            + f"\nSPECT at {spects or '–'} after injection"
            + "".join(f"\nno {title(name).lower()}" for name in study.organs_absent)
            + "\nClick: all cases"
        )
        self.browser.hide()
        self._name_it()

    def _name_it(self) -> None:
        if self._opened:
            mark = DRAFT if self._opened in self.browser.drafts else ""
            self.name.setText(f"{mark}{self._title} ▾")

    def _browse(self) -> None:
        self.browser.setFixedWidth(max(self.width(), 320))
        self.browser.move(self.mapToGlobal(QPoint(0, self.height())))
        self.browser.show()
        self.browser.search.setFocus()


class CaseBrowser(QFrame):
    """All patients and their CTs."""

    open_wanted = Signal(str)

    def __init__(self, parent: QWidget) -> None:
        super().__init__(parent, Qt.WindowType.Popup)
        self.setFrameShape(QFrame.Shape.StyledPanel)
        self.search = QLineEdit()
        self.search.setPlaceholderText("search patients and files")
        self.search.setClearButtonEnabled(True)
        self.filter = QComboBox()
        self.filter.addItems(list(FILTERS))
        self.search.textChanged.connect(self._sift)
        self.filter.currentTextChanged.connect(self._sift)
        self.progress = QProgressBar()
        self.progress.setFormat("%v of %m CTs labelled")
        self.strategy = QComboBox()
        self.strategy.setToolTip("How the server chooses the next case")
        self.reason = note()
        self.list = QTreeWidget()
        self.list.setHeaderLabels(["Patient / CT", "Labels", "Time"])
        self.list.header().setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        for i in (1, 2):
            self.list.header().setSectionResizeMode(i, QHeaderView.ResizeMode.ResizeToContents)
        self.list.header().setStretchLastSection(False)
        self.list.setMinimumHeight(220)
        self.list.setToolTip("Double-click opens a case. ✎ not submitted · ✓ submitted · ✓✓ approved · ⚑ flagged")
        self.list.itemActivated.connect(self._activated)
        self._cases: dict[str, tuple[QTreeWidgetItem, ImageInfo]] = {}
        self.drafts: Collection[str] = ()
        self._user = ""
        column(
            self,
            row(self.search, self.filter, stretch=0),
            self.list,
            self.progress,
            row(QLabel("Next by"), self.strategy, stretch=1),
            self.reason,
        ).setContentsMargins(6, 6, 6, 6)

    def set_studies(self, studies: Sequence[StudyInfo], drafts: Collection[str], user: str) -> None:
        """List patients and their CTs; those that can't be used say why."""
        unfolded = {top.text(0) for top in self._tops() if top.isExpanded()}
        self.list.clear()
        self._cases.clear()
        self._user = user
        for study in studies:
            done = sum(image.labelled for image in study.images)
            top = QTreeWidgetItem([study.patient_id, f"{done} / {len(study.images)}", ""])
            if len(study.images) == 1:
                top.setData(0, ID, study.images[0].image_id)
            if study.error is not None:
                top.setText(1, "unusable")
                for i in (0, 1):
                    top.setToolTip(i, f"{study.error.message} {study.error.hint}")
            for image in study.images:
                time = "" if image.time_h is None else f"{image.time_h:g} h"
                mark = STATES.get(image.state or "", "✓" if image.labelled else "")
                name = "diagnostic CT" if image.role == "diagnostic" else image.file
                child = QTreeWidgetItem([name, f"{mark} v{image.versions}" if image.versions else "–", time])
                child.setData(0, ID, image.image_id)
                child.setToolTip(0, image.image_id)
                child.setToolTip(1, ", ".join(image.authors))
                top.addChild(child)
                self._cases[image.image_id] = child, image
            self.list.addTopLevelItem(top)
            top.setExpanded(len(studies) <= 2 or study.patient_id in unfolded)
        images = [image for _, image in self._cases.values()]
        self.progress.setRange(0, max(1, len(images)))
        self.progress.setValue(sum(image.labelled for image in images))
        self.set_drafts(drafts)

    def set_drafts(self, drafts: Collection[str]) -> None:
        """Mark the cases that have work on this computer which was not submitted."""
        self.drafts = drafts
        for image_id, (item, _) in self._cases.items():
            name = item.text(0).removeprefix(DRAFT)
            item.setText(0, DRAFT + name if image_id in drafts else name)
        self._sift()

    def shown(self) -> list[str]:
        """Image ids that search and filter leave."""
        return [image_id for image_id, (item, _) in self._cases.items() if not item.isHidden()]

    def _sift(self, _: str = "") -> None:
        words = self.search.text().lower().split()
        fits = FILTERS[self.filter.currentText()]
        for image_id, (item, image) in self._cases.items():
            text = f"{image_id} {item.text(0)}".lower()
            item.setHidden(not (all(word in text for word in words) and fits(image, self.drafts, self._user)))
        sifted = bool(words) or self.filter.currentText() != "all"
        for top in self._tops():
            children = (top.child(i) for i in range(top.childCount()))
            left = any(child is not None and not child.isHidden() for child in children)
            top.setHidden(sifted and not left)
            if sifted and left:
                top.setExpanded(True)

    def _tops(self) -> list[QTreeWidgetItem]:
        tops = (self.list.topLevelItem(i) for i in range(self.list.topLevelItemCount()))
        return [top for top in tops if top is not None]

    def _activated(self, item: QTreeWidgetItem) -> None:
        image_id = item.data(0, ID)
        if image_id:
            self.hide()
            self.open_wanted.emit(image_id)
