"""Cuts through patients meet images in physical space."""

from __future__ import annotations

import numpy as np
import pytest

from doselabel.geometry import Geometry, Volume, resample
from doselabel.io.planes import box_lps_mm, cut_through, isodose_levels_gy

POINT = (12.0, -30.0, 45.0)


def spot(geometry: Geometry) -> Volume:
    """An image with one bright voxel at `POINT` (LPS, mm)."""
    array = np.zeros(geometry.shape, np.float32)
    array[tuple(np.round(geometry.lps_to_index(np.array(POINT))).astype(int))] = 100
    return Volume(array, geometry)


FLIPPED = Geometry((60, 60, 60), (2.0, 2.0, 2.0), (72.0, 30.0, 105.0), (-1.0, 0, 0, 0, -1.0, 0, 0, 0, -1.0))
SWAPPED = Geometry((60, 60, 60), (2.0, 2.0, 2.0), (-48.0, -90.0, -15.0), (0, 0, 1.0, 1.0, 0, 0, 0, 1.0, 0))


@pytest.mark.parametrize("geometry", [FLIPPED, SWAPPED], ids=["flipped", "swapped"])
@pytest.mark.parametrize("plane", ["axial", "coronal", "sagittal"])
def test_a_spot_is_found_at_its_place_whatever_the_images_orientation(geometry, plane):
    cut = cut_through(POINT, plane, (40.0, 40.0, 40.0), step_mm=1.0)
    picture = cut.take(spot(geometry))
    columns, rows = cut.axes_mm()
    row, column = np.unravel_index(picture.argmax(), picture.shape)
    across, up = {"axial": (0, 1), "coronal": (0, 2), "sagittal": (1, 2)}[plane]
    assert columns[column] == pytest.approx(POINT[across], abs=1.01)
    assert rows[row] == pytest.approx(POINT[up], abs=1.01)


def test_a_cut_moves_with_the_transform_of_the_image():
    matrix = np.eye(4)
    matrix[0, 3] = 10.0
    cut = cut_through(POINT, "coronal", (40.0, 40.0, 40.0))
    columns, _ = cut.axes_mm()
    still, moved = (cut.take(spot(FLIPPED), transform=m).max(axis=0) for m in (np.eye(4), matrix))
    assert np.average(columns, weights=moved) - np.average(columns, weights=still) == pytest.approx(10.0, abs=0.1)


def test_the_box_of_a_mask_is_in_patient_axes():
    mask = np.zeros(SWAPPED.shape, bool)
    mask[10:21, 30:35, 5:8] = True
    center, half = box_lps_mm(mask, SWAPPED)
    assert half == pytest.approx([10.0, 2.0, 4.0])  # x runs along the first array axis, y the last, z the middle
    assert center == pytest.approx(SWAPPED.index_to_lps(np.array([15.0, 32.0, 6.0])))


@pytest.mark.parametrize(("mean", "highest"), [(2.2, 3.9), (0.031, 0.05), (180.0, 400.0)])
def test_isodose_levels_are_round_increasing_and_within_the_dose(mean, highest):
    levels = isodose_levels_gy(mean, highest)
    assert 2 <= len(levels) <= 6
    assert np.all(np.diff(levels) > 0)
    assert 0 < levels[0] < mean < highest
    assert levels[-1] < highest
    step = levels[0] / 10 ** np.floor(np.log10(levels[0]))
    assert min(abs(step - nice) for nice in (1, 2, 2.5, 5, 10)) < 1e-9


def test_a_cut_beside_the_image_shows_nothing_but_the_fill():
    far = cut_through((900.0, 0.0, 0.0), "axial", (40.0, 40.0, 40.0))
    assert np.all(far.take(spot(FLIPPED), fill=-1024.0) == -1024.0)


def test_cutting_a_part_out_first_changes_no_value():
    cut = cut_through(POINT, "axial", (30.0, 20.0, 10.0), step_mm=0.7)
    whole = Volume(np.random.default_rng(0).normal(size=SWAPPED.shape).astype(np.float32), SWAPPED)
    matrix = np.eye(4)
    matrix[:2, :2] = [[0.96, -0.28], [0.28, 0.96]]
    expected = resample(whole, cut.grid, transform=matrix).array.reshape(cut.picture_shape)
    assert cut.take(whole, transform=matrix) == pytest.approx(expected, abs=1e-4)
