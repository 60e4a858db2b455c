"""An expert corrects a sample patient through the real window, and every click and key is counted."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QApplication
from scipy import ndimage

from doselabel.geometry import canonical, read_image
from doselabel.labels import LabelMap, read_labels
from doselabel.wire import ImageInfo, StudyInfo
from napari_plugin.dock import NAME, DoselabelDock
from napari_plugin.session.case import Case
from napari_plugin.session.recovery import Recovery
from napari_plugin.session.settings import Settings
from tests.napari_plugin.hands import pause
from tests.napari_plugin.mouse import RIGHT, canvas_of, click, drag, pixel
from tests.samples import sample

pytestmark = pytest.mark.e2e
KIDNEY, SPLEEN = 1, 4


def dice(a: np.ndarray, b: np.ndarray) -> float:
    return 2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b))


@pytest.fixture(scope="module")
def patient():
    return sample(1)


def wrong(patient, image: str):
    """The patient's labels with the left kidney's upper pole missing, and run into the spleen; and the truth."""
    ct = read_image(patient / f"{image}.nii.gz")
    truth = read_labels(patient / "truth" / f"{image}.nii.gz").renumbered()
    array = canonical(truth.volume).array
    spacing_mm = canonical(ct).geometry.spacing_mm
    kidney = array == KIDNEY
    planes = kidney.any(axis=(1, 2)).nonzero()[0]
    labels = np.where(array == SPLEEN, 0, array)
    top = int(planes[round(0.25 * planes.size)])
    pole = kidney.copy()
    pole[top:] = False
    labels[pole] = 0
    near = ndimage.distance_transform_edt(~kidney, sampling=spacing_mm) < 15
    labels[(array == SPLEEN) & near] = KIDNEY
    return ct, labels, array


@pytest.fixture
def dock(window, tmp_path):
    dock = DoselabelDock(window, Settings(folder=tmp_path, author="ada"))
    window.window.add_dock_widget(dock, name=NAME, area="right")
    yield dock
    if dock.controller.session is not None:
        dock.controller.session.abandoned()
    dock.cleanup()


def show(dock, tmp_path, ct, labels: np.ndarray) -> None:
    """Put a case on screen that no server knows."""
    here = canonical(ct)
    case = Case(
        image_id="S__ct",
        study=StudyInfo(patient_id="S", nuclide="Lu-177", injected_activity_mbq=7400, images=[], time_points=[]),
        image=ImageInfo(image_id="S__ct", file="ct.nii.gz", role="diagnostic"),
        ct=here,
        native=ct.geometry,
        spects=(),
        labels=LabelMap(labels, here.geometry),
        versions=(),
    )
    dock.controller.editing.show(case, Recovery(tmp_path, "http://nobody"))
    dock.controller.case_opened.emit(case)
    QTest.qWaitForWindowExposed(dock.window())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        QApplication.setActiveWindow(dock.window())
    pause(200)


class Hands:
    """Clicks and keys, counted."""

    def __init__(self, dock) -> None:
        self.dock, self.actions = dock, 0
        self.labels = dock.controller.layers.labels
        self.canvas = canvas_of(dock.window())

    def key(self, key: Qt.Key) -> None:
        self.actions += 1
        QTest.keyClick(self.dock.window().focusWidget() or self.dock, key)

    def to_plane(self, axis: int, voxel: int) -> None:
        """Move the slider of the plane on screen."""
        self.actions += 1
        at = [0, 0, 0]
        at[axis] = voxel
        self.dock.viewer.dims.set_point(axis, float(self.labels.data_to_world(at)[axis]))

    def click(self, voxel, button=Qt.MouseButton.LeftButton) -> None:
        self.actions += 1
        pause(30)
        click(self.canvas, pixel(self.dock.viewer, self.labels.data_to_world(voxel)), button)
        self.dock.controller.tooling.wait(60)


def test_a_missing_pole_and_a_leak_into_the_spleen_take_fewer_than_12_actions(dock, tmp_path, patient):
    ct, labels, truth = wrong(patient, "ct")
    show(dock, tmp_path, ct, labels)
    hands, session = Hands(dock), dock.controller.session
    spacing_mm = session.case.ct.geometry.spacing_mm
    kidney = truth == KIDNEY
    assert dice(session.array == KIDNEY, kidney) < 0.85
    others = np.where(session.array == KIDNEY, 0, session.array)
    assert dock.controller.layers.labels.selected_label == KIDNEY
    hands.key(Qt.Key.Key_F3)
    hands.key(Qt.Key.Key_A)
    assert dock.palette_view.tools["correct"].isChecked()
    planes = []
    while dice(session.array == KIDNEY, kidney) <= 0.97 and hands.actions < 12:
        # Where most is wrong, there the expert looks; and clicks the middle of what is wrong.
        now = session.array == KIDNEY
        fault = ndimage.binary_opening(now != kidney)
        y = int(fault.sum(axis=(0, 2)).argmax())
        if planes and fault[:, planes[-1]].sum() > 0.4 * fault[:, y].sum():
            y = planes[-1]
        else:
            planes.append(y)
            hands.to_plane(1, y)
        depth_mm = ndimage.distance_transform_edt(fault[:, y], sampling=(spacing_mm[0], spacing_mm[2]))
        z, x = (int(i) for i in np.unravel_index(depth_mm.argmax(), depth_mm.shape))
        hands.click((z, y, x), RIGHT if now[z, y, x] else Qt.MouseButton.LeftButton)
    assert dice(session.array == KIDNEY, kidney) > 0.97
    assert hands.actions < 12
    assert np.array_equal(np.where(session.array == KIDNEY, 0, session.array)[others > 0], others[others > 0])


def test_a_drag_while_clicks_are_waited_for_moves_the_image_and_corrects_nothing(dock, tmp_path, patient):
    ct, labels, _ = wrong(patient, "ct_tp1")
    show(dock, tmp_path, ct, labels)
    hands = Hands(dock)
    QTest.mouseClick(dock.palette_view.tools["correct"], Qt.MouseButton.LeftButton)
    assert "CLICKS" in dock.viewer.canvas.overlays.text.text
    middle = pixel(dock.viewer, dock.viewer.scene.camera.center)
    before = dock.viewer.scene.camera.center
    drag(hands.canvas, [middle, middle + middle * 0.05, middle + middle * 0.1])
    pause(100)  # the camera is told when the image has been drawn
    assert dock.viewer.scene.camera.center != before
    assert dock.controller.tooling.idle
    assert not dock.controller.session.dirty
    QTest.mouseClick(dock.palette_view.modes["paint"], Qt.MouseButton.LeftButton)
    assert dock.palette_view.modes["paint"].isChecked()
    assert "CLICKS" not in dock.viewer.canvas.overlays.text.text
