"""The starter model that ships says what it is, and segments a phantom it has never seen."""

import numpy as np
import pytest

from doselabel.errors import ModelError
from doselabel.labels import LabelMap
from doselabel.model import checkpoint as checkpoints
from doselabel.model.evaluate import compare
from doselabel.model.predict import segment
from doselabel.model.profiles import FAST
from sample_data.anatomy import Anatomy
from sample_data.ct import DIAGNOSTIC, axes_of, hounsfield, take
from sample_data.plan import Plan
from sample_data.tissues import labels_of


def test_the_card_names_data_attribution_metrics_and_limits():
    path = checkpoints.starter_path()
    profile, card = checkpoints.read_card(path)
    assert profile == FAST
    assert path.stat().st_size < 30e6
    assert any("CC BY 4.0" in line for line in card["attribution"])
    assert {"training_data", "held_out_real", "metrics", "scores", "licence", "limits", "intended_use"} <= set(card)


def test_it_finds_kidneys_and_liver_of_an_unseen_phantom():
    rng = np.random.default_rng(20261122)
    anatomy = Anatomy(Plan.draw(rng, "misaligned"))
    hu = hounsfield(np.random.default_rng(1), "portal")
    ct, tissue = take(anatomy, axes_of(DIAGNOSTIC, (0.0, 0.0, 10.0)), DIAGNOSTIC, hu, rng)
    result = segment(ct, checkpoints.starter_path())
    rows = compare(result.labels, LabelMap(labels_of(tissue), ct.geometry), FAST.organs)
    assert len(rows) == 3
    for row in rows:
        assert row.dice > 0.9
        assert abs(row.volume_error_percent) < 10
    assert not any("side conflict" in flag for flag in result.summary.flags)


def test_without_it_the_message_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setattr(checkpoints, "__file__", str(tmp_path / "checkpoint.py"))
    with pytest.raises(ModelError, match="starter model is not part of this installation"):
        checkpoints.starter_path()
