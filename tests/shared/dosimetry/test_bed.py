"""BED against the design's T7 and T1 and against the defining double integral."""

import math

import numpy as np
import pytest

from doselabel.dosimetry.curves.fit import fit
from doselabel.dosimetry.curves.models import Curve
from doselabel.dosimetry.dose.bed import KIDNEY, Radiobiology, bed_gy, bed_relative_sd, eqd2_gy, lea_catcheside_g
from doselabel.errors import DoseError
from doselabel.nuclides import nuclide

T1_TIMES_H = [3.74111, 27.72528, 103.09417, 123.98361]
T1_KIDNEY_MBQ = [98.561432, 73.599408, 25.39568, 19.04661]


def decay(half_life_h):
    return Curve((1.0,), (math.log(2) / half_life_h,))


def g_by_the_double_integral(curve, repair_half_life_h):
    """2/A² of the integral over t of A(t) h(t), h' = A - mu h, in small steps (midpoint for A, exact for h)."""
    mu, step = math.log(2) / repair_half_life_h, 0.002
    times = np.arange(0.0, 900.0, step) + step / 2
    activity = curve.activity_mbq(times)
    keep = math.exp(-mu * step)
    source = activity * (1 - keep) / mu
    from scipy.signal import lfilter

    unrepaired = lfilter([1.0], [1.0, -keep], source)
    at_midpoint = (unrepaired + np.concatenate([[0.0], unrepaired[:-1]])) / 2
    return 2 * np.sum(activity * at_midpoint) * step / (np.sum(activity) * step) ** 2


def test_t7_bed_and_eqd2():
    bed = bed_gy(10.0, lea_catcheside_g(decay(50.0), 2.8), 2.6)
    assert bed == pytest.approx(12.040, abs=5e-4)
    assert eqd2_gy(bed, 2.6) == pytest.approx(6.805, abs=5e-4)


def test_kidney_defaults_are_those_of_mird_20():
    assert (KIDNEY.alpha_beta_gy, KIDNEY.repair_half_life_h) == (2.6, 2.8)


def test_one_exponential_gives_the_textbook_factor():
    for half_life_h in (1.0, 50.0, 159.5):
        assert lea_catcheside_g(decay(half_life_h), 2.8) == pytest.approx(2.8 / (2.8 + half_life_h))


def test_no_repair_leaves_all_damage_and_instant_repair_none():
    curve = fit(T1_TIMES_H, T1_KIDNEY_MBQ, nuclide="Lu-177").curve
    assert lea_catcheside_g(curve, 1e9) == pytest.approx(1.0, abs=1e-5)
    assert lea_catcheside_g(curve, 1e-6) == pytest.approx(0.0, abs=1e-5)


@pytest.mark.parametrize(
    "options", [{}, {"model": "bi"}, {"model": "trapezoid"}, {"model": "trapezoid", "head": "zero"}]
)
def test_factor_of_any_fitted_curve_is_the_double_integral(options):
    curve = fit(T1_TIMES_H, T1_KIDNEY_MBQ, nuclide="Lu-177", **options).curve
    assert lea_catcheside_g(curve, 2.8) == pytest.approx(g_by_the_double_integral(curve, 2.8), rel=1e-5)


def test_an_uptake_phase_spares_more_than_its_slow_phase_alone():
    tac = fit(T1_TIMES_H, T1_KIDNEY_MBQ, nuclide="Lu-177")
    assert lea_catcheside_g(tac.curve, 2.8) < lea_catcheside_g(decay(tac.effective_half_life_h), 2.8)


def test_t1_bed_of_2897_is_that_of_a_dose_with_its_photons():
    """The design's 2.897 Gy is the BED of 2.742 Gy: 2.8 % above the electrons' 2.667 Gy at 1.04 g/cm³.

    Electrons alone give 2.931, 2.814 and 2.757 Gy at the three densities of T1.
    """
    tac = fit(T1_TIMES_H, T1_KIDNEY_MBQ, nuclide="Lu-177")
    g = lea_catcheside_g(tac.curve, 2.8)
    electrons_gy = tac.tia_mbq_h / 1e3 * nuclide("Lu-177").local_constant_g_gy_per_gbq_h / 233.608
    for density, expected in ((1.00, 2.9315), (1.04, 2.8135), (1.06, 2.7570)):
        assert bed_gy(electrons_gy / density, g, 2.6) == pytest.approx(expected, abs=1e-3)
    assert bed_gy(2.742, g, 2.6) == pytest.approx(2.897, abs=5e-4)
    assert 1.02 < 2.742 / (electrons_gy / 1.04) < 1.03


def test_maps_are_computed_voxel_by_voxel():
    dose = np.array([[0.0, 1.0], [2.0, 10.0]])
    np.testing.assert_allclose(bed_gy(dose, 0.05, 2.6), dose * (1 + 0.05 * dose / 2.6))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: bed_gy(-1.0, 0.05, 2.6), "not negative"),
        (lambda: bed_gy([1.0, math.nan], 0.05, 2.6), "finite"),
        (lambda: bed_gy(1.0, 0.05, 0.0), "alpha_beta_gy"),
        (lambda: eqd2_gy(1.0, -2.0), "alpha_beta_gy"),
        (lambda: lea_catcheside_g(decay(50.0), 0.0), "repair_half_life_h"),
        (lambda: Radiobiology(2.6, math.inf), "repair_half_life_h"),
        (lambda: Radiobiology(0.0, 2.8), "alpha_beta_gy"),
    ],
)
def test_bad_input_is_refused_by_name(call, message):
    with pytest.raises(DoseError, match=message):
        call()


def test_the_uncertainty_of_a_bed_is_what_drawn_doses_and_half_lives_scatter_by():
    rng, n = np.random.default_rng(2), 4000
    doses, half_lives = 6.0 * np.exp(0.1 * rng.standard_normal(n)), 50.0 * np.exp(0.15 * rng.standard_normal(n))
    drawn = [float(bed_gy(d, lea_catcheside_g(decay(t), 2.8), 2.6)) for d, t in zip(doses, half_lives, strict=True)]
    stated = bed_relative_sd(6.0, lea_catcheside_g(decay(50.0), 2.8), 2.6, 0.1, 0.15)
    assert stated == pytest.approx(np.std(np.log(drawn)), rel=0.05)
    assert stated > 0.1
    assert bed_relative_sd(1e-6, 0.05, 2.6, 0.1, 0.15) == pytest.approx(0.1, rel=1e-4)
