"""Time-activity fits against the published case (T1), the single-time-point table (T6) and the design's guards."""

import math
from itertools import pairwise

import numpy as np
import pytest
from scipy.integrate import quad

from doselabel.dosimetry.curves.estimates import hanscheid_ratio
from doselabel.dosimetry.curves.fit import fit
from doselabel.dosimetry.curves.spread import fit_all
from doselabel.dosimetry.curves.voxel import fit_voxels
from doselabel.errors import FitError
from doselabel.nuclides import Nuclide, nuclide

# T1: SNMMI Lu-177 challenge patient.
T1_TIMES_H = [3.74111, 27.72528, 103.09417, 123.98361]
T1_KIDNEY_MBQ = [98.561432, 73.599408, 25.39568, 19.04661]
T1_LIVER_MBQ = [378.4744, 347.404416, 192.66408, 173.225408]

# The schedule of the design's expected-error table.
SHORT_TIMES_H = np.array([0.5, 6.0, 24.0, 72.0])


def uptake_curve(times_h, half_life_h=50.0, uptake_half_life_h=1.0, amplitude_mbq=100.0):
    """Activities and true TIA of A (e^-l1 t - e^-l2 t)."""
    l1, l2 = math.log(2) / half_life_h, math.log(2) / uptake_half_life_h
    t = np.asarray(times_h)
    return amplitude_mbq * (np.exp(-l1 * t) - np.exp(-l2 * t)), amplitude_mbq * (1 / l1 - 1 / l2)


def lu(times_h, activity_mbq, **options):
    return fit(times_h, activity_mbq, nuclide="Lu-177", **options)


def codes(tac):
    return {warning.split(":")[0] for warning in tac.warnings}


# T1


def test_t1_kidney_uptake_fit_gives_the_published_rates_and_tia():
    tac = lu(T1_TIMES_H, T1_KIDNEY_MBQ)
    assert tac.params["lambda1_per_h"] == pytest.approx(0.01408143, abs=5e-9)
    assert tac.params["lambda2_per_h"] == pytest.approx(0.845429, abs=5e-7)
    assert tac.tia_mbq_h == pytest.approx(7593.7526, abs=5e-4)


def test_t1_liver_uptake_fit_gives_the_published_rates_and_tia():
    tac = lu(T1_TIMES_H, T1_LIVER_MBQ)
    assert tac.params["lambda1_per_h"] == pytest.approx(0.00747620, abs=5e-9)
    assert tac.params["lambda2_per_h"] == pytest.approx(0.657560, abs=5e-7)
    # The design prints 56 425.335; the normal equations solved with 40 digits give 56 425.32529 (2 in 10 million).
    assert tac.tia_mbq_h == pytest.approx(56425.335, rel=3e-7)
    assert tac.tia_mbq_h == pytest.approx(56425.32528797863, abs=1e-4)


def test_t1_kidney_by_the_other_models():
    def tia(**options):
        return lu(T1_TIMES_H, T1_KIDNEY_MBQ, **options).tia_mbq_h

    assert tia(model="mono") == pytest.approx(7745.7, abs=0.05)
    assert tia(model="hanscheid") == pytest.approx(7554.4, abs=0.05)
    assert tia(model="trapezoid", tail="physical") == pytest.approx(11011.6, abs=0.05)


def test_t1_kidney_local_electron_dose():
    tac = lu(T1_TIMES_H, T1_KIDNEY_MBQ)
    constant = nuclide("Lu-177").local_constant_g_gy_per_gbq_h
    for density, dose_gy in ((1.00, 2.773), (1.04, 2.667), (1.06, 2.616)):
        assert tac.tia_mbq_h / 1e3 * constant / (233.608 * density) == pytest.approx(dose_gy, abs=6e-4)


# T6


