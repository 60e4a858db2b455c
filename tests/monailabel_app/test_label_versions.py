"""No submitted label map is ever lost or overwritten."""

import errno
import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from doselabel import disk
from doselabel.errors import LabelError
from doselabel.geometry import Geometry
from doselabel.labels import LabelMap, read_labels, write_labels
from doselabel.versions import LabelStore, check_tag
from doselabel.wire import LabelReview, LabelSubmission, Reopening


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


def test_a_draft_is_kept_for_its_author_counts_for_nobody_and_goes_when_it_is_submitted(store):
    store.add(drawn(1), LabelSubmission(author="ada"))
    store.add(drawn(2), LabelSubmission(author="ben", draft=True))
    newer = store.add(drawn(2), LabelSubmission(author="ben", draft=True))
    assert [(v.version, v.state, v.author) for v in store.versions()] == [(3, "draft", "ben"), (1, "submitted", "ada")]
    assert (store.count(), store.final().version) == (1, 1)
    assert read_labels(store.path(newer.version)).present() == ("right_kidney",)
    with pytest.raises(LabelError, match="is a draft"):
        store.review(3, LabelReview(approved=True))
    store.add(drawn(3), LabelSubmission(author="ben", seen=1))
    assert [(v.version, v.state) for v in store.versions()] == [(4, "submitted"), (1, "submitted")]
    assert store.add(drawn(3), LabelSubmission(author="cyd", draft=True)).version == 5


def test_where_a_review_is_required_only_an_approved_version_counts(store, tmp_path, boxes):
    for _ in range(2):
        with_review(store, tmp_path)
    shown = tmp_path / "labels" / "final" / "ct.nii.gz"
    assert (store.final(), store.tags(), store.count()) == (None, [], 2)
    store.review(1, LabelReview(approved=True))
    assert (store.final().version, store.tags()) == (1, ["final"])
    assert shown.exists()
    store.review(1, LabelReview(approved=False))
    assert store.final() is None
    assert not shown.exists()


def with_review(store, tmp_path):
    file = write_labels(tmp_path / "labels.nii.gz", drawn())
    return store.adopt(file, LabelSubmission(author="ada"), {}, needs_review=True)


def test_both_sides_of_a_conflict_can_see_it(store):
    store.add(drawn(1), LabelSubmission(author="ada", seen=0))
    store.add(drawn(2), LabelSubmission(author="ben", started_from="version 1"))
    told = store.add(drawn(3), LabelSubmission(author="cyd", started_from="version 1"))
    assert told.conflicts == [2]
    assert {v.version: v.conflicts for v in store.versions()} == {1: [], 2: [3], 3: [2]}


def test_the_history_has_every_word_that_was_said_with_who_and_when(store, tmp_path):
    store.add(drawn(1), LabelSubmission(author="ada", comment="first"))
    store.review(1, LabelReview(approved=False, flagged=True, reviewer="eva", comment="liver cut"))
    store.reopen(Reopening(by="eva", comment="once more"))
    assert store.reopened().comment == "once more"
    with (tmp_path / "labels" / "versions" / "ct" / "history.jsonl").open("a") as file:
        file.write('{"time": "2026-')  # a crash cut this line off
    store.add(drawn(2), LabelSubmission(author="ada"))
    assert store.reopened() is None, "it has been done again"
    store.review(2, LabelReview(approved=True, reviewer="eva"))
    assert [(e.what, e.version, e.by, e.comment) for e in store.history()] == [
        ("submitted", 1, "ada", "first"),
        ("flagged", 1, "eva", "liver cut"),
        ("reopened", 1, "eva", "once more"),
        ("submitted", 2, "ada", ""),
        ("approved", 2, "eva", ""),
    ]


def test_what_is_not_labelled_can_t_be_reopened(store):
    with pytest.raises(LabelError, match="no label map yet"):
        store.reopen(Reopening())


def test_a_version_whose_file_is_damaged_is_listed_so_and_does_not_count(store):
    store.add(drawn(1), LabelSubmission(author="ada"))
    store.add(drawn(2), LabelSubmission(author="ben"))
    file = store.path(2)
    file.write_bytes(file.read_bytes()[:-1])
    newest, _ = store.versions()
    assert (newest.author, newest.error.code) == ("ben", "label")
    assert store.final().version == 1


def test_a_disk_that_does_not_take_the_metadata_leaves_no_version_and_nothing_else(store, monkeypatch):
    store.add(drawn(1), LabelSubmission(author="ada"))
    sync = disk.sync

    def full(path):
        if (path / "v0002.json").exists():
            raise OSError(errno.EIO, "Input/output error")
        sync(path)

    monkeypatch.setattr(disk, "sync", full)
    with pytest.raises(OSError, match="Input/output"):
        store.add(drawn(2), LabelSubmission(author="ada"))
    monkeypatch.undo()
    assert [v.version for v in store.versions()] == [1], "an error and an acknowledgement never disagree"
    left = store.path(1).with_name(".writing-v0009.json-x")
    left.write_text("of a writer that was killed")
    store.add(drawn(2), LabelSubmission(author="ada"))
    assert not left.exists()
