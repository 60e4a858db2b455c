"""From what was seen on slices to organs in 3D: linking, gaps, sides, largest part. Knows arrays, no network.

Everything is in canonical orientation, where index x grows to the patient's left.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import combinations, pairwise

import numpy as np
from scipy import ndimage

from doselabel.model.network import class_groups
from doselabel.model.profiles import Profile
from doselabel.model.slices import PLANES
from doselabel.wire import OrganSegmentation

Box = tuple[slice, ...]

GAP_MM = 20.0
"""Longest run of slices without a mask that is still filled in."""

USUAL_ML = {"left_kidney": (60.0, 400.0), "right_kidney": (60.0, 400.0), "liver": (600.0, 3500.0)}
"""Volumes outside this range are flagged, never changed."""

LINK_MM = 15.0
"""An unsure detection counts when a sure one of the same object is no further away than this."""

UNSURE_ML = 25.0
"""What never reached the seed score is kept, and flagged, from this size on; smaller, it is taken for an error."""

BONE_HU = 180.0


@dataclass(frozen=True)
class Detection:
    """One object on one slice.

    Attributes
    ----------
    plane, index
        Which slice.
    group : str
        Kind of organ ("kidney").
    label : int
        Class, which for a pair includes the side the network believes in.
    score : float
    where : tuple of slice
        Its box in the array (z, y, x).
    values : uint8 array
        Probability of its mask in that box, 255 is certain.
    """

    plane: str
    index: int
    group: str
    label: int
    score: float
    where: Box
    values: np.ndarray


def join(
    detections: list[Detection],
    cuts: dict[str, list[int]],
    hu: np.ndarray,
    spacing_mm: tuple[float, float, float],
    profile: Profile,
    *,
    midline_box: Box,
    consensus: str = "mean",
) -> tuple[np.ndarray, dict[str, OrganSegmentation], list[str]]:
    """Make organs of what was seen.

    Parameters
    ----------
    detections : list of Detection
    cuts : dict
        plane → the slices that were looked at, in order.
    hu : (z, y, x) array
    spacing_mm : tuple of float
        (z, y, x).
    profile : Profile
    midline_box : tuple of slice
        The body, for telling left from right.
    consensus : {"mean", "vote"}

    Returns
    -------
    labels : (z, y, x) uint8 array
        Class indices of the profile.
    organs : dict
        Organ → summary; also those not found.
    flags : list of str
        Of the whole image.
    """
    whole = hu.shape
    region = _around(detections, midline_box)
    hu = hu[region]
    cuts = {plane: [k - region[PLANES[plane]].start for k in looked] for plane, looked in cuts.items()}
    detections = [
        replace(d, where=_shifted(d.where, region), index=d.index - region[PLANES[d.plane]].start) for d in detections
    ]
    ends = (region[0].start == 0, region[0].stop == whole[0])
    midline_box = _shifted(midline_box, region)
    labels = np.zeros(hu.shape, np.uint8)
    strength = np.zeros(hu.shape, np.uint8)
    organs: dict[str, OrganSegmentation] = {}
    voxel_ml = float(np.prod(spacing_mm)) / 1000
    for group, members in class_groups(profile.classes).items():
        half = (midline_box[2].start + midline_box[2].stop) / 2 if len(members) > 1 else None
        mine = link([d for d in detections if d.group == group], spacing_mm, profile.score_seed, half)
        by_plane = {plane: _paint(mine, plane, looked, hu.shape) for plane, looked in cuts.items()}
        agreed = _agree(list(by_plane.values()), consensus)
        parts, scores, found = _parts(agreed > 127, mine)
        middle = _midline(hu, agreed, midline_box) if len(members) > 1 else None
        for index in members:
            name = profile.classes[index - 1]
            side = _side_of(name) if middle is not None else None
            mask, box = _one_organ(parts, scores, found, spacing_mm, profile.score_seed, side, middle)
            if mask is None or box is None:
                organs[name] = OrganSegmentation(
                    volume_ml=0.0, score=0.0, slices=0, flags=["not found: no mask was made"]
                )
                continue
            mask, filled = fill_gaps(mask, spacing_mm[0])
            mask = _largest(mask)
            flags = _flags(name, mask, box, hu.shape[0], ends, voxel_ml)
            own = [d for d in mine if _hits(mask, box, d)]
            best = max((d.score for d in own), default=0.0)
            if best < profile.score_seed:
                flags.append(f"low confidence: best score {best:.2f}")
            wrong = sum(d.score for d in own if d.label != index and d.plane != "sagittal")
            if side and wrong > 0.5 * sum(d.score for d in own if d.plane != "sagittal"):
                flags.append("side conflict: the network takes it for the other side; its place in the body decided")
            if filled:
                flags.append(f"{filled} slice(s) filled by interpolation")
            # The stronger of two organs that claim a voxel keeps it; a filled slice has no claim of its own.
            claim = np.where(mask, np.maximum(agreed[box], 1), 0).astype(np.uint8)
            wins = claim > strength[box]
            labels[box][wins] = index
            strength[box][wins] = claim[wins]
            organs[name] = OrganSegmentation(
                volume_ml=0.0,
                score=float(np.mean([d.score for d in own])) if own else 0.0,
                slices=int(mask.any((1, 2)).sum()),
                slices_interpolated=filled,
                plane_disagreement=_disagreement(by_plane, mask, box),
                flags=flags,
            )
    counts = np.bincount(labels.ravel(), minlength=len(profile.classes) + 1)
    for index, name in enumerate(profile.classes, start=1):
        volume_ml = float(counts[index]) * voxel_ml
        organs[name] = organs[name].model_copy(update={"volume_ml": round(volume_ml, 2)})
    flags = [f"{name}: {flag}" for name, result in organs.items() for flag in result.flags]
    if not labels.any():
        flags.insert(0, "NOTHING WAS FOUND: the label map is empty. Check that the CT shows kidneys or liver.")
    result = np.zeros(whole, np.uint8)
    result[region] = labels
    return result, organs, flags


def link(
    detections: list[Detection], spacing_mm: tuple[float, float, float], seed: float, half: float | None
) -> list[Detection]:
    """Keep what is sure, and what is unsure but near something sure that it overlaps.

    An organ is taught as one object per slice, so on each slice only the best counts (of each half of the body, when
    ``half`` is given). Where nothing is sure at all, everything stays, to be flagged.
    """
    best: dict[tuple[str, bool, int], Detection] = {}
    for d in detections:
        left = half is not None and d.plane != "sagittal" and d.where[2].start + d.where[2].stop > 2 * half
        key = (d.plane, left, d.index)
        if key not in best or d.score > best[key].score:
            best[key] = d
    kept = []
    for plane, left in {key[:2] for key in best}:
        axis = PLANES[plane]
        run = [d for key, d in best.items() if key[:2] == (plane, left)]
        sure = [d for d in run if d.score >= seed]
        reach = max(1, round(LINK_MM / spacing_mm[axis]))
        kept += [
            d
            for d in run
            if not sure or any(abs(d.index - s.index) <= reach and _overlap(d.where, s.where, axis) > 0.5 for s in sure)
        ]
    return kept


def _overlap(a: Box, b: Box, across: int) -> float:
    """Common part of two boxes on their slices, of the smaller one."""
    common = size_a = size_b = 1
    for axis in set(range(3)) - {across}:
        common *= max(0, min(a[axis].stop, b[axis].stop) - max(a[axis].start, b[axis].start))
        size_a *= a[axis].stop - a[axis].start
        size_b *= b[axis].stop - b[axis].start
    return common / min(size_a, size_b)


def _paint(detections: list[Detection], plane: str, cuts: list[int], shape: tuple[int, ...]) -> np.ndarray:
    """Put the masks of one plane together (uint8), linear between the cuts where not every slice was looked at."""
    volume = np.zeros(shape, np.uint8)
    mine = [d for d in detections if d.plane == plane]
    for d in mine:
        np.maximum(volume[d.where], d.values, out=volume[d.where])
    if plane == "axial":
        return volume
    slices = np.moveaxis(volume, PLANES[plane], 0)
    seen = {d.index for d in mine}
    for before, after in pairwise(cuts):
        if not seen & {before, after} or before < 0 or after >= len(slices):
            continue
        for index in range(before + 1, after):
            weight = (index - before) / (after - before)
            slices[index] = np.round((1 - weight) * slices[before].astype(np.float32) + weight * slices[after])
    return volume


def _around(detections: list[Detection], body: Box) -> Box:
    """The body at the height of all detections: the rest of a scan need not be gone through."""
    if not detections:
        return (slice(0, 1), *body[1:])
    boxes = [d.where for d in detections]
    whole = [*boxes, (boxes[0][0], *body[1:])]
    return tuple(slice(min(b[axis].start for b in whole), max(b[axis].stop for b in whole)) for axis in range(3))


def _shifted(box: Box, region: Box) -> Box:
    return tuple(slice(b.start - r.start, b.stop - r.start) for b, r in zip(box, region, strict=True))


def fill_gaps(mask: np.ndarray, spacing_z_mm: float, gap_mm: float = GAP_MM) -> tuple[np.ndarray, int]:
    """Fill empty slices between masks by interpolating signed distances; returns the mask and how many were filled."""
    shown = np.flatnonzero(mask.any((1, 2)))
    result, filled = mask.copy(), 0
    for before, after in pairwise(shown):
        if after - before == 1 or (after - before) * spacing_z_mm > gap_mm:
            continue
        first, last = (_signed_distance(mask[k]) for k in (before, after))
        for index in range(before + 1, after):
            weight = (index - before) / (after - before)
            result[index] = (1 - weight) * first + weight * last > 0
            filled += int(result[index].any())
    return result, filled


def _signed_distance(mask: np.ndarray) -> np.ndarray:
    # Half a pixel is taken off on both sides, so that the zero lies on the outline and not on pixel centres.
    inside = ndimage.distance_transform_edt(mask) - 0.5
    outside = ndimage.distance_transform_edt(~mask) - 0.5
    return np.where(mask, inside, -outside)


def _agree(volumes: list[np.ndarray], consensus: str) -> np.ndarray:
    if len(volumes) == 1:
        return volumes[0]
    if consensus == "vote":
        votes = np.zeros(volumes[0].shape, np.uint8)
        for volume in volumes:
            votes += volume > 127
        return np.where(2 * votes > len(volumes), 255, 0).astype(np.uint8)
    total = np.zeros(volumes[0].shape, np.uint16)
    for volume in volumes:
        total += volume
    return (total // len(volumes)).astype(np.uint8)


def _parts(mask: np.ndarray, detections: list[Detection]) -> tuple[np.ndarray, dict[int, float], dict[int, Box]]:
    """Label connected parts; best score and box of each."""
    parts = np.zeros(mask.shape, np.int32)
    boxes = ndimage.find_objects(mask.astype(np.uint8))
    if not boxes:
        return parts, {}, {}
    crop = boxes[0]
    parts[crop], _ = ndimage.label(mask[crop])
    found = {number: box for number, box in enumerate(ndimage.find_objects(parts), start=1) if box}
    scores = dict.fromkeys(found, 0.0)
    for detection in detections:
        inside = parts[detection.where]
        counts = np.bincount(inside[inside > 0])
        if counts.size:
            number = int(counts.argmax())
            scores[number] = max(scores[number], detection.score)
    return parts, scores, found


def _side_of(name: str) -> str:
    return name.partition("_")[0]


def _midline(hu: np.ndarray, organ: np.ndarray, box: Box) -> float:
    """Index x of the spine: the median of bone at the organ's height, else the middle of the body."""
    heights = np.flatnonzero(organ.any((1, 2)))
    middle = (box[2].start + box[2].stop - 1) / 2
    if not heights.size:
        return middle
    height = slice(heights[0], heights[-1] + 1)
    columns = ((hu[height] > BONE_HU) & (organ[height] < 64)).sum((0, 1))
    if columns.sum() < 200:
        return middle
    return float(np.searchsorted(columns.cumsum(), columns.sum() / 2))


