"""A session answers an edit with what a full run of the same masks says, to the last bit, computing only the rest.

But for one thing: a small edit moves no image.
"""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import ndimage

from doselabel.dosimetry import pipeline
from doselabel.dosimetry.cache import Memory
from doselabel.dosimetry.options import DoseOptions
from doselabel.dosimetry.results import DoseComputation
from doselabel.dosimetry.session import Session
from doselabel.dosimetry.uptake.held import Held
from doselabel.errors import LabelError
from doselabel.geometry import Geometry, Volume, read_image, write_image
from doselabel.labels import LabelMap, read_labels, write_labels
from doselabel.study import Study

CTS = ("ct.nii.gz", *(f"ct_tp{i}.nii.gz" for i in (1, 2, 3, 4)))
LATE = {CTS[4]}
OPTIONS = DoseOptions(registration="stored")


@pytest.fixture(scope="module")
def study(known: SimpleNamespace, tmp_path_factory: pytest.TempPathFactory) -> Study:
    """Kidneys and liver, every time point with a CT and masks of its own."""
    ct = known.centred((52, 56, 72), (4.5, 4.5, 4.5))
    return known.make_study(
        tmp_path_factory.mktemp("session") / "study",
        known.KIDNEYS_AND_LIVER,
        spect_grid=known.centred((34, 36, 46), (7.0, 7.0, 7.0)),
        ct_grid=ct,
        tp_ct_grid=ct,
        background_bq_ml=2000.0,
        noise=50.0,
    )


@pytest.fixture(scope="module")
def warm(study: Study) -> Session:
    """A session that has answered once."""
    session = Session(study.folder, study.folder / "truth", OPTIONS)
    session.compute()
    return session


def grown(labels: LabelMap) -> LabelMap:
    kidney = ndimage.binary_dilation(labels.mask("left_kidney")) & (labels.array == 0)
    return LabelMap(np.where(kidney, labels.value("left_kidney"), labels.array).astype(np.uint8), labels.geometry)


def shrunk(labels: LabelMap) -> LabelMap:
    liver = labels.mask("liver")
    return LabelMap(np.where(liver & ~ndimage.binary_erosion(liver), 0, labels.array), labels.geometry)


def deleted(labels: LabelMap) -> LabelMap:
    return LabelMap(np.where(labels.mask("right_kidney"), 0, labels.array), labels.geometry)


