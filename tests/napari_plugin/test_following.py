"""The dose in the window follows what the annotator does, against a real server process."""

from __future__ import annotations

import csv
from html import unescape

import numpy as np
import psutil
import pytest
from napari.components import ViewerModel
from qtpy.QtCore import Qt
from qtpy.QtTest import QTest

from doselabel.labels import organ
from napari_plugin.controller import Controller
from napari_plugin.session.settings import Settings
from napari_plugin.views.dose import DoseView
from napari_plugin.views.dose_form import WORDS
from tests.napari_plugin.hands import opened, pause
from tests.napari_plugin.mouse import canvas_of, drag, pixel

pytestmark = pytest.mark.e2e
SHORT_CPU_S = 2.5
"""A worker that begins, alone, takes twice as long."""
PATIENT = ("P-001__ct", "P-001__ct_tp1", "P-001__ct_tp2")


@pytest.fixture
def computed(qtbot, server, tmp_path, truth):
    """A patient whose doses were just computed from submitted labels, and the view that shows them."""
    controller = Controller(ViewerModel(), Settings(folder=tmp_path, author="ada"))
    view = DoseView()
    qtbot.addWidget(view)
    controller.dose_ready.connect(lambda results: view.set_results(results, has_report=True))
    controller.dose_outdated.connect(view.set_outdated)
    controller.following.followed.connect(view.set_draft)
    controller.following.refused.connect(view.set_unfollowed)
    controller.connect(server)
    controller.wait("connect", 60)
    for image_id in reversed(PATIENT):
        controller.open_case(image_id)
        controller.wait("case", 60)
        controller.editing.replace(truth, "")
        controller.submit()
        controller.wait("submit", 60)
    controller.dose(tac="mono", engine="local", report=False)
    controller.wait("dose", 300)
    yield controller, view
    controller.session.abandoned()
    controller.cleanup()


