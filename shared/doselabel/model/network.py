"""The Mask R-CNN, made from torchvision's parts by one builder. Knows tensors and pixels, no files and no millimetres.

Conventions
-----------
Pixel centres lie at integers. A box (x0, y0, x1, y1) holds pixel k when x0 <= k <= x1; the box of a mask goes half
a pixel beyond its outermost pixels. RoIAlign (``aligned=False``) and `paste` use the same convention, so a
perfect mask pastes back onto itself; torchvision's ``paste_masks_in_image`` does not (2–4 % too large).
"""

from __future__ import annotations

import pickle
from collections import OrderedDict
from pathlib import Path
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from doselabel.errors import ModelError
from doselabel.model.profiles import Profile
from doselabel.model.vision import (
    AnchorGenerator,
    BackboneWithFPN,
    FastRCNNPredictor,
    FrozenBatchNorm2d,
    GeneralizedRCNN,
    ImageList,
    MaskRCNNHeads,
    MultiScaleRoIAlign,
    RegionProposalNetwork,
    RoIHeads,
    RPNHead,
    batched_nms,
    box_iou,
    clip_boxes_to_image,
    torchvision,
)

TRAIN_PROPOSALS = (256, 96)
"""Proposals before and after non-maximum suppression while training: more than in use, for enough negatives."""

INPUT_MEAN, INPUT_SD = 0.45, 0.225
"""Windowed intensities are brought to the range ImageNet's weights were trained on."""

ROIS_PER_IMAGE = 24
"""RoIs sampled per image for the heads while training; a quarter may hold an object."""


def build(profile: Profile, *, pretrained: Path | None = None) -> GeneralizedRCNN:
    """Make the network of a profile.

    Parameters
    ----------
    profile : Profile
    pretrained : Path, optional
        A torchvision ResNet state dict (ImageNet) for the backbone of a `Profile.pretrained` profile.
        Without it all weights are random.

    Returns
    -------
    GeneralizedRCNN
        Training: ``model(images, targets)`` → dict of the five losses. Images are float (C, H, W) in [0, 1];
        targets hold ``boxes`` (N, 4), ``labels`` (N,) int64, ``masks`` (N, H, W) uint8, and may hold
        ``unlabelled``: classes about which the slice says nothing.
        Evaluation: ``model(images)`` → list of dicts of ``boxes`` (N, 4) in input pixels, ``labels``,
        ``scores`` and ``masks`` (N, 1, M, M): probabilities inside the box, for `paste`.

    Raises
    ------
    ModelError
        When ``pretrained`` is missing or is not of this backbone.
    """
    backbone = _backbone(profile, pretrained)
    channels, n_classes = profile.fpn_channels, len(profile.classes) + 1
    anchors = AnchorGenerator(profile.anchors_px, ((0.5, 1.0, 2.0),) * len(profile.anchors_px))
    before, after = profile.proposals
    rpn = _Proposals(
        anchors,
        _FloatRPNHead(channels, anchors.num_anchors_per_location()[0]),
        fg_iou_thresh=0.7,
        bg_iou_thresh=0.3,
        batch_size_per_image=128,
        positive_fraction=0.5,
        pre_nms_top_n={"training": max(before, TRAIN_PROPOSALS[0]), "testing": before},
        post_nms_top_n={"training": max(after, TRAIN_PROPOSALS[1]), "testing": after},
        nms_thresh=0.7,
    )
    rpn.levels = profile.rpn_levels
    heads = _Heads(
        MultiScaleRoIAlign(["0", "1", "2", "3"], profile.box_roi, profile.roi_sampling),
        _StridedBoxHead(channels, profile),
        _FloatBoxPredictor(profile.box_fc, n_classes),
        fg_iou_thresh=0.5,
        bg_iou_thresh=0.5,
        batch_size_per_image=ROIS_PER_IMAGE,
        positive_fraction=0.25,
        bbox_reg_weights=None,
        score_thresh=min(0.3, profile.score_accept),
        nms_thresh=0.5,
        detections_per_img=8,
        # A liver's box falls on P4 by the usual rule, where 4 pixels have become 16: masks need P2.
        mask_roi_pool=MultiScaleRoIAlign(["0"], profile.mask_roi, profile.roi_sampling),
        mask_head=MaskRCNNHeads(channels, profile.mask_convs, dilation=1),
        mask_predictor=_MaskPredictor(profile.mask_convs[-1], n_classes, profile.mask_target),
    )
    heads.groups = class_groups(profile.classes)
    return GeneralizedRCNN(backbone, rpn, heads, Batch())


