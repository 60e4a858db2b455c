"""Splits and folds: by patient, the same each time, kept on disk."""

from pathlib import Path

import pytest

from doselabel.errors import ModelError
from doselabel.model.cases import TrainCase
from doselabel.model.splits import SPLITS, Split, check_patients, folds, random_split

PATIENTS = [f"P-{n:03d}" for n in range(50)]


def parts(split: Split) -> list[str]:
    return [*split.train, *split.validation, *split.test]


@pytest.mark.parametrize("kind", SPLITS)
def test_the_papers_splits_have_their_shares_and_miss_nobody(kind):
    split = random_split(PATIENTS, kind, seed=3)
    shares = [len(part) / 50 for part in (split.train, split.validation, split.test)]
    assert shares == pytest.approx(SPLITS[kind])
    assert sorted(parts(split)) == PATIENTS


def test_a_split_depends_on_the_patients_and_the_seed_alone():
    assert random_split(PATIENTS[::-1] * 2, "60/20/20", 1) == random_split(PATIENTS, "60/20/20", 1)
    assert random_split(PATIENTS, "60/20/20", 1).test != random_split(PATIENTS, "60/20/20", 2).test


def test_every_patient_is_tested_once_over_the_folds():
    made = folds(PATIENTS[:27], 5, seed=0)
    assert sorted(patient for fold in made for patient in fold.test) == PATIENTS[:27]
    for fold in made:
        assert sorted(parts(fold)) == PATIENTS[:27]
        assert not fold.validation


@pytest.mark.parametrize(("validation", "count"), [(0.2, 10), (0.1, 5)])
def test_folds_with_validation_are_the_papers_splits_and_differ(validation, count):
    made = folds(PATIENTS, 5, validation=validation)
    assert {len(fold.validation) for fold in made} == {count}
    assert {len(fold.test) for fold in made} == {10}
    assert len({fold.validation for fold in made}) == 5
    assert all(sorted(parts(fold)) == PATIENTS for fold in made)


def test_all_cts_of_a_patient_go_to_the_same_part():
    cases = [TrainCase(Path(f"{p}_{n}.nii.gz"), Path("labels"), p) for p in PATIENTS[:10] for n in range(3)]
    split = random_split([case.patient for case in cases], "60/20/20")
    found = {part: {case.patient for case in split.cases(cases, part)} for part in ("train", "validation", "test")}
    assert not (found["train"] & found["test"]) | (found["train"] & found["validation"])
    assert sum(len(split.cases(cases, part)) for part in found) == 30


def test_a_split_is_kept_on_disk(tmp_path):
    split = random_split(PATIENTS, "70/10/20", 5)
    split.write(tmp_path)
    assert Split.read(tmp_path) == split
    (tmp_path / "own.json").write_text('{"train": ["a"], "validation": ["b"]}')
    assert Split.read(tmp_path / "own.json").validation == ("b",)


@pytest.mark.parametrize("text", ["[]", "nothing", '{"train": 3}', '{"train": ["a"], "test": ["a"]}'])
def test_what_is_no_split_is_refused(tmp_path, text):
    (tmp_path / "split.json").write_text(text)
    with pytest.raises(ModelError, match=r"no split of patients|in more than one part"):
        Split.read(tmp_path)


def test_a_split_of_other_patients_is_refused():
    cases = [TrainCase(Path("ct"), Path("labels"), "P-000")]
    with pytest.raises(ModelError, match="P-001"):
        check_patients(Split(("P-000",), (), ("P-001",)), cases)


@pytest.mark.parametrize("wrong", [lambda: random_split(["a", "b"], "60/20/20"), lambda: folds(["a"], 5)])
def test_too_few_patients_are_refused(wrong):
    with pytest.raises(ModelError, match="patient"):
        wrong()
