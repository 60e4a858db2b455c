"""Patient folders as a datastore."""

import hashlib
import json
import time
import zipfile

import numpy as np
import pytest

from doselabel.errors import DoselabelError, LabelError, StudyError
from doselabel.geometry import Geometry
from doselabel.labels import LabelMap, read_labels, write_labels
from doselabel.study import Study
from doselabel.versions import LabelStore
from doselabel.wire import LabelReview, LabelSubmission
from monailabel_app import datastore, patients
from monailabel_app.cases import grid_of
from monailabel_app.datastore import StudyDatastore
from monailabel_app.export import archive
from monailabel_app.refusals import Refused


@pytest.fixture
def store(studies):
    return StudyDatastore(studies)


def test_the_images_are_the_cts_diagnostic_first(store):
    assert store.list_images() == [
        "P-001__ct",
        "P-001__ct_tp1",
        "P-001__ct_tp2",
        "P-001__ct_tp3",
        "P-002__ct",
        "P-002__ct_tp1",
    ]


def test_a_broken_study_is_listed_with_its_error_and_the_others_work(store):
    by_id = {info.patient_id: info for info in store.studies()}
    assert "patient_id" in by_id["broken"].error.message
    assert by_id["P-001"].error is None
    with pytest.raises(DoselabelError, match="patient_id"):
        store.study("broken")


def test_a_new_patient_is_noticed_and_a_mended_one_too(store, studies, monkeypatch, boxes):
    monkeypatch.setattr(patients, "RESCAN_S", 0.0)
    boxes.make_patient(studies / "P-003", "P-003")
    assert "P-003__ct" in store.list_images()
    (studies / "P-003" / "ct.nii.gz").rename(studies / "away.nii.gz")
    manifest = studies / "P-003" / "study.json"
    manifest.write_text(manifest.read_text("utf-8") + "\n")
    assert "P-003__ct" not in store.list_images()
    (studies / "away.nii.gz").rename(studies / "P-003" / "ct.nii.gz")
    assert "P-003__ct" in store.list_images()


def test_what_other_systems_leave_beside_a_folder_is_no_patient(store, studies, boxes):
    boxes.make_patient(studies / "._P-001", "P-001")
    store.refresh()
    assert "._P-001" not in {info.patient_id for info in store.studies()}
    assert "P-001__ct" in store.list_images()


def test_a_folder_that_leads_out_of_the_studies_is_broken(store, studies, boxes, tmp_path):
    boxes.make_patient(tmp_path / "elsewhere", "P-009")
    (studies / "P-009").symlink_to(tmp_path / "elsewhere")
    store.refresh()
    by_id = {info.patient_id: info for info in store.studies()}
    assert "leads out" in by_id["P-009"].error.message
    assert not [image for image in store.list_images() if image.startswith("P-009")]


def test_a_ct_that_vanishes_makes_its_patient_broken_and_no_other(store, studies, monkeypatch):
    monkeypatch.setattr(patients, "RESCAN_S", 0.0)
    known = store.case("P-002__ct")
    (studies / "P-002" / "ct_tp1.nii.gz").unlink()
    by_id = {info.patient_id: info for info in store.studies()}
    assert "no such file" in by_id["P-002"].error.message
    assert by_id["P-001"].error is None
    (studies / "P-002" / "ct.nii.gz").unlink()
    with pytest.raises(StudyError, match="is gone"):
        store.image_of(known)


