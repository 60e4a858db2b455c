"""Axes and millimetres."""

from __future__ import annotations

import itertools
import os

import numpy as np
import pytest
import SimpleITK as sitk

from doselabel.errors import GeometryError
from doselabel.geometry import Geometry, Volume, canonical, oriented, read_image, resample, restore, write_image

ORIENTATIONS = [
    "".join(letters) for axes in itertools.permutations(("RL", "AP", "SI")) for letters in itertools.product(*axes)
]


def volume_in(orientation: str, oblique_deg: float = 0.0) -> Volume:
    array = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing((0.8, 1.5, 3.0))
    image.SetOrigin((-10.0, 20.0, 30.5))
    direction = np.reshape(sitk.DICOMOrientImageFilter.GetDirectionCosinesFromOrientation(orientation), (3, 3))
    tilt = sitk.Euler3DTransform((0, 0, 0), *np.deg2rad([oblique_deg, -oblique_deg / 2, oblique_deg / 3]))
    image.SetDirection((np.reshape(tilt.GetMatrix(), (3, 3)) @ direction).ravel().tolist())
    return Volume.from_sitk(image)


@pytest.mark.parametrize("oblique_deg", [0.0, 20.0])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_canonical_and_back_is_lossless_for_all_48_orientations(orientation, oblique_deg):
    native = volume_in(orientation, oblique_deg)
    upright = canonical(native)
    axes = np.reshape(upright.geometry.direction, (3, 3)).T
    assert (np.abs(axes).argmax(axis=1) == (0, 1, 2)).all()
    assert axes[0, 0] > 0
    assert axes[1, 1] > 0
    assert axes[2, 2] < 0
    back = restore(upright, native.geometry)
    assert back.geometry == native.geometry
    np.testing.assert_array_equal(back.array, native.array)


def test_there_are_48_orientations():
    assert len(set(ORIENTATIONS)) == 48


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_oriented_is_canonical_without_a_copy(orientation):
    for oblique_deg in (0.0, 20.0):
        native = volume_in(orientation, oblique_deg)
        expected, view = canonical(native), oriented(native)
        assert np.array_equal(view.array, expected.array)
        assert view.geometry.same_place(expected.geometry, tol_mm=1e-6)
        assert np.shares_memory(view.array, native.array)


def test_canonical_keeps_every_voxel_where_it_is_in_the_patient():
    native = volume_in("PSR", 15.0)
    upright = canonical(native)
    for index in [(0, 0, 0), (3, 4, 5), (1, 2, 3)]:
        value = native.array[index]
        where = np.argwhere(upright.array == value)[0]
        np.testing.assert_allclose(
            upright.geometry.index_to_lps(where), native.geometry.index_to_lps(np.array(index)), atol=1e-9
        )


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_files_keep_voxels_and_oblique_grid(tmp_path, suffix):
    native = volume_in("RPI", 17.0)
    read = read_image(write_image(tmp_path / f"image{suffix}", native))
    np.testing.assert_array_equal(read.array, native.array)
    assert read.geometry.same_place(native.geometry)


def test_index_and_lps_are_inverse():
    geometry = volume_in("SRA", 30.0).geometry
    index = np.array([[0.5, 1.25, 3.0], [2, 0, 5]])
    np.testing.assert_allclose(geometry.lps_to_index(geometry.index_to_lps(index)), index, atol=1e-12)


def test_resampling_follows_patient_space_not_array_order():
    native = volume_in("LPS")
    flipped = canonical(native)
    np.testing.assert_allclose(resample(flipped, native.geometry).array, native.array, atol=1e-4)


def test_transform_moves_the_image_by_its_translation():
    geometry = Geometry((1, 1, 20), (1.0, 1.0, 1.0))
    array = np.zeros(geometry.shape, np.float32)
    array[0, 0, 5] = 1
    shift = np.eye(4)
    shift[0, 3] = 8.0
    moved = resample(Volume(array, geometry), geometry, transform=shift)
    assert moved.array.argmax() == 13


def test_linear_of_indicator_keeps_volume_better_than_nearest():
    fine = Geometry((40, 40, 40), (1.0, 1.0, 1.0))
    z, y, x = np.mgrid[:40, :40, :40]
    ball = Volume((((z - 20) ** 2 + (y - 20) ** 2 + (x - 20) ** 2) < 15**2).astype(np.uint8), fine)
    coarse = fine.with_spacing((3.3, 2.7, 2.7))
    truth_ml = ball.array.sum() * fine.voxel_volume_ml
    label = resample(ball, coarse, interpolation="label").array.sum() * coarse.voxel_volume_ml
    assert abs(label / truth_ml - 1) < 0.02


def test_with_spacing_covers_the_same_box():
    fine = Geometry((40, 40, 40), (1.0, 1.0, 1.0), (0.5, 0.5, 0.5))
    coarse = fine.with_spacing((2.0, 4.0, 5.0))
    assert coarse.shape == (20, 10, 8)
    assert coarse.origin_mm == pytest.approx((2.5, 2.0, 1.0))


def test_text_named_nii_gz_is_refused_with_file_and_remedy(tmp_path):
    path = tmp_path / "spect.nii.gz"
    path.write_text("not an image")
    with pytest.raises(GeometryError, match=r"spect\.nii\.gz: cannot be read") as caught:
        read_image(path)
    assert caught.value.hint


def test_missing_file_and_unknown_kind_are_named(tmp_path):
    with pytest.raises(GeometryError, match="no such file"):
        read_image(tmp_path / "none.nii.gz")
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(GeometryError, match="not a kind of image"):
        read_image(tmp_path / "a.png")


def test_shear_is_not_a_registration():
    shear = np.eye(4)
    shear[0, 1] = 0.3
    geometry = Geometry((2, 2, 2), (1.0, 1.0, 1.0))
    with pytest.raises(GeometryError, match="not rigid"):
        resample(Volume(np.zeros((2, 2, 2)), geometry), geometry, transform=shear)


def test_restore_refuses_a_volume_of_another_image():
    native = volume_in("LPS")
    with pytest.raises(GeometryError, match="does not fall back"):
        restore(canonical(volume_in("LPS", 10)), native.geometry)


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_an_image_that_was_written_by_half_replaces_nothing(tmp_path, monkeypatch, suffix):
    """ITK's NIfTI writer says nothing when the disk is full."""
    array = np.random.default_rng(3).integers(0, 99, (6, 7, 8)).astype(np.int16)
    volume = Volume(array, Geometry((6, 7, 8), (3.0, 1.0, 1.0)))
    file = write_image(tmp_path / f"image{suffix}", volume)
    before, whole = file.read_bytes(), sitk.WriteImage

    def half(image, path, **how):
        whole(image, path, **how)
        os.truncate(path, os.stat(path).st_size // 2)

    monkeypatch.setattr(sitk, "WriteImage", half)
    with pytest.raises(OSError, match="not written whole"):
        write_image(file, Volume(volume.array + 1, volume.geometry))
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
