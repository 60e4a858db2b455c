"""Marks of doubt, Register, Review and Learn in the real window: real clicks and keys, a real server process."""

from __future__ import annotations

import time

import numpy as np
import pytest
from qtpy.QtCore import QPoint, QPointF, Qt
from qtpy.QtTest import QTest

from doselabel.study import Registration
from doselabel.wire import OrganSegmentation, SegmentationSummary, SliceDoubt
from napari_plugin.client import Client
from napari_plugin.registering import DEGREES_PER_PIXEL
from napari_plugin.views.strip import beneath_slider
from tests.napari_plugin.hands import click, keep, opened, pause, press
from tests.napari_plugin.mouse import canvas_of, drag, pixel

pytestmark = pytest.mark.e2e
SHIFT, CONTROL = Qt.KeyboardModifier.ShiftModifier, Qt.KeyboardModifier.ControlModifier


def said_of(truth: np.ndarray, sha256: str) -> SegmentationSummary:
    """What a network might say of the small patient: two doubtful slices of the left kidney, one of the liver."""

    def organ(value: int, doubts: list[tuple[int, str]], flags: list[str]) -> OrganSegmentation:
        shown = np.flatnonzero((truth == value).any(axis=(1, 2)))
        return OrganSegmentation(
            volume_ml=1.0, score=0.9, slices=len(shown), first_slice=int(shown[0]), sureness=[0.9] * len(shown),
            doubts=[SliceDoubt(slice=z, kind=kind, text=f"{kind} here") for z, kind in doubts], flags=flags,
        )  # fmt: skip

    organs = {
        "left_kidney": organ(1, [(9, "filled"), (10, "jump")], ["interpolated: 1 slice"]),
        "liver": organ(3, [(12, "unsure")], []),
    }
    return SegmentationSummary(organs=organs, model_sha256=sha256)


def test_doubtful_slices_are_marked_beneath_the_slider_and_reached_by_keys(dock, truth):
    controller = dock.controller
    opened(dock, "P-001__ct")
    doubts, layers = controller.doubts, controller.layers
    assert not dock.strip.isVisible()
    assert beneath_slider(dock.viewer, dock.strip), "napari's sliders are not where they were"
    found = truth.copy()
    found[tuple(np.argwhere(truth == 3)[0])] = 0  # what another test may have stored is something else
    controller.editing.replace(found, "a-model")
    controller.segmenting.segmented.emit(said_of(found, "a-model"))
    pause(100)
    slider = dock.viewer.window._qt_viewer.dims.slider_widgets[-3].slider
    here, there = (widget.mapToGlobal(QPoint(0, 0)) for widget in (dock.strip, slider))
    assert dock.strip.isVisible()
    assert there.y() < here.y() < there.y() + 30
    assert there.x() <= here.x() + dock.strip.x_of(0) < here.x() + dock.strip.x_of(doubts.slices - 1)
    assert here.x() + dock.strip.x_of(doubts.slices - 1) <= there.x() + slider.width()

    # by keys, from the head to the feet and back; the organ to look at is chosen, the image says why
    controller.editing.brush.select_organ(3)
    doubts.go(0)
    press(dock, Qt.Key.Key_Period)
    assert (doubts.at, layers.labels.selected_label) == (9, 1)
    assert "Left kidney: filled here" in dock.viewer.canvas.overlays.text.text
    keep(dock, "doubts")
    press(dock, Qt.Key.Key_Period)
    press(dock, Qt.Key.Key_Period)
    assert (doubts.at, layers.labels.selected_label) == (12, 3)
    press(dock, Qt.Key.Key_Period)
    assert doubts.at == 12
    assert "below" in dock.footer.said.text()
    press(dock, Qt.Key.Key_Comma)
    assert doubts.at == 10

    # by the mouse
    at = QPoint(round(dock.strip.x_of(12)), 3)
    QTest.mouseClick(dock.strip, Qt.MouseButton.LeftButton, pos=at)
    assert doubts.at == 12

    # the organ's flag is in the table; all of it goes and comes with the model's labels
    assert dock.organ_table.item(0, 0).text() == "Left kidney ⚠"
    assert "interpolated" in dock.organ_table.item(0, 0).toolTip()
    assert "Liver: unsure here" in dock.viewer.canvas.overlays.text.text
    press(dock, Qt.Key.Key_F3)
    assert not dock.strip.isVisible()
    assert "unsure here" not in dock.viewer.canvas.overlays.text.text
    press(dock, Qt.Key.Key_F2)
    click(dock.submit_view.undo)
    assert not dock.strip.isVisible()
    assert dock.organ_table.item(0, 0).text() == "Left kidney"
    click(dock.submit_view.redo)
    assert dock.strip.isVisible()


