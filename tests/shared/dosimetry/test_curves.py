"""Which curve an organ gets and what is said of it: evidence, weights, single and double points, points far off."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from benchmarks import bench_sampling
from doselabel.dosimetry.curves import choice
from doselabel.dosimetry.curves.fit import fit
from doselabel.dosimetry.curves.voxel import fit_voxels
from doselabel.dosimetry.dose.bed import lea_catcheside_g
from doselabel.dosimetry.options import DoseOptions
from doselabel.errors import FitError

EARLY_H = np.array([0.5, 6.0, 24.0, 72.0])
AUTO = DoseOptions()


def cleared(times_h, half_life_h=50.0):
    return 100 * np.exp2(-np.asarray(times_h, dtype=float) / half_life_h)


def with_uptake(times_h, half_life_h=50.0, uptake_h=1.0):
    return cleared(times_h, half_life_h) - cleared(times_h, uptake_h)


def organ(times_h, activity, options=AUTO, name="left_kidney"):
    return choice.fit_organ(name, list(times_h), list(activity), "Lu-177", options)


# ---- choice by evidence


@pytest.mark.parametrize("times_h", [(24.0, 48.0, 96.0, 168.0), (100.0, 200.0, 300.0, 400.0)])
def test_on_the_clearance_limb_the_bias_is_below_2_percent_where_forced_uptake_gave_5_and_18(times_h):
    true_activity, truth = cleared(times_h), 100 * 50 / math.log(2)
    rng = np.random.default_rng(4)
    errors, forced = [], []
    for _ in range(16):
        noise = 0.05 * rng.standard_normal(4)
        for sign in (1, -1):  # antithetic: what noise does in the first order cancels, the bias remains
            activity = list(true_activity * (1 + sign * noise))
            model = choice.choose("", list(times_h), activity, "Lu-177", AUTO)
            for found, chosen in ((errors, model), (forced, "uptake")):
                tia = fit(times_h, activity, nuclide="Lu-177", model=chosen, weights="relative").tia_mbq_h
                found.append(tia / truth - 1)
    assert abs(np.mean(errors)) < 0.02
    assert np.mean(forced) < -0.03


@pytest.mark.parametrize("times_h", [EARLY_H, (1.0, 4.0, 24.0, 96.0), (2.0, 24.0, 72.0, 120.0, 168.0)])
def test_where_a_point_shows_the_uptake_its_phase_is_fitted(times_h):
    found = organ(times_h, with_uptake(times_h, uptake_h=1.5)).fit
    assert found.model == "uptake"
    truth = 100 * (50 - 1.5) / math.log(2)
    assert found.tia_mbq_h == pytest.approx(truth, rel=1e-4)


def test_more_noise_than_assumed_is_no_evidence_of_uptake():
    times_h = np.array([24.0, 48.0, 72.0, 96.0, 120.0, 168.0])
    scattered = cleared(times_h) * np.array([0.86, 1.14, 0.88, 1.13, 0.86, 1.1])
    assert organ(times_h, scattered).fit.model == "mono"


# ---- weights


def test_weights_go_with_the_assumed_noise_and_scatter_less_than_equal_ones():
    true_activity, truth = with_uptake(EARLY_H), 100 * 49 / math.log(2)
    activity = true_activity[:, None] * (1 + 0.05 * np.random.default_rng(0).standard_normal((4, 20000)))

    def sd(weights):
        return (fit_voxels(EARLY_H, activity, nuclide="Lu-177", weights=weights).tia_mbq_h / truth).std()

    assert sd(true_activity**-2.0) == pytest.approx(0.0505, abs=0.001)
    assert sd(np.ones(4)) == pytest.approx(0.058, abs=0.002)
    measured = activity[:, 0]
    found = organ(EARLY_H, measured).fit
    relative = fit(EARLY_H, measured, nuclide="Lu-177", weights="relative")
    assert found.tia_mbq_h == pytest.approx(relative.tia_mbq_h, rel=1e-9)
    equal = fit(EARLY_H, measured, nuclide="Lu-177", weights="equal")
    assert organ(EARLY_H, measured, DoseOptions(tac_weights="equal")).fit.tia_mbq_h == equal.tia_mbq_h


def test_a_point_of_zero_activity_does_not_rule_the_curve():
    times_h = (24.0, 72.0, 120.0, 168.0)
    found = organ(times_h, [*cleared(times_h[:3]), 0.0])
    assert np.isfinite(found.fit.tia_mbq_h)
    assert 0.5 < found.fit.tia_mbq_h / (100 * 50 / math.log(2)) < 1.05


# ---- what is printed


def test_one_degree_of_freedom_never_prints_a_thousand_percent():
    rng = np.random.default_rng(1)
    for times_h in (EARLY_H, (4.0, 24.0, 96.0, 168.0)):
        for _ in range(12):
            activity = rng.uniform(1, 100, 4)
            found = organ(times_h, activity, DoseOptions(tac="uptake"))
            assert found.fit.degrees_of_freedom == 1
            assert found.fit.tia_sd_mbq_h < 2 * found.fit.tia_mbq_h
            shown = choice.described(found)
            for name, sd in shown.parameter_sd.items():
                assert sd < abs(shown.parameters[name])
            assert not re.search(r"\d{3}%", " ".join(choice.warnings_of(found)).replace("100%", ""))


def test_a_large_uncertainty_is_still_as_large_as_what_the_points_leave_open():
    # 0.5 and 1 h say nothing of the clearance: between next to nothing and physical decay alone all is possible.
    found = fit([6.0, 7.0, 8.0], cleared([6.0, 7.0, 8.0]), nuclide="Lu-177", model="mono")
    assert 0.4 < found.tia_sd_mbq_h / found.tia_mbq_h < 1.01


# ---- a point far off


def test_a_point_far_off_its_curve_is_named_and_its_effect_shown():
    times_h = np.array([4.0, 24.0, 72.0, 120.0, 168.0])
    activity = cleared(times_h)
    activity[2] *= 1.6
    found = organ(times_h, activity)
    truth = 100 * 50 / math.log(2)
    (text,) = [t for t in choice.warnings_of(found) if "off its curve" in t]
    assert "The point at 72 h" in text
    assert found.tia_without_mbq_h[2] == pytest.approx(truth, rel=0.01)
    assert abs(found.tia_without_mbq_h[0] / truth - 1) > 0.05
    assert f"{found.tia_without_mbq_h[2] / found.fit.tia_mbq_h - 1:+.0%}" in text
    assert choice.described(found).tia_mbq_h_without == list(found.tia_without_mbq_h)
    alarm = found.far.finding("left_kidney")
    assert (alarm.code, alarm.severity, alarm.organ, alarm.time_point) == (
        "point-off-curve",
        "warning",
        "left_kidney",
        2,
    )
    assert alarm.sentence == f"Left kidney: {text}"
    assert alarm.numbers["off_percent"] > 20
    expected = 100 * (found.tia_without_mbq_h[2] / found.fit.tia_mbq_h - 1)
    assert alarm.numbers["tia_without_percent"] == pytest.approx(expected)


def test_with_one_degree_of_freedom_it_is_said_that_another_point_may_be_wrong():
    activity = with_uptake(EARLY_H)
    activity[2] *= 1.6
    found = organ(EARLY_H, activity)
    assert found.fit.degrees_of_freedom == 1
    (text,) = [t for t in choice.warnings_of(found) if "off its curve" in t]
    assert "any other point may be the wrong one" in text


def test_points_within_their_noise_are_not_named():
    rng = np.random.default_rng(3)
    times_h = (4.0, 24.0, 96.0, 168.0)
    for _ in range(8):
        assert organ(times_h, cleared(times_h) * (1 + 0.03 * rng.standard_normal(4))).tia_without_mbq_h == ()


def test_noise_that_an_image_shows_counts_where_it_exceeds_the_assumed():
    times_h = (24.0, 72.0, 120.0, 168.0)
    quiet = organ(times_h, cleared(times_h)).fit
    named = {"nuclide": "Lu-177", "options": AUTO}
    same = choice.fit_organ("", times_h, list(cleared(times_h)), relative_sd=[0.01] * 4, **named).fit
    loud = choice.fit_organ("", times_h, list(cleared(times_h)), relative_sd=[0.2] * 4, **named).fit
    assert same.tia_sd_mbq_h == quiet.tia_sd_mbq_h
    assert loud.tia_sd_mbq_h > 2 * quiet.tia_sd_mbq_h
    assert loud.tia_mbq_h == pytest.approx(quiet.tia_mbq_h)


def test_what_nobody_measured_is_in_the_sampling_error_and_not_twice_for_one_point():
    late, whole = organ((24.0, 72.0), cleared([24.0, 72.0])).fit, organ((4.0, 250.0), cleared([4.0, 250.0])).fit
    after = math.exp(-math.log(2) / 50 * 72)
    before = 1 - math.exp(-math.log(2) / 50 * 24)
    assert choice.sampling_relative_sd(late) == pytest.approx(math.hypot(0.10 * after, 0.03 * before), rel=1e-3)
    assert choice.sampling_relative_sd(whole) < 0.01
    single = fit(
        [72.0], [10.0], nuclide="Lu-177", model="hanscheid", population_half_life_h=50, population_half_life_sd_h=10
    )
    assert choice.sampling_relative_sd(single) == 0.0
    assert 0.02 < choice.half_life_relative_sd(single) < 0.3


# ---- one point, two points


def test_one_point_needs_a_stated_half_life_and_must_lie_within_its_band():
    with pytest.raises(FitError, match=r"left_kidney: One time point .* none is stated") as caught:
        organ([72.0], [10.0])
    assert "population_half_life_h" in caught.value.hint
    stated = DoseOptions(population_half_life_h=51.0, population_half_life_sd_h={"left_kidney": 9.0})
    for time_h in (24.0, 140.0):
        with pytest.raises(FitError, match=r"between 0\.75 and 2\.5"):
            organ([time_h], [10.0], stated)
    assert organ([72.0], [10.0], stated).fit.model == "hanscheid"


def test_what_nobody_measured_is_stated_as_large_as_it_is_for_curves_of_two_phases():
    for (first_h, scans, model), rows in bench_sampling.errors(curves=40, seed=8).items():
        off, stated, *_ = np.array(rows).T
        if len(rows) >= 30:
            assert math.sqrt(np.mean(off**2)) <= math.sqrt(np.mean(stated**2)), (first_h, scans, model)


def test_the_uncertainty_of_one_point_is_the_spread_between_patients():
    time_h, half_life_h, sd_h = 96.0, 51.0, 12.0
    stated = DoseOptions(population_half_life_h=half_life_h, population_half_life_sd_h=sd_h)
    found = organ([time_h], [10.0], stated).fit
    scatter = np.random.default_rng(0).lognormal(math.log(half_life_h), sd_h / half_life_h, 100_000)
    true = 10.0 * np.exp2(time_h / scatter) * scatter / math.log(2)
    error = found.tia_mbq_h / true - 1
    assert found.tia_sd_mbq_h / found.tia_mbq_h == pytest.approx(math.hypot(0.05, np.sqrt((error**2).mean())), rel=0.03)
    assumed = organ([time_h], [10.0], DoseOptions(population_half_life_h=half_life_h)).fit
    assert assumed.tia_sd_mbq_h > found.tia_sd_mbq_h


def test_one_scan_protracts_the_dose_by_the_stated_half_life_and_not_by_its_own_time():
    """Hänscheid's curve has the scan's time for a half-life: at 96 h of 50 h G would be 0.028 in place of 0.053."""
    stated = DoseOptions(population_half_life_h=50.0, population_half_life_sd_h=10.0)
    found = organ([96.0], [10.0], stated).fit
    curve, half_life_h, relative_sd = choice.clearance(found, "left_kidney", stated)
    assert (half_life_h, relative_sd) == (50.0, pytest.approx(0.2))
    assert lea_catcheside_g(curve, 2.8) == pytest.approx(2.8 / (2.8 + 50.0))
    assert lea_catcheside_g(found.curve, 2.8) == pytest.approx(2.8 / (2.8 + 96.0))
    four = organ([24.0, 48.0, 96.0, 168.0], cleared([24.0, 48.0, 96.0, 168.0]), stated).fit
    assert choice.clearance(four, "left_kidney", stated)[:2] == (four.curve, four.effective_half_life_h)


def test_a_half_life_can_be_stated_by_organ():
    stated = DoseOptions.read({"population_half_life_h": "left_kidney:51/tumour:78"})
    assert organ([72.0], [10.0], stated, "tumour_2").fit.model == "hanscheid"
    with pytest.raises(FitError, match="none is stated"):
        organ([72.0], [10.0], stated, "liver")
    assert DoseOptions.read({"population_half_life_h": "51"}).population_half_life_h == {"*": 51.0}


def test_two_points_that_cannot_carry_a_curve_are_refused_or_at_least_40_percent():
    activity = with_uptake([0.5, 72.0], half_life_h=30.0)
    with pytest.raises(FitError, match=r"can't carry a curve when the first is at 0\.5 h") as caught:
        organ([0.5, 72.0], activity)
    assert "population_half_life_h" in caught.value.hint
    with pytest.raises(FitError, match=r"can't carry a curve.*uptake limb"):
        organ([6.0, 48.0], [10.0, 20.0])
    for model in ("mono", "trapezoid"):
        insisted = organ([0.5, 72.0], activity, DoseOptions(tac=model))
        assert insisted.model_relative_sd >= 0.4
        assert any("can't carry a curve" in text for text in choice.warnings_of(insisted))
    close = organ([24.0, 27.0], cleared([24.0, 27.0]))
    assert close.fit.tia_sd_mbq_h > 0.4 * close.fit.tia_mbq_h


def test_two_points_on_the_clearance_limb_carry_a_curve():
    found = organ([24.0, 120.0], cleared([24.0, 120.0]))
    assert found.fit.model == "mono"
    assert found.fit.tia_mbq_h == pytest.approx(100 * 50 / math.log(2), rel=1e-6)
    assert found.fit.tia_sd_mbq_h < 0.1 * found.fit.tia_mbq_h


def test_the_rest_of_the_body_is_integrated_whatever_its_points():
    for times_h, activity in (([0.5, 72.0], [900.0, 30.0]), ([200.0], [5.0]), ([24.0, 48.0, 72.0], [1.0, 0.0, 0.0])):
        tia, model = choice.fit_rest(times_h, activity, "Lu-177", AUTO)
        assert tia > 0
        assert model in ("trapezoid", "hanscheid", "mono")
    assert choice.fit_rest([24.0, 48.0], [0.0, 0.0], "Lu-177", AUTO) == (0.0, "none")
