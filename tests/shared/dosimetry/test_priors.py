"""Half-lives known before an organ's own scans: by population, other organs and earlier cycles; what they are worth."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.bench_prior import ONE_H, TWO_H, compare
from doselabel.dosimetry import pipeline
from doselabel.dosimetry.cache import Cache
from doselabel.dosimetry.curves import choice
from doselabel.dosimetry.curves.choice import fit_organ
from doselabel.dosimetry.curves.fit import fit
from doselabel.dosimetry.failures import Failures, OrganFailures
from doselabel.dosimetry.options import DoseOptions
from doselabel.dosimetry.priors import BETWEEN_CYCLES_RELATIVE_SD, half_lives_h, known_of, with_earlier_cycles
from doselabel.errors import DoseError, FitError
from doselabel.wire import DoseResults, DvhCurve, HalfLife, HalfLifePrior, OrganDose, TimeActivity

POPULATION = DoseOptions(
    half_life_prior="patient",
    population_half_life_h={"left_kidney": 50.0, "liver": 64.0},
    population_half_life_sd_h={"left_kidney": 10.0, "liver": 12.8},
)


def cycle(half_life_h: float, relative_sd: float | None = 0.05, *, model: str = "mono", nuclide: str = "Lu-177"):
    rate = math.log(2) / half_life_h
    tac = TimeActivity(
        model=model, parameters={"amplitude_mbq": 1.0, "lambda1_per_h": rate},
        parameter_sd={} if relative_sd is None else {"lambda1_per_h": relative_sd * rate}, time_h=[24, 72, 120],
        activity_mbq=[3, 2, 1], residual_mbq=[0, 0, 0], curve_time_h=[0], curve_activity_mbq=[1],
        extrapolated_fraction=0.2, degrees_of_freedom=1,
    )  # fmt: skip
    organ = OrganDose(
        volume_ml=150, density_g_cm3=1.06, mass_g=159, activity_mbq=[3, 2, 1], tia_mbq_h=100, tia_sd_mbq_h=5,
        effective_half_life_h=half_life_h, mean_dose_gy=4, dose_sd_gy=0.5, dose_gy_by_engine={}, dose_gy_per_gbq=0.5,
        dvh=DvhCurve(dose_gy=[0], volume_percent=[100], d_gy={}, min_gy=0, max_gy=1, mean_gy=1), tac=tac,
    )  # fmt: skip
    return DoseResults(
        patient_id="P", nuclide=nuclide, injected_activity_mbq=7400, time_h=[24, 72, 120],
        organs={"left_kidney": organ}, options={}, provenance={},
    )  # fmt: skip


def next_cycle(*earlier: DoseResults) -> HalfLifePrior:
    """What earlier cycles alone say of the kidney's half-life in the next."""
    known = known_of("left_kidney", {}, with_earlier_cycles(DoseOptions(), earlier, "Lu-177"), "Lu-177")
    assert known is not None
    return known


def test_one_cycle_gives_its_half_life_with_its_error_and_twice_the_variation_between_cycles() -> None:
    known = next_cycle(cycle(50.0))
    assert known.half_life_h == pytest.approx(50.0, rel=1e-3)
    assert known.sd_h / known.half_life_h == pytest.approx(math.sqrt(0.05**2 + 2 * 0.10**2), rel=1e-3)
    assert BETWEEN_CYCLES_RELATIVE_SD == 0.10


def test_many_cycles_leave_the_variation_of_the_next() -> None:
    known = next_cycle(*(cycle(t) for t in (40.0, 62.5) * 50))
    assert known.half_life_h == pytest.approx(50.0, rel=1e-3)
    assert known.sd_h / known.half_life_h == pytest.approx(BETWEEN_CYCLES_RELATIVE_SD, rel=0.02)


def test_single_scans_and_undetermined_fits_do_not_count() -> None:
    assert half_lives_h([cycle(50.0, model="hanscheid"), cycle(70.0, None)]) == {}
    with pytest.raises(DoseError, match="No effective half-life"):
        with_earlier_cycles(DoseOptions(), [cycle(70.0, None)], "Lu-177")
    with pytest.raises(DoseError, match="I-131"):
        with_earlier_cycles(DoseOptions(), [cycle(50.0, nuclide="I-131")], "Lu-177")


def test_a_cycle_that_was_weighed_hands_on_what_its_own_scans_said() -> None:
    one = cycle(50.0)
    prior = HalfLifePrior(half_life_h=60, sd_h=6, sources={}, own=HalfLife(half_life_h=40.0, sd_h=2.0))
    organ = one.organs["left_kidney"]
    weighed = organ.model_copy(update={"tac": organ.tac.model_copy(update={"half_life_prior": prior})})
    assert half_lives_h([one.model_copy(update={"organs": {"left_kidney": weighed}})])["left_kidney"].half_life_h == 40