@pytest.mark.parametrize(
    ("x", "ratio"), [(0.5, 0.707), (0.75, 0.892), (1, 1), (1.443, 1.061), (2, 1), (2.5, 0.884), (3, 0.75)]
)
def test_t6_single_time_point_over_true_tia(x, ratio):
    assert hanscheid_ratio(x) == pytest.approx(ratio, abs=5e-4)
    half_life_h = 50.0
    activity = 10.0 * 2.0**-x
    tac = lu([x * half_life_h], [activity], model="hanscheid")
    assert tac.tia_mbq_h / (10.0 * half_life_h / math.log(2)) == pytest.approx(ratio, abs=5e-4)


def test_single_time_point_says_within_which_half_lives_it_holds():
    tac = lu([96.0], [10.0], model="hanscheid")
    assert "hanscheid_band" in codes(tac)
    assert "between 38 and 128 h" in " ".join(tac.warnings)
    # Half the width of the band's ratios, rectangular, is in the uncertainty.
    assert tac.tia_sd_mbq_h > 0.05 * tac.tia_mbq_h


def test_single_time_point_says_when_the_other_points_contradict_it():
    times = np.array([6.0, 12.0, 20.0])
    assert "hanscheid_outside_band" in codes(lu(times, np.exp2(-times / 60.0), model="hanscheid"))


def test_single_time_point_after_the_physical_half_life_is_refused():
    with pytest.raises(FitError, match="beyond the physical half-life"):
        lu([200.0], [1.0], model="hanscheid")


def test_population_half_life_is_exact_for_that_half_life_and_carries_its_spread():
    times = np.array([24.0, 72.0])
    activity = 10 * np.exp2(-times / 50.0)
    tac = lu(times, activity, model="population", population_half_life_h=50.0)
    assert tac.tia_mbq_h == pytest.approx(10 * 50 / math.log(2))
    assert tac.used.tolist() == [False, True]  # nearest to the mean life of 72.1 h, where T_eff matters least

    def sd(time_h):
        options = {"population_half_life_h": 50.0, "population_half_life_sd_h": 5.0, "time_h": time_h}
        return lu(times, activity, model="population", **options).tia_sd_mbq_h / tac.tia_mbq_h

    normal = np.random.default_rng(0).standard_normal(200_000)
    half_lives_h = 50 * np.exp(0.1 * normal[np.abs(normal) < 3])
    for time_h in (72.0, 24.0):
        off = half_lives_h / 50 * np.exp2(time_h / half_lives_h - time_h / 50) - 1
        assert sd(time_h) == pytest.approx(math.hypot(0.05, math.sqrt(np.mean(off**2))), rel=2e-3)
    assert 0.05 < sd(72.0) < 0.052 < sd(24.0)


# The design's table of expected errors: 0.5/6/24/72 h, uptake 1 h, T_eff 50 h, noise 5 %.


def test_uptake_fit_has_no_bias_and_errs_by_minus_9_to_plus_10_percent():
    activity, truth = uptake_curve(SHORT_TIMES_H)
    assert lu(SHORT_TIMES_H, activity).tia_mbq_h == pytest.approx(truth, rel=1e-6)
    noise = 1 + 0.05 * np.random.default_rng(0).standard_normal((4, 20000))
    fits = fit_voxels(SHORT_TIMES_H, activity[:, None] * noise, nuclide="Lu-177", weights=activity**-2.0)
    low, high = np.percentile(fits.tia_mbq_h / truth - 1, [2.5, 97.5])
    assert low == pytest.approx(-0.09, abs=0.01)
    assert high == pytest.approx(0.10, abs=0.01)


def test_mono_over_all_four_points_errs_by_plus_35_percent():
    activity, truth = uptake_curve(SHORT_TIMES_H)
    tac = lu(SHORT_TIMES_H, activity, model="mono", uptake_limb="keep", sd_mbq=0.05 * activity)
    assert tac.tia_mbq_h / truth - 1 == pytest.approx(0.35, abs=0.005)


@pytest.mark.parametrize("head", ["constant", "zero"])
def test_trapezoid_with_a_physical_tail_errs_by_plus_82_percent(head):
    activity, truth = uptake_curve(SHORT_TIMES_H)
    tac = lu(SHORT_TIMES_H, activity, model="trapezoid", tail="physical", head=head)
    assert tac.tia_mbq_h / truth - 1 == pytest.approx(0.82, abs=0.005)


