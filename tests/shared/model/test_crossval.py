"""`doselabel crossval` and `train` from the command line: who is trained on, tested, kept and refused."""

import json
import shutil
from datetime import UTC, datetime

import numpy as np
import pytest
import torch

from doselabel.cli import main
from doselabel.geometry import Volume, write_image
from doselabel.labels import LabelMap, write_labels
from doselabel.model import checkpoint as checkpoints
from doselabel.model.mix import read_mix
from doselabel.study import Study
from doselabel.wire import LabelReview, LabelVersion

PATIENTS = ("P-1", "P-2", "P-3")
QUICK = ["--steps", "1", "--batch", "1", "--crop", "64", "--device", "cpu"]


@pytest.fixture(scope="module")
def cases(tmp_path_factory, patient):
    """A folder for each case, whose label maps carry no names and are numbered in a way of their own."""
    root = tmp_path_factory.mktemp("cases")
    ct, labels = patient
    other = np.choose(labels.array, (0, 30, 20, 10)).astype(np.uint8)
    for name in PATIENTS:
        write_image(root / name / "ct.nii.gz", ct)
        write_image(root / name / "labels.nii.gz", Volume(other, labels.geometry))
    return root


NAMES = ["--names", "10=liver,20=right_kidney,30=left_kidney"]


@pytest.fixture(scope="module")
def run(tmp_path_factory, cases):
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("crossval") / "cv"
    words = ["crossval", str(cases), "--out", str(out), "--folds", "3", "--no-consensus", *NAMES, *QUICK]
    assert main(words) == 0
    return out, words


def test_every_patient_is_tested_by_a_model_that_never_saw_it(run):
    out, _ = run
    tested = []
    for fold in sorted(out.glob("fold_*")):
        split = json.loads((fold / "split.json").read_text("utf-8"))
        rows = json.loads((fold / "axial" / "scores.json").read_text("utf-8"))["rows"]
        known = checkpoints.read_card(fold / "model.safetensors")[1]["patients"]
        assert sorted(known) == sorted(split["train"])
        assert {row["patient"] for row in rows} == set(split["test"])
        assert not set(known) & set(split["test"])
        assert {row["organ"] for row in rows} == {"liver", "right_kidney", "left_kidney"}
        tested += split["test"]
    assert sorted(tested) == list(PATIENTS)


def test_prepared_cases_are_shared_between_folds_and_the_table_says_how_short_it_was(run):
    out, _ = run
    assert len([p for p in (out / "prepared").iterdir() if not p.name.startswith(".")]) == len(PATIENTS)
    table = (out / "crossval.md").read_text("utf-8")
    assert "| liver | axial |" in table
    assert "steps: 1" in table
    assert "batch: 1" in table
    assert "crop px: 64" in table
    assert set(json.loads((out / "crossval.json").read_text("utf-8"))["organs"]) == {
        "liver",
        "right_kidney",
        "left_kidney",
    }


def test_what_is_done_is_not_done_again_and_other_settings_are_refused(run, capsys):
    out, words = run
    before = {path: path.stat().st_mtime_ns for path in out.glob("fold_*/model.safetensors")}
    assert main(words) == 0
    assert {path: path.stat().st_mtime_ns for path in out.glob("fold_*/model.safetensors")} == before
    assert main([*words, "--crop", "96"]) == 2
    assert "another crop_px" in capsys.readouterr().err


def test_a_start_that_knows_the_patients_is_refused(run, cases, tmp_path, capsys):
    start = run[0] / "fold_1" / "model.safetensors"
    assert main(["crossval", str(cases), "--out", str(tmp_path), "--start", str(start), *NAMES, *QUICK]) == 2
    assert "was trained on 2 of the patients" in capsys.readouterr().err


