"""Scores against values that are known without computing them."""

import csv
import dataclasses
import json
import math

import numpy as np
import pytest

from doselabel.errors import LabelError, ModelError
from doselabel.geometry import Geometry, Volume, read_image, write_image
from doselabel.io.evaluation import evaluate_files
from doselabel.labels import LabelMap, write_labels
from doselabel.model.evaluate import compare, dice, surface_agreement
from doselabel.model.scores import OrganScore, global_dice, interval, read_scores, summarize, table, write_scores
from doselabel.study import Study, TimePoint

THICK = (5.0, 0.8, 0.8)


def box(shape, *bounds) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[tuple(slice(low, high) for low, high in bounds)] = True
    return mask


def ball(radius_mm: float, spacing, half_mm: float = 40.0) -> np.ndarray:
    axes = [np.arange(-half_mm, half_mm + 1e-6, mm) for mm in spacing]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    return z**2 + y**2 + x**2 <= radius_mm**2


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_shift_along_an_axis_is_measured_in_millimetres_of_that_axis(axis):
    shape = (20, 60, 60)
    a = box(shape, (4, 12), (15, 45), (15, 45))
    surface, hd95_mm = surface_agreement(a, np.roll(a, 2, axis), THICK)
    assert hd95_mm == pytest.approx(2 * THICK[axis], rel=1e-5)
    assert surface == pytest.approx(1.0) if axis else 0.4 < surface < 0.75
    kept = 1 - 2 / (a.shape[axis] if axis else 1) if axis > 9 else (8 - 2) / 8 if axis == 0 else (30 - 2) / 30
    assert dice(a, np.roll(a, 2, axis)) == pytest.approx(kept)


@pytest.mark.parametrize(("difference_mm", "expected"), [(1.0, 1.0), (4.0, 0.0)])
def test_concentric_balls_agree_when_their_radii_differ_by_less_than_the_tolerance(difference_mm, expected):
    spacing = (1.0, 0.8, 0.8)
    surface, hd95_mm = surface_agreement(ball(30, spacing), ball(30 - difference_mm, spacing), spacing)
    assert surface == pytest.approx(expected, abs=0.02)
    assert hd95_mm == pytest.approx(difference_mm, abs=0.8)


def test_thick_slices_weigh_by_area_not_by_voxels():
    """A slab of 30×30×10 mm, lifted by half its height; its faces are 60 % of the area, and 99 % of border voxels."""
    spacing, shape = (5.0, 0.5, 0.5), (12, 80, 80)
    slab = box(shape, (4, 6), (10, 70), (10, 70))
    lifted = np.roll(slab, 1, 0)
    surface, _ = surface_agreement(slab, lifted, spacing)
    area_mm2 = 2 * 30 * 30 + 4 * 30 * 10
    near_mm2 = 4 * 30 * (5 + 2) + 30**2 - 26**2  # the rim where both overlap, 2 mm of the rest, a face's border
    assert surface == pytest.approx(near_mm2 / area_mm2, abs=0.05)


def test_empty_masks():
    none, some = np.zeros((4, 8, 8), bool), box((4, 8, 8), (1, 3), (2, 6), (2, 6))
    assert surface_agreement(none, none, THICK) == (1.0, 0.0)
    surface, hd95_mm = surface_agreement(some, none, THICK)
    assert surface == 0
    assert math.isnan(hd95_mm)
    assert dice(none, none) == 1


def two_kidneys(shift: int = 0, swapped: bool = False) -> LabelMap:
    array = np.zeros((12, 40, 60), np.uint8)
    values = (2, 1) if swapped else (1, 2)
    array[3:9, 10 + shift : 20 + shift, 40:50] = values[0]
    array[3:9, 10:20, 8:18] = values[1]
    return LabelMap(array, Geometry((12, 40, 60), (5.0, 2.0, 2.0)))


def test_volume_and_mass_follow_from_the_voxels_and_the_tables_density():
    truth, found = two_kidneys(), two_kidneys()
    found.array[3:9, 10:20, 40:42] = 0
    left, right = compare(found, truth, ("left_kidney", "right_kidney"))
    assert left.true_volume_ml == pytest.approx(600 * 0.02)
    assert left.volume_error_percent == pytest.approx(-20)
    assert left.mass_g == pytest.approx(480 * 0.02 * 1.06)
    assert left.mass_error_g == pytest.approx(-120 * 0.02 * 1.06)
    assert right.dice == 1
    assert not left.wrong_side