def test_trapezoid_with_the_default_effective_tail_errs_by_under_1_percent():
    activity, truth = uptake_curve(SHORT_TIMES_H)
    assert lu(SHORT_TIMES_H, activity, model="trapezoid").tia_mbq_h == pytest.approx(truth, rel=0.01)


@pytest.mark.parametrize(("half_life_h", "after"), [(40.0, 0.30), (60.0, 0.44)])
def test_what_lies_after_the_last_point_is_computed_and_said(half_life_h, after):
    activity, _ = uptake_curve(SHORT_TIMES_H, half_life_h)
    tac = lu(SHORT_TIMES_H, activity)
    assert tac.extrapolated_fraction == pytest.approx(after, abs=0.006)
    assert f"extrapolated: {tac.extrapolated_fraction:.0%}" in " ".join(tac.warnings)


def test_nothing_is_said_of_extrapolation_when_little_is_extrapolated():
    times = [1.0, 24.0, 96.0, 240.0]
    assert "extrapolated" not in codes(lu(times, uptake_curve(times)[0]))


# Guards


@pytest.mark.parametrize("model", ["uptake", "mono", "bi", "trapezoid"])
def test_effective_half_life_never_exceeds_the_physical_one(model):
    tac = lu([4.0, 24.0, 96.0, 168.0], [50.0, 55.0, 60.0, 58.0], model=model, uptake_limb="keep")
    assert tac.effective_half_life_h <= 159.528 * (1 + 1e-12)
    assert "physical_floor" in codes(tac)


def test_mono_on_an_uptake_limb_is_refused_with_a_remedy():
    activity, _ = uptake_curve(SHORT_TIMES_H)
    with pytest.raises(FitError, match=r"0\.5 h lie on the uptake limb") as refused:
        lu(SHORT_TIMES_H, activity, model="mono")
    assert "uptake" in refused.value.hint


def test_mono_leaves_the_uptake_limb_out_when_told_to():
    activity, truth = uptake_curve(SHORT_TIMES_H)
    tac = lu(SHORT_TIMES_H, activity, model="mono", uptake_limb="exclude")
    assert tac.used.tolist() == [False, True, True, True]
    assert tac.tia_mbq_h == pytest.approx(truth, rel=0.03)
    assert "uptake_limb" in codes(tac)


def test_mono_with_nothing_left_after_the_uptake_limb_is_refused():
    with pytest.raises(FitError, match="uptake limb"):
        lu([1.0, 2.0, 3.0], [10.0, 20.0, 40.0], model="mono", uptake_limb="exclude")


def test_mono_accepts_a_first_point_that_is_low_within_its_noise():
    tac = lu([2.0, 24.0, 96.0], [98.0, 80.0, 30.0], model="mono")
    assert not codes(tac) & {"uptake_limb"}
    tac = lu([2.0, 8.0, 96.0], [98.0, 99.0, 30.0], model="mono")
    assert "uptake_limb" in codes(tac)


def test_as_many_parameters_as_points_is_allowed_and_said():
    tac = lu(T1_TIMES_H, T1_KIDNEY_MBQ, model="bi")
    assert tac.degrees_of_freedom == 0
    assert {"parameters", "zero_degrees_of_freedom"} <= codes(tac)
    assert 0.01 < tac.tia_sd_mbq_h / tac.tia_mbq_h < 0.1  # from the points' noise: residuals are nothing to go by


def test_bi_passes_through_four_points_of_a_two_phase_washout():
    times = np.array([1.0, 8.0, 48.0, 144.0])
    activity = 60 * np.exp(-0.3 * times) + 40 * np.exp(-0.012 * times)
    tac = lu(times, activity, model="bi")
    assert np.abs(tac.residuals_mbq).max() < 1e-4
    assert tac.tia_mbq_h == pytest.approx(60 / 0.3 + 40 / 0.012, rel=1e-4)
    assert [(round(a), round(r, 3)) for a, r in zip(tac.curve.amplitudes_mbq, tac.curve.rates_per_h, strict=True)] == [
        (40, 0.012),
        (60, 0.3),
    ]


