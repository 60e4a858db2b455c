"""No edit is lost: drafts, crashes, submissions; and the numbers shown beside the image."""

from __future__ import annotations

import json

import numpy as np
import pytest

from doselabel.errors import StudyError
from doselabel.geometry import Geometry, Volume, canonical
from doselabel.labels import LabelMap, read_labels
from doselabel.wire import LabelVersion
from napari_plugin.session.case import to_canonical
from napari_plugin.session.measure import Tally, measure
from napari_plugin.session.recovery import Draft, Recovery, content_of, now
from napari_plugin.session.settings import HISTORY, Settings
from napari_plugin.session.state import Session, Snapshot


@pytest.fixture
def recovery(tmp_path) -> Recovery:
    return Recovery(tmp_path, "http://a")


@pytest.fixture
def session(make_case, truth, recovery) -> Session:
    return Session(make_case(labels=truth), truth.copy(), recovery)


def version(number: int) -> LabelVersion:
    return LabelVersion(image_id="P-001__ct", version=number, created=now())


def deliver(session: Session, snapshot: Snapshot, number: int) -> None:
    """Let a server have a snapshot."""
    labels = snapshot.native()
    session.sent(snapshot, labels)
    session.submitted(content_of(labels), version(number))


def test_a_draft_comes_back_on_the_cts_own_grid(session, recovery):
    session.array[0, 0, 0] = 3
    session.edited()
    session.autosave()
    draft = recovery.load("P-001__ct")
    assert draft.labels.geometry.same_place(session.case.native)
    assert np.array_equal(to_canonical(draft.labels, session.case.native, "").array, session.array)
    assert recovery.pending() == ["P-001__ct"]


def test_only_edits_are_worth_a_draft(session, recovery):
    session.autosave()
    assert recovery.pending() == []
    session.edited()
    assert session.dirty
    assert session.needs_autosave
    session.autosave()
    assert session.dirty
    assert not session.needs_autosave


def test_submitting_forgets_the_draft(session, recovery):
    session.edited()
    session.autosave()
    deliver(session, session.snapshot(), 2)
    assert not session.dirty
    assert recovery.pending() == []
    assert (session.started_from, session.seen) == ("version 2", 2)


def test_what_was_painted_while_the_upload_ran_stays_unsaved_work(session, recovery):
    session.edited()
    snapshot = session.snapshot()
    session.array[0, 0, 0] = 3
    session.edited()
    deliver(session, snapshot, 2)
    assert session.dirty
    assert to_canonical(recovery.load("P-001__ct").labels, session.case.native, "").array[0, 0, 0] == 3


def test_an_autosave_that_ends_after_the_submission_does_not_bring_the_draft_back(session, recovery):
    session.edited()
    late = session.snapshot()
    deliver(session, session.snapshot(), 2)
    session.autosave(late)
    assert recovery.pending() == []


def test_a_crash_while_a_draft_is_written_leaves_the_one_before(session, recovery):
    session.edited()
    session.autosave()
    (recovery.folder / "P-001__ct.20990101T000000000000.nii.gz").write_bytes(b"half a file")
    assert np.array_equal(to_canonical(recovery.load("P-001__ct").labels, session.case.native, "").array, session.array)


def test_a_damaged_draft_is_put_aside_not_deleted(session, recovery):
    session.edited()
    session.autosave()
    record = json.loads((recovery.folder / "P-001__ct.json").read_text("utf-8"))
    (recovery.folder / record["file"]).write_bytes(b"damaged")
    assert recovery.load("P-001__ct") is None
    assert (recovery.folder / "discarded" / "P-001__ct.nii.gz").read_bytes() == b"damaged"


def test_discarded_edits_can_still_be_found(session, recovery):
    session.edited()
    session.autosave()
    recovery.discard("P-001__ct")
    assert recovery.load("P-001__ct") is None
    assert (recovery.folder / "discarded" / "P-001__ct.nii.gz").is_file()


def test_drafts_of_two_servers_do_not_meet(tmp_path, session):
    draft = Draft(session.snapshot().native(), "corrected", "", now())
    Recovery(tmp_path, "http://a").save("P-001__ct", draft)
    assert Recovery(tmp_path, "http://b").load("P-001__ct") is None


def test_every_draft_put_aside_is_kept(session, recovery):
    for value in (3, 4):
        session.array[0, 0, 0] = value
        session.edited()
        session.autosave()
        recovery.discard("P-001__ct")
    kept = [read_labels(path).array.max() for path in sorted((recovery.folder / "discarded").glob("*.nii.gz"))]
    assert sorted(kept) == [3, 4]


def test_a_model_label_stays_a_models_until_it_is_touched(session):
    session.taken("model", "abc", session.array)
    assert (session.origin, session.started_from, session.by_hand) == ("model", "abc", False)
    session.edited()
    assert (session.origin, session.started_from, session.by_hand) == ("corrected", "abc", True)


def test_where_labels_come_from_follows_undo_and_redo(session):
    session.edited()  # drawn
    drawn = session.moment
    session.edited()  # the model's labels arrive as one step …
    session.taken("model", "abc", session.array)
    session.edited()  # … and are corrected
    assert (session.origin, session.started_from) == ("corrected", "abc")
    session.undone()
    assert (session.origin, session.started_from) == ("model", "abc")
    session.undone()
    assert session.moment == drawn
    session.redone()
    assert (session.origin, session.started_from) == ("model", "abc")
    session.undone()
    session.undone()
    assert not session.dirty
    session.undone()  # nothing left
    assert not session.dirty