def halve(controller, value: int) -> None:
    """Erase half of an organ, as one undo step."""
    at = np.nonzero(controller.session.array == value)
    controller.layers.labels.data_setitem(tuple(index[: index.size // 2] for index in at), 0)


def test_the_dose_follows_edits_and_their_undo(computed, qtbot, tmp_path):
    controller, view = computed
    kidney, before = organ("left_kidney").index, controller.dosing.results
    assert view.of_labels.isHidden()

    # isodose lines of the annotator's choice
    view.isodoses_wanted.connect(controller.dosing.set_isodoses)
    view.isodoses.setText("0.5 1 Gy")
    QTest.keyClick(view.isodoses, Qt.Key.Key_Return)
    controller.wait("isodoses", 60)
    named = [layer.name for layer in controller.viewer.layers if layer.name.startswith("Isodose")]
    assert named == ["Isodose (0.5 · 1 Gy)"]
    assert controller.viewer.layers.selection.active is controller.layers.labels

    # said at the first edit; then the draft's dose, marked as one, nothing stored
    versions = len(controller.client.label_versions(PATIENT[0]))
    with qtbot.waitSignal(controller.following.followed, timeout=120_000) as told:
        halve(controller, kidney)
        assert "Labels changed since this dose" in view.of_labels.text()
    draft = told.args[0]
    assert draft.organs["left_kidney"].mass_g == pytest.approx(before.organs["left_kidney"].mass_g / 2, rel=1e-3)
    assert draft.warnings[0].startswith("Draft, not submitted")
    assert "Draft, not submitted" in view.of_labels.text()
    row = list(draft.organs).index("left_kidney")
    assert view._table.item(row, 1).text().startswith(f"{draft.organs['left_kidney'].mean_dose_gy:.2f} ±")
    assert view._table.item(row, 4).text()[0] in "+-"
    assert len(controller.client.label_versions(PATIENT[0])) == versions
    assert controller.dosing.results is before

    # of two edits in a row only the newest is shown
    shown = []
    controller.following.followed.connect(lambda found, _: shown.append(found.organs["liver"].mass_g))
    halve(controller, organ("liver").index)
    qtbot.waitUntil(lambda: controller.tasks.running("draft"), timeout=20_000)
    halve(controller, organ("liver").index)
    qtbot.waitUntil(lambda: bool(shown) and not controller.tasks.running("draft"), timeout=120_000)
    assert shown == [pytest.approx(before.organs["liver"].mass_g / 4, rel=1e-3)]

    # all undone: the computed dose is there again, and not called old
    for _ in range(3):
        controller.undo()
    assert view.of_labels.isHidden()
    assert view._table.item(row, 1).text().startswith(f"{before.organs['left_kidney'].mean_dose_gy:.2f} ±")
    pause(600)
    assert not controller.tasks.running("draft")

    # two versions beside each other
    halve(controller, kidney)
    controller.submit()
    newest = controller.wait("submit", 60)
    assert "Labels changed since this dose" in view.of_labels.text()
    controller.comparing.compared.connect(view.comparison.set_compared)
    view.comparison.compare_wanted.connect(controller.comparing.start)
    view.comparison.set_versions(controller.client.label_versions(PATIENT[0]))
    assert [box.currentData() for box in view.comparison.versions] == [newest.version - 1, newest.version]
    view.comparison.compare.click()
    found = controller.wait("compare", 300)
    (first,), (second,) = found.results_a, found.results_b
    assert second.organs["left_kidney"].mass_g == pytest.approx(first.organs["left_kidney"].mass_g / 2, rel=1e-3)
    change = second.organs["left_kidney"].mean_dose_gy / first.organs["left_kidney"].mean_dose_gy - 1
    row = found.organs.index("left_kidney")
    assert view.comparison.table.item(row, 3).text() == "-50.0"
    assert view.comparison.table.item(row, 6).text() == f"{100 * change:+.1f}"

    # two ways to read the activities of one version, and the paper's tables and figure to keep
    view.comparison.versions[0].setCurrentIndex(view.comparison.versions[1].currentIndex())
    view.comparison.compare.click()
    assert "the same" in view.comparison._said.text()
    view.comparison.methods[1].setCurrentText(WORDS["expert2"])
    view.comparison.compare.click()
    found = controller.wait("compare", 300)
    (first,), (second,) = found.results_a, found.results_b
    assert (first.options["voi"], second.options["voi"]) == ("margin", "threshold")
    assert second.organs["liver"].mass_g == first.organs["liver"].mass_g
    assert second.organs["liver"].mean_dose_gy != first.organs["liver"].mean_dose_gy
    assert controller.comparing.save(tmp_path / "compared")
    controller.wait("export", 120)
    page = unescape((tmp_path / "compared" / "compare.html").read_text("utf-8"))
    assert f"v{newest.version} ada, {WORDS['expert2']}" in page
    assert (tmp_path / "compared" / "compare.png").stat().st_size > 0

    # what is saved can be read elsewhere
    folder = controller.save_dose(tmp_path / "saved")
    rows = {line["organ"]: line for line in csv.DictReader((folder / "results.csv").read_text("utf-8").splitlines())}
    assert float(rows["liver"]["mean_dose_gy"]) == before.organs["liver"].mean_dose_gy
    assert (folder / "dose.nii.gz").stat().st_size > 0


def test_the_first_stroke_after_a_dose_is_answered_by_the_short_way(dock, truth, qtbot):
    """By what the server and its workers compute for it; numbers as a full run of the same labels has them."""
    controller, view = dock.controller, dock.dose_view
    for image_id in reversed(PATIENT):
        opened(dock, image_id)
        controller.editing.replace(truth, "")
        controller.submit(author="ada")
        controller.wait("submit", 60)
    dock.show_tab("Dose")
    asked = {"tac": "mono", "engine": "local", "report": False}
    controller.dose(**asked)
    controller.wait("dose", 300)

    # before any edit the server opens the study, and nobody is told
    qtbot.waitUntil(lambda: controller.tasks.running("draft"), timeout=20_000)
    assert controller.wait("draft", 300).warnings[0].startswith("Draft, not submitted")
    assert view.of_labels.isHidden()
    assert not view._table.horizontalHeaderItem(4).text().startswith("Δ")

    labels, viewer = controller.layers.labels, dock.viewer
    labels.selected_label, labels.mode, labels.preserve_labels = 3, "paint", False
    controller.editing.brush.set_size(20.0)
    z, y, x = (int(index.mean()) for index in np.nonzero(truth == 3))
    viewer.dims.set_point(viewer.dims.ndim - 3, float(labels.data_to_world((z, 0, 0))[0]))
    pause(300)
    time = tuple(viewer.dims.point[:-3])
    stroke = [pixel(viewer, (*time, *labels.data_to_world((z, y, x + dx)))) for dx in (8, 9, 10)]
    before_s, ml = spent_by_servers_s(), np.count_nonzero(controller.session.array == 3)
    with qtbot.waitSignal(controller.following.followed, timeout=120_000) as told:
        drag(canvas_of(dock.window()), stroke)
        assert np.count_nonzero(controller.session.array == 3) > ml
    assert spent_by_servers_s() - before_s < SHORT_CPU_S
    draft = told.args[0]
    assert "Draft, not submitted" in view.of_labels.text()
    assert view._table.horizontalHeaderItem(4).text().startswith("Δ")
    (line,) = (line for line in view._dvh.canvas.axes.lines if line.get_label() == "Liver")
    assert list(line.get_xdata()) == draft.organs["liver"].dvh.dose_gy

    controller.submit(author="ada")
    controller.wait("submit", 60)
    controller.dose(**asked)
    full = controller.wait("dose", 300)
    assert full.organs == draft.organs

    # a parameter is called as the report calls it
    doubtful = full.model_copy(update={"warnings": ["The points do not determine lambda1_per_h."]})
    view.set_results(doubtful, has_report=False)
    assert "do not determine λ1." in view._warnings.toPlainText()


def spent_by_servers_s() -> float:
    """CPU time of the processes that this one has started, and of theirs."""
    times = [child.cpu_times() for child in psutil.Process().children(recursive=True)]
    return sum(spent.user + spent.system for spent in times)


def test_a_server_that_can_not_follow_says_why_in_the_doses_view(computed, qtbot, monkeypatch):
    controller, view = computed
    controller.dosing.options["voi"] = "nonsense"
    said = []
    controller.status.connect(lambda text, level: said.append(text))
    with qtbot.waitSignal(controller.following.refused, timeout=120_000):
        halve(controller, organ("liver").index)
    assert "can't follow" in view.of_labels.text()
    assert "nonsense" in view.of_labels.text()
    assert not said
