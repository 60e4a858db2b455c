"""Nazari et al. 2021: its stages happen, with its rates, on its labels; its ways of reading are the paper profile's."""

import dataclasses
from contextlib import contextmanager

import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torch.optim import optimizer as optimizers

from doselabel.cli import main
from doselabel.errors import ModelError
from doselabel.geometry import write_image
from doselabel.labels import LabelMap, write_labels
from doselabel.model import checkpoint as checkpoints
from doselabel.model.augment import training_slice
from doselabel.model.cache import prepare
from doselabel.model.cases import TrainCase, case_ct, case_labels
from doselabel.model.crossval import splits_of
from doselabel.model.mix import RECIPES, read_mix
from doselabel.model.network import build
from doselabel.model.parenchyma import parenchyma
from doselabel.model.profiles import FAST, PAPER, PROFILES
from doselabel.model.settings import Settings, Stage
from doselabel.model.slices import stack, windowed
from doselabel.model.train import train
from sample_data.anatomy import Anatomy
from sample_data.ct import DIAGNOSTIC, LOW_DOSE, axes_of, hounsfield, take
from sample_data.plan import Plan
from sample_data.tissues import Tissue

SMALL = dataclasses.replace(
    FAST, classes=FAST.organs, decoys=(), in_slices=3, pixel_mm=5.0, anchors_px=((8, 12), (18, 26), (36, 48))
)
STAGES = ("heads:50:1e-3", "all:100:1e-4", "heads:50:1e-3:parenchyma")


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """A file such as torchvision's ImageNet weights; what is in it does not matter here."""
    path = tmp_path_factory.mktemp("weights") / "r18.pth"
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), path)
    return path


@pytest.fixture(scope="module")
def liver_only(tmp_path_factory, patient):
    """A case of another patient, told from the first by what was drawn: the liver alone."""
    folder = tmp_path_factory.mktemp("liver")
    ct, labels = patient
    array = np.where(labels.array == 3, 3, 0).astype(np.uint8)
    write_image(folder / "ct.nii.gz", ct)
    write_labels(folder / "labels.nii.gz", LabelMap(array, labels.geometry))
    return TrainCase(folder / "ct.nii.gz", folder / "labels.nii.gz", "other")


@contextmanager
def watched(names):
    """Collect, step by step: the rate, which weights the step moved, and the classes that were shown."""
    steps: list[dict] = []
    shown: list[set[int]] = []
    before: list[torch.Tensor] = []

    def seen(module, args):
        if isinstance(module, torchvision.models.detection.generalized_rcnn.GeneralizedRCNN) and module.training:
            shown.append({int(label) for target in args[1] for label in target["labels"]})

    def start(optimizer, *_):
        before[:] = [p.detach().clone() for p in optimizer.param_groups[0]["params"]]

    def end(optimizer, *_):
        group = optimizer.param_groups[0]
        moved = {n for n, p, b in zip(names, group["params"], before, strict=True) if not torch.equal(p, b)}
        steps.append({"rate": group["lr"], "moved": moved, "shown": shown.pop()})

    hooks = [
        nn.modules.module.register_module_forward_pre_hook(seen),
        optimizers.register_optimizer_step_pre_hook(start),
        optimizers.register_optimizer_step_post_hook(end),
    ]
    try:
        yield steps
    finally:
        for hook in hooks:
            hook.remove()


def test_every_stage_of_the_paper_happens(tmp_path, case, liver_only, imagenet):
    names = [name for name, _ in build(SMALL.pretrained(), pretrained=imagenet).named_parameters()]
    resnet = {name for name in names if name.startswith("backbone.body.body.")}
    with watched(names) as steps:
        result = train(
            [case], tmp_path, profile=SMALL, pretrained=imagenet, parenchyma=[liver_only], stages=STAGES,
            steps=8, batch=2, planes=("axial",), augment=False, seed=2,
        )  # fmt: skip
    assert [step["rate"] for step in steps] == [1e-3] * 2 + [1e-4] * 4 + [1e-3] * 2
    for step in steps[:2] + steps[6:]:
        assert not step["moved"] & resnet
        assert {"backbone.body.fpn.inner_blocks.0.0.weight", "rpn.head.cls_logits.weight"} <= step["moved"]
        assert "roi_heads.box_predictor.cls_score.weight" in step["moved"]
    for step in steps[2:6]:
        assert {"backbone.body.body.conv1.weight", "backbone.body.body.layer4.1.conv2.weight"} <= step["moved"]
    assert {1, 2} & set().union(*(step["shown"] for step in steps[:6]))
    assert set().union(*(step["shown"] for step in steps[6:])) == {3}
    card = checkpoints.read_card(result.checkpoint)[1]
    assert card["patients"] == ["other", "tiny"]
    assert [Stage.read(stage) for stage in card["stages"]] == [Stage.read(stage) for stage in STAGES]


