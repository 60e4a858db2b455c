"""Which model answers, and how that changes."""

import json

import pytest

from doselabel.errors import ModelError
from monailabel_app.models import ModelStore


@pytest.fixture
def store(tmp_path):
    (tmp_path / "first.safetensors").write_bytes(b"first")
    (tmp_path / "better.safetensors").write_bytes(b"better")
    return ModelStore(tmp_path / "model", tmp_path / "first.safetensors")


def test_the_given_model_answers_until_one_is_promoted(store, tmp_path):
    assert store.champion().read_bytes() == b"first"
    store.promote(tmp_path / "better.safetensors", "Dice +1", "ada")
    assert store.champion().read_bytes() == b"better"
    assert (tmp_path / "better.safetensors").exists()


def test_one_promotion_can_be_undone_and_both_are_recorded(store, tmp_path):
    store.promote(tmp_path / "better.safetensors", "Dice +1", "ada")
    store.rollback("eva")
    assert store.champion().read_bytes() == b"first"
    lines = [json.loads(line) for line in (tmp_path / "model" / "history.jsonl").read_text("utf-8").splitlines()]
    assert [(line["what"], line["by"], line["reason"]) for line in lines] == [
        ("promoted", "ada", "Dice +1"),
        ("rolled back", "eva", ""),
    ]
    with pytest.raises(ModelError, match="no earlier model"):
        store.rollback()


def test_any_model_that_has_answered_can_be_gone_back_to_by_its_hash(store, tmp_path):
    hashes = [store.sha256()]
    for name in ("second", "third"):
        (tmp_path / name).write_bytes(name.encode())
        store.promote(tmp_path / name, "better", "ada")
        hashes.append(store.sha256())
    store.rollback("eva", hashes[0][:12])
    assert store.champion().read_bytes() == b"first"
    store.rollback("eva", hashes[1])
    assert store.champion().read_bytes() == b"second"
    store.rollback("eva")
    assert store.champion().read_bytes() == b"first", "without a hash: the one before"
    assert [event.sha256 for event in store.history()] == [hashes[k] for k in (0, 1, 0, 2, 1)]
    assert all(event.kept for event in store.history())
    with pytest.raises(ModelError, match="no model whose hash begins with 'feed'"):
        store.rollback("eva", "feed")
    kept = tmp_path / "model" / "kept" / f"{hashes[2]}.safetensors"
    kept.write_bytes(b"not what it was")
    with pytest.raises(ModelError, match="no longer there as it was"):
        store.rollback("eva", hashes[2])
    assert store.champion().read_bytes() == b"first"


def test_a_crash_while_promoting_leaves_the_champion(store, tmp_path, monkeypatch):
    store.promote(tmp_path / "better.safetensors", "", "")

    def crash(source, target):
        raise OSError("power cut")

    monkeypatch.setattr("doselabel.disk.os.replace", crash)
    with pytest.raises(OSError, match="power cut"):
        store.promote(tmp_path / "first.safetensors", "", "")
    assert store.champion().read_bytes() == b"better"