def test_what_is_stated_of_earlier_cycles_goes_before_what_is_read() -> None:
    options = with_earlier_cycles(DoseOptions(), [cycle(50.0), cycle(52.0)], "Lu-177")
    assert options.earlier_half_life_h["left_kidney"] == pytest.approx(51.0, rel=0.01)
    assert options.half_life_prior == "patient"
    assert "2 earlier cycles" in options.half_life_source
    stated = DoseOptions(earlier_half_life_h={"left_kidney": 60.0}, earlier_half_life_sd_h={"left_kidney": 15.0})
    kept = with_earlier_cycles(stated, [cycle(50.0)], "Lu-177")
    assert kept.earlier_half_life_h == {"left_kidney": 60.0}
    assert kept.earlier_half_life_sd_h == {"left_kidney": 15.0}


def test_another_organ_moves_a_half_life_as_two_correlated_normals_say() -> None:
    """Both spread by 20 %, half of the variance in common: covariance 0.02; the liver was found with 10 %."""
    known = known_of("left_kidney", {"liver": HalfLife(half_life_h=80.0, sd_h=8.0)}, POPULATION, "Lu-177")
    assert known is not None
    weight = 0.02 / (0.04 + 0.01)
    assert math.log(known.half_life_h / 50.0) == pytest.approx(weight * math.log(80.0 / 64.0))
    assert (known.sd_h / known.half_life_h) ** 2 == pytest.approx(0.04 - 0.02 * weight)
    assert set(known.sources) == {"population", "liver, this cycle"}
    assert known.sources["liver, this cycle"].half_life_h == 80.0


def test_organs_that_share_nothing_say_nothing_and_the_own_scans_are_left_to_the_fit() -> None:
    found = {"liver": HalfLife(half_life_h=80.0, sd_h=8.0), "left_kidney": HalfLife(half_life_h=90.0, sd_h=1.0)}
    apart = POPULATION.model_copy(update={"half_life_shared": 0.0})
    known = known_of("left_kidney", found, apart, "Lu-177")
    assert known is not None
    assert (known.half_life_h, known.sd_h) == (pytest.approx(50.0), pytest.approx(10.0))
    assert set(known.sources) == {"population"}
    assert known_of("spleen", found, POPULATION, "Lu-177") is None  # neither a population nor cycles of its own
    assert known_of("left_kidney", {}, DoseOptions(), "Lu-177") is None


def test_population_and_earlier_cycles_weigh_by_their_variances() -> None:
    """The kidney's own part varies by 20 % · √½ between patients, 10 % of it by cycle; earlier cycles have 5 %."""
    options = POPULATION.model_copy(
        update={"earlier_half_life_h": {"left_kidney": 70.0}, "earlier_half_life_sd_h": {"left_kidney": 3.5}}
    )
    known = known_of("left_kidney", {}, options, "Lu-177")
    assert known is not None
    weight = 0.03 / (0.03 + 0.05**2)  # of 0.04 between patients 0.01 changes by cycle
    assert math.log(known.half_life_h / 50.0) == pytest.approx(weight * math.log(70.0 / 50.0))
    assert (known.sd_h / known.half_life_h) ** 2 == pytest.approx(0.04 - 0.03 * weight)


def two_points(half_life_h: float, known: tuple[float, float] | None):
    """Scans at 24 and 96 h with 5 % noise each, of a curve with this half-life."""
    activity = [100 * 0.5 ** (t / half_life_h) for t in (24.0, 96.0)]
    sd = [0.05 * a for a in activity]
    return fit([24.0, 96.0], activity, nuclide="Lu-177", model="mono", sd_mbq=sd, known_half_life=known)


def test_a_weighed_curve_is_the_most_probable_one_of_the_whole_posterior() -> None:
    found = two_points(70.0, (50.0, 0.15))
    log_a, log_t = np.meshgrid(
        np.linspace(math.log(60), math.log(200), 1201), np.linspace(math.log(30), math.log(150), 1201), indexing="ij"
    )
    chi = ((log_t - math.log(50.0)) / 0.15) ** 2
    for t in (24.0, 96.0):
        measured = 100 * 0.5 ** (t / 70.0)
        chi += ((np.exp(log_a) * 0.5 ** (t / np.exp(log_t)) - measured) / (0.05 * measured)) ** 2
    best = np.unravel_index(np.argmin(chi), chi.shape)
    assert found.effective_half_life_h == pytest.approx(float(np.exp(log_t[best])), rel=2e-3)
    assert 50 < found.effective_half_life_h < 70
    likely = np.exp(-0.5 * (chi - chi.min()))
    log_tia = log_a + log_t
    mean = float(np.average(log_tia, weights=likely))
    sd = math.sqrt(float(np.average((log_tia - mean) ** 2, weights=likely)))
    assert found.tia_sd_mbq_h / found.tia_mbq_h == pytest.approx(sd, rel=0.05)
    assert math.log(found.tia_mbq_h * math.log(2)) == pytest.approx(mean, abs=0.01)
    spread = math.sqrt(float(np.average((log_t - np.average(log_t, weights=likely)) ** 2, weights=likely)))
    assert found.cv["lambda1_per_h"] == pytest.approx(spread, rel=0.05)


