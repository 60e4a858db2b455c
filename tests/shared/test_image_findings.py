"""Whole, finite and wrong: voxels that can't be a body as their header says, each by its own alarm; good ones none."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import SimpleITK as sitk
from scipy import ndimage

from doselabel.geometry import Geometry, Volume
from doselabel.image_findings import of_image

CT = Geometry((60, 48, 60), (5.0, 6.0, 6.0))
SPECT = Geometry((60, 50, 60), (5.0, 6.0, 6.0))


def made(grid: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """CT (HU) and SPECT (Bq/mL) of lungs over a liver, two kidneys and a spine, with their noise (z, y, x)."""
    z, y, x = (np.linspace(-1, 1, n) for n in grid.shape)
    z, y, x = np.meshgrid(z, y, x, indexing="ij")
    rng = np.random.default_rng(0)

    def ball(at: tuple[float, float, float], size: tuple[float, float, float]) -> np.ndarray:
        return sum(((v - a) / s) ** 2 for v, a, s in zip((z, y, x), at, size, strict=True)) < 1  # type: ignore[return-value]

    hu = np.full(grid.shape, -1000.0)
    hu[(y / 0.7) ** 2 + (x / (0.8 - 0.1 * z)) ** 2 < 1] = 20
    hu[ball((0.7, 0, 0.4), (0.6, 0.5, 0.25)) | ball((0.7, 0, -0.4), (0.6, 0.5, 0.25))] = -800
    liver, kidneys = ball((0, -0.1, -0.4), (0.5, 0.4, 0.3)), np.zeros(grid.shape, bool)
    for side in (-0.4, 0.4):
        kidneys |= ball((-0.4, 0.3, side), (0.3, 0.2, 0.15))
    hu[liver | kidneys] = 60
    hu[ball((0, 0.5, 0), (2, 0.15, 0.12))] = 400
    counts = rng.poisson(1 + 6.0 * liver + 40.0 * kidneys) * (hu > -900)
    return hu + rng.normal(0, 30, grid.shape), counts * 1e4


HU, BQ_ML = made(CT)[0], made(SPECT)[1]


def lost(a: np.ndarray) -> np.ndarray:
    return np.where(np.arange(len(a))[:, None, None] < 25, a, 0)


@pytest.mark.parametrize("kind", ["ct", "spect"])
def test_nothing_is_said_of_a_good_image(kind):
    array, grid = (HU.astype(np.int16), CT) if kind == "ct" else (BQ_ML.astype(np.float32), SPECT)
    assert of_image(Volume(array, grid), kind, "x") == []
    for orientation in ("PIR", "LIP", "RAS"):
        turned = Volume.from_sitk(sitk.DICOMOrient(Volume(array, grid).to_sitk(), orientation))
        assert of_image(turned, kind, "x") == []


def test_nothing_is_said_of_a_symmetric_phantom():
    z, y, x = np.meshgrid(*(np.linspace(-1, 1, 41),) * 3, indexing="ij")
    spheres = np.where(z**2 + y**2 + x**2 < 0.5, 1e5, 0.0) + np.where(
        (np.abs(z) - 0.5) ** 2 + x**2 + y**2 < 0.05, 1e6, 0
    )
    spheres = ndimage.gaussian_filter(spheres, 0.8)  # 15 mm FWHM, as a SPECT has it
    assert of_image(Volume(spheres, Geometry(spheres.shape, (8.0, 8.0, 8.0))), "spect", "x") == []


def test_padding_and_grids_beyond_the_reconstruction_are_nothing_odd():
    padded = np.where(np.arange(60)[:, None, None] < 6, -3024, HU).astype(np.int16)
    assert of_image(Volume(padded, CT), "ct", "x") == []
    beyond = np.where(np.abs(np.arange(60)[:, None, None] - 30) > 26, 0, BQ_ML).astype(np.float32)
    assert of_image(Volume(beyond, SPECT), "spect", "x") == []


@pytest.mark.parametrize(
    ("code", "spoil"),
    [
        ("image-scrambled", lambda a: a[np.random.default_rng(1).permutation(len(a))]),
        ("image-scrambled", lambda a: a[sorted(range(len(a)), key=str)]),
        ("image-scrambled", lambda a: a.reshape(a.shape[1], a.shape[0], a.shape[2])),
        ("image-planes-blank", lambda a: np.where(np.arange(len(a))[:, None, None] == 20, 0, a)),
    ],
)
@pytest.mark.parametrize("kind", ["ct", "spect"])
def test_planes_out_of_order_or_lost_have_their_alarm(kind, code, spoil: Callable[[np.ndarray], np.ndarray]):
    array, grid = (HU, CT) if kind == "ct" else (BQ_ML, SPECT)
    changed = spoil(array)
    found = of_image(Volume(changed, Geometry(changed.shape, grid.spacing_mm)), kind, "x")
    assert code in [alarm.code for alarm in found], found
    assert all(alarm.severity == "alarm" and alarm.numbers for alarm in found)


def test_a_ct_whose_end_was_lost_has_its_alarm():
    (alarm,) = of_image(Volume(lost(HU), CT), "ct", "ct (ct.nii)", file="ct.nii")
    assert alarm.code == "image-planes-blank"
    assert alarm.numbers == {"blank_planes": 35}
    assert "35 of its 60 planes (from 25 to 59) hold one value only, 0" in alarm.sentence


@pytest.mark.parametrize("factor", [0.1, 0.5, 4.0])
@pytest.mark.parametrize("kind", ["ct", "spect"])
def test_a_field_of_view_that_is_no_patients_has_its_alarm(kind, factor):
    array, grid = (HU, CT) if kind == "ct" else (BQ_ML, SPECT)
    spacing = tuple(factor * v for v in grid.spacing_mm)
    (alarm,) = of_image(Volume(array, Geometry(grid.shape, spacing)), kind, "x")  # type: ignore[arg-type]
    assert alarm.code == "image-size"
    assert alarm.numbers["width_mm"] == pytest.approx(factor * 360)


@pytest.mark.parametrize("change", [lambda hu: 2 * hu, lambda hu: hu / 2, lambda hu: hu + 400])
def test_a_ct_of_another_scale_has_its_alarm(change):
    (alarm,) = of_image(Volume(change(HU), CT), "ct", "x")
    assert alarm.code == "ct-scale"
    assert alarm.numbers["air_percent"] < 2
