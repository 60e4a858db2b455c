"""What is known of each nuclide, against the table of design/dosimetry.md (ICRP 107)."""

import math

import pytest

from doselabel.errors import DoseError
from doselabel.nuclides import NUCLIDES, Nuclide, nuclide

DESIGN_TABLE = [
    # name, half-life h, electrons keV, photons keV, local constant g·Gy/(GBq·h)
    ("Lu-177", 159.528, 147.92, 35.10, 85.32),
    ("Y-90", 64.10, 933.1, 0.0, 538.2),
    ("I-131", 8.0207 * 24, 191.85, 382.8, 110.65),
]


@pytest.mark.parametrize(("name", "half_life_h", "electron_kev", "photon_kev", "constant"), DESIGN_TABLE)
def test_constants_are_those_of_icrp_107(name, half_life_h, electron_kev, photon_kev, constant):
    found = nuclide(name)
    assert found.half_life_h == pytest.approx(half_life_h, rel=1e-6)
    assert found.electron_kev == pytest.approx(electron_kev, abs=0.05)
    assert found.photon_kev == pytest.approx(photon_kev, abs=0.05)
    assert found.local_constant_g_gy_per_gbq_h == pytest.approx(constant, abs=0.05)


def test_one_mbq_h_of_lu177_in_one_gram_gives_0_08532_gy():
    assert nuclide("Lu-177").local_constant_g_gy_per_gbq_h * 1e-3 == pytest.approx(0.08532, abs=5e-6)


@pytest.mark.parametrize("spelling", ["Lu-177", "177Lu", "lu177", "LU-177", "177-lu", " Lu 177 ", "177_Lu"])
def test_usual_spellings_name_the_same_nuclide(spelling):
    assert nuclide(spelling) is nuclide("Lu-177")


@pytest.mark.parametrize("spelling", ["Lu-176", "", "177", "lutetium", "Lu-177m"])
def test_an_unknown_nuclide_is_refused_with_the_known_ones_named(spelling):
    with pytest.raises(DoseError, match="Lu-177, Y-90, I-131") as caught:
        nuclide(spelling)
    assert caught.value.hint


def test_every_number_of_every_nuclide_has_a_source():
    for known in NUCLIDES:
        assert set(known.sources) == {"half_life_h", "beta_kev", "mono_kev", "photon_kev"}
        assert all(known.sources.values())


def test_decay_constant_halves_in_a_half_life():
    known = nuclide("Y-90")
    assert math.exp(-known.decay_constant_per_h * 64.1) == pytest.approx(0.5)


def test_a_nuclide_of_the_callers_own_is_accepted_as_it_is():
    own = Nuclide("Tb-161", 166.8, 154.0, 48.0, 36.0, {})
    assert nuclide(own) is own


@pytest.mark.parametrize("numbers", [(0.0, 1.0, 1.0, 1.0), (float("nan"), 1, 1, 1), (10.0, -1.0, 0, 0)])
def test_impossible_decay_data_are_refused(numbers):
    with pytest.raises(DoseError):
        Nuclide("X-1", *numbers, {})
