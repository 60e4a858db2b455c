"""The dose of a draft: answered from a session, marked as what it is, kept by nobody."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from doselabel.errors import LabelError, no_progress
from doselabel.geometry import Geometry, read_image, write_image
from doselabel.labels import NAMES, LabelMap, write_labels
from doselabel.versions import LabelStore
from doselabel.wire import DoseResults, LabelSubmission
from monailabel_app.infers.dosimetry import Dosimetry
from monailabel_app.infers.draft_dose import DRAFTS, DraftDose


@pytest.fixture
def ask(boxes, tmp_path):
    """Ask for the dose of drafts of a patient of which nothing was submitted; a SPECT stays where the files say."""
    study = boxes.make_patient(tmp_path / "P-001", "P-001")
    looked: list[str] = []

    class Guesses:
        """In the network's place: knows the boxes, and which CTs it was asked to look at."""

        def segment(self, ct: Path, request: dict) -> tuple[LabelMap, None]:
            looked.append(ct.name)
            return boxes.label_map, None

        def answers_by(self, ct: Path) -> str:
            return "boxes"

    guesses, cache = Guesses(), tmp_path / "cache"
    task = DraftDose(guesses, cache)

    def ask(drafts: dict[str, LabelMap], **params) -> DoseResults:
        folder = tmp_path / "drafts"
        folder.mkdir()
        for name, labels in drafts.items():
            write_labels(folder / f"P-001__{name.partition('.')[0]}.nii.gz", labels)
        request = {"image": str(study.path("ct.nii.gz")), DRAFTS: str(folder), "organs": ["left_kidney"]}
        request |= {"registration": "stored", **params}
        try:
            return DoseResults.model_validate(task(request, tmp_path, no_progress)["dose"])
        finally:
            shutil.rmtree(folder)

    def compute(**params) -> DoseResults:
        """The dose of what is submitted, as it is asked for before drafts are."""
        out = tmp_path / "out"
        out.mkdir()
        request = {"image": str(study.path("ct.nii.gz")), "organs": ["left_kidney"], "out": str(out), "report": False}
        return DoseResults.model_validate(Dosimetry(guesses, cache)(request | params)[1]["dose"])

    ask.folder, ask.task, ask.looked, ask.study, ask.compute = Path(study.folder), task, looked, study, compute
    return ask


def everywhere(labels: LabelMap) -> dict[str, LabelMap]:
    return {name: labels for name in ("ct.nii.gz", "ct_tp1.nii.gz", "ct_tp2.nii.gz", "ct_tp3.nii.gz")}


def test_a_draft_has_a_dose_that_says_it_is_one(ask, boxes):
    before = sorted(ask.folder.rglob("*"))
    found = ask(everywhere(boxes.label_map))
    assert found.organs["left_kidney"].mean_dose_gy > 0
    assert found.warnings[0].startswith("Draft, not submitted")
    assert found.labels_origin.startswith("draft, not submitted")
    assert not found.reviewed
    assert sorted(ask.folder.rglob("*")) == before


def test_a_draft_that_is_no_label_map_of_its_ct_is_refused_without_the_servers_own_paths(ask, boxes, tmp_path):
    shorter = Geometry((boxes.grid.shape[0] - 2, *boxes.grid.shape[1:]), boxes.grid.spacing_mm, boxes.grid.origin_mm)
    with pytest.raises(LabelError, match="The label map is not on the grid of P-001__ct") as caught:
        ask({"ct.nii.gz": LabelMap(boxes.organs()[:-2], shorter)})
    assert str(tmp_path) not in caught.value.message


def test_the_next_draft_is_answered_by_the_same_session(ask, boxes):
    first = ask(everywhere(boxes.label_map), registration="auto")
    array = boxes.label_map.array.copy()
    array[8:12, 26:32, 30:35] = 0
    drafts = everywhere(boxes.label_map) | {"ct_tp2.nii.gz": LabelMap(array, boxes.grid)}
    second = ask(drafts, registration="auto")
    assert len(ask.task._sessions) == 1
    assert {f"organ activities of time point {i}" for i in (1, 3)} <= set(second.provenance["reused"])
    old, new = (found.organs["left_kidney"].activity_mbq for found in (first, second))
    assert new[1] != old[1]
    assert np.array_equal([new[0], new[2]], [old[0], old[2]])


def test_without_the_diagnostic_ct_masks_are_missing(ask, boxes):
    with pytest.raises(LabelError, match="final"):
        ask({"ct_tp1.nii.gz": boxes.label_map})


