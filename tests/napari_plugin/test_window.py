"""The real window with real clicks and keys, against a real server process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from qtpy.QtCore import QPoint, QRect, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import (
    QAbstractButton,
    QAbstractSpinBox,
    QComboBox,
    QDoubleSpinBox,
    QLineEdit,
    QSizePolicy,
    QTableWidget,
    QWidget,
)

from doselabel.wire import LabelVersion, ModelEvent
from napari_plugin.dock import NAME, DoselabelDock
from napari_plugin.session.settings import Settings
from tests.napari_plugin.hands import click, keep, opened, pause, press

pytestmark = pytest.mark.e2e


def test_views_keys_notices_and_the_sheet_by_mouse_and_keyboard(dock, truth):
    controller = dock.controller
    opened(dock, "P-002__ct_tp2", truth)
    drawn = controller.session.array.copy()
    keep(dock, "axial")

    # keys are alive after a click in the dock, and dead in a text field
    QTest.mouseClick(dock.organ_table.viewport(), Qt.MouseButton.LeftButton, pos=QPoint(20, 30))
    assert controller.layers.labels.selected_label == 2
    press(dock, Qt.Key.Key_F3)
    assert controller.editing.planes.plane == "coronal"
    keep(dock, "coronal")
    press(dock, Qt.Key.Key_Q)
    assert controller.layers.labels.selected_label == 1
    field = QLineEdit(dock)
    field.show()
    field.setFocus()
    press(dock, Qt.Key.Key_Q)
    assert (field.text(), controller.layers.labels.selected_label) == ("q", 1)
    field.deleteLater()

    # every view button
    for plane in ("sagittal", "axial", "3d"):
        click(dock.planes_view.buttons[plane])
        assert controller.editing.planes.plane == plane
        keep(dock, plane)
    click(dock.planes_view.buttons["axial"])

    # a removed layer is offered back
    labels = controller.layers.labels
    labels.locked = False
    dock.viewer.layers.remove(labels)
    keep(dock, "layer-removed")
    click(dock.questions.notices["layer"].answers["Put it back"])
    assert labels in dock.viewer.layers
    assert "layer" not in dock.questions.notices

    # leaving unsaved work asks
    dock.organ_table.setFocus()
    press(dock, Qt.Key.Key_N)
    assert not controller.tasks.running("case")
    click(dock.questions.notices["leave"].answers["Stay"])

    # a model's result over hand work is offered
    controller.segment()
    controller.wait("segment", 600)
    assert np.array_equal(controller.session.array, drawn)
    keep(dock, "offer")
    click(dock.questions.notices["offer"].answers["Keep mine"])
    assert controller.segmenting.offer is None

    # the sheet
    press(dock, Qt.Key.Key_Return, Qt.KeyboardModifier.ControlModifier)
    controller.wait("review", 120)
    sheet = dock.questions.sheet
    assert sheet.table.rowCount() == 3
    sheet.author.clear()
    assert not sheet.submit.isEnabled()
    QTest.keyClicks(sheet.author, "eve")
    folder = os.environ.get("DOSELABEL_SCREENSHOTS")
    if folder:
        sheet.grab().save(str(Path(folder) / "sheet.png"))
    click(sheet.submit)
    assert controller.wait("submit", 120).author == "eve"
    assert not controller.session.dirty
    keep(dock, "submitted")


def test_a_window_killed_in_a_stroke_leaves_its_draft_which_is_offered_voxel_for_voxel(dock, server, tmp_path):
    drawn = tmp_path / "drawn.npy"
    script = Path(__file__).with_name("killed_window.py")
    command = [sys.executable, str(script), server, str(tmp_path), str(drawn)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", timeout=600, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    controller = dock.controller
    controller.connect(server)
    controller.wait("connect", 120)
    notice = dock.questions.notices["drafts"]
    assert "1 unsaved case" in notice.text
    keep(dock, "draft")
    click(notice.answers["Resume"])
    assert controller.wait("case", 120).restored
    assert np.array_equal(controller.session.snapshot().native().array, np.load(drawn))
    assert "drafts" not in dock.questions.notices


# ---- the layout


def settled(dock, size: tuple[int, int]) -> None:
    dock.viewer.window.resize(*size)
    pause(200)


def clipped(dock) -> list[str]:
    """Widgets in sight, and cells, that are narrower than what they show, or reach out of the dock."""
    wrong = [
        f"{table.horizontalHeaderItem(j).text()}: {table.item(i, j).text()}"
        for table in dock.findChildren(QTableWidget)
        for i in range(table.rowCount())
        for j in range(table.columnCount())
        if table.isVisible() and table.columnWidth(j) < table.sizeHintForIndex(table.model().index(i, j)).width()
    ]
    for part in dock.findChildren(QWidget):
        if not part.isVisible() or not isinstance(part, QAbstractButton | QComboBox | QAbstractSpinBox):
            continue
        left = part.mapTo(dock, QPoint(0, 0)).x()
        needed, given = part.minimumSizeHint().width(), part.width()
        if isinstance(part, QDoubleSpinBox):
            ends = (part.textFromValue(end) + part.suffix() for end in (part.minimum(), part.maximum()))
            needed, given = max(map(part.fontMetrics().horizontalAdvance, ends)), part.lineEdit().width() - 4
        elif part.sizePolicy().horizontalPolicy() == QSizePolicy.Policy.Ignored:
            needed = 0
        if left < 0 or left + part.width() > dock.width() or given < needed:
            wrong.append(f"{type(part).__name__} {part.toolTip() or part.accessibleName()}: {given} of {needed} px")
    return wrong


def overlapping(dock) -> list[str]:
    """Parts of the dock that reach into the next one, or out of the window; what lies beneath the top is seen first."""
    parts = [dock.layout().itemAt(i).widget() for i in range(dock.layout().count())]
    shown = [part for part in parts if part.isVisible()]
    wrong = [type(a).__name__ for a, b in pairwise(shown) if a.geometry().bottom() >= b.geometry().top()]
    wrong += [type(part).__name__ for part in shown if part.height() < part.minimumSizeHint().height()]
    if dock.parent().titleBarWidget().geometry().bottom() >= dock.y() + shown[0].y():
        wrong.append("napari's title bar")
    inside = dock.window().rect().contains(QRect(dock.mapTo(dock.window(), QPoint(0, 0)), dock.size()))
    return wrong if inside else [*wrong, f"the dock: {dock.size()} in {dock.window().size()}"]


# 1280×720 is 1920×1080 at 150 %, 933×600 is 1400×900 at 150 %
@pytest.mark.parametrize("size", [(1400, 900), (1100, 700), (1280, 720), (933, 600)])
def test_the_image_comes_first_and_nothing_is_clipped(dock, truth, size):
    opened(dock, "P-001__ct_tp1", truth)
    wide = datetime(2026, 12, 28, 20, 48, tzinfo=UTC)
    dock.review_view.set_versions([
        LabelVersion(image_id="P-001__ct_tp1", version=108, created=wide, author="ada", **{state: True})
        for state in ("approved", "flagged", "draft")
    ])  # fmt: skip
    dock.learn_view.set_models([ModelEvent(time=wide, what="rolled back", sha256="8" * 64, by="ada")])
    settled(dock, size)
    assert dock.width() <= 360
    canvas = dock.viewer.window._qt_viewer.canvas.native
    assert canvas.width() >= {1400: 0.5, 1280: 0.4, 1100: 0.35, 933: 0.25}[size[0]] * size[0]
    assert overlapping(dock) == []
    foot = dock.submit_view.mapTo(dock, QPoint(0, 0))
    for tab in range(dock.tabs.count()):
        dock.tabs.setCurrentIndex(tab)
        pause(50)
        assert clipped(dock) == []
        assert dock.organ_table.isVisible()
        assert dock.organ_table.viewport().height() >= 20 * (dock.organ_table.rowCount() if size[1] >= 700 else 2)
        assert dock.submit_view.mapTo(dock, QPoint(0, 0)) == foot
    assert dock.height() <= size[1]
    dock.tabs.setCurrentIndex(0)
    click(dock.display_view.more)  # what it opens takes its room from the tab, whose page scrolls
    pause(50)
    assert dock.display_view.ct_window.isVisible()
    assert clipped(dock) == []
    assert overlapping(dock) == []
    assert dock.submit_view.mapTo(dock, QPoint(0, 0)) == foot
    click(dock.display_view.more)
    dock.palette_view.set_hu(True)
    for line in (dock.palette_view._brush, *dock.palette_view.forms.values()):
        dock.palette_view._lines.setCurrentWidget(line)
        pause(20)
        assert clipped(dock) == []
    before = [view.geometry() for view in (dock.tabs, dock.submit_view, dock.footer)]
    dock.footer.start("segment")
    dock.footer.report("segment", "slice 3 of 97, and a stage with a name that is far too long for one line", 0.3)
    pause(50)
    assert [view.geometry() for view in (dock.tabs, dock.submit_view, dock.footer)] == before
    assert dock.footer.cancel.isVisible()
    dock.footer.stop("segment")


def test_what_can_not_be_done_says_why(window, tmp_path):
    dock = DoselabelDock(window, Settings(folder=tmp_path))
    window.window.add_dock_widget(dock, name=NAME, area="right")
    settled(dock, (1100, 700))
    assert not any(tool.isEnabled() for tool in dock.palette_view.tools.values())
    assert not dock.segment_view._run.isEnabled()
    assert "Connect to a server" in dock.segment_view._run.toolTip()
    assert "No case is open" in dock.palette_view._lines.currentWidget().text()
    keep(dock, "nothing-open")
    dock.cleanup()


def test_tools_and_cases_by_clicks(dock, truth):
    controller = dock.controller
    opened(dock, "P-002__ct", truth)
    palette = dock.palette_view

    # a mode, seen from the canvas too
    click(palette.modes["paint"])
    assert controller.layers.labels.mode == "paint"
    controller.layers.labels.mode = "erase"
    assert palette.modes["erase"].isChecked()

    # a tool with a parameter shows its form; Apply is one undo step
    QTest.mouseClick(dock.organ_table.viewport(), Qt.MouseButton.LeftButton, pos=QPoint(20, 10))
    before = controller.session.array.copy()
    click(palette.tools["margin"])
    assert np.array_equal(controller.session.array, before)
    form = palette.forms["margin"]
    assert form.isVisible()
    form.fields["margin_mm"].value = 4.0
    click(form.apply)
    controller.tooling.wait(60)
    assert (controller.session.array == 1).sum() > (before == 1).sum()
    keep(dock, "tool")
    click(dock.submit_view.undo)
    assert np.array_equal(controller.session.array, before)
    click(dock.submit_view.redo)
    assert not np.array_equal(controller.session.array, before)

    # one without is applied at once
    click(palette.tools["clear"])
    controller.tooling.wait(60)
    assert not (controller.session.array == 1).any()

    # the browser: search, filter, open
    click(dock.case_view.name)
    browser = dock.case_view.browser
    assert browser.isVisible()
    QTest.keyClicks(browser.search, "p-001 tp2")
    assert browser.shown() == ["P-001__ct_tp2"]
    browser.search.clear()
    browser.filter.setCurrentText("drafts")
    assert browser.shown() == ["P-002__ct"]
    folder = os.environ.get("DOSELABEL_SCREENSHOTS")
    if folder:
        browser.grab().save(str(Path(folder) / "browser.png"))
    browser.filter.setCurrentText("mine")
    images = [image for study in controller.connection.studies for image in study.images]
    assert browser.shown() == [image.image_id for image in images if "ada" in image.authors]
    browser.hide()

    # ‹ goes back
    controller.session.abandoned()
    controller.session.recovery.clear("P-002__ct")  # by now the draft is on disk, or not yet
    opened(dock, "P-001__ct_tp2")
    click(dock.case_view.back)
    assert controller.wait("case", 120).image_id == "P-002__ct"

    # once more it is the case before that; the same case again changes nothing
    opened(dock, "P-002__ct")
    click(dock.case_view.back)
    assert controller.wait("case", 120).image_id == "P-001__ct_tp2"
