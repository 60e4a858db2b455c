"""Label maps as other tools write them: the right organs, or a refusal that shows a table of what was found.

Add a row to add a tool.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk

from doselabel.dosimetry.uptake.masks import resolve
from doselabel.errors import DoselabelError, LabelError, ModelError
from doselabel.geometry import Geometry, Volume, write_image
from doselabel.labels import LabelMap, read_labels, write_labels
from doselabel.model.cases import case_ct, case_labels
from doselabel.model.datasets import cases_from, without_labels
from doselabel.study import Study
from tests.shared.door_makers import GRID, body, make_study, organs


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Study:
    return make_study(tmp_path_factory.mktemp("labels") / "P-1")


def numbered(*values: int) -> np.ndarray:
    """The four organs (left kidney, right kidney, liver, spleen) under other values."""
    return np.array([0, *values], np.uint8)[organs()]


def stored(array: np.ndarray) -> Callable[[Path], Path]:
    return lambda folder: write_image(folder / "map.nii.gz", Volume(array, GRID))


def segments(names: dict[str, tuple[int, int]], layers: list[np.ndarray], crop: int = 0) -> Callable[[Path], Path]:
    """Slicer's file: name → (label value, layer); ``crop`` slices are left away at both ends."""

    def make(folder: Path) -> Path:
        grid = Geometry(
            (GRID.shape[0] - 2 * crop, *GRID.shape[1:]),
            GRID.spacing_mm,
            (*GRID.origin_mm[:2], GRID.origin_mm[2] + 5 * crop),
        )
        cropped = [layer[crop : GRID.shape[0] - crop] for layer in layers]
        stack = np.stack(cropped, axis=-1) if len(layers) > 1 else cropped[0]
        image = sitk.GetImageFromArray(stack, isVector=len(layers) > 1)
        image.SetSpacing(grid.spacing_mm[::-1])
        image.SetOrigin(grid.origin_mm)
        for number, (name, (value, layer)) in enumerate(names.items()):
            image.SetMetaData(f"Segment{number}_Name", name)
            image.SetMetaData(f"Segment{number}_LabelValue", str(value))
            image.SetMetaData(f"Segment{number}_Layer", str(layer))
        sitk.WriteImage(image, str(folder / "map.seg.nrrd"), True)
        return folder / "map.seg.nrrd"

    return make


def caret(names: dict[int, str], array: np.ndarray) -> Callable[[Path], Path]:
    """TotalSegmentator's --ml file: Caret XML in an extension of the NIfTI header."""

    def make(folder: Path) -> Path:
        path = write_image(folder / "map.nii.gz", Volume(array, GRID))
        rows = "".join(
            f'<Label Key="{v}" Red="1" Green="0" Blue="0" Alpha="1"><![CDATA[{n}]]></Label>' for v, n in names.items()
        )
        xml = (
            '<?xml version="1.0" encoding="UTF-8"?><CaretExtension><Date><![CDATA[2013-07-14T05:45:09]]></Date>'
            f'<VolumeInformation Index="0"><LabelTable>{rows}</LabelTable></VolumeInformation></CaretExtension>'
        )
        image = nibabel.Nifti1Image.from_filename(path)
        image.header.extensions.append(nibabel.nifti1.Nifti1Extension(30, xml.encode()))
        nibabel.save(image, folder / "named.nii.gz")
        return folder / "named.nii.gz"

    return make


def beside(ending: str, line: str, array: np.ndarray, names: dict[int, str]) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / f"map{ending}").write_text("# a table\n" + "".join(line.format(v=v, n=n) for v, n in names.items()))
        return write_image(folder / "map.nii.gz", Volume(array, GRID))

    return make


def one_hot(folder: Path) -> Path:
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ GRID.affine_lps
    volumes = np.stack([(organs() == v).T for v in range(5)], axis=-1).astype(np.uint8)
    nibabel.save(nibabel.Nifti1Image(volumes, affine), folder / "map.nii.gz")
    return folder / "map.nii.gz"


def second_nifti(folder: Path) -> Path:
    affine = np.diag([-1.0, -1.0, 1.0, 1.0]) @ GRID.affine_lps
    nibabel.save(nibabel.Nifti2Image(organs().T, affine), folder / "map.nii.gz")
    return folder / "map.nii.gz"


def elsewhere(folder: Path) -> Path:
    moved = Geometry(GRID.shape, GRID.spacing_mm, (-180.0, *GRID.origin_mm[1:]))
    return write_labels(folder / "map.nii.gz", LabelMap(organs(), moved))


def shorter(folder: Path) -> Path:
    """With its names, its last two slices lost."""
    grid = Geometry((GRID.shape[0] - 2, *GRID.shape[1:]), GRID.spacing_mm, GRID.origin_mm)
    return write_labels(folder / "map.nii.gz", LabelMap(organs()[:-2], grid))