def test_a_draft_after_a_computed_dose_begins_where_it_ended(ask, boxes):
    """A draft that changes nothing changes no dose; the network looks at each CT once, and no step is done again."""
    before = ask.compute(labels="model", registration="auto")
    assert ask.looked == ["ct.nii.gz", "ct_tp1.nii.gz", "ct_tp2.nii.gz", "ct_tp3.nii.gz"]
    kept = sorted((ask.task._cache).rglob("*"))
    found = ask({"ct.nii.gz": boxes.label_map}, labels="model", registration="auto")
    assert len(ask.looked) == 4
    steps = ("registration", "organ activities")
    assert {f"{step} of time point {i}" for step in steps for i in (1, 2, 3)} <= set(found.provenance["reused"])
    assert sorted((ask.task._cache).rglob("*")) == kept
    apart = {"warnings", "alarms", "labels_origin", "reviewed", "provenance"}
    assert found.model_dump(exclude=apart) == before.model_dump(exclude=apart)
    assert found.warnings[0].startswith("Draft, not submitted")
    assert "ct_tp1, ct_tp2, ct_tp3 were predicted by the model" in found.warnings[1]
    assert found.labels_origin.startswith("draft, not submitted (ct.nii.gz); else submitted label maps, completed")
    ask({"ct.nii.gz": boxes.label_map}, labels="model", registration="auto")
    assert len(ask.looked) == 4


def test_other_options_are_computed_on_the_same_guesses(ask, boxes):
    doses = [ask({"ct.nii.gz": boxes.label_map}, labels="model", voi=voi) for voi in ("margin", "threshold")]
    assert sorted(ask.looked) == ["ct_tp1.nii.gz", "ct_tp2.nii.gz", "ct_tp3.nii.gz"]
    assert doses[0].organs["left_kidney"].mass_g == doses[1].organs["left_kidney"].mass_g


def test_what_was_submitted_meanwhile_takes_the_place_of_what_the_model_filled_in(ask, boxes):
    ask({"ct.nii.gz": boxes.label_map}, labels="model")
    LabelStore.of(ask.study, "ct_tp2.nii.gz").add(boxes.label_map, LabelSubmission(author="ada"))
    found = ask({"ct.nii.gz": boxes.label_map}, labels="model")
    assert "completed by the model for ct_tp1, ct_tp3" in found.labels_origin


def test_a_drawn_lesion_gets_a_row_of_its_own_and_a_drawn_pelvis_is_not_counted_at_its_time_point(ask, boxes):
    spect = read_image(ask.study.path("spect_tp1.nii.gz"))
    z, y, x = np.rint(spect.geometry.lps_to_index(np.array([36.0, 20.0, -5.0]))).astype(int)  # in the left kidney
    spect.array[z, y - 1 : y + 2, x - 1 : x + 2] = 50 * spect.array.max()
    write_image(ask.study.path("spect_tp1.nii.gz"), spect)
    organs = ["left_kidney", "liver"]
    plain = ask(everywhere(boxes.label_map), organs=organs)

    lesion, pelvis = boxes.organs(), boxes.organs()
    lesion[5:13, 15:23, 9:17] = 6
    pelvis[9:14, 26:31, 30:35] = 6
    with_lesion = LabelMap(lesion, boxes.grid, {**NAMES, 6: "tumour_1"})
    drafts = dict.fromkeys(everywhere(with_lesion), with_lesion)
    drafts["ct_tp1.nii.gz"] = LabelMap(
        np.where(lesion == 6, 7, pelvis), boxes.grid, {**NAMES, 6: "renal_pelvis", 7: "tumour_1"}
    )
    found = ask(drafts, organs=None)
    assert set(found.organs) == {"left_kidney", "right_kidney", "liver", "tumour_1"}
    assert found.organs["tumour_1"].volume_ml == pytest.approx(512 * boxes.grid.voxel_volume_ml)
    assert found.organs["tumour_1"].mean_dose_gy > 0
    assert found.organs["liver"].volume_ml == pytest.approx(
        plain.organs["liver"].volume_ml - found.organs["tumour_1"].volume_ml
    )
    kidney, before = found.organs["left_kidney"], plain.organs["left_kidney"]
    assert kidney.activity_mbq[0] < 0.7 * before.activity_mbq[0]
    assert kidney.activity_mbq[1:] == pytest.approx(before.activity_mbq[1:])
    assert kidney.mass_g == before.mass_g