def test_label_maps_that_lead_out_of_the_studies_make_a_patient_broken(store, studies, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (studies / "P-002" / "labels").symlink_to(tmp_path / "elsewhere")
    store.refresh()
    assert "leads out" in {i.patient_id: i for i in store.studies()}["P-002"].error.message


def test_what_another_process_submits_is_counted_and_what_is_unchanged_is_not_read_again(
    store, studies, boxes, monkeypatch
):
    monkeypatch.setattr(datastore, "RECOUNT_S", 0.0)
    assert store.status()["completed"] == 0
    StudyDatastore(studies).case("P-001__ct").labels.add(boxes.label_map, LabelSubmission())
    assert store.status() == {"total": 6, "completed": 1, "label_tags": {"final": 1}}
    time.sleep(0.2)
    store.status()
    read = []
    monkeypatch.setattr(LabelStore, "count", lambda self: read.append(self) or 1)
    assert store.status()["completed"] == 1
    assert not read


def test_the_stock_route_records_the_model_that_the_client_began_with(store, label_file):
    info = {"params": {"segmentation": {"model_sha256": "abc"}}}
    store.put_tag("P-001__ct", "original", label_file, info)
    store.save_label("P-001__ct", str(label_file), "final", {"client_id": "slicer"})
    assert store.case("P-001__ct").labels.version(1).started_from == "abc"


def test_an_export_has_the_label_maps_that_count_and_says_what_was_left_out(store, label_file):
    for image in ("P-001__ct", "P-001__ct_tp1", "P-002__ct"):
        store.submit(image, label_file, LabelSubmission(author="ada"))
    store.review("P-001__ct", 1, LabelReview(approved=True, reviewer="eva"))
    damaged = store.case("P-002__ct").labels.path(1)
    damaged.write_bytes(damaged.read_bytes() + b" ")
    with zipfile.ZipFile(archive(store.cases(), store.image_of)) as packed:
        index = json.loads(packed.read("index.json"))
        assert {row["image_id"]: row["state"] for row in index["label_maps"]} == {
            "P-001__ct": "approved",
            "P-001__ct_tp1": "submitted",
        }
        assert index["label_maps"][0]["review"]["reviewer"] == "eva"
        assert hashlib.sha256(packed.read("label/P-001__ct.nii.gz")).hexdigest() == index["label_maps"][0]["sha256"]
        assert packed.read("image/P-001__ct.nii.gz") == store.case("P-001__ct").path.read_bytes()
        (left_out,) = index["left_out"]
        assert left_out["image_id"] == "P-002__ct"
        assert "not the one that was submitted" in left_out["why"]
    with zipfile.ZipFile(archive(store.cases(), approved=True)) as packed:
        assert packed.namelist() == ["label/P-001__ct.nii.gz", "index.json"]


def test_an_image_s_name_is_its_own_and_its_checksum_follows_the_file(store):
    infos = [store.get_image_info(image) for image in store.list_images()]
    assert len({info["name"] for info in infos}) == len(infos)
    assert infos[0]["name"] == "P-001__ct.nii.gz"
    path = store.case("P-001__ct").path
    assert infos[0]["checksum"] == f"SHA256:{hashlib.sha256(path.read_bytes()).hexdigest()}"
    path.write_bytes(path.read_bytes() + b" ")
    assert store.checksum("P-001__ct") != infos[0]["checksum"]


def test_labels_are_counted_at_once_when_this_process_wrote_them(store, label_file, monkeypatch):
    monkeypatch.setattr(datastore, "RECOUNT_S", 1e9)
    assert store.status()["completed"] == 0
    store.save_label("P-001__ct", str(label_file), "final", {})
    store.save_label("P-001__ct", str(label_file), "original", {})
    assert store.status() == {"total": 6, "completed": 1, "label_tags": {"final": 1, "original": 1}}
    store.remove_label("P-001__ct", "original")
    assert store.status()["label_tags"] == {"final": 1}


def test_two_patients_with_one_id_do_not_mix(studies, boxes):
    boxes.make_patient(studies / "other", "P-001")
    by_id = {info.patient_id: info for info in StudyDatastore(studies).studies()}
    assert "P-001__ct" in by_id["other"].error.message


def test_two_cts_with_one_name_are_refused(studies):
    study = Study.load(studies / "P-002")
    (study.folder / "tp1").mkdir()
    (study.folder / "ct_tp1.nii.gz").rename(study.folder / "tp1" / "ct.nii.gz")
    study.time_points[0].ct = "tp1/ct.nii.gz"
    study.save()
    by_id = {info.patient_id: info for info in StudyDatastore(studies).studies()}
    assert "the same name" in by_id["P-002"].error.message


def test_a_submission_in_nrrd_becomes_a_version_and_the_ct_is_labelled(store, tmp_path, boxes):
    file = write_labels(tmp_path / "label.nrrd", LabelMap(boxes.organs(), boxes.grid))
    store.save_label("P-001__ct", str(file), "final", {"client_id": "slicer"})
    assert store.get_labeled_images() == ["P-001__ct"]
    (version,) = store.case("P-001__ct").labels.versions()
    assert version.author == "slicer"
    assert store.datalist()[0]["label"].endswith("v0001.nii.gz")


def test_label_info_of_3d_slicer_says_which_value_is_which_organ(store, tmp_path, boxes):
    swapped = np.where(boxes.organs() == 1, 2, np.where(boxes.organs() == 2, 1, boxes.organs())).astype(np.uint8)
    file = write_labels(tmp_path / "label.nii.gz", LabelMap(swapped, boxes.grid))
    names = [{"name": "right_kidney", "idx": 1}, {"name": "left_kidney", "idx": 2}, {"name": "liver", "idx": 3}]
    store.save_label("P-001__ct", str(file), "final", {"label_info": names})
    kept = read_labels(store.get_label_uri("P-001__ct", "final"))
    assert np.array_equal(kept.array, boxes.organs())


def test_a_label_map_on_another_grid_is_refused_and_nothing_is_kept(store, tmp_path, boxes):
    shifted = Geometry(boxes.grid.shape, boxes.grid.spacing_mm, (0.0, 0.0, 0.0))
    file = write_labels(tmp_path / "label.nii.gz", LabelMap(boxes.organs(), shifted))
    with pytest.raises(LabelError, match="not on the grid of P-001__ct"):
        store.submit("P-001__ct", file, LabelSubmission())
    assert store.case("P-001__ct").labels.count() == 0


@pytest.mark.parametrize("image_id", ["../x", "", "P-001__ct/../../x", "/etc/passwd", "P-001__nothing"])
def test_an_id_that_is_not_known_is_refused_never_looked_for_on_disk(store, image_id, label_file):
    for ask in (
        lambda: store.get_image_uri(image_id),
        lambda: store.get_label_uri(image_id, "final"),
        lambda: store.save_label(image_id, str(label_file), "final", {}),
    ):
        with pytest.raises(Refused) as refusal:
            ask()
        assert refusal.value.status == 404


def test_the_grid_is_read_without_the_voxels_as_it_is_with_them(store, boxes):
    assert grid_of(store.case("P-001__ct").path).same_place(boxes.grid)


def test_the_index_has_the_shape_that_monai_label_clients_read(store, label_file):
    store.save_label("P-001__ct", str(label_file), "final", {})
    entry = store.json()["objects"]["P-001__ct"]
    assert entry["image"]["ext"] == ".nii.gz"
    assert entry["labels"]["final"]["info"]["version"] == 1
    assert store.status() == {"total": 6, "completed": 1, "label_tags": {"final": 1}}
