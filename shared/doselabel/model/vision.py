"""torchvision's parts that networks are made of, imported without the compiler of torch: a tenth of the time.

RoIAlign imports ``torch._dynamo`` for one question, which it asks only of deterministic algorithms on a GPU. While
torchvision is imported, a stand-in is there instead; whoever asks it for anything gets the real one, then.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

import torch  # noqa: F401  # comes first: torchvision needs it whole

COMPILER = ("torch._dynamo", "torch._dynamo.utils")


class _Later(ModuleType):
    """Stands for a module until something of it is used."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        for module in COMPILER:
            if isinstance(sys.modules.get(module), _Later):
                del sys.modules[module]
        return getattr(importlib.import_module(self.__name__), name)


def _is_compile_supported(device_type: str) -> bool:
    from torch._dynamo.utils import is_compile_supported

    return bool(is_compile_supported(device_type))


def _import() -> ModuleType:
    missing = [name for name in COMPILER if name not in sys.modules] if "torchvision" not in sys.modules else []
    for name in missing:
        sys.modules[name] = _Later(name)
    if COMPILER[1] in missing:
        sys.modules[COMPILER[1]].is_compile_supported = _is_compile_supported  # type: ignore[attr-defined]
    try:
        return importlib.import_module("torchvision")
    finally:
        for name in missing:
            if isinstance(sys.modules.get(name), _Later):
                del sys.modules[name]


torchvision = _import()

from torchvision.models.detection.anchor_utils import AnchorGenerator  # noqa: E402
from torchvision.models.detection.backbone_utils import BackboneWithFPN  # noqa: E402
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor  # noqa: E402
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN  # noqa: E402
from torchvision.models.detection.image_list import ImageList  # noqa: E402
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads  # noqa: E402
from torchvision.models.detection.roi_heads import RoIHeads  # noqa: E402
from torchvision.models.detection.rpn import RegionProposalNetwork, RPNHead  # noqa: E402
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign, batched_nms, box_iou, clip_boxes_to_image  # noqa: E402

__all__ = [
    "AnchorGenerator",
    "BackboneWithFPN",
    "FastRCNNPredictor",
    "FrozenBatchNorm2d",
    "GeneralizedRCNN",
    "ImageList",
    "MaskRCNNHeads",
    "MultiScaleRoIAlign",
    "RPNHead",
    "RegionProposalNetwork",
    "RoIHeads",
    "batched_nms",
    "box_iou",
    "clip_boxes_to_image",
    "torchvision",
]
