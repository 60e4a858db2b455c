"""Nothing is lost and nothing goes to the wrong place, against real server processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import numpy as np
import pytest
from napari.components import ViewerModel
from qtpy.QtCore import QEventLoop, QTimer

from doselabel.errors import DoselabelError
from doselabel.labels import read_labels
from napari_plugin.client import Client
from napari_plugin.controller import Controller
from napari_plugin.handing import Queued
from napari_plugin.session.settings import Settings

pytestmark = pytest.mark.e2e
NOBODY = "http://127.0.0.1:9"


@pytest.fixture
def person(qapp, tmp_path):
    """Somebody at a computer of their own, connected."""
    made = []

    def make(name: str, url: str, image_id: str | None = None) -> Controller:
        controller = Controller(ViewerModel(), Settings(folder=tmp_path / name, author=name))
        made.append(controller)
        controller.connect(url)
        controller.wait("connect", 120)
        if image_id:
            controller.open_case(image_id)
            controller.wait("case", 120)
        return controller

    yield make
    for controller in made:
        controller.cleanup()


def until(signal_: object, reached: Callable[[], bool], timeout_s: float = 120.0) -> None:
    """Process events until a signal has made something true."""
    if reached():
        return
    loop = QEventLoop()
    check = lambda *_: loop.quit() if reached() else None  # noqa: E731
    signal_.connect(check)
    QTimer.singleShot(round(1000 * timeout_s), loop.quit)
    loop.exec_() if hasattr(loop, "exec_") else loop.exec()
    signal_.disconnect(check)
    assert reached()


def draw(controller: Controller, value: int = 4) -> tuple[np.ndarray, ...]:
    """Draw a small block by hand."""
    at = np.nonzero(np.pad(np.ones((2, 4, 4), bool), ((2, 20), (2, 42), (2, 42))))
    controller.layers.labels.data_setitem(at, value)
    return at


def test_a_result_that_comes_after_an_edit_is_offered_and_undone_like_any_step(person, server):
    ada = person("ada", server, "P-001__ct_tp1")
    offers = []
    ada.segmenting.offered.connect(offers.append)
    ada.segment()
    at = draw(ada)
    ada.layers.labels.data_setitem(tuple(axis + 6 for axis in at), 1)  # an organ that the network looks for
    drawn = ada.session.array.copy()
    moment = ada.session.moment
    summary = ada.wait("segment", 600)
    assert np.array_equal(ada.session.array, drawn)
    assert len(offers) == 1
    ada.take_offer()
    ada.wait("take", 120)
    assert ada.session.started_from == summary.model_sha256
    assert not np.array_equal(ada.session.array, drawn)
    assert np.all(ada.session.array[at] == 4)  # it does not answer for a spleen
    ada.undo()
    assert np.array_equal(ada.session.array, drawn)
    assert ada.session.moment == moment
    ada.session.abandoned()


def test_after_a_failed_connect_nothing_is_stored_on_the_old_server(person, server):
    with Client(server) as client:
        before = client.label_versions("P-001__ct_tp2")
    ada = person("ada", server, "P-001__ct_tp2")
    draw(ada)
    ada.connect(NOBODY)
    with pytest.raises(DoselabelError):
        ada.wait("connect", 120)
    assert (ada.connection.link.state, ada.connection.link.url) == ("offline", "")
    ada.submit()
    with pytest.raises(DoselabelError, match="nothing was sent"):
        ada.wait("submit")
    with Client(server) as client:
        assert client.label_versions("P-001__ct_tp2") == before
    ada.connect(server)
    ada.wait("connect", 120)
    assert ada.session is not None  # still there, still drawn
    ada.submit()
    assert ada.wait("submit", 120).author == "ada"


def test_a_submission_needs_an_author(person, server):
    ada = person("", server, "P-001__ct_tp2")
    draw(ada, 5)
    ada.submit(author="  ")
    with pytest.raises(DoselabelError, match="needs its author"):
        ada.wait("submit")
    ada.session.abandoned()


def test_two_people_on_one_case_are_both_told_and_either_can_be_taken(person, server):
    ada, ben = person("ada", server, "P-002__ct_tp1"), person("ben", server, "P-002__ct_tp1")
    told = {"ada": [], "ben": []}
    ada.handing.conflict.connect(told["ada"].append)
    ben.handing.conflict.connect(told["ben"].append)
    draw(ada, 4)
    ada.submit()
    first = ada.wait("submit", 120)
    draw(ben, 5)
    ben.submit()
    second = ben.wait("submit", 120)
    assert second.unseen == [first.version]
    until(ben.handing.conflict, lambda: bool(told["ben"]))
    until(ada.handing.conflict, lambda: bool(told["ada"]))
    assert [v.author for v in told["ben"][-1].others] == ["ada"]
    assert told["ben"][-1].mine == second
    assert [v.author for v in told["ada"][-1].others] == ["ben"]

    compared = []
    ben.handing.compared.connect(lambda *what: compared.append(what))
    ben.handing.compare(told["ben"][-1].others[0])
    ben.wait("compare", 120)
    assert {row[0] for row in compared[0][2]} == {"Spleen", "Tumour"}
    ben.take_version(told["ben"][-1].others[0])
    ben.wait("take", 120)
    assert ben.session.started_from == f"version {first.version}"
    assert np.array_equal(ben.session.array, ada.session.array)
    ben.undo()
    assert ben.session.started_from == f"version {second.version}"
    assert not ben.session.dirty


def test_a_server_killed_in_a_submit_gets_the_labels_when_it_is_back_and_only_once(
    person, tmp_path_factory, make_patient
):
    pytest.importorskip("monailabel", reason="needs the extra 'server'")
    from monailabel_app.launch import free_port, running

    root = tmp_path_factory.mktemp("killed") / "studies"
    make_patient(root / "P-003", "P-003")
    port = free_port()
    with running(root, port=port) as found:
        ada = person("ada", found.url, "P-003__ct")
        at = draw(ada)
        drawn = ada.session.snapshot().native()
        os.kill(found.process.pid, signal.SIGKILL)
        found.process.wait()
        ada.submit(comment="in the dark")
        with pytest.raises(Queued, match="kept on this computer"):
            ada.wait("submit", 120)
        assert (ada.connection.link.state, ada.connection.link.waiting) == ("lost", 1)
        assert ada.session.dirty
        ada.editing.keep_work()
    with running(root, port=port):
        until(ada.handing.stored, lambda: not ada.session.dirty, 300)
        assert (ada.connection.link.state, ada.connection.link.waiting) == ("connected", 0)
        assert ada.session.recovery.pending() == []
        with Client(found.url) as client:
            (version,) = client.label_versions("P-003__ct")
            assert version.comment == "in the dark"
            kept = client.label_file("P-003__ct", 1, tmp_path_factory.mktemp("got") / "labels.nii.gz")
        assert np.array_equal(read_labels(kept).array, drawn.array)
        assert np.all(ada.session.array[at] == 4)