def with_lesion(labels: LabelMap) -> LabelMap:
    centre = np.round(ndimage.center_of_mass(labels.mask("liver"))).astype(int)
    z, y, x = np.indices(labels.array.shape)
    ball = (z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2 <= 16
    names = {**labels.names, 9: "tumour_1"}
    return LabelMap(np.where(ball, 9, labels.array).astype(np.uint8), labels.geometry, names)


EDITS = {
    "grown at one time point": (grown, LATE),
    "grown on the diagnostic CT": (grown, {CTS[0]}),
    "shrunk at all time points": (shrunk, set(CTS)),
    "deleted at one time point": (deleted, LATE),
    "deleted everywhere": (deleted, set(CTS)),
    "a lesion drawn everywhere": (with_lesion, set(CTS)),
}


def drafts_of(study: Study, edit: str) -> dict[str, LabelMap]:
    change, where = EDITS[edit]
    return {name: change(read_labels(study.folder / "truth" / name)) for name in CTS if name in where}


def full_run(
    study: Study, drafts: dict[str, LabelMap], folder: Path, options: DoseOptions = OPTIONS
) -> DoseComputation:
    """What `pipeline` makes of the same masks in files."""
    shutil.copytree(study.folder / "truth", folder)
    for name, labels in drafts.items():
        write_labels(folder / name, labels)
    return pipeline.compute(study, folder, options)


def assert_same(ours: DoseComputation, theirs: DoseComputation) -> None:
    apart = {"provenance", "labels_origin", "reviewed"}  # say where it comes from, not what it is
    assert ours.results.model_dump(exclude=apart) == theirs.results.model_dump(exclude=apart)
    np.testing.assert_array_equal(ours.dose.array, theirs.dose.array)
    assert ours.labels.keys() == theirs.labels.keys()
    for name, labels in ours.labels.items():
        np.testing.assert_array_equal(labels.array, theirs.labels[name].array)
    for a, b in zip(ours.vois, theirs.vois, strict=True):
        np.testing.assert_array_equal(a.array, b.array)


@pytest.mark.parametrize("edit", EDITS)
def test_an_edit_is_answered_as_a_full_run_answers_it(edit: str, study: Study, warm: Session, tmp_path: Path) -> None:
    drafts = drafts_of(study, edit)
    found = warm.compute(drafts)
    assert_same(found, full_run(study, drafts, tmp_path / "labels"))
    assert found.results.labels_origin.startswith("draft, not submitted")
    assert not found.results.reviewed


def test_only_what_depends_on_an_edit_is_computed(study: Study, warm: Session) -> None:
    warm.compute()
    late = grown(grown(read_labels(study.folder / "truth" / CTS[4])))
    reused = warm.compute({CTS[4]: late}).results.provenance["reused"]
    assert sorted(reused) == [f"organ activities of time point {i}" for i in (1, 2, 3)]


def test_a_small_edit_leaves_images_where_they_are_and_a_large_one_does_not(
    known: SimpleNamespace, tmp_path: Path
) -> None:
    """One SPECT lies 7 mm off, and one CT has no masks of its own."""
    study = known.make_study(
        tmp_path / "study",
        known.KIDNEYS_AND_LIVER,
        spect_grid=known.centred((34, 36, 46), (7.0, 7.0, 7.0)),
        ct_grid=known.centred((52, 56, 72), (4.5, 4.5, 4.5)),
        tp_ct_grid=known.centred((52, 56, 72), (4.5, 4.5, 4.5)),
        background_bq_ml=2000.0,
        shifts_mm={1: (0.0, 7.0, 0.0)},
    )
    truth = study.folder / "truth"
    (truth / CTS[3]).unlink()
    session = Session(study.folder, truth, DoseOptions())
    before = session.compute({name: read_labels(truth / name) for name in (CTS[0], CTS[2])})
    assert before.results.registration[1]["shift_mm"] == pytest.approx(7.0, abs=0.3)

    def bitten(labels: LabelMap) -> LabelMap:
        """Some voxels of the left kidney's upper end erased."""
        z, y, x = np.nonzero(labels.mask("left_kidney"))
        array, end = labels.array.copy(), slice(int(0.97 * z.size), None)
        array[z[end], y[end], x[end]] = 0
        return LabelMap(array, labels.geometry, labels.names)

    drafts = {name: bitten(read_labels(truth / name)) for name in (CTS[0], CTS[2])}
    small, full = session.compute(drafts), full_run(study, drafts, tmp_path / "small", DoseOptions())
    places = [[point["matrix"] for point in done.results.registration] for done in (before, small, full)]
    assert places[0] == places[1] != places[2]
    for name, organ in full.results.organs.items():
        assert small.results.organs[name].mass_g == organ.mass_g
        assert abs(small.results.organs[name].mean_dose_gy - organ.mean_dose_gy) < 0.05 * organ.dose_sd_gy

    drafts = {name: deleted(read_labels(truth / name)) for name in (CTS[0], CTS[2])}
    large, full = session.compute(drafts), full_run(study, drafts, tmp_path / "large", DoseOptions())
    places = [[point["matrix"] for point in done.results.registration] for done in (before, large, full)]
    assert places[0] != places[1] == places[2]
    for name, organ in full.results.organs.items():  # ITK's registration of a CT differs in the last bit
        assert large.results.organs[name].mean_dose_gy == pytest.approx(organ.mean_dose_gy, rel=1e-9)


@pytest.mark.parametrize(
    ("lost", "again"),
    [({1: 9}, False), ({1: 11}, True), ({1: 6, 2: 6}, True), ({1: 4, 2: 5}, False), ({1: 100}, True)],
    ids=lambda value: str(value),
)
def test_what_is_held_is_found_anew_when_the_organs_have_changed_by_a_tenth_together(
    lost: dict[int, int], again: bool
) -> None:
    """Percent of each organ's voxels that are erased."""
    before = LabelMap(np.repeat(np.uint8([0, 1, 2]), 100).reshape(3, 10, 10), Geometry((3, 10, 10), (1.0,) * 3))
    array = before.array.copy()
    for value, count in lost.items():
        array[value].flat[:count] = 0
    held, found = Held(), iter(range(9))
    assert held.find("a place", [before], lambda: next(found)) == 0
    assert held.find("a place", [LabelMap(array, before.geometry)], lambda: next(found)) == again
    assert held.find("another", [before], lambda: next(found)) == again + 1
    drawn_new = np.where(array == 0, 3, array).astype(np.uint8)
    assert held.find("a place", [LabelMap(drawn_new, before.geometry)], lambda: next(found)) == again + 2


def test_a_session_without_memory_says_the_same(study: Study, warm: Session) -> None:
    drafts = drafts_of(study, "shrunk at all time points")
    poor = Session(study.folder, study.folder / "truth", OPTIONS, limit_bytes=0, workers=1)
    assert_same(poor.compute(drafts), warm.compute(drafts))
    assert poor._memory.nbytes == 0


def test_memory_gives_up_what_was_not_used_for_longest() -> None:
    memory, made = Memory(limit_bytes=2000), []
    for key in ("a", "b", "a", "c", "a", "b"):
        memory.hold(key, lambda key=key: made.append(key) or np.zeros(100))
        assert memory.nbytes <= 2000
    assert made == ["a", "b", "c", "b"]


def test_a_study_that_changes_is_read_again(study: Study, tmp_path: Path) -> None:
    folder = shutil.copytree(study.folder, tmp_path / "study")
    session = Session(folder, folder / "truth", OPTIONS)
    before = session.compute()
    spect = read_image(folder / "spect_tp2.nii.gz")
    write_image(folder / "spect_tp2.nii.gz", Volume(spect.array * np.float32(1.1), spect.geometry))
    after = session.compute()
    assert_same(after, pipeline.compute(Study.load(folder), folder / "truth", OPTIONS))
    assert after.results.organs["liver"].activity_mbq[1] > 1.05 * before.results.organs["liver"].activity_mbq[1]
    write_labels(folder / "truth" / CTS[0], grown(read_labels(folder / "truth" / CTS[0])))
    assert session.compute().results.organs["left_kidney"].mass_g > after.results.organs["left_kidney"].mass_g


def test_several_threads_may_ask(study: Study, warm: Session) -> None:
    edits = ("grown at one time point", "deleted everywhere", "a lesion drawn everywhere")
    alone = {edit: warm.compute(drafts_of(study, edit)) for edit in edits}
    together: dict[str, DoseComputation] = {}
    threads = [
        threading.Thread(target=lambda e=edit: together.update({e: warm.compute(drafts_of(study, e))}))
        for edit in edits
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for edit in edits:
        assert_same(together[edit], alone[edit])


def test_a_draft_of_no_ct_of_the_study_is_refused(study: Study, warm: Session) -> None:
    labels = read_labels(study.folder / "truth" / CTS[0])
    with pytest.raises(LabelError, match="CTs are"):
        warm.compute({"other.nii.gz": labels})
    half = LabelMap(labels.array[::2], labels.geometry.with_spacing((9.0, 4.5, 4.5)))
    with pytest.raises(LabelError, match="not on that CT's grid"):
        warm.compute({CTS[0]: half})
