"""Comparison of doses: the paper's tables from the paper's numbers, and two label sources through the real pipeline."""

from __future__ import annotations

import csv
import dataclasses
import io
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import ndimage
from scipy.ndimage import gaussian_filter

from doselabel import cli
from doselabel.alarms import finding
from doselabel.dosimetry import pipeline
from doselabel.dosimetry.options import DoseOptions
from doselabel.dosimetry.results import read_vois, voi_name
from doselabel.errors import DoseError, LabelError, VoiError
from doselabel.geometry import Geometry, Volume, write_image
from doselabel.io.compare import compare, labels_of, parse_side, sensitivity
from doselabel.io.comparison import (
    ABSENT,
    Sensitivity,
    Variant,
    differences_percent,
    paper_table,
    to_text,
    write_comparison,
    write_sensitivity,
)
from doselabel.labels import LabelMap, read_labels, write_labels
from doselabel.study import Study

NAN = float("nan")
# Nazari et al. 2021, tables 3 and 4: left and right kidney, patients 1 to 8.
MASS_EXPERT_G = [[148, 102, 254, 147, 99, 142, 107, 184], [148, 166, NAN, 160, 122, 127, 90, 178]]
MASS_AI_G = [[169, 93, 243, 125, 95, 138, 102, 188], [166, 184, NAN, 137, 124, 104, 90, 170]]
MASS_DIFFERENCE = [[14, -9, -4, -15, -4, -3, -5, 2], [12, 11, NAN, -14, 2, -18, 0, -4]]
DOSE_EXPERT_GY = [[1.79, 1.72, 1.89, 1.77, 2.83, 3.49, 2.19, 2.00], [1.61, 1.50, NAN, 1.57, 2.52, 3.39, 2.66, 2.01]]
DOSE_AI_GY = [[1.77, 1.56, 1.85, 1.82, 2.82, 3.34, 1.74, 2.16], [1.55, 1.42, NAN, 1.73, 2.54, 3.56, 1.87, 2.08]]
DOSE_DIFFERENCE = [[-1, -9, -2, 3, 0, -4, -20, 8], [-4, -5, NAN, 10, 1, 5, -30, 3]]


# ---- tables 3 and 4


@pytest.mark.parametrize(
    ("expert", "ai", "published", "average"),
    [(MASS_EXPERT_G, MASS_AI_G, MASS_DIFFERENCE, 7.5), (DOSE_EXPERT_GY, DOSE_AI_GY, DOSE_DIFFERENCE, 6.7)],
    ids=["table 3", "table 4"],
)
def test_the_papers_differences_come_out_of_the_papers_numbers(expert, ai, published, average):
    difference, means, mean = differences_percent(np.array(expert), np.array(ai))
    assert np.allclose(difference, published, atol=1.0, equal_nan=True)  # the paper cuts some, rounds others
    assert mean == pytest.approx(average, abs=0.25)
    assert means[2] == pytest.approx(abs(difference[0, 2]))  # one kidney: its own difference


def test_the_table_has_the_papers_layout_and_a_star_for_a_missing_kidney():
    table = paper_table(
        np.array(MASS_EXPERT_G), np.array(MASS_AI_G), patients=[str(i) for i in range(1, 9)],
        organs=("left_kidney", "right_kidney"), names=("Ex", "AI"), label="Mass", unit="g", decimals=0,
    )  # fmt: skip
    assert [row[0] for row in table.rows] == [
        "L kidney Ex (g)", "R kidney Ex (g)", "L kidney AI (g)", "R kidney AI (g)",
        "L kidney difference (%)", "R kidney difference (%)", "Mean |difference| (%)",
    ]  # fmt: skip
    assert [c.title for c in table.columns] == ["Mass / patient", *"12345678", "Average"]
    assert [row[3] for row in table.rows] == ["254", ABSENT, "243", ABSENT, "−4.3", ABSENT, "4.3"]
    text = to_text(table).splitlines()
    assert len({len(line.split("  ")[0]) for line in text[:1]}) == 1
    assert len(text) == 9


def test_an_organ_that_nobody_has_gives_no_average():
    difference, means, average = differences_percent(np.array([[NAN]]), np.array([[NAN]]))
    assert np.isnan(difference).all()
    assert np.isnan(means).all()
    assert np.isnan(average)


# ---- sides


