"""What a reader must know of a segmentation: each flag is a code and a sentence with numbers. Knows arrays, no network.

Flags name what is wrong and change nothing. Their limits leave room around what was measured on 28 abdominal CTs
with labels (20 by experts): kidneys 90–145 mm long, at least 19 mm from the midline, their tops at least 24 mm above
the liver's lower end; the liver's centre 47–81 mm right of the midline; fat at −114 to −77 HU; bone at most 8 % of
the body. Everything is in canonical orientation: x grows to the patient's left, y to posterior, z to inferior.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import ndimage
from scipy.signal import find_peaks

from doselabel.model.track import Box, Detection
from doselabel.wire import SliceDoubt

CODES = {
    "not found": "the organ was not seen, or too little and too unsurely",
    "unusual volume": "outside USUAL_ML",
    "end of scan": "the organ touches the first or last slice",
    "side of the field of view": "the organ touches the edge of what was reconstructed, in plane",
    "low confidence": "no detection reached the profile's seed score",
    "side conflict": "the network takes a kidney for the other side's; its place in the body decided",
    "interpolated": "slices that nothing was seen on were filled",
    "planes disagree": "1 − mean Dice between planes above DISAGREE",
    "unusual length": "a kidney's length from pole to pole outside USUAL_MM",
    "asymmetry": "the kidneys differ much in length or volume",
    "crosses the midline": "a kidney reaches the spine's middle: a horseshoe kidney, or an error",
    "low position": "a kidney lies below the liver, or far below the other one: a pelvic kidney, or an error",
    "mirrored": "the liver lies on the left",
    "upside down": "the kidneys lie above the liver",
    "intensity": "fat and soft tissue, or air, are not at their HU: a wrong slope or intercept",
    "unenhanced": "kidneys without contrast: informative, the model is less sure there",
    "not an abdomen": "too much bone, too narrow a body, or no kidney at all",
}

USUAL_ML = {"left_kidney": (60.0, 400.0), "right_kidney": (60.0, 400.0), "liver": (600.0, 3500.0)}
USUAL_MM = (75.0, 160.0)
"""Length of a kidney from pole to pole."""

UNEQUAL_MM, UNEQUAL_RATIO = 35.0, 2.2
DISAGREE = 0.15
MIDLINE_MM = 8.0
LOWER_MM = 80.0
"""A kidney's centre this far below the other's lies low."""

UNENHANCED_HU = 60.0
SOLID_BONE_HU = 250.0
"""Above enhanced kidneys and vessels."""

BONY, NARROW_MM = 0.10, 250.0
FAT_HU = (-140.0, -62.0)
APART_HU = (122.0, 250.0)
"""From the peak of fat to that of soft tissue, which lies between 20 and 130 HU with contrast."""

TOUCH_MM2 = 60.0


@dataclass(frozen=True)
class Found:
    """One organ in 3D.

    Attributes
    ----------
    name : str
    index : int
        Its class.
    box : tuple of slice
        Where in the image the arrays lie.
    mask : bool array
    strength : uint8 array
        Probability, 255 is certain.
    chain : list of Detection
        What it was made of.
    filled : int
        Slices that no plane saw.
    disagreement : float or None
        1 − mean Dice between planes, near the organ.
    entropy : float
        Mean entropy (bits) of the probability in a band around the outline.
    dose_doubt_percent : float or None
        How much of the organ's uptake hangs on doubtful voxels; None without an uptake.
    sureness : (z,) array or None
        Score of what was seen on each slice of the box; 0 where nothing was.
    doubts : tuple of SliceDoubt
        Slices to look at, in the image's own count.
    """

    name: str
    index: int
    box: Box
    mask: np.ndarray
    strength: np.ndarray
    chain: list[Detection]
    filled: int
    disagreement: float | None
    entropy: float = 0.0
    dose_doubt_percent: float | None = None
    sureness: np.ndarray | None = None
    doubts: tuple[SliceDoubt, ...] = ()

    def centre(self, spacing_mm: Sequence[float]) -> np.ndarray:
        """Centre (z, y, x) in mm from the image's first voxel."""
        return np.array(
            [
                (np.average(np.arange(part.start, part.stop), weights=_profile(self.mask, axis))) * mm
                for axis, (part, mm) in enumerate(zip(self.box, spacing_mm, strict=True))
            ]
        )

    def range_of(self, axis: int) -> tuple[int, int]:
        """First and last index along an axis."""
        shown = np.flatnonzero(_profile(self.mask, axis)) + self.box[axis].start
        return int(shown[0]), int(shown[-1])


