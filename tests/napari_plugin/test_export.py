"""A dose goes out of the real window as files and as DICOM objects, by clicks, from a real server's imported study."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from qtpy.QtCore import QPoint, Qt
from qtpy.QtTest import QTest
from qtpy.QtWidgets import QCheckBox

from doselabel.geometry import Volume, canonical
from napari_plugin.dock import NAME, DoselabelDock
from napari_plugin.session.settings import Settings
from tests.napari_plugin.hands import click, keep

pytestmark = pytest.mark.e2e
pydicom = pytest.importorskip("pydicom")
pytest.importorskip("highdicom", reason="needs the extra 'dicom'")
pytest.importorskip("monailabel", reason="needs the extra 'server'")

from doselabel.cli import main  # noqa: E402
from doselabel.study import Study  # noqa: E402
from tests.shared.dicom import makers as make  # noqa: E402


@pytest.fixture
def imported(window, tmp_path, untrained):
    """The dock on a server of its own, which has a patient that was DICOM; the source, and its key file."""
    from monailabel_app.launch import running

    source, key = make.patient(tmp_path / "dicom"), tmp_path / "key.json"
    assert main(["import", str(source), str(tmp_path / "studies"), "--key", str(key)]) == 0
    (folder,) = Study.find(tmp_path / "studies")
    dock = DoselabelDock(window, Settings(folder=tmp_path / "settings", author="ada"))
    window.window.add_dock_widget(dock, name=NAME, area="right")
    with running(tmp_path / "studies", conf={"checkpoint": str(untrained), "grace_s": "3", "replay": "none"}) as server:
        controller = dock.controller
        controller.connect(server.url)
        controller.wait("connect", 120)
        controller.open_case(f"{Study.load(folder).patient_id}__ct")
        controller.wait("case", 120)
        controller.editing.replace(canonical(Volume(make.labels_array(), make.CT_GRID)).array, "")
        controller.submit()
        controller.wait("submit", 60)
        controller.dose(registration="identity", voi="margin")
        controller.wait("dose", 600)
        dock.show_tab("Dose")
        yield dock, source, key
        controller.session.abandoned()
        dock.cleanup()


def tick(box: QCheckBox) -> None:
    QTest.mouseClick(box, Qt.MouseButton.LeftButton, pos=QPoint(8, box.height() // 2))


def test_a_dose_is_exported_as_files_and_as_dicom_that_refers_to_its_source(imported, tmp_path, qtbot):
    dock, source, key = imported
    out, controller = tmp_path / "out", dock.controller
    click(dock.dose_view.export)
    sheet = dock.dose_tab.sheet
    assert sheet.isVisible()
    assert not sheet.export.isEnabled()
    assert "folder to write to" in sheet.export.toolTip()
    QTest.keyClicks(sheet.folder.line_edit.native, str(out))
    for box in sheet.objects.values():
        tick(box)
    assert "DICOM source" in sheet.export.toolTip()
    QTest.keyClicks(sheet.source.line_edit.native, str(source))
    QTest.keyClicks(sheet.key.line_edit.native, str(key))
    keep(dock, "export")
    QTest.mouseClick(sheet.export, Qt.MouseButton.LeftButton)
    controller.wait("export", 300)

    with (out / "results.csv").open() as table:
        rows = {row["organ"]: row for row in csv.DictReader(table)}
    assert float(rows["liver"]["mean_dose_gy"]) == controller.dosing.results.organs["liver"].mean_dose_gy
    assert {path.name for path in out.iterdir()} >= {"report.html", "report.pdf", "dose.nii.gz", "masks_ct.nii.gz"}
    image = pydicom.dcmread(next(source.glob("diag*")))
    for name in ("seg", "rtstruct", "rtdose", "pdf", "sr"):
        found = pydicom.dcmread(out / f"{name}.dcm")
        assert (found.PatientID, found.StudyInstanceUID) == (image.PatientID, image.StudyInstanceUID), name
    segmentation = pydicom.dcmread(out / "seg.dcm")
    assert segmentation.pixel_array.sum() == np.count_nonzero(make.labels_array())

    # what was chosen stands there again; a source that is another's is refused in words, and nothing is written
    other = make.save(tmp_path / "other", make.ct_slices(make.ct_volume(), make.start_of(0)), "x")
    click(dock.dose_view.export)
    sheet = dock.dose_tab.sheet
    assert (sheet.source.value, sheet.key.value) == (source, key)
    sheet.folder.value, sheet.source.value = tmp_path / "none", other
    tick(sheet.objects["rtdose"])
    click(sheet.export)
    with qtbot.waitSignal(controller.failed, timeout=60_000):
        pass
    assert "series of the diagnostic CT" in dock.footer.said.text()
    assert not (tmp_path / "none").exists()
