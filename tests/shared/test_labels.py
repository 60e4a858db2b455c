"""Organ names and the numbers that stand for them."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from doselabel.errors import LabelError
from doselabel.geometry import Geometry, Volume, write_image
from doselabel.labels import ORGANS, LabelMap, organ, read_labels, region, write_labels

GRID = Geometry((3, 4, 5), (2.0, 1.0, 1.0))


def label_map(names=None) -> LabelMap:
    array = np.zeros(GRID.shape, np.uint8)
    array[0] = 1
    array[1, 0] = 7
    return LabelMap(array, GRID, names or {1: "liver", 7: "left_kidney"})


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii", ".nrrd", ".mha"])
def test_label_files_carry_their_names(tmp_path, suffix):
    path = write_labels(tmp_path / f"labels{suffix}", label_map())
    read = read_labels(path)
    assert read.names == {1: "liver", 7: "left_kidney"}
    np.testing.assert_array_equal(read.array, label_map().array)
    assert list(tmp_path.iterdir()) == [path]


def test_renumbered_map_uses_the_table():
    renumbered = label_map().renumbered()
    assert set(np.unique(renumbered.array)) == {0, organ("liver").index, organ("left_kidney").index}
    assert renumbered.volume_ml("liver") == pytest.approx(20 * 2 / 1000)


def test_a_map_without_names_is_read_by_the_table(tmp_path):
    array = np.zeros(GRID.shape, np.uint8)
    array[0] = 3
    assert read_labels(write_image(tmp_path / "a.nii.gz", Volume(array, GRID))).present() == ("liver",)


def test_values_without_a_name_are_refused(tmp_path):
    path = write_image(tmp_path / "a.nii.gz", Volume(np.full(GRID.shape, 99, np.uint8), GRID))
    with pytest.raises(LabelError, match="99"):
        read_labels(path)


def test_a_ct_is_not_a_label_map(tmp_path):
    path = write_image(tmp_path / "ct.nii.gz", Volume(np.full(GRID.shape, -1000, np.int16), GRID))
    with pytest.raises(LabelError, match="-1000"):
        read_labels(path)


def test_organs_are_found_by_name_alias_and_index():
    assert organ("Left kidney") is organ(1) is organ("kidney_left")
    with pytest.raises(LabelError, match="left_kidney"):
        organ("heart")


def test_indices_and_names_are_unique():
    assert len({o.index for o in ORGANS}) == len({o.name for o in ORGANS}) == len(ORGANS)


def test_a_region_outside_the_table_keeps_its_name_and_has_the_density_of_soft_tissue(tmp_path):
    assert region("Left kidney") is organ("left_kidney")
    lesion = region("Tumour 1")
    assert (lesion.name, lesion.title, lesion.density_g_cm3) == ("tumour_1", "Tumour 1", 1.04)
    drawn = label_map({1: "tumour_2", 7: "Liver"})
    drawn.array[2] = 9
    named = LabelMap(drawn.array, GRID, {**drawn.names, 9: "tumour 1"})
    again = read_labels(write_labels(tmp_path / "lesions.nii.gz", named)).renumbered()
    assert set(again.present()) == {"liver", "tumour_1", "tumour_2"}
    assert again.value("liver") == organ("liver").index
    for name, value in (("tumour_1", 9), ("tumour_2", 1), ("liver", 7)):
        np.testing.assert_array_equal(again.mask(name), named.array == value)


@pytest.mark.parametrize("name", ["", "*", "1", "a/b", "x" * 41])
def test_what_is_no_name_for_a_region_is_refused(name):
    with pytest.raises(LabelError, match="no name for a region"):
        region(name)


BODY = Geometry((20, 40, 80), (5.0, 5.0, 4.0), (-158.0, -98.0, 0.0))
"""x grows to the patient's left, and the middle is 0."""


def two_kidneys(geometry: Geometry = BODY) -> np.ndarray:
    """KiTS: both kidneys 1, a tumour 2 in the right one, a cyst 3 far from both (z, y, x)."""
    array = np.zeros(geometry.shape, np.uint8)
    array[5:15, 22:28, 54:64] = 1
    array[4:14, 22:28, 16:26] = 1
    array[6:9, 23:26, 18:21] = 2
    array[17:19, 2:4, 2:4] = 3
    return array


@pytest.mark.parametrize("orientation", ["LPS", "RAS", "SRP", "IAL"])
def test_kidneys_that_share_a_value_are_parted_by_their_side_in_the_patient(tmp_path, orientation):
    turned = Volume.from_sitk(sitk.DICOMOrient(Volume(two_kidneys(), BODY).to_sitk(), orientation))
    read = read_labels(write_image(tmp_path / "kits.nii.gz", turned), scheme="kits", merge_lesions=True)
    left = read.geometry.index_to_lps(np.argwhere(read.mask("left_kidney")))[:, 0]
    right = read.geometry.index_to_lps(np.argwhere(read.mask("right_kidney")))[:, 0]
    assert left.min() > 0 > right.max()
    assert (left.size, right.size) == (600, 600)
    assert read.mask("cyst").sum() == 8
    assert read.value("tumour") is None


def test_tumours_stay_regions_of_their_own_unless_merged(tmp_path):
    path = write_image(tmp_path / "kits.nii.gz", Volume(two_kidneys(), BODY))
    read = read_labels(path, scheme="kits")
    assert read.mask("tumour").sum() == 27
    assert read.mask("right_kidney").sum() == 600 - 27


def test_the_side_of_a_lone_kidney_near_the_middle_needs_the_ct(tmp_path):
    array = np.zeros(BODY.shape, np.uint8)
    array[5:15, 22:28, 35:43] = 1
    path = write_image(tmp_path / "one.nii.gz", Volume(array, BODY))
    with pytest.raises(LabelError, match="left or the right"):
        read_labels(path, scheme="kits")
    ct = np.full(BODY.shape, -1000, np.int16)
    ct[:, 5:35, 42:76] = 40  # the patient lies far to the left of the image's middle
    assert read_labels(path, scheme="kits", ct=Volume(ct, BODY)).present() == ("right_kidney",)


def test_a_scheme_gives_our_organs_and_leaves_out_the_rest(tmp_path):
    array = np.zeros(BODY.shape, np.uint8)
    array[5:15, 22:28, 54:64] = 3
    array[2:10, 5:15, 5:25] = 6
    array[2:4, 30:35, 38:42] = 8
    path = write_image(tmp_path / "btcv.nii.gz", Volume(array, BODY))
    read = read_labels(path, scheme="btcv")
    assert set(read.present()) == {"left_kidney", "liver"}
    assert np.count_nonzero(read.array) == 600 + 1600
    with pytest.raises(LabelError, match="btcv"):
        read_labels(path, scheme="synapse")
    with pytest.raises(LabelError, match=r"\[6, 8\]"):
        read_labels(path, scheme="kits")


def test_a_scheme_may_give_one_organ_two_values(tmp_path):
    array = np.zeros(BODY.shape, np.uint8)
    array[2:10, 5:15, 5:25] = 255
    path = write_image(tmp_path / "chaos.nii.gz", Volume(array, BODY))
    assert read_labels(path, scheme="chaos_ct").volume_ml("liver") == pytest.approx(1600 * 0.1)


@pytest.mark.parametrize("text", ["[" * 5000, "[1]", '{"x": 1}', "{", '{"1": {}}'])
def test_names_in_a_header_that_are_none_are_refused_in_words(tmp_path, text):
    file = write_image(tmp_path / "l.nrrd", Volume(label_map().array, GRID), {"doselabel_labels": text})
    with pytest.raises(LabelError):
        read_labels(file)
