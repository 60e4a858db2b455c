"""Which case to annotate: the next one by strategy, with its reason, or any from the list."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from qtpy.QtCore import Qt, Signal
from qtpy.QtWidgets import QComboBox, QHeaderView, QLabel, QTreeWidget, QTreeWidgetItem, QWidget

from doselabel.labels import title
from doselabel.wire import StudyInfo
from napari_plugin.session.case import Case
from napari_plugin.views.kit import ProgressRow, button, column, note, row

DRAFT = "✎ "
ID = Qt.ItemDataRole.UserRole


class CaseView(QWidget):
    """Next case, list of cases, and the one that is open."""

    next_wanted = Signal(str)
    open_wanted = Signal(str)

    def __init__(self) -> None:
        super().__init__()
        self._strategy = QComboBox()
        self._strategy.setMinimumWidth(80)
        self._strategy.setToolTip("How the server chooses the next case")
        self._next = button("Next case", "Key N")
        self._next.clicked.connect(lambda: self.next_wanted.emit(self._strategy.currentText()))
        self._reason = note()
        self._reason.hide()
        self._open = note("<b>No case is open.</b>")
        self.progress = ProgressRow()
        self._cases: dict[str, QTreeWidgetItem] = {}
        self._list = QTreeWidget()
        self._list.setHeaderLabels(["Patient / CT", "Labels", "Time"])
        self._list.header().setSectionResizeMode(0, QHeaderView.ResizeMode.Stretch)
        self._list.header().setSectionResizeMode(1, QHeaderView.ResizeMode.ResizeToContents)
        self._list.header().setSectionResizeMode(2, QHeaderView.ResizeMode.ResizeToContents)
        self._list.header().setStretchLastSection(False)
        self._list.setFixedHeight(96)
        self._list.setToolTip("Double-click opens a case")
        self._list.itemActivated.connect(self._activated)
        column(
            self,
            row(self._next, QLabel("by"), self._strategy, stretch=2),
            self._reason,
            self.progress,
            self._list,
            self._open,
        )

    @property
    def strategy(self) -> str:
        """Strategy chosen."""
        return self._strategy.currentText()

    def set_strategies(self, names: Sequence[str], chosen: str = "") -> None:
        """Offer the server's strategies."""
        chosen = chosen or self._strategy.currentText()
        self._strategy.clear()
        self._strategy.addItems(list(names))
        if chosen in names:
            self._strategy.setCurrentText(chosen)

    def set_studies(self, studies: Sequence[StudyInfo], drafts: Collection[str] = ()) -> None:
        """List patients and their CTs; those that can't be used say why, those with unsaved work are marked."""
        self._list.clear()
        self._cases.clear()
        for study in studies:
            done = sum(image.labelled for image in study.images)
            top = QTreeWidgetItem([study.patient_id, f"{done} / {len(study.images)}", ""])
            if study.error is not None:
                top.setText(1, "unusable")
                top.setToolTip(0, f"{study.error.message} {study.error.hint}")
                top.setToolTip(1, top.toolTip(0))
            for image in study.images:
                time = "" if image.time_h is None else f"{image.time_h:g} h"
                state = f"✓ v{image.versions}" if image.labelled else (f"v{image.versions}" if image.versions else "–")
                name = "diagnostic CT" if image.role == "diagnostic" else image.file
                child = QTreeWidgetItem([name, state, time])
                child.setData(0, ID, image.image_id)
                child.setToolTip(0, image.image_id)
                top.addChild(child)
                self._cases[image.image_id] = child
            self._list.addTopLevelItem(top)
            top.setExpanded(len(studies) <= 2)
        self.set_drafts(drafts)

    def set_drafts(self, drafts: Collection[str]) -> None:
        """Mark the cases that have work on this computer which was not submitted."""
        for image_id, item in self._cases.items():
            name = item.text(0).removeprefix(DRAFT)
            item.setText(0, DRAFT + name if image_id in drafts else name)

    def set_reason(self, text: str) -> None:
        """Show why this case."""
        self._reason.setText(f"Why this one: {text}")
        self._reason.setVisible(bool(text))

    def set_case(self, case: Case) -> None:
        """Show which case is open."""
        spects = ", ".join(f"{frame.time_h:g} h" for frame in case.spects)
        study = case.study
        self._open.setText(
            f"<b>{case.title}</b> · {study.nuclide}, {study.injected_activity_mbq:g} MBq · "
            f"SPECT at {spects or '–'} after injection"
            + "".join(f" · <b>no {title(name).lower()}</b>" for name in study.organs_absent)
        )

    def _activated(self, item: QTreeWidgetItem) -> None:
        image_id = item.data(0, ID)
        if image_id:
            self.open_wanted.emit(image_id)
