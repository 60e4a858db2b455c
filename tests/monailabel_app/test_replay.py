"""What is mixed into a retraining, so that what was known is not lost: made by default, given, or nothing."""

from pathlib import Path

import pytest

from doselabel.errors import ServerError
from doselabel.geometry import write_image
from doselabel.labels import write_labels
from monailabel_app.conf import Conf
from monailabel_app.models import ModelStore
from monailabel_app.trainers.kidney_liver import TrainKidneyLiver


def trainer(tmp_path: Path, **options: str) -> TrainKidneyLiver:
    conf = Conf.read(str(tmp_path / "studies"), options)
    return TrainKidneyLiver(ModelStore(conf.state / "model"), conf)


def test_by_default_a_set_is_made_and_those_who_judge_are_not_replayed(tmp_path, monkeypatch):
    from doselabel.model import replay

    monkeypatch.setattr(replay, "TRAINED", 2)
    monkeypatch.setattr(replay, "JUDGED", 1)
    told, trains = [], trainer(tmp_path)
    trained = trains._replay(lambda stage, _: told.append(stage), ())
    assert set(told) == {"replay set"}
    judged = trains._judging(lambda *_: None, ())
    assert [len(trained), len(judged)] == [2, 1]
    assert all(case.ct.is_file() and case.ct.is_relative_to(tmp_path / "studies") for case in (*trained, *judged))
    assert not {case.patient for case in trained} & {case.patient for case in judged}


def test_a_folder_of_earlier_cases_is_parted_and_the_validation_patients_stay_out(tmp_path, boxes):
    from doselabel.geometry import Volume

    folder = tmp_path / "earlier"
    for n in range(6):
        write_image(folder / f"e{n}.nii.gz", Volume(boxes.label_map.array.astype("int16"), boxes.grid))
        write_labels(folder / f"e{n}_label.nii.gz", boxes.label_map)
    trains = trainer(tmp_path, replay=str(folder))
    assert [case.patient for case in trains._replay(lambda *_: None, ("e0",))] == ["e1", "e2", "e3", "e5"]
    assert [case.patient for case in trains._judging(lambda *_: None, ("e0",))] == ["e4"]


def test_none_is_none_and_a_folder_that_is_not_there_is_refused(tmp_path):
    assert trainer(tmp_path, replay="none")._replay(lambda *_: None, ()) == []
    assert trainer(tmp_path, replay="none")._judging(lambda *_: None, ()) == []
    with pytest.raises(ServerError, match="replay"):
        trainer(tmp_path, replay="nowhere")
