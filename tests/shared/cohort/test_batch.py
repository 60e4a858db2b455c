"""`doselabel batch` by this process alone: what is kept, what is done again, what fails, and what the tables say."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from pyarrow import parquet

from doselabel.cli import main
from doselabel.cohort.agreement import agreement
from doselabel.cohort.patient import Job
from doselabel.cohort.rows import Row, marked, modified_z
from doselabel.cohort.run import Interrupted, run, studies_of
from doselabel.geometry import read_image
from doselabel.labels import LabelMap, read_labels, write_labels
from doselabel.model.datasets import cases_from
from doselabel.study import Study
from doselabel.versions import LabelStore
from doselabel.wire import LabelReview, LabelSubmission
from tests.shared.cohort.makers import make_patient

FAST = ("--workers", "0", "--registration", "stored", "--no-report")


def batch(studies: Path, out: Path, *more: str) -> int:
    return main(["batch", str(studies), "--out", str(out), *FAST, *more])


def began(out: Path) -> dict[str, str]:
    return {str(p.relative_to(out)): json.loads(p.read_text("utf-8"))["began"] for p in out.glob("*/*.json")}


@pytest.fixture
def three(tmp_path):
    for number in range(3):
        make_patient(tmp_path / "studies" / f"P-{number}", number)
    return tmp_path / "studies"


@pytest.fixture
def submitted(three):
    """Three patients whose label maps were submitted."""
    for folder in Study.find(three):
        study = Study.load(folder)
        store, labels = LabelStore.of(study, "ct.nii.gz"), read_labels(folder / "labels" / "final" / "ct.nii.gz")
        store.add(labels, LabelSubmission(author="ann"))
    return three


def test_only_what_changed_is_done_again(three, tmp_path):
    out = tmp_path / "out"
    assert batch(three, out) == 0
    first = began(out)
    assert len(first) == 6
    assert batch(three, out) == 0
    assert began(out) == first

    (three / "P-0" / "ct.nii.gz").touch()  # the same content at another time
    mask = three / "P-1" / "labels" / "final" / "ct.nii.gz"
    labels = read_labels(mask)
    array = labels.array.copy()
    array[15] = 0
    write_labels(mask, LabelMap(array, labels.geometry))
    (out / "P-2" / "dose" / "dose.nii.gz").unlink()
    assert batch(three, out) == 0
    again = {name for name, at in began(out).items() if at != first[name]}
    assert again == {"P-1/register.json", "P-1/dose.json", "P-2/dose.json"}

    assert batch(three, out, "--alpha-beta-gy", "left_kidney:3") == 0
    assert not set(began(out).values()) & set(first.values())


def test_one_bad_patient_stops_nobody_and_is_named(three, tmp_path, capsys):
    out, spect = tmp_path / "out", three / "P-1" / "spect_tp2.nii.gz"
    whole = spect.read_bytes()
    spect.write_bytes(whole[: len(whole) // 2])
    assert batch(three, out) == 1
    said = capsys.readouterr().out
    assert "P-1: register:" in said
    assert "spect_tp2.nii.gz" in said
    assert "2 of 3 patients done" in said
    with (out / "cohort.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [(row["study"], row["state"]) for row in rows if row["state"] != "done"] == [("P-1", "failed")]
    assert "What failed" in (out / "cohort.html").read_text("utf-8")
    first = began(out)
    spect.write_bytes(whole)
    assert batch(three, out) == 0
    assert {name: at for name, at in began(out).items() if name in first} == first


def test_ctrl_c_leaves_what_is_done_and_the_same_command_goes_on(three, tmp_path, monkeypatch):
    out = tmp_path / "out"
    jobs = [Job(study, out, ("dose",), options={"registration": "stored"}, report=False) for study in studies_of(three)]

    def stop(stage: str, fraction: float) -> None:
        if fraction > 0.5:
            raise KeyboardInterrupt

    with pytest.raises(Interrupted) as caught:
        run(jobs, workers=0, progress=stop)
    assert [outcome.name for outcome in caught.value.outcomes] == ["P-0", "P-1"]
    stages = []
    outcomes = run(jobs, workers=0, progress=lambda stage, fraction: stages.append(stage))
    assert [bool(outcome.computed) for outcome in outcomes] == [False, False, True]
    assert stages[-1].startswith("3 of 3 patients, P-2")

    shutil.rmtree(out / "P-2")
    monkeypatch.setattr("doselabel.cli._terminal", lambda: stop)
    assert batch(three, out, "--tasks", "dose") == 130
    with (out / "cohort.csv").open(encoding="utf-8") as file:
        assert [row["state"] for row in csv.DictReader(file)][-1] == "not done"


def test_the_tables_say_what_the_results_do(three, tmp_path):
    out = tmp_path / "out"
    assert batch(three, out) == 0
    table = parquet.read_table(out / "cohort.parquet")
    assert str(table.schema.field("mean_dose_gy").type) == "double"
    rows = table.to_pylist()
    assert [(row["study"], row["organ"]) for row in rows] == [
        (f"P-{n}", organ) for n in range(3) for organ in ("left_kidney", "right_kidney")
    ]
    for row in rows:
        results = json.loads((out / row["study"] / "dose" / "results.json").read_text("utf-8"))
        organ = results["organs"][row["organ"]]
        assert row["mean_dose_gy"] == organ["mean_dose_gy"]
        assert row["volume_ml"] == organ["volume_ml"]
        assert row["injected_activity_mbq"] == results["injected_activity_mbq"]
    page = (out / "cohort.html").read_text("utf-8")
    assert "Distributions" in page
    assert "dose/report.html" not in page  # there is none


def test_a_report_is_linked(three, tmp_path):
    out = tmp_path / "out"
    for name in ("P-1", "P-2"):
        shutil.rmtree(three / name)
    assert main(["batch", str(three), "--out", str(out), "--workers", "0", "--registration", "stored"]) == 0
    assert 'href="P-0/dose/report.html"' in (out / "cohort.html").read_text("utf-8")
    assert (out / "P-0" / "dose" / "report.html").is_file()


def test_final_labels_become_a_dataset_that_training_reads(submitted, tmp_path):
    out = tmp_path / "out"
    assert batch(submitted, out, "--tasks", "train-data") == 0
    cases = cases_from(out / "dataset")
    assert [case.patient for case in cases] == ["P-0", "P-1", "P-2"]
    for case in cases:
        study = submitted / case.patient
        assert np.array_equal(read_labels(case.labels).array, read_labels(study / "labels/final/ct.nii.gz").array)
        assert case.ct.read_bytes() == (study / "ct.nii.gz").read_bytes()
    with (out / "dataset" / "index.csv").open() as file:
        assert [(row["patient_id"], row["author"]) for row in csv.DictReader(file)] == [
            (f"P-{n}", "ann") for n in range(3)
        ]


def test_the_network_against_final_labels(submitted, tmp_path):
    """The masks of an earlier `segment`, one slice smaller: volumes and doses of both are compared."""
    out = tmp_path / "out"
    for name in ("P-0", "P-1", "P-2"):
        labels = read_labels(submitted / name / "labels" / "final" / "ct.nii.gz")
        array = labels.array.copy()
        array[labels.array.nonzero()[0].min()] = 0
        (out / name / "segment").mkdir(parents=True)
        write_labels(out / name / "segment" / "ct.nii.gz", LabelMap(array, labels.geometry))
    assert batch(submitted, out, "--tasks", "evaluate") == 0
    with (out / "agreement.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 3 * 2 * 2
    for row in rows:
        labels = read_labels(submitted / row["study"] / "labels" / "final" / "ct.nii.gz")
        ai = read_labels(out / row["study"] / "segment" / "ct.nii.gz")
        if row["quantity"] == "volume":
            assert float(row["final"]) == pytest.approx(labels.volume_ml(row["organ"]))
            assert float(row["ai"]) == pytest.approx(ai.volume_ml(row["organ"]))
        else:
            assert float(row["ai"]) == pytest.approx(float(row["final"]), rel=0.1)
    assert "Network against final label maps: dose" in (out / "cohort.html").read_text("utf-8")


def test_a_patient_without_masks_is_segmented_as_the_command_segments(three, tmp_path, capsys):
    shutil.rmtree(three / "P-0" / "labels")
    for name in ("P-1", "P-2"):
        shutil.rmtree(three / name)
    out = tmp_path / "out"
    assert batch(three, out, "--tasks", "dose") == 1
    assert "Or add the task 'segment'" in capsys.readouterr().out
    assert batch(three, out, "--tasks", "segment") == 0
    assert main(["segment", str(three / "P-0" / "ct.nii.gz"), "--out", str(tmp_path / "alone.nii.gz")]) == 0
    made = read_image(out / "P-0" / "segment" / "ct.nii.gz").array
    assert np.array_equal(made, read_image(tmp_path / "alone.nii.gz").array)
    assert list(began(out)) == ["P-0/segment_ct.json"]


def test_a_review_later_is_seen(submitted, tmp_path):
    out = tmp_path / "out"
    assert batch(submitted, out) == 0
    store = LabelStore.of(Study.load(submitted / "P-0"), "ct.nii.gz")
    store.review(1, LabelReview(approved=True, reviewer="eva"))
    assert batch(submitted, out) == 0
    reviewed = {row["study"]: row["reviewed"] for row in parquet.read_table(out / "cohort.parquet").to_pylist()}
    assert reviewed == {"P-0": True, "P-1": False, "P-2": False}


def test_what_is_no_task_and_no_cohort_is_told(three, tmp_path, capsys):
    assert batch(three, tmp_path / "out", "--tasks", "dose,paint") == 2
    assert "'paint' is no task" in capsys.readouterr().err
    assert batch(tmp_path / "nothing", tmp_path / "out") == 2
    assert "holds no study" in capsys.readouterr().err


def test_a_scheduler_that_is_not_there_is_told(three, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("doselabel.cohort.run.CONNECT_S", 1.0)
    line = ["batch", str(three), "--out", str(tmp_path / "out"), "--scheduler", "tcp://127.0.0.1:9"]
    assert main(line) == 2
    assert "no Dask scheduler answers" in capsys.readouterr().err


WRIGHT = [494, 395, 516, 434, 476, 557, 413, 442, 650, 433, 417, 656, 267, 478, 178, 423, 427]
MINI = [512, 430, 520, 428, 500, 600, 364, 380, 658, 445, 432, 626, 260, 477, 259, 350, 451]


def test_bland_and_altman_find_in_their_data_what_they_published():
    """Lancet 1986; 327: 307-310: two peak flow meters, 17 subjects. They take 2 SD where 1.96 is taken here."""
    found = agreement(WRIGHT, MINI)
    assert found is not None
    assert found.bias == pytest.approx(-2.1, abs=0.05)
    assert found.sd == pytest.approx(38.8, abs=0.05)
    assert found.bias_ci == pytest.approx((-22.0, 17.8), abs=0.1)
    assert found.lower == pytest.approx(-79.7 + 0.04 * 38.8, abs=0.1)
    assert found.upper == pytest.approx(75.5 - 0.04 * 38.8, abs=0.1)
    assert np.diff(found.lower_ci)[0] == pytest.approx(-45.1 + 114.3, abs=0.3)
    assert agreement([1, 2], [1, 2]) is None


def test_an_outlier_is_named_and_its_neighbours_are_not():
    assert modified_z([2.1, 2.6, 2.4, 2.5, 2.3, 2.1, 2.3, 2.6, 8.2, 8.3])[8] == pytest.approx(0.6745 * 5.75 / 0.15)
    rows = [Row(f"P-{n}", "", "done", "liver", volume_ml=1500 + 10 * n, mean_dose_gy=1.0) for n in range(9)]
    rows.append(Row("P-9", "", "done", "liver", volume_ml=15_000, mean_dose_gy=1.0))
    assert [row.study for row in marked(rows) if row.outlier] == ["P-9"]
    assert not any(row.outlier for row in marked(rows[-5:]))