def _one_organ(
    parts: np.ndarray,
    scores: dict[int, float],
    found: dict[int, Box],
    spacing_mm: tuple[float, float, float],
    seed: float,
    side: str | None,
    middle: float | None,
) -> tuple[np.ndarray | None, Box | None]:
    """The main part of an organ (of one side) and what is linked to it, in the box around them."""
    sizes: dict[int, int] = {}
    for number, box in found.items():
        inside = parts[box] == number
        sizes[number] = int(_on_side(inside, box, side, middle).sum())
    largest = max(sizes.values(), default=0)
    # Slivers of the other side's organ, and specks, are no organ.
    sizes = {number: size for number, size in sizes.items() if size > 0.02 * largest}
    if not sizes:
        return None, None
    least = UNSURE_ML * 1000 / float(np.prod(spacing_mm))
    sure = [number for number in sizes if scores[number] >= seed] or [n for n in sizes if sizes[n] >= least]
    if not sure:
        return None, None
    main = max(sure, key=lambda number: sizes[number])
    kept = [main]
    for number in sorted(sizes, key=lambda n: -sizes[n]):
        if number != main and any(_linked(found[number], found[other], spacing_mm[0]) for other in kept):
            kept.append(number)
    box = tuple(
        slice(min(found[n][axis].start for n in kept), max(found[n][axis].stop for n in kept)) for axis in range(3)
    )
    mask = _on_side(np.isin(parts[box], kept), box, side, middle)
    return (mask, box) if mask.any() else (None, None)


