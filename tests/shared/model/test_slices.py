"""Slices show the network the right pixels at the right size, and teach it the right ones."""

import dataclasses

import numpy as np
import pytest
import torch

from doselabel.errors import GeometryError, ModelError
from doselabel.geometry import Geometry, write_image
from doselabel.labels import LabelMap, write_labels
from doselabel.model import augment, slices
from doselabel.model.cache import prepare
from doselabel.model.cases import TrainCase
from doselabel.model.datasets import cases_from
from doselabel.model.profiles import FAST, PAPER


@pytest.fixture(scope="module")
def loaded(tmp_path_factory, case):
    return prepare([case], FAST, tmp_path_factory.mktemp("prepared"))[0]


def ramp(height, width):
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    return torch.tensor(np.stack([rows, columns]), dtype=torch.float32)


def test_each_network_pixel_is_sampled_where_the_frame_says():
    frame = slices.frame_of(FAST, (1.2, 0.9), (slice(4, 70), slice(10, 88)), (80, 100))
    sampled = slices.resampled(ramp(80, 100), frame, fill=0.0)
    rows = frame.offset[0] + frame.scale[0] * np.arange(frame.size[0])
    columns = frame.offset[1] + frame.scale[1] * np.arange(frame.size[1])
    inner = (slice(8, -8), slice(8, -8))
    assert np.allclose(sampled[0].numpy()[inner], np.broadcast_to(rows[:, None], frame.size)[inner], atol=1e-3)
    assert np.allclose(sampled[1].numpy()[inner], np.broadcast_to(columns, frame.size)[inner], atol=1e-3)


def test_frame_turns_back_its_own_positions():
    frame = slices.frame_of(FAST, (4.0, 0.7), (slice(0, 50), slice(20, 400)), (50, 512))
    index = np.array([0.0, 10.0, 33.0])
    assert np.allclose(frame.offset[1] + frame.scale[1] * frame.to_network(index, 1), index)


def test_fast_sees_the_same_pixel_size_whatever_the_spacing():
    coarse = slices.frame_of(FAST, (4.0, 4.0), (slice(0, 60), slice(0, 90)), (60, 90))
    fine = slices.frame_of(FAST, (0.8, 0.8), (slice(0, 300), slice(0, 450)), (300, 450))
    assert coarse.size == fine.size == (160, 240)


def test_paper_takes_the_pixels_of_the_whole_slice_without_spatial_normalisation():
    whole = (slice(0, 512), slice(0, 512))
    assert slices.frame_of(PAPER, (0.8, 0.8), whole, (512, 512)) == slices.Frame((512, 512), (1.0, 1.0), (0.0, 0.0))
    body = slices.frame_of(PAPER, (0.8, 0.8), (slice(100, 200), slice(90, 200)), (512, 512))
    assert body == slices.Frame((100, 110), (1.0, 1.0), (100.0, 90.0))


def test_channels_are_the_neighbours_with_the_slice_in_the_middle(patient):
    hu = np.arange(10, dtype=np.int16)[:, None, None] * np.ones((1, 4, 4), np.int16)
    assert slices.stack(hu, "axial", 5, 3, 2)[:, 0, 0].tolist() == [3, 5, 7]
    assert slices.stack(hu, "axial", 0, 3, 1)[:, 0, 0].tolist() == [0, 0, 1]


def test_the_window_is_the_paper_s():
    assert slices.windowed(torch.tensor([-500.0, -100.0, 50.0, 200.0, 900.0]), FAST).tolist() == [0, 0, 0.5, 1, 1]


def test_body_box_leaves_air_out(patient):
    hu = patient[0].array
    box = slices.body_box(hu)
    body = np.argwhere(hu > -300)
    for axis in (1, 2):
        assert body[:, axis].min() - 2 <= box[axis].start <= body[:, axis].min()
        assert body[:, axis].max() < box[axis].stop <= body[:, axis].max() + 3


def test_slices_are_drawn_60_percent_through_organs_and_25_beyond(loaded):
    only = dataclasses.replace(loaded, unlabelled=(), organs={"axial": {1: (10, 14)}})
    rng = np.random.default_rng(0)
    drawn = np.array([augment.draw_slice(only, "axial", rng) for _ in range(4000)])
    inside = (drawn >= 10) & (drawn <= 14)
    assert np.mean(inside) == pytest.approx(0.6 + 0.15 * 5 / 24, abs=0.03)
    near = (drawn >= 8) & (drawn <= 16) & ~inside
    assert np.mean(near) == pytest.approx(0.25 + 0.15 * 4 / 24, abs=0.03)
    assert np.mean(drawn == 10) / np.mean(drawn == 12) == pytest.approx(2, rel=0.25)


