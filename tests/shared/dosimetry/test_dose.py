"""The three engines against arithmetic, direct summation, the conservation of energy, and published doses."""

import numpy as np
import pytest

from doselabel.dosimetry.dose import engines
from doselabel.dosimetry.physics.kernels import Ellipsoid, self_s_value, voxel_s_kernel
from doselabel.errors import DoseError, KernelError
from doselabel.nuclides import nuclide


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOSELABEL_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def kernel_for(shape, spacing_mm, name="Lu-177"):
    return voxel_s_kernel(name, spacing_mm, extent_mm=tuple(n * s for n, s in zip(shape, spacing_mm, strict=True)))


# --- voxel S ----------------------------------------------------------------------------------------------------------


def test_fft_convolution_equals_direct_summation_over_all_voxel_pairs():
    shape, spacing_mm = (5, 7, 6), (4.0, 2.0, 3.0)
    tia = np.random.default_rng(0).random(shape)
    kernel = kernel_for(shape, spacing_mm)
    s = kernel.octant_mgy_per_mbq_s.astype(float)
    expected = np.zeros(shape)
    for target in np.ndindex(shape):
        for source in np.ndindex(shape):
            offset = tuple(abs(t - q) for t, q in zip(target, source, strict=True))
            expected[target] += tia[source] * s[offset] * 3600 * 1e-3
    np.testing.assert_allclose(engines.voxel_s(tia, spacing_mm, kernel), expected, rtol=1e-5)


def test_nothing_wraps_around_the_border():
    shape, spacing_mm = (16, 16, 16), (4.0, 4.0, 4.0)
    tia = np.zeros(shape)
    tia[0, 0, 0] = 1.0
    found = engines.voxel_s(tia, spacing_mm, kernel_for(shape, spacing_mm))
    # In a circular convolution the opposite corner would be a diagonal neighbour.
    assert found[0, 0, 0] > found[1, 1, 1] > found[7, 7, 7] > found[15, 15, 15] > 0
    assert found[15, 15, 15] < 0.01 * found[1, 1, 1]


@pytest.mark.parametrize("name", ["Lu-177", "Y-90", "I-131"])
def test_energy_of_a_source_deep_in_a_large_image_is_conserved(name):
    shape, spacing_mm = (81, 81, 81), (22.0, 22.0, 22.0)
    tia = np.zeros(shape)
    tia[38:43, 40, 39:42] = 2.0
    found = engines.voxel_s(tia, spacing_mm, kernel_for(shape, spacing_mm, name)).astype(float)
    mass_g = 22.0**3 / 1e3 * 1.04
    data = nuclide(name)
    emitted_j = tia.sum() * 1e6 * 3600 * (data.electron_kev + data.photon_kev) * 1.602176634e-16
    assert (found * mass_g * 1e-3).sum() == pytest.approx(emitted_j, rel=0.005)


def test_a_large_uniform_organ_gets_the_local_dose_in_its_middle_plus_its_photons():
    shape, spacing_mm = (41, 41, 41), (4.0, 4.0, 4.0)
    tia = np.full(shape, 0.05)
    kernel = kernel_for(shape, spacing_mm)
    middle = (20, 20, 20)
    electrons = engines.local(tia, spacing_mm, "Lu-177")[middle]
    both = engines.voxel_s(tia, spacing_mm, kernel)[middle]
    # All the electrons (147.92 keV), and the photons that are absorbed within 8 cm: some 30 % of 35.1 keV.
    assert both / electrons == pytest.approx(1 + 0.3 * 35.1 / 147.92, abs=0.03)


