"""The window answers: on a clinical CT nothing keeps its thread busy for more than 100 ms of CPU."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from qtpy.QtCore import QTimer
from qtpy.QtTest import QTest

from doselabel.geometry import Geometry, Volume, canonical, restore
from doselabel.labels import LabelMap, write_labels
from doselabel.wire import ImageInfo, LabelVersion, StudyInfo
from napari_plugin.dock import NAME, DoselabelDock
from napari_plugin.segmenting import Offer
from napari_plugin.session.case import Case
from napari_plugin.session.recovery import Recovery
from napari_plugin.session.settings import Settings
from tests.napari_plugin.hands import pause
from tests.napari_plugin.mouse import canvas_of, click, drag, pixel

pytestmark = pytest.mark.e2e
LONGEST_S = 0.1
BEAT_MS = 5
GRID = Geometry((130, 512, 512), (2.5, 0.8, 0.8), (-204.0, -204.0, -160.0))


class Stalls:
    """The most CPU that the window's thread spent at a stretch; another process's load does not count.

    A timer beats in the window's thread: what the thread spent between two beats, events kept waiting.
    """

    def __init__(self) -> None:
        self.longest_s = self._last_s = 0.0
        self._timer = QTimer()
        self._timer.setInterval(BEAT_MS)
        self._timer.timeout.connect(self.beat)

    def beat(self) -> None:
        """Note what was spent since the last beat."""
        now_s = time.thread_time()
        self.longest_s, self._last_s = max(self.longest_s, now_s - self._last_s), now_s

    def __enter__(self) -> Stalls:
        self.longest_s, self._last_s = 0.0, time.thread_time()
        self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        pause(3 * BEAT_MS)
        self.beat()
        self._timer.stop()


class Stored:
    """A server that has one version of the labels."""

    url = "http://nobody"
    lacks: ClassVar[dict[str, str]] = {}

    def __init__(self, organs: np.ndarray) -> None:
        self._organs = organs

    def label_file(self, image_id: str, version: int, path: Path) -> Path:
        """Give it out."""
        path.parent.mkdir(parents=True, exist_ok=True)
        upright = canonical(Volume(self._organs, GRID)).geometry
        return write_labels(path, LabelMap(restore(Volume(self._organs, upright), GRID).array, GRID))


def ellipsoid(centre, radii) -> np.ndarray:
    z, y, x = np.ogrid[tuple(slice(0, n) for n in GRID.shape)]
    return sum(((g - c) / r) ** 2 for g, c, r in zip((z, y, x), centre, radii, strict=True)) <= 1


@pytest.fixture(scope="module")
def organs() -> np.ndarray:
    """Kidneys of 150 mL and a liver of 1600 mL, canonical."""
    array = np.zeros(GRID.shape, np.uint8)
    array[ellipsoid((80, 250, 170), (32, 95, 125))] = 3
    for value, x in ((1, 370), (2, 140)):
        array[ellipsoid((60, 330, x), (20, 34, 34))] = value
    return canonical(Volume(array, GRID)).array


@pytest.fixture
def dock(window, tmp_path, organs):
    dock = DoselabelDock(window, Settings(folder=tmp_path, author="ada"))
    window.window.add_dock_widget(dock, name=NAME, area="right")
    hu = np.where(organs > 0, 60, 0).astype(np.int16)
    hu += np.random.default_rng(0).integers(-15, 15, hu.shape, np.int16)
    ct = Volume(hu, canonical(Volume(organs, GRID)).geometry)
    case = Case(
        image_id="S__ct",
        study=StudyInfo(patient_id="S", nuclide="Lu-177", injected_activity_mbq=7400, images=[], time_points=[]),
        image=ImageInfo(image_id="S__ct", file="ct.nii.gz", role="diagnostic"),
        ct=ct,
        native=GRID,
        spects=(),
        labels=LabelMap(organs.copy(), ct.geometry),
        versions=(),
    )
    dock.controller.editing.show(case, Recovery(tmp_path, "http://nobody"))
    dock.controller.case_opened.emit(case)
    QTest.qWaitForWindowExposed(dock.window())
    pause(500)
    yield dock
    dock.controller.session.abandoned()
    dock.cleanup()


def test_nothing_stalls_the_window_for_100_ms(dock, organs):
    """The least of three rounds: a core that another process shares takes more CPU time for the same work."""
    spent: dict[str, float] = {}
    for _ in range(3):
        for name, seconds in one_round(dock, organs).items():
            spent[name] = min(seconds, spent.get(name, seconds))
        if max(spent.values()) <= LONGEST_S:
            break
    print({name: f"{1000 * s:.0f} ms" for name, s in spent.items()})
    assert {name: s for name, s in spent.items() if s > LONGEST_S} == {}


def one_round(dock, organs) -> dict[str, float]:
    """What a user does, from the organs as they were; and the most CPU that each step took at a stretch."""
    controller, viewer, canvas = dock.controller, dock.viewer, canvas_of(dock.window())
    editing, labels = controller.editing, controller.layers.labels
    editing.take(editing.change_to(organs), "model", "a-model", organs)
    labels.preserve_labels = True
    spent: dict[str, float] = {}

    def done(*tasks: str) -> None:
        for task in tasks:
            if task == "tool":
                controller.tooling.wait(120)
            elif controller.tasks.running(task):
                controller.wait(task, 120)
        pause(50)

    def at(z: int, y: int, x: int):
        return pixel(viewer, labels.data_to_world((z, y, x)))

    viewer.dims.set_point(0, float(labels.data_to_world((GRID.shape[0] - 60, 0, 0))[0]))
    pause(300)
    z = round(float(labels.world_to_data(viewer.dims.point)[0]))
    labels.selected_label = 4
    labels.mode, labels.n_edit_dimensions = "paint", 2
    drag(canvas, [at(z, 450, x) for x in (200, 210)])
    pause(1500)  # the first stroke builds shaders, the first look at a tab its plots
    for name, dims in (("paint", 2), ("paint a sphere", 3)):
        labels.mode, labels.n_edit_dimensions = "paint", dims
        editing.brush.set_size(20.0)
        pause(400)  # the words on the canvas change
        with Stalls() as stalls:
            drag(canvas, [at(z, 420, x) for x in range(200, 320, 12)], each=stalls.beat)
            pause(100)
        assert (controller.session.array == 4).any()
        spent[name] = stalls.longest_s
    labels.mode = "fill"
    labels.n_edit_dimensions = 3
    labels.preserve_labels = False
    kidney = np.argwhere((organs == 1)[z]).mean(axis=0)
    with Stalls() as stalls:
        click(canvas, at(z, int(kidney[0]), int(kidney[1])))
        pause(100)
    assert not (controller.session.array == 1).any()
    spent["fill a kidney"] = stalls.longest_s
    for name, do in (("undo", controller.undo), ("redo", controller.redo), ("undo again", controller.undo)):
        with Stalls() as stalls:
            do()
            pause(100)
        spent[name] = stalls.longest_s
    editing._autosave_timer.stop()
    with Stalls() as stalls:
        editing._autosave_timer.timeout.emit()
        done("autosave")
    assert controller.session.recovery.pending() == ["S__ct"]
    spent["draft"] = stalls.longest_s
    labels.selected_label, moved = 3, np.roll(organs, 6, axis=2)
    with Stalls() as stalls:
        controller.tooling.start("smooth", sigma_mm=3.0)
        done("tool")
    spent["smooth the liver"] = stalls.longest_s
    offer = Offer(controller.session.case, LabelMap(moved, controller.session.case.ct.geometry), None)
    controller.segmenting.keep(offer)
    with Stalls() as stalls:  # what they change is found in a thread, as it is for labels that come from the network
        controller.take_offer()
        done("take")
    assert np.count_nonzero(controller.session.array == 3) == np.count_nonzero(organs == 3)
    spent["take the model's labels"] = stalls.longest_s
    controller.segmenting.keep(Offer(offer.case, LabelMap(organs, offer.labels.geometry), None))
    with Stalls() as stalls:
        controller.take_offer(["liver"])
        done("take")
    spent["take its liver"] = stalls.longest_s
    controller.connection.client = Stored(organs)
    with Stalls() as stalls:
        controller.take_version(LabelVersion(image_id="S__ct", version=1, created=datetime.now(UTC)))
        done("take")
    controller.connection.client = None
    assert np.array_equal(controller.session.array, organs)
    spent["take a version"] = stalls.longest_s
    return spent
