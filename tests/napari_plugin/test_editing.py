"""The open case on napari's layer model, without a server: history, drafts, and layers that others touch."""

from __future__ import annotations

import numpy as np
import pytest
from napari.components import ViewerModel

from napari_plugin.editing import AUTOSAVE_AFTER_MS, Editing
from napari_plugin.organ_labels import OrganLabels
from napari_plugin.session.recovery import Recovery
from napari_plugin.tasks import Tasks


@pytest.fixture
def editing(qapp, tmp_path, make_case, truth):
    tasks = Tasks()
    editing = Editing(ViewerModel(), tasks)
    editing.show(make_case(labels=truth), Recovery(tmp_path, "http://a"))
    yield editing
    editing.cleanup()
    tasks.cleanup()


def paint(editing: Editing, value: int = 4, y: int = 10) -> None:
    """One stroke of the brush over three places, as napari's mouse callbacks do it."""
    labels = editing.layers.labels
    with labels.block_history():
        for x in (4, 5, 6):
            labels.paint((2, y, x), value)


def test_napari_still_has_what_the_labels_layer_looks_at(truth):
    """No public word says these; when napari drops them, undo, redo and offers must find another way."""
    layer = OrganLabels(truth.copy(), ct_hu=truth)
    assert not layer.painting
    with layer.block_history():
        layer.paint((2, 10, 4), 4)
        assert layer.painting
    assert len(layer._undo_history) == 1
    layer.undo()
    assert (len(layer._undo_history), len(layer._redo_history)) == (0, 1)


def test_a_stroke_is_one_step_and_undo_without_steps_is_no_edit(editing, truth):
    told = []
    editing.labels_changed.connect(lambda: told.append(1))
    editing.undo()
    assert not told
    assert not editing.session.dirty
    paint(editing)
    assert len(told) == 1
    editing.undo()
    assert np.array_equal(editing.session.array, truth)
    assert not editing.session.dirty


def test_undoing_a_models_labels_brings_back_where_the_old_ones_came_from(editing, truth):
    paint(editing)
    before = editing.session.moment
    editing.replace(np.roll(truth, 2, axis=1), "a-model")
    paint(editing, 4, y=40)
    assert (editing.session.origin, editing.session.started_from) == ("corrected", "a-model")
    editing.undo()
    assert (editing.session.origin, editing.session.started_from) == ("model", "a-model")
    editing.undo()
    assert editing.session.moment == before
    editing.redo()
    assert editing.session.started_from == "a-model"


def test_history_and_provenance_stay_in_step_beyond_what_napari_keeps(editing):
    for i in range(103):
        editing.layers.labels.data_setitem((np.array([1]), np.array([1]), np.array([1])), i % 4 + 1)
    while editing.layers.labels._undo_history:
        editing.undo()
    assert editing.session.moment.token == 3
    for _ in range(100):
        editing.redo()
    assert editing.session.moment.token == 103


def test_other_labels_are_not_laid_over_hand_work_or_a_stroke_under_way(editing):
    assert editing.untouched
    with editing.layers.labels.block_history():
        editing.layers.labels.paint((2, 10, 4), 4)
        assert not editing.untouched
    assert not editing.untouched
    editing.undo()
    assert editing.untouched


def test_some_organs_of_a_model_leave_the_others_as_they_are(editing, truth):
    paint(editing)
    moved = np.roll(truth, 3, axis=1)
    editing.take(editing.change_to(moved, ["liver"]), "corrected", "a-model", moved)
    now = editing.session.array
    for value in (1, 2, 4):
        assert np.array_equal(now == value, np.where(truth == 0, now == value, truth == value))
    assert np.array_equal(now == 3, (moved == 3) & ~np.isin(now, (1, 2, 4)))


def test_the_starting_labels_are_not_painted_on(editing, truth):
    paint(editing, 1)
    assert np.array_equal(editing.session.moment.start if editing.session.moment.start is not None else truth, truth)
    assert np.array_equal(editing.session.case.labels.array, truth)


def test_a_draft_is_on_disk_within_two_seconds_of_a_stroke(editing):
    assert AUTOSAVE_AFTER_MS <= 1500
    paint(editing)
    assert editing._autosave_timer.isActive()
    paint(editing, y=40)  # more strokes do not put it off
    assert editing._autosave_timer.remainingTime() <= 2000
    editing._autosave_timer.timeout.emit()
    editing._tasks.wait("autosave", 60)
    assert editing.session.recovery.pending() == ["P-001__ct"]


@pytest.mark.parametrize("which", ["ct", "spect", "labels"])
def test_inputs_and_labels_are_locked_and_one_removed_all_the_same_is_offered_back(editing, which):
    layer, lost = getattr(editing.layers, which), []
    editing.layers_lost.connect(lambda *what: lost.append(what))
    order = list(editing.viewer.layers)
    editing.viewer.layers.selection = {layer}
    editing.viewer.layers.remove_selected()
    assert layer in editing.viewer.layers
    paint(editing)
    painted = editing.session.array.copy()
    layer.locked = False
    editing.viewer.layers.remove(layer)
    assert lost == [("removed", layer.name)]
    assert editing.session.recovery.pending() == ["P-001__ct"]
    editing.put_layers_back()
    assert list(editing.viewer.layers) == order
    assert np.array_equal(editing.layers.labels.data, painted)
    editing.undo()
    assert not editing.session.dirty


def test_tools_refuse_while_the_labels_are_not_on_screen(editing):
    said = []
    editing.status.connect(lambda text, level: said.append(text))
    editing.layers.labels.locked = False
    editing.viewer.layers.remove(editing.layers.labels)
    assert editing.tool("keep_largest", "liver") == 0
    assert "put it back" in said[-1]


def test_a_renamed_layer_is_noticed_and_gets_its_name_back(editing):
    lost = []
    editing.layers_lost.connect(lambda *what: lost.append(what))
    editing.layers.labels.name = "mine"
    assert lost == [("renamed", "Organs")]
    editing.put_layers_back()
    assert editing.layers.labels.name == "Organs"
    editing.close()
    assert len(lost) == 1
