"""Voxel-wise fits against the fit of one region, and what becomes of voxels without a curve of their own."""

import math
import time

import numpy as np
import pytest

from doselabel.dosimetry.curves.fit import fit
from doselabel.dosimetry.curves.voxel import fit_voxels
from doselabel.errors import Cancelled, FitError

TIMES_H = np.array([3.74111, 27.72528, 103.09417, 123.98361])


def many_curves(n, times_h=TIMES_H, noise=0.0, seed=0):
    """Activities (t, n) of uptake curves of all kinds, and their TIA (n,)."""
    rng = np.random.default_rng(seed)
    l1, l2 = math.log(2) / rng.uniform(15, 120, n), math.log(2) / rng.uniform(0.8, 3, n)
    amplitude = rng.uniform(0.1, 10, n)
    activity = amplitude * (np.exp(-l1 * times_h[:, None]) - np.exp(-l2 * times_h[:, None]))
    return np.maximum(activity * (1 + noise * rng.standard_normal(activity.shape)), 0), amplitude * (1 / l1 - 1 / l2)


def test_every_noiseless_voxel_gets_its_true_tia_and_half_life():
    activity, tia = many_curves(2000)
    voxels = fit_voxels(TIMES_H, activity, nuclide="Lu-177")
    assert not voxels.scaled.any()
    np.testing.assert_allclose(voxels.tia_mbq_h, tia, rtol=1e-6)


@pytest.mark.parametrize("model", ["uptake", "mono"])
@pytest.mark.parametrize("noise", [0.05, 0.3])
def test_a_voxel_is_fitted_as_a_region_with_its_activities_would_be(model, noise):
    activity, _ = many_curves(60, noise=noise)
    voxels = fit_voxels(TIMES_H, activity, nuclide="Lu-177", model=model)
    own = np.flatnonzero(~voxels.scaled)
    assert len(own) > 50
    for i in own:
        alone = fit(TIMES_H, activity[:, i], nuclide="Lu-177", model=model, uptake_limb="keep")
        assert voxels.tia_mbq_h[i] == pytest.approx(alone.tia_mbq_h, rel=1e-4)
        assert voxels.effective_half_life_h[i] == pytest.approx(alone.effective_half_life_h, rel=1e-3)


def test_no_voxel_decays_slower_than_physically():
    activity, _ = many_curves(500, noise=0.3)
    activity[3] = activity[2] * 1.2
    voxels = fit_voxels(TIMES_H, activity, nuclide="Lu-177")
    assert voxels.effective_half_life_h.max() <= 159.528 * (1 + 1e-6)


def test_voxels_without_a_curve_of_their_own_take_the_regions_scaled():
    activity, _ = many_curves(100)
    activity[:, 0] = 0.0  # nothing there
    activity[:, 1] = [5.0, 0.0, 0.0, 0.0]  # all of its area would lie where nothing was measured
    activity[:, 2] *= 1e-4  # below the threshold
    voxels = fit_voxels(TIMES_H, activity, nuclide="Lu-177", threshold_fraction=0.01)
    assert voxels.scaled[:3].all()
    assert voxels.tia_mbq_h[0] == 0
    shape = voxels.reference.activity(TIMES_H)
    for i in (1, 2):
        scale = shape @ activity[:, i] / (shape @ shape)
        assert voxels.tia_mbq_h[i] == pytest.approx(scale * voxels.reference.tia_mbq_h, rel=1e-5)
        assert voxels.effective_half_life_h[i] == pytest.approx(voxels.reference.effective_half_life_h)


def test_images_keep_their_shape_and_are_empty_outside_the_mask():
    activity, tia = many_curves(60)
    image, mask = activity.reshape(4, 3, 4, 5), np.zeros((3, 4, 5), dtype=bool)
    mask[1, 1:3, :] = True
    voxels = fit_voxels(TIMES_H, image, nuclide="Lu-177", mask=mask)
    assert voxels.tia_mbq_h.shape == voxels.effective_half_life_h.shape == voxels.scaled.shape == (3, 4, 5)
    np.testing.assert_allclose(voxels.tia_mbq_h[mask], tia.reshape(3, 4, 5)[mask], rtol=1e-6)
    assert voxels.tia_mbq_h[~mask].max() == voxels.effective_half_life_h[~mask].max() == 0
    assert not voxels.scaled[~mask].any()


def test_noise_of_voxels_does_not_bias_their_sum():
    activity, tia = many_curves(5000, noise=0.1)
    voxels = fit_voxels(TIMES_H, activity, nuclide="Lu-177")
    assert voxels.tia_mbq_h.sum() == pytest.approx(tia.sum(), rel=0.01)
    # One curve for voxels of half-lives from 15 to 120 h is worse than their noise.
    assert abs(voxels.reference.tia_mbq_h / tia.sum() - 1) > 0.05


def test_the_region_guards_the_voxels():
    times = np.array([0.5, 6.0, 24.0, 72.0])
    activity, _ = many_curves(50, times)
    with pytest.raises(FitError, match="uptake limb"):
        fit_voxels(times, activity, nuclide="Lu-177", model="mono")
    voxels = fit_voxels(times, activity, nuclide="Lu-177", model="mono", uptake_limb="exclude")
    assert voxels.reference.used.tolist() == [False, True, True, True]
    alone = fit(times[1:], activity[1:, 7], nuclide="Lu-177", model="mono", uptake_limb="keep")
    assert voxels.tia_mbq_h[7] == pytest.approx(alone.tia_mbq_h, rel=1e-5)


def test_half_a_million_voxels_take_seconds():
    activity, _ = many_curves(2**19 // 4, noise=0.1)
    started = time.process_time()
    fit_voxels(TIMES_H, activity.astype(np.float32), nuclide="Lu-177")
    assert time.process_time() - started < 6.0


def test_the_work_reports_and_can_be_cancelled():
    activity, _ = many_curves(40000)
    seen = []

    def stop_at_the_second(stage, fraction):
        seen.append((stage, fraction))
        if len(seen) == 2:
            raise Cancelled

    with pytest.raises(Cancelled):
        fit_voxels(TIMES_H, activity, nuclide="Lu-177", progress=stop_at_the_second)
    assert seen[0] == ("voxel fits", 0.0)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda a: a * np.nan, {}, "not finite"),
        (lambda a: a - 5.0, {}, "negative"),
        (lambda a: a * 0, {}, "All activities are zero"),
        (lambda a: a[:3], {}, "one activity per time"),
        (lambda a: a, {"model": "bi"}, "Unknown voxel model"),
        (lambda a: a, {"mask": np.zeros(10, dtype=bool)}, "mask has shape"),
        (lambda a: a, {"mask": np.ones(9, dtype=bool)}, "mask has shape"),
        (lambda a: a, {"weights": [1.0]}, "4 finite numbers"),
        (lambda a: a, {"weights": "poisson"}, "weights are 'poisson'"),
        (lambda a: a[:, 0], {}, r"shape \(4,\)"),
    ],
)
def test_bad_input_is_refused_by_name(change, options, message):
    activity, _ = many_curves(10)
    with pytest.raises(FitError, match=message):
        fit_voxels(TIMES_H, change(activity), nuclide="Lu-177", **options)
