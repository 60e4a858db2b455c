"""OpenVINO in torch's place: the same organs; asked for and absent: said; without it nothing changes."""

import importlib.util

import numpy as np
import pytest
import torch

from doselabel.errors import ModelError
from doselabel.model import checkpoint as checkpoints
from doselabel.model.engine import for_use
from doselabel.model.predict import segment

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
def test_openvino_finds_the_same_organs_now_and_from_its_cache(starter, patient, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    expected = segment(patient[0], starter, engine="torch").labels
    found = segment(patient[0], starter).labels
    assert list((tmp_path / "doselabel" / "openvino").glob("*.xml"))
    from openvino.tools.ovc import telemetry_utils

    assert telemetry_utils.tm.__name__ == "openvino.tools.ovc.telemetry_stub"  # it tells nobody of its use
    again = segment(patient[0], checkpoints.load(checkpoints.starter_path())).labels
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
