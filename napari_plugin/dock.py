"""The dock widget: builds the views and ties each signal to the controller. Decides nothing itself."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from napari.utils.theme import get_theme
from napari.viewer import Viewer
from qtpy.QtCore import QEvent, QSize, Qt, QTimer
from qtpy.QtGui import QShowEvent
from qtpy.QtWidgets import QLabel, QMessageBox, QScrollArea, QSizePolicy, QTabWidget, QVBoxLayout, QWidget

from doselabel.wire import LabelVersion, ServerInfo, StudyInfo
from napari_plugin import paper
from napari_plugin.actions import actions
from napari_plugin.controller import Controller
from napari_plugin.dose_tab import DoseTab
from napari_plugin.opening import preferred, show_three, warm_up
from napari_plugin.questions import Questions
from napari_plugin.register_tab import tie
from napari_plugin.session.case import Case
from napari_plugin.session.settings import Settings
from napari_plugin.shortcuts import Shortcuts
from napari_plugin.tools import Click
from napari_plugin.views.case import CaseView
from napari_plugin.views.connect import ConnectView
from napari_plugin.views.display import DisplayView
from napari_plugin.views.dose import DoseView
from napari_plugin.views.kit import column
from napari_plugin.views.learn import LearnView
from napari_plugin.views.organs import EXCLUDED, OrganTable
from napari_plugin.views.palette import ToolPalette
from napari_plugin.views.planes import PlanesView
from napari_plugin.views.progress import Footer
from napari_plugin.views.register import RegisterView
from napari_plugin.views.review import ReviewView
from napari_plugin.views.segment import SegmentView
from napari_plugin.views.strip import SliceStrip, beneath_slider
from napari_plugin.views.submit import SubmitBar

NAME = "Annotate and dose (doselabel)"
"""What napari calls the dock in its menu and title, and the README too."""
WIDTH_PX = 350
LOWEST_TAB_PX = 96
TABS = ("Annotate", "Register", "Dose", "Review", "Learn")
NO_SERVER = "Connect to a server first: the chip at the top."
NO_CASE = "Open a case first: ‹ case › at the top."
BUSY = "Under way: the row at the foot says how far."
LEVEL_STYLES = {
    "info": "padding: 1px 6px;",
    "warning": "padding: 1px 6px; background: #6b5200; color: white;",
    "error": "padding: 1px 6px; background: #7d1620; color: white;",
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
        self.controller = Controller(napari_viewer, settings or preferred(), parent=self)
        self.server_view = ConnectView(self.controller.settings.urls)
        self.case_view = CaseView()
        self.segment_view = SegmentView()
        self.planes_view = PlanesView()
        self.display_view = DisplayView()
        self.strip = SliceStrip(self.controller.doubts)
        self.organ_table = OrganTable()
        self.palette_view = ToolPalette()
        self.submit_view = SubmitBar()
        self.questions = Questions(self.controller, self)
        self.learn_view = LearnView()
        self.review_view = ReviewView()
        self.register_view = RegisterView()
        self.dose_view = DoseView()
        self.footer = Footer()
        self.tabs = QTabWidget()
        self._lay_out()
        self._views_to_controller()
        self._controller_to_views()
        self._follow_theme()
        self.server_view.set_link(self.controller.connection.link)
        self._keys = Shortcuts(self, self._actions())
        napari_viewer.events.theme.connect(self._follow_theme)
        self._filtered: QWidget | None = None
        self._set_ready()
        self.destroyed.connect(partial(_abandon, self.controller))

    def _actions(self) -> dict[str, Callable[[], Any]]:
        views = (self.case_view, self.segment_view, self.palette_view, self.register_view)
        return actions(self.controller, self.questions, *views, self)

    def show_tab(self, title: str) -> None:
        """Bring one of `TABS` to the front."""
        for i in range(self.tabs.count()):
            if self.tabs.tabText(i) == title:
                self.tabs.setCurrentIndex(i)

    def cleanup(self) -> None:
        """Keep unsaved work, take our layers away and let go of the viewer."""
        with contextlib.suppress(ValueError, TypeError):
            self.viewer.events.theme.disconnect(self._follow_theme)
        self._keys.release()
        self.controller.cleanup()
        self.strip.setParent(None)

    def showEvent(self, event: QShowEvent) -> None:
        """Watch the window we are in: napari tells its dock widgets nothing when it closes."""
        window = self.window()
        if window is not self and window is not self._filtered:
            window.installEventFilter(self)
            self._filtered = window
            QTimer.singleShot(0, warm_up)  # when it is drawn
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
        lines = column(annotate, self.segment_view, self.palette_view)
        lines.setContentsMargins(0, 2, 0, 0)
        lines.addStretch(1)
        pages = (annotate, self.register_view, self.dose_view, self.review_view, self.learn_view)
        for title, page in zip(TABS, pages, strict=True):
            self.tabs.addTab(_scrolling(page), title)
        whole = QVBoxLayout(self)
        whole.setContentsMargins(
            0, 4, 0, 0
        )  # napari's title bar is 4 px higher than its place and covers what is there
        whole.setSpacing(3)
        research = QLabel("Research use only. Not a medical device.")
        research.setStyleSheet("font-weight: bold; padding: 0 6px;")
        for part in (
            research,
            self.server_view,
            self.case_view,
            self.questions.notices,
            self.planes_view,
            self.display_view,
            self.strip,
            self.organ_table,
        ):
            whole.addWidget(part)
        self.tabs.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Ignored)  # they scroll: they give way
        self.tabs.setMinimumHeight(LOWEST_TAB_PX)
        whole.addWidget(self.tabs, 1)
        whole.addWidget(self.submit_view)
        whole.addWidget(self.footer)
        self.setMinimumWidth(WIDTH_PX - 10)

    def sizeHint(self) -> QSize:
        """As wide as the parts need, no wider: the image comes first."""
        return QSize(WIDTH_PX, super().sizeHint().height())

    # ---- what the annotator wants

    def _views_to_controller(self) -> None:
        to = self.controller
        self.server_view.connect_wanted.connect(lambda url, token: to.connect(url, token or None))
        leave = self.questions.ask_leave
        self.case_view.next_wanted.connect(lambda strategy: leave(lambda: to.next_case(strategy)))
        self.case_view.open_wanted.connect(lambda image_id: leave(lambda: to.open_case(image_id)))
        self.segment_view.segment_wanted.connect(lambda params: to.segment(**params))
        self.palette_view.tool_wanted.connect(lambda name, params: to.tooling.start(name, **params))
        self.palette_view.pointing_wanted.connect(to.editing.pointing.choose)
        to.editing.pointing.clicked.connect(self._on_click)
        self.strip.wanted.connect(to.doubts.go)
        brush, planes = to.editing.brush, to.editing.planes
        self.planes_view.plane_wanted.connect(planes.show)
        self.planes_view.fit_wanted.connect(planes.fit)
        self.planes_view.three_wanted.connect(self._show_three)
        self.display_view.window_wanted.connect(to.editing.display.set_window)
        self.display_view.spect_wanted.connect(to.editing.display.set_spect)
        self.display_view.time_wanted.connect(to.editing.display.show_time)
        self.organ_table.organ_chosen.connect(brush.select_organ)
        self.organ_table.region_wanted.connect(lambda kind: to.regions.add(excluded=kind == EXCLUDED))
        self.organ_table.renamed.connect(to.regions.rename)
        self.palette_view.mode_wanted.connect(brush.set_mode)
        self.palette_view.brush_changed.connect(brush.set_size)
        self.palette_view.brush_3d_changed.connect(brush.set_sphere)
        self.palette_view.hu_range_changed.connect(brush.set_hu_range)
        self.palette_view.protect_changed.connect(brush.set_protect)
        self.palette_view.outline_changed.connect(brush.set_outline)
        self.submit_view.undo_wanted.connect(to.undo)
        self.submit_view.redo_wanted.connect(to.redo)
        self.submit_view.discard_wanted.connect(self._discard)
        self.submit_view.sheet_wanted.connect(self.questions.ask_submit)
        self.learn_view.train_wanted.connect(to.train)
        self.learn_view.rollback_wanted.connect(to.roll_back)
        self.review_view.compare_wanted.connect(to.handing.compare)
        self.review_view.hide_wanted.connect(self._hide_compared)
        self.review_view.take_wanted.connect(to.take_version)
        self.review_view.verdict_wanted.connect(to.judge)
        self.footer.cancelled.connect(to.cancel)
        self.tabs.currentChanged.connect(lambda at: to.registering.set_active(self.tabs.tabText(at) == "Register"))
        tie(self.register_view, to)
        self.dose_tab = DoseTab(self.dose_view, to, self)
        self.paper = paper.tie(to, self.display_view)

    def _on_click(self, name: str, voxel: tuple[int, int, int], belongs: bool) -> None:
        params = self.palette_view.forms[name].params
        self.controller.tooling.click(name, Click(voxel, belongs), **params)

    def _discard(self) -> None:
        session = self.controller.session
        if session is None or not session.dirty:
            return
        answer = QMessageBox.question(
            self, "Discard edits", "Return to the labels the server has? Your edits are put aside on this computer."
        )
        if answer == QMessageBox.StandardButton.Yes:
            self.controller.discard_edits()

    def _show_three(self, on: bool) -> None:
        if why_not := show_three(self.viewer, on):
            self.planes_view.three.setChecked(False)
            self._say(why_not, "error")

    # ---- what has happened

    def _controller_to_views(self) -> None:
        of = self.controller
        of.status.connect(self._say)
        of.connected.connect(self._on_connected)
        of.connection.changed.connect(self.server_view.set_link)
        of.case_opened.connect(self._on_case)
        of.next_reason.connect(self.case_view.set_reason)
        of.editing.labels_changed.connect(self._on_labels)
        of.editing.measured.connect(self.organ_table.set_measures)
        of.editing.named.connect(self.organ_table.set_names)
        of.editing.display_changed.connect(self._on_display)
        of.editing.plane_changed.connect(self.planes_view.set_plane)
        of.editing.brush.changed.connect(self.palette_view.set_brush)
        of.editing.brush.protect_changed.connect(self.palette_view.set_protect)
        of.editing.brush.outline_changed.connect(self.palette_view.set_outline)
        of.editing.brush.organ_changed.connect(self.organ_table.set_organ)
        of.doubts.changed.connect(lambda: self.segment_view.set_summary(of.doubts.summary))
        of.doubts.changed.connect(lambda: self.organ_table.set_flags(of.doubts.organs))
        of.learning.trained.connect(self.learn_view.set_summary)
        of.learning.learned.connect(self.learn_view.set_learning)
        of.learning.models.connect(self.learn_view.set_models)
        of.learning.answers.connect(self.learn_view.set_answering)
        of.handing.compared.connect(self.review_view.set_compared)
        of.connection.versions.connect(lambda _, versions: self._show_versions(versions))
        of.editing.brush.mode_changed.connect(self.palette_view.set_mode)
        of.editing.pointing.chosen.connect(self.palette_view.set_pointing)
        of.editing.closed.connect(self._on_closed)
        of.started.connect(self._on_started)
        of.progressed.connect(self.footer.report)
        of.finished.connect(lambda action, _: self._on_over(action))
        of.failed.connect(lambda action, _: self._on_over(action))
        of.cancelled.connect(self._on_over)

    def _set_ready(self) -> None:
        """Offer what can be done now; what can't says why."""
        of = self.controller
        server = "" if of.client is not None else NO_SERVER
        case = server or ("" if of.session is not None else NO_CASE)
        lacks = of.client.lacks if of.client is not None else {}
        offered: dict[str, tuple[SegmentView | SubmitBar | LearnView | DoseView, str]] = {
            "segment": (self.segment_view, case),
            "submit": (self.submit_view, case),
            "train": (self.learn_view, server),
            "dose": (self.dose_view, case or lacks.get("dose", "")),
        }
        for i, title in enumerate(TABS):
            self.tabs.setTabEnabled(i, title.lower() not in lacks)
            self.tabs.setTabToolTip(i, lacks.get(title.lower(), ""))
        for action, (view, missing) in offered.items():
            why_not = missing or (BUSY if of.tasks.running(action) else "")
            view.set_ready(not why_not, why_not)
        self.palette_view.set_case(of.session is not None)
        self.organ_table.set_offered(case, of.regions.why_none_excluded)
        self.planes_view.setEnabled(of.session is not None)
        self.display_view.setEnabled(of.session is not None)

    def _on_started(self, action: str) -> None:
        self.footer.start(action)
        self._set_ready()

    def _on_over(self, action: str) -> None:
        self.footer.stop(action)
        self._set_ready()

    def _on_connected(self, info: ServerInfo, studies: list[StudyInfo]) -> None:
        self.server_view.set_urls(self.controller.settings.urls)
        self.case_view.set_strategies(info.strategies, self.controller.settings.strategy)
        self.case_view.set_studies(studies, self._drafts(), self.controller.settings.author)
        self._set_ready()
        self.learn_view.set_server(info)
        self.learn_view.set_history(self.controller.client.lacks.get("models", "") if self.controller.client else "")
        self.segment_view.set_models(info.infers if self.controller.connection.link.stock else [])
        self.controller.learning.refresh()

    def _drafts(self) -> set[str]:
        session = self.controller.session
        dirty = {session.case.image_id} if session is not None and session.dirty else set()
        return dirty.union(self.controller.drafts())

    def _on_case(self, case: Case) -> None:
        self.case_view.set_drafts(self._drafts())
        self.case_view.set_case(case)
        beneath_slider(self.viewer, self.strip)  # if not: it stays in the dock, above the organs
        self._set_ready()
        self._show_versions(case.versions)
        self.review_view.forget()
        self.display_view.set_times(self.controller.editing.display.times_h)
        self._on_display()
        self.palette_view.set_hu(False)

    def _show_versions(self, versions: Sequence[LabelVersion]) -> None:
        self.dose_view.comparison.set_versions(versions)
        self.review_view.set_versions(versions)

    def _hide_compared(self) -> None:
        self.questions.hide_overlay()
        self.review_view.forget()

    def _on_closed(self) -> None:
        self.case_view.set_case(None)
        self._show_versions([])
        self.organ_table.forget()
        self.submit_view.set_dirty(False)
        self._set_ready()

    def _on_display(self) -> None:
        d = self.controller.editing.display
        self.display_view.show_state(d.window_hu, d.preset, d.spect_from, d.spect_opacity, d.time_index)

    def _on_labels(self) -> None:
        session = self.controller.session
        if session is not None:
            self.submit_view.set_dirty(session.dirty)
            self.case_view.set_drafts(self._drafts())

    def _say(self, text: str, level: str) -> None:
        self.footer.say(text, LEVEL_STYLES[level])

    def _follow_theme(self, _: Any = None) -> None:
        colours = get_theme(self.viewer.theme)
        shown = {
            "background": colours.background.as_hex(),
            "text": colours.text.as_hex(),
            "grid": colours.secondary.as_hex(),
        }
        self.dose_view.set_colours(shown)
        self.learn_view.plot.set_colours(shown)
        self.palette_view.set_colours(shown["text"], colours.current.as_hex())
        self.submit_view.set_colour(shown["text"])


def _scrolling(page: QWidget) -> QScrollArea:
    area = QScrollArea()
    area.setWidgetResizable(True)
    area.setFrameShape(QScrollArea.Shape.NoFrame)
    area.setHorizontalScrollBarPolicy(Qt.ScrollBarPolicy.ScrollBarAlwaysOff)
    area.setWidget(page)
    return area


def _abandon(controller: Controller, _: Any = None) -> None:
    """Keep what can be kept of a dock that is being deleted, maybe together with its window."""
    controller.cleanup(leave_layers=True)