@pytest.mark.parametrize("plane", slices.PLANES)
def test_augmented_masks_stay_on_the_organs_of_the_augmented_image(loaded, plane):
    hu = np.where(loaded.classes > 0, 150, -50).astype(np.int16)
    bright = dataclasses.replace(loaded, hu=hu)
    index = int(np.mean(loaded.organs[plane][3]))
    rng = np.random.default_rng(3)
    for _ in range(4):
        frame_warp, size = augment._warp(
            slices.frame_of(FAST, slices.in_plane(loaded.spacing_mm, plane), slices.in_plane(loaded.box, plane),
                            slices.in_plane(hu.shape, plane)), rng, 160)  # fmt: skip
        assert tuple(frame_warp.shape) == (*size, 2)
        image, target = augment.training_slice(bright, plane, index, FAST, rng, 160)
        assert image.shape == (5, *target["masks"].shape[1:])
        assert float(image.min()) >= 0
        assert float(image.max()) <= 1
        inside = target["masks"].sum(0) > 0
        assert 3 in target["labels"]
        assert image[2][inside].mean() > image[2][~inside].mean()
        x0, y0, x1, y1 = target["boxes"].unbind(1)
        assert bool(((x1 > x0) & (y1 > y0)).all())


def test_labels_of_another_grid_are_refused(tmp_path, case, patient):
    labels = patient[1]
    moved = Geometry(labels.geometry.shape, labels.geometry.spacing_mm, (0.0, 0.0, 0.0))
    path = write_labels(tmp_path / "moved.nii.gz", LabelMap(labels.array, moved))
    with pytest.raises(GeometryError, match="not on the grid of its CT"):
        prepare([TrainCase(case.ct, path, "tiny")], FAST, tmp_path / "prepared")


def test_labels_without_an_organ_of_the_profile_are_refused(tmp_path, case, patient):
    empty = LabelMap(np.zeros_like(patient[1].array), patient[1].geometry)
    path = write_labels(tmp_path / "empty.nii.gz", empty)
    with pytest.raises(ModelError, match="shows none of"):
        prepare([TrainCase(case.ct, path, "tiny")], FAST, tmp_path / "prepared")


def test_cases_are_found_in_sample_patients_and_in_pairs(tmp_path, case, patient):
    assert cases_from(case.ct.parent.parent) == [case]
    write_image(tmp_path / "a.nii.gz", patient[0])
    write_labels(tmp_path / "a_labels.nii.gz", patient[1])
    assert [c.patient for c in cases_from(tmp_path)] == ["a"]
    with pytest.raises(ModelError, match="no such folder"):
        cases_from(tmp_path / "nowhere")


def test_the_floor_of_known_hu_stands_for_air(patient):
    hu = patient[0].array
    assert slices.body_box(hu.clip(-125, 275)) == slices.body_box(hu)


def test_a_prepared_case_is_mapped_from_disk_and_made_only_once(tmp_path, case):
    first = prepare([case], FAST, tmp_path)[0]
    made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    second = prepare([case], FAST, tmp_path)[0]
    assert isinstance(first.hu, np.memmap)
    assert np.array_equal(first.classes, second.classes)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == made


def test_an_organ_that_nobody_drew_is_unlabelled_unless_the_case_says_it_is_absent(tmp_path, case):
    assert prepare([case], FAST, tmp_path)[0].unlabelled == (4,)
    assert prepare([dataclasses.replace(case, unlabelled=())], FAST, tmp_path)[0].unlabelled == ()


def test_a_folder_with_a_ct_and_its_labels_is_a_case(tmp_path, patient):
    write_image(tmp_path / "p1" / "ct.nii.gz", patient[0])
    write_image(tmp_path / "p1" / "activity.nii.gz", patient[0])
    write_labels(tmp_path / "p1" / "labels.nii.gz", patient[1])
    assert [(c.patient, c.ct.name) for c in cases_from(tmp_path)] == [("p1", "ct.nii.gz")]


def test_unenhanced_organs_have_the_hu_they_have_without_contrast_medium():
    image = torch.full((5, 40, 40), 60.0)
    kidney = torch.zeros(5, 40, 40)
    kidney[:, 10:20, 10:20] = 1
    image[:, 10:20, 10:20], image[:, 30:34, 30:34], image[:, 0:4] = 190.0, 170.0, 260.0
    flat = augment._unenhanced(image, {"kidney": kidney}, np.random.default_rng(0))
    assert 15 < float(flat[:, 10:20, 10:20].mean()) < 47
    assert float(flat[:, 30:34, 30:34].mean()) < 110
    assert float(flat[:, 0:4].mean()) == pytest.approx(260, abs=1)


@pytest.mark.parametrize("plane", ["axial", "coronal"])
def test_lungs_are_filled_and_nothing_else_is(plane):
    """Air around the body stays, and tissue; on a coronal slice lungs reach the picture's upper end."""
    image = torch.full((3, 96, 128), slices.CLIP_HU[0])
    top = 0 if plane == "coronal" else 15
    image[:, top:80, 20:108] = 50.0
    lung = (slice(None), slice(0 if plane == "coronal" else 25, 60), slice(35, 60))
    image[lung] = slices.CLIP_HU[0]
    shares = []
    for seed in range(12):
        filled = augment._filled_air(image.clone(), plane, np.random.default_rng(seed))
        changed = filled != image
        shares.append(float(changed[lung].float().mean()))
        changed[lung] = False
        assert not changed.any()
    assert min(shares) > 0.1
    assert max(shares) > 0.8


def test_without_air_inside_nothing_is_filled():
    image = torch.full((3, 64, 64), slices.CLIP_HU[0])
    image[:, 10:50, 10:50] = 50.0
    assert torch.equal(augment._filled_air(image.clone(), "axial", np.random.default_rng(0)), image)
