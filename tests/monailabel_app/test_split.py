"""Which patients are never trained on, once that is drawn."""

from monailabel_app.trainers.split import LEAST, LEAST_LABELLED, VALIDATION, fix_split, validation_patients

PATIENTS = [f"P-{number:03}" for number in range(1, 61)]


def test_with_few_labelled_patients_none_is_held_out(tmp_path):
    fix_split(tmp_path, PATIENTS[: LEAST_LABELLED - 1])
    assert not (tmp_path / VALIDATION).exists()
    assert validation_patients(tmp_path) == ()


def test_the_split_is_drawn_once_and_no_later_patient_changes_it(tmp_path):
    fix_split(tmp_path, PATIENTS[:LEAST_LABELLED] * 2)
    drawn = validation_patients(tmp_path)
    assert len(set(drawn)) == LEAST
    assert set(drawn) < set(PATIENTS[:LEAST_LABELLED])
    fix_split(tmp_path, PATIENTS)
    assert validation_patients(tmp_path) == drawn


def test_a_fifth_of_many_whatever_their_order(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    fix_split(tmp_path / "a", PATIENTS)
    fix_split(tmp_path / "b", PATIENTS[::-1])
    assert len(validation_patients(tmp_path / "a")) == 12
    assert validation_patients(tmp_path / "a") == validation_patients(tmp_path / "b")


def test_a_list_by_hand_stays(tmp_path):
    (tmp_path / VALIDATION).write_text('{"patients": ["P-009"]}', "utf-8")
    fix_split(tmp_path, PATIENTS)
    assert validation_patients(tmp_path) == ("P-009",)
