"""Finding, judging, storing and showing transforms, against shifts that are known."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from scipy import ndimage

from doselabel.dosimetry.alignment import ct_registration, registration
from doselabel.dosimetry.alignment.mask_scene import MaskScene, rigid
from doselabel.errors import Cancelled, RegistrationError
from doselabel.geometry import Geometry, Volume, placed, read_image, resample
from doselabel.labels import LabelMap, read_labels
from doselabel.study import Study

SHIFT_LPS = np.array((4.8, -5.0, 4.0))
"""What the fixture's 24 h SPECT is off by: 8 mm."""


@pytest.fixture(scope="module")
def scan(three_organs: Study) -> tuple[Volume, LabelMap]:
    spect = read_image(three_organs.path(three_organs.time_points[2].spect))
    return spect, read_labels(three_organs.folder / "truth" / "ct.nii.gz")


def turned(degrees: float, shift: tuple[float, float, float]) -> np.ndarray:
    return rigid(np.asarray(shift), np.radians((0, 0, degrees)), np.zeros(3))


@pytest.mark.parametrize("freedom", ["translation", "rigid"])
def test_organ_refinement_recovers_eight_millimetres(three_organs: Study, scan: tuple, freedom: str) -> None:
    found = registration.refine(*scan, freedom=freedom, psf_fwhm_mm=three_organs.psf_fwhm_mm)
    points = found.matrix[:3, :3] @ SHIFT_LPS + found.matrix[:3, 3]
    assert np.linalg.norm(points) < 1.5
    assert found.shift_mm == pytest.approx(8.0, abs=0.5)
    assert found.agreement_after > 0.97 > found.agreement_before + 0.05


def test_a_spect_in_place_stays_in_place(three_organs: Study) -> None:
    spect = read_image(three_organs.path(three_organs.time_points[1].spect))
    labels = read_labels(three_organs.folder / "truth" / "ct.nii.gz")
    assert registration.refine(spect, labels, psf_fwhm_mm=three_organs.psf_fwhm_mm).shift_mm < 0.5


def test_the_figure_of_merit_falls_with_every_millimetre(scan: tuple) -> None:
    spect, labels = scan
    scene = MaskScene.of(spect, labels, None, {}, None)
    at = [scene.agreement(turned(0, -SHIFT_LPS + (0, 0, off))) for off in (0, 3, 6, 12)]
    assert at == sorted(at, reverse=True)
    assert at[0] - at[2] > 0.02


def test_one_organ_alone_can_be_followed(scan: tuple) -> None:
    found = registration.refine(*scan, organs=["left_kidney"])
    assert np.linalg.norm(found.matrix[:3, 3] + SHIFT_LPS) < 1.5


def test_excluded_urine_does_not_pull_the_registration(known: SimpleNamespace, scan: tuple) -> None:
    spect, labels = scan
    blob = ndimage.gaussian_filter(known.inside(spect.geometry, (0, 30, 30), (14, 14, 14), 2), 1.1)
    hot = Volume(spect.array + 30 * spect.array.max() * blob, spect.geometry)
    shut = known.inside(labels.geometry, (0, 30, 30), (16, 16, 16)) > 0.5
    without = registration.refine(hot, labels)
    with_mask = registration.refine(hot, labels, exclude={"*": shut})
    assert np.linalg.norm(with_mask.matrix[:3, 3] + SHIFT_LPS) < 1.5
    assert np.linalg.norm(without.matrix[:3, 3] + SHIFT_LPS) > 3


def test_ct_to_ct_finds_a_known_rigid_motion_and_is_the_same_every_time(known: SimpleNamespace) -> None:
    fixed = abdomen(known)
    true = turned(4.0, (9.0, -6.0, 12.0))
    moving = resample(fixed, known.centred((70, 76, 96), (4.0, 4.0, 4.0)), transform=np.linalg.inv(true), fill=-1000)
    first = ct_registration.register_cts(moving, fixed)
    points = fixed.geometry.corners_lps() * 0.6
    error = points @ (first.matrix @ np.linalg.inv(true))[:3, :3].T + (first.matrix @ np.linalg.inv(true))[:3, 3]
    assert np.linalg.norm(error - points, axis=1).max() < 1.5
    assert np.allclose(ct_registration.register_cts(moving, fixed).matrix, first.matrix, atol=1e-6)


