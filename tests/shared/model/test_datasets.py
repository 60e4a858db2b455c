"""Data as downloaded: each layout is made small, with the very names and numbers of the original."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from doselabel.errors import DoselabelError, GeometryError, ModelError
from doselabel.geometry import Geometry, Volume, write_image
from doselabel.labels import LabelMap, write_labels
from doselabel.model.cases import TrainCase, case_ct, case_labels, unlabelled
from doselabel.model.datasets import LAYOUTS, cases_from
from doselabel.schemes import SCHEMES

SHAPE = (6, 20, 30)
GRID = Geometry(SHAPE, (5.0, 8.0, 8.0), (-116.0, -76.0, -12.5))
PLACES = {
    "liver": (slice(1, 5), slice(4, 12), slice(3, 9)),
    "right_kidney": (slice(1, 4), slice(13, 17), slice(6, 9)),
    "left_kidney": (slice(2, 5), slice(13, 17), slice(21, 24)),
    "spleen": (slice(1, 3), slice(8, 12), slice(25, 28)),
}
ORGANS = tuple(PLACES)
SEEN = ("left_kidney", "right_kidney", "liver")


def ct_volume() -> Volume:
    hu = np.full(SHAPE, -1000, np.int16)
    hu[:, 2:18, 1:29] = 40
    hu[0, 3, 5] = 300
    return Volume(hu, GRID)


def numbered(**values: int) -> Volume:
    """A label map with these numbers; ``lesion`` lies inside the left kidney, ``liver_lesion`` in the liver."""
    array = np.zeros(SHAPE, np.uint8)
    for name in ORGANS:
        if name in values:
            array[PLACES[name]] = values[name]
    if "lesion" in values:
        array[3, 14:16, 22:24] = values["lesion"]
    if "liver_lesion" in values:
        array[2, 6:8, 5:7] = values["liver_lesion"]
    return Volume(array, GRID)


def put(path: Path, volume: Volume) -> Path:
    return write_image(path, volume)


def only(root: Path, layout: str | None = None, **options) -> TrainCase:
    (case,) = cases_from(root, layout, **options)
    return case


def drawn(case: TrainCase) -> dict[str, int]:
    """Voxels of each organ, counted where they belong."""
    labels = case_labels(case, case_ct(case))
    return {name: int(labels.mask(name)[PLACES[name]].sum()) for name in ORGANS if labels.mask(name).any()}


def whole(*names: str) -> dict[str, int]:
    return {name: int(np.prod([s.stop - s.start for s in PLACES[name]])) for name in names}


def silent(case: TrainCase) -> tuple[str, ...]:
    return unlabelled(case, case_labels(case, case_ct(case)), SEEN)


# ---- public data sets


def kits_case(folder: Path, labels: str = "segmentation.nii.gz") -> None:
    put(folder / "imaging.nii.gz", ct_volume())
    put(folder / labels, numbered(left_kidney=1, right_kidney=1, lesion=2))


@pytest.mark.parametrize("layout", [None, "kits"])
def test_kits_19_and_23(tmp_path, layout):
    kits_case(tmp_path / "data" / "case_00007")
    case = only(tmp_path, layout)
    assert (case.patient, case.scheme) == ("case_00007", "kits")
    assert drawn(case) == whole("left_kidney", "right_kidney")
    assert silent(case) == ("liver",)


def test_kits_21_gives_the_majority_of_its_annotations(tmp_path):
    folder = tmp_path / "kits21" / "data" / "case_00299"
    kits_case(folder, "aggregated_MAJ_seg.nii.gz")
    for other in ("AND", "OR"):
        put(folder / f"aggregated_{other}_seg.nii.gz", numbered())
    put(folder / "segmentations" / "kidney_instance-1_annotation-1.nii.gz", numbered(left_kidney=1))
    assert only(tmp_path).labels.name == "aggregated_MAJ_seg.nii.gz"


def test_tumours_count_to_the_kidney_or_not(tmp_path):
    kits_case(tmp_path / "case_00000")
    apart = only(tmp_path, merge_lesions=False)
    assert drawn(apart)["left_kidney"] == whole("left_kidney")["left_kidney"] - 4
    assert case_labels(apart, case_ct(apart)).mask("tumour").sum() == 4
    assert drawn(only(tmp_path)) == whole("left_kidney", "right_kidney")


def test_the_sides_of_kits_follow_the_header_however_the_array_is_stored(tmp_path):
    folder = tmp_path / "case_00000"
    for name, volume in (("imaging", ct_volume()), ("segmentation", numbered(left_kidney=1, right_kidney=1))):
        turned = sitk.DICOMOrient(volume.to_sitk(), "PIR")  # KiTS stores slices first
        put(folder / f"{name}.nii.gz", Volume.from_sitk(turned))
    case = only(tmp_path)
    labels = case_labels(case, case_ct(case))
    for name in ("left_kidney", "right_kidney"):
        x_mm = labels.geometry.index_to_lps(np.argwhere(labels.mask(name)))[:, 0]
        assert np.all(x_mm > 0) if name == "left_kidney" else np.all(x_mm < 0)


def test_kits_labels_without_their_ct_say_how_to_get_it(tmp_path):
    put(tmp_path / "case_00000" / "segmentation.nii.gz", numbered(left_kidney=1))
    with pytest.raises(ModelError, match=r"no imaging\.nii\.gz.*download"):
        cases_from(tmp_path)


@pytest.mark.parametrize("folders", [("Training Batch 1", "Training Batch 1"), ("volume_pt1", "segmentations")])
def test_lits_in_one_folder_or_two(tmp_path, folders):
    put(tmp_path / folders[0] / "volume-12.nii", ct_volume())
    put(tmp_path / folders[1] / "segmentation-12.nii", numbered(liver=1, liver_lesion=2))
    put(tmp_path / folders[0] / "volume-13.nii", ct_volume())
    case = only(tmp_path)
    assert case.patient == "lits_12"
    assert drawn(case) == whole("liver")
    assert silent(case) == ("left_kidney", "right_kidney")


def image_folders(root: Path, images: str, labels: str, names: tuple[str, str], volume: Volume) -> None:
    put(root / images / names[0], ct_volume())
    put(root / labels / names[1], volume)


def test_msd_liver_is_read_by_the_names_in_its_dataset_json(tmp_path):
    root = tmp_path / "Task03_Liver"
    image_folders(root, "imagesTr", "labelsTr", ("liver_3.nii.gz",) * 2, numbered(liver=1, liver_lesion=2))
    put(root / "labelsTr" / "._liver_3.nii.gz", numbered())  # archives made on a Mac hold such files
    about = {"modality": {"0": "CT"}, "labels": {"0": "background", "1": "liver", "2": "cancer"}}
    (root / "dataset.json").write_text(json.dumps(about))
    case = only(tmp_path)
    assert drawn(case) == whole("liver")
    assert silent(case) == ("left_kidney", "right_kidney")
    apart = only(tmp_path, merge_lesions=False)
    assert drawn(apart)["liver"] == whole("liver")["liver"] - 4


def test_nnunet_folders_name_values_the_other_way_round(tmp_path):
    names = ("KiTS_0_0000.nii.gz", "KiTS_0.nii.gz")
    image_folders(tmp_path, "imagesTr", "labelsTr", names, numbered(left_kidney=1, right_kidney=1, lesion=2))
    labels = {"background": 0, "kidney": [1, 2, 3], "masses": [2, 3], "tumor": 2}
    (tmp_path / "dataset.json").write_text(json.dumps({"channel_names": {"0": "CT"}, "labels": labels}))
    assert drawn(only(tmp_path)) == whole("left_kidney", "right_kidney")
    apart = only(tmp_path, merge_lesions=False)
    assert case_labels(apart).mask("tumour").sum() == 4


def test_a_data_set_of_mri_has_no_cases(tmp_path):
    image_folders(tmp_path, "imagesTr", "labelsTr", ("a.nii.gz",) * 2, numbered(liver=1))
    (tmp_path / "dataset.json").write_text(json.dumps({"modality": {"0": "MRI"}, "labels": {"1": "liver"}}))
    with pytest.raises(ModelError, match="no CT with a label map"):
        cases_from(tmp_path)


def all_organs(scheme: str) -> Volume:
    values = {name: value for value, name in SCHEMES[scheme].items() if name in ORGANS}
    return numbered(**values)


def test_amos_leaves_out_its_mri(tmp_path):
    for number in ("0004", "0507"):
        image_folders(tmp_path / "amos22", "imagesTr", "labelsTr", (f"amos_{number}.nii.gz",) * 2, all_organs("amos"))
    image_folders(tmp_path / "amos22", "imagesVa", "labelsVa", ("amos_0013.nii.gz",) * 2, all_organs("amos"))
    cases = cases_from(tmp_path)
    assert [case.patient for case in cases] == ["amos_0004", "amos_0013"]
    assert drawn(cases[0]) == whole(*ORGANS)
    assert silent(cases[0]) == ()


@pytest.mark.parametrize("folders", [("img", "label"), ("image", "label"), ("imagesTr", "labelsTr")])
def test_btcv(tmp_path, folders):
    names = ("img0024.nii.gz", "label0024.nii.gz")
    image_folders(tmp_path / "RawData" / "Training", *folders, names, all_organs("btcv"))
    case = only(tmp_path)
    assert case.patient == "btcv_0024"
    assert drawn(case) == whole(*ORGANS)


@pytest.mark.parametrize("unpacked", ["FLARE22_Tr_0001.nii.gz", "FLARE22_Tr_0001.nii/FLARE22_Tr_0001.nii"])
def test_flare_22(tmp_path, unpacked):
    names = ("FLARE22_Tr_0001_0000.nii.gz", unpacked)
    image_folders(tmp_path / "FLARE22Train", "images", "labels", names, all_organs("flare"))
    assert drawn(only(tmp_path)) == whole(*ORGANS)


def test_flare_23_is_partly_labelled(tmp_path):
    names = ("FLARE23_0007_0000.nii.gz", "FLARE23_0007.nii.gz")
    image_folders(tmp_path, "imagesTr2200", "labelsTr2200", names, numbered(liver=1, liver_lesion=14))
    case = only(tmp_path)
    assert drawn(case) == whole("liver")
    assert silent(case) == ("left_kidney", "right_kidney")


def test_flare_21_has_both_kidneys_as_one_value(tmp_path):
    names = ("train_000_0000.nii.gz", "train_000.nii.gz")
    kidneys = numbered(liver=1, left_kidney=2, right_kidney=2, spleen=3)
    image_folders(tmp_path, "TrainingImg", "TrainingMask", names, kidneys)
    assert drawn(only(tmp_path)) == whole(*ORGANS)


def test_totalsegmentator_is_one_mask_for_each_structure(tmp_path):
    folder = tmp_path / "Totalsegmentator_dataset_v201" / "s0011"
    put(folder / "ct.nii.gz", ct_volume())
    files = {"liver": "liver", "kidney_left": "left_kidney", "kidney_right": "right_kidney"}
    for file, name in files.items():
        put(folder / "segmentations" / f"{file}.nii.gz", numbered(**{name: 1}))
    put(folder / "segmentations" / "spleen.nii.gz", numbered())  # out of the field of view
    put(folder / "segmentations" / "kidney_cyst_left.nii.gz", numbered(lesion=1))
    case = only(tmp_path)
    assert drawn(case) == whole("liver", "left_kidney", "right_kidney")
    assert unlabelled(case, case_labels(case), ORGANS) == ()  # an empty mask says that the organ is not there
    os.remove(folder / "segmentations" / "kidney_right.nii.gz")
    assert silent(only(tmp_path)) == ("right_kidney",)


def dicom_slice(path: Path, hu: np.ndarray, z_mm: float) -> None:
    """One slice with a series UID of its own, as files made anonymous one by one have."""
    image = sitk.GetImageFromArray(hu[None].astype(np.int16))  # the writer applies the rescale backwards
    dz, dy, dx = GRID.spacing_mm
    image.SetSpacing((dx, dy, dz))
    x, y, _ = GRID.origin_mm
    tags = {
        "0008|0060": "CT",
        "0020|0032": f"{x}\\{y}\\{z_mm}",
        "0020|0037": "1\\0\\0\\0\\1\\0",
        "0028|1052": "-1024",
        "0028|1053": "1",
        "0028|0030": f"{dy}\\{dx}",
        "0018|0050": str(dz),
    }
    for key, value in tags.items():
        image.SetMetaData(key, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))


def chaos_case(folder: Path, downward: bool) -> None:
    """DICOM files and PNG masks, numbered from the head or from the feet."""
    hu, liver = ct_volume().array, numbered(liver=255).array
    order = range(SHAPE[0])[::-1] if downward else range(SHAPE[0])
    (folder / "Ground").mkdir(parents=True)
    for number, k in enumerate(order):
        z_mm = GRID.origin_mm[2] + k * GRID.spacing_mm[0]
        dicom_slice(folder / "DICOM_anon" / f"i{number:04d},0000b.dcm", hu[k], z_mm)
        sitk.WriteImage(sitk.GetImageFromArray(liver[k]), str(folder / "Ground" / f"liver_GT_{number:03d}.png"))


@pytest.mark.parametrize("downward", [True, False])
def test_chaos_ct_pairs_each_png_with_its_slice_whichever_way_they_are_numbered(tmp_path, downward):
    chaos_case(tmp_path / "CHAOS_Train_Sets" / "Train_Sets" / "CT" / "5", downward)
    case = only(tmp_path)
    ct, labels = case_ct(case), case_labels(case)
    assert case.patient == "chaos_5"
    assert ct.geometry.same_place(GRID)
    assert np.array_equal(ct.array, ct_volume().array)
    assert np.array_equal(labels.mask("liver"), numbered(liver=1).array > 0)
    assert silent(case) == ("left_kidney", "right_kidney")


def test_a_missing_dicom_slice_or_mask_is_said(tmp_path):
    chaos_case(tmp_path / "CT" / "5", True)
    case = only(tmp_path)
    os.remove(case.ct / "i0002,0000b.dcm")
    with pytest.raises(GeometryError, match="5 slices"):
        case_labels(case)
    with pytest.raises(GeometryError, match=r"5\.00 to 10\.00 mm apart"):
        case_ct(case)


# ---- our own


def test_a_folder_for_each_case_is_numbered_as_the_unified_data_are(tmp_path):
    put(tmp_path / "real_ct" / "ircad_07" / "ct.nii.gz", ct_volume())
    unified = numbered(liver=1, right_kidney=2, spleen=4, liver_lesion=6)
    put(tmp_path / "real_ct" / "ircad_07" / "labels.nii.gz", unified)
    put(tmp_path / "example" / "example_ct.nii.gz", ct_volume())
    put(tmp_path / "example" / "example_seg.nii.gz", numbered())
    put(tmp_path / "example" / "labels_unified.nii.gz", numbered(liver=1, right_kidney=2, left_kidney=3))
    put(tmp_path / "example" / "activity_bq_per_ml.nii.gz", ct_volume())
    put(tmp_path / "unlabelled" / "ct.nii.gz", ct_volume())
    by_patient = {case.patient: case for case in cases_from(tmp_path)}
    assert sorted(by_patient) == ["example", "ircad_07"]
    assert drawn(by_patient["ircad_07"]) == whole("liver", "right_kidney", "spleen")
    assert silent(by_patient["ircad_07"]) == ("left_kidney",)
    assert by_patient["example"].spect.name == "activity_bq_per_ml.nii.gz"


def test_a_map_that_carries_names_is_read_by_them(tmp_path):
    put(tmp_path / "a" / "ct.nii.gz", ct_volume())
    names = {9: "liver", 1: "left_kidney"}
    write_labels(tmp_path / "a" / "labels.nii.gz", LabelMap(numbered(liver=9, left_kidney=1).array, GRID, names))
    assert drawn(only(tmp_path)) == whole("liver", "left_kidney")


def test_pairs_of_files(tmp_path):
    put(tmp_path / "x1.nii.gz", ct_volume())
    write_labels(tmp_path / "x1_label.nii.gz", LabelMap(numbered(liver=3).array, GRID))
    put(tmp_path / "x2.nrrd", ct_volume())
    write_labels(tmp_path / "x2_seg.nrrd", LabelMap(numbered(left_kidney=1).array, GRID))
    assert [(case.patient, drawn(case)) for case in cases_from(tmp_path)] == [
        ("x1", whole("liver")),
        ("x2", whole("left_kidney")),
    ]


# ---- what holds for all


def test_a_numbering_of_ones_own_can_be_stated(tmp_path):
    put(tmp_path / "a" / "ct.nii.gz", ct_volume())
    put(tmp_path / "a" / "labels.nii.gz", numbered(liver=7, left_kidney=1, right_kidney=1, spleen=9))
    case = only(tmp_path, names={7: "liver", 1: "kidneys"})
    assert drawn(case) == whole("liver", "left_kidney", "right_kidney")
    with pytest.raises(ModelError, match="'heart' is no organ"):
        cases_from(tmp_path, names={1: "heart"})
    with pytest.raises(ModelError, match="both names and a scheme"):
        cases_from(tmp_path, names={1: "liver"}, scheme="kits")


def test_one_folder_may_hold_several_data_sets_and_hidden_folders_none(tmp_path):
    kits_case(tmp_path / "kits" / "case_00000")
    kits_case(tmp_path / ".doselabel" / "case_00001")
    put(tmp_path / "lits" / "volume-0.nii", ct_volume())
    put(tmp_path / "lits" / "segmentation-0.nii", numbered(liver=1))
    assert [case.patient for case in cases_from(tmp_path)] == ["case_00000", "lits_0"]
    assert [case.patient for case in cases_from(tmp_path, "lits")] == ["lits_0"]


def test_what_is_not_found_names_the_layouts(tmp_path):
    with pytest.raises(ModelError, match=r"kits.*docs/data\.md"):
        cases_from(tmp_path)
    with pytest.raises(ModelError, match=r"in the layout 'lits'"):
        cases_from(tmp_path, "lits")
    with pytest.raises(ModelError, match=r"'kitts' is no layout.*kits"):
        cases_from(tmp_path, "kitts")
    with pytest.raises(ModelError, match="no such folder"):
        cases_from(tmp_path / "nowhere")


def test_a_label_map_that_is_not_on_its_ct_is_refused(tmp_path):
    kits_case(tmp_path / "case_00000")
    moved = Geometry(SHAPE, GRID.spacing_mm, (0.0, 0.0, 0.0))
    put(tmp_path / "case_00000" / "segmentation.nii.gz", Volume(numbered(left_kidney=1).array, moved))
    case = only(tmp_path)
    with pytest.raises(DoselabelError, match="not on the grid of its CT"):
        case_labels(case, case_ct(case))


def test_every_layout_is_described():
    text = (Path(__file__).parents[3] / "docs" / "data.md").read_text("utf-8")
    assert not [name for name in LAYOUTS if f"`{name}`" not in text]