def test_bi_says_what_four_points_of_an_uptake_curve_do_not_determine():
    tac = lu(T1_TIMES_H, T1_KIDNEY_MBQ, model="bi")
    assert "undetermined" in codes(tac)
    assert math.isinf(tac.cv["lambda2_per_h"])


def test_loose_and_correlated_parameters_are_flagged():
    tac = lu(T1_TIMES_H, T1_KIDNEY_MBQ)
    assert tac.cv["lambda2_per_h"] > 0.5
    assert abs(tac.correlation[0, 1]) > 0.8
    assert {"cv", "correlation"} <= codes(tac)
    clean = lu([0.5, 1, 2, 4, 24, 72, 168], uptake_curve([0.5, 1, 2, 4, 24, 72, 168])[0], assumed_relative_sd=0.01)
    assert "cv" not in codes(clean)


def test_a_first_scan_long_after_uptake_leaves_the_uptake_rate_undetermined_but_not_the_tia():
    times = np.array([24.0, 48.0, 96.0, 168.0])
    tac = lu(times, 100 * np.exp2(-times / 50.0))
    assert math.isinf(tac.cv["lambda2_per_h"])
    assert tac.tia_mbq_h == pytest.approx(100 * 50 / math.log(2), rel=0.02)
    assert tac.tia_sd_mbq_h < 0.1 * tac.tia_mbq_h


@pytest.mark.parametrize("half_life_h", [8.0, 30.0, 60.0, 120.0, 155.0])
@pytest.mark.parametrize("uptake_half_life_h", [0.3, 2.0, 6.0])
def test_uptake_fit_finds_the_truth_wherever_it_lies(half_life_h, uptake_half_life_h):
    times = [1.0, 4.0, 24.0, 96.0]
    activity, truth = uptake_curve(times, half_life_h, uptake_half_life_h)
    tac = lu(times, activity)
    assert tac.tia_mbq_h == pytest.approx(truth, rel=1e-5)
    assert tac.effective_half_life_h == pytest.approx(half_life_h, rel=1e-4)


# Uncertainty of a fit


def test_tia_sd_is_the_scatter_of_repeated_measurements():
    times = np.array([1.0, 4.0, 24.0, 72.0, 120.0])
    activity, _ = uptake_curve(times)
    sd = 0.02 * activity
    noise = np.random.default_rng(2).standard_normal((5, 20000)) * sd[:, None]
    scatter = fit_voxels(times, activity[:, None] + noise, nuclide="Lu-177", weights=sd**-2.0).tia_mbq_h.std()
    assert lu(times, activity, sd_mbq=sd).tia_sd_mbq_h == pytest.approx(scatter, rel=0.03)


@pytest.mark.parametrize("model", ["uptake", "mono", "trapezoid", "hanscheid"])
def test_tia_gradient_is_what_refitting_shows(model):
    activity = np.array(T1_KIDNEY_MBQ)
    tac = lu(T1_TIMES_H, activity, model=model)
    # Refit points that already lie on the curve, where Gauss-Newton's slope is the slope itself.
    on_curve = tac.activity(T1_TIMES_H) if model in ("uptake", "mono") else activity
    gradient = lu(T1_TIMES_H, on_curve, model=model).tia_gradient_h
    for i in range(4):
        step = np.zeros(4)
        step[i] = 1e-3
        up, down = (lu(T1_TIMES_H, on_curve + s, model=model).tia_mbq_h for s in (step, -step))
        assert gradient[i] == pytest.approx((up - down) / 2e-3, rel=2e-3, abs=1e-3)


@pytest.mark.parametrize("model", ["uptake", "mono", "bi", "trapezoid", "hanscheid"])
def test_an_error_common_to_all_points_passes_straight_into_the_tia(model):
    tac = lu(T1_TIMES_H, T1_LIVER_MBQ, model=model)
    assert tac.tia_gradient_h @ tac.activity_mbq == pytest.approx(tac.tia_mbq_h, rel=1e-5)


