"""Training learns, stops when asked, and leaves a checkpoint that says what it is."""

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from safetensors.torch import load_file

from doselabel.errors import Cancelled, ModelError
from doselabel.files import file_sha256
from doselabel.geometry import Volume
from doselabel.model import checkpoint as checkpoints
from doselabel.model.cases import TrainCase
from doselabel.model.evaluate import evaluate, table
from doselabel.model.network import build, mask_boxes
from doselabel.model.predict import segment
from doselabel.model.profiles import FAST
from doselabel.model.settings import Settings
from doselabel.model.train import train
from tests.shared.model.conftest import SMALL, STEPS


@pytest.fixture(scope="module")
def trained(tiny_run):
    return tiny_run


def test_a_few_steps_on_one_case_lower_the_losses(trained):
    history = trained[0].history
    assert [row["step"] for row in history] == [20, 40, 60]
    assert history[-1]["loss_mask"] < 0.75 * history[0]["loss_mask"]
    assert history[-1]["loss_objectness"] < 0.5 * history[0]["loss_objectness"]


def test_progress_runs_from_loading_to_the_end(trained):
    seen = trained[1]
    assert seen[0] == ("loading", 0.0)
    assert seen[-1] == ("training", 1.0)
    assert all(0 <= fraction <= 1 for _, fraction in seen)


def test_the_checkpoint_says_what_it_is(trained):
    ready = checkpoints.load(trained[0].checkpoint)
    assert ready.profile == SMALL
    assert ready.card["steps"] == STEPS
    assert ready.card["patients"] == ["tiny"]
    assert "Research use only" in ready.card["intended_use"]
    assert ready.sha256 == file_sha256(trained[0].checkpoint)
    assert trained[0].checkpoint.stat().st_size < 30e6


@pytest.fixture(scope="module")
def predicted(trained, patient):
    ready = checkpoints.load(trained[0].checkpoint)
    return ready, segment(patient[0], ready, score_threshold=0.3).labels


@pytest.mark.parametrize("orientation", ["LPS", "LPI", "RAS", "SLA", "PIR", "AIL"])
def test_prediction_is_the_same_in_every_orientation_and_lies_on_the_native_grid(predicted, patient, orientation):
    ready, reference = predicted
    turned = Volume.from_sitk(sitk.DICOMOrient(patient[0].to_sitk(), orientation))
    result = segment(turned, ready, score_threshold=0.3)
    assert result.labels.geometry == turned.geometry
    back = sitk.GetArrayFromImage(sitk.DICOMOrient(result.labels.volume.to_sitk(), "LPS"))
    assert np.array_equal(back, reference.array)


def test_the_same_seed_gives_the_same_weights(tmp_path, case):
    first, second = (
        checkpoints.load(train([case], tmp_path / name, profile=SMALL, steps=2, batch=1, seed=3).checkpoint)
        for name in ("a.safetensors", "b.safetensors")
    )
    other = second.model.state_dict()
    assert all(torch.equal(value, other[name]) for name, value in first.model.state_dict().items())


def test_cancelling_leaves_a_usable_checkpoint(tmp_path, case, patient):
    def stop(stage, fraction):
        if stage == "training" and fraction >= 0.5:
            raise Cancelled

    with pytest.raises(Cancelled):
        train([case], tmp_path / "early.safetensors", profile=SMALL, steps=4, batch=1, progress=stop)
    ready = checkpoints.load(tmp_path / "early.safetensors")
    assert ready.card["steps"] == 2
    assert ready.card["cancelled"]
    assert segment(patient[0], ready).labels.geometry == patient[0].geometry


def test_pretrained_weights_train_the_heads_first(tmp_path, case):
    import torchvision

    torch.save(torchvision.models.resnet18(weights=None).state_dict(), tmp_path / "r18.pth")

    def stop(stage, fraction):
        if stage == "training" and fraction > 0.3:
            raise Cancelled

    out = tmp_path / "heads.safetensors"
    with pytest.raises(Cancelled):
        train([case], out, profile=SMALL, steps=3, batch=1, pretrained=tmp_path / "r18.pth", progress=stop)
    torch.manual_seed(0)
    before = build(SMALL.pretrained(), pretrained=tmp_path / "r18.pth").state_dict()
    after = checkpoints.load(out).model.state_dict()
    change = {name: float((value - after[name]).abs().max()) for name, value in before.items()}
    assert change["backbone.body.body.layer4.1.conv2.weight"] < 1e-4
    assert change["roi_heads.box_predictor.cls_score.weight"] > 4e-4


