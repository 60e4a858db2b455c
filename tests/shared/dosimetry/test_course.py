"""Cycles added up: sums, correlated and independent errors, what remains, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from doselabel.alarms import finding
from doselabel.cli import main
from doselabel.dosimetry.course import course, read_cycles, summed_sd
from doselabel.errors import DoseError
from doselabel.wire import CourseResults, DoseResults, DvhCurve, OrganDose, TimeActivity

PERCENT = {"calibration": 5.0, "volume": 6.0, "fit": 4.0}
SD = math.sqrt(25 + 36 + 16) / 100


def organ(dose_gy: float, *, bed: bool = True) -> OrganDose:
    x = 0.05 * dose_gy / 2.6
    return OrganDose(
        volume_ml=150, density_g_cm3=1.06, mass_g=159, activity_mbq=[dose_gy * 20, dose_gy * 10], tia_mbq_h=100,
        tia_sd_mbq_h=8, effective_half_life_h=50, mean_dose_gy=dose_gy, dose_sd_gy=SD * dose_gy,
        dose_gy_by_engine={"voxel-s": dose_gy}, dose_gy_per_gbq=dose_gy / 7.4,
        bed_gy=dose_gy * (1 + x) if bed else None, bed_sd_gy=SD * dose_gy * (1 + 2 * x) if bed else None,
        dvh=DvhCurve(dose_gy=[0, 1], volume_percent=[100, 0], d_gy={}, min_gy=0, max_gy=1, mean_gy=1),
        tac=TimeActivity(
            model="mono", parameters={}, time_h=[24, 72], activity_mbq=[2, 1], residual_mbq=[0, 0],
            curve_time_h=[0], curve_activity_mbq=[0], extrapolated_fraction=0.3, degrees_of_freedom=0,
        ),
        uncertainty_percent=PERCENT,
    )  # fmt: skip


def write(
    folder: Path,
    name: str,
    doses: dict[str, float],
    *,
    patient: str = "P-1",
    when: str | None = None,
    cycle: int | None = None,
    bed: bool = True,
) -> None:
    results = DoseResults(
        patient_id=patient, nuclide="Lu-177", injected_activity_mbq=7400, injection_time=when, cycle=cycle,
        time_h=[24, 72], organs={n: organ(d, bed=bed) for n, d in doses.items()}, options={"voi": "gtm"},
        provenance={}, reviewed=True,
    )  # fmt: skip
    (folder / name).mkdir(parents=True)
    (folder / name / "results.json").write_text(results.model_dump_json(by_alias=True), encoding="utf-8")


@pytest.fixture
def four(tmp_path: Path) -> Path:
    for i, dose in enumerate((5.0, 4.0, 4.5, 5.5)):
        write(tmp_path, f"c{i + 1}", {"left_kidney": dose, "liver": dose / 4}, when=f"2026-0{4 - i}-02T09:00:00")
    return tmp_path


def test_doses_and_beds_add_up_in_the_order_of_injection(four: Path) -> None:
    found = course(read_cycles(four))
    assert [c.name for c in found.cycles] == ["c4", "c3", "c2", "c1"]
    kidney = found.organs["left_kidney"]
    assert kidney.dose_gy == [5.5, 4.5, 4.0, 5.0]
    assert kidney.total_dose_gy == pytest.approx(19.0)
    assert kidney.total_bed_gy == pytest.approx(sum(d * (1 + 0.05 * d / 2.6) for d in (5.0, 4.0, 4.5, 5.5)))
    assert found.warnings == []


def test_common_errors_add_linearly_and_new_ones_in_quadrature(four: Path) -> None:
    doses = (5.0, 4.0, 4.5, 5.5)
    squares = sum(d**2 for d in doses)
    expected = 0.05**2 * 19**2 + 0.06**2 * (0.6 * 19**2 + 0.4 * squares) + 0.04**2 * squares
    assert course(read_cycles(four)).organs["left_kidney"].total_dose_sd_gy == pytest.approx(math.sqrt(expected))
    assert summed_sd([{"calibration": 1.0}] * 4) == pytest.approx(4.0)
    assert summed_sd([{"counts": 1.0}] * 4) == pytest.approx(2.0)
    assert summed_sd([{"a source of a later version": 1.0}] * 4) == pytest.approx(4.0)


def test_what_remains_to_a_limit_is_the_difference_with_the_sums_uncertainty(four: Path) -> None:
    found = course(read_cycles(four), limits_gy={"kidneys": 23.0}, limits_bed_gy={"left_kidney": 18.0})
    dose, bed = found.organs["left_kidney"].constraints
    assert (dose.kind, dose.remains_gy, dose.cycles_like_last) == ("dose", pytest.approx(4.0), pytest.approx(0.8))
    assert dose.remains_sd_gy == found.organs["left_kidney"].total_dose_sd_gy
    assert dose.likely_exceeded_percent < 5
    assert bed.remains_gy < 0
    assert bed.likely_exceeded_percent > 50
    assert bed.cycles_like_last == 0
    assert found.organs["liver"].constraints == []


def test_an_organ_without_a_dose_in_one_cycle_has_no_remainder(four: Path) -> None:
    write(four, "c5", {"liver": 1.0}, when="2026-06-02T09:00:00")
    found = course(read_cycles(four), limits_gy={"left_kidney": 23.0})
    kidney = found.organs["left_kidney"]
    assert kidney.missing == ["c5"]
    assert kidney.dose_gy[-1] is None
    assert kidney.constraints == []
    assert any("c5" in text and "too low" in text for text in found.warnings)
    assert found.organs["liver"].missing == []


def test_a_cycle_without_a_bed_leaves_no_sum_of_beds(four: Path) -> None:
    write(four, "c5", {"left_kidney": 3.0}, when="2026-06-02T09:00:00", bed=False)
    found = course(read_cycles(four), limits_bed_gy={"left_kidney": 40.0})
    assert found.organs["left_kidney"].total_bed_gy is None
    assert found.organs["left_kidney"].constraints[0].remains_gy is None


def test_other_patients_copies_and_limits_of_no_organ_are_refused(four: Path) -> None:
    with pytest.raises(DoseError, match="limit for 'spleen'"):
        course(read_cycles(four), limits_gy={"spleen": 20.0})
    write(four, "c5", {"left_kidney": 3.0, "liver": 1.0}, patient="P-2")
    with pytest.raises(DoseError, match="P-1, P-2"):
        course(read_cycles(four))
    assert course(read_cycles(four), patient="P-1").organs["left_kidney"].total_dose_gy == pytest.approx(22.0)
    write(four, "copy", {"left_kidney": 5.0, "liver": 1.25})
    with pytest.raises(DoseError, match="same activities"):
        course(read_cycles(four), patient="P-1")


@pytest.mark.parametrize(
    ("twice", "said"),
    [
        ({"cycle": 2}, "'a' and 'b' are both stated to be cycle 2"),
        ({"when": "2026-03-02T09:15:00"}, "'a' and 'b' have the same injection_time, 2026-03-02 09:15"),
    ],
)
def test_one_cycle_computed_twice_is_not_added_up(twice: dict, said: str, tmp_path: Path) -> None:
    write(tmp_path, "a", {"liver": 1.0}, **twice)
    write(tmp_path, "b", {"liver": 1.2}, **twice)  # by another method, say
    with pytest.raises(DoseError, match=said) as caught:
        course(read_cycles(tmp_path))
    assert "leave one of them out" in caught.value.hint


def test_cycles_stand_in_the_order_of_their_numbers_where_times_are_not_stated(tmp_path: Path) -> None:
    for name, number in (("first", 2), ("second", 1)):
        write(tmp_path, name, {"liver": float(number)}, cycle=number)
    found = course(read_cycles(tmp_path))
    assert [(c.name, c.cycle) for c in found.cycles] == [("second", 1), ("first", 2)]
    assert found.alarms == []
    assert any("in the order of their numbers" in text for text in found.warnings)


def test_numbers_that_contradict_the_times_are_named(tmp_path: Path) -> None:
    write(tmp_path, "a", {"liver": 1.0}, cycle=2, when="2026-01-02T09:00:00")
    write(tmp_path, "b", {"liver": 1.1}, cycle=1, when="2026-03-02T09:00:00")
    (text,) = course(read_cycles(tmp_path)).warnings
    assert "'a' is stated to be cycle 2 and was injected before 'b', cycle 1" in text


def test_a_number_that_is_missing_is_an_alarm_and_nothing_is_said_of_what_remains(tmp_path: Path) -> None:
    for number in (2, 4):
        write(tmp_path, f"c{number}", {"liver": 1.0 + number}, cycle=number)
    found = course(read_cycles(tmp_path), limits_gy={"liver": 30.0})
    (alarm,) = found.alarms
    assert alarm.code == "course-incomplete"
    assert "Of the cycles 1, 3 2 are not among" in alarm.sentence
    assert found.organs["liver"].total_dose_gy == pytest.approx(8.0)
    assert found.organs["liver"].constraints[0].remains_gy is None
    write(tmp_path, "x", {"liver": 1.5})  # these may be the two
    write(tmp_path, "y", {"liver": 1.6})
    found = course(read_cycles(tmp_path), limits_gy={"liver": 30.0})
    assert found.alarms == []
    assert found.organs["liver"].constraints[0].remains_gy == pytest.approx(30 - 11.1)


def test_a_folder_into_which_nothing_was_computed_is_an_alarm(four: Path, capsys: pytest.CaptureFixture) -> None:
    (four / "c5").mkdir()
    (four / ".cache").mkdir()
    for _ in range(2):  # the second time the course's own folder lies there, too
        assert main(["course", str(four), "--limit", "kidneys:23"]) == 0
        said = capsys.readouterr().out
        assert said.startswith("1 alarm(s)"), said
        assert "'c5' has no results and is not in the sums" in said
        assert "dose 23 Gy: not known" in said


def test_a_limit_that_is_near_is_an_alarm_that_doubts_no_dose(four: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["course", str(four), "--limit", "kidneys:20", "--limit", "liver:50"]) == 0
    said = capsys.readouterr().out
    assert said.startswith("ALARM: Left kidney: of the dose limit of 20 Gy 1.0 ± "), said
    assert "probably wrong" not in said
    (alarm,) = json.loads((four / "course" / "results.json").read_text("utf-8"))["alarms"]
    assert (alarm["code"], alarm["organ"]) == ("limit-near", "left_kidney")


def test_an_empty_folder_and_a_damaged_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(DoseError, match="holds no results of a cycle"):
        read_cycles(tmp_path)
    (tmp_path / "c1").mkdir()
    (tmp_path / "c1" / "results.json").write_text("{}", encoding="utf-8")
    with pytest.raises(DoseError, match="can't be read as a cycle's results"):
        read_cycles(tmp_path)


def test_an_alarm_of_a_cycle_stands_first_in_the_course(four: Path, capsys: pytest.CaptureFixture) -> None:
    file = read_cycles(four)[1].file
    results = DoseResults.model_validate_json(file.read_text("utf-8"))
    told = [finding("activity-in-kilobecquerel", "The totals fit if values are kBq/mL.")]
    file.write_text(results.model_copy(update={"alarms": told}).model_dump_json(by_alias=True), "utf-8")
    assert main(["course", str(four)]) == 0
    said, name = capsys.readouterr().out, file.parent.name
    assert said.startswith("1 alarm(s)"), said
    assert f"{name}: The totals fit" in said
    page = (four / "course" / "report.html").read_text("utf-8")
    assert page.index("The totals fit") < page.index("Over all cycles</h")
    assert json.loads((four / "course" / "results.json").read_text("utf-8"))["alarms"][0]["code"] == told[0].code


def test_the_command_writes_report_and_results_and_can_be_repeated(four: Path, capsys: pytest.CaptureFixture) -> None:
    arguments = ["course", str(four), "--limit", "kidneys:20", "--limit-bed", "kidneys:40"]
    assert main(arguments) == 0
    first = CourseResults.model_validate_json((four / "course" / "results.json").read_bytes())
    assert first.organs["left_kidney"].total_dose_gy == pytest.approx(19.0)
    page = (four / "course" / "report.html").read_text("utf-8")
    assert "limit is reached" in page  # 19 Gy of 20, ± 1.6
    assert "19.0" in page
    assert (four / "course" / "report.pdf").stat().st_size > 5000
    assert main(arguments) == 0
    assert len(CourseResults.model_validate_json((four / "course" / "results.json").read_bytes()).cycles) == 4
    assert "left kidney" in capsys.readouterr().out.lower()
    with pytest.raises(SystemExit, match="2"):
        main(["course", str(four), "--limit", "kidneys"])