def test_residuals_larger_than_the_noise_widen_the_uncertainty():
    activity = np.array([60.0, 75.0, 20.0, 25.0])
    tight = lu(T1_TIMES_H, activity, model="mono", uptake_limb="keep", sd_mbq=np.full(4, 0.1))
    factor = math.sqrt(tight.chi_squared / tight.degrees_of_freedom)
    assert factor > 10
    assert tight.tia_sd_mbq_h == pytest.approx(factor * np.linalg.norm(tight.tia_gradient_h * tight.sd_mbq))


def test_given_sds_weight_the_points():
    sd = np.array([1.0, 100.0, 1.0, 1.0])
    activity = np.array([98.0, 40.0, 25.4, 19.0])
    assert abs(lu(T1_TIMES_H, activity, sd_mbq=sd).residuals_mbq[1]) > 20
    weighted = lu(T1_TIMES_H, activity, weights=sd**-2.0)
    assert weighted.tia_mbq_h == pytest.approx(lu(T1_TIMES_H, activity, sd_mbq=sd).tia_mbq_h)


def test_weights_by_name_are_those_by_number():
    for name, power in (("poisson", -1.0), ("relative", -2.0), ("equal", 0.0)):
        by_number = lu(T1_TIMES_H, T1_KIDNEY_MBQ, weights=np.array(T1_KIDNEY_MBQ) ** power)
        assert lu(T1_TIMES_H, T1_KIDNEY_MBQ, weights=name).tia_mbq_h == pytest.approx(by_number.tia_mbq_h)


# Spread over models


def test_spread_is_that_of_the_admissible_models():
    spread = fit_all(T1_TIMES_H, T1_KIDNEY_MBQ, nuclide="Lu-177")
    assert spread.admissible == ("uptake", "mono")
    assert "4 parameters for 4 points" in spread.rejected["bi"]
    assert spread.relative_sd == pytest.approx((7745.67 - 7593.75) / 2 / math.sqrt(3) / 7593.75, rel=1e-3)


def test_a_model_that_residuals_refute_does_not_count():
    times = np.array([4.0, 24.0, 72.0, 120.0, 168.0])
    two_phases = 60 * np.exp(-0.1 * times) + 60 * np.exp(-0.012 * times)
    spread = fit_all(times, two_phases, nuclide="Lu-177", model="bi", sd_mbq=0.02 * two_phases)
    assert "chi-squared" in spread.rejected["mono"]
    assert spread.admissible == ("bi",)


def test_the_chosen_model_must_fit():
    with pytest.raises(FitError, match="at least 3"):
        fit_all([24.0, 96.0], [10.0, 5.0], nuclide="Lu-177", model="uptake")


def test_candidates_that_cannot_be_fitted_say_why():
    spread = fit_all([24.0, 96.0, 168.0], [10.0, 5.0, 2.0], nuclide="Lu-177", model="mono")
    assert "4 parameters for 3 points" in spread.rejected["bi"]
    assert spread.admissible == ("mono",)
    assert spread.relative_sd == 0


# The curve


@pytest.mark.parametrize("model", ["uptake", "mono", "trapezoid"])
def test_area_and_tail_are_the_integrals_of_the_curve(model):
    tac = lu(T1_TIMES_H, T1_KIDNEY_MBQ, model=model)

    def area(start):
        pieces = sorted({start, *[t for t in T1_TIMES_H if t > start], 3000.0})
        return sum(quad(tac.activity, a, b)[0] for a, b in pairwise(pieces))

    assert tac.tia_mbq_h == pytest.approx(area(0.0), rel=1e-7)
    assert tac.curve.integral_mbq_h(50.0) == pytest.approx(area(50.0), rel=1e-7)
    assert tac.extrapolated_fraction == pytest.approx(area(T1_TIMES_H[-1]) / tac.tia_mbq_h, rel=1e-6)


def test_trapezoid_passes_through_its_points_and_heads_as_told():
    constant = lu(T1_TIMES_H, T1_KIDNEY_MBQ, model="trapezoid")
    assert constant.residuals_mbq == pytest.approx([0] * 4, abs=1e-9)
    assert constant.activity(0.0) == pytest.approx(T1_KIDNEY_MBQ[0])
    assert lu(T1_TIMES_H, T1_KIDNEY_MBQ, model="trapezoid", head="zero").activity(0.0) == 0


