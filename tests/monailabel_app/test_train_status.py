"""What is told of a training while it runs."""

import json
from datetime import UTC, datetime

import pytest

from doselabel.wire import JobStatus, LabelSubmission
from monailabel_app.conf import Conf
from monailabel_app.datastore import StudyDatastore
from monailabel_app.models import ModelStore
from monailabel_app.standard_work import _as_monai
from monailabel_app.trainers.kidney_liver import LOOKS, TrainKidneyLiver
from monailabel_app.trainers.split import VALIDATION
from monailabel_app.trainers.stats import figures

ROWS = [
    {"step": 20.0, "loss": 2.0, "loss_mask": 0.5},
    {"step": 25.0, "dice_liver": 0.8, "dice_left_kidney": 0.6},
    {"step": 40.0, "loss": 1.5, "loss_mask": 0.25},
]


def test_loss_and_dice_so_far_are_told_in_our_words_and_in_monai_label_s():
    job = JobStatus(id="x", task="train", state="running", created=datetime.now(UTC), rows=ROWS, stage="training")
    assert figures(job) == {"rows": ROWS, "step": 40, "loss": 1.5, "dice_now": {"liver": 0.8, "left_kidney": 0.6}}
    assert figures(job.model_copy(update={"rows": []})) == {}
    assert _as_monai(job)["details"][1:] == [
        "step 20: loss 2.000",
        "step 25: liver 0.800, left_kidney 0.600",
        "step 40: loss 1.500",
    ]


def test_a_training_looks_at_validation_cts_as_it_goes_without_learning_from_the_look(tmp_path, boxes, untrained):
    root = tmp_path / "studies"
    for name in ("P-001", "P-002"):
        boxes.make_patient(root / name, name, times_h=(24.0,))
    (root / VALIDATION).write_text(json.dumps({"patients": ["P-002"]}))
    store = StudyDatastore(root)
    file = boxes.write(tmp_path / "labels.nii.gz", boxes.organs())
    for case in store.cases():
        store.submit(case.image_id, file, LabelSubmission(author="ada"))
    conf = Conf.read(str(root), {"checkpoint": str(untrained), "replay": "none"})
    seen: list[dict] = []

    def progress(stage, fraction):
        pass

    progress.watch = seen.append
    task = TrainKidneyLiver(ModelStore(conf.state / "model", untrained), conf)
    done = task({"steps": 2 * LOOKS, "out": str(tmp_path / "run"), "progress": progress}, store)
    looks = [row for row in seen if "dice_liver" in row]
    assert [row["step"] for row in looks] == [2 * n for n in range(1, LOOKS + 1)]
    assert looks[-1]["dice_liver"] == pytest.approx(done["training"]["dice_after"]["liver"])


def test_an_empty_label_map_is_left_out_by_name_and_holds_up_no_training(tmp_path, boxes, untrained):
    root = tmp_path / "studies"
    for name in ("P-001", "P-002"):
        boxes.make_patient(root / name, name, times_h=(24.0,))
    store = StudyDatastore(root)
    drawn = boxes.write(tmp_path / "labels.nii.gz", boxes.organs())
    blank = boxes.write(tmp_path / "blank.nii.gz", 0 * boxes.organs())
    for case in store.cases():
        store.submit(case.image_id, drawn, LabelSubmission(author="ada"))
    store.submit("P-002__ct", blank, LabelSubmission(author="bob"))
    conf = Conf.read(str(root), {"checkpoint": str(untrained), "replay": "none"})
    task = TrainKidneyLiver(ModelStore(conf.state / "model", untrained), conf)
    done = task({"steps": 2, "out": str(tmp_path / "run")}, store)["training"]
    assert done["cases"] == 3
    (alarm,) = [alarm for alarm in done["alarms"] if alarm["code"] == "label-empty"]
    assert "P-002/ct/v0002" in alarm["sentence"]