def test_pretrained_weights_alone_bring_the_papers_two_rates():
    settings = Settings(pretrained="r50.pth")
    assert settings.schedule() == (Stage("heads", 50, 1e-3), Stage("all", 100, 1e-4))
    assert Settings().schedule() == (Stage(),)


def test_heads_are_not_trained_on_a_backbone_that_has_learned_nothing(tmp_path, case):
    with pytest.raises(ModelError, match="heads alone, on a backbone that has learned nothing"):
        train([case], tmp_path, profile=SMALL, stages="heads:1:1e-3", steps=1)


def test_a_run_that_stops_inside_a_stage_goes_on_there(tmp_path, case, imagenet):
    told = {"profile": SMALL, "pretrained": imagenet, "stages": STAGES[:2], "steps": 3, "batch": 1}
    told |= {"checkpoint_every": 1, "cache": tmp_path / "cache"}

    def die(stage, fraction):
        if stage == "training" and fraction >= 2 / 3:
            raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        train([case], tmp_path / "run", progress=die, **told)
    with watched([name for name, _ in build(SMALL.pretrained(), pretrained=imagenet).named_parameters()]) as steps:
        train([case], tmp_path / "run", **told)
    assert [step["rate"] for step in steps] == [1e-4]


def test_an_epoch_is_every_slice_that_shows_an_organ_once(tmp_path, case):
    ready = prepare([case], SMALL, tmp_path / "cache")[0]
    slices = {
        plane: max(b for _, b in e.values()) - min(a for a, _ in e.values()) + 1 for plane, e in ready.organs.items()
    }
    told = {"profile": SMALL, "batch": 4, "cache": tmp_path / "cache"}
    for planes in (("axial",), ("axial", "sagittal")):
        result = train([case], tmp_path / planes[-1], epochs=0.25, planes=planes, **told)
        steps = checkpoints.read_card(result.checkpoint)[1]["steps"]
        assert steps == int(np.ceil(0.25 * sum(slices[plane] for plane in planes) / 4))


def test_without_variation_a_slice_is_the_windowed_image_and_nothing_else(tmp_path, case):
    (ready,) = prepare([case], PAPER, tmp_path)
    own = dataclasses.replace(PAPER, side_px=max(ready.scanned))  # pixels as they are
    image, target = training_slice(ready, "axial", 12, own, np.random.default_rng(0), 512, varied=False)
    rows, columns = ready.hu.shape[1:]
    expected = windowed(stack(ready.hu, "axial", 12, 3, 1), PAPER)
    off = (np.array(image.shape[1:]) - (rows, columns)) // 2
    inside = image[:, off[0] : off[0] + rows, off[1] : off[1] + columns]
    assert torch.allclose(inside, expected, atol=1e-4)
    assert {int(v) for v in target["labels"]} == set(np.unique(ready.classes[12]).tolist()) - {0}


@pytest.mark.parametrize("text", ["heads:50", "tails:50:1e-3", "heads:0:1e-3", "heads:50:1e-3:cortex", "heads:x:1e-3"])
def test_a_stage_that_makes_no_sense_is_named(text):
    with pytest.raises(ModelError, match=r"stages.*" + text.split(":")[0]):
        Settings().replace(stages=text)


# ---- the recipes


@pytest.mark.parametrize(
    ("name", "split", "epochs", "stages", "organs"),
    [
        ("paper-kidneys", "60/20/20", 150, STAGES[:2], ("left_kidney", "right_kidney")),
        ("paper-liver", "70/10/20", 200, ("heads:50:1e-3", "all:150:1e-4"), ("liver",)),
        ("paper-parenchyma", "60/20/20", 50, ("heads:50:1e-3",), ("left_kidney", "right_kidney")),
        ("paper", "60/20/20", 200, STAGES, ("left_kidney", "right_kidney", "liver")),
    ],
)  # fmt: skip
def test_the_recipes_say_what_the_paper_says(tmp_path, name, split, epochs, stages, organs):
    recipe = read_mix(name, tmp_path)
    settings = recipe.settings
    assert (recipe.split, recipe.folds, recipe.organs) == (split, 5, organs)
    assert recipe.profile == (None if name == "paper-parenchyma" else PAPER)
    assert settings.schedule() == tuple(Stage.read(stage) for stage in stages)
    assert (settings.batch, settings.crop_px, settings.epochs, settings.augment) == (2, 512, epochs, False)
    assert set(settings.planes) == {"axial", "coronal", "sagittal"}
    assert PROFILES["paper"].of_organs(recipe.organs).classes == organs


