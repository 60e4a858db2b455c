"""A small patient in memory and on disk, viewers with and without a window, and one real server."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from doselabel.geometry import Geometry, Volume, canonical, resample, write_image
from doselabel.labels import LabelMap
from doselabel.model.profiles import FAST
from doselabel.study import Study
from doselabel.wire import ImageInfo, StudyInfo
from napari_plugin.session.case import Case, SpectFrame

if not os.environ.get("DISPLAY"):
    os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")

GRID = Geometry((24, 48, 48), (5.0, 4.0, 4.0), (-94.0, -94.0, -60.0))
COARSE = replace(FAST, pixel_mm=4.0, anchors_px=((8, 12), (18, 26), (36, 48)))
NARROW = replace(COARSE, proposals=(16, 4), fpn_channels=32, box_fc=64, mask_convs=(32, 32))
"""A network for voxels as large as GRID's."""
SPECT_GRID = Geometry((24, 40, 40), (5.0, 5.0, 5.0), (-97.5, -97.5, -60.0))


def organs() -> np.ndarray:
    """Two kidneys and a liver as boxes on GRID (z, y, x); x grows to the patient's left."""
    array = np.zeros(GRID.shape, np.uint8)
    array[8:16, 26:32, 30:35] = 1
    array[8:16, 26:32, 13:18] = 2
    array[4:14, 14:24, 8:24] = 3
    return array


def ct_hu() -> np.ndarray:
    """Water body in air, organs at 60 HU."""
    ct = np.full(GRID.shape, -1000, np.int16)
    ct[:, 6:42, 4:44] = 0
    ct[organs() > 0] = 60
    return ct


@pytest.fixture
def truth() -> np.ndarray:
    """Label array of the small patient, canonical."""
    return canonical(Volume(organs(), GRID)).array


@pytest.fixture
def make_case() -> Callable[..., Case]:
    """Make an open case without a server; ``times_h`` decides how many SPECT it has."""

    def make(times_h: tuple[float, ...] = (1.0, 24.0), labels: np.ndarray | None = None, **changes) -> Case:
        ct = canonical(Volume(ct_hu(), GRID))
        frames = []
        for i, t in enumerate(times_h):
            source = Volume(np.full(SPECT_GRID.shape, 1000.0 * (i + 1), np.float32), SPECT_GRID)
            frames.append(SpectFrame(t, f"spect_{t:g}.nii.gz", canonical(source), False, source, np.eye(4), i))
        study = StudyInfo(
            patient_id="P-001", nuclide="Lu-177", injected_activity_mbq=7400, images=[], time_points=[]
        )  # fmt: skip
        start = np.zeros(ct.array.shape, np.uint8) if labels is None else labels
        values = {
            "image_id": "P-001__ct",
            "study": study,
            "image": ImageInfo(image_id="P-001__ct", file="ct.nii.gz", role="diagnostic"),
            "ct": ct,
            "native": GRID,
            "spects": tuple(frames),
            "labels": LabelMap(start.copy(), ct.geometry),
            "versions": (),
        }
        return Case(**{**values, **changes})

    return make


@pytest.fixture(scope="session")
def make_patient() -> Callable[[Path, str], Study]:
    """Write the small patient to a folder."""

    def make(folder: Path, patient_id: str) -> Study:
        # As a camera of 12 mm sees the organs: a SPECT that fits them ill is taken for a turned one, which lasts.
        uptake = resample(Volume((organs() > 0).astype(np.float32), GRID), SPECT_GRID, fill=0).array
        seen = gaussian_filter(uptake, 12.0 / np.sqrt(8 * np.log(2)) / SPECT_GRID.spacing_mm[0])
        write_image(folder / "ct.nii.gz", Volume(ct_hu(), GRID))
        points = []
        for number, time_h in enumerate((4.0, 24.0), 1):
            write_image(folder / f"ct_tp{number}.nii.gz", Volume(ct_hu(), GRID))
            write_image(folder / f"spect_tp{number}.nii.gz", Volume(1e4 / number * (1 + 9 * seen), SPECT_GRID))
            points.append({"time_h": time_h, "ct": f"ct_tp{number}.nii.gz", "spect": f"spect_tp{number}.nii.gz"})
        study = Study(
            patient_id=patient_id, nuclide="Lu-177", injected_activity_mbq=7400, ct="ct.nii.gz", time_points=points
        )
        study.save(folder)
        return Study.load(folder)

    return make


@pytest.fixture(scope="session")
def libraries_first() -> Iterator[None]:
    """Load what is large before any window, once.

    Torch's compiler and software GL each bring an LLVM, and crash in the other order. And napari looks for garbage
    whenever a layer is removed: among all that the tests have loaded that takes half a second.
    """
    with contextlib.suppress(ImportError):
        import torch._dynamo  # noqa: F401
    import napari._qt.qt_main_window  # noqa: F401

    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture
def window(libraries_first, qapp) -> Iterator:
    """A real napari window."""
    if not os.environ.get("DISPLAY"):
        pytest.skip("needs a display: image layers can't be drawn without GL; run under xvfb-run")
    import napari

    viewer = napari.Viewer(show=True)
    viewer.window.resize(1400, 900)
    yield viewer
    viewer.close()


@pytest.fixture(scope="session")
def untrained(tmp_path_factory) -> Path:
    """A narrow network that has learned nothing: what it finds is of no interest, and soon found."""
    pytest.importorskip("monailabel", reason="needs the extra 'server'")
    import torch

    from doselabel.model import checkpoint
    from doselabel.model.network import build

    torch.manual_seed(0)
    return checkpoint.save(tmp_path_factory.mktemp("model") / "untrained.safetensors", build(NARROW), NARROW, {})


@pytest.fixture(scope="session")
def server(tmp_path_factory, make_patient, untrained) -> Iterator[str]:
    """Address of a real server process on two patients, with a network that has learned nothing."""
    from monailabel_app.launch import running

    root = tmp_path_factory.mktemp("served") / "studies"
    for name in ("P-001", "P-002"):
        make_patient(root / name, name)
    with running(root, conf={"checkpoint": str(untrained), "grace_s": "3", "replay": "none"}) as found:
        yield found.url


@pytest.fixture
def dock_alone(window, make_case, truth, tmp_path):
    """The dock in a real window, with a case that no server knows."""
    from qtpy.QtTest import QTest

    from napari_plugin.dock import NAME, DoselabelDock
    from napari_plugin.session.recovery import Recovery
    from napari_plugin.session.settings import Settings
    from tests.napari_plugin.hands import pause

    dock = DoselabelDock(window, Settings(folder=tmp_path, author="ada"))
    window.window.add_dock_widget(dock, name=NAME, area="right")
    case = make_case(labels=truth)
    dock.controller.editing.show(case, Recovery(tmp_path, "http://nobody"))
    dock.controller.case_opened.emit(case)
    QTest.qWaitForWindowExposed(dock.window())
    pause(200)
    yield dock
    if dock.controller.session is not None:
        dock.controller.session.abandoned()
    dock.cleanup()


@pytest.fixture
def dock(window, server, tmp_path):
    """The dock in a real window, connected to the real server."""
    from napari_plugin.dock import NAME, DoselabelDock
    from napari_plugin.session.settings import Settings

    dock = DoselabelDock(window, Settings(folder=tmp_path, author="ada"))
    window.window.add_dock_widget(dock, name=NAME, area="right")
    dock.server_view.connect_wanted.emit(server, "")
    dock.controller.wait("connect", 120)
    yield dock
    if dock.controller.session is not None:
        dock.controller.session.abandoned()
    dock.cleanup()
