"""Voxel and self-dose S-values: energy, published values, independent integration, the cache, bad input."""

import dataclasses
import hashlib
import json

import numpy as np
import pytest

from doselabel.dosimetry.dose.engines import voxel_s
from doselabel.dosimetry.physics import kernels, radial
from doselabel.dosimetry.physics.kernels import Ellipsoid, self_s_value, sphere, voxel_s_kernel
from doselabel.errors import DoseError, KernelError
from doselabel.nuclides import nuclide

KEV_PER_MBQ_S = 1.602176634e-16 * 1e3 * 1e6  # mGy·kg/(MBq·s) of 1 keV per decay

VOXEL_SIZES_MM = [(4.42, 4.42, 4.42), (2.21, 2.21, 2.21), (5.0, 3.9, 3.9), (1.5, 3.0, 2.0), (9.28, 9.28, 9.28)]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DOSELABEL_CACHE", str(tmp_path))
    return tmp_path


def energy_kev(kernel):
    """Σ S·m over the whole kernel in keV per decay, from nothing but its values."""
    values = kernel.values_mgy_per_mbq_s.astype(float)
    mass_kg = np.prod(kernel.spacing_mm) * 1e-6 * kernel.density_g_cm3
    return values.sum() * mass_kg / KEV_PER_MBQ_S


def sampled_energy_kev(name, h, offset, n=2_000_000, density=1.04):
    """Energy per decay from one voxel to another by Monte Carlo over the radial kernel: nothing of the reduction."""
    rng = np.random.default_rng(1)
    total = 0.0
    for shells in radial.load_radial(name, "soft_tissue", density).shells.values():
        cumulative = np.concatenate([[0.0], np.cumsum(shells.energy_kev)])
        r = np.interp(rng.random(n) * cumulative[-1], cumulative, shells.edges_mm)
        u = rng.normal(size=(n, 3))
        end = rng.random((n, 3)) * h + u * (r / np.linalg.norm(u, axis=1))[:, None]
        hits = np.all(np.abs(np.floor(end / h)) == offset, axis=1)
        total += cumulative[-1] * hits.mean() / 2 ** np.count_nonzero(offset)
    return total


# --- T3: energy -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spacing_mm", VOXEL_SIZES_MM)
@pytest.mark.parametrize("name", ["Lu-177", "Y-90", "I-131"])
def test_t3_emitted_energy_is_found_again_in_the_voxels(name, spacing_mm):
    kernel = voxel_s_kernel(name, spacing_mm, extent_mm=150)
    data, energy = nuclide(name), kernel.energy
    electrons = energy.electron_inside_kev + energy.electron_outside_kev
    photons = energy.photon_inside_kev + energy.photon_outside_kev
    assert electrons == pytest.approx(data.electron_kev, rel=0.01)
    assert photons == pytest.approx(data.photon_kev, rel=0.01, abs=0.1)
    assert energy_kev(kernel) == pytest.approx(energy.electron_inside_kev + energy.photon_inside_kev, rel=1e-4)
    # What the point kernel deposits is what the voxels hold plus what leaves the box: geometry loses nothing.
    deposited = {c: s.energy_kev.sum() for c, s in radial.load_radial(name).shells.items()}
    assert electrons == pytest.approx(deposited["electron"], rel=2e-3)
    assert photons == pytest.approx(deposited["photon"], rel=2e-3)


@pytest.mark.parametrize("spacing_mm", VOXEL_SIZES_MM)
def test_t3_the_voxels_of_y90_hold_its_electron_energy(spacing_mm):
    # Y-90 emits no photons worth counting, so the sum of the bare values is the electrons alone.
    kernel = voxel_s_kernel("Y-90", spacing_mm, extent_mm=300)
    assert energy_kev(kernel) == pytest.approx(933.1, rel=0.01)


def test_the_whole_photon_field_of_lu177_lies_in_a_spect_sized_kernel():
    kernel = voxel_s_kernel("Lu-177", 4.42, extent_mm=128 * 4.42)
    assert energy_kev(kernel) == pytest.approx(147.92 + 35.10, rel=0.005)
    assert kernel.energy.outside_fraction < 0.001


