"""napari's own menus: study folders and label maps opened, saved, sampled; preferences; by the plugin's manifest."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from napari.components import ViewerModel
from npe2 import PluginManager

from doselabel.errors import GeometryError
from doselabel.geometry import read_image
from doselabel.labels import LabelMap, read_labels, write_labels
from doselabel.versions import LabelStore
from doselabel.wire import LabelSubmission
from napari_plugin import files, opening
from napari_plugin.session.settings import DEFAULT_URL, Settings
from tests.napari_plugin.conftest import GRID, organs


@pytest.fixture
def study(make_patient, tmp_path):
    study = make_patient(tmp_path / "P-001", "P-001")
    labels = LabelMap(
        np.where(organs() == 3, 9, organs()).astype(np.uint8),
        GRID,
        {1: "left_kidney", 2: "right_kidney", 9: "tumour_1"},
    )
    LabelStore.of(study, "ct.nii.gz").add(labels.renumbered(), LabelSubmission(author="ada"))
    return study


@pytest.fixture
def viewer():
    PluginManager.instance().discover()
    return ViewerModel()


def test_a_study_folder_is_opened_and_its_labels_saved_unchanged(viewer, study, tmp_path):
    ct, first, second, labels = viewer.open(study.folder, plugin="doselabel")
    assert (ct.name, first.name, labels.name) == ("CT · P-001", "SPECT 4 h (kBq/mL)", "Organs")
    assert float(first.data.max()) == pytest.approx(read_image(study.path("spect_tp1.nii.gz")).array.max() / 1000)
    assert (first.visible, second.visible) == (True, False)
    kidney = labels.data_to_world(np.argwhere(labels.data == 1).mean(axis=0))
    assert np.allclose(ct.world_to_data(kidney), np.argwhere(labels.data == 1).mean(axis=0))
    assert "Tumour 1" in list(labels.features["organ"])
    viewer.layers.selection = {labels}
    (written,) = viewer.layers.save(str(tmp_path / "out.nii.gz"), selected=True, plugin="doselabel")
    back = read_labels(written, expect=GRID)
    assert np.array_equal(back.mask("tumour_1"), organs() == 3)
    assert np.array_equal(back.mask("left_kidney"), organs() == 1)
    (again,) = viewer.open(written, plugin="doselabel")
    assert np.array_equal(again.data, labels.data)


def test_what_is_neither_study_nor_named_label_map_is_left_to_others(study, tmp_path):
    assert files.study_reader(str(tmp_path)) is None
    assert files.label_reader(str(study.path("ct.nii.gz"))) is None
    assert files.label_reader([str(tmp_path / "a.nii.gz"), str(tmp_path / "b.nii.gz")]) is None
    named = write_labels(tmp_path / "named.nii.gz", LabelMap(organs(), GRID))
    assert files.label_reader(str(named)) is files.label_layers
    with pytest.raises(GeometryError, match="does not say on which CT's grid"):
        files.write_label_layer(str(tmp_path / "x.nii.gz"), organs(), {"name": "Labels", "metadata": {}})


def test_the_sample_is_a_study_that_was_made_once(study, monkeypatch, tmp_path, viewer):
    monkeypatch.setattr(files.platformdirs, "user_cache_dir", lambda *_, **__: str(tmp_path / "cache"))
    (tmp_path / "cache" / "sample").mkdir(parents=True)
    (tmp_path / "P-001").rename(tmp_path / "cache" / "sample" / "P-001")
    names = [layer.name for layer in viewer.open_sample("doselabel", "patient")]
    assert names[0] == "CT · P-001"
    assert names[-1] == "Organs"


def test_preferences_count_where_nothing_was_used_yet(monkeypatch, tmp_path):
    stated = SimpleNamespace(annotating=SimpleNamespace(author=" ada ", server="http://10.0.0.7:8000"))
    monkeypatch.setattr(opening, "get_plugin_settings", lambda _: stated)
    load = Settings.load
    monkeypatch.setattr(Settings, "load", classmethod(lambda cls: load(tmp_path)))
    found = opening.preferred()
    assert (found.author, found.urls) == ("ada", ("http://10.0.0.7:8000",))
    Settings(folder=tmp_path, author="eve").with_url("http://b:1").save()
    assert opening.preferred().author == "eve"
    assert opening.preferred().urls == ("http://b:1", DEFAULT_URL)
