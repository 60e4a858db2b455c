"""Both profiles: pyramid levels, shapes, and a paste that is right to the index."""

import dataclasses
import subprocess
import sys

import pytest
import torch
from torchvision.ops import roi_align

from doselabel.errors import ModelError
from doselabel.model.network import build, class_groups, mask_boxes, paste
from doselabel.model.profiles import FAST, PAPER, Profile


def ellipse(height, width, centre, radii):
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return ((y - centre[0]) / radii[0]) ** 2 + ((x - centre[1]) / radii[1]) ** 2 <= 1


@pytest.mark.parametrize("profile", [FAST, PAPER], ids=lambda p: p.name)
def test_pyramid_has_p2_to_p5_and_no_pool_level(profile):
    model = build(profile)
    with torch.inference_mode():
        levels = model.backbone(torch.zeros(1, profile.channels, 64, 96))
    assert list(levels) == ["0", "1", "2", "3"]
    assert [tuple(level.shape[1:]) for level in levels.values()] == [
        (profile.fpn_channels, 64 // stride, 96 // stride) for stride in (4, 8, 16, 32)
    ]


@pytest.mark.parametrize("profile", [FAST, PAPER], ids=lambda p: p.name)
def test_training_gives_the_five_losses_also_for_an_empty_slice(profile):
    model = build(profile).train()
    mask = ellipse(64, 64, (30, 30), (14, 12)).to(torch.uint8)[None]
    seen = {"boxes": mask_boxes(mask, profile.box_pad), "labels": torch.tensor([1]), "masks": mask}
    empty = {
        "boxes": torch.zeros(0, 4),
        "labels": torch.zeros(0, dtype=torch.int64),
        "masks": torch.zeros(0, 64, 64, dtype=torch.uint8),
    }
    losses = model([torch.rand(profile.channels, 64, 64), torch.rand(profile.channels, 64, 64)], [seen, empty])
    assert set(losses) == {
        "loss_objectness",
        "loss_rpn_box_reg",
        "loss_classifier",
        "loss_box_reg",
        "loss_mask",
    }
    assert all(torch.isfinite(value) for value in losses.values())


@pytest.mark.parametrize(("profile", "side"), [(FAST, 56), (PAPER, 256)], ids=["fast", "paper"])
def test_masks_leave_at_the_profile_s_target_size(profile, side):
    model = build(dataclasses.replace(profile, score_accept=0.0)).eval()
    with torch.inference_mode():
        (seen,) = model([torch.rand(profile.channels, 64, 64)])
    assert len(seen["boxes"])
    assert seen["masks"].shape[1:] == (1, side, side)


def test_fast_leaves_p2_out_of_the_search_and_paper_does_not():
    assert build(FAST).rpn.levels == ("1", "2", "3")
    assert build(PAPER).rpn.levels == ("0", "1", "2", "3")


def test_group_norm_without_pretrained_weights():
    names = {type(module).__name__ for module in build(FAST).modules()}
    assert "GroupNorm" in names
    assert not {"BatchNorm2d", "FrozenBatchNorm2d"} & names


@pytest.mark.parametrize(("centre", "radii"), [((60, 61), (22, 15)), ((50.4, 70.7), (9, 13)), ((64, 64), (50, 45))])
def test_a_perfect_mask_pastes_back_onto_itself(centre, radii):
    mask = ellipse(128, 128, centre, radii)
    (box,) = mask_boxes(mask[None], FAST.box_pad)
    target = roi_align(mask[None, None].float(), [box[None]], 56, 1.0)[0, 0]
    inside = paste(target, box, torch.arange(128.0), torch.arange(128.0)) >= 0.5
    rows, columns = torch.arange(128.0), torch.arange(128.0)
    within = (rows >= box[1])[:, None] & (rows <= box[3])[:, None] & (columns >= box[0]) & (columns <= box[2])
    inside &= within
    dice = 2 * (inside & mask).sum() / (inside.sum() + mask.sum())
    assert dice > 0.995
    assert abs(inside.sum() / mask.sum() - 1) < 0.005


def test_mask_boxes_reach_half_a_pixel_beyond_the_mask():
    mask = torch.zeros(1, 20, 30)
    mask[0, 5:9, 10:20] = 1
    assert mask_boxes(mask).tolist() == [[9.5, 4.5, 19.5, 8.5]]


def test_sides_form_one_group():
    assert class_groups(("left_kidney", "right_kidney", "liver")) == {"kidney": (1, 2), "liver": (3,)}


def test_pretrained_stem_starts_as_the_2d_network_on_the_middle_slice(tmp_path):
    import torchvision

    state = torchvision.models.resnet18(weights=None).state_dict()
    torch.save(state, tmp_path / "r18.pth")
    model = build(FAST.pretrained(), pretrained=tmp_path / "r18.pth").eval()
    stem = model.backbone.body.body.conv1
    image = torch.rand(1, FAST.in_slices, 32, 32)
    middle = FAST.in_slices // 2
    grey = image[:, middle : middle + 1].expand(-1, 3, -1, -1)
    expected = torch.nn.functional.conv2d(grey, state["conv1.weight"], stride=2, padding=3)
    assert torch.allclose(stem(image), expected, atol=1e-5)


def test_missing_or_wrong_pretrained_weights_are_a_clear_error(tmp_path):
    with pytest.raises(ModelError, match="no such file"):
        build(FAST.pretrained(), pretrained=tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("not weights")
    with pytest.raises(ModelError, match="resnet18"):
        build(FAST.pretrained(), pretrained=tmp_path / "text.pth")


def test_a_profile_survives_its_own_dictionary():
    import json

    assert Profile.from_dict(json.loads(json.dumps(PAPER.to_dict()))) == PAPER
    with pytest.raises(ModelError, match="unknown fields"):
        Profile.from_dict({"name": "x", "colour": 1})


def test_the_network_does_without_the_compiler_until_somebody_asks():
    code = """
import sys
import doselabel.model.network
from torchvision.ops import roi_align
assert not any(name.startswith("torch._dynamo") for name in sys.modules)
asked = sys.modules["torchvision.ops.roi_align"].is_compile_supported("cpu")
from torch._dynamo.utils import is_compile_supported
assert asked == is_compile_supported("cpu")
import torch._dynamo
assert torch._dynamo.utils.__file__
"""
    subprocess.run([sys.executable, "-c", code], check=True)
