"""One scan off by a factor in all organs, one mask too small: named, and good curves and masks are not."""

from __future__ import annotations

import numpy as np
import pytest

from doselabel.dosimetry.uptake.consistency import masks_differ, time_point_off
from doselabel.geometry import Geometry
from doselabel.labels import LabelMap

TIMES_H = np.array((0.5, 6.0, 24.0, 72.0))


def curve(amplitude: float, half_life_h: float, uptake_h: float) -> np.ndarray:
    return amplitude * (0.5 ** (TIMES_H / half_life_h) - 0.5 ** (TIMES_H / uptake_h))


def organs(k: int = 0, factor: float = 1.0, noise: float = 0.0, seed: int = 0) -> dict[str, np.ndarray]:
    found = {
        "left_kidney": curve(120, 48, 0.8),
        "right_kidney": curve(100, 51, 0.9),
        "liver": curve(180, 70, 1.3),
        "spleen": curve(130, 58, 1.0),
    }
    rng = np.random.default_rng(seed)
    for activity in found.values():
        activity *= np.exp(rng.normal(0, noise, 4))
        activity[k] *= factor
    return found


@pytest.mark.parametrize("noise", [0.0, 0.02])
@pytest.mark.parametrize(("k", "factor"), [(1, 0.7), (1, 2.0), (2, 0.5), (2, 0.75), (2, 1.5), (3, 2.0)])
def test_the_scan_that_is_off_is_named_with_its_factor(k, factor, noise):
    (alarm,) = time_point_off(TIMES_H, organs(k, factor, noise))
    assert alarm.code == "time-point-off"
    assert alarm.time_point == k
    assert alarm.numbers["factor"] == pytest.approx(factor, rel=0.15)


@pytest.mark.parametrize("seed", range(20))
def test_noise_of_five_percent_is_no_alarm(seed):
    assert time_point_off(TIMES_H, organs(noise=0.05, seed=seed)) == []


def test_one_organ_that_differs_is_no_scan_that_is_off():
    found = organs()
    found["liver"][2] *= 1.5
    assert time_point_off(TIMES_H, found) == []


def test_kidneys_alone_may_bend_their_curve_together():
    found = {name: a for name, a in organs(2, 0.85).items() if "kidney" in name}
    assert time_point_off(TIMES_H, found) == []


def test_two_late_points_say_nothing():
    assert time_point_off(TIMES_H[[0, 2, 3]], {n: a[[0, 2, 3]] for n, a in organs(2, 2.0).items()}) == []


# ---- masks

GRID = Geometry((40, 40, 40), (3.0, 3.0, 3.0))


def kidney(bottom: int = 5, top: int = 29, grid: Geometry = GRID) -> LabelMap:
    array = np.zeros(grid.shape, np.uint8)
    array[bottom:top, 8:26, 8:26] = 1
    return LabelMap(array, grid, {1: "left_kidney"})


def test_half_a_mask_is_named_with_both_volumes():
    (alarm,) = masks_differ(2, "ct_tp3.nii.gz", kidney(top=17), kidney(), ["left_kidney"])
    assert (alarm.code, alarm.organ, alarm.time_point) == ("mask-volume-differs", "left_kidney", 2)
    assert alarm.numbers["difference_percent"] == pytest.approx(-50)


def test_a_mask_that_the_ct_cuts_is_named_as_cut():
    (alarm,) = masks_differ(1, "ct_tp2.nii.gz", kidney(0, 21), kidney(), ["left_kidney"])
    assert alarm.code == "mask-cut"


def test_masks_that_differ_by_an_edge_are_passed_over():
    assert masks_differ(1, "ct_tp2.nii.gz", kidney(4, 30), kidney(), ["left_kidney"]) == []
    assert masks_differ(1, "ct_tp2.nii.gz", kidney(0, 24), kidney(), ["left_kidney", "liver"]) == []