def test_a_recipe_says_which_sources_are_folded_and_which_only_help(tmp_path, cases):
    """Read cases are tested; made ones (painted, synthetic) are trained on in every fold."""
    (tmp_path / "mix.yaml").write_text(
        "sources:\n"
        "  - {name: real, share: 0.5, cases: $DATA, names: {10: liver, 20: right_kidney, 30: left_kidney}}\n"
        "  - {name: phantoms, share: 0.5, sample: 1, seed: 3}\n"
        "validation: [P-1]\n"
        "folds: 3\n"
        "settings: {steps: 1, batch: 1, crop_px: 64}\n"
    )
    held = read_mix(tmp_path / "mix.yaml", tmp_path / "work", cases)
    free = read_mix(tmp_path / "mix.yaml", tmp_path / "work", cases, hold_out=False)
    assert [case.patient for case in held.validation] == ["P-1"]
    assert [case.patient for case in held.sources[0].cases] == ["P-2", "P-3"]
    assert not free.validation
    assert [case.patient for case in free.sources[0].cases] == list(PATIENTS)
    assert (free.made, free.folds) == (("phantoms",), 3)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--recipe", "nature"], "neither a recipe"),
        (["--stages", "heads:1"], "learn:epochs:rate"),
        (["--profile", "slow"], "no profile"),
        (["--split", "50/50"], "no split"),
        (["--learn-organs", "heart"], "no organ"),
    ],
)
def test_what_makes_no_sense_is_named_and_exits_2(cases, tmp_path, capsys, words, said):
    assert main(["crossval", str(cases), "--out", str(tmp_path / "x"), *NAMES, *QUICK, *words]) == 2
    assert said in capsys.readouterr().err


def test_organs_to_learn_can_be_stated(cases, tmp_path):
    words = ["train", str(cases), "--out", str(tmp_path), "--learn-organs", "liver", "--seed", "4", *NAMES, *QUICK]
    assert main(words) == 0
    profile, card = checkpoints.read_card(tmp_path / "model.safetensors")
    assert (profile.organs, profile.classes, card["seed"]) == (("liver",), ("liver", "spleen"), 4)


def test_training_keeps_to_a_split_on_disk(cases, tmp_path):
    (tmp_path / "split.json").write_text('{"train": ["P-1"], "validation": ["P-2"], "test": ["P-3"]}')
    words = ["train", str(cases), "--out", str(tmp_path / "run"), "--split", str(tmp_path / "split.json"), *NAMES]
    assert main([*words, *QUICK]) == 0
    card = checkpoints.read_card(tmp_path / "run" / "model.safetensors")[1]
    assert card["patients"] == ["P-1"]
    assert set(card["metrics"]) == {"left_kidney", "right_kidney", "liver"}


# ---- studies with submitted labels


def study(folder, patient, versions):
    """A study with submitted versions: (what was drawn, approved or not), oldest first."""
    ct, labels = patient
    write_image(folder / "ct.nii.gz", ct)
    write_image(folder / "spect.nii.gz", Volume(np.ones(ct.array.shape, np.float32), ct.geometry))
    about = {"schema": "doselabel.study/1", "patient_id": folder.name, "nuclide": "Lu-177", "ct": "ct.nii.gz"}
    points = [{"time_h": 24.0, "ct": "ct.nii.gz", "spect": "spect.nii.gz"}]
    Study.model_validate(about | {"injected_activity_mbq": 7400, "time_points": points}).save(folder)
    home = folder / "labels" / "versions" / "ct"
    for number, (values, approved) in enumerate(versions, start=1):
        kept = np.where(np.isin(labels.array, values), labels.array, 0).astype(np.uint8)
        write_labels(home / f"v{number:04d}.nii.gz", LabelMap(kept, labels.geometry))
        now = datetime(2026, 1, number, tzinfo=UTC)
        version = LabelVersion(image_id=f"{folder.name}__ct", version=number, created=now)
        (home / f"v{number:04d}.json").write_text(version.model_dump_json())
        if approved:
            review = LabelReview(
                image_id=f"{folder.name}__ct", version=number, approved=True, reviewer="b", created=now
            )
            (home / f"v{number:04d}.review.json").write_text(review.model_dump_json())


def test_train_learns_from_what_was_submitted_and_counts(tmp_path, patient):
    """Of P-1 the approved version (the liver alone) counts, not the newer one; P-2 has none; P-3 the newest."""
    study(tmp_path / "studies" / "P-1", patient, [((3,), True), ((1, 2, 3), False)])
    study(tmp_path / "studies" / "P-2", patient, [])
    study(tmp_path / "studies" / "P-3", patient, [((1, 3), False), ((1, 2, 3), False)])
    assert main(["train", str(tmp_path / "studies"), "--out", str(tmp_path / "run"), *QUICK]) == 0
    assert checkpoints.read_card(tmp_path / "run" / "model.safetensors")[1]["patients"] == ["P-1", "P-3"]
    taught = {
        card["patient"]: set(card["organs"]["axial"])
        for card in (json.loads(p.read_text("utf-8")) for p in (tmp_path / "run" / "prepared").glob("*/case.json"))
    }
    assert taught == {"P-1": {"3"}, "P-3": {"1", "2", "3"}}
    shutil.rmtree(tmp_path / "run")