def _on_side(inside: np.ndarray, box: Box, side: str | None, middle: float | None) -> np.ndarray:
    """Keep a part if it lies on this side; cut it at the midline if a good deal of it lies on both (horseshoe)."""
    if side is None or middle is None:
        return inside
    columns = np.arange(box[2].start, box[2].stop)
    here = columns > middle if side == "left" else columns <= middle
    share = inside[..., here].sum() / max(1, inside.sum())
    if share > 0.75:
        return inside
    if share < 0.25:
        return np.zeros_like(inside)
    return inside & here


def _linked(a: Box, b: Box, spacing_z_mm: float) -> bool:
    gap = max(a[0].start, b[0].start) - min(a[0].stop, b[0].stop)
    overlap = all(max(a[k].start, b[k].start) < min(a[k].stop, b[k].stop) for k in (1, 2))
    return overlap and 0 <= gap * spacing_z_mm < GAP_MM


def _largest(mask: np.ndarray) -> np.ndarray:
    parts, count = ndimage.label(mask)
    if count < 2:
        return mask
    return parts == np.bincount(parts.ravel())[1:].argmax() + 1


def _hits(mask: np.ndarray, box: Box, detection: Detection) -> bool:
    region = tuple(
        slice(max(0, w.start - b.start), max(0, min(w.stop, b.stop) - b.start))
        for w, b in zip(detection.where, box, strict=True)
    )
    return bool(mask[region].any())


def _flags(name: str, mask: np.ndarray, box: Box, count: int, ends: tuple[bool, bool], voxel_ml: float) -> list[str]:
    flags = []
    volume_ml = float(mask.sum()) * voxel_ml
    low, high = USUAL_ML.get(name, (0.0, np.inf))
    if not low <= volume_ml <= high:
        flags.append(f"unusual volume: {volume_ml:.0f} mL, usual {low:.0f} to {high:.0f} mL")
    shown = np.flatnonzero(mask.any((1, 2))) + box[0].start
    if (ends[0] and shown[0] == 0) or (ends[1] and shown[-1] == count - 1):
        flags.append("touches the end of the scan: part of it may be missing")
    return flags


def _disagreement(by_plane: dict[str, np.ndarray], mask: np.ndarray, box: Box) -> float | None:
    """1 − mean Dice between planes, near the organ."""
    if len(by_plane) < 2:
        return None
    near = ndimage.binary_dilation(mask, iterations=3)
    masks = [(volume[box] > 127) & near for volume in by_plane.values()]
    dice = [2 * (a & b).sum() / max(1, a.sum() + b.sum()) for a, b in combinations(masks, 2)]
    return round(float(1 - np.mean(dice)), 4)