# --- T4, T5 and other published values --------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "published"), [("Y-90", 1.61), ("I-131", 0.920)])
def test_t4_centre_voxel_of_3_mm_agrees_with_mird_17_within_5_percent(name, published):
    kernel = voxel_s_kernel(name, 3.0, extent_mm=30)
    assert kernel.values_mgy_per_mbq_s[10, 10, 10] == pytest.approx(published, rel=0.05)


def test_centre_voxel_of_lu177_at_4_8_mm_lies_where_two_independent_monte_carlo_codes_put_it():
    kernel = voxel_s_kernel("Lu-177", 4.8, density_g_cm3=1.0, extent_mm=20)
    assert 0.1925 <= kernel.octant_mgy_per_mbq_s[0, 0, 0] <= 0.20


@pytest.mark.parametrize(
    ("mass_g", "published"), [(0.932, 2.49e-2), (4.31, 5.46e-3), (34.5, 6.93e-4), (116, 2.07e-4), (932, 2.65e-5)]
)
def test_t5_uniform_lu177_spheres_agree_with_published_s_values_within_1_percent(mass_g, published):
    s = self_s_value(sphere(mass_g / 1.03), "Lu-177", density_g_cm3=1.03)
    assert s == pytest.approx(published, rel=0.01)


# --- the reduction against something else -----------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [(0, 0, 0), (1, 0, 0), (0, 1, 1)])
@pytest.mark.parametrize(("name", "h"), [("Lu-177", (2.0, 1.0, 3.0)), ("Y-90", (4.0, 3.0, 2.0))])
def test_s_of_an_anisotropic_voxel_agrees_with_monte_carlo_over_voxel_pairs(name, h, offset):
    kernel = voxel_s_kernel(name, h, extent_mm=30)
    expected = sampled_energy_kev(name, h, offset) / (np.prod(h) * 1.04e-6) * KEV_PER_MBQ_S
    # 2 million histories: one standard deviation is 0.1 % at the centre, 0.8 % at the rarest of these offsets.
    assert kernel.octant_mgy_per_mbq_s[offset] == pytest.approx(expected, rel=0.015)


def test_near_and_far_field_meet_without_a_step():
    s = voxel_s_kernel("Lu-177", 4.0, extent_mm=80).octant_mgy_per_mbq_s[0, 0].astype(float)
    r = np.arange(4, 20)
    smooth = np.log(s[4:20] * r**2)
    assert np.abs(np.diff(smooth, 2)).max() < 0.02


def test_a_kernel_is_odd_shaped_even_along_every_axis_and_highest_in_the_middle():
    kernel = voxel_s_kernel("177Lu", (4.0, 2.0, 3.0), extent_mm=(12, 10, 9))
    values = kernel.values_mgy_per_mbq_s
    assert values.shape == kernel.shape == (7, 11, 7)
    for axis in range(3):
        np.testing.assert_array_equal(values, np.flip(values, axis))
    assert np.unravel_index(values.argmax(), values.shape) == (3, 5, 3)
    assert (values > 0).all()


def test_swapping_axes_of_the_voxel_swaps_axes_of_the_kernel():
    a = voxel_s_kernel("I-131", (4.0, 2.0, 3.0), extent_mm=24).octant_mgy_per_mbq_s
    b = voxel_s_kernel("I-131", (2.0, 3.0, 4.0), extent_mm=24).octant_mgy_per_mbq_s
    np.testing.assert_allclose(a, b.transpose(2, 0, 1), rtol=0.01)


def test_a_larger_extent_leaves_the_common_offsets_unchanged():
    small = voxel_s_kernel("Lu-177", 4.0, extent_mm=40).octant_mgy_per_mbq_s
    large = voxel_s_kernel("Lu-177", 4.0, extent_mm=120).octant_mgy_per_mbq_s
    np.testing.assert_array_equal(small, large[:11, :11, :11])


def mask_self_s(mask, spacing_mm, name):
    """S of a uniform source in the voxels of a mask to itself, by the voxel engine, mGy/(MBq·s)."""
    extent = [n * s for n, s in zip(mask.shape, spacing_mm, strict=True)]
    dose_gy = voxel_s(mask / mask.sum(), spacing_mm, voxel_s_kernel(name, spacing_mm, extent_mm=extent))
    return float(dose_gy[mask].mean(dtype=float)) / 3.6


