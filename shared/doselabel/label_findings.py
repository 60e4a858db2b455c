"""What is odd about a label map: sides, volumes, tissue. Knows organs' places; reads no files, changes no map.

Findings are `doselabel.alarms.Alarm`s. They are made where a map is read (`doselabel.labels.read_labels`), so that
every way in says the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from scipy import ndimage

from doselabel.alarms import Alarm, finding
from doselabel.anatomy import ACROSS_MM, BODY_HU, OFF_MIDDLE_MM, Region, filled, middle_x_mm
from doselabel.geometry import Volume, oriented

POSSIBLE_ML: Mapping[str, tuple[float, float]] = {
    "left_kidney": (30.0, 700.0),
    "right_kidney": (30.0, 700.0),
    "liver": (300.0, 6000.0),
    "spleen": (15.0, 5000.0),
    "tumour": (0.0, 3000.0),
}
"""Wide bounds of whole organs, diseased ones included; outside, a mask stands for something else."""
USUAL_ML: Mapping[str, tuple[float, float]] = {
    "left_kidney": (60.0, 400.0),
    "right_kidney": (60.0, 400.0),
    "liver": (700.0, 3500.0),
    "spleen": (40.0, 1000.0),
}
"""About a third to two and a half times the reference adults of ICRP 89 (2002), table 2.8; the spleen, which varies
most, up to six times."""
LEFT, RIGHT = ("left_kidney", "spleen"), ("right_kidney", "liver")
SOLID = ("left_kidney", "right_kidney", "liver", "spleen")
APART_MM = 90.0
"""Large pieces of one organ lie closer together, left to right."""
MOST_AIR, MOST_OUTSIDE = 0.2, 0.1
"""Parts of a mask that breathing and coarse voxels leave on lung, or beyond the skin."""
TISSUE_HU = (-50.0, 400.0)
"""Mean of a solid organ, from a fatty liver to the arterial phase."""
_SLICES = 24
_MOST_SAMPLES = 1 << 20

CONTRADICTIONS = ("label-sides-exchanged", "label-wrong-side", "label-volume-implausible")
"""What speaks against values being the organs that they are taken for."""


def findings(regions: Mapping[str, Region], ct: Volume | None = None) -> list[Alarm]:
    """What is odd about masks.

    Parameters
    ----------
    regions : dict of str to Region
        By the names of our table; others are looked at for their tissue alone.
    ct : Volume, optional
        The CT they were drawn on, HU; tells the body's middle, air and skin. Taken for a CT of the masks' grid only.

    Returns
    -------
    list of Alarm
        Empty when nothing is.
    """
    if not regions:
        return []
    grid = next(iter(regions.values())).geometry
    if ct is not None and not ct.geometry.same_place(grid):
        ct = None
    middle_mm = middle_x_mm(ct) if ct is not None else None
    found = [*_sides(regions, middle_mm), *_extents(regions), *_volumes(regions)]
    return found if ct is None else [*found, *_tissues(regions, ct)]


def lone(regions: Mapping[str, Region]) -> str:
    """The name of a mask that is the only one and could be anything; "" when there are more, or it is a liver."""
    return next(iter(regions)) if len(regions) == 1 and "liver" not in regions else ""


def contradictions(found: list[Alarm], *, stated: bool) -> list[Alarm]:
    """Findings that speak against a numbering: something else has these values.

    Where the numbering was ``stated``, an organ that is too small is none: lesions with values of their own may have
    taken its place.
    """

    def small(alarm: Alarm) -> bool:
        return "least_ml" in alarm.numbers and alarm.numbers["volume_ml"] < alarm.numbers["least_ml"]

    return [alarm for alarm in found if alarm.code in CONTRADICTIONS and not (stated and small(alarm))]


# ---- sides


def _sides(regions: Mapping[str, Region], body_mm: float | None) -> Iterator[Alarm]:
    """Organs in the wrong order from right to left, or on the wrong side of the body's middle."""
    x_mm = {name: regions[name].centre_x_mm for name in SOLID if name in regions}
    exchanged = "left_kidney" in x_mm and "right_kidney" in x_mm and x_mm["left_kidney"] <= x_mm["right_kidney"]
    middle_mm = body_mm
    if middle_mm is None and "left_kidney" in x_mm and "right_kidney" in x_mm:
        middle_mm = (x_mm["left_kidney"] + x_mm["right_kidney"]) / 2
    others = [name for name in x_mm if not (exchanged and name.endswith("kidney"))]
    wrong = {} if middle_mm is None else {name: _wrong_by(name, x_mm[name] - middle_mm) for name in others}
    wrong = {name: by for name, by in wrong.items() if by > OFF_MIDDLE_MM}
    if exchanged:
        apart = x_mm["right_kidney"] - x_mm["left_kidney"]
        all_else = bool(others) and len(wrong) == len(others)
        mirrored = " Liver and spleen, too, are on the other side: the map or its CT is mirrored, or the patient is."
        yield finding(
            "label-sides-exchanged",
            f"Left kidney lies {apart:.0f} mm to the patient's right of right kidney: the names are exchanged, or the "
            f"image is mirrored.{mirrored if all_else else ''}",
            numbers={"apart_mm": apart},
        )
        if all_else:
            return
    for name, by in wrong.items():
        of = "the body's middle" if body_mm is not None else "the middle between the kidneys"
        yield finding(
            "label-wrong-side",
            f"{_title(name)} lies {by:.0f} mm to the patient's {'right' if name in LEFT else 'left'} of {of}.",
            numbers={"beyond_middle_mm": by},
            organ=name,
        )
    for left, right in (("spleen", "liver"), ("left_kidney", "liver"), ("spleen", "right_kidney")):
        pair = left in others and right in others and not {left, right} & set(wrong)
        if pair and x_mm[left] <= x_mm[right]:
            apart = x_mm[right] - x_mm[left]
            yield finding(
                "label-wrong-side",
                f"{_title(left)} lies {apart:.0f} mm to the patient's right of {_title(right).lower()}.",
                numbers={"apart_mm": apart},
                organ=left,
            )


