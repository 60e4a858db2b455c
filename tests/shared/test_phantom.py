"""Sample patients: known by construction, the same by seed, and true by an independent calculation."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from doselabel.geometry import Volume, read_image
from doselabel.labels import ORGANS, read_labels
from doselabel.study import Study
from sample_data import truth
from sample_data.kinetics import HALF_LIFE_H
from sample_data.phantom import FINE_MM, MISALIGNMENT_MM, generate
from sample_data.plan import VARIANTS
from sample_data.shapes import Axes
from sample_data.spect import COUNTS_PER_MBQ, Camera, acquire, grid_around
from tests.samples import SEED, sample


@pytest.fixture(scope="module")
def patients() -> dict[str, Study]:
    return {variant: Study.load(sample(number)) for number, variant in enumerate(VARIANTS, 1)}


@pytest.fixture(scope="module")
def again(tmp_path_factory) -> tuple[Path, list[float]]:
    """The first patient once more, alone; and the progress that was told meanwhile."""
    told: list[float] = []
    folder = tmp_path_factory.mktemp("again")
    (made,) = generate(folder, patients=1, seed=SEED, progress=lambda stage, fraction: told.append(fraction))
    return made, told


def known(study: Study) -> dict:
    return json.loads((study.folder / "truth" / "truth.json").read_text("utf-8"))


def test_every_study_is_valid_and_says_that_it_is_synthetic(patients):
    for study in patients.values():
        assert study.check() == []
        assert "not a real person" in study.description


def test_same_seed_gives_the_same_voxels_whatever_else_is_made(patients, again):
    (made, _), first = again, patients[VARIANTS[0]].folder
    for name in ("ct.nii.gz", "ct_tp3.nii.gz", "spect_tp2.nii.gz", "truth/ct_tp1.nii.gz"):
        np.testing.assert_array_equal(read_image(made / name).array, read_image(first / name).array)
    assert (made / "truth" / "truth.json").read_text("utf-8") == (first / "truth" / "truth.json").read_text("utf-8")


def test_label_maps_lie_on_their_ct_and_hold_the_true_volumes(patients):
    for study in patients.values():
        organs = known(study)["organs"]
        for name in study.cts().values():
            labels = read_labels(study.folder / "truth" / name)
            assert labels.geometry.same_place(read_image(study.path(name)).geometry)
            for organ, row in organs.items():
                tolerance = 0.01 if name == study.ct else 0.015  # 3 mm cubes; 5 mm slices
                assert labels.volume_ml(organ) == pytest.approx(row["volume_ml"], rel=tolerance), (name, organ)


def test_masses_and_volumes_are_a_persons(patients):
    for study in patients.values():
        organs = known(study)["organs"]
        assert 1000 < organs["liver"]["volume_ml"] < 2200
        for name in {"left_kidney", "right_kidney"} & set(organs):
            assert 90 < organs[name]["volume_ml"] < 260
            assert organs[name]["mass_g"] == pytest.approx(1.06 * organs[name]["volume_ml"])


def test_left_is_left(patients):
    for study in patients.values():
        labels = read_labels(study.folder / "truth" / study.ct)
        middle = {}
        for name in labels.present():
            middle[name] = labels.geometry.index_to_lps(np.argwhere(labels.mask(name)).mean(0))
        assert middle["spleen"][0] > 40
        assert middle["liver"][0] < -20
        assert middle.get("left_kidney", [1])[0] > 0
        assert middle.get("right_kidney", [-1])[0] < 0


def test_each_variant_has_what_it_is_named_for(patients):
    touching, one, misaligned, hot = (patients[name] for name in VARIANTS)
    assert len(one.organs_absent) == 1
    assert one.organs_absent[0] not in known(one)["organs"]
    assert np.linalg.norm(MISALIGNMENT_MM) == pytest.approx(8.0, abs=0.01)
    assert known(misaligned)["misalignment"]["shift_mm"] == list(MISALIGNMENT_MM)
    assert list(hot.time_points[0].exclude) == ["*"]
    labels = read_labels(touching.folder / "truth" / touching.ct)
    kidney, spleen = (np.pad(labels.mask(n), 1) for n in ("left_kidney", "spleen"))
    assert any((np.roll(kidney, s, axis) & spleen).any() for axis in range(3) for s in (-1, 1))


def test_urine_in_the_pelvis_is_hotter_than_the_kidney_at_the_first_time_point_only(patients):
    hot = patients["hot_pelvis"]
    first, second = (read_image(hot.path(hot.time_points[i].spect)).array.max() for i in (0, 1))
    organs = known(hot)["organs"]
    grown = organs["left_kidney"]["activity_mbq"][1] / organs["left_kidney"]["activity_mbq"][0]
    assert second / first < 0.7 * grown


def test_one_ct_is_stored_in_another_orientation(patients):
    directions = {
        tuple(np.round(read_image(study.path(name)).geometry.direction, 3))
        for study in patients.values()
        for name in study.cts().values()
    }
    assert len(directions) == 2


def test_a_spect_holds_more_than_its_organs_and_less_than_was_injected(patients):
    study = patients["touching_spleen"]
    organs = known(study)["organs"]
    for i, point in enumerate(study.time_points):
        spect = read_image(study.path(point.spect))
        total = spect.array.sum(dtype=float) * spect.geometry.voxel_volume_ml / 1e6
        assert sum(row["activity_mbq"][i] for row in organs.values()) < total < study.injected_activity_mbq


def spect_of_a_cube(activity_mbq: float, moved_mm: tuple[float, float, float]) -> tuple[Volume, Camera, float]:
    """SPECT of a 12 mm cube in the middle of the field, its camera and the cube's variance along an axis, mm²."""
    camera = Camera(grid_around((0.0, 0.0, 0.0), full=False), (14.4, 13.2, 12.0))
    fine = Axes.covering((-80.0,) * 3, (80.0,) * 3, 2.4)
    near = [np.abs(axis) < 6 for axis in (fine.z, fine.y, fine.x)]
    cube = np.einsum("i,j,k->ijk", *near).astype(np.float32)
    edge_mm = 2.4 * np.count_nonzero(near[0])
    cube *= activity_mbq / (edge_mm**3 / 1000)
    return acquire(camera, fine, cube, moved_mm, np.random.default_rng(7)), camera, edge_mm**2 / 12