def test_a_side_is_labels_a_name_and_options():
    side = parse_side("labels=truth, voi=margin,margin_mm=6,name=AI,psf_fwhm_mm=12/11/11", "A")
    assert (side.name, side.labels) == ("AI", "truth")
    assert (side.options.voi, side.options.margin_mm, side.options.psf_fwhm_mm) == ("margin", 6.0, (12.0, 11.0, 11.0))
    assert parse_side("labels=final", "A").name == "A"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("voi=gtm", "does not say whose masks"),
        ("labels=truth,gtm", "'gtm' in .* is not a pair"),
        ("labels=truth,labels=final", "'labels' is given twice"),
        ("labels=truth,voi=magic", "'voi'"),
        ("labels=truth,margin_mm=-3", "'margin_mm'"),
        ("labels=truth,colour=red", "'colour'"),
    ],
)
def test_a_side_that_cannot_be_understood_is_refused_by_name(text, message):
    with pytest.raises(DoseError, match=message) as caught:
        parse_side(text, "A")
    assert caught.value.hint


# ---- through the pipeline

GRID = Geometry((26, 26, 40), (6.0, 6.0, 6.0))
KIDNEYS = {"left_kidney": (1, 170.0), "right_kidney": (2, 70.0)}


def patient(folder, name: str, organs: tuple[str, ...]) -> Study:
    """Kidney ellipsoids on one CT; "truth" has their masks, "ai" the left one a voxel row longer."""
    z, y, x = np.meshgrid(*((np.arange(n) + 0.5) * 6.0 for n in GRID.shape), indexing="ij")
    truth = np.zeros(GRID.shape, np.uint8)
    for organ in organs:
        value, center = KIDNEYS[organ]
        truth[((z - 78) / 52) ** 2 + ((y - 78) / 29) ** 2 + ((x - center) / 26) ** 2 <= 1] = value
    ai = truth.copy()
    ai[np.roll(truth == 1, 1, axis=0)] = 1
    hu = np.full(GRID.shape, 30, np.int16)
    hu[truth > 0] = 150
    hu[:, :3] = -1000
    write_image(folder / "ct.nii.gz", Volume(hu, GRID))
    points = []
    blurred = gaussian_filter((truth > 0) * 5e5, 5.1 / 6.0)
    for i, (time, share) in enumerate([(0.5, 0.29), (6.0, 0.92), (24.0, 0.72), (72.0, 0.37)], start=1):
        write_image(folder / f"spect_tp{i}.nii.gz", Volume((blurred * share).astype(np.float32), GRID))
        points.append({"time_h": time, "ct": "ct.nii.gz", "spect": f"spect_tp{i}.nii.gz"})
    write_labels_in(folder / "truth", LabelMap(truth, GRID))
    write_labels_in(folder / "ai", LabelMap(ai, GRID))
    study = Study.model_validate(
        {"schema": "doselabel.study/1", "patient_id": name, "nuclide": "Lu-177", "injected_activity_mbq": 7400,
         "ct": "ct.nii.gz", "time_points": points, "psf_fwhm_mm": (12.0, 12.0, 12.0),
         "organs_absent": tuple(set(KIDNEYS) - set(organs))}
    )  # fmt: skip
    study.save(folder)
    return Study.load(folder)


def write_labels_in(folder, labels: LabelMap) -> None:
    folder.mkdir()
    write_labels(folder / "ct.nii.gz", labels)


@pytest.fixture(scope="module")
def studies(tmp_path_factory):
    made = []
    for name, organs in (("P-1", ("left_kidney", "right_kidney")), ("P-2", ("left_kidney",))):
        folder = tmp_path_factory.mktemp(name)
        made.append(patient(folder, name, organs))
    return made


@pytest.fixture(scope="module")
def compared(studies, tmp_path_factory):
    out = tmp_path_factory.mktemp("compared")
    sides = ([parse_side(f"labels={name},registration=stored,name={title}", "")] for name, title in
             (("truth", "Expert"), ("ai", "AI")))  # fmt: skip
    return compare(studies, *sides, out=out), out


def test_a_larger_mask_weighs_more_and_gets_less_dose(compared):
    comparison, _ = compared
    mass_a, mass_b = comparison.values("mass_g")
    dose_a, dose_b = comparison.values("mean_dose_gy")
    left, right = 0, 1
    assert mass_b[left] == pytest.approx(1.06 * mass_a[left], rel=0.05)
    assert np.all(dose_b[left] < dose_a[left])
    assert dose_b[right, 0] == pytest.approx(dose_a[right, 0], rel=0.01)
    assert np.isnan(dose_a[right, 1])