TOTAL = {1: "spleen", 2: "kidney_right", 3: "kidney_left", 5: "liver", 6: "stomach"}
OURS = {1: "left_kidney", 2: "right_kidney", 3: "liver", 4: "spleen"}
NAMED = {"Left kidney": (1, 0), "right kidney": (2, 0), "Liver": (3, 0), "spleen": (4, 0)}
with_stomach = numbered(3, 2, 5, 1)
with_stomach[20:22, 30:34, 20:24] = 6
kits = numbered(1, 1, 0, 0)
exchanged = numbered(2, 1, 3, 4)


@dataclass(frozen=True)
class Labels:
    """A label map's file; ``expected`` is the refusal's text, or empty when our organs must come out."""

    name: str
    make: Callable[[Path], Path]
    expected: str = ""
    scheme: str | None = None
    organs: tuple[str, ...] = ("left_kidney", "right_kidney", "liver", "spleen")


LABELS = [
    Labels("by our numbers, without names", stored(organs())),
    Labels("floats near whole numbers", stored(organs() + np.float32(4e-4))),
    Labels("64-bit integers", stored(organs().astype(np.int64))),
    Labels("NIfTI-2", second_nifti),
    Labels("one volume for each organ", one_hot),
    Labels("Slicer, one layer", segments(NAMED, [organs()])),
    Labels("Slicer, cropped", segments(NAMED, [organs()], crop=3)),
    Labels("Slicer, two layers", segments(
        {"left kidney": (1, 0), "right kidney": (2, 0), "liver": (1, 1), "spleen": (7, 1)},
        [numbered(1, 2, 0, 0), numbered(0, 0, 1, 7)])),
    Labels("TotalSegmentator --ml", caret(TOTAL, with_stomach)),
    Labels("TotalSegmentator numbers, stated", stored(with_stomach), scheme="totalsegmentator"),
    Labels("TotalSegmentator numbers, not stated", stored(with_stomach), r"\[6\].*no organ.*--label-scheme"),
    Labels("BTCV numbers, stated", stored(numbered(3, 2, 6, 1)), scheme="btcv"),
    Labels("BTCV numbers, not stated", stored(numbered(3, 2, 6, 1)), r"\[6\].*mL.*mm to the.*--label-scheme"),
    Labels("AMOS numbers, stated", stored(numbered(3, 2, 6, 1)), scheme="amos"),
    Labels("FLARE numbers, stated", stored(numbered(13, 2, 1, 3)), scheme="flare"),
    Labels("KiTS numbers, stated", stored(kits), scheme="kits", organs=("left_kidney", "right_kidney")),
    Labels("KiTS numbers, not stated", stored(kits), "does not fit.*--label-scheme"),
    Labels("LiTS numbers, not stated", stored(numbered(0, 0, 1, 0)), "does not fit.*--label-scheme"),
    Labels("sides exchanged, without names", stored(exchanged), "right of right kidney"),
    Labels("a spleen as 1, without names", stored(numbered(0, 0, 0, 1)), "may be any organ"),
    Labels("ITK-SNAP's table beside", beside(".label", '{v:>5} 255 0 0 1 1 1 "{n}"\n', numbered(3, 2, 5, 1), TOTAL)),
    Labels("Slicer's table beside", beside(".ctbl", "{v} {n} 255 0 0 255\n", numbered(3, 2, 5, 1), TOTAL)),
    Labels("names and numbering that differ", caret(TOTAL, with_stomach), "by the numbering 'btcv'", scheme="btcv"),
    Labels("Slicer's own names, our numbers", segments({f"Segment_{v}": (v, 0) for v in (1, 2, 3, 4)}, [organs()])),
    Labels("Slicer's own names, KiTS numbers", segments({"Segment_1": (1, 0)}, [kits]), "does not fit.*--label-scheme"),
    Labels("ITK-SNAP's own names, our numbers",
           beside(".label", '{v:>5} 255 0 0 1 1 1 "{n}"\n', organs(), {v: f"Label {v}" for v in (1, 2, 3, 4)})),
    Labels("Slicer, two segments of one value", segments({"liver": (3, 0), "spleen": (3, 0)}, [organs()]),
           "both are value 3 of layer 0"),
    Labels("TG-263 names", segments(
        {"Kidney_L": (1, 0), "Kidney_R": (2, 0), "Liver": (3, 0), "Spleen": (4, 0)}, [organs()])),
    Labels("numbers of instances", stored(organs().astype(np.int16) * 300), r"values from 0 to \d+; a label map"),
    Labels("-1 where nobody looked", stored(organs().astype(np.int16) - 1), r"values from -1 to -?\d"),
    Labels("BTCV numbers said to be KiTS's", stored(numbered(3, 2, 6, 1)), "stand for no organ", scheme="kits"),
    Labels("KiTS numbers said to be LiTS's", stored(kits), "does not fit.*pieces.*mL", scheme="lits"),
    Labels("half values", stored(organs() * np.float32(0.5)), "not whole numbers.*nearest"),
    Labels("a CT", stored(body()), "-1000"),
    Labels("on another grid", elsewhere, "not on the grid of its CT"),
    Labels("of two slices fewer", shorter, "not on the grid.*22×48×48.*24×48×48.*slices or rows are missing"),
    Labels("Slicer's own names, cropped", segments({f"Segment_{v}": (v, 0) for v in (1, 2, 3, 4)}, [organs()], crop=3)),
]  # fmt: skip


