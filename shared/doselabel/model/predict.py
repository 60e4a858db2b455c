"""From a CT to a label map in its own geometry, with an honest summary. Knows one network; no server, no training.

The steps: canonical orientation, HU check, every n-th slice to locate the organs, every slice of their range,
(two more planes), joining in 3D (`join`), back to the image's own grid.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from doselabel.errors import ModelError, Progress, no_progress
from doselabel.geometry import Volume, oriented, resample, restore
from doselabel.image_values import check_hu
from doselabel.labels import LabelMap, organ
from doselabel.model import checkpoint as checkpoints
from doselabel.model.checkpoint import Checkpoint
from doselabel.model.engine import Engine, for_use
from doselabel.model.join import join
from doselabel.model.network import bf16_pays, class_groups, paste
from doselabel.model.slices import (
    PLANES,
    Frame,
    Pictures,
    body_box,
    frame_of,
    in_plane,
    resampled,
    uptake_on,
)
from doselabel.model.track import Detection
from doselabel.wire import SegmentationSummary

LOCATOR_STEP_MM = 10.0
"""Organs are looked for on slices this far apart first; the slices are kept, so locating costs nothing twice."""

BLANK_MM = 6.0
"""Slices without an organ for this far end its range."""

RANGE_MM = 15.0
"""Sagittal and coronal cuts this far beyond where an organ was seen are looked at too."""

RIM = 8
"""Pixels kept around the body, so that its edge is averaged with what lies beyond."""

AXIAL_STEP_MM = 2.5
"""Slices thinner than half of this are not all looked at: as near as the finest slices a network is judged on."""

OTHER_PLANE_STEP_MM = 3.0
"""Sagittal and coronal cuts are taken this far apart (about the thickness of an axial slice) and interpolated."""

ALONG_Z_MM = 40.0
"""How much beyond the organs sagittal and coronal cuts reach along z."""


@dataclass(frozen=True)
class Segmentation:
    """A label map on the CT's own grid and what is to be known of it."""

    labels: LabelMap
    summary: SegmentationSummary


def segment(
    volume: Volume,
    checkpoint: Path | Checkpoint,
    *,
    spect: Volume | None = None,
    planes: Sequence[str] = ("axial",),
    consensus: Literal["mean", "vote"] | None = None,
    score_threshold: float | None = None,
    gap_fill: Literal["distance", "linear"] | None = None,
    device: str = "cpu",
    engine: Engine = "auto",
    threads: int | None = 1,
    name: str = "The image",
    progress: Progress = no_progress,
) -> Segmentation:
    """Segment a CT.

    Parameters
    ----------
    volume : Volume
        CT in HU, in any orientation.
    checkpoint : Path or Checkpoint
    spect : Volume, optional
        SPECT in the CT's space, of any unit and grid, for a model with a SPECT channel. Of any model the summary then
        says how much of an organ's uptake hangs on doubtful voxels.
    planes : sequence of {"axial", "coronal", "sagittal"}
        One ("axial") or all three.
    consensus : {"mean", "vote"}, optional
        How three planes agree: averaged probabilities, or 2 of 3 (Nazari 2021, Appendix A.2); default: the profile's.
    score_threshold : float, optional
        Least score of a detection; default: the profile's. What is not surer than the profile's seed score counts
        only where it continues an organ.
    gap_fill : {"distance", "linear"}, optional
        How slices without a mask are filled; default: the profile's.
    device : str
    engine : {"auto", "torch", "openvino"}
        What runs backbone and pyramid; "auto" is OpenVINO on a CPU where it is installed.
    threads : int or None
        Torch threads while this runs: more than one is slower on a shared machine. None leaves it to the caller.
    name : str
        What messages call the image: its path.
    progress : Progress
        Called for every slice; raising `Cancelled` stops.

    Returns
    -------
    Segmentation
        An organ that was not found has a volume of 0 and a flag; nothing found at all is the first flag.

    Raises
    ------
    ModelError
        When the image is not a CT in HU, planes are not known, or OpenVINO is asked for and absent.
    """
    began = time.perf_counter()
    _check_planes(planes)
    _check_choice("consensus", consensus, (None, "mean", "vote"))
    _check_choice("gap_fill", gap_fill, (None, "distance", "linear"))
    check_hu(volume.array, name)
    ready = checkpoint if isinstance(checkpoint, Checkpoint) else checkpoints.load(checkpoint)
    image = oriented(volume)
    crop = _crop(image.array, body_box(image.array))
    spacing_mm, hu = image.geometry.spacing_mm, _int16(image.array[crop])
    progress("preparing the network", 0.0)  # the first use of a model by OpenVINO takes a while
    with torch.inference_mode(), _threads(threads):
        looker = _Looker(hu, spacing_mm, image.array.shape, ready, score_threshold, torch.device(device), engine)
        if spect is not None and ready.profile.spect:
            looker.spect = uptake_on(spect, image.geometry)[crop]
        _look_axial(looker, progress)
        for plane in planes:
            if plane != "axial":
                _look_across(looker, plane, progress)
    progress("joining", 0.0)
    joined, organs, flags = join(
        looker.detections,
        looker.cuts,
        hu,
        spacing_mm,
        replace(ready.profile, gap_fill=gap_fill) if gap_fill else ready.profile,
        midline_box=looker.box,
        consensus=consensus or ready.profile.consensus,
        uptake=None if spect is None else resample(spect, image.geometry).array[crop],
    )
    names = {organ(name).index: name for name in ready.profile.organs}
    organs = {name: organs[name] for name in ready.profile.organs}
    flags = [flag for flag in flags if not flag.startswith(tuple(f"{name}:" for name in ready.profile.decoys))]
    if ready.profile.spect and spect is None:
        flags.append("no SPECT was given: this model looks at one as well, and knows less without it")
    values = (organ(name).index if name in organs else 0 for name in ready.profile.classes)
    lut = np.array([0, *values], np.uint8)
    whole = np.zeros(image.geometry.shape, np.uint8)
    whole[crop] = lut[joined]
    labels = restore(Volume(whole, image.geometry), volume.geometry)
    summary = SegmentationSummary(
        organs=organs,
        flags=flags,
        model_sha256=ready.sha256,
        profile=ready.profile.name,
        planes=list(planes),
        seconds=round(time.perf_counter() - began, 2),
    )
    progress("joining", 1.0)
    return Segmentation(LabelMap(labels.array, volume.geometry, names), summary)