@pytest.fixture
def as_it_was(server):
    """The stored place of a SPECT, put back afterwards: the other tests share the server."""
    yield
    with Client(server) as client:
        client.set_registration("P-002", 0, Registration())


def settle(controller) -> None:
    """Wait until the SPECT is where it shall be, and is judged."""
    deadline = time.monotonic() + 120
    while not controller.registering.idle:
        assert time.monotonic() < deadline
        pause(20)


def test_a_spect_is_moved_by_keys_and_drag_judged_undone_and_stored(dock, truth, as_it_was):
    controller = dock.controller
    opened(dock, "P-002__ct_tp1", truth)
    view, of, spect = dock.register_view, controller.registering, controller.layers.spect
    before = spect.data.copy()

    def kidney() -> float:
        """What the table shows of the right kidney's activity now, MBq."""
        return float(view.table.item(1, 2).text())

    press(dock, Qt.Key.Key_Right, SHIFT)  # another tab is in front: nothing is moved
    assert of.place.at == -1
    spect.visible = False  # as a dose map leaves it
    dock.show_tab("Register")
    assert spect.visible
    settle(controller)
    stored = kidney()
    view.step.setValue(10)

    # keys move it as it is seen; the number follows, the image too
    for _ in range(5):
        press(dock, Qt.Key.Key_Right, SHIFT)
    press(dock, Qt.Key.Key_Down, SHIFT)
    settle(controller)
    assert of.place.now[:3, 3] == pytest.approx([50, 10, 0])
    assert not np.array_equal(spect.data, before)
    assert "Moved 51.0 mm" in view.said.text()
    assert "R²" in view.said.text()
    assert kidney() < 0.5 * stored  # its uptake lies beside it now
    press(dock, Qt.Key.Key_Right, SHIFT | CONTROL)
    settle(controller)
    assert "1.0°" in view.said.text()
    keep(dock, "register")

    # before and after; undo and redo are of moves while the tab is in front
    shown = spect.data.copy()
    click(view.before)
    settle(controller)
    assert np.allclose(spect.data, before, atol=1e-3 * before.max())
    click(view.before)
    settle(controller)
    assert np.allclose(spect.data, shown)
    drawn = controller.session.array.copy()
    press(dock, Qt.Key.Key_Z, CONTROL)
    settle(controller)
    assert of.place.now[:3, 3] == pytest.approx([50, 10, 0])
    assert np.array_equal(controller.session.array, drawn)
    click(view.back)
    settle(controller)
    assert kidney() == pytest.approx(stored, rel=1e-3)

    # a drag moves it, in the plane on screen; the image stays
    canvas, centre = canvas_of(dock.window()), tuple(dock.viewer.scene.camera.center)
    controller.layers.labels.mode = "pan_zoom"
    click(view.drag)
    begun = pixel(dock.viewer, controller.layers.labels.data_to_world((12, 20, 20)))
    zoom = dock.viewer.scene.camera.zoom
    drag(canvas, [begun, begun + QPointF(6 * zoom, 0), begun + QPointF(12 * zoom, -8 * zoom)])
    settle(controller)
    assert of.place.now[:3, 3] == pytest.approx([12, -8, 0], abs=0.5)
    assert tuple(dock.viewer.scene.camera.center) == centre

    # with Ctrl it turns, clockwise to the right; one step back, it is as before
    drag(canvas, [begun, begun + QPointF(20, 0), begun + QPointF(40, 0)], keys=CONTROL)
    settle(controller)
    assert of.moved[1] == pytest.approx(40 * DEGREES_PER_PIXEL, abs=0.05)
    assert tuple(dock.viewer.scene.camera.center) == centre
    press(dock, Qt.Key.Key_Z, CONTROL)
    settle(controller)
    assert of.place.now[:3, 3] == pytest.approx([12, -8, 0], abs=0.5)
    click(view.drag)

    # leaving asks, for it is not stored; then it is, and comes back with the case
    controller.session.abandoned()
    press(dock, Qt.Key.Key_N)
    assert "not saved" in dock.questions.notices["leave"].text
    click(dock.questions.notices["leave"].answers["Stay"])
    matrix = of.place.now
    click(view.save)
    controller.wait("place", 60)
    assert of.unsaved == []
    settle(controller)
    controller.connect(controller.client.url)
    controller.wait("connect", 60)
    point = next(s for s in controller.connection.studies if s.patient_id == "P-002").time_points[0]
    assert np.asarray(point.spect_to_ct.matrix) == pytest.approx(matrix)
    assert point.spect_to_ct.method == "manual"
    controller.session.abandoned()
    opened(dock, "P-002__ct_tp1")
    assert controller.registering.place.stored == pytest.approx(matrix)
    assert np.array_equal(controller.editing.frame.matrix, controller.registering.place.stored)


