"""A day's work by clicks, keys and drags alone, from napari's menu to the approval: the test only looks and waits."""

from __future__ import annotations

import threading
from dataclasses import replace

import numpy as np
import pytest
from qtpy.QtCore import Qt
from qtpy.QtWidgets import QTableWidget

from doselabel.labels import LabelMap, write_labels
from doselabel.wire import LabelSubmission
from napari_plugin.client import Client
from napari_plugin.dock import NAME, TABS, DoselabelDock
from tests.napari_plugin.conftest import GRID, NARROW, organs
from tests.napari_plugin.hands import activate, keep
from tests.napari_plugin.mouse import canvas_of, pixel
from tests.napari_plugin.person import choose, click, draw, press, until, write

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]
CONTROL, SHIFT = Qt.KeyboardModifier.ControlModifier, Qt.KeyboardModifier.ShiftModifier
LEFT_KIDNEY, LIVER = 1, 3


@pytest.fixture(scope="module")
def server(tmp_path_factory, make_patient):
    """A real server whose network guesses, on two patients; a colleague has drawn the first one's organs."""
    pytest.importorskip("monailabel", reason="needs the extra 'server'")
    import torch

    from doselabel.model import checkpoint
    from doselabel.model.network import build
    from monailabel_app.launch import running

    root = tmp_path_factory.mktemp("walked") / "studies"
    for name in ("P-001", "P-002"):
        make_patient(root / name, name)
    torch.manual_seed(0)
    guessing = replace(NARROW, score_accept=0.2, score_seed=0.25)
    network = checkpoint.save(root.parent / "guessing.safetensors", build(guessing), guessing, {})
    with running(root, conf={"checkpoint": str(network), "grace_s": "3", "replay": "none"}) as found:
        write_labels(drawn := root.parent / "drawn.nii.gz", LabelMap(organs(), GRID))
        with Client(found.url) as colleague:
            for image_id in ("P-001__ct", "P-001__ct_tp1", "P-001__ct_tp2"):
                colleague.submit_label(image_id, drawn, LabelSubmission(author="bea"))
        yield found.url