def test_engine_agrees_with_the_exact_self_s_value_of_an_ellipsoid():
    spacing_mm = (5.0, 3.0, 4.0)
    z, y, x = np.mgrid[-9:10, -14:15, -11:12]
    mask = (z * 5.0 / 35) ** 2 + (y * 3.0 / 25) ** 2 + (x * 4.0 / 30) ** 2 <= 1
    tia = mask * (1000.0 / mask.sum())
    found = engines.voxel_s(tia, spacing_mm, kernel_for(mask.shape, spacing_mm))
    stretch = np.cbrt(mask.sum() * np.prod(spacing_mm) / 1e3 / Ellipsoid((35.0, 25.0, 30.0)).volume_ml)
    expected = 1000.0 * 3.6 * self_s_value(Ellipsoid((35 * stretch, 25 * stretch, 30 * stretch)), "Lu-177")
    assert found[mask].mean() == pytest.approx(expected, rel=5e-3)


def test_twice_the_density_halves_the_dose_of_a_voxel():
    shape, spacing_mm = (9, 9, 9), (4.0, 4.0, 4.0)
    tia = np.random.default_rng(2).random(shape)
    kernel = kernel_for(shape, spacing_mm)
    plain = engines.voxel_s(tia, spacing_mm, kernel)
    density = np.full(shape, kernel.density_g_cm3)
    density[4, 4, 4] *= 2
    density[0, 0, 0] = 0.0  # air: counts as 0.1 g/cm³
    scaled = engines.voxel_s(tia, spacing_mm, kernel, density_g_cm3=density)
    assert scaled[4, 4, 4] == pytest.approx(plain[4, 4, 4] / 2)
    assert scaled[0, 0, 0] == pytest.approx(plain[0, 0, 0] * kernel.density_g_cm3 / 0.1)
    np.testing.assert_allclose(scaled[1:4], plain[1:4], rtol=1e-6)


def test_no_activity_gives_no_dose_and_never_a_negative_one():
    shape, spacing_mm = (24, 20, 22), (4.0, 4.0, 4.0)
    kernel = kernel_for(shape, spacing_mm)
    assert not engines.voxel_s(np.zeros(shape), spacing_mm, kernel).any()
    tia = np.zeros(shape)
    tia[0, 0, 0] = 1e6
    assert engines.voxel_s(tia, spacing_mm, kernel).min() >= 0


# --- local ------------------------------------------------------------------------------------------------------------


def test_t2_one_mbq_h_of_lu177_in_one_gram_is_0_08532_gy():
    found = engines.local(np.ones((1, 1, 1)), 10.0, "Lu-177", density_g_cm3=1.0)
    assert found.item() == pytest.approx(0.08532, abs=5e-6)


@pytest.mark.parametrize(("density_g_cm3", "expected_gy"), [(1.00, 2.773), (1.04, 2.667), (1.06, 2.616)])
def test_t1_snmmi_left_kidney_local_electron_dose(density_g_cm3, expected_gy):
    # TIA 7593.7526 MBq·h in 233.608 mL, here spread over 64 voxels.
    edge_mm = (233_608 / 64) ** (1 / 3)
    tia = np.full((4, 4, 4), 7593.7526 / 64)
    found = engines.local(tia, edge_mm, "Lu-177", density_g_cm3=density_g_cm3)
    assert found.mean() == pytest.approx(expected_gy, abs=0.001)


# --- organ ------------------------------------------------------------------------------------------------------------

T9 = [("kidney", 310.0, 7.76e-5), ("liver", 1800.0, 1.37e-5), ("spleen", 150.0, 1.60e-4)]


@pytest.mark.parametrize(("name", "mass_g", "published"), T9)
def test_t9_an_organ_of_reference_mass_gets_the_published_s_value(name, mass_g, published):
    assert engines.organ_s(name, mass_g, "Lu-177").s_mgy_per_mbq_s == pytest.approx(published, rel=1e-9)
    assert engines.organ({name: 1000.0}, {name: mass_g}, "Lu-177")[name] == pytest.approx(3600 * published, rel=1e-9)


@pytest.mark.parametrize(("name", "mass_g", "published"), T9)
def test_t9_our_own_kernels_reproduce_the_published_organ_s_values_within_1_percent(name, mass_g, published):
    # An organ without a published value gets that of the equal-mass sphere: here for the organs that have one.
    own = engines.organ_s("tumour", mass_g, "Lu-177")
    assert own.s_mgy_per_mbq_s == pytest.approx(published, rel=0.01)


