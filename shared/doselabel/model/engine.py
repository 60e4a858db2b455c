"""What runs the dense part of a network: torch, or OpenVINO where it is installed. Knows no slices and no organs.

Backbone and pyramid cost most of a slice. OpenVINO computes them from the same weights: in 8 bits where NNCF is
installed too (extra "openvino"), else in torch's own precision. Masks differ at single voxels of the rim. The rest
(proposals, heads) stays in torch.
"""

from __future__ import annotations

import copy
import importlib
import importlib.util
import os
import sys
import tempfile
import warnings
from collections import OrderedDict
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
from doselabel.model.vision import GeneralizedRCNN

Engine = Literal["auto", "torch", "openvino"]

KEPT = 4
"""Converted models on disk."""


def for_use(ready: Checkpoint, device: torch.device, engine: Engine = "auto") -> nn.Module:
    """A network for prediction, its dense part run by the engine asked for.

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
    # The same parts, but for one: weights are shared, and the checkpoint's own network keeps its backbone.
    quick = copy.copy(model)
    quick._modules = {**model._modules, "backbone": _Dense(model.backbone, ready)}
    return quick


class _Dense(nn.Module):
    """Backbone and pyramid by OpenVINO."""

    def __init__(self, backbone: nn.Module, ready: Checkpoint) -> None:
        super().__init__()
        self.out_channels = backbone.out_channels
        if backbone not in _compiled:
            _compiled[backbone] = _compile(backbone, ready)
        self.compiled = _compiled[backbone]

    def forward(self, batch: Tensor) -> OrderedDict[str, Tensor]:
        levels = self.compiled([np.ascontiguousarray(batch.numpy())])
        return OrderedDict((str(k), torch.from_numpy(levels[k].copy())) for k in range(len(levels)))


_compiled: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()
"""Of the networks in use: compiled once, gone with the network."""


class _Unnamed(nn.Module):
    """A pyramid as a tuple, from the finest level on."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, batch: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.backbone(batch).values())


def _compile(backbone: nn.Module, ready: Checkpoint) -> Any:
    """Convert and compile; what was converted is kept among the user's cached files: converting takes half a minute."""
    openvino = _openvino()
    core = openvino.Core()
    kind = "int8" if eightbit.possible() else "float"
    name = f"{ready.sha256[:16]}-{kind}-{openvino.__version__.partition('-')[0]}.xml"
    kept = user_cache_path("doselabel") / "openvino" / name
    try:
        network = core.read_model(kept)
    except RuntimeError:
        network = _converted(openvino, ready.profile.channels, backbone)
        if kind == "int8":
            network = eightbit.eight_bits(network, ready.profile)
        _keep(openvino, network, kept)
    precision = "bf16" if bf16_pays() else "f32"
    # One thread, like torch: a second one is slower where others work beside.
    return core.compile_model(
        network, "CPU", {"INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1, "INFERENCE_PRECISION_HINT": precision}
    )


def _openvino() -> Any:
    """Import OpenVINO without its telemetry, which would tell its makers' statistics, from a process of its own."""
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]  # "not installed": it has a stub
    return importlib.import_module("openvino")


def _converted(openvino: Any, channels: int, backbone: nn.Module) -> Any:
    with warnings.catch_warnings(), torch.autocast("cpu", enabled=False):
        warnings.simplefilter("ignore")  # of torch, about tracing
        return openvino.convert_model(
            _Unnamed(backbone),
            example_input=torch.zeros(1, channels, 64, 64),
            input=[openvino.PartialShape([1, channels, -1, -1])],
        )


def _keep(openvino: Any, network: Any, path: Path) -> None:
    """Write what was converted, whole or not at all; where that can't be, the next process converts again.

    Of models that were in use, the newest `KEPT` stay: every retraining brings one.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            openvino.save_model(network, str(Path(folder) / path.name), compress_to_fp16=False)
            for suffix in (".bin", ".xml"):  # the one that is looked for comes last
                os.replace((Path(folder) / path.name).with_suffix(suffix), path.with_suffix(suffix))
        newest_first = sorted(path.parent.glob("*.xml"), key=lambda file: file.stat().st_mtime, reverse=True)
        for old in newest_first[KEPT:]:
            old.unlink(missing_ok=True)
            old.with_suffix(".bin").unlink(missing_ok=True)
    except (OSError, RuntimeError):
        return