def _wrong_by(name: str, left_of_middle_mm: float) -> float:
    return -left_of_middle_mm if name in LEFT else left_of_middle_mm


def _extents(regions: Mapping[str, Region]) -> Iterator[Alarm]:
    """An organ whose mask holds more than one organ: on both sides of the body."""
    for name in SOLID:
        if name not in regions:
            continue
        pieces = regions[name].large_pieces_x_mm
        apart = pieces[-1] - pieces[0]
        if apart > APART_MM:
            yield finding(
                "label-wrong-side",
                f"{_title(name)} has large pieces {apart:.0f} mm apart, left to right: more than one organ.",
                numbers={"apart_mm": apart},
                organ=name,
            )
        elif name.endswith("_kidney") and (width := regions[name].width_mm) > ACROSS_MM:
            yield finding(
                "label-wrong-side",
                f"{_title(name)} is {width:.0f} mm wide, left to right: both kidneys, or more than a kidney.",
                numbers={"width_mm": width},
                organ=name,
            )


# ---- volumes


def _volumes(regions: Mapping[str, Region]) -> Iterator[Alarm]:
    for name, region in regions.items():
        if name not in POSSIBLE_ML:
            continue
        ml, cut = region.volume_ml, region.cut
        low, high = POSSIBLE_ML[name]
        usual = USUAL_ML.get(name, (0.0, np.inf))
        if ml > high or (ml < low and not cut):
            yield finding(
                "label-volume-implausible",
                f"{_title(name)} has {ml:.{0 if ml >= 10 else 1}f} mL; whole ones have {low:.0f} to {high:.0f} mL.",
                numbers={"volume_ml": ml, "least_ml": low, "most_ml": high},
                organ=name,
            )
        elif ml > usual[1] or (ml < usual[0] and not cut):
            yield finding(
                "label-volume-unusual",
                f"{_title(name)} has {ml:.0f} mL; usual are {usual[0]:.0f} to {usual[1]:.0f} mL.",
                numbers={"volume_ml": ml, "least_ml": usual[0], "most_ml": usual[1]},
                organ=name,
            )
        if cut and name in SOLID:
            yield finding(
                "label-cut",
                f"{_title(name)} ends at the image's edge, with {ml:.0f} mL inside.",
                numbers={"volume_ml": ml},
                organ=name,
            )


# ---- tissue


def _tissues(regions: Mapping[str, Region], ct: Volume) -> Iterator[Alarm]:
    outside = _outside(regions, ct)
    for name, region in regions.items():
        if outside.get(name, 0.0) > MOST_OUTSIDE:
            yield finding(
                "label-outside-body",
                f"{_title(name)} lies outside the body, {outside[name]:.0%} of it.",
                numbers={"outside_percent": 100 * outside[name]},
                organ=name,
            )
            continue
        hu = ct.array[region.box][region.mask]
        hu = hu[:: max(1, hu.size // _MOST_SAMPLES)]
        air, mean = float((hu < BODY_HU).mean()), float(hu.mean(dtype=np.float64))
        odd = name in SOLID and not TISSUE_HU[0] <= mean <= TISSUE_HU[1]
        if air > MOST_AIR or odd:
            yield finding(
                "label-wrong-tissue",
                f"{_title(name)} lies on {mean:.0f} HU on average, {air:.0%} of it on air or lung.",
                numbers={"mean_hu": mean, "air_percent": 100 * air},
                organ=name,
            )


def _outside(regions: Mapping[str, Region], ct: Volume) -> dict[str, float]:
    """Part of every solid organ that lies outside the body, judged by some axial slices."""
    solid = {name: region for name, region in regions.items() if name in SOLID}
    if not solid:
        return {}
    array = np.zeros(ct.array.shape, np.uint8)
    for number, region in enumerate(solid.values(), start=1):
        array[region.box][region.mask] = number
    upright, hu = oriented(Volume(array, ct.geometry)).array, oriented(ct).array
    there = np.flatnonzero([plane[::4, ::4].any() for plane in upright])
    inside, total = np.zeros(len(solid) + 1), np.zeros(len(solid) + 1)
    step = max(1, round(min(upright.shape[1:]) / 192))
    for z in there[:: max(1, len(there) // _SLICES)]:
        body = _body(hu[z, ::step, ::step])
        drawn = upright[z, ::step, ::step]
        total += np.bincount(drawn.ravel(), minlength=total.size)
        inside += np.bincount(drawn[body], minlength=total.size)
    return {
        name: float(1 - inside[number] / total[number])
        for number, name in enumerate(solid, start=1)
        if total[number] > 0
    }


def _body(plane: np.ndarray) -> np.ndarray:
    """The largest thing in an axial plane that is no air, with what it encloses."""
    things, count = ndimage.label(plane > BODY_HU)
    if not count:
        return np.zeros(plane.shape, bool)
    sizes = np.bincount(things.ravel())
    sizes[0] = 0
    return filled(things == sizes.argmax())


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize()