def test_left_and_right_kidney_take_the_kidneys_s_value_scaled_by_mass():
    found = engines.organ(
        {"left_kidney": 100.0, "right_kidney": 100.0}, {"left_kidney": 155, "right_kidney": 310}, "Lu-177"
    )
    assert found["right_kidney"] == pytest.approx(100 * 3.6 * 7.76e-5, rel=1e-9)
    assert found["left_kidney"] == pytest.approx(2 * found["right_kidney"], rel=1e-9)


def test_the_source_of_every_organ_s_value_is_told():
    assert "310 g" in engines.organ_s("left_kidney", 150.0, "Lu-177").source
    assert "sphere" in engines.organ_s("left_kidney", 150.0, "Y-90").source


# --- density ----------------------------------------------------------------------------------------------------------


def test_density_of_tissues_from_hu():
    # ICRU 46: adipose 0.95, muscle 1.05, liver 1.06 g/cm³; water 1.0; air 0.0012.
    hu = [-1024, -100, 0, 50, 60]
    np.testing.assert_allclose(engines.density_from_hu(hu), [0.0012, 0.93, 1.0, 1.05, 1.06], atol=0.025)
    steps = np.diff(engines.density_from_hu(np.arange(-1100, 2000)))
    assert (steps >= 0).all()


# --- refusal ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tia",
    [
        np.full((4, 4, 4), np.nan),
        np.full((4, 4, 4), np.inf),
        np.full((4, 4, 4), -1.0),
        np.ones((4, 4)),
        np.ones((0, 4, 4)),
    ],
)
def test_a_map_that_is_not_finite_non_negative_and_3d_is_refused(tia):
    kernel = kernel_for((4, 4, 4), (4.0, 4.0, 4.0))
    with pytest.raises(DoseError, match="tia_map_mbq_h"):
        engines.voxel_s(tia, 4.0, kernel)
    with pytest.raises(DoseError, match="tia_map_mbq_h"):
        engines.local(tia, 4.0, "Lu-177")


def test_a_kernel_of_another_voxel_size_is_refused():
    kernel = kernel_for((4, 4, 4), (4.0, 4.0, 4.0))
    with pytest.raises(DoseError, match="spacing_mm"):
        engines.voxel_s(np.ones((4, 4, 4)), (4.0, 4.0, 4.42), kernel)


def test_a_kernel_that_crops_the_photon_field_is_refused_with_the_extent_to_ask_for():
    kernel = voxel_s_kernel("Lu-177", 4.0, extent_mm=25)
    with pytest.raises(KernelError, match="left out") as caught:
        engines.voxel_s(np.ones((20, 20, 20)), 4.0, kernel)
    assert "extent_mm=(80.0, 80.0, 80.0)" in caught.value.hint


@pytest.mark.parametrize("density", [np.ones((3, 4, 4)), np.full((4, 4, 4), np.nan), -1.0, np.full((4, 4, 4), 300.0)])
def test_densities_that_do_not_fit_the_map_or_are_none_are_refused(density):
    kernel = kernel_for((4, 4, 4), (4.0, 4.0, 4.0))
    with pytest.raises(DoseError, match="density_g_cm3"):
        engines.voxel_s(np.ones((4, 4, 4)), 4.0, kernel, density_g_cm3=density)


@pytest.mark.parametrize(
    ("tia", "mass"), [({"liver": float("nan")}, {"liver": 1}), ({"liver": -1}, {"liver": 1}), ({"liver": 1}, {})]
)
def test_organ_engine_refuses_impossible_numbers(tia, mass):
    with pytest.raises(DoseError, match="liver"):
        engines.organ(tia, mass, "Lu-177")


@pytest.mark.parametrize("mass_g", [0.0, -3.0, float("nan")])
def test_organ_engine_refuses_an_organ_without_mass(mass_g):
    with pytest.raises(DoseError, match="mass_g of liver"):
        engines.organ({"liver": 1.0}, {"liver": mass_g}, "Lu-177")