def test_the_worked_comparison_has_the_papers_tables_and_stars(compared):
    comparison, _ = compared
    masses, doses, *_ = comparison.tables()
    assert masses.rows[1][2] == masses.rows[5][2] == ABSENT
    assert doses.rows[0][0] == "L kidney Expert (Gy)"
    assert "P-2" in comparison.text()


def test_a_name_that_no_label_map_has_is_said_and_an_absent_organ_stays_a_star(compared):
    comparison, _ = compared
    asked = dataclasses.replace(comparison, organs=("left_kidney", "lver", "spleen"))
    (said,) = asked.failures()
    assert said.startswith("lver: in no label map of any patient; is the name right? They have left_kidney")
    assert said in asked.text()


def test_the_files_hold_the_numbers_the_figure_and_the_page(compared):
    comparison, out = compared
    rows = list(csv.DictReader(io.StringIO((out / "compare.csv").read_text("utf-8"))))
    dose = [r for r in rows if (r["patient"], r["organ"], r["quantity"]) == ("P-1", "left_kidney", "mean_dose_gy")]
    a, b = comparison.values("mean_dose_gy")
    assert float(dose[0]["Expert"]) == pytest.approx(a[0, 0], rel=1e-5)
    assert float(dose[0]["difference_percent"]) == pytest.approx(100 * (b[0, 0] / a[0, 0] - 1), rel=1e-3)
    absent = [r for r in rows if (r["patient"], r["organ"]) == ("P-2", "right_kidney")]
    assert all(r["Expert"] == r["AI"] == "" for r in absent)
    assert (out / "compare.png").read_bytes().startswith(b"\x89PNG")
    page = (out / "compare.html").read_text("utf-8")
    assert "Nazari et al. 2021, tables 3 and 4" in page
    assert "data:image/svg+xml;base64," in page


def test_alarms_stand_before_the_tables_and_say_whose_they_are(compared, tmp_path):
    comparison, _ = compared
    (a, *_), (b, *_) = comparison.results_a, comparison.results_b
    mine, shared = finding("label-sides-exchanged", "Exchanged."), finding("activity-in-kilobecquerel", "Too little.")
    odd = replace(
        comparison,
        results_a=(a.model_copy(update={"alarms": [shared]}),),
        results_b=(b.model_copy(update={"alarms": [mine, shared]}),),
    )
    assert [alarm.sentence for alarm in odd.alarms()] == ["P-1: Too little.", "P-1, AI: Exchanged."]
    write_comparison(odd, [], tmp_path)
    page = (tmp_path / "compare.html").read_text("utf-8")
    assert page.index("P-1, AI: Exchanged.") < page.index("Masses</h")
    variant = Variant("Base", "as chosen", odd.results_a[0])
    write_sensitivity(Sensitivity(variant, (), ()), SimpleNamespace(patient_id="P-1"), tmp_path)
    assert "Too little." in (tmp_path / "sensitivity.html").read_text("utf-8")


def test_an_error_names_patient_and_side(studies):
    good = parse_side("labels=truth", "A")
    with pytest.raises(LabelError, match="P-1, other: Labels 'nowhere'"):
        compare(studies[:1], [parse_side("labels=nowhere", "other")], [good])
    with pytest.raises(DoseError, match="no study to compare"):
        compare([], [good], [good])


