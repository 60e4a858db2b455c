"""MONAI Label's own Python client against a real server process: patient P-001 is theirs."""

import time
import warnings
from pathlib import Path

import pytest

from doselabel.geometry import read_image
from doselabel.labels import read_labels

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)  # it imports cgi
    from monailabel.client.client import MONAILabelClient, MONAILabelClientException


@pytest.fixture
def client(server, tmp_path):
    return MONAILabelClient(server.url, tmpdir=str(tmp_path), client_id="standard")


def test_it_sees_the_tasks_and_3d_slicer_lists_the_segmentation(client):
    info = client.info()
    assert info["models"]["kidney_liver"]["type"] == "segmentation"
    assert info["models"]["kidney_liver"]["labels"] == {"left_kidney": 1, "right_kidney": 2, "liver": 3}
    assert info["models"]["dosimetry"]["type"] == "others"
    assert set(info["trainers"]) == {"kidney_liver"}
    assert {"first", "random", "doubtful"} <= set(info["strategies"])


def test_it_lists_the_images(client):
    assert "P-001__ct" in client.datastore()["objects"]
    assert "broken" not in "".join(client.datastore()["objects"])


def test_it_gets_the_next_sample_with_a_path_and_a_reason(client):
    sample = client.next_sample("first", {})
    assert sample["id"].startswith("P-0")
    assert sample["path"].endswith(".nii.gz")
    assert sample["reason"]


@pytest.mark.parametrize("suffix", [".nii.gz", ".nrrd"])
def test_it_infers_a_label_map_on_the_ct_s_grid_in_the_kind_of_file_it_asks_for(client, server, suffix):
    params = {"result_extension": suffix, "result_dtype": "uint8"}
    file, answer = client.infer("kidney_liver", "P-001__ct", params)
    assert file.endswith(suffix)
    ct = read_image(server.log.parents[1] / "P-001" / "ct.nii.gz")
    assert read_labels(file).geometry.same_place(ct.geometry)
    assert answer["segmentation"]["profile"] == "fast"


def test_what_it_is_sent_stays_its_own_on_the_server_s_machine(server):
    # By default this client keeps answers in the system's temporary folder, under the name they are sent with.
    file, _ = MONAILabelClient(server.url).infer("kidney_liver", "P-001__ct", {})
    time.sleep(1.0)
    assert read_labels(file).present() is not None
    Path(file).unlink()


def test_it_infers_on_a_file_it_uploads(client, server):
    ct = server.log.parents[1] / "P-001" / "ct.nii.gz"
    file, _ = client.infer("kidney_liver", "", {}, file=str(ct))
    assert read_labels(file).geometry.same_place(read_image(ct).geometry)


def test_it_infers_on_a_session(client, server):
    ct = server.log.parents[1] / "P-001" / "ct.nii.gz"
    session = client.create_session(str(ct))["session_id"]
    file, _ = client.infer("kidney_liver", "", {}, session_id=session)
    assert read_labels(file).geometry.same_place(read_image(ct).geometry)


def test_it_keeps_a_prediction_as_original_but_not_as_final(client):
    client.infer("kidney_liver", "P-001__ct_tp1", {"save_label": True, "label_tag": "original"})
    assert "original" in client.datastore()["objects"]["P-001__ct_tp1"]["labels"]
    with pytest.raises(MONAILabelClientException) as refusal:
        client.infer("kidney_liver", "P-001__ct_tp1", {"save_label": True, "label_tag": "final"})
    assert "not kept as 'final'" in refusal.value.msg


def test_it_saves_a_label_and_gets_it_back(client, label_file, boxes):
    client.save_label("P-001__ct", str(label_file))
    assert (read_labels(client.download_label("P-001__ct", "final")).array == boxes.organs()).all()
    assert client.datastore()["objects"]["P-001__ct"]["labels"]["final"]["info"]["author"] == "standard"


def test_it_starts_watches_and_stops_a_training(client, label_file):
    client.save_label("P-001__ct_tp2", str(label_file))
    started = client.train_start("kidney_liver", {"steps": 5000})
    assert started["status"] in ("SUBMITTED", "RUNNING")
    end = time.monotonic() + 300
    while not any("training" in line for line in client.train_status()["details"]):
        assert client.train_status()["status"] in ("SUBMITTED", "RUNNING"), client.train_status()
        assert time.monotonic() < end
        time.sleep(0.2)
    assert client.train_status(check_if_running=True)
    with pytest.raises(MONAILabelClientException) as refusal:
        client.train_start("kidney_liver", {})
    assert "A training is under way" in refusal.value.msg
    client.train_stop()
    while client.train_status(check_if_running=True):
        assert time.monotonic() < end + 30
        time.sleep(0.1)
    assert client.train_status()["status"] == "STOPPED"


def test_an_error_says_why(client):
    with pytest.raises(MONAILabelClientException) as refusal:
        client.infer("nothing", "P-001__ct", {})
    assert "There is no model 'nothing'" in refusal.value.msg