def test_ct_to_ct_can_be_cancelled(known: SimpleNamespace) -> None:
    def stop(stage: str, fraction: float) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        ct_registration.register_cts(abdomen(known), abdomen(known), progress=stop)


def abdomen(known: SimpleNamespace) -> Volume:
    """Body, spine and organs of different HU, textured; it has no symmetry to slide along."""
    grid = known.centred((80, 84, 108), (3.5, 3.5, 3.5))
    hu = np.where(known.inside(grid, (0, 0, 0), (260, 105, 150)) > 0.5, 30.0, -1000.0)
    for centre, semi, value in (((0, 70, 0), (1e4, 18, 18), 500), ((40, -45, -60), (50, 45, 60), 110),
                                ((0, 30, 72), (52, 29, 26), 190), ((-6, 32, -72), (50, 28, 26), 180),
                                ((60, 10, 80), (30, 35, 30), 130), ((-60, -50, 20), (30, 30, 50), -90)):  # fmt: skip
        hu[known.inside(grid, centre, semi) > 0.5] = value
    return Volume((hu + np.random.default_rng(3).normal(0, 12, grid.shape)).astype(np.int16), grid)


def test_moving_a_spect_conserves_its_counts(scan: tuple) -> None:
    spect = scan[0]
    matrix = turned(10.0, (3.0, 5.0, -7.0))
    total = spect.array.sum() * spect.geometry.voxel_volume_ml
    for spacing in ((3.0, 3.0, 3.0), (5.0, 2.0, 2.0), (9.0, 9.0, 9.0)):
        wide = Geometry((90, 90, 90), (6.0, 6.0, 6.0), (-270.0, -270.0, -270.0)).with_spacing(spacing)
        moved = registration.onto(spect, wide, matrix)
        assert moved.array.sum() * wide.voxel_volume_ml == pytest.approx(total, rel=0.005)


def test_a_transform_is_stored_in_the_study_and_reversible(three_organs: Study, scan: tuple, tmp_path) -> None:
    found = registration.refine(*scan)
    study = three_organs.model_copy(deep=True)
    study.time_points[2].spect_to_ct = found.registration()
    study.save(tmp_path)
    content = (tmp_path / "study.json").read_text("utf-8")
    assert '"method": "organ"' in content
    again = np.asarray(Study.model_validate_json(content).time_points[2].spect_to_ct.matrix)
    assert np.allclose(again, found.matrix)
    spect = scan[0].geometry
    back = placed(placed(spect, again), np.linalg.inv(again))
    assert back.same_place(spect)


def test_masks_of_two_cts_are_matched_by_their_organs(known: SimpleNamespace) -> None:
    grid = known.centred((80, 84, 108), (3.0, 3.0, 3.0))
    organs = known.KIDNEYS_AND_LIVER
    fixed = known.label_map(grid, organs)
    moved = LabelMap(fixed.array, placed(grid, turned(0, (3.0, -2.0, 7.0))))
    found = registration.match_masks(moved, fixed, ["left_kidney", "liver"])
    assert set(found) == {"left_kidney", "liver", ""}
    for alignment in found.values():
        assert np.allclose(alignment.matrix[:3, 3], (-3, 2, -7), atol=1e-6)


def test_bad_input_is_named(scan: tuple) -> None:
    spect, labels = scan
    with pytest.raises(RegistrationError, match="None of"):
        registration.refine(spect, labels, organs=["spleen"])
    empty = Volume(np.zeros_like(spect.array), spect.geometry)
    with pytest.raises(RegistrationError, match="no counts around the organs"):
        registration.refine(empty, labels)
