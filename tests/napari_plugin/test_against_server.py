"""The controller's work with a real server process, on napari's layer model; and the dock in a real window."""

from __future__ import annotations

import numpy as np
import pytest
from napari.components import ViewerModel

from doselabel.errors import Cancelled, DoselabelError, ServerError
from doselabel.labels import organ
from napari_plugin import tools
from napari_plugin.client import Client
from napari_plugin.controller import Controller
from napari_plugin.session.settings import Settings
from tests.napari_plugin.hands import pause

pytestmark = pytest.mark.e2e


@pytest.fixture
def make_controller(qapp, tmp_path):
    made = []

    def make(url: str | None = None) -> Controller:
        controller = Controller(ViewerModel(), Settings(folder=tmp_path, author="tester"))
        made.append(controller)
        if url is not None:
            controller.connect(url)
            controller.wait("connect", 30)
        return controller

    yield make
    for controller in made:
        controller.cleanup()


@pytest.fixture
def controller(make_controller, server) -> Controller:
    return make_controller(server)


def opened(controller: Controller, image_id: str):
    controller.open_case(image_id)
    return controller.wait("case", 60)


def test_nobody_at_the_address_is_a_short_line_and_no_connection(make_controller):
    controller = make_controller()
    said = []
    controller.status.connect(lambda text, level: said.append((level, text)))
    controller.connect("http://127.0.0.1:9")
    with pytest.raises(ServerError):
        controller.wait("connect", 30)
    assert said[-1][0] == "error"
    assert "refuses the connection" in said[-1][1]
    assert controller.client is None


def test_the_next_case_comes_with_its_images_and_a_reason(controller):
    reasons = []
    controller.next_reason.connect(reasons.append)
    controller.next_case("first")
    case = controller.wait("case", 60)
    assert reasons[0]
    assert case.ct.array.min() == -1000
    assert [layer.name for layer in controller.viewer.layers][-1] == "Organs"


def test_a_low_dose_ct_brings_its_own_spect_only(controller):
    case = opened(controller, "P-001__ct_tp2")
    assert [(frame.time_h, frame.registered) for frame in case.spects] == [(24.0, True)]
    assert opened(controller, "P-001__ct").spects[0].registered is False


def test_a_submission_comes_back_voxel_for_voxel_as_a_new_version(controller, truth):
    before = len(opened(controller, "P-002__ct").versions)
    controller.editing.replace(truth, "")
    controller.submit(author="tester", comment="drawn")
    version = controller.wait("submit", 60)
    assert version.version == before + 1
    assert version.organs_ml["left_kidney"] == pytest.approx(8 * 6 * 5 * 0.08)
    again = opened(controller, "P-002__ct")
    assert np.array_equal(again.labels.array, truth)
    assert again.started_from == f"version {before + 1}"
    assert not controller.session.dirty


def test_unsaved_work_survives_a_crash_and_can_be_discarded(make_controller, server, truth):
    first = make_controller(server)
    opened(first, "P-001__ct_tp1")
    first.editing.replace(truth, "")
    first.editing._autosave()
    first.wait("autosave", 30)  # and now the process dies: no cleanup
    second = make_controller(server)
    assert opened(second, "P-001__ct_tp1").restored
    assert np.array_equal(second.session.array, truth)
    assert second.session.dirty
    second.discard_edits()
    assert not second.wait("case", 60).restored
    assert not second.session.array.any()
    first.session.abandoned()


def test_going_to_another_case_and_back_keeps_unsaved_work(controller, truth):
    opened(controller, "P-001__ct_tp1")
    controller.editing.replace(truth, "")
    opened(controller, "P-001__ct_tp2")
    assert not controller.session.array.any()
    assert np.array_equal(opened(controller, "P-001__ct_tp1").labels.array, truth)


def test_segmentation_replaces_labels_as_one_undo_step(controller, truth):
    opened(controller, "P-001__ct")
    controller.editing.replace(truth, "")
    controller.segment()
    summary = controller.wait("segment", 300)
    assert summary.model_sha256 == controller.session.started_from
    assert controller.session.origin == "model"
    assert not np.array_equal(controller.session.array, truth)  # the network has learned nothing
    controller.undo()
    assert np.array_equal(controller.session.array, truth)