def test_training_goes_on_from_a_checkpoint_with_replay(tmp_path, trained, case):
    start = trained[0].checkpoint
    replay = [dataclasses.replace(case, patient="old")]
    result = train([case], tmp_path, start=start, steps=1, batch=1, replay=replay)
    ready = checkpoints.load(result.checkpoint)
    assert ready.card["started_from"] == file_sha256(start)
    assert ready.card["patients"] == ["old", "tiny"]
    before = checkpoints.load(start).model.state_dict()
    change = max(float((value - before[name]).abs().max()) for name, value in ready.model.state_dict().items())
    assert change < 2e-3


def test_a_part_of_the_starting_weights_is_kept(tmp_path, trained, case):
    start = trained[0].checkpoint
    told = dict(start=start, steps=3, batch=1, seed=4, learning_rate=1e-2)
    new, mixed = (
        checkpoints.load(train([case], tmp_path / str(part), keep_start=part, **told).checkpoint)
        for part in (0.0, 0.25)
    )
    first = checkpoints.load(start).model.state_dict()
    for name, value in mixed.model.state_dict().items():
        expected = 0.75 * new.model.state_dict()[name] + 0.25 * first[name]
        assert torch.allclose(value, expected, atol=1e-4, rtol=2e-3)  # both were rounded to fp16
    assert mixed.card["keep_start"] == 0.25
    with pytest.raises(ModelError, match="no weights to keep"):
        train([case], tmp_path / "none", keep_start=0.5, steps=1)


def test_a_profile_that_does_not_fit_the_checkpoint_is_refused(tmp_path, trained, case):
    with pytest.raises(ModelError, match="profile"):
        train([case], tmp_path, start=trained[0].checkpoint, profile=FAST, steps=1)


def test_validating_on_a_trained_patient_is_refused(tmp_path, case):
    with pytest.raises(ModelError, match="both trained on and validated"):
        train([case], tmp_path, steps=1, validation=[case])


def test_no_cases_is_refused(tmp_path):
    with pytest.raises(ModelError, match="No cases"):
        train([], tmp_path)


def test_evaluation_gives_a_row_per_organ_the_expert_drew(trained, case):
    rows = evaluate(trained[0].checkpoint, [TrainCase(case.ct, case.labels, "tiny")], reading={"score_threshold": 0.3})
    assert [row.organ for row in rows] == ["left_kidney", "right_kidney", "liver"]
    assert all(0 <= row.dice <= 1 for row in rows)
    assert "tiny/ct.nii.gz" in table(rows)


