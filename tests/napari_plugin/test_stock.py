"""The window on a stock MONAI Label server: its own process, its own app, flat images, and no doselabel in it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import nibabel
import numpy as np
import pytest
from qtpy.QtTest import QTest

from doselabel.errors import Cancelled, ServerError
from doselabel.geometry import Volume, canonical, write_image
from doselabel.labels import LabelMap, write_labels
from doselabel.wire import LabelSubmission
from monailabel_app.launch import free_port
from napari_plugin.client import reached
from napari_plugin.dock import NAME, DoselabelDock
from napari_plugin.session.settings import Settings
from tests.napari_plugin.conftest import GRID, ct_hu, organs
from tests.napari_plugin.hands import click, keep, pause
from tests.napari_plugin.mouse import canvas_of, drag, pixel

pytestmark = pytest.mark.e2e

OURS_TO_THEIRS = {1: 6, 2: 7, 3: 1}


@pytest.fixture(scope="module")
def stock(tmp_path_factory) -> Iterator[tuple[str, Path]]:
    """Address and datastore of `monailabel start_server` with an app of somebody's."""
    pytest.importorskip("monailabel", reason="needs the extra 'server'")
    root = tmp_path_factory.mktemp("stock")
    app, images = root / "app", root / "images"
    shutil.copytree(Path(__file__).with_name("stock_app"), app)
    for name in ("scan_a", "scan_b"):
        write_image(images / f"{name}.nii.gz", Volume(ct_hu(), GRID))
    port = free_port("127.0.0.1")
    command = [Path(sys.executable).with_name("monailabel"), "start_server", "--app", app, "--studies", images]
    plain = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    plain["PATH"] = f"{command[0].parent}{os.pathsep}{plain['PATH']}"  # its script starts "python"
    with (root / "log").open("wb") as log:
        server = subprocess.Popen(
            [*map(str, command), "--host", "127.0.0.1", "--port", str(port)],
            stdout=log, stderr=log, env=plain | {"CUDA_VISIBLE_DEVICES": ""}, cwd=root,
        )  # fmt: skip
    url, until = f"http://127.0.0.1:{port}", time.monotonic() + 300
    try:
        while True:
            try:
                httpx.get(f"{url}/info/", timeout=5, trust_env=False)
                break
            except httpx.HTTPError:
                assert server.poll() is None, (root / "log").read_text("utf-8", "replace")[-2000:]
                assert time.monotonic() < until
                time.sleep(0.5)
        yield url, images
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture
def dock(window, stock, tmp_path):
    """The dock in a real window; nothing is connected."""
    dock = DoselabelDock(window, Settings(folder=tmp_path, author="ada"))
    window.window.add_dock_widget(dock, name=NAME, area="right")
    QTest.qWaitForWindowExposed(dock.window())
    yield dock
    if dock.controller.session is not None:
        dock.controller.session.abandoned()
    dock.cleanup()


def stored(images: Path, name: str) -> np.ndarray:
    """The label map in the datastore, (z, y, x) as our images are."""
    return np.asarray(nibabel.load(images / "labels" / "final" / f"{name}.nii.gz").dataobj).transpose(2, 1, 0)


def test_list_next_segment_correct_submit_and_train(dock, stock):
    url, images = stock
    controller = dock.controller
    dock.server_view._url.setCurrentText(url)
    click(dock.server_view._connect)
    controller.wait("connect", 60)
    assert "MONAI Label (stock)" in dock.server_view.chip.text()
    assert "Missing: SPECT" in dock.server_view.chip.toolTip()
    assert dock.case_view.browser.shown() == ["scan_a", "scan_b"]
    for i, title in enumerate(("Annotate", "Register", "Dose", "Review", "Learn")):
        assert dock.tabs.isTabEnabled(i) == (title in ("Annotate", "Learn"))
        assert dock.tabs.isTabEnabled(i) or "stock MONAI Label" in dock.tabs.tabToolTip(i)
    click(dock.case_view.next)
    assert controller.wait("case", 60).image_id == "scan_a"
    keep(dock, "stock-open")

    click(dock.segment_view._run)
    controller.wait("segment", 60)
    truth = canonical(Volume(organs(), GRID)).array
    assert np.array_equal(controller.session.array, truth)
    assert controller.session.moment.origin == "model"

    labels = controller.layers.labels
    controller.editing.brush.select_organ(3)
    click(dock.palette_view.modes["paint"])
    assert labels.mode == "paint"
    z, y, x = (int(i) for i in np.argwhere(truth == 3)[0])
    controller.viewer.dims.set_point(0, float(labels.data_to_world((z, y, x))[0]))
    pause(100)
    stroke = [pixel(dock.viewer, labels.data_to_world((z, y - 2, x + step))) for step in (0, 2, 4)]
    drag(canvas_of(dock.window()), stroke)
    assert controller.session.dirty
    drawn = controller.session.array.copy()
    assert np.count_nonzero(drawn == 3) > np.count_nonzero(truth == 3)

    click(dock.submit_view._submit)
    controller.wait("review", 60)
    click(dock.questions.sheet.submit)
    assert controller.wait("submit", 60).author == "ada"
    assert not controller.session.dirty
    keep(dock, "stock-submitted")
    native = controller.session.snapshot().native().array
    theirs = np.zeros(256, np.uint8)
    theirs[list(OURS_TO_THEIRS)] = list(OURS_TO_THEIRS.values())
    assert np.array_equal(stored(images, "scan_a"), theirs[native])
    about = json.loads((images / "datastore_v2.json").read_text("utf-8"))["objects"]["scan_a"]["labels"]["final"]
    assert {row["name"]: row["idx"] for row in about["info"]["label_info"]}["left_kidney"] == 6
    assert about["info"]["author"] == "ada"

    click(dock.case_view.next)  # the other image: the first one is labelled
    assert controller.wait("case", 60).image_id == "scan_b"
    dock.show_tab("Learn")
    click(dock.learn_view._train)
    pause(1500)
    assert controller.tasks.running("train")
    controller.cancel("train")  # it would load torch in a process of its own
    with pytest.raises(Cancelled):
        controller.wait("train", 60)
    controller.open_case("scan_a")  # and back: what was stored is read again, by its names
    controller.wait("case", 60)
    assert np.array_equal(controller.session.array, drawn)


def test_another_annotators_label_is_not_overwritten_unseen(dock, stock, tmp_path):
    url, images = stock
    controller = dock.controller
    controller.connect(url)
    controller.wait("connect", 60)
    controller.open_case("scan_b")
    controller.wait("case", 60)
    labels = controller.layers.labels
    labels.data_setitem(tuple(np.argwhere(labels.data == 0)[:50].T), 3)
    mine = controller.session.snapshot().native().array
    other, _ = reached(url)
    with other:
        path = write_labels(tmp_path / "theirs.nii.gz", LabelMap(organs(), GRID))
        other.submit_label("scan_b", path, LabelSubmission(author="bob", seen=controller.session.seen))
    controller.submit()
    with pytest.raises(ServerError, match="bob stored a label map of scan_b"):
        controller.wait("submit", 60)
    assert controller.session.dirty
    assert np.count_nonzero(stored(images, "scan_b") == 1) == np.count_nonzero(organs() == 3)

    click(dock.submit_view._submit)  # the sheet shows it; who submits then has seen it
    controller.wait("review", 60)
    click(dock.questions.sheet.submit)
    controller.wait("submit", 60)
    assert np.count_nonzero(stored(images, "scan_b") == 1) == np.count_nonzero(mine == 3)