def test_any_nuclide_may_be_given_and_sets_the_floor():
    short = Nuclide("X-1", 10.0, 1.0, 0.0, 0.0, {})
    times = [1.0, 5.0, 20.0]
    assert fit(times, np.exp2(np.array(times) / -50), nuclide=short, model="mono", uptake_limb="keep").nuclide == "X-1"
    assert fit(times, [1.0, 0.9, 0.8], nuclide=short, model="trapezoid").effective_half_life_h == pytest.approx(10.0)


def test_a_result_cannot_be_changed():
    with pytest.raises(AttributeError):
        lu(T1_TIMES_H, T1_KIDNEY_MBQ).tia_mbq_h = 0.0


# Bad input

GOOD = ([1.0, 24.0, 96.0, 168.0], [10.0, 9.0, 5.0, 2.0])


@pytest.mark.parametrize(
    ("times_h", "activity_mbq", "options", "message"),
    [
        (GOOD[0], [10.0, math.nan, 5.0, 2.0], {}, r"not finite at \[24.0\] h"),
        (GOOD[0], [10.0, 9.0, math.inf, 2.0], {}, r"not finite at \[96.0\] h"),
        (GOOD[0], [10.0, 9.0, -5.0, 2.0], {}, r"negative at \[96.0\] h"),
        (GOOD[0], [0.0] * 4, {}, "All activities are zero"),
        ([1.0, 24.0, 24.0, 168.0], GOOD[1], {}, "must increase"),
        ([24.0, 1.0, 96.0, 168.0], GOOD[1], {}, "must increase"),
        ([-1.0, 24.0, 96.0, 168.0], GOOD[1], {}, "must increase from 0"),
        ([1.0, math.nan, 96.0, 168.0], GOOD[1], {}, "Times are not all finite"),
        (GOOD[0][:3], GOOD[1], {}, "one activity per time"),
        ([], [], {}, "one activity per time"),
        (GOOD[0], [[1.0]] * 4, {}, "one value per time point"),
        (["a", "b"], [1.0, 2.0], {}, "must be numbers"),
        (GOOD[0][:2], GOOD[1][:2], {}, "needs at least 3 time points, found 2"),
        (GOOD[0][:3], GOOD[1][:3], {"model": "bi"}, "needs at least 4 time points, found 3"),
        (GOOD[0], GOOD[1], {"weights": [1, 1, 0, 0]}, "needs at least 3 time points, found 2"),
        (GOOD[0], GOOD[1], {"weights": [1, 1, -1, 1]}, "0 or above"),
        (GOOD[0], GOOD[1], {"weights": [1, 1]}, "4 finite numbers"),
        (GOOD[0], GOOD[1], {"weights": "best"}, "Unknown weights 'best'"),
        (GOOD[0], GOOD[1], {"sd_mbq": [1, 1, 0, 1]}, "not above 0"),
        (GOOD[0], GOOD[1], {"assumed_relative_sd": 0.0}, "assumed_relative_sd"),
        (GOOD[0], GOOD[1], {"model": "spline"}, "Unknown model 'spline'"),
        (GOOD[0], GOOD[1], {"model": "mono", "uptake_limb": "hide"}, "uptake_limb is 'hide'"),
        (GOOD[0], GOOD[1], {"model": "trapezoid", "tail": "none"}, "tail is 'none'"),
        (GOOD[0], GOOD[1], {"model": "population"}, "needs an effective half-life"),
        (GOOD[0], GOOD[1], {"model": "population", "population_half_life_h": 500.0}, "between 0 and 159.5 h"),
        (GOOD[0], GOOD[1], {"model": "hanscheid", "time_h": 50.0}, "no time point at 50.0 h"),
    ],
)
def test_bad_input_is_refused_by_name(times_h, activity_mbq, options, message):
    with pytest.raises(FitError, match=message):
        lu(times_h, activity_mbq, **options)