def test_one_command_makes_tables_3_and_4_of_two_experts_and_the_network(studies, tmp_path, capsys):
    """As in the paper: expert 1 by masks, expert 2 by thresholded volumes corrected by hand, the network by margin."""
    for study in studies:
        grid = study.grid("spect_tp1.nii.gz")
        mask = read_labels(study.folder / "truth" / "ct.nii.gz").array
        drawn = LabelMap(np.where(ndimage.binary_dilation(mask > 0, iterations=1), 1, 0).astype(np.uint8), grid)
        (tmp_path / "vois" / study.patient_id).mkdir(parents=True)
        for number in (1, 2, 3, 4):
            write_labels(tmp_path / "vois" / study.patient_id / voi_name(number), drawn)
    expert = "labels=truth,registration=stored"
    command = [
        "compare", *(str(study.folder) for study in studies),
        "--a", f"preset=expert1,{expert},name=Ex",
        "--a", f"preset=expert2,{expert},vois={tmp_path / 'vois'},patients=P-2",
        "--b", "preset=ai,labels=ai,registration=stored,name=AI", "--out", str(tmp_path / "out"),
    ]  # fmt: skip
    assert cli.main(command) == 0
    text = capsys.readouterr().out
    alarms, masses, doses = text.split("\n\n")[:3]
    assert "P-1: time_points[1].spect" in alarms  # these phantoms have no noise
    for table, label, unit in ((masses, "Mass", "g"), (doses, "Mean dose", "Gy")):
        assert table.splitlines()[0].split("  ")[0] == f"{label} / patient"
        assert [line.split("  ")[0] for line in table.splitlines()[2:]] == [
            f"L kidney Ex ({unit})", f"R kidney Ex ({unit})", f"L kidney AI ({unit})", f"R kidney AI ({unit})",
            "L kidney difference (%)", "R kidney difference (%)", "Mean |difference| (%)",
        ]  # fmt: skip
        means = [float(cell) for cell in table.splitlines()[-1].split("  ")[1:] if cell.strip()]
        assert means[2] == pytest.approx((means[0] + means[1]) / 2, abs=0.1)
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out" / "compare.csv").read_text("utf-8"))))
    tia = {r["patient"]: float(r["Ex"]) for r in rows if (r["organ"], r["quantity"]) == ("left_kidney", "tia_mbq_h")}
    assert 1.0 < tia["P-2"] / tia["P-1"] < 1.1  # a voxel more around the mask holds more of the same activity
    page = (tmp_path / "out" / "compare.html").read_text("utf-8")
    assert "preset expert2" in page
    assert "Ex (P-2)" not in page  # the second side was not named: it has the letter's name
    assert "A (P-2): masks" in page


def test_a_patient_without_a_side_is_refused(studies):
    some, others = parse_side("labels=truth,patients=P-2", "A"), parse_side("labels=truth", "B")
    with pytest.raises(DoseError, match="No side 'A' is for the patient P-1"):
        compare(studies, [some], [others])


def test_volumes_corrected_by_hand_are_read_by_time_point_and_refused_where_they_would_be_ignored(studies, tmp_path):
    study = studies[1]
    with pytest.raises(DoseError, match=r"expected volumes of interest voi_tp1.nii.gz to voi_tp4.nii.gz; found none"):
        read_vois(tmp_path, study)
    drawn = LabelMap(read_labels(study.folder / "truth" / "ct.nii.gz").array, study.grid("spect_tp1.nii.gz"))
    write_labels(tmp_path / voi_name(2), drawn)
    found = read_vois(tmp_path, study)
    assert list(found) == [1]
    with pytest.raises(VoiError, match="'gtm' has none"):
        pipeline.compute(study, study.folder / "truth", edited_vois=found)
    options = DoseOptions.read({"preset": "expert2", "registration": "stored"})
    done = pipeline.compute(study, study.folder / "truth", options, edited_vois=found).results
    assert done.provenance["vois_by_hand"]["time point 2"]["organs"] == ["left_kidney"]
    write_labels(tmp_path / voi_name(5), drawn)
    with pytest.raises(DoseError, match=r"found voi_tp2.nii.gz, voi_tp5.nii.gz"):
        read_vois(tmp_path, study)


def test_labels_may_be_a_folder_of_the_study(studies):
    assert labels_of(studies[0], "truth") == studies[0].folder / "truth"
    assert labels_of(studies[0], "final") == "final"


def test_sensitivity_shows_margins_methods_and_models_beside_the_base(studies, tmp_path):
    base = parse_side("labels=truth,registration=stored,voi=margin,margin_mm=3", "base").options
    result = sensitivity(studies[1], "truth", base, out=tmp_path)
    by_name = {v.name: v for v in result.variants}
    dose = {name: v.results.organs["left_kidney"].mean_dose_gy for name, v in by_name.items() if v.results}
    true = result.base.results.organs["left_kidney"].mean_dose_gy
    assert dose["margin 3 mm"] == pytest.approx(true)
    assert dose["margin 0 mm"] < dose["margin 3 mm"] < dose["margin 6 mm"] < dose["gtm"]
    assert by_name["mono"].results is None
    assert "uptake limb" in by_name["mono"].remark
    assert "no degree of freedom: Left kidney" in by_name["bi"].remark
    assert len(result.table().rows) == 12
    lines = (tmp_path / "sensitivity.csv").read_text("utf-8").splitlines()
    assert len(lines) == 13
    assert "margin 6 mm" in (tmp_path / "sensitivity.html").read_text("utf-8")