def class_groups(classes: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """Class indices that are one kind of object: ``left_x`` and ``right_x`` form the group ``x``."""
    groups: dict[str, tuple[int, ...]] = {}
    for index, name in enumerate(classes, start=1):
        group = name.removeprefix("left_").removeprefix("right_")
        groups[group] = (*groups.get(group, ()), index)
    return groups


def bf16_pays() -> bool:
    """Whether this processor multiplies bfloat16 natively (else autocast only slows)."""
    return bool(torch.cpu._is_avx512_bf16_supported())


def mask_boxes(masks: Tensor, pad: float = 0.0) -> Tensor:
    """Boxes (N, 4) of masks (N, H, W): half a pixel beyond the outermost pixels, then widened by ``pad``.

    ``pad`` is a part of the box's own size, on each side; when it is positive it is at least one pixel.
    """
    boxes = torchvision.ops.masks_to_boxes(masks) + torch.tensor([-0.5, -0.5, 0.5, 0.5])
    if pad:
        size = boxes[:, 2:] - boxes[:, :2]
        margin = (pad * size).clamp(min=1.0)
        boxes = torch.cat([boxes[:, :2] - margin, boxes[:, 2:] + margin], 1)
        height, width = masks.shape[-2:]
        boxes = torch.min(boxes.clamp(min=-0.5), torch.tensor([width, height] * 2) - 0.5)
    return boxes


def paste(mask: Tensor, box: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Sample a box's mask at pixel positions: linear, and correct to the index.

    Parameters
    ----------
    mask : (M, M) Tensor
        Probabilities on a regular grid of cells that fill the box.
    box : (4,) Tensor
        x0, y0, x1, y1 in pixels (see the module's conventions).
    rows, columns : (H,), (W,) Tensor
        Positions wanted, in the same (fractional) pixels; they should lie inside the box.

    Returns
    -------
    (H, W) Tensor
    """
    x0, y0, x1, y1 = box.tolist()
    grid_x = (columns - x0) / (x1 - x0) * 2 - 1
    grid_y = (rows - y0) / (y1 - y0) * 2 - 1
    grid = torch.stack(torch.meshgrid(grid_y, grid_x, indexing="ij")[::-1], -1)
    return F.grid_sample(mask[None, None], grid[None], align_corners=False, padding_mode="border")[0, 0]


def _backbone(profile: Profile, pretrained: Path | None) -> nn.Module:
    frozen = profile.norm == "frozen_batch"
    norm = FrozenBatchNorm2d if frozen else _group_norm
    resnet = torchvision.models.get_model(profile.backbone, weights=None, norm_layer=norm)
    if pretrained:
        _load_imagenet(resnet, pretrained, profile.backbone)
    stem = nn.Conv2d(profile.channels, 64, 7, stride=2, padding=3, bias=False)
    with torch.no_grad():
        if pretrained:
            # Starts exactly as the pretrained 2D network on the middle slice.
            stem.weight.zero_()
            stem.weight[:, profile.in_slices // 2] = resnet.conv1.weight.sum(1)
        else:
            nn.init.kaiming_normal_(stem.weight, mode="fan_out", nonlinearity="relu")
    resnet.conv1 = stem
    stages = {f"layer{i}": str(i - 1) for i in (1, 2, 3, 4)}
    widths = [resnet.fc.in_features // 2**i for i in (3, 2, 1, 0)]
    backbone = BackboneWithFPN(resnet, stages, widths, profile.fpn_channels, norm_layer=None if frozen else _group_norm)
    backbone.fpn.extra_blocks = None  # else torchvision adds a pool level that nobody asked for
    return _FloatBackbone(backbone)


def _load_imagenet(resnet: nn.Module, path: Path, backbone: str) -> None:
    if not Path(path).is_file():
        raise ModelError(
            f"{path}: there is no such file of pretrained weights.",
            f"Download torchvision's {backbone} ImageNet weights on a machine that is online, and give that file.",
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        missing = resnet.load_state_dict(state, strict=False).missing_keys
    except (RuntimeError, ValueError, OSError, KeyError, EOFError, AttributeError, pickle.UnpicklingError) as error:
        raise ModelError(
            f"{path}: is not a state dict of torchvision's {backbone} ({str(error).splitlines()[0]})."
        ) from error
    if missing:
        raise ModelError(f"{path}: lacks {len(missing)} weights of {backbone}, {missing[0]} among them.")


def _group_norm(channels: int) -> nn.GroupNorm:
    return nn.GroupNorm(16, channels)


class _FloatBackbone(nn.Module):
    """A pyramid whose levels leave in float32, also under bf16 autocast."""

    def __init__(self, body: BackboneWithFPN) -> None:
        super().__init__()
        self.body = body
        self.out_channels = body.out_channels

    def forward(self, x: Tensor) -> OrderedDict[str, Tensor]:
        levels = self.body(x.contiguous(memory_format=torch.channels_last))
        return OrderedDict((name, level.float()) for name, level in levels.items())


class _Proposals(RegionProposalNetwork):
    """The region proposal network on some levels of the pyramid only."""

    levels: tuple[str, ...]

    def forward(self, images, features, targets=None):
        return super().forward(images, {name: features[name] for name in self.levels}, targets)

    def assign_targets_to_anchors(self, anchors, targets):
        """Where an organ was not labelled, only what touches a labelled one is known not to be an organ."""
        labels, boxes = super().assign_targets_to_anchors(anchors, targets)
        for label, anchor, target in zip(labels, anchors, targets, strict=True):
            if len(target.get("unlabelled", ())):
                known = box_iou(anchor, target["boxes"])
                elsewhere = known.amax(1) == 0 if known.shape[1] else torch.ones_like(label, dtype=torch.bool)
                elsewhere[0] = False  # a corner of the slice: air, and a loss over nothing is not a number
                label[elsewhere & (label == 0)] = -1
        return labels, boxes


class _FloatRPNHead(RPNHead):
    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        logits, boxes = super().forward(x)
        return [level.float() for level in logits], [level.float() for level in boxes]


class _StridedBoxHead(nn.Sequential):
    """(N, C, R, R) → (N, fc): a learned stride-2 reduction, then one fully connected layer."""

    def __init__(self, channels: int, profile: Profile) -> None:
        layers: list[nn.Module] = []
        side = profile.box_roi
        for _ in range(profile.box_convs):
            layers += [
                nn.Conv2d(channels, channels, 3, stride=2, padding=1, bias=False),
                _group_norm(channels),
                nn.ReLU(inplace=True),
            ]
            side = (side + 1) // 2
        layers += [nn.Flatten(), nn.Linear(channels * side * side, profile.box_fc), nn.ReLU(inplace=True)]
        super().__init__(*layers)


class _FloatBoxPredictor(FastRCNNPredictor):
    """While training, logits that are `hidden` (RoI, class) drop out of the softmax: they learn nothing."""

    hidden: Tensor | None = None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores, boxes = super().forward(x)
        scores = scores.float()
        if self.training and self.hidden is not None:
            scores = scores.masked_fill(self.hidden, -1e4)
        return scores, boxes.float()


class _MaskPredictor(nn.Module):
    """(N, C, R, R) → mask logits (N, classes, target, target)."""

    def __init__(self, channels: int, n_classes: int, target: int) -> None:
        super().__init__()
        self.target = target
        self.up = nn.ConvTranspose2d(channels, channels, 2, 2)
        self.logits = nn.Conv2d(channels, n_classes, 1)
        for layer in (self.up, self.logits):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            nn.init.zeros_(cast(Tensor, layer.bias))

    def forward(self, x: Tensor) -> Tensor:
        logits = self.logits(F.relu(self.up(x))).float()
        if logits.shape[-1] != self.target:
            logits = F.interpolate(logits, (self.target, self.target), mode="bilinear", align_corners=False)
        return logits


class _Heads(RoIHeads):
    """RoI heads that score a pair of organs as one object with a side.

    In a sagittal slice a left and a right kidney look alike; two half-sure classes must still be one sure
    kidney. Its score is the sum over the pair, its class the likelier side.
    """

    groups: dict[str, tuple[int, ...]]

    def select_training_samples(self, proposals, targets):
        """Tell the classifier which classes background must not be taught against: they were not labelled."""
        proposals, matched, labels, regression = super().select_training_samples(proposals, targets)
        hidden = []
        for label, target in zip(labels, targets, strict=True):
            rows = torch.zeros(len(label), self.box_predictor.cls_score.out_features, dtype=torch.bool)
            rows[:, target.get("unlabelled", torch.zeros(0, dtype=torch.int64)).cpu()] = True
            hidden.append(rows.to(label.device) & (label == 0)[:, None])
        self.box_predictor.hidden = torch.cat(hidden)
        return proposals, matched, labels, regression

    def postprocess_detections(self, class_logits, box_regression, proposals, image_shapes):
        counts = [len(boxes) for boxes in proposals]
        decoded = self.box_coder.decode(box_regression, proposals).split(counts)
        probabilities = F.softmax(class_logits, -1).split(counts)
        results: tuple[list[Tensor], list[Tensor], list[Tensor]] = ([], [], [])
        for boxes, scores, shape in zip(decoded, probabilities, image_shapes, strict=True):
            groups = [torch.tensor(members, device=boxes.device) for members in self.groups.values()]
            found = [self._group(boxes, scores, members) for members in groups]
            kinds = torch.arange(len(found), device=boxes.device).repeat_interleave(len(boxes))
            box, score, label = (torch.cat(parts) for parts in zip(*found, strict=True))
            box = clip_boxes_to_image(box + 0.5, shape) - 0.5
            # The 1 mm² of a vanishing box can't hold an organ, and has no inside to paste.
            keep = torch.where((score > self.score_thresh) & ((box[:, 2:] - box[:, :2]).min(1).values > 1.0))[0]
            keep = keep[batched_nms(box[keep], score[keep], kinds[keep], self.nms_thresh)]
            keep = keep[: self.detections_per_img]
            for result, values in zip(results, (box, score, label), strict=True):
                result.append(values[keep])
        return results

    @staticmethod
    def _group(boxes: Tensor, scores: Tensor, members: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        member_scores = scores[:, members]
        label = members[member_scores.argmax(1)]
        return boxes[torch.arange(len(boxes), device=boxes.device), label], member_scores.sum(1), label


class Batch(nn.Module):
    """Pads a list of slices to one batch. Slices come at the size and range the network wants: nothing else is done."""

    def forward(self, images: list[Tensor], targets: list[dict[str, Tensor]] | None = None):
        sizes = [(image.shape[-2], image.shape[-1]) for image in images]
        height, width = (-(-max(side) // 32) * 32 for side in zip(*sizes, strict=True))
        batch = images[0].new_zeros(len(images), images[0].shape[0], height, width)
        for slot, image in zip(batch, images, strict=True):
            slot[:, : image.shape[-2], : image.shape[-1]] = image
        return ImageList((batch - INPUT_MEAN) / INPUT_SD, sizes), targets

    def postprocess(self, detections, image_sizes, original_sizes):
        return detections
