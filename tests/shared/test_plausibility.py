"""What a study's SPECTs can't be: each situation its own alarm with its numbers, and none on a good patient."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from doselabel.cli import main
from doselabel.errors import StudyError
from doselabel.geometry import Geometry, Volume, read_image, write_image
from doselabel.nuclides import nuclide
from doselabel.plausibility import judge
from doselabel.reading import read_spect
from doselabel.spect_figures import look
from doselabel.study import Study
from tests.samples import sample

TIMES_H = (0.5, 6.0, 24.0, 72.0)
LUTETIUM = nuclide("Lu-177")
DECAY = LUTETIUM.decay_constant_per_h
Images = list[np.ndarray]
Spoil = Callable[[Images], Images]
Reading = Callable[[Volume], Volume]


@pytest.fixture(scope="module")
def patient() -> Study:
    return Study.load(sample(1))


@pytest.fixture(scope="module")
def spects(patient: Study) -> list[Volume]:
    return [read_spect(patient, i) for i in range(4)]


@pytest.fixture
def folder(patient: Study, tmp_path: Path) -> Path:
    return Path(shutil.copytree(patient.folder, tmp_path / "P", ignore=shutil.ignore_patterns("truth")))


def times(factor: float) -> Spoil:
    return lambda images: [image * np.float32(factor) for image in images]


def corrected_to(hour: float) -> Spoil:
    return lambda images: [v * np.float32(np.exp(DECAY * (t - hour))) for v, t in zip(images, TIMES_H, strict=True)]


def clipped(at: float) -> Spoil:
    return lambda images: [np.minimum(image, at * image.max()) for image in images]


def in_order(*order: int) -> Spoil:
    return lambda images: [images[k] for k in order]


def one(k: int, factor: float) -> Spoil:
    return lambda images: [image * np.float32(factor if i == k else 1) for i, image in enumerate(images)]


def again(k: int, source: int, factor: float = 1.0) -> Spoil:
    return lambda images: [images[source] * np.float32(factor) if i == k else v for i, v in enumerate(images)]


def counts(images: Images) -> Images:
    return [np.round(image / 2000) for image in images]


def judged(patient: Study, spects: list[Volume], spoil: Spoil, times_h=TIMES_H, which=(0, 1, 2, 3)) -> list:
    images = spoil([spect.array for spect in spects])
    scans = [
        look(Volume(images[k].astype(np.float32), spects[k].geometry), n, f"spect_tp{k + 1}.nii.gz", times_h[k])
        for n, k in enumerate(which)
    ]
    return judge(scans, LUTETIUM, patient.injected_activity_mbq)


def test_a_good_patient_is_passed_over_in_silence(patient, spects):
    assert patient.check() == []
    assert judged(patient, spects, times(1.0), which=(2, 3)) == []
    assert judged(patient, spects, times(1.0), which=(2,)) == []


@pytest.mark.parametrize(
    ("spoil", "code"),
    [
        (times(1e-3), "activity-in-kilobecquerel"),
        (times(1e-6), "activity-in-megabecquerel"),
        (times(0.1106), "activity-in-becquerel-per-voxel"),
        (times(1 / 60), "activity-per-minute"),
        (times(0.37), "activity-in-millicurie"),
        (times(37.0), "activity-in-curie"),
        (times(1e-9), "activity-below-injected"),
        (times(3.0), "activity-high-everywhere"),
        (counts, "activity-in-counts"),
        (corrected_to(0.0), "activity-decay-corrected"),
        (corrected_to(0.5), "activity-decay-corrected"),
        (in_order(0, 1, 3, 2), "times-exchanged"),
        (in_order(2, 1, 0, 3), "times-exchanged"),
        (in_order(3, 2, 1, 0), "times-exchanged"),
        (again(3, 2), "spect-twice"),
        (again(1, 0, 0.8), "spect-twice"),
        (clipped(0.5), "spect-clipped"),
        (clipped(0.85), "spect-clipped"),
        (one(2, 2.0), "activity-rises"),
        (one(2, 0.5), "activity-rises"),
    ],
)
def test_each_situation_has_its_own_alarm_with_numbers(patient, spects, spoil, code):
    found = judged(patient, spects, spoil)
    alarm = next((alarm for alarm in found if alarm.code == code), None)
    assert alarm is not None, found
    assert alarm.severity == "alarm"
    assert alarm.numbers
    assert alarm.what_to_do


@pytest.mark.parametrize(
    ("factor", "cause"),
    [
        (1e-3, "kBq/mL"),
        (0.1106, "Bq per voxel"),
        (1 / 60, "60 times too small"),
        (0.37, "0.37 times too small"),
        (1 / 27.03, "27 times too small"),
        (37.0, "37 times too large"),
        (60.0, "60 times too large"),
    ],
)
def test_of_a_patient_of_lower_uptake_the_true_slip_is_still_named(patient, spects, factor, cause):
    (alarm,) = judged(patient, spects, times(0.7 * factor))
    assert cause in alarm.sentence
    assert alarm.sentence.count(" too ") <= 2  # and not all that there are
    if cause == "Bq per voxel":
        assert alarm.code == "activity-in-becquerel-per-voxel"


@pytest.mark.parametrize("factor", [60, 1 / 24])
def test_times_in_another_unit_are_named(patient, spects, factor):
    (alarm,) = judged(patient, spects, times(1.0), tuple(factor * t for t in TIMES_H))
    assert alarm.code == "times-in-other-unit"
    assert ("minutes" if factor > 1 else "days") in alarm.sentence


def rewritten(folder: Path, number: int, change: Reading) -> None:
    """Change a SPECT in its file."""
    file = folder / f"spect_tp{number}.nii.gz"
    write_image(file, change(read_image(file)))


def flipped(axis: int) -> Reading:
    return lambda spect: Volume(np.flip(spect.array, axis).copy(), spect.geometry)


def resized(factor: float) -> Reading:
    """Another spacing in the header, the origin kept."""

    def change(spect: Volume) -> Volume:
        old = spect.geometry
        spacing = tuple(factor * s for s in old.spacing_mm)
        return Volume(spect.array, Geometry(old.shape, spacing, old.origin_mm, old.direction))

    return change


@pytest.mark.parametrize(
    ("change", "which", "code"),
    [
        (flipped(0), (1,), "place-turned"),
        (flipped(0), (1, 2, 3, 4), "place-turned"),
        (flipped(2), (3,), "place-turned"),
        (flipped(2), (1, 2, 3, 4), "place-turned"),
        (flipped(1), (1, 2, 3, 4), "place-turned"),
        (resized(0.8), (1, 2, 3, 4), "place-size"),
        (resized(1.25), (1, 2, 3, 4), "place-size"),
    ],
)
def test_a_spect_that_lies_wrong_is_named_before_there_are_masks(folder, change, which, code):
    for number in which:
        rewritten(folder, number, change)
    alarms = [alarm for alarm in Study.load(folder).check() if alarm.severity == "alarm"]
    assert {alarm.code for alarm in alarms} == {code}
    assert {alarm.time_point + 1 for alarm in alarms} <= set(which)


@pytest.mark.parametrize("number", [2, 4])
def test_another_patients_spect_is_named_before_there_are_masks(folder, number):
    theirs = read_image(sample(4) / f"spect_tp{number}.nii.gz")
    rewritten(
        folder, number, lambda spect: Volume(theirs.array * (spect.array.sum() / theirs.array.sum()), theirs.geometry)
    )
    (alarm,) = [alarm for alarm in Study.load(folder).check() if alarm.severity == "alarm"]
    assert (alarm.code, alarm.time_point) == ("place-implausible", number - 1)


def test_the_scan_whose_noise_is_off_is_the_one_that_is_named(patient, spects):
    assert judged(patient, spects, one(2, 0.5))[-1].time_point == 2
    assert "exchanged" not in str(judged(patient, spects, one(1, 2.0)))


def test_the_two_exchanged_files_are_named(patient, spects):
    (alarm,) = judged(patient, spects, in_order(0, 3, 2, 1))
    assert "spect_tp2.nii.gz" in alarm.sentence
    assert "spect_tp4.nii.gz" in alarm.sentence


def test_late_studies_of_two_scans_are_judged_too(patient, spects):
    for spoil in (times(1e-3), times(0.37), times(3.0), corrected_to(0.0), in_order(0, 1, 3, 2)):
        found = judged(patient, spects, spoil, which=(2, 3))
        assert [alarm.severity for alarm in found] == ["alarm"], found


def test_a_real_patient_of_low_uptake_is_no_alarm_at_any_usual_time():
    """235 MBq in the organs of a real patient at 24 h (T½ 55 h), nothing between them, 40 cm in view."""
    grid = Geometry((90, 70, 108), (4.42, 3.91, 3.91))
    shape = np.zeros(grid.shape, np.float32)
    shape[30:60, 20:50, 20:80] = np.random.default_rng(0).gamma(4, 0.25, (30, 30, 60))
    shape *= 1e6 / (shape.sum() * grid.voxel_volume_ml)
    for times_h in ((4, 24, 72), (24, 96, 168), (24,)):
        rng = np.random.default_rng(1)
        scans = []
        for k, time_h in enumerate(times_h):
            mbq = 235 * 0.5 ** ((time_h - 24) / 55)
            noisy = mbq * shape * rng.normal(1, 0.1, grid.shape).astype(np.float32)
            scans.append(look(Volume(noisy, grid), k, "x", time_h))
        assert judge(scans, LUTETIUM, 7400.0) == []


def test_a_painted_image_has_plateaus_and_repeats_itself_without_being_wrong(patient, spects):
    found = judged(patient, spects, lambda images: [np.where(v > 1e5, 1e5 * np.exp(-t / 60), 300) for v, t in
                                                    zip(images, TIMES_H, strict=True)])  # fmt: skip
    assert not [alarm for alarm in found if alarm.code.startswith("spect-")]


def test_negative_noise_is_counted_as_zero_and_said_as_a_note(folder):
    path = folder / "spect_tp4.nii.gz"
    spect = read_image(path)
    noisy = spect.array + np.random.default_rng(3).normal(0, 0.01 * spect.array.max(), spect.array.shape)
    write_image(path, Volume(noisy.astype(np.float32), spect.geometry))
    notes = [alarm for alarm in Study.load(folder).check() if alarm.code == "spect-negative"]
    assert [note.severity for note in notes] == ["note"]
    assert notes[0].numbers["negative_voxels"] == np.count_nonzero(noisy < 0)


def test_a_ct_given_as_spect_is_refused(folder):
    shutil.copy(folder / "ct_tp2.nii.gz", folder / "spect_tp2.nii.gz")
    with pytest.raises(StudyError, match=r"spect_tp2.nii.gz.*negative"):
        Study.load(folder).check()


@pytest.mark.parametrize("convention", ["injection", "first_scan", "scan_start"])
def test_a_stated_decay_correction_is_undone_wherever_the_spect_is_read(folder, convention):
    before = [read_spect(Study.load(folder), i).array for i in range(4)]
    for k, time_h in enumerate(TIMES_H):
        elapsed_h = {"injection": time_h, "first_scan": time_h - 0.5, "scan_start": 0.25}[convention]
        path = folder / f"spect_tp{k + 1}.nii.gz"
        spect = read_image(path)
        write_image(path, Volume((spect.array * np.exp(DECAY * elapsed_h)).astype(np.float32), spect.geometry))
    change(folder, lambda content: content.update(decay_corrected_to=convention))
    change(folder, lambda content: [point.update(scan_duration_min=30) for point in content["time_points"]])
    study = Study.load(folder)
    assert study.check() == []
    for k in range(4):
        np.testing.assert_allclose(read_spect(study, k).array, before[k], rtol=3e-7)


def test_a_study_that_states_nothing_is_read_to_the_last_digit(patient):
    for k, point in enumerate(patient.time_points):
        np.testing.assert_array_equal(read_spect(patient, k).array, patient.read(point.spect).array)


def test_start_of_scan_without_duration_is_a_note(folder):
    change(folder, lambda content: content.update(decay_corrected_to="scan_start"))
    assert [alarm.code for alarm in Study.load(folder).check()] == ["scan-duration-unknown"]


# ---- `study check`: as strict as the strictest user of a study


def change(folder: Path, edit: Callable[[dict], object]) -> None:
    content = json.loads((folder / "study.json").read_text("utf-8"))
    edit(content)
    (folder / "study.json").write_text(json.dumps(content))


def test_cts_of_one_name_in_two_folders_are_refused_as_the_server_does(folder, capsys):
    for k in (3, 4):
        (folder / f"tp{k}").mkdir()
        (folder / f"ct_tp{k}.nii.gz").rename(folder / f"tp{k}" / "scan.nii.gz")
        change(folder, lambda content, k=k: content["time_points"][k - 1].update(ct=f"tp{k}/scan.nii.gz"))
    assert main(["study", "check", str(folder)]) == 2
    said = capsys.readouterr().err
    assert "'tp3/scan.nii.gz', 'tp4/scan.nii.gz'" in said
    assert "Traceback" not in said


def test_two_studies_of_one_patient_id_are_both_named(small_study, capsys):
    twin = small_study.folder.parent / "again"
    shutil.copytree(small_study.folder, twin)
    assert main(["study", "check", str(twin.parent)]) == 2
    said = capsys.readouterr()
    assert "'patient_id' is 'P-001', as in 'again'" in said.err
    assert "2 studies: 0 ok, 0 with alarms, 2 not usable" in said.out


def test_what_a_dose_would_refuse_is_refused_all_at_once(small_study, capsys):
    change(small_study.folder, lambda content: content.update(nuclide="I-124"))
    change(small_study.folder, lambda content: content["time_points"][1].update(exclude={"1 kidney": "ct_tp2.nii.gz"}))
    (small_study.folder / "spect_tp3.nii.gz").write_text("hello")
    assert main(["study", "check", str(small_study.folder)]) == 2
    said = capsys.readouterr().err
    for place in ("field 'nuclide': Nuclide 'I-124'", "exclude.1 kidney", "time_points[2].spect"):
        assert place in said


def test_minutes_beyond_any_scan_are_refused_with_that_guess(small_study):
    change(small_study.folder, lambda content: content["time_points"][3].update(time_h=4320))
    with pytest.raises(StudyError, match=r"time_points\[3\].time_h.*minutes"):
        Study.load(small_study.folder)


def test_an_alarm_ends_with_code_1_a_table_and_json(folder, small_study, capsys):
    path = folder / "spect_tp4.nii.gz"
    spect = read_image(path)
    write_image(path, Volume(np.minimum(spect.array, 0.5 * spect.array.max()), spect.geometry))
    assert main(["study", "check", str(folder)]) == 1
    said = capsys.readouterr().out
    assert "[spect-clipped] →" in said
    assert "% of injected" in said
    assert main(["study", "check", str(folder), "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["schema"] == "doselabel.check/1"
    (study,) = report["studies"]
    assert study["state"] == "alarm"
    assert study["alarms"][0]["code"] == "spect-clipped"
    assert study["alarms"][0]["time_point"] == 3
    assert study["time_points"][2]["percent_of_injected"] == pytest.approx(7, abs=3)


# ---- amounts: the injected activity's unit, one scan of low uptake, whole bodies, fields that show no trunk


def scans_of(totals_mbq: dict[float, float], shape=(90, 70, 108), spacing_mm=4.4) -> list:
    """A block of activity in a trunk, or from head to thigh, by hours after injection."""
    grid = Geometry(shape, (spacing_mm,) * 3)
    block = np.zeros(grid.shape, np.float32)
    part = block[30:60, 20:50, 20:80] if shape[0] < 300 else block[30:300, 20:50, 20:80]
    part[:] = np.random.default_rng(0).gamma(4, 0.25, part.shape)
    block *= 1e6 / (block.sum() * grid.voxel_volume_ml)
    return [
        look(Volume(mbq * block * np.random.default_rng(k + 1).normal(1, 0.1, shape).astype(np.float32), grid), k,
             f"{k}", time_h)
        for k, (time_h, mbq) in enumerate(totals_mbq.items())
    ]  # fmt: skip


@pytest.mark.parametrize(("stated", "unit"), [(7.4, "7.4 GBq"), (200.0, "200 mCi")])
def test_an_injected_activity_in_another_unit_is_named_and_not_the_spect(stated, unit):
    (alarm,) = judge(scans_of({4: 900, 24: 500, 72: 220}), LUTETIUM, stated)
    assert alarm.code == "injected-activity-unit"
    assert unit in alarm.sentence
    assert pytest.approx(alarm.numbers["factor"] * stated) == 7400


def test_one_scan_a_little_below_any_patients_is_a_warning_and_several_are_an_alarm():
    (warning,) = judge(scans_of({4: 235}), LUTETIUM, 7400.0)  # a real patient's organs, at a time that is assumed
    assert (warning.code, warning.severity) == ("activity-unusually-low", "warning")
    assert warning.numbers["share_of_injected"] == pytest.approx(0.0323, abs=3e-4)
    assert judge(scans_of({24: 235}), LUTETIUM, 7400.0) == []
    (alarm,) = judge(scans_of({4: 140}), LUTETIUM, 7400.0)
    assert alarm.severity == "alarm"
    (alarm,) = judge(scans_of({4: 235, 24: 170}), LUTETIUM, 7400.0)
    assert alarm.severity == "alarm"


def test_a_whole_body_before_voiding_sees_a_scale_a_third_too_low():
    whole = {"shape": (330, 70, 108)}
    assert judge(scans_of({1: 6900}, **whole), LUTETIUM, 7400.0) == []
    (found,) = judge(scans_of({1: 0.65 * 6900}, **whole), LUTETIUM, 7400.0)
    assert found.code == "activity-unusually-low"
    (found,) = judge(scans_of({1: 0.37 * 6900}, **whole), LUTETIUM, 7400.0)
    assert found.severity == "alarm"


def test_what_is_too_small_to_be_judged_says_so():
    (note,) = judge(scans_of({24: 235}, spacing_mm=2.0), LUTETIUM, 7400.0)
    assert (note.code, note.severity) == ("activity-unchecked", "note")


def test_one_file_for_two_time_points_is_named_however_plain_it_is():
    scans = scans_of({24: 235, 72: 130})
    flat = np.where(scans[0].sample > 0, np.float32(1e5), 0)
    twice = [replace(scan, sample=flat, distinct=1, file="spect.nii.gz") for scan in scans]
    assert "spect-twice" in [alarm.code for alarm in judge(twice, LUTETIUM, 7400.0)]
