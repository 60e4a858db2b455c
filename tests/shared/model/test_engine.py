"""OpenVINO in torch's place: the same organs, in 8 bits too; asked for and absent: said; without it nothing changes."""

import importlib.util
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from doselabel.errors import ModelError
from doselabel.model import checkpoint as checkpoints
from doselabel.model import eightbit, engine
from doselabel.model.engine import for_use
from doselabel.model.predict import segment
from doselabel.model.replay import made

INSTALLED = importlib.util.find_spec("openvino") is not None


@pytest.fixture(scope="module")
def starter():
    return checkpoints.load(checkpoints.starter_path())


def test_torch_leaves_the_network_as_it_is(starter):
    assert for_use(starter, torch.device("cpu"), "torch") is starter.model


@pytest.mark.skipif(INSTALLED, reason="OpenVINO is installed")
def test_openvino_asked_for_and_absent_is_said(starter):
    assert for_use(starter, torch.device("cpu")) is starter.model
    with pytest.raises(ModelError, match=r"not installed.*doselabel\[openvino\]"):
        for_use(starter, torch.device("cpu"), "openvino")


@pytest.mark.skipif(not INSTALLED, reason="OpenVINO is not installed (extra 'openvino')")
def test_openvino_finds_the_same_organs_now_and_from_its_cache(starter, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    ct, _ = made("low_dose", 43)  # of no patient whose pictures gave the ranges
    expected = segment(ct, starter, engine="torch").labels
    found = segment(ct, starter).labels
    (kept,) = (tmp_path / "doselabel" / "openvino").glob("*.xml")
    assert ("int8" in kept.name) == eightbit.possible()
    assert ('type="FakeQuantize"' in kept.read_text("utf-8")) == eightbit.possible()
    from openvino.tools.ovc import telemetry_utils

    assert telemetry_utils.tm.__name__ == "openvino.tools.ovc.telemetry_stub"  # it tells nobody of its use
    again = segment(ct, checkpoints.load(checkpoints.starter_path())).labels
    for name in expected.names.values():
        a, b = expected.mask(name), found.mask(name)
        assert 2 * (a & b).sum() >= 0.995 * (a.sum() + b.sum())
    assert np.array_equal(found.array, again.array)


@pytest.mark.skipif(not INSTALLED, reason="OpenVINO is not installed (extra 'openvino')")
def test_a_damaged_cache_is_made_anew(starter, patient, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    expected = segment(patient[0], checkpoints.load(checkpoints.starter_path())).labels
    (kept,) = (tmp_path / "doselabel" / "openvino").glob("*.xml")
    kept.write_text("half")
    found = segment(patient[0], checkpoints.load(checkpoints.starter_path())).labels
    assert np.array_equal(found.array, expected.array)


def test_pictures_for_the_ranges_are_what_the_backbone_is_given_in_use(starter, patient, monkeypatch):
    given = []

    def backbone(batch):
        given.append(batch)
        return type(starter.model.backbone).forward(starter.model.backbone, batch)

    monkeypatch.setattr(starter.model.backbone, "forward", backbone)
    segment(patient[0], starter, engine="torch")
    shown = list(eightbit.pictures(starter.profile))
    assert len(shown) == 54
    for batch in shown:
        assert batch.shape[:2] == given[0].shape[:2]
        assert not any(side % 32 for side in batch.shape[2:])
        assert given[0].min() == batch.min()
        assert batch.max() <= (1 - 0.45) / 0.225 + 1e-6
    assert abs(np.mean([batch.mean() for batch in shown]) - np.mean([batch.mean() for batch in given])) < 0.5


def test_of_converted_models_only_the_newest_stay(tmp_path):
    class Writer:
        @staticmethod
        def save_model(network, path, compress_to_fp16):
            for suffix in (".xml", ".bin"):
                Path(path).with_suffix(suffix).write_text(network)

    for number in range(engine.KEPT + 3):
        engine._keep(Writer, str(number), tmp_path / f"{number}.xml")
        os.utime(tmp_path / f"{number}.xml", (number, number))
    left = {file.name for file in tmp_path.iterdir()}
    newest = range(3, engine.KEPT + 3)
    assert left == {f"{n}{suffix}" for n in newest for suffix in (".xml", ".bin")}
