"""OpenVINO in torch's place: the same organs, in 8 bits too; asked for and absent: said; without it nothing changes."""

import importlib.util
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from doselabel.errors import ModelError
from doselabel.model import checkpoint as checkpoints
from doselabel.model import eightbit, engine
from doselabel.model.checkpoint import Checkpoint
from doselabel.model.engine import for_use
from doselabel.model.network import build
from doselabel.model.predict import segment
from doselabel.model.profiles import FAST, PAPER
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
    (kept,) = (tmp_path / "doselabel" / "openvino").iterdir()
    assert ("int8" in kept.name) == eightbit.possible()
    in_8_bits = {part for part in engine.PARTS if 'type="FakeQuantize"' in (kept / f"{part}.xml").read_text("utf-8")}
    assert in_8_bits == (set(eightbit.PARTS) if eightbit.possible() else set())
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
    (kept,) = (tmp_path / "doselabel" / "openvino").iterdir()
    (kept / "roi_heads.mask_head.xml").write_text("half")
    found = segment(patient[0], checkpoints.load(checkpoints.starter_path())).labels
    assert np.array_equal(found.array, expected.array)
    assert (kept / "roi_heads.mask_head.xml").stat().st_size > 1000  # whole again, for the next process


@pytest.mark.skipif(not INSTALLED, reason="OpenVINO is not installed (extra 'openvino')")
@pytest.mark.parametrize("profile", [FAST, replace(PAPER, side_px=256), replace(FAST, rpn_levels=("1",), spect=True)])
def test_parts_of_any_profile_are_converted(profile, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(eightbit, "possible", lambda: False)
    torch.manual_seed(0)
    ready = Checkpoint(build(profile).eval(), profile, {}, "0" * 64)
    quick = for_use(ready, torch.device("cpu"), "openvino")
    picture, levels = torch.rand(1, profile.channels, 96, 64), profile.rpn_levels
    boxes = torch.rand(3, profile.fpn_channels, profile.box_roi, profile.box_roi)
    masks = torch.rand(3, profile.fpn_channels, profile.mask_roi, profile.mask_roi)
    with torch.inference_mode():
        for given in (masks[:0], masks):  # nothing seen, and three objects
            pair = [net.roi_heads.mask_predictor(net.roi_heads.mask_head(given)) for net in (quick, ready.model)]
            assert torch.allclose(*pair, atol=1e-3)
        pyramid = [net.backbone(picture) for net in (quick, ready.model)]
        assert list(pyramid[0]) == list(pyramid[1])
        same = [net.rpn.head([pyramid[1][level] for level in levels]) for net in (quick, ready.model)]
        for kind in (0, 1):
            assert all(torch.allclose(a, b, atol=1e-3) for a, b in zip(same[0][kind], same[1][kind], strict=True))
        assert torch.allclose(quick.roi_heads.box_head(boxes), ready.model.roi_heads.box_head(boxes), atol=1e-3)


def test_the_ranges_come_from_what_the_parts_are_given_in_use(starter, patient, monkeypatch):
    in_use = []
    with monkeypatch.context() as change:
        backbone = starter.model.backbone.forward
        change.setattr(starter.model.backbone, "forward", lambda batch: in_use.append(batch) or backbone(batch))
        segment(patient[0], starter, engine="torch")
    given = eightbit.given(starter.model, eightbit.PARTS, starter.profile)
    assert [len(given[name]) for name in ("backbone", "rpn.head")] == [54, 18]
    assert 10 <= len(given["roi_heads.mask_head"]) <= 18  # on some pictures nothing is seen
    shown = [batch for (batch,) in given["backbone"]]
    for batch in shown:
        assert batch.shape[:2] == in_use[0].shape[:2]
        assert not any(side % 32 for side in batch.shape[2:])
        assert in_use[0].min() == batch.min()
        assert batch.max() <= (1 - 0.45) / 0.225 + 1e-6
    assert abs(np.mean([batch.mean() for batch in shown]) - np.mean([batch.mean() for batch in in_use])) < 0.5
    assert not starter.model.backbone._forward_pre_hooks  # nothing is left behind on the network


def test_of_converted_models_only_the_newest_stay(tmp_path):
    class Writer:
        @staticmethod
        def save_model(network, path, compress_to_fp16):
            Path(path).write_text(network, encoding="utf-8")

    for number in range(engine.KEPT + 3):
        engine._keep(Writer, {"head": str(number)}, tmp_path / str(number))
        os.utime(tmp_path / str(number), (number, number))
    engine._keep(Writer, {"head": "anew"}, tmp_path / str(number))
    left = {folder.name for folder in tmp_path.iterdir()}
    assert left == {str(n) for n in range(3, engine.KEPT + 3)}
    assert (tmp_path / str(number) / "head.xml").read_text("utf-8") == "anew"
