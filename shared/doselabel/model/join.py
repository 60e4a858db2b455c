"""From what was seen on slices to organs in 3D: sides, chains, agreement, summary. Knows arrays, no network.

Everything is in canonical orientation, where index x grows to the patient's left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np

from doselabel.model import flags as flagging
from doselabel.model.consensus import agree, fill_gaps, largest, paint, step_of
from doselabel.model.cross import dilated
from doselabel.model.doubt import band_entropy, dose_doubt_percent, slice_doubts, slice_sureness
from doselabel.model.edge import settled
from doselabel.model.flags import Found
from doselabel.model.network import class_groups
from doselabel.model.profiles import Profile
from doselabel.model.slices import PLANES
from doselabel.model.track import Box, Detection, around, follow, shifted, support_of
from doselabel.wire import OrganSegmentation

UNSURE_ML = 25.0
"""What never reached the seed score is kept, and flagged, from this size on; smaller, it is taken for an error."""

LEAD_MM = 20.0
"""A chain with less of sure slices leads only when no other has more."""

LEAST_SUPPORT = 0.3
"""A chain of which less lies in the leading one shows another organ."""

BONE_HU = 180.0


def join(
    detections: list[Detection],
    cuts: dict[str, list[int]],
    hu: np.ndarray,
    spacing_mm: tuple[float, float, float],
    profile: Profile,
    *,
    midline_box: Box,
    consensus: str = "mean",
    uptake: np.ndarray | None = None,
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
    uptake : (z, y, x) array, optional
        Of any unit: how much of it hangs on doubtful voxels is then told.

    Returns
    -------
    labels : (z, y, x) uint8 array
        Class indices of the profile.
    organs : dict
        Organ → summary; also those not found.
    flags : list of str
        Of the whole image.
    """
    labels = np.zeros(hu.shape, np.uint8)
    region = around([d.where for d in detections]) if detections else (slice(0, 0),) * 3
    strength = np.zeros([part.stop - part.start for part in region], np.uint8)
    voxel_ml = float(np.prod(spacing_mm)) / 1000
    steps = {plane: step_of(looked) for plane, looked in cuts.items()}
    middle = _midline(hu, detections, midline_box)
    found: dict[str, Found] = {}
    for group, members in class_groups(profile.classes).items():
        mine = [d for d in detections if d.group == group]
        for index in members:
            name = profile.classes[index - 1]
            seen = _on_side(mine, name.startswith("left"), middle) if len(members) > 1 else mine
            chains = _chains(seen, steps, hu, spacing_mm, profile.score_seed)
            organ = _organ(name, index, chains, steps, hu, spacing_mm, profile, consensus)
            if organ is None:
                continue
            best = max(d.score for d in organ.chain)
            if best < profile.score_seed and organ.mask.sum() * voxel_ml < UNSURE_ML:
                continue
            found[name] = _doubtful(organ, uptake, profile.score_seed)
            # The stronger of two organs that claim a voxel keeps it; a filled slice has no claim of its own.
            claim = np.where(organ.mask, np.maximum(organ.strength, 1), 0).astype(np.uint8)
            own = strength[shifted(organ.box, region)]
            wins = claim > own
            labels[organ.box][wins] = index
            own[wins] = claim[wins]
    placed, of_image = flagging.of_place(found, spacing_mm, middle)
    of_image = flagging.of_image(found, hu, spacing_mm, midline_box) + of_image
    organs: dict[str, OrganSegmentation] = {}
    for index, name in enumerate(profile.classes, start=1):
        if name not in found:
            organs[name] = OrganSegmentation(volume_ml=0.0, score=0.0, slices=0, flags=["not found: no mask was made"])
            continue
        organ = found[name]
        first_slice, sureness = _sureness_of(organ)
        organs[name] = OrganSegmentation(
            volume_ml=round(np.count_nonzero(labels[organ.box] == index) * voxel_ml, 2),
            score=float(np.mean([d.score for d in organ.chain])),
            slices=int(organ.mask.any((1, 2)).sum()),
            slices_interpolated=organ.filled,
            plane_disagreement=organ.disagreement,
            band_entropy=round(organ.entropy, 4),
            dose_doubt_percent=organ.dose_doubt_percent,
            first_slice=first_slice,
            sureness=sureness,
            doubts=list(organ.doubts),
            flags=flagging.of_organ(organ, hu, spacing_mm, profile.score_seed) + placed[name],
        )
    flags = of_image + [f"{name}: {flag}" for name, result in organs.items() for flag in result.flags]
    if not found:
        flags.insert(0, "NOTHING WAS FOUND: the label map is empty. Check that the CT shows kidneys or liver.")
    return labels, organs, flags


