"""The dock widget: builds the views and ties each signal to the controller. Decides nothing itself."""

from __future__ import annotations

import contextlib
from functools import partial
from importlib.util import find_spec
from typing import Any

from napari.utils.theme import get_theme
from napari.viewer import Viewer
from qtpy.QtCore import QEvent, Qt, QUrl
from qtpy.QtGui import QDesktopServices
from qtpy.QtWidgets import QMessageBox, QScrollArea, QTabWidget, QVBoxLayout, QWidget

from doselabel.wire import ServerInfo, StudyInfo
from napari_plugin.actions import actions
from napari_plugin.controller import Controller
from napari_plugin.questions import Questions
from napari_plugin.session.case import Case
from napari_plugin.session.settings import Settings
from napari_plugin.shortcuts import Shortcuts
from napari_plugin.views.case import CaseView
from napari_plugin.views.connect import ConnectView
from napari_plugin.views.display import DisplayView
from napari_plugin.views.dose import DoseView
from napari_plugin.views.edit import EditView
from napari_plugin.views.kit import Section, note
from napari_plugin.views.planes import PlanesView
from napari_plugin.views.segment import SegmentView
from napari_plugin.views.submit import SubmitBar
from napari_plugin.views.train import TrainView

WIDTH_PX = 430
LEVEL_STYLES = {
    "info": "padding: 3px;",
    "warning": "padding: 3px; background: #6b5200; color: white;",
    "error": "padding: 3px; background: #7d1620; color: white;",
}