def test_segmentation_keeps_organs_the_network_does_not_look_for(controller, truth):
    opened(controller, "P-001__ct")
    by_hand = np.zeros_like(truth)
    by_hand[2:5, 20:30, 20:30] = organ("spleen").index
    controller.layers.labels.apply(tools.difference(by_hand * 0, tools.whole(by_hand), by_hand))
    controller.editing.replace(np.full_like(truth, organ("liver").index), "")
    assert np.array_equal(controller.session.array == organ("spleen").index, by_hand > 0)


def test_a_running_job_is_cancelled_on_the_server_too(controller):
    opened(controller, "P-001__ct")
    with Client(controller.client.url) as client:
        for _ in range(20):  # a job may be done before it is told
            controller.segment(planes="all")
            controller.cancel("segment")
            with pytest.raises(Cancelled):
                controller.wait("segment", 60)
            while not (job := client.jobs()[0]).is_over:
                pause(20)
            if job.state == "cancelled":
                break
    assert job.state == "cancelled"
    controller.segment()
    assert controller.wait("segment", 300).model_sha256


def test_the_servers_refusal_reaches_the_annotator(controller):
    opened(controller, "P-001__ct")
    controller.segment(planes="diagonal")
    with pytest.raises(ServerError, match="diagonal"):
        controller.wait("segment", 120)


def test_live_numbers_follow_an_edit_and_its_undo(controller, truth):
    opened(controller, "P-001__ct")
    controller.editing.replace(truth, "")
    measured = []
    controller.editing.measured.connect(measured.append)

    def volume_ml() -> float:
        controller.wait("measure", 30)  # what the last edit may have set off
        controller.editing.measure()
        controller.wait("measure", 30)
        return next(m.volume_ml for m in measured[-1] if m.name == "left_kidney")

    before = volume_ml()
    assert controller.tool("margin", organ="left_kidney", margin_mm=8.0) > 0
    assert volume_ml() > before
    controller.undo()
    assert volume_ml() == pytest.approx(before)


def test_another_server_takes_the_case_off_the_screen_and_keeps_its_work(controller, server, truth):
    opened(controller, "P-001__ct_tp2")
    controller.editing.replace(truth, "")
    controller.connect(server.replace("127.0.0.1", "localhost"))
    controller.wait("connect", 30)
    assert controller.session is None
    assert len(controller.viewer.layers) == 0
    controller.connect(server)
    controller.wait("connect", 30)
    assert opened(controller, "P-001__ct_tp2").restored


def test_what_makes_no_sense_is_refused_in_words_and_changes_nothing(controller, make_controller):
    unconnected = make_controller()
    unconnected.next_case()
    with pytest.raises(DoselabelError, match="Connect to a server first"):
        unconnected.wait("case")
    controller.segment()
    with pytest.raises(DoselabelError, match="Open a case first"):
        controller.wait("segment")
    opened(controller, "P-001__ct")
    controller.session.array[:] = 0
    controller.submit()
    with pytest.raises(DoselabelError, match="no voxel is labelled"):
        controller.wait("submit")
    said = []
    controller.status.connect(lambda text, level: said.append((level, text)))
    assert controller.tool("mirror", organ="liver") == 0
    assert said == [("error", "Only a kidney can be mirrored. Select the kidney to copy to the other side.")]


# ---- the window


def test_the_dock_works_in_a_real_window(window, server, tmp_path, truth):
    from napari_plugin.dock import NAME, DoselabelDock

    dock = DoselabelDock(window, Settings(folder=tmp_path))
    window.window.add_dock_widget(dock, name=NAME, area="right")
    dock.server_view.connect_wanted.emit(server, "")
    dock.controller.wait("connect", 30)
    dock.case_view.open_wanted.emit("P-001__ct")
    dock.controller.wait("case", 60)
    dock.controller.editing.replace(truth, "")
    dock.palette_view.tool_wanted.emit("smooth", {"sigma_mm": 4.0})
    dock.controller.wait("measure", 30)  # what opening the case set off
    dock.controller.editing.measure()
    dock.controller.wait("measure", 30)
    assert dock.organ_table.numbers("liver")["mL"] == pytest.approx(10 * 10 * 16 * 0.08, rel=0.01)
    image = window.screenshot(str(tmp_path / "window.png"), canvas_only=False, flash=False)
    assert image[..., :3].std() > 10
    layers = list(dock.controller.layers.all())
    window.window.remove_dock_widget(dock.parent())
    assert not any(layer in window.layers for layer in layers)
    assert dock.controller.session is None