@pytest.mark.parametrize("row", LABELS, ids=lambda row: row.name)
def test_a_label_map_of_another_tool_gives_the_right_organs_or_a_refusal_that_says_how(study, row, tmp_path):
    file = row.make(tmp_path)
    if row.expected:
        with pytest.raises(DoselabelError) as caught:
            resolve(study, file, row.scheme)
        assert re.search(row.expected, str(caught.value), re.DOTALL), str(caught.value)
        return
    found = resolve(study, file, row.scheme).maps[study.ct]
    assert found.geometry.same_place(GRID)
    assert set(found.present()) | set(found.renumbered().present()) >= set(row.organs)
    for value, name in OURS.items():
        expected = organs() == value if name in row.organs else np.zeros(GRID.shape, bool)
        np.testing.assert_array_equal(found.renumbered().mask(name), expected, err_msg=name)


def test_values_without_a_name_are_refused_with_what_they_look_like(tmp_path):
    path = write_image(tmp_path / "map.nii.gz", Volume(numbered(3, 2, 6, 1), GRID))
    with pytest.raises(LabelError) as caught:
        read_labels(path, ct=Volume(body(), GRID))
    assert re.search(r"6: +512\.0 mL, +\d+ mm to the right of the body's middle, mean 60 HU", caught.value.message)


CUSTOM = numbered(3, 2, 1, 4)  # liver, right kidney, left kidney, spleen: how a folder for each case is numbered


def case_folder(root: Path, patient: str, ct: np.ndarray, labels: np.ndarray | None) -> None:
    write_image(root / patient / "ct.nii.gz", Volume(ct, GRID))
    if labels is not None:
        write_image(root / patient / "labels.nii.gz", Volume(labels, GRID))


@pytest.mark.parametrize(
    "array",
    [organs(), numbered(3, 2, 6, 1), np.ascontiguousarray(CUSTOM[:, :, ::-1]), (CUSTOM > 0).astype(np.uint8)],
    ids=["our numbers", "BTCV's numbers", "mirrored", "one value"],
)
def test_a_folder_of_cases_is_learned_by_its_custom_only_where_the_anatomy_fits(tmp_path, array):
    case_folder(tmp_path, "P-1", body(), array)
    (case,) = cases_from(tmp_path)
    with pytest.raises(LabelError, match=r"(?s)does not fit.*mL.*mm to the.*") as caught:
        case_labels(case, case_ct(case))
    assert "--label-scheme" in str(caught.value)


def test_a_folder_of_cases_that_fits_is_learned_and_what_has_no_labels_is_named(tmp_path):
    case_folder(tmp_path, "P-1", body(), CUSTOM)
    case_folder(tmp_path, "P-2", body(), None)
    (case,) = cases_from(tmp_path)
    labels = case_labels(case, case_ct(case))
    for value, name in OURS.items():
        np.testing.assert_array_equal(labels.mask(name), organs() == value, err_msg=name)
    assert without_labels([case]) == ["P-2"]
    (stated,) = cases_from(tmp_path, names={1: "spleen"})  # what somebody states is believed, with an alarm
    assert "alarm" in {alarm.severity for alarm in case_labels(stated, case_ct(stated)).findings}


def test_a_label_map_given_as_ct_teaches_nothing(tmp_path):
    case_folder(tmp_path, "P-1", CUSTOM.astype(np.int16), CUSTOM)
    (case,) = cases_from(tmp_path)
    with pytest.raises(ModelError, match=r"ct\.nii\.gz: values run from 0 to 4; a CT in HU"):
        case_ct(case)


def test_a_ct_clipped_to_soft_tissue_as_published_is_learned(tmp_path):
    ct = body()
    ct[:, 36:40, 22:26] = 400  # a spine
    case_folder(tmp_path, "P-1", np.clip(ct, -125, 275), CUSTOM)
    (case,) = cases_from(tmp_path)
    assert case_labels(case, case_ct(case)).present()
