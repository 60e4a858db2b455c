"""A converted network in 8 bits, its ranges learned from made patients. Knows pictures; no organs, no files.

Convolutions on whole numbers take about .6 of the time. How large activations get must be known beforehand: they are
looked at on CTs of made patients, diagnostic, low-dose and painted, so that the same weights give the same network for
everybody. Box head and the mask's last layers gain nothing by it and stay in floats. The first convolution and the
stage after it do too: in their input a step of 8 bits is a HU, and small noisy kidneys lost .005 of Dice by it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from doselabel.geometry import oriented
from doselabel.model.profiles import Profile
from doselabel.model.replay import KINDS, made
from doselabel.model.slices import PLANES, Pictures, body_box, frame_of, in_plane

PER_PLANE = {"axial": 10, "coronal": 4, "sagittal": 4}
"""Pictures of each patient."""

FIRST = "backbone"
IN_FLOATS = (".body.conv1/", ".layer1.")
"""Convolutions of the backbone by their names: a ResNet's first, and its first stage's."""

PARTS = (FIRST, "rpn.head", "roi_heads.mask_head")
EVERY = 3
"""What follows the backbone is looked at on every third picture: it is large."""

Inputs = list[list[np.ndarray]]


def possible() -> bool:
    """Whether NNCF is installed, which finds the ranges."""
    return importlib.util.find_spec("nncf") is not None


def eight_bits(networks: dict[str, Any], model: nn.Module, profile: Profile) -> dict[str, Any]:
    """Return OpenVINO models, one for each part (by name) of a torch model; most convolutions of `PARTS` in 8 bits."""
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it misses a CUDA that nobody asked for
    import nncf

    seen = given(model, PARTS, profile)
    done = dict(networks)
    with contextlib.redirect_stdout(io.StringIO()):  # its bars
        nncf.set_log_level(logging.ERROR)
        for name in filter(seen.get, PARTS):  # a part that was given nothing stays in floats: no object was seen
            convolutions = [op for op in networks[name].get_ordered_ops() if op.get_type_name() == "Convolution"]
            names = [op.get_friendly_name() for op in convolutions]
            done[name] = nncf.quantize(
                networks[name],
                nncf.Dataset(seen[name]),
                subset_size=len(seen[name]),
                preset=nncf.QuantizationPreset.MIXED,
                ignored_scope=nncf.IgnoredScope(names=[n for n in names if any(part in n for part in IN_FLOATS)]),
            )
    return done


def given(model: nn.Module, names: Iterable[str], profile: Profile) -> dict[str, Inputs]:
    """What each part of a network is given on the slices of made patients."""
    seen: dict[str, Inputs] = {name: [] for name in names}
    number = 0

    def noting(name: str) -> Any:
        def note(_: nn.Module, arguments: tuple[Any, ...]) -> None:
            tensors = arguments[0] if isinstance(arguments[0], list) else [arguments[0]]
            if len(tensors[0]) and (name == FIRST or number % EVERY == 0):
                seen[name].append([tensor.numpy() for tensor in tensors])

        return note

    notes = [model.get_submodule(name).register_forward_pre_hook(noting(name)) for name in seen]
    try:
        with torch.inference_mode():
            for number, picture in enumerate(pictures(profile)):  # noqa: B007
                model([picture])
    finally:
        for note in notes:
            note.remove()
    return seen


def pictures(profile: Profile) -> Iterator[Tensor]:
    """Slices (C, H, W) of a patient of each kind, as the network is given them."""
    for number, kind in enumerate(KINDS):
        ct = oriented(made(kind, number)[0])
        hu, spacing_mm = ct.array.astype(np.int16), ct.geometry.spacing_mm
        box, shown = body_box(hu), Pictures(hu, spacing_mm, profile)
        for plane, count in PER_PLANE.items():
            axis = PLANES[plane]
            frame = frame_of(profile, in_plane(spacing_mm, plane), in_plane(box, plane), in_plane(hu.shape, plane))
            for index in np.linspace(box[axis].start, box[axis].stop - 1, count + 2)[1:-1].astype(int):
                seen = shown.of(plane, int(index), frame)
                if profile.spect:
                    seen = torch.cat([seen, torch.zeros(1, *seen.shape[1:])])
                yield seen