class DoselabelDock(QWidget):
    """Everything of doselabel in one dock; ``controller`` does the work and can be driven by code.

    Parameters
    ----------
    napari_viewer : napari.Viewer
        Given by napari.
    settings : Settings, optional
        Where to remember servers and drafts; the user's own by default.
    """

    def __init__(self, napari_viewer: Viewer, settings: Settings | None = None) -> None:
        super().__init__()
        self.viewer = napari_viewer
        self.controller = Controller(napari_viewer, settings, parent=self)
        remembered = self.controller.settings
        self.server_view = ConnectView(remembered.urls)
        self.case_view = CaseView()
        self.segment_view = SegmentView()
        self.planes_view = PlanesView(bool(find_spec("napari_orthogonal_views")))
        self.display_view = DisplayView()
        self.edit_view = EditView()
        self.submit_view = SubmitBar()
        self.questions = Questions(self.controller, self)
        self.train_view = TrainView()
        self.dose_view = DoseView()
        self._status = note()
        self._tabs = QTabWidget()
        self._lay_out()
        self._views_to_controller()
        self._controller_to_views()
        self._follow_theme()
        self.server_view.set_link(self.controller.connection.link)
        self._keys = Shortcuts(
            self, actions(self.controller, self.questions, self.case_view, self.segment_view, self.edit_view, self)
        )
        napari_viewer.events.theme.connect(self._follow_theme)
        self._filtered: QWidget | None = None
        self.destroyed.connect(partial(_abandon, self.controller))

    def show_tab(self, title: str) -> None:
        """Bring "Annotate", "Train" or "Dose" to the front."""
        for i in range(self._tabs.count()):
            if self._tabs.tabText(i) == title:
                self._tabs.setCurrentIndex(i)

    def cleanup(self) -> None:
        """Keep unsaved work, take our layers away and let go of the viewer."""
        with contextlib.suppress(ValueError, TypeError):
            self.viewer.events.theme.disconnect(self._follow_theme)
        self._keys.release()
        self.controller.cleanup()

    def showEvent(self, event: QEvent) -> None:
        """Watch the window we are in: napari tells its dock widgets nothing when it closes."""
        window = self.window()
        if window is not self and window is not self._filtered:
            window.installEventFilter(self)
            self._filtered = window
        super().showEvent(event)

    def eventFilter(self, watched: Any, event: QEvent) -> bool:
        """Keep unsaved work when the window closes; it may yet refuse to."""
        if watched is self._filtered and event.type() == QEvent.Type.Close:
            self.controller.editing.keep_work()
        return super().eventFilter(watched, event)

    def event(self, event: QEvent) -> bool:
        """Clean up when napari takes us out of a window that stays (the dock's ✕)."""
        if event.type() == QEvent.Type.ParentChange and self.parent() is None and self._filtered is not None:
            self._filtered = None
            self.cleanup()
        return super().event(event)

    # ---- layout

    def _lay_out(self) -> None:
        annotate = QWidget()
        lines = QVBoxLayout(annotate)
        lines.setContentsMargins(0, 0, 0, 0)
        lines.setSpacing(2)
        for title, view in (("Case", self.case_view), ("Segment", self.segment_view), ("Correct", self.edit_view)):
            lines.addWidget(Section(title, view))
        lines.addStretch(1)
        self._tabs.addTab(_below(_scrolling(annotate), self.submit_view), "Annotate")
        self._tabs.addTab(_scrolling(self.train_view), "Train")
        self._tabs.addTab(_scrolling(self.dose_view), "Dose")
        research = note("Research use only. Not a medical device.")
        research.setStyleSheet("font-weight: bold; padding: 2px 6px;")
        whole = QVBoxLayout(self)
        whole.setContentsMargins(2, 2, 2, 2)
        whole.setSpacing(2)
        whole.addWidget(research)
        whole.addWidget(self.server_view)
        whole.addWidget(self.questions.notices)
        whole.addWidget(self.planes_view)
        whole.addWidget(self.display_view)
        whole.addWidget(self._tabs, 1)
        whole.addWidget(self._status)
        self.setMinimumWidth(WIDTH_PX)

    # ---- what the annotator wants

    def _views_to_controller(self) -> None:
        to = self.controller
        self.server_view.connect_wanted.connect(lambda url, token: to.connect(url, token or None))
        leave = self.questions.ask_leave
        self.case_view.next_wanted.connect(lambda strategy: leave(lambda: to.next_case(strategy)))
        self.case_view.open_wanted.connect(lambda image_id: leave(lambda: to.open_case(image_id)))
        self.segment_view.segment_wanted.connect(lambda params: to.segment(**params))
        self.edit_view.tool_wanted.connect(lambda name, params: to.tool(name, **params))
        brush, planes = to.editing.brush, to.editing.planes
        self.planes_view.plane_wanted.connect(planes.show)
        self.planes_view.fit_wanted.connect(planes.fit)
        self.planes_view.three_wanted.connect(self._show_three)
        self.display_view.window_wanted.connect(to.editing.display.set_window)
        self.display_view.spect_wanted.connect(to.editing.display.set_spect)
        self.display_view.time_wanted.connect(to.editing.display.show_time)
        self.edit_view.organ_chosen.connect(brush.select_organ)
        self.edit_view.brush_changed.connect(brush.set_size)
        self.edit_view.brush_3d_changed.connect(brush.set_sphere)
        self.edit_view.hu_range_changed.connect(brush.set_hu_range)
        self.edit_view.protect_changed.connect(brush.set_protect)
        self.edit_view.outline_changed.connect(brush.set_outline)
        self.edit_view.undo_wanted.connect(to.undo)
        self.edit_view.redo_wanted.connect(to.redo)
        self.submit_view.discard_wanted.connect(self._discard)
        self.submit_view.sheet_wanted.connect(self.questions.ask_submit)
        self.train_view.train_wanted.connect(to.train)
        self.dose_view.dose_wanted.connect(lambda options: to.dose(**options))
        self.dose_view.report_wanted.connect(self._open_report)
        for action, view in self._progress_views().items():
            view.progress.cancelled.connect(lambda action=action: to.cancel(action))

    def _discard(self) -> None:
        session = self.controller.session
        if session is None or not session.dirty:
            return
        answer = QMessageBox.question(
            self, "Discard edits", "Return to the labels the server has? Your edits are put aside on this computer."
        )
        if answer == QMessageBox.StandardButton.Yes:
            self.controller.discard_edits()

    def _show_three(self) -> None:
        self.viewer.window.add_plugin_dock_widget("napari-orthogonal-views")

    def _open_report(self) -> None:
        if self.controller.report is not None:
            QDesktopServices.openUrl(QUrl.fromLocalFile(str(self.controller.report)))

    # ---- what has happened

    def _controller_to_views(self) -> None:
        of = self.controller
        of.status.connect(self._say)
        of.connected.connect(self._on_connected)
        of.connection.changed.connect(self.server_view.set_link)
        of.case_opened.connect(self._on_case)
        of.next_reason.connect(self.case_view.set_reason)
        of.editing.labels_changed.connect(self._on_labels)
        of.editing.measured.connect(self.edit_view.set_measures)
        of.editing.display_changed.connect(self._on_display)
        of.editing.plane_changed.connect(self.planes_view.set_plane)
        of.editing.brush.changed.connect(self.edit_view.set_brush)
        of.editing.brush.protect_changed.connect(self.edit_view.set_protect)
        of.editing.brush.outline_changed.connect(self.edit_view.set_outline)
        of.editing.brush.organ_changed.connect(self.edit_view.set_organ)
        of.segmented.connect(self.segment_view.set_summary)
        of.trained.connect(self.train_view.set_summary)
        of.dose_ready.connect(lambda results: self.dose_view.set_results(results, has_report=of.report is not None))
        of.dose_outdated.connect(self.dose_view.set_outdated)
        of.started.connect(self._on_started)
        of.progressed.connect(self._on_progressed)
        of.finished.connect(lambda action, _: self._on_over(action))
        of.failed.connect(lambda action, _: self._on_over(action))
        of.cancelled.connect(self._on_over)

    def _progress_views(self) -> dict[str, Any]:
        return {
            "case": self.case_view,
            "segment": self.segment_view,
            "train": self.train_view,
            "dose": self.dose_view,
        }

    def _busy_views(self) -> dict[str, Any]:
        return {
            "segment": self.segment_view,
            "submit": self.submit_view,
            "train": self.train_view,
            "dose": self.dose_view,
        }

    def _on_started(self, action: str) -> None:
        if action in self._progress_views():
            self._progress_views()[action].progress.start()
        if action in self._busy_views():
            self._busy_views()[action].set_busy(True)

    def _on_progressed(self, action: str, stage: str, fraction: float) -> None:
        if action in self._progress_views():
            self._progress_views()[action].progress.report(stage, fraction)

    def _on_over(self, action: str) -> None:
        if action in self._progress_views():
            self._progress_views()[action].progress.stop()
        if action in self._busy_views():
            self._busy_views()[action].set_busy(False)

    def _on_connected(self, info: ServerInfo, studies: list[StudyInfo]) -> None:
        self.server_view.set_urls(self.controller.settings.urls)
        self.case_view.set_strategies(info.strategies, self.controller.settings.strategy)
        self.case_view.set_studies(studies, self._drafts())
        self.train_view.set_server(info)

    def _drafts(self) -> set[str]:
        session = self.controller.session
        dirty = {session.case.image_id} if session is not None and session.dirty else set()
        return dirty.union(self.controller.drafts())

    def _on_case(self, case: Case) -> None:
        self.case_view.set_drafts(self._drafts())
        self.case_view.set_case(case)
        self.display_view.set_times(self.controller.editing.display.times_h)
        self._on_display()
        self.segment_view.set_summary(None)
        self.edit_view.set_hu(False)

    def _on_display(self) -> None:
        d = self.controller.editing.display
        self.display_view.show_state(d.window_hu, d.preset, d.spect_from, d.spect_opacity, d.time_index)

    def _on_labels(self) -> None:
        session = self.controller.session
        if session is not None:
            self.submit_view.set_dirty(session.dirty)
            self.case_view.set_drafts(self._drafts())

    def _say(self, text: str, level: str) -> None:
        self._status.setText(text)
        self._status.setStyleSheet(LEVEL_STYLES[level])

    def _follow_theme(self, _: Any = None) -> None:
        colours = get_theme(self.viewer.theme)
        shown = {
            "background": colours.background.as_hex(),
            "text": colours.text.as_hex(),
            "grid": colours.secondary.as_hex(),
        }
        self.dose_view.set_colours(shown)
        self.train_view.plot.set_colours(shown)


def _scrolling(page: QWidget) -> QScrollArea:
    area = QScrollArea()
    area.setWidgetResizable(True)
    area.setFrameShape(QScrollArea.Shape.NoFrame)
    area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    area.setWidget(page)
    return area


def _below(upper: QWidget, lower: QWidget) -> QWidget:
    """A page whose lower part stays in sight while the upper scrolls."""
    page = QWidget()
    lines = QVBoxLayout(page)
    lines.setContentsMargins(0, 0, 0, 0)
    lines.setSpacing(4)
    lines.addWidget(upper, 1)
    lines.addWidget(lower)
    return page


def _abandon(controller: Controller, _: Any = None) -> None:
    """Keep what can be kept of a dock that is being deleted, maybe together with its window."""
    controller.cleanup(leave_layers=True)