def test_a_vague_prior_leaves_the_points_and_a_sharp_one_the_half_life() -> None:
    assert two_points(70.0, (50.0, 10.0)).tia_mbq_h == pytest.approx(two_points(70.0, None).tia_mbq_h, rel=1e-3)
    sharp = two_points(70.0, (50.0, 1e-4))
    assert sharp.effective_half_life_h == pytest.approx(50.0, rel=1e-4)
    assert two_points(159.0, (158.0, 0.3)).effective_half_life_h <= 159.528 * (1 + 1e-9)
    wider = two_points(70.0, None)
    assert two_points(70.0, (70.0, 0.15)).tia_sd_mbq_h < wider.tia_sd_mbq_h


def test_one_scan_takes_the_half_life_known_and_its_sd_and_still_needs_its_time() -> None:
    prior = HalfLifePrior(half_life_h=60.0, sd_h=6.0, sources={})
    found = fit_organ("left_kidney", [72.0], [10.0], "Lu-177", DoseOptions(), prior=prior).fit
    rate = math.log(2) / 60.0
    assert found.tia_mbq_h == pytest.approx(10.0 * math.exp(rate * 72) / rate)
    sharp = HalfLifePrior(half_life_h=60.0, sd_h=0.06, sources={})
    one = fit_organ("left_kidney", [72.0], [10.0], "Lu-177", DoseOptions(), prior=sharp).fit
    assert one.method_sd_mbq_h / one.tia_mbq_h == pytest.approx(abs(1 - rate * 72) * 0.001, rel=0.03)
    assert 80 * one.method_sd_mbq_h < found.method_sd_mbq_h < 120 * one.method_sd_mbq_h
    with pytest.raises(FitError, match=r"0\.75"):
        fit_organ("left_kidney", [24.0], [10.0], "Lu-177", DoseOptions(), prior=prior)


def curves_of(options: DoseOptions, scans: int = 2):
    """Curves of a kidney (true half-life 70 h) and a liver (80 h) by the chain's own step, from scans of 5 % noise."""
    times, true = (24.0, 96.0)[-scans:], {"left_kidney": 70.0, "liver": 80.0}
    uptakes = [
        SimpleNamespace(
            activity=SimpleNamespace(activity_mbq={n: 100 * 0.5 ** (t / h) for n, h in true.items()}),
            noise=lambda name: 0.05,
        )
        for t in times
    ]
    lutetium, store = SimpleNamespace(name="Lu-177"), Cache(None)
    case = SimpleNamespace(times_h=list(times), nuclide=lutetium, options=options, store=store)
    return pipeline._curves(case, tuple(true), uptakes, Failures())  # type: ignore[arg-type]


def test_the_chain_weighs_each_organ_with_the_population_and_the_others() -> None:
    alone, weighed = curves_of(POPULATION.model_copy(update={"half_life_prior": "none"})), curves_of(POPULATION)
    for name, population_h in (("left_kidney", 50.0), ("liver", 64.0)):
        assert alone[name].prior is None
        prior = weighed[name].prior
        assert prior is not None
        assert prior.own is not None
        assert prior.own.half_life_h == pytest.approx(alone[name].fit.effective_half_life_h)
        between = sorted((prior.half_life_h, prior.own.half_life_h))
        assert population_h < between[0] < weighed[name].fit.effective_half_life_h < between[1]
        said = choice.described(weighed[name]).half_life_prior
        assert said is not None
        assert set(said.sources) == {"population", f"{'liver' if name == 'left_kidney' else 'left kidney'}, this cycle"}


def test_one_scan_is_weighed_by_what_is_known_and_fails_where_nothing_is() -> None:
    single = curves_of(POPULATION, scans=1)
    assert single["liver"].fit.effective_half_life_h == pytest.approx(64.0)
    assert single["liver"].prior is not None
    assert single["liver"].prior.own is None
    assert single["left_kidney"].fit.model == "population"
    with pytest.raises(OrganFailures) as caught:
        curves_of(DoseOptions(half_life_prior="patient", population_half_life_h={"liver": 64.0}), scans=1)
    assert set(caught.value.reasons) == {"left_kidney"}
    assert "half-life" in str(caught.value.reasons["left_kidney"])


def test_two_scans_are_worth_more_with_the_population_and_the_other_organs() -> None:
    alone, weighed = compare(TWO_H, 0.5, 40, seed=3)
    assert np.mean(weighed.error**2) < 0.9 * np.mean(alone.error**2)
    assert np.median(weighed.sd) < np.median(alone.sd)
    assert np.mean(np.abs(weighed.error / weighed.sd) < 2) >= 0.92


def test_one_scan_is_worth_more_with_an_earlier_cycle() -> None:
    alone, weighed = compare(ONE_H, 0.5, 40, seed=3)
    assert np.mean(weighed.error**2) < 0.9 * np.mean(alone.error**2)
    assert np.median(weighed.sd) < 0.9 * np.median(alone.sd)
    assert math.sqrt(np.mean((weighed.error / weighed.sd) ** 2)) < 1.2