def test_five_folds_of_both_splits_have_the_papers_shares(tmp_path):
    cases = [TrainCase(tmp_path / "ct", tmp_path / "labels", f"P-{n:02d}") for n in range(50)]
    for split, sizes in (("60/20/20", (30, 10, 10)), ("70/10/20", (35, 5, 10))):
        drawn = splits_of(cases, tmp_path / split.replace("/", "-"), split=split)
        assert {(len(s.train), len(s.validation), len(s.test)) for s in drawn} == {sizes}
        assert sorted(p for s in drawn for p in s.test) == sorted(case.patient for case in cases)


def test_an_unknown_recipe_lists_those_there_are(tmp_path):
    with pytest.raises(ModelError, match=r"neither a recipe \(paper, paper-kidneys"):
        read_mix("nature", tmp_path)


def test_the_profile_is_the_papers():
    assert (PAPER.backbone, PAPER.in_slices, PAPER.hu_window) == ("resnet50", 3, (-100.0, 200.0))
    assert (PAPER.box_roi, PAPER.mask_roi, PAPER.mask_target, PAPER.side_px) == (28, 28, 256, 512)
    assert (PAPER.rpn_levels, PAPER.pixel_mm, PAPER.slice_gap_mm) == (("0", "1", "2", "3"), None, 0.0)
    assert (PAPER.score_accept, PAPER.gap_fill, PAPER.consensus) == (0.9, "linear", "vote")
    assert (FAST.score_accept, FAST.gap_fill, FAST.consensus) == (0.5, "distance", "mean")


# ---- reading what the network says


@pytest.fixture(scope="module")
def learned(tiny_run):
    return checkpoints.load(tiny_run[0].checkpoint)


@pytest.mark.parametrize("words", [["--consensus", "vote", "--fill", "linear"], ["--consensus"]])
def test_the_command_line_reads_as_told(tmp_path, learned, case, words):
    checkpoints.save(tmp_path / "m.safetensors", learned.model, learned.profile, learned.card)
    told = [
        "segment",
        str(case.ct),
        "--checkpoint",
        str(tmp_path / "m.safetensors"),
        "--out",
        str(tmp_path / "l.nii.gz"),
    ]
    assert main([*told, *words]) == 0
    assert (tmp_path / "l.nii.gz").is_file()


# ---- parenchyma


@pytest.mark.parametrize(("protocol", "phase"), [(DIAGNOSTIC, "portal"), (DIAGNOSTIC, "arterial"), (LOW_DOSE, None)])
def test_parenchyma_is_found_in_whole_kidneys(protocol, phase):
    """Against the phantom's own tissues: pelvis, sinus fat and vessels at the hilum are taken out, a cyst is not."""
    rng = np.random.default_rng([7, 0])
    anatomy = Anatomy(Plan.draw(rng, "touching_spleen"))
    ct, tissue = take(
        anatomy, axes_of(protocol, (0, 0, 10)), protocol, hounsfield(np.random.default_rng(0), phase), rng, 0.0
    )
    for side, own in (("left", Tissue.LEFT_CORTEX), ("right", Tissue.RIGHT_CORTEX)):
        truth = np.isin(tissue, (own, own + 1, own + 3))
        sinus = np.isin(tissue, (own + 2, Tissue.RENAL_FAT, Tissue.RENAL_ARTERY, Tissue.RENAL_VEIN))
        whole = truth | (sinus & within(truth, ct.geometry.spacing_mm, 10.0))
        made = parenchyma(ct.array, whole, ct.geometry, side)
        assert not (made & ~whole).any()
        before, after = (2 * (m & truth).sum() / (m.sum() + truth.sum()) for m in (whole, made))
        assert after > max(0.98, before + 0.01)
        assert made.sum() == pytest.approx(truth.sum(), rel=0.03)
        again = parenchyma(ct.array, truth, ct.geometry, side)
        assert again.sum() > 0.99 * truth.sum()


def within(mask, spacing_mm, radius_mm):
    """The mask with its bays filled up to twice this radius."""
    from scipy.ndimage import distance_transform_edt as distance

    grown = distance(~mask, sampling=spacing_mm) <= radius_mm
    return distance(grown, sampling=spacing_mm) > radius_mm


def test_a_case_can_be_read_as_parenchyma(tmp_path, case):
    """Kidneys of the tiny patient have no sinus: nothing is taken, and the liver is left alone."""
    whole, made = (case_labels(dataclasses.replace(case, parenchyma=p), case_ct(case)) for p in (False, True))
    assert np.array_equal(whole.array, made.array)
    keys = {prepare([dataclasses.replace(case, parenchyma=p)], SMALL, tmp_path)[0].hu.filename for p in (False, True)}
    assert len(keys) == 2


def test_the_recipes_ship():
    assert {path.stem for path in RECIPES.glob("*.yaml")} >= {"paper", "paper-kidneys", "paper-liver", "starter"}
