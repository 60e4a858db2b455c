"""The border of a mask is settled by HU where these tell organ and surroundings apart, and by nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from doselabel.model.edge import settled
from doselabel.model.evaluate import dice

SPACING = (3.0, 1.0, 1.0)


def organ(inside_hu: float, outside_hu: float = -100.0, noise_hu: float = 15.0):
    """A kidney-sized ellipsoid with partial-volume edges, and a mask of it in blocks of 6 mm, shifted by 2 mm."""
    z, y, x = np.mgrid[:24, :96, :96]
    fine = 1 - np.sqrt(((z - 12) / 11) ** 2 + ((y - 48) / 26) ** 2 + ((x - 48) / 20) ** 2)
    truth = fine > 0
    share = ndimage.gaussian_filter(truth.astype(float), (0, 0.8, 0.8))
    noise = np.random.default_rng(3).normal(0, noise_hu, truth.shape)
    hu = (outside_hu + share * (inside_hu - outside_hu) + noise).astype(np.int16)
    coarse = truth[:, ::6, ::6].astype(float).repeat(6, 1).repeat(6, 2)
    mask = ndimage.gaussian_filter(np.roll(coarse, 2, 2), (0, 2, 2))
    return (255 * mask).round().astype(np.uint8), hu, truth


def test_a_coarse_border_moves_to_where_the_ct_shows_it():
    strength, hu, truth = organ(150)
    before, after = dice(strength > 127, truth), dice(settled(strength, hu, SPACING) > 127, truth)
    assert before < 0.90
    assert after > before + 0.03


def test_partial_volume_does_not_make_organs_smaller():
    strength, hu, truth = organ(150)
    volume = (settled(strength, hu, SPACING) > 127).sum()
    assert volume == pytest.approx(truth.sum(), rel=0.02)


def test_where_hu_tell_nothing_the_mask_stays():
    strength, hu, _ = organ(40, outside_hu=40, noise_hu=40)
    assert dice(settled(strength, hu, (30.0, 1.0, 1.0)) > 127, strength > 127) > 0.99


def test_noise_of_a_low_dose_scan_does_not_make_it_worse():
    strength, hu, truth = organ(35, noise_hu=60)
    assert dice(settled(strength, hu, SPACING) > 127, truth) > dice(strength > 127, truth)


def test_a_cyst_inside_stays_in_the_organ():
    strength, hu, _ = organ(150)
    cyst = (slice(8, 16), slice(42, 54), slice(42, 54))
    hu[cyst] = 0
    assert (settled(strength, hu, SPACING)[cyst] > 127).all()


def test_one_slice_that_slipped_is_brought_back_by_its_neighbours():
    strength = np.zeros((9, 40, 40), np.uint8)
    strength[:, 10:30, 10:30] = 200
    strength[4, 10:30, 10:20] = 100
    hu = np.full(strength.shape, 40, np.int16)
    assert (settled(strength, hu, (1.0, 1.0, 1.0))[4, 12:28, 12:18] > 127).all()
    assert (settled(strength, hu, (10.0, 1.0, 1.0))[4, 12:28, 12:18] < 127).all()


def test_nothing_stays_nothing_and_the_input_is_not_changed():
    empty = np.zeros((3, 8, 8), np.uint8)
    assert not settled(empty, np.zeros(empty.shape, np.int16), SPACING).any()
    strength, hu, _ = organ(150)
    kept = strength.copy()
    settled(strength, hu, SPACING)
    assert np.array_equal(strength, kept)
