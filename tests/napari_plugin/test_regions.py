"""Lesions and what is not counted: drawn in the real window, stored by the real server, and in its dose."""

from __future__ import annotations

import numpy as np
import pytest
from napari.components import ViewerModel
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QLineEdit

from doselabel.labels import NAMES, read_labels
from napari_plugin.organ_labels import OrganLabels, inner_values
from napari_plugin.tools import by_name
from napari_plugin.views.organs import EXCLUDED, LESION
from tests.napari_plugin.hands import click, keep, opened, pause
from tests.napari_plugin.mouse import canvas_of, drag, pixel

LIVER, TUMOUR_1 = 3, 6
NAMED = {**NAMES, TUMOUR_1: "tumour_1"}


def test_a_lesion_is_painted_over_its_organ_and_gives_it_back(truth):
    layer = OrganLabels(truth.copy(), ct_hu=np.zeros(truth.shape, np.int16))
    ViewerModel().add_layer(layer)
    layer.names = NAMED
    layer.selected_label, layer.brush_size = TUMOUR_1, 5
    z, y, x = (int(i) for i in np.argwhere(truth == LIVER).mean(axis=0))
    layer.paint((z, y, x), TUMOUR_1)
    drawn = layer.data == TUMOUR_1
    assert drawn.any()
    assert (truth[drawn] == LIVER).all()
    layer.paint((z, y, x), 0)
    assert np.array_equal(layer.data, truth)
    layer.selected_label = LIVER  # an organ still spares the lesion
    layer.undo()
    layer.paint((z, y, x), LIVER)
    assert np.array_equal(layer.data == TUMOUR_1, drawn)


def test_tools_take_from_the_organ_and_give_back_to_it(make_case, truth):
    case, inner = make_case(labels=truth), inner_values(NAMED)
    z, y, x = (int(i) for i in np.argwhere(truth == LIVER).mean(axis=0))
    truth[z - 1 : z + 2, y - 1 : y + 2, x - 1 : x + 2] = TUMOUR_1
    grown = by_name("margin", truth, TUMOUR_1, case.ct, {"margin_mm": 5.0}, inner=inner)
    assert (truth[grown.indices] == LIVER).all()
    assert (grown.values == TUMOUR_1).all()
    cleared = by_name("clear", truth, TUMOUR_1, case.ct, {}, inner=inner)
    assert cleared.voxels == 27
    assert (cleared.values == LIVER).all()


@pytest.mark.e2e
def test_a_lesion_is_added_drawn_named_submitted_and_found_again(dock, truth, tmp_path, qtbot):
    controller, table = dock.controller, dock.organ_table
    assert not table.more.isEnabled()
    opened(dock, "P-002__ct", truth)
    assert not table.offered[EXCLUDED].isEnabled()  # no SPECT is counted on the diagnostic CT
    table.offered[LESION].trigger()
    labels = controller.layers.labels
    assert (labels.selected_label, table.item(5, 0).text()) == (TUMOUR_1, "Tumour 1")

    z, y, x = (int(i) for i in np.argwhere(truth == LIVER).mean(axis=0))
    controller.viewer.dims.set_point(controller.viewer.dims.ndim - 3, float(labels.data_to_world((z, y, x))[0]))
    click(dock.palette_view.modes["paint"])
    pause(100)
    stroke = [
        pixel(dock.viewer, [0] * (dock.viewer.dims.ndim - 3) + list(labels.data_to_world((z, y, x + i))))
        for i in (0, 1, 2)
    ]
    drag(canvas_of(dock.window()), stroke)
    drawn = controller.session.array == TUMOUR_1
    assert drawn.any()
    assert (truth[drawn] == LIVER).all()
    volume_ml = drawn.sum() * controller.session.case.ct.geometry.voxel_volume_ml
    qtbot.waitUntil(lambda: table.numbers("tumour_1").get("mL") == pytest.approx(volume_ml, abs=0.1), timeout=20_000)

    at = table.visualItemRect(table.item(5, 0)).center()
    QTest.mouseClick(table.viewport(), Qt.MouseButton.LeftButton, pos=at)
    QTest.mouseDClick(table.viewport(), Qt.MouseButton.LeftButton, pos=at)
    field = table.findChild(QLineEdit)
    field.selectAll()
    QTest.keyClicks(field, "metastasis 7")
    QTest.keyClick(field, Qt.Key.Key_Return)
    qtbot.waitUntil(lambda: controller.session.names[TUMOUR_1] == "metastasis_7")
    keep(dock, "lesion")

    click(dock.submit_view._submit)
    controller.wait("review", 60)
    assert "Metastasis 7" in [
        dock.questions.sheet.table.item(i, 0).text() for i in range(dock.questions.sheet.table.rowCount())
    ]
    click(dock.questions.sheet.submit)
    version = controller.wait("submit", 60)
    assert version.organs_ml["metastasis_7"] > 0
    stored = read_labels(controller.client.label_file("P-002__ct", version.version, tmp_path / "stored.nii.gz"))
    assert stored.mask("metastasis_7").sum() == drawn.sum()

    controller.open_case("P-002__ct_tp1")
    controller.wait("case", 60)
    assert table.rowCount() == len(NAMES)
    assert table.offered[EXCLUDED].isEnabled()
    table.offered[EXCLUDED].trigger()
    assert controller.session.names[int(controller.layers.labels.selected_label)] == "renal_pelvis"
    controller.open_case("P-002__ct")
    controller.wait("case", 60)
    assert np.array_equal(controller.session.array == TUMOUR_1, drawn)
    assert controller.session.names[TUMOUR_1] == "metastasis_7"