def _check_planes(planes: Sequence[str]) -> None:
    if not planes or "axial" not in planes or len(planes) not in (1, 3) or set(planes) - set(PLANES):
        raise ModelError(
            f"Found the planes {tuple(planes)}; expected ('axial',) or all of {tuple(PLANES)}.",
            "Two planes can't outvote each other: use one or three.",
        )


def _check_choice(name: str, found: Any, allowed: tuple) -> None:
    if found not in allowed:
        names = " or ".join(str(value) for value in allowed if value)
        raise ModelError(f"'{name}' is {found!r}; expected {names}.", "Correct it.")


def _crop(array: np.ndarray, body: tuple[slice, ...]) -> tuple[slice, ...]:
    """The body with a rim: what lies beyond it need be neither converted nor gone through."""
    return tuple(
        slice(max(0, part.start - RIM), min(size, part.stop + RIM))
        for part, size in zip(body, array.shape, strict=True)
    )


def _int16(array: np.ndarray) -> np.ndarray:
    """HU as whole numbers, slice by slice: a float copy of 1000 slices is 1 GB."""
    if array.dtype == np.int16:
        return array
    result = np.empty(array.shape, np.int16)
    for part, source in zip(result, array, strict=True):
        part[:] = np.clip(np.rint(source), -1024, 3071)
    return result


class _Looker:
    """Looks at single slices and collects what it sees."""

    def __init__(
        self,
        hu: np.ndarray,
        spacing_mm: tuple[float, float, float],
        scanned: tuple[int, ...],
        ready: Checkpoint,
        score_threshold: float | None,
        device: torch.device,
        engine: Engine,
    ) -> None:
        self.hu = hu
        self.spacing = spacing_mm
        self.scanned = scanned
        self.spect: np.ndarray | None = None
        self.profile = ready.profile
        self.accept = self.profile.score_accept if score_threshold is None else score_threshold
        self.model = for_use(ready, device, engine)
        self.device = device
        groups = class_groups(self.profile.classes)
        self.group_of = {index: name for name, members in groups.items() for index in members}
        self.box = body_box(self.hu)
        self.pictures = Pictures(hu, spacing_mm, self.profile)
        self.cuts: dict[str, list[int]] = {}
        self.detections: list[Detection] = []

    def look(self, plane: str, index: int, box: tuple[slice, ...] | None = None) -> bool:
        """Look at one slice; whether any organ was seen."""
        self.cuts.setdefault(plane, []).append(index)
        axis = PLANES[plane]
        spacing, shape = in_plane(self.spacing, plane), in_plane(self.hu.shape, plane)
        rows_columns = in_plane(box or self.box, plane)
        frame = frame_of(self.profile, spacing, rows_columns, in_plane(self.scanned, plane))
        image = self.pictures.of(plane, index, frame)
        if self.profile.spect:
            image = torch.cat([image, self._uptake(axis, index, frame)])
        image = image.to(self.device)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type != "cpu" or bf16_pays()):
            (seen,) = self.model([image])
        any_seen = False
        for corners, label, score, mask in zip(
            *(seen[key].cpu() for key in ("boxes", "labels", "scores", "masks")), strict=True
        ):
            if score < self.accept:
                continue
            region = []
            for k, (low, high) in enumerate(((corners[1], corners[3]), (corners[0], corners[2]))):
                first = int(np.ceil(frame.offset[k] + frame.scale[k] * float(low)))
                last = int(np.floor(frame.offset[k] + frame.scale[k] * float(high)))
                region.append(slice(max(0, first), min(shape[k], last + 1)))
            if any(part.stop <= part.start for part in region):
                continue
            rows, columns = (
                torch.from_numpy(frame.to_network(np.arange(part.start, part.stop), k)).float()
                for k, part in enumerate(region)
            )
            values = (paste(mask[0].float(), corners, rows, columns) * 255).round().byte().numpy()
            where = (*region[:axis], slice(index, index + 1), *region[axis:])
            group = self.group_of[int(label)]
            self.detections.append(
                Detection(plane, index, group, int(label), float(score), where, np.expand_dims(values, axis))
            )
            any_seen = True
        return any_seen

    def _uptake(self, axis: int, index: int, frame: Frame) -> torch.Tensor:
        """The SPECT channel (1, H, W) of a slice; empty without one, as it is now and then in training."""
        if self.spect is None:
            return torch.zeros(1, *frame.size)
        return resampled(torch.from_numpy(np.moveaxis(self.spect, axis, 0)[index].copy())[None], frame, fill=0.0)


