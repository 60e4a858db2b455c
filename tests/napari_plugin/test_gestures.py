"""The mouse on the image, with each button and key held: what it changes, and that nothing else changes."""

from __future__ import annotations

import numpy as np
import pytest
from qtpy.QtCore import QPoint, QPointF, Qt
from qtpy.QtGui import QWheelEvent
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication

from napari_plugin.display import HU_PER_PIXEL
from tests.napari_plugin.hands import keep
from tests.napari_plugin.mouse import NONE, RIGHT, canvas_of, click, drag, pixel
from tests.napari_plugin.test_tabs import said_of

CONTROL, SHIFT = Qt.KeyboardModifier.ControlModifier, Qt.KeyboardModifier.ShiftModifier


@pytest.fixture
def dock(dock_alone):
    return dock_alone


def turn_wheel(canvas, at: QPointF, steps: int, keys: Qt.KeyboardModifier) -> None:
    turned = QPoint(0, 120 * steps)
    event = QWheelEvent(
        at, QPointF(canvas.mapToGlobal(at)), QPoint(), turned, NONE, keys, Qt.ScrollPhase.NoScrollPhase, False
    )
    QApplication.sendEvent(canvas, event)


def test_the_middle_button_sets_window_and_level_and_paints_nothing(dock):
    controller, canvas = dock.controller, canvas_of(dock.window())
    display, labels = controller.editing.display, controller.layers.labels
    QTest.mouseClick(dock.palette_view.modes["paint"], Qt.MouseButton.LeftButton)
    (low, high), drawn, centre = display.window_hu, labels.data.copy(), tuple(dock.viewer.scene.camera.center)
    at = QPointF(canvas.width() / 2, canvas.height() / 2)
    drag(canvas, [at, at + QPointF(10, 0), at + QPointF(30, 20)], Qt.MouseButton.MiddleButton)
    width, level = high - low + 30 * HU_PER_PIXEL, (high + low) / 2 + 20 * HU_PER_PIXEL
    assert display.window_hu == pytest.approx((level - width / 2, level + width / 2))
    assert dock.display_view.preset.currentText() == "own window"
    assert np.array_equal(labels.data, drawn)
    assert (labels.mode, tuple(dock.viewer.scene.camera.center)) == ("paint", centre)


def test_a_shifted_wheel_sizes_the_brush_and_moves_no_slice(dock):
    labels, canvas = dock.controller.layers.labels, canvas_of(dock.window())
    QTest.mouseClick(dock.palette_view.modes["paint"], Qt.MouseButton.LeftButton)
    at, size, step = QPointF(canvas.width() / 2, canvas.height() / 2), labels.brush_mm, dock.viewer.dims.current_step
    zoom = dock.viewer.scene.camera.zoom
    turn_wheel(canvas, at, 1, SHIFT)
    assert labels.brush_mm == size + 2 * labels.finest_mm
    turn_wheel(canvas, at, -1, SHIFT)
    assert labels.brush_mm == size
    assert (dock.viewer.dims.current_step, dock.viewer.scene.camera.zoom) == (step, zoom)


def test_clicks_tell_what_belongs_from_what_does_not_by_button_and_key(dock, truth):
    controller, canvas = dock.controller, canvas_of(dock.window())
    told = []
    controller.editing.pointing.clicked.connect(lambda name, voxel, belongs: told.append((voxel, belongs)))
    QTest.mouseClick(dock.palette_view.tools["correct"], Qt.MouseButton.LeftButton)
    labels = controller.layers.labels
    z = round(float(labels.world_to_data(dock.viewer.dims.point)[-3]))
    y, x = (int(i) for i in np.argwhere(truth[z] == 1).mean(axis=0))
    at = pixel(dock.viewer, [0.0, *labels.data_to_world((z, y, x))])
    click(canvas, at)
    click(canvas, at, RIGHT)
    click(canvas, at, keys=CONTROL)
    controller.tooling.wait(60)
    assert told == [((z, y, x), True), ((z, y, x), False), ((z, y, x), False)]
    drag(canvas, [at, at + QPointF(15, 0), at + QPointF(30, 0)], keys=CONTROL)
    assert len(told) == 3


def test_a_stroke_beside_the_image_changes_nothing(dock, truth):
    controller, canvas = dock.controller, canvas_of(dock.window())
    for mode, x in (("paint", 4), ("erase", canvas.width() - 12), ("polygon", 4), ("fill", 4)):
        QTest.mouseClick(dock.palette_view.modes[mode], Qt.MouseButton.LeftButton)
        drag(canvas, [QPointF(x, 4), QPointF(x + 4, 8), QPointF(x + 8, 4)])
    assert np.array_equal(controller.session.array, truth)
    assert not controller.session.dirty
    assert not controller.layers.labels.painting


def test_the_papers_view_and_the_boxes_are_switched_on_followed_and_gone_with_the_case(dock, truth, qtbot):
    controller, view = dock.controller, dock.display_view
    QTest.mouseClick(view.more, Qt.MouseButton.LeftButton)
    view.paper.click()
    outlines = dock.paper.outlines
    qtbot.waitUntil(lambda: np.array_equal(outlines.data == 1, truth > 0), timeout=20_000)
    assert controller.viewer.layers.selection.active is controller.layers.labels
    at = tuple(np.argwhere(truth == 0)[:30].T)
    controller.layers.labels.data_setitem(at, 3)
    qtbot.waitUntil(lambda: bool((outlines.data[at] == 1).all()), timeout=20_000)

    view.boxes.click()  # the network has said nothing
    assert not view.boxes.isChecked()
    assert "segment first" in dock.footer.said.text()
    controller.editing.replace(np.roll(truth, 1, axis=0), "a-model")
    controller.segmenting.segmented.emit(said_of(np.roll(truth, 1, axis=0), "a-model"))
    view.boxes.click()
    controller.doubts.go(12)
    assert sorted(dock.paper.boxes.features["words"]) == ["Left kidney 0.90", "Liver 0.90"]
    keep(dock, "paper")
    controller.doubts.go(0)
    assert len(dock.paper.boxes.data) == 0
    controller.editing.close()
    assert (dock.paper.outlines, dock.paper.boxes) == (None, None)
    assert not view.paper.isChecked()
