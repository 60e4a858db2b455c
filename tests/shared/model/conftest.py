"""A tiny patient: a body with a spine, two kidneys of different size and a liver, all ellipsoids."""

import dataclasses

import numpy as np
import pytest

from doselabel.geometry import Geometry, Volume, write_image
from doselabel.labels import LabelMap, write_labels
from doselabel.model.cases import TrainCase
from doselabel.model.profiles import FAST

SPACING_MM = (10.0, 5.0, 5.0)
SHAPE = (24, 48, 64)
SMALL = dataclasses.replace(
    FAST, pixel_mm=4.0, anchors_px=((8, 12), (18, 26), (36, 48)), fpn_channels=32, box_fc=64, mask_convs=(32, 32)
)
STEPS = 60
CENTRES_MM = {"left_kidney": (65, 35, -30), "right_kidney": (-65, 35, -45), "liver": (-70, -20, 55)}
RADII_MM = {"left_kidney": (28, 24, 45), "right_kidney": (24, 24, 40), "liver": (60, 60, 55)}
HU = {"left_kidney": 120, "right_kidney": 120, "liver": 80}


def ellipsoid(x, y, z, centre, radii):
    return sum(((v - c) / r) ** 2 for v, c, r in zip((x, y, z), centre, radii, strict=True)) < 1


def tiny_patient():
    """CT (HU) and label map in LPS orientation (index z grows to superior)."""
    z, y, x = np.meshgrid(
        *((np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(SHAPE, SPACING_MM, strict=True)), indexing="ij"
    )
    hu = np.full(SHAPE, -1000, np.int16)
    hu[ellipsoid(x, y, z, (0, 0, 0), (145, 105, 900))] = 0
    hu[(x**2 + (y - 75) ** 2) < 18**2] = 400
    labels = np.zeros(SHAPE, np.uint8)
    for value, name in enumerate(CENTRES_MM, start=1):
        mask = ellipsoid(x, y, z, CENTRES_MM[name], RADII_MM[name])
        labels[mask], hu[mask] = value, HU[name]
    geometry = Geometry(
        SHAPE, SPACING_MM, tuple(-(n - 1) / 2 * mm for n, mm in zip(SHAPE[::-1], SPACING_MM[::-1], strict=True))
    )
    return Volume(hu, geometry), LabelMap(labels, geometry)


@pytest.fixture(scope="session")
def patient():
    return tiny_patient()


@pytest.fixture(scope="session")
def case(tmp_path_factory, patient):
    folder = tmp_path_factory.mktemp("cases") / "tiny"
    write_image(folder / "ct.nii.gz", patient[0])
    (folder / "truth").mkdir()
    write_labels(folder / "truth" / "ct.nii.gz", patient[1])
    return TrainCase(folder / "ct.nii.gz", folder / "truth" / "ct.nii.gz", "tiny")


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory, case):
    """A network that has seen the tiny patient for a few steps: what training returned, and its progress."""
    import torch

    from doselabel.model.train import train

    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("model") / "tiny.safetensors"
    seen = []
    result = train(
        [case], out, profile=SMALL, steps=STEPS, batch=2, seed=1, progress=lambda stage, f: seen.append((stage, f))
    )
    return result, seen