def _look_axial(looker: _Looker, progress: Progress) -> None:
    """Locate on a coarse run of slices, then look at every slice near what was seen, and on while it goes on.

    Of thin slices every n-th is looked at, and masks are interpolated between, as between cuts of the other planes.
    """
    count, spacing = looker.hu.shape[0], looker.spacing[0]
    every = max(1, int(AXIAL_STEP_MM / spacing))
    step = every * max(1, round(LOCATOR_STEP_MM / (every * spacing)))
    coarse = list(range(min(step // 2, count - 1), count, step))
    # All that may be looked at: the first is a multiple of `every` below the first of the coarse run.
    lattice = range(coarse[0] % every, count, every)
    looked: dict[int, bool] = {}
    for number, index in enumerate(coarse):
        progress("locating organs", number / len(coarse))
        looked[index] = looker.look("axial", index)
    near = {k for index in _located(looker) for k in range(index - step, index + step + 1, every) if k in lattice}
    # Nothing seen may mean a very small field of view: then look everywhere before saying so.
    fine = sorted((near or set(lattice)) - set(coarse))
    for number, index in enumerate(fine):
        progress("axial slices", number / len(fine))
        looked[index] = looker.look("axial", index)
    blank = max(1, round(BLANK_MM / (every * spacing)))
    for direction in (every, -every):
        for edge in [k for k in sorted(near) if k + direction not in near]:
            # An organ ends where a run of slices shows none of it.
            index = edge + direction
            while index in lattice and any(looked.get(index - direction * k) for k in range(1, blank + 1)):
                if index not in looked:
                    looked[index] = looker.look("axial", index)
                index += direction


def _located(looker: _Looker) -> set[int]:
    """Slices that surely show an organ; those of an organ that is nowhere sure count unsure."""
    slices: set[int] = set()
    for group in {d.group for d in looker.detections}:
        own = [d for d in looker.detections if d.group == group]
        sure = {d.index for d in own if d.score >= looker.profile.score_seed}
        slices |= sure or {d.index for d in own}
    return slices


def _look_across(looker: _Looker, plane: str, progress: Progress) -> None:
    """Look at coronal or sagittal cuts through what the axial plane found."""
    found = [d.where for d in looker.detections if d.plane == "axial"]
    looker.cuts[plane] = []
    if not found:
        return
    axis = PLANES[plane]
    margin = [round(RANGE_MM / mm) for mm in looker.spacing]
    low = min(where[axis].start for where in found) - margin[axis]
    high = max(where[axis].stop for where in found) + margin[axis]
    reach_z = round(ALONG_Z_MM / looker.spacing[0])
    z_range = slice(
        max(0, min(where[0].start for where in found) - reach_z),
        min(looker.hu.shape[0], max(where[0].stop for where in found) + reach_z),
    )
    step = max(1, round(OTHER_PLANE_STEP_MM / looker.spacing[axis]))
    cuts = list(range(max(0, low), min(looker.hu.shape[axis], high), step))
    for number, index in enumerate(cuts):
        progress(f"{plane} slices", number / len(cuts))
        looker.look(plane, index, (z_range, *looker.box[1:]))


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    try:
        if count is not None:
            torch.set_num_threads(count)
        yield
    finally:
        torch.set_num_threads(before)
