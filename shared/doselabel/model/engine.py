"""What runs the layers of a network: torch, or OpenVINO where it is installed. Knows no slices and no organs.

OpenVINO computes whatever has weights, from the same ones: in 8 bits where NNCF is installed too (extra "openvino"),
else in torch's own precision. Masks differ at single voxels of the rim. What goes between the parts (proposals, RoI
align, boxes) stays in torch.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import shutil
import sys
import tempfile
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal
from weakref import WeakKeyDictionary

import numpy as np
import torch
from platformdirs import user_cache_path
from torch import Tensor, nn

from doselabel.errors import ModelError
from doselabel.model import eightbit
from doselabel.model.checkpoint import Checkpoint
from doselabel.model.network import bf16_pays
from doselabel.model.profiles import Profile
from doselabel.model.vision import GeneralizedRCNN

Engine = Literal["auto", "torch", "openvino"]

PARTS: dict[str, Callable[[list[Tensor]], Any]] = {
    "backbone": lambda levels: OrderedDict((str(k), level) for k, level in enumerate(levels)),
    "rpn.head": lambda found: (found[: len(found) // 2], found[len(found) // 2 :]),
    "roi_heads.box_head": lambda found: found[0],
    "roi_heads.mask_head": lambda found: found[0],
    "roi_heads.mask_predictor": lambda found: found[0],
}
"""What OpenVINO runs, and how its arrays become what torchvision expects of that part."""

KEPT = 4
"""Converted models on disk."""


def for_use(ready: Checkpoint, device: torch.device, engine: Engine = "auto") -> nn.Module:
    """A network for prediction, its layers run by the engine asked for.

    Parameters
    ----------
    ready : Checkpoint
        Stays as it is.
    device : torch.device
    engine : {"auto", "torch", "openvino"}
        "auto": OpenVINO on a CPU, where it is installed.

    Raises
    ------
    ModelError
        When OpenVINO is asked for and is not installed, or the device is none of its.
    """
    model = ready.model.to(device)
    able = importlib.util.find_spec("openvino") is not None and device.type == "cpu"
    if engine == "openvino" and not able:
        found = "is not installed" if device.type == "cpu" else f"does not run on '{device}'"
        raise ModelError(
            f"OpenVINO was asked for, but {found}.", "Install doselabel[openvino], or leave the engine out."
        )
    if engine == "torch" or not able or not isinstance(model, GeneralizedRCNN) or len(ready.sha256) != 64:
        return model  # weights without a file's hash may still change
    if model not in _compiled:
        _compiled[model] = _compile(model, ready)
    quick: nn.Module = model
    for name, compiled in _compiled[model].items():
        quick = _exchanged(quick, name, _Part(name, model.get_submodule(name), compiled))
    return quick


_compiled: WeakKeyDictionary[nn.Module, dict[str, Any]] = WeakKeyDictionary()
"""Of the networks in use: compiled once, gone with the network."""


def _exchanged(model: nn.Module, name: str, part: nn.Module) -> nn.Module:
    """The same network but for one part: weights are shared, and the checkpoint's own network stays as it is."""
    first, _, rest = name.partition(".")
    changed = copy.copy(model)
    own = model._modules[first]
    assert own is not None
    changed._modules = {**model._modules, first: _exchanged(own, rest, part) if rest else part}
    return changed


class _Part(nn.Module):
    """One of `PARTS` by OpenVINO."""

    def __init__(self, name: str, own: nn.Module, compiled: Any) -> None:
        super().__init__()
        self.shaped, self.own, self.compiled = PARTS[name], own, compiled

    def forward(self, given: Any) -> Any:
        inputs = given if isinstance(given, list) else [given]
        if not len(inputs[0]):  # no object was seen
            return self.own(given)
        found = self.compiled([np.ascontiguousarray(tensor.numpy()) for tensor in inputs], share_outputs=True)
        return self.shaped([torch.from_numpy(found[k].copy()) for k in range(len(found))])


class _Flat(nn.Module):
    """A part with tensors for arguments, and a tuple of tensors for its result."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        found = self.part(list(given) if len(given) > 1 else given[0])
        if isinstance(found, Tensor):
            return (found,)
        return tuple(found.values()) if isinstance(found, dict) else tuple(level for kind in found for level in kind)


def _compile(model: GeneralizedRCNN, ready: Checkpoint) -> dict[str, Any]:
    """Convert and compile; what was converted is kept among the user's cached files: converting takes a minute."""
    openvino = _openvino()
    core = openvino.Core()
    kind = "int8" if eightbit.possible() else "float"
    name = f"{ready.sha256[:16]}-{kind}-{openvino.__version__.partition('-')[0]}"
    kept = user_cache_path("doselabel") / "openvino" / name
    try:
        networks = {part: core.read_model(kept / f"{part}.xml") for part in PARTS}
    except RuntimeError:
        networks = {part: _converted(openvino, part, model, ready.profile) for part in PARTS}
        if kind == "int8":
            networks = eightbit.eight_bits(networks, model, ready.profile)
        _keep(openvino, networks, kept)
    precision = "bf16" if bf16_pays() else "f32"
    # One thread, like torch: a second one is slower where others work beside.
    how = {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": precision}
    return {part: core.compile_model(network, "CPU", how) for part, network in networks.items()}


def _openvino() -> Any:
    """Import OpenVINO without its telemetry, which would tell its makers' statistics, from a process of its own."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # "not installed": it has a stub
    return importlib.import_module("openvino")


def _converted(openvino: Any, name: str, model: GeneralizedRCNN, profile: Profile) -> Any:
    """A part for slices of any size, and any number of objects."""
    with warnings.catch_warnings(), torch.inference_mode(), torch.autocast("cpu", enabled=False):
        warnings.simplefilter("ignore")  # of torch, about tracing
        if name.startswith("roi_heads"):
            side, channels = profile.mask_roi, profile.fpn_channels
            if name.endswith("box_head"):
                side = profile.box_roi
            elif name.endswith("mask_predictor"):
                channels = profile.mask_convs[-1]
            examples = [torch.zeros(2, channels, side, side)]
            shapes = [[-1, channels, side, side]]
        else:
            examples = [torch.zeros(1, profile.channels, 64, 64)]
            if name == "rpn.head":
                levels = model.backbone(examples[0])
                examples = [levels[level] for level in profile.rpn_levels]
            shapes = [[1, tensor.shape[1], -1, -1] for tensor in examples]
        return openvino.convert_model(
            _Flat(model.get_submodule(name)),
            example_input=tuple(examples),
            input=[openvino.PartialShape(shape) for shape in shapes],
        )


def _keep(openvino: Any, networks: dict[str, Any], kept: Path) -> None:
    """Write what was converted, whole or not at all; where that can't be, the next process converts again.

    Of models that were in use, the newest `KEPT` stay: every retraining brings one.
    """
    try:
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent, prefix=".") as folder:
            whole = Path(folder) / kept.name
            whole.mkdir()
            for part, network in networks.items():
                openvino.save_model(network, str(whole / f"{part}.xml"), compress_to_fp16=False)
            shutil.rmtree(kept, ignore_errors=True)
            whole.replace(kept)
        models = [folder for folder in kept.parent.iterdir() if not folder.name.startswith(".")]
        for old in sorted(models, key=lambda folder: folder.stat().st_mtime, reverse=True)[KEPT:]:
            shutil.rmtree(old, ignore_errors=True)
    except (OSError, RuntimeError):
        return
