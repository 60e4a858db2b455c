"""A converted network in 8 bits, its ranges learned from made patients. Knows pictures; no organs, no files.

Convolutions on whole numbers take about .6 of the time. How large activations get must be known beforehand: they are
looked at on CTs of made patients, diagnostic, low-dose and painted, so that the same weights give the same network for
everybody. The first convolution stays as it is: in its input a step of 8 bits is a HU, and small noisy kidneys lost
.004 of Dice by it.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from doselabel.geometry import oriented
from doselabel.model.network import Batch
from doselabel.model.profiles import Profile
from doselabel.model.replay import KINDS, made
from doselabel.model.slices import PLANES, Pictures, body_box, frame_of, in_plane

PER_PLANE = {"axial": 10, "coronal": 4, "sagittal": 4}
"""Pictures of each patient."""


def possible() -> bool:
    """Whether NNCF is installed, which finds the ranges."""
    return importlib.util.find_spec("nncf") is not None


def eight_bits(network: Any, profile: Profile) -> Any:
    """Return an OpenVINO model whose convolutions are done in 8 bits."""
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)  # it misses a CUDA that nobody asked for
    import nncf

    with contextlib.redirect_stdout(io.StringIO()):  # its bars
        nncf.set_log_level(logging.ERROR)
        shown = [[batch.numpy()] for batch in pictures(profile)]
        first = next(op for op in network.get_ordered_ops() if op.get_type_name() == "Convolution")
        return nncf.quantize(
            network,
            nncf.Dataset(shown),
            subset_size=len(shown),
            preset=nncf.QuantizationPreset.MIXED,
            ignored_scope=nncf.IgnoredScope(names=[first.get_friendly_name()]),
        )


def pictures(profile: Profile) -> Iterator[Tensor]:
    """Slices of a patient of each kind as batches (1, C, H, W), in the range that the backbone is given."""
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
                yield Batch()([seen])[0].tensors
