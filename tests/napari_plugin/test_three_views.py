"""Three linked views by napari-orthogonal-views, where it is installed: one click there, one click back."""

from __future__ import annotations

import numpy as np
import pytest
from qtpy.QtCore import Qt

from napari_plugin.views.strip import beneath_slider
from tests.napari_plugin.hands import activate, click, keep, pause, press
from tests.napari_plugin.mouse import canvas_of, drag, pixel

pytestmark = pytest.mark.e2e
views = pytest.importorskip("napari_orthogonal_views.ortho_view_widget", reason="it is not installed")


def test_three_linked_views_show_the_case_follow_a_stroke_and_give_the_window_back(dock_alone):
    dock = dock_alone
    activate(dock)
    pause(300)
    controller, viewer, window = dock.controller, dock.viewer, dock.window()
    canvas, labels = canvas_of(window), controller.layers.labels
    before, said = canvas.size(), dock.footer.said.text()
    click(dock.planes_view.three)
    pause(1500)
    beside = [view for view in window.findChildren(views.OrthoViewWidget) if view.isVisible()]
    assert dock.footer.said.text() == said
    assert canvas.width() < before.width()
    models = [view.vm_container.viewer_model for view in beside]
    assert sorted(model.dims.order[-3] for model in models) == [2, 3]  # coronal and sagittal beside axial
    assert all([layer.name for layer in model.layers] == [layer.name for layer in viewer.layers] for model in models)
    keep(dock, "three")

    # a stroke in the large view is in the others, and is undone there too
    labels.selected_label, labels.mode = 4, "paint"
    z, middle = 3, tuple(viewer.dims.point[:-3])
    viewer.dims.set_point(viewer.dims.ndim - 3, float(labels.data_to_world((z, 0, 0))[0]))
    pause(300)
    drag(canvas, [pixel(viewer, (*middle, *labels.data_to_world((z, 40, x)))) for x in (20, 22, 24)])
    assert (labels.data[z] == 4).any()
    for model in models:
        assert np.array_equal(model.layers[labels.name].data, labels.data)
    keep(dock, "three-painted")
    press(dock, Qt.Key.Key_Z, Qt.KeyboardModifier.ControlModifier)
    assert not (labels.data == 4).any()
    assert not any((model.layers[labels.name].data == 4).any() for model in models)

    # keys and the strip are as ever
    press(dock, Qt.Key.Key_F3)
    assert controller.editing.planes.plane == "coronal"
    press(dock, Qt.Key.Key_F2)
    assert controller.editing.planes.plane == "axial"
    press(dock, Qt.Key.Key_Q)
    assert labels.selected_label == 3  # the organ before
    assert beneath_slider(viewer, dock.strip)

    click(dock.planes_view.three)
    pause(1000)
    assert canvas.size() == before
    assert not window.findChildren(views.OrthoViewWidget)
    keep(dock, "three-gone")