def _chains(
    seen: Sequence[Detection],
    steps: dict[str, int],
    hu: np.ndarray,
    spacing_mm: tuple[float, float, float],
    seed: float,
) -> dict[str, list[Detection]]:
    """The chain of each plane. The surest one leads: the others are followed again with regard to it."""
    by_plane = {plane: [d for d in seen if d.plane == plane] for plane in steps}
    chains = {plane: follow(own, hu, spacing_mm, seed) for plane, own in by_plane.items()}
    lead = max(chains, key=lambda plane: _sureness(chains[plane], steps[plane] * spacing_mm[PLANES[plane]], seed))
    for plane in set(chains) - {lead}:
        support = support_of(by_plane[plane], chains[lead], steps[lead])
        chain = follow(by_plane[plane], hu, spacing_mm, seed, support)
        # A plane that follows something else has lost the organ.
        chains[plane] = chain if chain and np.mean([support[id(d)] for d in chain]) > LEAST_SUPPORT else []
    return chains


def _sureness(chain: Sequence[Detection], step_mm: float, seed: float) -> tuple[bool, float]:
    if not chain:
        return False, 0.0
    sure_mm = step_mm * sum(d.score >= seed for d in chain)
    return sure_mm >= LEAD_MM, float(np.mean([d.score for d in chain]))


def _organ(
    name: str,
    index: int,
    chains: dict[str, list[Detection]],
    steps: dict[str, int],
    hu: np.ndarray,
    spacing_mm: tuple[float, float, float],
    profile: Profile,
    consensus: str,
) -> Found | None:
    """Make one organ of the chains of all planes."""
    own = [d for chain in chains.values() for d in chain]
    if not own:
        return None
    region = around([d.where for d in own])
    by_plane = {}
    for plane, chain in chains.items():
        volume, known = paint(chain, plane, steps[plane], region)
        # Before they agree: HU settle where each plane's border lies, not what two planes decided against one.
        if chain:
            volume = settled(volume, hu[region], spacing_mm)
        by_plane[plane] = volume, known
    agreed = agree(by_plane, consensus)
    if not (agreed > 127).any():
        return None
    mask, filled = fill_gaps(agreed > 127, spacing_mm[0], how=profile.gap_fill)
    mask = largest(mask)
    disagreement = _disagreement([volume > 127 for volume, _ in by_plane.values()], mask)
    return Found(name, index, region, mask, agreed, own, filled, disagreement)


def _doubtful(organ: Found, uptake: np.ndarray | None, seed: float) -> Found:
    entropy, band = band_entropy(organ.strength, organ.mask)
    mean = float(entropy.mean()) if entropy.size else 0.0
    doubt = None if uptake is None else dose_doubt_percent(entropy, band, organ.mask, uptake[organ.box])
    first = organ.box[0].start
    filled = organ.mask.any(axis=(1, 2)) & ~(organ.strength > 127).any(axis=(1, 2))
    scores = {d.index - first: d.score for d in organ.chain if d.plane == "axial"}
    return replace(
        organ,
        entropy=mean,
        dose_doubt_percent=None if doubt is None else round(doubt, 2),
        sureness=slice_sureness(scores, filled),
        doubts=tuple(slice_doubts(organ.mask, filled, scores, seed, first)),
    )


def _sureness_of(organ: Found) -> tuple[int, list[float]]:
    """The first slice of an organ, and how sure the outline is from there on."""
    first, last = organ.range_of(0)
    start = organ.box[0].start
    assert organ.sureness is not None
    return first, [round(float(v), 3) for v in organ.sureness[first - start : last - start + 1]]


def _midline(hu: np.ndarray, seen: list[Detection], box: Box) -> float:
    """Index x of the spine: the median of bone in the back half of the body at the organ's height, else its middle."""
    middle = (box[2].start + box[2].stop - 1) / 2
    heights = [d.index for d in seen if d.plane == "axial"]
    if not heights:
        return middle
    back = slice((box[1].start + box[1].stop) // 2, box[1].stop)
    columns = (hu[min(heights) : max(heights) + 1 : 2, back, box[2]] > BONE_HU).sum((0, 1))
    if columns.sum() < 200:
        return middle
    return float(box[2].start + np.searchsorted(columns.cumsum(), columns.sum() / 2))


def _on_side(seen: Sequence[Detection], left: bool, middle: float) -> list[Detection]:
    """Those on one side of the midline; one that has a good part on both is cut there (horseshoe)."""
    kept = []
    for d in seen:
        columns = np.arange(d.where[2].start, d.where[2].stop)
        here = columns > middle if left else columns <= middle
        mask = d.values > 127
        share = mask[..., here].sum() / max(1, mask.sum())
        if share > 0.75:
            kept.append(d)
        elif share >= 0.25:
            kept.append(replace(d, values=np.where(here, d.values, 0).astype(np.uint8)))
    return kept


def _disagreement(planes: list[np.ndarray], mask: np.ndarray) -> float | None:
    """1 − mean Dice between planes, near the organ."""
    if len(planes) < 2:
        return None
    near = dilated(mask, 3)
    planes = [plane & near for plane in planes]
    dice = [2 * (a & b).sum() / max(1, a.sum() + b.sum()) for a, b in combinations(planes, 2)]
    return round(float(1 - np.mean(dice)), 4)