def of_organ(found: Found, hu: np.ndarray, spacing_mm: tuple[float, float, float], seed: float) -> list[str]:
    """Flags of one organ by itself."""
    name, flags = found.name, []
    volume_ml = float(found.mask.sum()) * float(np.prod(spacing_mm)) / 1000
    low, high = USUAL_ML.get(name, (0.0, np.inf))
    if not low <= volume_ml <= high:
        flags.append(_flag("unusual volume", f"{volume_ml:.0f} mL, usual {low:.0f} to {high:.0f} mL"))
    first, last = found.range_of(0)
    for at, end in ((first == 0, "upper"), (last == hu.shape[0] - 1, "lower")):
        if at:
            flags.append(_flag("end of scan", f"it touches the {end} end of the scan: part of it may be missing"))
    flags += _cut_at_sides(found, hu, spacing_mm)
    best = max(d.score for d in found.chain)
    if best < seed:
        flags.append(_flag("low confidence", f"best score {best:.2f}, sure from {seed:.2f} on"))
    across = [d for d in found.chain if d.plane != "sagittal"]
    wrong, total = sum(d.score for d in across if d.label != found.index), sum(d.score for d in across)
    if "kidney" in name and wrong > 0.5 * total:
        other = f"the network takes {100 * wrong / total:.0f} % of it for the other side"
        flags.append(_flag("side conflict", f"{other}; its place in the body decided"))
    if found.filled:
        flags.append(_flag("interpolated", f"{found.filled} slice(s) filled by interpolation"))
    if found.disagreement is not None and found.disagreement > DISAGREE:
        flags.append(_flag("planes disagree", f"by {found.disagreement:.2f} (1 − mean Dice), usual up to {DISAGREE}"))
    if "kidney" in name:
        length_mm = _length_mm(found, spacing_mm)
        if not USUAL_MM[0] <= length_mm <= USUAL_MM[1]:
            usual = f"usual {USUAL_MM[0]:.0f} to {USUAL_MM[1]:.0f} mm"
            flags.append(_flag("unusual length", f"{length_mm:.0f} mm from pole to pole, {usual}"))
    return flags