def test_a_spects_own_ct_is_brought_onto_the_diagnostic_ct(dock, truth):
    controller = dock.controller
    opened(dock, "P-002__ct", truth)
    dock.show_tab("Register")
    settle(controller)
    view = dock.register_view
    assert "bring it here first" in view.head.text()
    assert not controller.editing.frame.registered
    click(view.ct)
    controller.wait("ct", 300)
    settle(controller)
    assert controller.editing.frame.registered
    assert np.allclose(controller.registering.place.to_shown, np.eye(4), atol=1.0)  # the same body, within a voxel
    overlay = controller.registering.overlay
    assert overlay in dock.viewer.layers
    assert "was brought here" in view.head.text()
    keep(dock, "register-ct")
    click(view.show_ct)
    assert not overlay.visible
    controller.session.abandoned()


def test_versions_are_compared_judged_and_taken_in_the_window(dock, truth):
    controller = dock.controller
    opened(dock, "P-001__ct_tp2", truth)
    controller.submit(author="ada", comment="as drawn")
    version = controller.wait("submit", 120)
    dock.show_tab("Review")
    view = dock.review_view
    controller.layers.labels.data_setitem(np.nonzero(truth == 1), 0)
    controller.connection._beat()
    controller.wait("heartbeat", 60)
    assert view.table.item(0, 0).text() == str(version.version)
    view.table.selectRow(0)
    assert "as drawn" in view.said.text()
    click(view.compare)
    controller.wait("compare", 120)
    rows = {view.differences.item(i, 0).text(): i for i in range(view.differences.rowCount())}
    assert view.differences.item(rows["Left kidney"], 4).text() == "0.000"
    assert view.differences.item(rows["Liver"], 4).text() == "1.000"
    keep(dock, "review")
    lines = [layer for layer in dock.viewer.layers if layer.name.startswith(f"Version {version.version}")]
    assert len(lines) == 1
    click(view.hide_overlay)
    assert lines[0] not in dock.viewer.layers
    click(view.take)
    controller.wait("take", 120)
    assert (controller.session.array == 1).sum() == (truth == 1).sum()

    QTest.keyClicks(view.comment, "left pole looks short")
    click(view.verdicts["flag"])
    judged = controller.wait("judge", 60)
    assert (judged.state, view.table.item(0, 3).text()) == ("flagged", "⚑ flagged")
    click(view.verdicts["approve"])
    assert controller.wait("judge", 60).state == "approved"
    with Client(controller.client.url) as client:
        assert client.label_versions("P-001__ct_tp2")[0].state == "approved"
    click(view.verdicts["withdraw"])
    assert controller.wait("judge", 60).state == "submitted"
    controller.session.abandoned()


def test_a_training_is_watched_and_its_model_taken_back_in_the_window(dock, truth):
    controller = dock.controller
    opened(dock, "P-001__ct_tp2", truth)
    controller.submit(author="ada")
    controller.wait("submit", 120)
    before = controller.connection.info.model.sha256
    dock.show_tab("Learn")
    told = []
    controller.learning.learned.connect(told.append)
    controller.train(steps=2, promote=True)
    summary = controller.wait("train", 600)
    assert summary.promoted
    assert any("loss" in row for row in told[-1])
    assert dock.learn_view.plot.isVisible()
    if controller.tasks.running("models"):
        controller.wait("models", 60)
    history = dock.learn_view.history
    assert history.item(0, 1).text().startswith(summary.model_sha256[:8])
    keep(dock, "learn")
    history.selectRow(0)
    assert "said so" in dock.learn_view._why.text()
    # it answers now: there is nothing to go back to from its own row; the one before is reached by the hash
    controller.roll_back(before)
    assert controller.wait("rollback", 60).sha256 == before
    rows = [i for i in range(history.rowCount()) if history.item(i, 1).text().startswith(summary.model_sha256[:8])]
    history.selectRow(rows[0])
    assert dock.learn_view.rollback.isEnabled()
    click(dock.learn_view.rollback)
    assert controller.wait("rollback", 60).sha256 == summary.model_sha256
    controller.roll_back(before)
    controller.wait("rollback", 60)
    controller.session.abandoned()
