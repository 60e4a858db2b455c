"""Dose-volume histograms: the volume-exact definition, on cases that can be counted by hand."""

import math

import numpy as np
import pytest

from doselabel.dosimetry.dose.dvh import dvh
from doselabel.errors import DoseError

RAMP = np.arange(1.0, 101.0)  # 100 voxels of 1 to 100 Gy


@pytest.mark.parametrize(
    ("percent", "dose_gy"), [(0, 100), (1, 100), (2, 99), (30, 71), (50, 51), (70, 31), (90, 11), (98, 3), (100, 1)]
)
def test_d_x_is_the_dose_that_the_hottest_x_percent_all_reach(percent, dose_gy):
    shuffled = np.random.default_rng(0).permutation(RAMP)
    found = dvh(shuffled, percents=(percent,), at_gy=(dose_gy,))
    assert found.d_gy[percent] == dose_gy
    assert found.v[dose_gy] >= percent / 100 - 1e-12


def test_d_x_is_never_above_nor_a_voxel_below_what_the_volume_allows():
    dose = np.random.default_rng(1).gamma(4.0, 1.0, 777)
    for percent, d in dvh(dose).d_gy.items():
        above = float(np.nextafter(d, np.inf))
        found = dvh(dose, at_gy=(d, above)).v
        assert found[above] < percent / 100 <= found[d] + 1e-12


def test_d_x_of_a_known_distribution():
    # Uniform on 2 to 6 Gy: D_x = 6 - 4x.
    dose = np.linspace(2.0, 6.0, 100001)
    result = dvh(dose)
    for percent, d in result.d_gy.items():
        assert d == pytest.approx(6.0 - 4.0 * percent / 100, abs=1e-4)
    assert set(result.d_gy) == {2, 30, 50, 70, 90, 98}


def test_mean_extremes_and_v_dose():
    result = dvh(RAMP, at_gy=(0.0, 21.0, 100.0, 100.1))
    assert (result.mean_gy, result.min_gy, result.max_gy) == (50.5, 1.0, 100.0)
    assert result.v == pytest.approx({0.0: 1.0, 21.0: 0.80, 100.0: 0.01, 100.1: 0.0})


def test_cumulative_curve_is_exact_at_every_stored_dose():
    dose = np.random.default_rng(2).gamma(4.0, 1.0, 500)
    result = dvh(dose, bins=37)
    assert len(result.dose_gy) == len(result.cumulative) == 38
    for d, v in zip(result.dose_gy, result.cumulative, strict=True):
        assert v == pytest.approx(np.mean(dose >= d), abs=1e-12)
    assert result.cumulative[0] == 1.0
    assert result.cumulative[-1] == pytest.approx(1 / 500)  # the hottest voxel receives the maximum


def test_differential_is_the_falling_of_the_cumulative_and_sums_to_one():
    result = dvh(np.random.default_rng(3).gamma(4.0, 1.0, 500), bins=50)
    width = result.dose_gy[1]
    assert result.differential_per_gy.sum() * width == pytest.approx(1.0)
    np.testing.assert_allclose(result.differential_per_gy[:-1] * width, -np.diff(result.cumulative)[:-1], atol=1e-12)


def test_a_weight_counts_as_that_many_voxels():
    dose, times = np.array([1.0, 2.0, 5.0, 7.0]), np.array([3, 1, 4, 2])
    weighted, repeated = dvh(dose, times / 10), dvh(np.repeat(dose, times))
    assert weighted.d_gy == repeated.d_gy
    assert weighted.mean_gy == pytest.approx(repeated.mean_gy)
    np.testing.assert_allclose(weighted.cumulative, repeated.cumulative)
    np.testing.assert_allclose(weighted.differential_per_gy, repeated.differential_per_gy)


def test_voxels_outside_the_organ_do_not_count_whatever_they_hold():
    dose = np.array([[1.0, 2.0], [np.nan, 900.0]])
    mask = np.array([[True, True], [False, False]])
    assert dvh(dose, mask).max_gy == 2.0
    assert dvh(dose, mask).mean_gy == 1.5


def test_an_organ_without_dose_has_a_histogram():
    result = dvh(np.zeros(10))
    assert result.max_gy == result.mean_gy == result.d_gy[50.0] == 0.0
    assert result.cumulative[0] == 1.0
    assert result.cumulative[-1] == 0.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: dvh([]), "no voxel"),
        (lambda: dvh([1.0, 2.0], [0.0, 0.0]), "no voxel"),
        (lambda: dvh([1.0, math.nan]), "finite"),
        (lambda: dvh([1.0, -0.1]), "not negative"),
        (lambda: dvh([1.0, 2.0], [1.0]), "shape"),
        (lambda: dvh([1.0, 2.0], [1.0, -1.0]), "Weights"),
        (lambda: dvh([1.0], bins=0), "bins"),
        (lambda: dvh([1.0], percents=(101.0,)), "101"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(DoseError, match=message):
        call()