def test_swapped_kidneys_are_on_the_wrong_side():
    rows = compare(two_kidneys(swapped=True), two_kidneys(), ("left_kidney", "right_kidney"))
    assert [row.wrong_side for row in rows] == [True, True]


def test_the_mean_over_slices_counts_axial_slices_in_any_orientation():
    truth, found = two_kidneys(), two_kidneys()
    found.array[3] = 0
    grid = Geometry((60, 40, 12), (2.0, 2.0, 5.0), direction=(0, 0, 1, 0, 1, 0, 1, 0, 0))
    turned = [LabelMap(labels.array.transpose(2, 1, 0), grid) for labels in (found, truth)]
    for pair in ((found, truth), turned):
        (row,) = compare(*pair, ("left_kidney",))
        assert (row.slice_dice, row.slices) == (pytest.approx(5 / 6), 6)
        assert row.dice == pytest.approx(10 / 11)


def test_maps_on_other_grids_are_refused():
    moved = dataclasses.replace(two_kidneys(), geometry=Geometry((12, 40, 60), (5.0, 2.0, 2.0), (9.0, 0.0, 0.0)))
    with pytest.raises(LabelError, match="its own grid"):
        compare(moved, two_kidneys(), ("left_kidney",), patient="P-1", ct="ct.nii.gz")


def row(patient: str, value: float, organ: str = "liver", **more) -> OrganScore:
    return OrganScore(patient, "ct", organ, value, value, 3.0, 100.0, 100.0, 0.0, 105.0, 0.0, **more)


def test_the_interval_is_over_patients_and_holds_the_mean():
    values = np.random.default_rng(1).normal(0.9, 0.03, 40)
    low, high = interval([row(f"P-{n}", float(v)) for n, v in enumerate(values)], "dice")
    standard_error = values.std(ddof=1) / math.sqrt(40)
    assert (low, high) == pytest.approx(
        (values.mean() - 1.96 * standard_error, values.mean() + 1.96 * standard_error), abs=0.2 * standard_error
    )
    many_cts = [row("P-0", 0.5), *(row("P-1", 0.9) for _ in range(50))]
    assert interval(many_cts, "dice") == (0.5, 0.9)
    assert math.isnan(interval([row("P-0", 0.5)], "dice")[0])


def test_the_global_mean_is_over_masks_and_over_slices():
    rows = [row("a", 0.9, slice_dice=0.8, slices=30), row("b", 0.7, slice_dice=0.5, slices=10)]
    assert global_dice(rows) == {"masks": pytest.approx(0.8), "slices": pytest.approx((0.8 * 30 + 0.5 * 10) / 40)}


def test_scores_are_written_and_read_again(tmp_path):
    rows = [row("a", 0.9), row("b", 0.7, dose_error_percent=-4.0), row("b", 0.0, "left_kidney")]
    rows[2] = dataclasses.replace(rows[2], hd95_mm=math.nan)
    write_scores(rows, tmp_path, {"checkpoint": "x"})
    assert repr(read_scores(tmp_path / "scores.json")) == repr(rows)
    content = json.loads((tmp_path / "scores.json").read_text("utf-8"))
    assert content["checkpoint"] == "x"
    assert content["summary"]["liver"]["dice"] == 0.8
    assert content["summary"]["liver"]["dose_error_percent"] == -4.0
    with (tmp_path / "scores.csv").open() as file:
        written = list(csv.DictReader(file))
    assert [line["hd95_mm"] for line in written] == ["3.0", "3.0", ""]
    assert "Dice 95 % interval 0.700–0.900" in table(rows)
    assert summarize(rows)["left_kidney"]["n"] == 1


# ---- files with files


@pytest.fixture
def folders(tmp_path):
    """Two cases with CTs, and predictions named by patient."""
    for patient, shift in (("a", 0), ("b", 3)):
        truth = two_kidneys()
        hu = np.where(truth.array > 0, 120, 0).astype(np.int16)
        hu[:, :3] = -1000
        write_image(tmp_path / "truth" / patient / "ct.nii.gz", dataclasses.replace(truth.volume, array=hu))
        write_labels(tmp_path / "truth" / patient / "labels.nii.gz", truth)
        write_labels(tmp_path / "pred" / f"{patient}.nii.gz", two_kidneys(shift))
    return tmp_path / "pred", tmp_path / "truth"


