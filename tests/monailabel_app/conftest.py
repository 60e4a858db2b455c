"""Small patients written by hand, and one real server for the whole session."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import httpx
import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from doselabel.geometry import Geometry, Volume, write_image
from doselabel.labels import LabelMap, write_labels
from doselabel.study import Study
from monailabel_app.launch import Running, running

GRID = Geometry((24, 48, 48), (5.0, 8.0, 8.0), (-188.0, -188.0, -60.0))


def organs() -> np.ndarray:
    """Two kidneys and a liver as boxes (z, y, x); x grows to the patient's left."""
    array = np.zeros(GRID.shape, np.uint8)
    array[8:16, 26:32, 30:35] = 1
    array[8:16, 26:32, 13:18] = 2
    array[4:14, 14:24, 8:24] = 3
    return array


def make_patient(folder: Path, patient_id: str, times_h: tuple[float, ...] = (4.0, 24.0, 72.0)) -> Study:
    """A box-shaped patient, seen by a camera of 12 mm; activity in the organs decays with 50 h."""
    labels = organs()
    body = np.zeros(GRID.shape, bool)
    body[:, 6:42, 4:44] = True
    ct = np.where(body, 20, -1000).astype(np.int16)
    ct[labels > 0] = 60
    uptake = _seen(labels > 0)
    write_image(folder / "ct.nii.gz", Volume(ct, GRID))
    points = []
    for number, time_h in enumerate(times_h, 1):
        write_image(folder / f"ct_tp{number}.nii.gz", Volume(ct, GRID))
        write_image(folder / f"spect_tp{number}.nii.gz", Volume(uptake * 1e6 * 0.5 ** (time_h / 50), GRID))
        points.append({"time_h": time_h, "ct": f"ct_tp{number}.nii.gz", "spect": f"spect_tp{number}.nii.gz"})
    study = Study.model_validate(
        {
            "schema": "doselabel.study/1",
            "patient_id": patient_id,
            "nuclide": "Lu-177",
            "injected_activity_mbq": 7400,
            "ct": "ct.nii.gz",
            "time_points": points,
        }
    )
    study.save(folder)
    return Study.load(folder)


def _seen(mask: np.ndarray) -> np.ndarray:
    """A SPECT sharper than any camera's is taken for another reading of its voxels, and 18 others are tried."""
    sigma_mm = 12.0 / np.sqrt(8 * np.log(2))
    return gaussian_filter(mask.astype(np.float32), [sigma_mm / s for s in GRID.spacing_mm])


def write(path: Path, array: np.ndarray) -> Path:
    """A label map on the patients' grid."""
    return write_labels(path, LabelMap(array, GRID))


@pytest.fixture(scope="session")
def boxes() -> SimpleNamespace:
    """What the patients are made of, for tests that make their own."""
    return SimpleNamespace(
        grid=GRID, organs=organs, make_patient=make_patient, label_map=LabelMap(organs(), GRID), write=write
    )


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    """Two patients and a broken one."""
    root = tmp_path / "studies with space"
    make_patient(root / "P-001", "P-001")
    make_patient(root / "P-002", "P-002", times_h=(24.0,))
    (root / "broken").mkdir()
    (root / "broken" / "study.json").write_text('{"schema": "doselabel.study/1"}')
    return root


@pytest.fixture(scope="session")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A network that has learned nothing, narrow and of coarse pixels: what it finds is of no interest here."""
    import torch

    from doselabel.model import checkpoint
    from doselabel.model.network import build
    from doselabel.model.profiles import FAST

    coarse = replace(FAST, pixel_mm=8.0, anchors_px=((8, 12), (18, 26), (36, 48)), proposals=(16, 4))
    coarse = replace(coarse, fpn_channels=32, box_fc=64, mask_convs=(32, 32))
    torch.manual_seed(0)
    return checkpoint.save(tmp_path_factory.mktemp("model") / "untrained.safetensors", build(coarse), coarse, {})


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory, untrained: Path) -> Callable[[], AbstractContextManager[Running]]:
    """Starts a real server process on five patients, in a folder with a space in its name."""

    def serve() -> AbstractContextManager[Running]:
        root = tmp_path_factory.mktemp("served") / "studies with space"
        for number in range(1, 6):
            make_patient(root / f"P-{number:03}", f"P-{number:03}")
        (root / "broken").mkdir()
        (root / "broken" / "study.json").write_text("{}")
        return running(root, conf={"checkpoint": str(untrained), "grace_s": "3", "replay": "none"})

    return serve


@pytest.fixture(scope="session")
def server(served: Callable[[], AbstractContextManager[Running]]) -> Iterator[Running]:
    """The server that most tests share."""
    with served() as found:
        yield found


@pytest.fixture(scope="session")
def served_root(server: Running) -> Path:
    """The studies folder of the server that most tests share."""
    return server.log.parents[1]


@pytest.fixture
def http(server: Running) -> Iterator[httpx.Client]:
    """A client that reads no proxy settings."""
    with httpx.Client(base_url=server.url, timeout=600, trust_env=False) as client:
        yield client


@pytest.fixture
def label_file(tmp_path: Path) -> Path:
    """A label map on the patients' grid."""
    return write_labels(tmp_path / "label.nii.gz", LabelMap(organs(), GRID))