def of_place(
    found: Mapping[str, Found], spacing_mm: tuple[float, float, float], middle: float
) -> tuple[dict[str, list[str]], list[str]]:
    """Flags of how organs lie to each other and to the midline (index x ``middle``): by organ, and of the image."""
    kidneys = {name: organ for name, organ in found.items() if "kidney" in name}
    liver = found.get("liver")
    own: dict[str, list[str]] = {name: [] for name in found}
    image: list[str] = []
    centres = {name: organ.centre(spacing_mm) for name, organ in found.items()}
    for name, organ in kidneys.items():
        first, last = organ.range_of(2)
        gap_mm = (first - middle if name.startswith("left") else middle - last) * spacing_mm[2]
        if gap_mm < MIDLINE_MM:
            own[name].append(_flag("crosses the midline", f"it comes within {max(gap_mm, 0.0):.0f} mm of it"))
        others = [centres[other][0] for other in kidneys if other != name]
        below_mm = max((centres[name][0] - other for other in others), default=0.0)
        if below_mm > LOWER_MM:
            own[name].append(_flag("low position", f"its centre lies {below_mm:.0f} mm below the other kidney's"))
        elif liver is not None and (under := organ.range_of(0)[0] - liver.range_of(0)[1]) > 0:
            text = f"its top lies {under * spacing_mm[0]:.0f} mm below the liver's lower end"
            own[name].append(_flag("low position", text))
    if len(kidneys) == 2:
        a, b = (kidneys[name] for name in sorted(kidneys))
        lengths = [_length_mm(organ, spacing_mm) for organ in (a, b)]
        volumes = [float(organ.mask.sum()) * float(np.prod(spacing_mm)) / 1000 for organ in (a, b)]
        if abs(lengths[0] - lengths[1]) > UNEQUAL_MM or max(volumes) > UNEQUAL_RATIO * min(volumes):
            text = " and ".join(f"{mm:.0f} mm, {ml:.0f} mL" for mm, ml in zip(lengths, volumes, strict=True))
            image.append(_flag("asymmetry", f"the left and right kidney measure {text}"))
    if liver is not None:
        left_mm = centres["liver"][2] - middle * spacing_mm[2]
        if left_mm > 0:
            text = f"the liver's centre lies {left_mm:.0f} mm left of the midline: is the image flipped in its header?"
            image.append(_flag("mirrored", text))
        above_mm = centres["liver"][0] - np.mean([centres[name][0] for name in kidneys]) if kidneys else 0.0
        if above_mm > 20:
            image.append(
                _flag(
                    "upside down", f"the kidneys lie {above_mm:.0f} mm above the liver: is the order of slices right?"
                )
            )
    return own, image