def test_a_days_work_by_clicks_keys_and_drags(window, server, truth, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    threads = set()
    for told in (window.events, window.layers.events, window.dims.events, window.scene.camera.events):
        told.connect(lambda _: threads.add(threading.current_thread()))
    napari = window.window._qt_window
    choose(napari.menuBar(), "Plugins", NAME)
    until(lambda: napari.findChildren(DoselabelDock))
    (dock,) = napari.findChildren(DoselabelDock)
    until(dock.isVisible)
    activate(dock)
    of, bar, footer, cases = dock.controller, dock.submit_view, dock.footer, dock.case_view

    # a server by its address
    click(dock.server_view._url.lineEdit())
    write(server)
    click(dock.server_view._connect)
    until(lambda: server.removeprefix("http://") in dock.server_view.chip.text() and cases.next.isEnabled())

    # a case from the browser
    click(cases.name)
    until(cases.browser.isVisible)
    write("p-001 ct")
    (at,) = (item for image_id, (item, _) in cases.browser._cases.items() if image_id == "P-001__ct")
    click(cases.browser.list.viewport(), cases.browser.list.visualItemRect(at).center(), double=True)
    until(lambda: "P-001 · diagnostic CT" in cases.name.text() and dock.organ_table.numbers("liver"))
    before_ml = dock.organ_table.numbers("left_kidney")["mL"]

    # filled organs, a stroke, and outlines again
    click(dock.palette_view.ways["outline"])
    assert not of.editing.brush.outline
    choose_row(dock.organ_table, 0)
    click(dock.palette_view.modes["paint"])
    stroke(dock, truth, LEFT_KIDNEY)
    until(lambda: dock.organ_table.numbers("left_kidney")["mL"] > before_ml)
    assert cases.name.text().startswith("✎")
    mine = of.session.array.copy()
    press("o")
    assert dock.palette_view.ways["outline"].isChecked()

    # the network's answer, offered over it; taken, and given back by keys
    click(dock.segment_view._run)
    until(lambda: "offer" in dock.questions.notices, 300)
    assert np.array_equal(of.session.array, mine)
    keep(dock, "walk-offer")
    click(dock.questions.notices["offer"].answers["Take it"])
    until(lambda: "offer" not in dock.questions.notices)
    theirs = of.session.array.copy()
    assert theirs.any()
    assert not np.array_equal(theirs, mine)
    assert dock.segment_view._summary.isVisible()
    press(Qt.Key.Key_Z, CONTROL)
    until(lambda: np.array_equal(of.session.array, mine))
    assert not dock.segment_view._summary.isVisible()  # what the network said goes with its labels
    press(Qt.Key.Key_Z, CONTROL | SHIFT)
    until(lambda: np.array_equal(of.session.array, theirs))
    press(Qt.Key.Key_Z, CONTROL)
    until(lambda: np.array_equal(of.session.array, mine))

    # another stroke, handed in
    press("w")
    press("w")
    stroke(dock, truth, LIVER)
    until(lambda: dock.organ_table.numbers("liver")["Δ mL"] > 0)
    click(bar._submit)
    until(lambda: dock.questions.sheet is not None)
    sheet = dock.questions.sheet
    until(sheet.isVisible)
    assert not sheet.submit.isEnabled()
    click(sheet.author)
    write("ada")
    keep(dock, "walk-sheet")
    click(sheet.submit)
    until(lambda: not cases.name.text().startswith("✎") and "ada" in dock.server_view.chip.text())

    # the next case by a key, and back
    press("n")
    until(lambda: "P-002" in cases.name.text())
    click(cases.back)
    until(lambda: "P-001" in cases.name.text() and dock.organ_table.numbers("liver"))

    # doses; they follow a stroke, and its undo
    go(dock, "Dose")
    click(dock.dose_view._run)
    until(dock.dose_view._table.isVisible, 300)
    until(lambda: not of.tasks.running("draft"), 300)
    computed = dose_shown(dock)
    go(dock, "Annotate")
    click(dock.palette_view.modes["paint"])
    go(dock, "Dose")
    choose_row(dock.organ_table, 0)
    stroke(dock, truth, LEFT_KIDNEY, 3)
    until(lambda: "Draft, not submitted" in dock.dose_view.of_labels.text(), 300)
    assert dose_shown(dock) != computed
    keep(dock, "walk-dose")
    press(Qt.Key.Key_Z, CONTROL)
    until(lambda: dose_shown(dock) == computed)

    # a SPECT is moved and its place stored
    go(dock, "Register")
    press(Qt.Key.Key_Right, SHIFT)
    until(lambda: "Moved 2.0 mm" in dock.register_view.said.text())
    click(dock.register_view.save)
    until(lambda: "As stored" in dock.register_view.said.text())
    assert "is stored" in footer.said.text()

    # training is seen to learn, and stopped
    go(dock, "Learn")
    click(dock.learn_view._steps)
    write("5000")
    click(dock.learn_view._train)
    until(lambda: dock.learn_view.plot.isVisible() and dock.learn_view.plot.canvas.axes.lines, 300)
    keep(dock, "walk-learn")
    click(footer.cancel)
    until(lambda: "cancelled" in footer.said.text(), 120)

    # the colleague's eye
    go(dock, "Review")
    choose_row(dock.review_view.table, 0)
    click(dock.review_view.comment)
    write("good")
    click(dock.review_view.verdicts["approve"])
    until(lambda: dock.review_view.table.item(0, 3).text() == "✓✓ approved")
    with Client(server) as asking:
        newest = asking.label_versions("P-001__ct")[0]
    assert (newest.author, newest.state, newest.version) == ("ada", "approved", 2)
    assert not of.session.dirty
    assert threads == {threading.main_thread()}  # nobody has touched napari's models from another one
    dock.cleanup()


def go(dock: DoselabelDock, tab: str) -> None:
    """Bring a tab to the front."""
    bar = dock.tabs.tabBar()
    click(bar, bar.tabRect(TABS.index(tab)).center())


def choose_row(table: QTableWidget, row: int) -> None:
    click(table.viewport(), table.visualItemRect(table.item(row, 0)).center())


def stroke(dock: DoselabelDock, truth: np.ndarray, organ: int, away: int = 1) -> None:
    """Draw along an organ's side in the slice on screen, so many voxels beside it."""
    labels, viewer = dock.controller.layers.labels, dock.viewer
    z = round(labels.world_to_data(viewer.dims.point)[-3])
    y, x = np.nonzero(truth[z] == organ)
    along = [(z, int(k), int(x.max()) + away) for k in np.linspace(y.min(), y.max(), 4)]
    time = viewer.dims.point[: viewer.dims.ndim - 3]
    draw(canvas_of(dock.window()), [pixel(viewer, (*time, *labels.data_to_world(voxel))) for voxel in along])


def dose_shown(dock: DoselabelDock) -> list[str]:
    """Dose of each organ as the table has it."""
    table = dock.dose_view._table
    return [table.item(i, 1).text() for i in range(table.rowCount())]