def test_undoing_everything_takes_the_draft_back_too(session, recovery):
    session.edited()
    session.autosave()
    session.undone()
    assert session.needs_autosave
    session.autosave()
    assert recovery.pending() == []
    session.redone()
    session.autosave()
    assert recovery.pending() == ["P-001__ct"]


def test_undo_past_a_submission_is_work_again_of_the_start_it_had(session):
    session.edited()
    deliver(session, session.snapshot(), 2)
    session.undone()
    assert session.dirty
    assert session.started_from == ""
    session.redone()
    assert not session.dirty
    assert session.started_from == "version 2"


def test_a_label_map_of_another_grid_is_refused(make_case):
    other = Geometry((24, 48, 48), (5.0, 4.0, 4.0), (0.0, 0.0, 0.0))
    with pytest.raises(StudyError, match=r"version 3: lies on a grid .* not on its CT's"):
        to_canonical(LabelMap(np.zeros(other.shape, np.uint8), other), make_case().native, "version 3")


def test_labels_written_with_other_numbers_are_read_by_name(make_case, truth):
    case = make_case()
    shuffled = LabelMap(case.to_native((truth * 10).astype(np.uint8)).array, case.native, {10: "left_kidney", 20: "right_kidney", 30: "liver"})  # fmt: skip # noqa: E501
    assert np.array_equal(to_canonical(shuffled, case.native, "").array, truth)


# ---- live numbers


def test_volume_mass_hu_and_activity_of_a_box(make_case, truth):
    case = make_case()
    kidney = {m.name: m for m in measure(truth, case.ct, case.spects[1].volume)}["left_kidney"]
    assert kidney.volume_ml == pytest.approx(8 * 6 * 5 * 0.08)
    assert kidney.mass_g == pytest.approx(kidney.volume_ml * 1.06)
    assert kidney.mean_hu == 60
    assert kidney.mean_bq_ml == pytest.approx(2000)


def test_the_mean_activity_is_read_where_the_organ_lies(make_case, truth):
    """A linear ramp is reproduced exactly by linear interpolation, on whatever grid."""
    case = make_case()
    grid = Geometry((30, 50, 50), (4.42, 4.42, 4.42), (-108.0, -108.0, -62.0))
    z, y, x = (np.indices(grid.shape)[i] for i in range(3))
    points = grid.index_to_lps(np.stack([z, y, x], -1))
    ramp = canonical(Volume((1000 + points @ [1.0, 2.0, 3.0]).astype(np.float32), grid))
    voxels = np.argwhere(truth == 2)
    expected = 1000 + case.ct.geometry.index_to_lps(voxels).mean(axis=0) @ [1.0, 2.0, 3.0]
    assert {m.value: m for m in measure(truth, case.ct, ramp)}[2].mean_bq_ml == pytest.approx(expected, rel=1e-5)


def test_what_changes_is_counted_as_if_counted_anew_and_compared_with_the_start(make_case, truth):
    case, spect = make_case(), make_case().spects[0].volume
    array = spect.array * np.random.default_rng(0).uniform(0.5, 2, spect.array.shape).astype(np.float32)
    spect, labels = Volume(array, spect.geometry), truth.copy()
    tally = Tally(case.ct, spect)
    for changed in ((slice(8, 12), slice(26, 29), slice(30, 40)), (slice(0, 20), slice(10, 20), slice(8, 16))):
        tally.follow(labels)
        labels[changed] = np.random.default_rng(1).integers(0, 6, labels[changed].shape)
        anew = {m.value: m for m in measure(labels, case.ct, spect)}
        for found in tally.follow(labels).measures(start=truth):
            expected = anew.pop(found.value)
            assert (found.name, found.volume_ml, found.mass_g) == (expected.name, expected.volume_ml, expected.mass_g)
            assert (found.mean_hu, found.mean_bq_ml) == pytest.approx((expected.mean_hu, expected.mean_bq_ml), rel=1e-9)
            started_ml = np.count_nonzero(truth == found.value) * case.ct.geometry.voxel_volume_ml
            assert found.change_ml == pytest.approx(found.volume_ml - started_ml)
        assert not anew


def test_an_organ_outside_the_table_has_a_volume_but_no_mass(make_case, truth):
    measured = measure(np.where(truth == 1, 9, 0).astype(np.uint8), make_case().ct)
    assert [(m.value, m.mass_g, m.mean_bq_ml) for m in measured] == [(9, None, None)]


# ---- settings


def test_settings_are_remembered_and_hold_no_token(tmp_path):
    settings = Settings(folder=tmp_path, author="AN").with_url("http://x:1").with_url("http://y:2")
    settings.save()
    loaded = Settings.load(tmp_path)
    assert loaded.urls[:2] == ("http://y:2", "http://x:1")
    assert loaded.author == "AN"
    for i in range(20):
        loaded = loaded.with_url(f"http://{i}")
    assert len(loaded.urls) == HISTORY


def test_damaged_settings_are_the_defaults(tmp_path):
    (tmp_path / "plugin.json").write_text("{half")
    assert Settings.load(tmp_path) == Settings(folder=tmp_path)