def of_image(
    found: Mapping[str, Found], hu: np.ndarray, spacing_mm: tuple[float, float, float], body: Box
) -> list[str]:
    """Flags of the image: its intensities, its contrast, and whether it shows an abdomen at all."""
    flags = _intensity(hu)
    kidneys = [organ for name, organ in found.items() if "kidney" in name]
    medians = [float(np.median(hu[organ.box][organ.mask])) for organ in kidneys]
    if medians and max(medians) < UNENHANCED_HU and not flags:
        text = " and ".join(f"{value:.0f}" for value in medians)
        flags.append(_flag("unenhanced", f"the kidneys' median is {text} HU; with contrast it is above 60 HU"))
    if found:
        low = min(organ.range_of(0)[0] for organ in found.values())
        high = max(organ.range_of(0)[1] for organ in found.values())
        part = hu[slice(low, high + 1, max(1, (high - low) // 60)), body[1], body[2]][:, ::2, ::2]
        tissue = max(1, int((part > max(-200.0, float(part.min()))).sum()))
        bone = int((part > SOLID_BONE_HU).sum()) / tissue
        width_mm = (body[2].stop - body[2].start) * spacing_mm[2]
        depth_mm = (body[1].stop - body[1].start) * spacing_mm[1]
        narrow = width_mm < NARROW_MM
        if (bone > BONY and (narrow or not kidneys)) or (narrow and not kidneys):
            text = f"{100 * bone:.0f} % of the body is bone, it is {width_mm:.0f} mm wide and {depth_mm:.0f} mm deep"
            text += ", no kidney was found" if not kidneys else ""
            flags.append(_flag("not an abdomen", f"{text}: do not use what was found"))
    return flags


def _intensity(hu: np.ndarray) -> list[str]:
    """Look whether fat, soft tissue and air are where they must be."""
    sample = hu[tuple(slice(None, None, max(1, n // 128)) for n in hu.shape)].astype(np.float32).ravel()
    low, high = float(sample.min()), float(sample.max())
    inside = sample[
        (sample > low) & (sample < high)
    ]  # where HU are known in a window only, its ends stand for all else
    if inside.size < 1000:
        return []
    counts, _ = np.histogram(inside, bins=800, range=(-400.0, 400.0))
    smooth = ndimage.gaussian_filter1d(counts.astype(float), 8.0)
    peaks, _ = find_peaks(smooth, prominence=0.03 * smooth.max())
    places = peaks - 399.5
    soft, fat = places[places > 5], places[(places < -20) & (places > -300)]
    if soft.size and fat.size:
        soft_hu = float(soft[np.argmax(smooth[peaks][places > 5])])
        fat_hu = float(fat[np.argmax(smooth[peaks][(places < -20) & (places > -300)])])
        apart = soft_hu - fat_hu
        found = f"fat peaks at {fat_hu:.0f} HU (usual about −100) and soft tissue at {soft_hu:.0f} HU (usual 20 to 130)"
        if fat_hu > FAT_HU[1] and apart < APART_HU[0]:
            return [_flag("intensity", f"{found}: the slope seems too small, by about {-100 / fat_hu:.1f} times")]
        if fat_hu < FAT_HU[0] and apart > APART_HU[1]:
            return [_flag("intensity", f"{found}: the slope seems too large, by about {fat_hu / -100:.1f} times")]
        return []
    air = inside[inside < -300]
    if air.size > 0.05 * inside.size:
        counts, edges = np.histogram(air, bins=60, range=(-1500.0, -300.0))
        air_hu = float(edges[counts.argmax()] + 10)
        if -650 < air_hu < -400:
            return [_flag("intensity", f"air peaks at {air_hu:.0f} HU (usual about −1000): the slope seems too small")]
    return []


def _cut_at_sides(found: Found, hu: np.ndarray, spacing_mm: tuple[float, float, float]) -> list[str]:
    """Where the mask touches the image's edge in plane, or air that reaches from outside (a round field of view)."""
    sides = {"front": (1, 0), "back": (1, -1), "right": (2, 0), "left": (2, -1)}
    flags = []
    for side, (axis, end) in sides.items():
        edge = 0 if end == 0 else hu.shape[axis] - 1
        first, last = found.range_of(axis)
        if edge not in (first, last):
            continue
        other_mm = spacing_mm[3 - axis] * spacing_mm[0]
        area_mm2 = float(np.take(found.mask, edge - found.box[axis].start, axis).sum()) * other_mm
        if area_mm2 >= TOUCH_MM2:
            text = f"{area_mm2:.0f} mm² of it lie at the image's {side} edge: part of it is missing"
            flags.append(_flag("side of the field of view", text))
    if flags or float(hu.min()) > -800:
        return flags
    touching = 0
    for z in range(found.mask.shape[0]):
        if not found.mask[z].any():
            continue
        air = hu[found.box[0].start + z] < -800
        parts, _ = ndimage.label(air)
        rim = np.unique(np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]]))
        near = ndimage.binary_dilation(found.mask[z], iterations=2)
        touching += int(np.isin(parts[found.box[1:]][near], rim[rim > 0]).sum())
    area_mm2 = touching / 2 * spacing_mm[0] * spacing_mm[2]
    if area_mm2 >= 5 * TOUCH_MM2:
        text = f"about {area_mm2:.0f} mm² of it lie at the edge of the reconstructed field: part of it is missing"
        flags.append(_flag("side of the field of view", text))
    return flags


def _length_mm(found: Found, spacing_mm: Sequence[float]) -> float:
    """Extent along the longest principal axis."""
    points = np.argwhere(found.mask) * np.asarray(spacing_mm)
    if len(points) < 10:
        return 0.0
    points = points - points.mean(0)
    along = points @ np.linalg.eigh(np.cov(points.T))[1][:, -1]
    return float(along.max() - along.min())


def _profile(mask: np.ndarray, axis: int) -> np.ndarray:
    return mask.sum(axis=tuple(k for k in range(3) if k != axis))


def _flag(code: str, sentence: str) -> str:
    if code not in CODES:
        raise KeyError(code)
    return f"{code}: {sentence}"
