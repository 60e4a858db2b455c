"""What a network is made of, as plain numbers: the `FAST` and `PAPER` profiles. Knows no torch.

A profile travels inside the checkpoint, so that `network.build` makes the same network again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from doselabel.errors import ModelError
from doselabel.labels import NAMES


@dataclass(frozen=True)
class Profile:
    """The network, the slices it sees, and how its answers are read.

    Attributes
    ----------
    name : str
    classes : tuple of str
        Organ names of `doselabel.labels` in class order; class 0 is the background. ``left_x`` and
        ``right_x`` form a pair: one object with a side.
    decoys : tuple of str
        Classes that are learned only so that they are not taken for an organ (spleen for liver or kidney); they
        compete for voxels and are left out of the answer.
    backbone : str
        A torchvision ResNet.
    norm : {"group", "frozen_batch"}
        Of the backbone. Frozen batch norms come with pretrained weights; without them groups are used, which
        do not depend on the batch size.
    fpn_channels : int
        Channels of P2–P5.
    in_slices : int
        Adjacent slices given as channels (odd); the middle one is predicted.
    slice_gap_mm : float
        Least distance of adjacent channels, so that thin slices still show some depth; 0 takes the next slice.
    pixel_mm : float or None
        Size of the pixels the network sees. None: no spatial normalisation (the paper); the slice is only
        fitted into ``side_px``.
    side_px : int
        Longer side of the slice when ``pixel_mm`` is None.
    spect : bool
        Whether a SPECT slice is given as one more channel (the outlook of Nazari 2021); it may be empty.
    hu_window : tuple of float
        The only pre-processing of intensities (Nazari 2021, Pre and post processing).
    rpn_levels : tuple of str
        Pyramid levels searched for objects; "0" is P2, "3" is P5.
    anchors_px : tuple of tuple of int
        Anchor sizes per level of ``rpn_levels``.
    proposals : tuple of int
        Proposals per level kept before, and per slice kept after, non-maximum suppression.
    box_roi, box_convs, box_fc : int
        RoI samples a side for the box head, its stride-2 convolutions, its hidden units.
    mask_roi : int
        RoI samples a side for the mask head, taken from P2 alone.
    roi_sampling : int
        Points averaged a side for each RoI sample.
    mask_convs : tuple of int
        Channels of the mask head's convolutions.
    mask_target : int
        Side of the mask that is learned; resized linearly to the slice.
    box_pad : float
        Part of its size by which a box is widened on each side before it is learned: a box that is a little
        too small then still holds the whole organ.
    score_accept, score_seed : float
        A detection counts from ``score_accept`` when it is linked in 3D to one above ``score_seed``.
    gap_fill : {"distance", "linear"}
        How slices without a mask are filled between their neighbours: by signed distances, or linearly (the paper).
    consensus : {"mean", "vote"}
        How three planes agree: averaged probabilities, or 2 of 3 (the paper).
    """

    name: str
    classes: tuple[str, ...] = ("left_kidney", "right_kidney", "liver")
    decoys: tuple[str, ...] = ()
    backbone: str = "resnet18"
    norm: str = "group"
    fpn_channels: int = 128
    in_slices: int = 3
    slice_gap_mm: float = 3.0
    pixel_mm: float | None = 1.5
    side_px: int = 512
    spect: bool = False
    hu_window: tuple[float, float] = (-100.0, 200.0)
    rpn_levels: tuple[str, ...] = ("1", "2", "3")
    anchors_px: tuple[tuple[int, ...], ...] = ((16, 28), (42, 64), (96, 144))
    proposals: tuple[int, int] = (128, 32)
    box_roi: int = 14
    box_convs: int = 2
    box_fc: int = 256
    mask_roi: int = 28
    roi_sampling: int = 1
    mask_convs: tuple[int, ...] = (64, 64, 64)
    mask_target: int = 56
    box_pad: float = 0.1
    score_accept: float = 0.5
    score_seed: float = 0.9
    gap_fill: Literal["distance", "linear"] = "distance"
    consensus: Literal["mean", "vote"] = "mean"

    def to_dict(self) -> dict:
        """Plain data for the checkpoint's header."""
        return dataclasses.asdict(self)

    @property
    def channels(self) -> int:
        """Channels of the network's input."""
        return self.in_slices + int(self.spect)

    @property
    def organs(self) -> tuple[str, ...]:
        """What is answered: the classes without the decoys."""
        return tuple(name for name in self.classes if name not in self.decoys)

    def of_organs(self, organs: Sequence[str]) -> Profile:
        """Return the same profile for these organs alone, in the order of its own classes; decoys stay.

        Raises
        ------
        ModelError
            When an organ is not in the label table.
        """
        if unknown := sorted(set(organs) - set(NAMES.values())):
            raise ModelError(
                f"'{', '.join(unknown)}' is no organ; expected some of {', '.join(NAMES.values())}.",
                "Correct the name.",
            )
        decoys = tuple(name for name in self.decoys if name not in organs)
        known = [name for name in self.classes if name in organs or name in decoys]
        classes = (*known, *(name for name in organs if name not in known))
        return dataclasses.replace(self, classes=classes, decoys=decoys)

    def pretrained(self) -> Profile:
        """Return the same profile with the norms that pretrained weights bring along."""
        return dataclasses.replace(self, norm="frozen_batch")

    @classmethod
    def from_dict(cls, data: dict) -> Profile:
        """Make a profile again from `to_dict` (lists become tuples)."""
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(set(data) - known):
            raise ModelError(
                f"The checkpoint's profile has unknown fields {unknown}.",
                "It was made by a newer version: update doselabel.",
            )
        return cls(**{key: _frozen(value) for key, value in data.items()})


def _frozen(value):
    return tuple(_frozen(item) for item in value) if isinstance(value, list | tuple) else value


FAST = Profile(
    "fast",
    classes=("left_kidney", "right_kidney", "liver", "spleen"),
    decoys=("spleen",),
    in_slices=5,
)
"""The default: the paper's method on light parts, about 1.5 mm pixels, trained without pretrained weights."""

PAPER = Profile(
    "paper",
    backbone="resnet50",
    fpn_channels=256,
    slice_gap_mm=0.0,
    pixel_mm=None,
    rpn_levels=("0", "1", "2", "3"),
    anchors_px=((32,), (64,), (128,), (256,)),
    proposals=(1000, 1000),
    box_roi=28,
    box_convs=3,
    box_fc=1024,
    roi_sampling=2,
    mask_convs=(256, 256, 256, 256),
    mask_target=256,
    box_pad=0.0,
    score_accept=0.9,
    score_seed=0.9,
    gap_fill="linear",
    consensus="vote",
)
"""Nazari et al. 2021: ResNet-50-FPN, P2–P5 without a pool level, RoI 28×28, mask target 256×256, score 0.9.

The paper's RoI head is a fully connected layer on 28×28 samples (205 M weights); here a learned stride-2
reduction keeps the 28×28 sampling.
"""

FAST_SPECT = dataclasses.replace(FAST, name="fast-spect", spect=True)
"""`FAST` with the SPECT of the same SPECT/CT as one more channel (the outlook of Nazari 2021)."""

PROFILES = {profile.name: profile for profile in (FAST, FAST_SPECT, PAPER)}