def test_s_of_a_large_cube_of_voxels_is_that_of_one_large_voxel():
    big = voxel_s_kernel("Y-90", 12.0, extent_mm=0).octant_mgy_per_mbq_s[0, 0, 0]
    cube = mask_self_s(np.ones((6, 4, 3), bool), (2.0, 3.0, 4.0), "Y-90")
    assert cube == pytest.approx(float(big), rel=2e-3)


def test_a_voxelised_sphere_has_the_self_dose_of_the_sphere():
    z, y, x = np.mgrid[-12:13, -12:13, -12:13] * 2.0
    mask = np.pad(z**2 + y**2 + x**2 <= 22.0**2, 3)
    volume_ml = mask.sum() * 8e-3
    exact = self_s_value(sphere(volume_ml), "Lu-177")
    assert mask_self_s(mask, (2.0, 2.0, 2.0), "Lu-177") == pytest.approx(exact, rel=5e-3)


def test_a_long_ellipsoid_keeps_less_of_its_photons_than_the_sphere_of_its_volume():
    long = Ellipsoid((60.0, 15.0, 15.0))
    ball = sphere(long.volume_ml)
    for name in ("Lu-177", "I-131"):
        assert self_s_value(long, name) < self_s_value(ball, name)
    assert self_s_value(Ellipsoid((15.0, 60.0, 15.0)), "I-131") == pytest.approx(self_s_value(long, "I-131"), rel=1e-3)


def test_self_dose_of_a_tiny_and_a_huge_sphere_tend_to_none_and_to_all_of_the_energy():
    tiny, huge = sphere(1e-4), Ellipsoid((900.0, 900.0, 900.0))
    kept = {s: self_s_value(s, "Y-90") * s.volume_ml * 1.04e-3 / KEV_PER_MBQ_S for s in (tiny, huge)}
    assert kept[tiny] < 0.1 * 933.1
    assert kept[huge] == pytest.approx(933.1, rel=0.01)


def test_density_stretches_distances_and_nothing_else():
    # At twice the density all distances halve: the same voxel in g/cm² has the same absorbed fractions.
    thin = voxel_s_kernel("Lu-177", 4.0, density_g_cm3=1.0, extent_mm=40)
    dense = voxel_s_kernel("Lu-177", 2.0, density_g_cm3=2.0, extent_mm=20)
    ratio = dense.octant_mgy_per_mbq_s / thin.octant_mgy_per_mbq_s
    np.testing.assert_allclose(ratio, 4.0, rtol=5e-3)  # mass of the voxel: 8 mm³ × 2 instead of 64 mm³ × 1


def test_soft_tissue_is_icru_tissue_for_lu177_and_water_for_the_others():
    assert voxel_s_kernel("Lu-177", 4.0, extent_mm=8).material == "icru4"
    assert voxel_s_kernel("I-131", 4.0, extent_mm=8).provenance["material"] == "water"
    tissue, water = (self_s_value(sphere(150.0), "Lu-177", medium=m) for m in ("soft_tissue", "water"))
    assert tissue == pytest.approx(water, rel=0.005)


# --- refusal ----------------------------------------------------------------------------------------------------------


def test_a_radial_kernel_that_lost_six_percent_of_its_energy_is_refused(tmp_path, monkeypatch):
    data = tmp_path / "data"
    data.mkdir()
    shipped = radial.resources.files("doselabel.dosimetry.physics") / "data"
    arrays = dict(np.load(str(shipped / "dpk_Lu-177_icru4.npz")))
    arrays["beta_E_keV_per_decay"] = arrays["beta_E_keV_per_decay"] * 0.94
    np.savez(data / "dpk_Lu-177_icru4.npz", **arrays)
    index = json.loads((shipped / "index.json").read_text("utf-8"))
    index["kernels"][0]["sha256"] = hashlib.sha256((data / "dpk_Lu-177_icru4.npz").read_bytes()).hexdigest()
    (data / "index.json").write_text(json.dumps(index))
    monkeypatch.setattr(radial.resources, "files", lambda _: tmp_path)
    with pytest.raises(KernelError, match="energy does not add up"):
        voxel_s_kernel("Lu-177", 4.0, extent_mm=8)