def moments(spect: Volume) -> tuple[float, np.ndarray, np.ndarray]:
    """Total (MBq), centre (x, y, z) and variance (z, y, x) in mm."""
    grid = spect.geometry
    index = np.stack(np.meshgrid(*map(np.arange, grid.shape), indexing="ij"), -1)
    points = grid.index_to_lps(index).reshape(-1, 3)
    weight = spect.array.ravel().astype(float)
    centre = weight @ points / weight.sum()
    variance = weight @ (points - centre) ** 2 / weight.sum()
    return weight.sum() * grid.voxel_volume_ml / 1e6, centre, variance[::-1]


def test_blur_sampling_and_noise_leave_the_total_unbiased():
    counts = 500 * COUNTS_PER_MBQ
    total, _, _ = moments(spect_of_a_cube(500.0, (0.0, 0.0, 0.0))[0])
    assert total == pytest.approx(500, rel=5 / np.sqrt(counts))  # five standard deviations of counting


def test_a_spect_is_as_sharp_as_the_study_says():
    # Variances add: source, point-spread function, and the SPECT voxel's own box.
    spect, camera, source_mm2 = spect_of_a_cube(2000.0, (0.0, 0.0, 0.0))
    psf_mm2 = (np.array(camera.fwhm_mm) / (2 * np.sqrt(2 * np.log(2)))) ** 2
    box_mm2 = np.array(camera.geometry.spacing_mm) ** 2 / 12
    np.testing.assert_allclose(moments(spect)[2], source_mm2 + psf_mm2 + box_mm2, rtol=0.01)


def test_the_transform_in_the_truth_brings_a_moved_spect_back(patients):
    content = known(patients["misaligned"])["misalignment"]
    _, centre, _ = moments(spect_of_a_cube(500.0, tuple(content["shift_mm"]))[0])
    _, home, _ = moments(spect_of_a_cube(500.0, (0.0, 0.0, 0.0))[0])
    back = np.array(content["spect_to_ct"]) @ [*centre, 1]
    np.testing.assert_allclose(back[:3], home, atol=0.05)


def test_no_organ_keeps_activity_longer_than_physical_decay_allows(patients):
    for study in patients.values():
        for row in known(study)["organs"].values():
            assert 30 < row["effective_half_life_h"] < HALF_LIFE_H
            assert np.all(np.array(row["activity_mbq"]) > 0)


def test_kidney_doses_are_those_of_177lu_dotatate(patients):
    for study in patients.values():
        gbq = study.injected_activity_mbq / 1000
        for name, row in known(study)["organs"].items():
            if name.endswith("kidney"):
                assert 0.3 < row["mean_dose_gy"] / gbq < 0.65
            assert row["mean_dose_sd_gy"] < 0.002 * row["mean_dose_gy"]


@pytest.mark.parametrize(("mass_g", "published_s"), [(4.31, 5.46e-3), (34.5, 6.93e-4), (116.0, 2.07e-4)])
def test_the_independent_dose_agrees_with_published_sphere_s_values(mass_g, published_s):
    # T5: uniform spheres of density 1.03 g/cm³, S in mGy/(MBq·s); the Monte Carlo uses its own 1.04 for travel.
    radius_mm = (3 * mass_g / 1.03 * 1000 / (4 * np.pi)) ** (1 / 3)
    step = min(FINE_MM, radius_mm / 9)
    axes = Axes.covering((-2 * radius_mm,) * 3, (2 * radius_mm,) * 3, step)
    z, y, x = np.meshgrid(axes.z, axes.y, axes.x, indexing="ij")
    ball = (x**2 + y**2 + z**2 < radius_mm**2).astype(np.uint8)
    voxel_ml = float(np.prod(axes.spacing_mm)) / 1000
    mass = np.count_nonzero(ball) * voxel_ml * 1.03
    result = truth.dose(axes, ball, ball / (ball.sum() * voxel_ml), {1: mass}, np.random.default_rng(1))
    gy_per_mbq_h = result[1].mean_dose_gy * mass / mass_g
    assert gy_per_mbq_h * 1000 / 3600 == pytest.approx(published_s, rel=0.02)


def test_progress_ends_at_one_and_never_goes_back(again):
    _, seen = again
    assert seen == sorted(seen)
    assert seen[-1] == 1.0


def test_labels_are_those_of_the_table(patients):
    labels = read_labels(patients["touching_spleen"].folder / "truth" / "ct.nii.gz")
    assert set(labels.present()) <= {row.name for row in ORGANS}
