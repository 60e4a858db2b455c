"""No submitted label map is ever lost or overwritten."""

import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from doselabel.errors import LabelError
from doselabel.geometry import Geometry
from doselabel.labels import LabelMap, read_labels
from doselabel.wire import LabelReview, LabelSubmission
from monailabel_app.versions import LabelStore, check_tag


@pytest.fixture
def store(tmp_path):
    return LabelStore(tmp_path / "labels", "P-001__ct", "ct")


def drawn(value: int = 1) -> LabelMap:
    array = np.zeros((6, 6, 6), np.uint8)
    array[2:4, 2:4, 2:4] = value
    return LabelMap(array, Geometry((6, 6, 6), (5.0, 5.0, 5.0)))


def test_a_submission_is_a_new_version_with_who_when_and_how_much(store, boxes):
    version = store.add(boxes.label_map, LabelSubmission(author="ada", comment="pelvis out"))
    assert (version.version, version.author, version.comment) == (1, "ada", "pelvis out")
    assert version.organs_ml == {"left_kidney": 76.8, "right_kidney": 76.8, "liver": 512.0}
    assert len(version.sha256) == 64
    assert store.add(drawn(), LabelSubmission()).version == 2
    assert [v.version for v in store.versions()] == [2, 1]
    assert read_labels(store.path(1)).present() == ("left_kidney", "right_kidney", "liver")


def test_a_version_drawn_without_knowing_the_newest_is_kept_and_says_so(store):
    store.add(drawn(1), LabelSubmission(author="ada", seen=0))
    store.add(drawn(2), LabelSubmission(author="ada", started_from="version 1"))
    blind = store.add(drawn(3), LabelSubmission(author="ben", started_from="version 1"))
    assert (blind.version, blind.unseen) == (3, [2])
    assert store.add(drawn(3), LabelSubmission(author="cyd", seen=0, started_from="a model's hash")).unseen == [1, 2, 3]
    assert store.add(drawn(3), LabelSubmission(author="dan", seen=4)).unseen == []
    assert [v.unseen for v in store.versions()] == [[], [1, 2, 3], [2], [], []]


def test_a_submission_sent_again_after_a_lost_answer_is_stored_once(store):
    sent = LabelSubmission(author="ada", seen=0, key="a1")
    first = store.add(drawn(1), sent)
    store.add(drawn(2), LabelSubmission(author="ben", seen=1))
    assert store.add(drawn(1), sent) == first
    assert [v.version for v in store.versions()] == [2, 1]


def test_concurrent_submissions_are_all_kept(tmp_path):
    with ThreadPoolExecutor(6) as pool:
        numbers = list(pool.map(lambda _: _submit(tmp_path), range(6)))
    assert sorted(numbers) == [1, 2, 3, 4, 5, 6]


def test_submissions_from_two_processes_are_all_kept(tmp_path):
    with multiprocessing.get_context("fork").Pool(2) as pool:
        numbers = pool.map(_submit, [tmp_path] * 4)
    assert sorted(numbers) == [1, 2, 3, 4]


def _submit(folder) -> int:
    return LabelStore(folder / "labels", "P-001__ct", "ct").add(drawn(), LabelSubmission()).version


@pytest.mark.parametrize("broken_at", ["v0002.nii.gz", "v0002.json"])
def test_a_crash_while_writing_leaves_the_old_version_as_it_was(store, monkeypatch, broken_at):
    store.add(drawn(1), LabelSubmission(author="ada"))
    before = store.path(1).read_bytes()
    rename = os.replace

    def crash(source, target):
        if str(target).endswith(broken_at):
            raise OSError("power cut")
        rename(source, target)

    monkeypatch.setattr(os, "replace", crash)
    monkeypatch.setattr("pathlib.Path.replace", lambda self, target: crash(self, target))
    with pytest.raises(OSError, match="power cut"):
        store.add(drawn(2), LabelSubmission())
    monkeypatch.undo()
    assert [v.version for v in store.versions()] == [1]
    assert store.path(1).read_bytes() == before
    assert read_labels(store.tagged("final")).present() == ("left_kidney",)
    assert read_labels(store.path(store.add(drawn(3), LabelSubmission()).version)).present() == ("liver",)


def test_an_interrupted_version_number_is_not_used_again(store):
    store.add(drawn(), LabelSubmission())
    orphan = store.path(1).with_name("v0002.nii.gz")
    orphan.write_bytes(b"what a crash left")
    assert store.add(drawn(), LabelSubmission()).version == 3
    assert orphan.read_bytes() == b"what a crash left"