@pytest.mark.parametrize("content", [b"", b"text, not tensors", b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "])
def test_a_file_that_is_no_checkpoint_is_named(tmp_path, content):
    path = tmp_path / "wrong.safetensors"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"wrong\.safetensors"):
        checkpoints.load(path)


def test_a_missing_checkpoint_is_named(tmp_path):
    with pytest.raises(ModelError, match="no such checkpoint"):
        checkpoints.load(tmp_path / "none.safetensors")


SCRIPT = """
import os, signal, sys
from pathlib import Path
import torch
from safetensors.torch import load_file
from doselabel.model.cases import TrainCase
from doselabel.model.profiles import Profile
from doselabel.model.train import train

torch.set_num_threads(1)
ct, labels, out, cache, dies_at = sys.argv[1:]


def die(stage, fraction):
    if stage == "training" and fraction >= float(dies_at):
        os.kill(os.getpid(), signal.SIGKILL)


train(
    [TrainCase(Path(ct), Path(labels), "tiny")], Path(out), steps=24, batch=1, seed=5, checkpoint_every=15,
    profile={profile}, device="cpu", cache=Path(cache), progress=die,
)
"""
TOLD = {"steps": 24, "batch": 1, "seed": 5, "checkpoint_every": 15}


def kill_at(case, out, cache, fraction):
    script = out.with_suffix(".py")
    script.write_text(SCRIPT.replace("{profile}", repr(SMALL)))
    command = [sys.executable, script, case.ct, case.labels, out, cache, fraction]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run([*map(str, command)], env=environment, capture_output=True, check=False)


def test_a_run_killed_with_9_goes_on_with_the_same_curve(tmp_path, case):
    assert kill_at(case, tmp_path / "killed", tmp_path / "cache", 22 / 24).returncode == -9
    assert (tmp_path / "killed" / "state.pt").is_file()
    whole, again = (
        train([case], tmp_path / name, profile=SMALL, cache=tmp_path / "cache", device="cpu", **TOLD)
        for name in ("whole", "killed")
    )
    assert again.history == whole.history
    assert not (tmp_path / "killed" / "state.pt").exists()
    rows = [json.loads(line) for line in (tmp_path / "killed" / "log.jsonl").read_text("utf-8").splitlines()]
    assert [row["step"] for row in rows] == [20, 24]  # told before the kill, learned again since step 15
    first, second = (checkpoints.load(run.checkpoint).model.parameters() for run in (whole, again))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_an_unfinished_run_is_not_mixed_with_other_settings(tmp_path, case):
    def stop(stage, fraction):
        if stage == "training" and fraction >= 0.5:
            raise Cancelled

    told = {"profile": SMALL, "steps": 2, "batch": 1, "checkpoint_every": 1, "cache": tmp_path / "cache"}
    with pytest.raises(Cancelled):
        train([case], tmp_path / "run", progress=stop, **told)
    with pytest.raises(ModelError, match="seed was 0, is 7"):
        train([case], tmp_path / "run", seed=7, **told)


def test_workers_draw_the_same_slices_as_the_process_itself(tmp_path, case):
    one, other = (
        train([case], tmp_path / str(n), profile=SMALL, steps=3, batch=2, workers=n, cache=tmp_path / "cache").history
        for n in (0, 1)
    )
    assert one == other


def test_a_run_ends_after_its_minutes(tmp_path, case):
    result = train([case], tmp_path, profile=SMALL, steps=100_000, batch=1, max_minutes=0.02, cache=tmp_path / "cache")
    assert 1 <= checkpoints.load(result.checkpoint).card["steps"] < 1000


def test_what_is_not_labelled_is_not_taught_as_background():
    torch.manual_seed(0)
    model = build(SMALL).train()
    image = torch.rand(SMALL.in_slices, 96, 96)
    mask = torch.zeros(1, 96, 96, dtype=torch.uint8)
    mask[0, 30:60, 30:60] = 1
    target = {"boxes": mask_boxes(mask), "labels": torch.tensor([1]), "masks": mask}
    bias = model.roi_heads.box_predictor.cls_score.bias

    def gradient(unlabelled):
        model.zero_grad()
        torch.manual_seed(0)
        losses = model([image], [target | {"unlabelled": torch.tensor(unlabelled, dtype=torch.int64)}])
        losses["loss_classifier"].backward()
        return bias.grad.clone(), losses

    full, _ = gradient([])
    partial, losses = gradient([3])
    assert full[3] > partial[3]
    assert all(torch.isfinite(value) for value in losses.values())
    empty = {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64), "masks": mask[:0]}
    losses = model([image], [empty | {"unlabelled": torch.tensor([3])}])
    assert all(torch.isfinite(value) for value in losses.values())


@pytest.mark.parametrize(
    ("content", "found"),
    [("stepps: 3", "stepps"), ("steps: many", "steps"), ("- a list", "list"), ("steps: 0", "0 training steps")],
)
def test_settings_that_make_no_sense_are_named(tmp_path, content, found):
    (tmp_path / "run.yaml").write_text(content)
    with pytest.raises(ModelError, match=found):
        Settings.read(tmp_path / "run.yaml")


def test_two_processes_learn_one_model(tmp_path, case):
    script = tmp_path / "two.py"
    script.write_text(
        "import pathlib, sys, torch\n"
        "from doselabel.model.cases import TrainCase\n"
        "from doselabel.model.profiles import Profile\n"
        "from doselabel.model.train import train\n"
        "torch.set_num_threads(1)\n"
        "ct, labels, out = map(pathlib.Path, sys.argv[1:])\n"
        f"train([TrainCase(ct, labels, 'tiny')], out, profile={SMALL!r}, steps=3, batch=1, device='cpu')\n"
    )
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    subprocess.run([*command, str(case.ct), str(case.labels), str(tmp_path / "out")], check=True, timeout=240)
    card = checkpoints.load(tmp_path / "out" / "model.safetensors").card
    assert card["steps"] == 3


def test_who_watches_sees_loss_and_dice_and_changes_nothing(tmp_path, case):
    seen, other = [], dataclasses.replace(case, patient="other")
    watched = train(
        [case],
        tmp_path / "watched",
        profile=SMALL,
        steps=4,
        batch=1,
        seed=2,
        validation=[other],
        validate_every=2,
        keep="last",
        watch=lambda row: seen.append(dict(row)),
    )
    alone = train([case], tmp_path / "alone", profile=SMALL, steps=4, batch=1, seed=2)
    assert [row["step"] for row in seen if "dice_liver" in row] == [2, 4]
    assert [row["loss"] for row in seen if "loss" in row] == [alone.history[-1]["loss"]]
    assert load_file(watched.checkpoint).keys() == load_file(alone.checkpoint).keys()
    for name, weights in load_file(alone.checkpoint).items():
        assert torch.equal(weights, load_file(watched.checkpoint)[name]), name


def test_which_weights_stay_is_best_or_last():
    with pytest.raises(ModelError, match="best or last"):
        Settings().replace(keep="first")