def test_a_radial_kernel_that_is_not_the_shipped_one_is_refused(tmp_path, monkeypatch):
    data = tmp_path / "data"
    data.mkdir()
    shipped = radial.resources.files("doselabel.dosimetry.physics") / "data"
    (data / "index.json").write_text((shipped / "index.json").read_text("utf-8"))
    (data / "dpk_Y-90_water.npz").write_bytes((shipped / "dpk_Y-90_water.npz").read_bytes()[:-1] + b"x")
    monkeypatch.setattr(radial.resources, "files", lambda _: tmp_path)
    with pytest.raises(KernelError, match="SHA-256"):
        voxel_s_kernel("Y-90", 4.0, extent_mm=8)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"nuclide": "Tc-99m", "spacing_mm": 4.0}, DoseError),
        ({"nuclide": "Lu-177", "spacing_mm": (4.0, 4.0)}, KernelError),
        ({"nuclide": "Lu-177", "spacing_mm": float("nan")}, KernelError),
        ({"nuclide": "Lu-177", "spacing_mm": -1.0}, KernelError),
        ({"nuclide": "Lu-177", "spacing_mm": 4.0, "medium": "lead"}, KernelError),
        ({"nuclide": "Y-90", "spacing_mm": 4.0, "medium": "icru4"}, KernelError),
        ({"nuclide": "Lu-177", "spacing_mm": 4.0, "density_g_cm3": 0.0}, KernelError),
        ({"nuclide": "Lu-177", "spacing_mm": 4.0, "extent_mm": -3.0}, KernelError),
        ({"nuclide": "Lu-177", "spacing_mm": 0.1, "extent_mm": 500.0}, KernelError),
    ],
)
def test_bad_input_is_refused_by_a_typed_error(arguments, error):
    with pytest.raises(error):
        voxel_s_kernel(**arguments)


def test_a_nuclide_without_a_point_kernel_is_refused_with_the_way_to_add_one():
    unknown = dataclasses.replace(nuclide("Lu-177"), name="Tb-161")
    with pytest.raises(KernelError, match="Tb-161") as caught:
        voxel_s_kernel(unknown, 4.0)
    assert "PROVENANCE" in caught.value.hint


def test_self_dose_of_nothing_is_refused():
    with pytest.raises(KernelError):
        self_s_value(Ellipsoid((0.0, 1.0, 1.0)), "Lu-177")


# --- cache ------------------------------------------------------------------------------------------------------------


def refuse_to_build(*_):
    raise AssertionError("built again")


def test_a_second_kernel_of_the_same_kind_comes_from_the_cache(own_cache, monkeypatch):
    first = voxel_s_kernel("Lu-177", 4.0, extent_mm=40)
    monkeypatch.setattr(kernels, "energy_octant", refuse_to_build)
    second = voxel_s_kernel("Lu-177", 4.0, extent_mm=40)
    np.testing.assert_array_equal(first.values_mgy_per_mbq_s, second.values_mgy_per_mbq_s)
    assert second.provenance == first.provenance
    with pytest.raises(AssertionError):
        voxel_s_kernel("Lu-177", 4.1, extent_mm=40)
    assert [p.suffix for p in (own_cache / "kernels").iterdir()] == [".npz"]


@pytest.mark.parametrize("damage", ["garbage", "truncated", "other values", "energy lost"])
def test_a_damaged_cache_file_is_computed_again(own_cache, damage):
    first = voxel_s_kernel("Lu-177", 4.0, extent_mm=40)
    (file,) = (own_cache / "kernels").iterdir()
    if damage == "garbage":
        file.write_bytes(b"not a kernel")
    elif damage == "truncated":
        file.write_bytes(file.read_bytes()[:2000])
    else:
        stored = dict(np.load(file))
        stored["octant"] = stored["octant"] * np.float32(0.97)
        if damage == "energy lost":
            stored["sha256"] = np.array(hashlib.sha256(stored["octant"].tobytes()).hexdigest())
        np.savez(file, **stored)
    again = voxel_s_kernel("Lu-177", 4.0, extent_mm=40)
    assert again.sha256 == first.sha256
    np.testing.assert_array_equal(again.octant_mgy_per_mbq_s, first.octant_mgy_per_mbq_s)
    assert str(np.load(file)["sha256"]) == first.sha256


def test_a_cache_that_cannot_be_written_does_no_harm(own_cache, monkeypatch):
    (own_cache / "file").write_text("not a folder")
    monkeypatch.setenv("DOSELABEL_CACHE", str(own_cache / "file"))
    assert voxel_s_kernel("Lu-177", 4.0, extent_mm=8).shape == (5, 5, 5)
