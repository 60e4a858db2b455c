"""Active learning: what is worth a correction comes first, chance keeps its arm, and what each brought is told."""

import json

import numpy as np
import pytest

from doselabel.model.doubt import band_entropy, dose_doubt_percent
from doselabel.wire import LabelSubmission
from monailabel_app import reservations
from monailabel_app.datastore import StudyDatastore
from monailabel_app.reservations import Reservations
from monailabel_app.strategies.active import FIRST, Active, score_of


def summary(flags=(), **organ) -> dict:
    row = {"volume_ml": 150.0, "plane_disagreement": 0.02, "band_entropy": 0.2, "dose_doubt_percent": 5.0} | organ
    return {"organs": {"liver": row, "left_kidney": {"volume_ml": 150.0, "score": 0.99}}, "flags": list(flags)}


@pytest.mark.parametrize(
    ("worse", "reason"),
    [
        (summary(plane_disagreement=0.4), "planes differ by 40% at the liver"),
        (summary(band_entropy=0.8), "outline unsure (0.80 bits) at the liver"),
        (summary(dose_doubt_percent=40.0), "40 % of the uptake hangs on doubtful voxels at the liver"),
        (summary(flags=["liver: touches the edge", "x", "y"]), "liver: touches the edge"),
        (summary(volume_ml=0.0) | {"organs": {"liver": {"volume_ml": 0.0}}}, "no organ was found"),
    ],
)
def test_each_kind_of_doubt_raises_the_score_and_is_the_reason_told(worse, reason):
    score, told = score_of(worse)
    assert score > score_of(summary())[0]
    assert told == reason


def test_entropy_is_one_bit_where_the_network_can_t_decide_and_nothing_where_it_is_sure():
    strength = np.zeros((9, 9, 9), np.uint8)
    strength[2:7, 2:7, 2:7] = 255
    mask = strength > 127
    entropy, band = band_entropy(strength, mask)
    assert entropy.max() == 0
    strength[2] = np.where(strength[2] > 0, 128, 0)
    entropy, band = band_entropy(strength, mask)
    of_voxel = np.zeros(mask.shape, np.float32)
    of_voxel[band] = entropy
    assert of_voxel[2, 2:7, 2:7] == pytest.approx(1, abs=1e-4)
    assert np.count_nonzero(of_voxel) == 25
    assert not band[4, 4, 4], "the middle is in no band"
    assert dose_doubt_percent(entropy, band, mask, np.ones(mask.shape)) == pytest.approx(100 * 25 / 125, rel=1e-3)
    assert dose_doubt_percent(entropy, band, mask, np.zeros(mask.shape)) is None


@pytest.fixture
def store(tmp_path, boxes):
    for number in range(1, 7):
        boxes.make_patient(tmp_path / "studies" / f"P-{number:03}", f"P-{number:03}", times_h=(24.0,))
    return StudyDatastore(tmp_path / "studies")


def test_the_first_are_strided_then_two_of_three_by_score_and_one_by_chance_each_with_its_reason(
    store, tmp_path, label_file, boxes
):
    active = Active(tmp_path / "active.jsonl")
    first = [active({"user": f"u{n}", "taken": ()}, store) for n in range(FIRST)]
    assert len({found["id"][:5] for found in first}) >= 4, "strides over the patients, not one after the other"
    assert all("strides" in found["reason"] for found in first)
    for number, case in enumerate(store.cases()):
        doubtful = case.image_id == "P-004__ct_tp1"
        info = {"params": {"segmentation": summary(plane_disagreement=0.9 if doubtful else 0.001 * number)}}
        store.put_tag(case.image_id, "original", label_file, info)
    found = active({"user": "ada", "taken": ()}, store)
    assert found["id"] == "P-004__ct_tp1"
    assert found["reason"].startswith("planes differ by 90% at the liver")
    assert active({"user": "ada", "taken": ()}, store) == found, "asked again, the same one until it is done"
    store.submit("P-004__ct_tp1", label_file, LabelSubmission(author="ada"))
    arms = []
    for n in range(6):
        next_one = active({"user": f"v{n}", "taken": ()}, store)
        arms.append(active.offered()[-1]["arm"])
        store.submit(next_one["id"], label_file, LabelSubmission(author=f"v{n}"))
    assert arms == ["score", "random", "score", "score", "random", "score"]


def test_a_report_says_how_much_each_arm_s_cts_were_corrected(store, tmp_path, label_file, boxes):
    active = Active(tmp_path / "active.jsonl")
    found = active({"user": "ada", "taken": ()}, store)
    store.put_tag(found["id"], "original", label_file, {})
    corrected = boxes.organs()
    corrected[corrected == 3] = 0
    file = boxes.write(tmp_path / "corrected.nii.gz", corrected)
    store.submit(found["id"], file, LabelSubmission(author="ada"))
    (version,) = store.case(found["id"]).labels.versions()
    assert version.changed == {"left_kidney": 0.0, "right_kidney": 0.0, "liver": 1.0}
    active({"user": "ben", "taken": ()}, store)
    report = active.report(store)["strided"]
    assert (report.offered, report.submitted) == (2, 1)
    assert report.mean_changed == pytest.approx(1 / 3, abs=1e-4)


def test_a_line_of_the_log_that_a_crash_cut_off_is_passed_over(store, tmp_path):
    active = Active(tmp_path / "active.jsonl")
    active({"user": "ada", "taken": ()}, store)
    with (tmp_path / "active.jsonl").open("a") as file:
        file.write('{"time": "2026')
    active({"user": "ben", "taken": ()}, store)
    assert [row["user"] for row in active.offered()] == ["ada", "ben"]


def test_what_was_handed_out_is_remembered_by_the_next_server_until_its_time_is_over(tmp_path, monkeypatch):
    Reservations(tmp_path / "reserved.json").hold("P-001__ct", "ada")
    after = Reservations(tmp_path / "reserved.json")
    assert after.of_others("ben") == {"P-001__ct"}
    assert after.of_others("ada") == set()
    later = reservations.time.time() + reservations.RESERVED_S + 1
    monkeypatch.setattr(reservations.time, "time", lambda: later)
    assert after.of_others("ben") == set()


def test_a_damaged_list_of_what_was_handed_out_holds_up_nobody(tmp_path):
    (tmp_path / "reserved.json").write_text(json.dumps(["what is this"]))
    assert Reservations(tmp_path / "reserved.json").of_others("ada") == set()