def test_the_newest_version_counts_until_one_is_approved(store):
    store.add(drawn(1), LabelSubmission())
    store.add(drawn(2), LabelSubmission())
    assert store.final().version == 2
    assert store.review(1, LabelReview(approved=True, reviewer="eva")).approved
    store.add(drawn(3), LabelSubmission())
    assert store.final().version == 1
    store.review(1, LabelReview(approved=False, reviewer="eva"))
    assert store.final().version == 3


def test_the_folder_final_shows_the_version_that_counts_to_readers_that_know_no_versions(store, tmp_path):
    store.add(drawn(1), LabelSubmission())
    store.add(drawn(2), LabelSubmission())
    shown = tmp_path / "labels" / "final" / "ct.nii.gz"
    assert read_labels(shown).present() == ("right_kidney",)
    store.review(1, LabelReview(approved=True))
    assert read_labels(shown).present() == ("left_kidney",)


def test_predictions_are_replaced_and_submissions_are_not_removable(store, tmp_path):
    file = store.path(store.add(drawn(), LabelSubmission()).version)
    store.put_tag("original", file, {"model": "kidney_liver"})
    assert store.tags() == ["final", "original"]
    assert store.tag_info("original") == {"model": "kidney_liver"}
    store.remove_tag("original")
    assert store.tags() == ["final"]
    with pytest.raises(LabelError, match="never removed"):
        store.remove_tag("final")
    with pytest.raises(LabelError, match="submitted"):
        store.put_tag("final", file, {})


@pytest.mark.parametrize("tag", ["../../x", "a/b", "", ".", "..", "a" * 41, "a b", "/etc"])
def test_a_tag_that_could_leave_the_folder_is_refused(tag):
    with pytest.raises(LabelError):
        check_tag(tag)


@pytest.mark.parametrize("damaged", ["v0001.json", "v0001.review.json"])
def test_a_damaged_version_is_listed_with_its_error_and_the_others_go_on(store, damaged):
    store.add(drawn(1), LabelSubmission())
    store.add(drawn(2), LabelSubmission())
    store.review(1, LabelReview(approved=True))
    store.path(1).with_name(damaged).write_text("{")
    newest, broken = store.versions()
    assert newest.error is None
    assert "can't be read" in broken.error.message
    assert store.final().version == 2, "what can't be read does not count"
    with pytest.raises(LabelError, match="can't be read"):
        store.version(1)
    assert store.add(drawn(3), LabelSubmission()).version == 3


def test_a_damaged_review_is_mended_by_reviewing_again(store):
    store.add(drawn(1), LabelSubmission())
    store.path(1).with_name("v0001.review.json").write_text("{")
    assert store.review(1, LabelReview(approved=True)).approved


def test_a_file_that_is_not_the_one_submitted_is_not_given_out(store):
    store.add(drawn(1), LabelSubmission())
    file = store.path(1)
    file.write_bytes(file.read_bytes() + b" ")
    with pytest.raises(LabelError, match="not the one that was submitted"):
        store.path(1)
    file.unlink()
    with pytest.raises(LabelError, match="can't be read"):
        store.path(1)


def test_what_is_acknowledged_is_stored_though_its_copy_can_t_be_made(store, tmp_path):
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "final").write_text("a file where the folder should be")
    assert store.add(drawn(1), LabelSubmission()).version == 1
    assert store.review(1, LabelReview(approved=True)).approved


def test_a_flagged_version_does_not_count_while_another_does(store):
    store.add(drawn(1), LabelSubmission())
    store.add(drawn(2), LabelSubmission())
    store.review(2, LabelReview(approved=False, flagged=True, comment="liver cut"))
    assert store.final().version == 1
    store.review(1, LabelReview(approved=False, flagged=True))
    assert store.final().version == 2


def test_3d_slicer_reads_who_reviewed_and_which_value_is_which_organ(store, boxes):
    store.add(boxes.label_map, LabelSubmission(author="ada"))
    store.review(1, LabelReview(approved=True, reviewer="eva", difficulty="easy", comment="good"))
    info = store.tag_info("final")
    assert info["client_id"] == "ada"
    assert info["params"]["label_names"] == {"left_kidney": 1, "right_kidney": 2, "liver": 3}
    meta = info["segmentationMeta"]
    assert (meta["status"], meta["approvedBy"], meta["level"], meta["comment"]) == ("approved", "eva", "easy", "good")
    assert meta["editTime"] >= info["ts"]