def test_folders_are_matched_by_name_and_the_worst_is_drawn_first(folders, tmp_path):
    found = evaluate_files(*folders)
    assert [(r.patient, r.organ, r.dice) for r in found.rows] == [
        ("a", "left_kidney", 1.0),
        ("a", "right_kidney", 1.0),
        ("b", "left_kidney", pytest.approx(0.7)),
        ("b", "right_kidney", 1.0),
    ]
    assert [kept[0].patient for kept in found.worst] == ["b", "a"]
    names = {path.name for path in found.write(tmp_path / "out")}
    assert names == {"scores.csv", "scores.json", "scores.png", "worst_1.png", "worst_2.png"}
    assert all((tmp_path / "out" / name).stat().st_size for name in names)


def test_what_has_no_partner_is_said(folders):
    pred, truth = folders
    (pred / "a.nii.gz").rename(pred / "c.nii.gz")
    found = evaluate_files(pred, truth)
    assert {r.patient for r in found.rows} == {"b"}
    assert found.notes[0] == "no prediction for a/ct.nii.gz"
    assert found.notes[1].endswith("c.nii.gz")
    (pred / "b.nii.gz").rename(pred / "d.nii.gz")
    with pytest.raises(ModelError, match="Name them by patient or CT"):
        evaluate_files(pred, truth)


def test_two_files_in_another_numbering(tmp_path):
    truth = two_kidneys()
    write_labels(tmp_path / "truth.nii.gz", truth)
    as_btcv = np.where(truth.array == 1, 3, truth.array).astype(np.uint8)
    write_image(tmp_path / "pred.nii.gz", Volume(as_btcv, truth.geometry))
    found = evaluate_files(tmp_path / "pred.nii.gz", tmp_path / "truth.nii.gz", predicted_scheme="btcv")
    assert [r.dice for r in found.rows] == [1.0, 1.0]
    with pytest.raises(ModelError, match="no such file"):
        evaluate_files(tmp_path / "nothing.nii.gz", tmp_path / "truth.nii.gz")


def big_study(folder):
    """Two organs of more than 100 mL, each evenly filled, with nothing in between."""
    grid = Geometry((8, 10, 12), (20.0, 16.0, 16.0), (-88.0, -72.0, -70.0))
    hu, spect = np.full(grid.shape, -1000, np.int16), np.zeros(grid.shape, np.float32)
    hu[1:7, 2:8, 2:10], spect[2:6, 3:6, 3:5], spect[2:6, 3:6, 7:9] = 40, 1e5, 1e5
    hu[1:7, 6:8, 5:7] = 400
    write_image(folder / "ct.nii.gz", Volume(hu, grid))
    points = []
    for number, time_h in enumerate((6.0, 24.0, 72.0), start=1):
        write_image(folder / f"ct_tp{number}.nii.gz", Volume(hu, grid))
        write_image(folder / f"spect_tp{number}.nii.gz", Volume(spect * np.float32(np.exp(-time_h / 70)), grid))
        points.append(TimePoint(time_h=time_h, ct=f"ct_tp{number}.nii.gz", spect=f"spect_tp{number}.nii.gz"))
    Study(
        patient_id="P-001", nuclide="Lu-177", injected_activity_mbq=7400, ct="ct.nii.gz", time_points=points,
        psf_fwhm_mm=(12.0, 12.0, 12.0),
    ).save(folder)  # fmt: skip
    return Study.load(folder)


def test_doses_follow_the_masks(tmp_path):
    """A mask that reaches out of the activity has a lower mean dose, its twin keeps its own."""
    study = big_study(tmp_path / "studies" / "P-001")
    for name in study.cts().values():
        grid = read_image(study.path(name)).geometry
        truth = np.zeros(grid.shape, np.uint8)
        truth[2:6, 3:6, 3:5], truth[2:6, 3:6, 7:9] = 2, 1
        write_labels(study.folder / "truth" / name, LabelMap(truth, grid))
        grown = truth.copy()
        grown[1:7, 2:8, 7:10] = 1
        write_labels(tmp_path / "pred" / "P-001" / name, LabelMap(grown, grid))
    found = evaluate_files(tmp_path / "pred", tmp_path / "studies", layout="sample", doses=True)
    assert not found.notes
    by_organ = {r.organ: r for r in found.rows if r.ct == study.ct}
    assert abs(by_organ["right_kidney"].dose_error_percent) < 5
    assert by_organ["left_kidney"].dose_error_percent < -10
    assert by_organ["left_kidney"].mass_error_g > 0
    assert "dose %" in table(found.rows)
