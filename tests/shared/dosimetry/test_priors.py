"""Half-lives from a patient's earlier cycles: their mean, their spread, and what can't serve."""

from __future__ import annotations

import math

import pytest

from doselabel.dosimetry.curves.fit import fit
from doselabel.dosimetry.options import DoseOptions
from doselabel.dosimetry.priors import BETWEEN_CYCLES_RELATIVE_SD, half_lives_h, with_earlier_cycles
from doselabel.errors import DoseError
from doselabel.wire import DoseResults, DvhCurve, OrganDose, TimeActivity


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


def test_one_cycle_gives_its_half_life_with_its_error_and_twice_the_variation_between_cycles() -> None:
    value, sd = half_lives_h([cycle(50.0)])["left_kidney"]
    assert value == pytest.approx(50.0)
    assert sd / value == pytest.approx(math.sqrt(0.05**2 + 2 * BETWEEN_CYCLES_RELATIVE_SD**2))


def test_many_cycles_leave_the_variation_of_the_next() -> None:
    value, sd = half_lives_h([cycle(t) for t in (40.0, 62.5) * 50])["left_kidney"]
    assert value == pytest.approx(50.0)
    assert sd / value == pytest.approx(BETWEEN_CYCLES_RELATIVE_SD, rel=0.02)


def test_single_scans_and_undetermined_fits_do_not_count() -> None:
    assert half_lives_h([cycle(50.0, model="hanscheid"), cycle(70.0, None)]) == {}
    with pytest.raises(DoseError, match="No effective half-life"):
        with_earlier_cycles(DoseOptions(), [cycle(70.0, None)], "Lu-177")
    with pytest.raises(DoseError, match="I-131"):
        with_earlier_cycles(DoseOptions(), [cycle(50.0, nuclide="I-131")], "Lu-177")


def test_what_is_stated_goes_before_and_a_single_scan_is_then_known_better() -> None:
    options = with_earlier_cycles(DoseOptions(), [cycle(50.0), cycle(52.0)], "Lu-177")
    assert options.population_half_life_h["left_kidney"] == pytest.approx(51.0, rel=0.01)
    assert "2 earlier cycles" in options.half_life_source
    stated = DoseOptions(population_half_life_h={"left_kidney": 60.0}, population_half_life_sd_h={"left_kidney": 15.0})
    kept = with_earlier_cycles(stated, [cycle(50.0)], "Lu-177")
    assert kept.population_half_life_h == {"left_kidney": 60.0}
    assert kept.population_half_life_sd_h == {"left_kidney": 15.0}

    def relative_sd(half_life_h: float, sd_h: float) -> float:
        found = fit([100.0], [10.0], nuclide="Lu-177", model="hanscheid", population_half_life_h=half_life_h,
                    population_half_life_sd_h=sd_h)  # fmt: skip
        return found.method_sd_mbq_h / found.tia_mbq_h

    own, others = options.population_half_life_sd_h["left_kidney"], 0.25 * 51.0
    assert relative_sd(51.0, own) < 0.7 * relative_sd(51.0, others)
