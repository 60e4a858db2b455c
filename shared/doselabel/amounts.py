"""Whether the activity in a study's SPECTs can be what is left of the injected: too much, too little, and why.

Knows figures of images and a nuclide's half-life. What the limits rest on:

- *Never more than injected.* A field of view holds at most the injected activity, decayed.
- *Not too little.* Within 6 h most of the activity is in the trunk (of 177Lu-DOTATATE some 40 % in 40 cm), a third of
  it at 24 h, a fifth at 72 h. The floors lie far below: liver, kidneys and spleen of a patient of low uptake, without
  the rest of the body, hold 4.2 % at 4 h, 3.5 % at 24 h, 1.1 % at 168 h. Where the images are shorter than `TRUNK_MM`
  the floors are lowered in proportion. One SPECT a little below its floor is a warning, for it may be such a patient;
  the same in several SPECTs, or less than `SURELY_TOO_LOW` of the floor, is an alarm.
- *The whole body*, where it is in view, holds all of the injection until it is voided: floors of its own, which see a
  calibration that is a third too low. A trunk can't tell that: patients differ by a factor of three.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from doselabel.alarms import Alarm, finding
from doselabel.nuclides import Nuclide
from doselabel.spect_figures import HOT_ML, WARM_ML, Seen

LARGEST_SHARE = 1.05
"""Of the injected activity, decayed: one, and the calibration's error."""
SMALLEST_SHARE = ((1.0, 0.06), (4.0, 0.04), (24.0, 0.03), (72.0, 0.02), (168.0, 0.008))
"""(h, share of the injected activity, decayed) below which nothing explains a trunk; in between by logarithms."""
TRUNK_MM = 280.0
TYPICAL_SHARE, TYPICAL_HOT_PER_ML = 0.15, 6e-5
"""Share of the injected activity in the field, and per mL of the hottest 200 mL: what a slip of units is named by."""
EXPLAINED, RARE = 0.9, 0.75
"""How far (logarithm) a slip may leave both from typical, for it to be named: patients differ by a factor of 2.5; and
by how much a slip that is hardly ever made must explain better than a usual one."""
UNUSUAL_HOT_PER_ML, UNUSUAL_WARM_PER_ML = 1e-4, 3e-5
"""Two kidneys of 0.9 Gy/GBq hold the former; published means are 0.37 to 0.6. Tumours reach it, so it is a warning;
where also the hottest 1.2 L, most of them liver, hold the latter (a liver of 0.3 Gy/GBq), it is the calibration or a
liver full of tumour."""
WHOLE_BODY_MM = 1400.0
WHOLE_BODY_SHARE = ((1.0, 0.7), (4.0, 0.3), (24.0, 0.12), (72.0, 0.06), (168.0, 0.03))
"""From head to thigh: 58 % of 177Lu-DOTATATE are voided within a day, half of that in 6 h; at most twice as much is."""
SURELY_TOO_LOW = 0.7
USUAL_INJECTED_MBQ = (1000.0, 12000.0)
"""Of 177Lu in a cycle of therapy."""


def floor(scan: Seen, nuclide: Nuclide) -> float:
    """The smallest share that can be: of other nuclides than 177Lu little is known, remnants of thyroid keep 1 %."""
    times, floors = zip(*(WHOLE_BODY_SHARE if scan.length_mm >= WHOLE_BODY_MM else SMALLEST_SHARE), strict=True)
    share = float(np.exp(np.interp(np.log(scan.time_h), np.log(times), np.log(floors))))
    return share * min(1.0, scan.length_mm / TRUNK_MM) * (1.0 if nuclide.name == "Lu-177" else 0.05)


def amounts(
    scans: Sequence[Seen], shares: Sequence[float], nuclide: Nuclide, injected_mbq: float, *, together: bool
) -> list[Alarm]:
    """What is said of totals that can't be, or are unusual; ``together``: they fall as one patient's do."""
    above = [i for i, share in enumerate(shares) if share > LARGEST_SHARE]
    below = [i for i, (scan, share) in enumerate(zip(scans, shares, strict=True)) if share < floor(scan, nuclide)]
    per_ml = [math.exp(nuclide.decay_constant_per_h * s.time_h) / (injected_mbq * 1e6) for s in scans]
    hot = [s.hot_bq_ml * unit for s, unit in zip(scans, per_ml, strict=True)]
    wrong = above or below
    if not wrong:
        warm = [s.warm_bq_ml * unit for s, unit in zip(scans, per_ml, strict=True)]
        return _unusual(scans, hot, warm) if nuclide.name == "Lu-177" else []
    whole_study = len(scans) == 1 or (len(below) == len(scans) and all(s.whole for s in scans)) or together
    if len(below) == 1 and not above and not scans[below[0]].whole:
        scan, share = scans[below[0]], shares[below[0]]
        if share >= SURELY_TOO_LOW * floor(scan, nuclide):
            return [_low(scan, share, floor(scan, nuclide))]
    if above and nuclide.name == "Lu-177" and (unit := _unit_of_injected(shares, injected_mbq)):
        return [unit]
    groups = [list(range(len(scans)))] if whole_study else [[i] for i in wrong]
    return [
        _slip(
            [scans[i] for i in group], [shares[i] for i in group], [hot[i] for i in group], nuclide, injected_mbq,
            name_it=whole_study or shares[group[0]] < 0.2 * floor(scans[group[0]], nuclide) or bool(above),
        )
        for group in groups
    ]  # fmt: skip


def _low(scan: Seen, share: float, least: float) -> Alarm:
    sentence = (
        f"time_points[{scan.index}].spect ({scan.file}) holds {scan.total_mbq:.3g} MBq at {scan.time_h:g} h, "
        f"{share:.2%} of what is left of the injected activity; at least {least:.2%} are expected. A patient of low "
        "uptake, or a scale too small."
    )
    numbers = {"share_of_injected": share, "least_share": least}
    return finding("activity-unusually-low", sentence, numbers=numbers, time_point=scan.index, file=scan.file)


def _unit_of_injected(shares: Sequence[float], injected_mbq: float) -> Alarm | None:
    """Totals too large for an injected activity that is none in MBq, and would be a usual one in GBq or mCi."""
    low, high = USUAL_INJECTED_MBQ
    for unit, factor in (("GBq", 1000.0), ("mCi", 37.0)):
        if not low <= injected_mbq and low <= factor * injected_mbq <= high and max(shares) / factor <= LARGEST_SHARE:
            sentence = (
                f"The SPECTs hold up to {max(shares):.3g} times what is left of the {injected_mbq:g} MBq injected; "
                f"they fit if that is {injected_mbq:g} {unit} ({factor * injected_mbq:g} MBq)."
            )
            return finding("injected-activity-unit", sentence, numbers={"factor": factor, "share": max(shares)})
    return None


def _unusual(scans: Sequence[Seen], hot: Sequence[float], warm: Sequence[float]) -> list[Alarm]:
    most = int(np.argmax(hot))
    if hot[most] <= UNUSUAL_HOT_PER_ML:
        return []
    scan, everywhere = scans[most], warm[most] > UNUSUAL_WARM_PER_ML
    sentence = (
        f"time_points[{scan.index}].spect ({scan.file}): the hottest {HOT_ML:g} mL hold {1e5 * hot[most]:.1f}·10⁻⁵ "
        "of the injected activity per mL and more, kidneys and spleen usually 2 to 8·10⁻⁵"
    )
    if everywhere:
        sentence += (
            f", and the hottest {WARM_ML:g} mL, as large as a liver, {1e5 * warm[most]:.1f}·10⁻⁵, usually below "
            "3·10⁻⁵: the calibration is too high, about threefold, or much of the liver is tumour."
        )
    else:
        sentence += ": much tumour, or a calibration that is too high."
    numbers = {"hot_share_per_ml": hot[most], "warm_share_per_ml": warm[most]}
    code = "activity-high-everywhere" if everywhere else "activity-unusually-high"
    return [finding(code, sentence, numbers=numbers, time_point=scan.index, file=scan.file)]


def _slip(
    scans: Sequence[Seen], shares: Sequence[float], hot: Sequence[float], nuclide: Nuclide, injected_mbq: float,
    *, name_it: bool
) -> Alarm:  # fmt: skip
    """The alarm for an amount that can't be, named by the slip of units that explains it best."""
    share, per_ml, above = float(np.median(shares)), float(np.median(hot)), max(shares) > LARGEST_SHARE
    slips = {
        "activity-in-kilobecquerel": ("kBq/mL", 1e-3),
        "activity-in-megabecquerel": ("MBq/mL", 1e-6),
        "activity-in-becquerel-per-voxel": ("Bq per voxel", scans[0].voxel_ml),
        "activity-per-minute": ("60 times too small: per second for per minute", 1 / 60),
        "activity-per-second": ("60 times too large: per minute for per second", 60.0),
        "activity-in-millicurie": ("0.37 times too small, a slip between curie and becquerel", 0.37),
        "activity-in-curie": ("37 times too large, a slip between curie and becquerel", 37.0),
        "activity-in-microcurie": ("27 times too small, a slip between curie and becquerel", 1 / 27.03),
    }
    scores = {}
    for code, (_, factor) in slips.items():
        if share / factor <= LARGEST_SHARE and (factor > 1) == above:
            off = abs(math.log(max(share / factor, 1e-12) / TYPICAL_SHARE))
            scores[code] = 0.5 * (off + abs(math.log(max(per_ml / factor, 1e-18) / TYPICAL_HOT_PER_ML)))
    ranked = sorted(scores, key=lambda code: scores[code] + (RARE if code == "activity-in-microcurie" else 0.0))
    named = ranked[0] if name_it and ranked and scores[ranked[0]] < EXPLAINED else ""
    likely = [slips[code][0] for code in ranked if scores[code] < EXPLAINED]
    what = f" It fits if the values are {', or '.join(likely)}." if named else ""
    if not above and all(s.whole for s in scans):
        what = " All values are whole numbers: counts, or stored values whose rescale slope was not applied?" + what
        code = "activity-in-counts"
    else:
        code = named or ("activity-above-injected" if above else "activity-below-injected")
    shown = ", ".join(f"{s.total_mbq:.3g} MBq at {s.time_h:g} h" for s in scans)
    limit = (
        f"more than the {injected_mbq:g} MBq injected and decayed to then"
        if above
        else f"of {injected_mbq:g} MBq injected; at least {100 * floor(scans[0], nuclide):.1g} % are expected, found "
        f"{100 * shares[0]:.2g} %"
    )
    place = f"time_points[{scans[0].index}].spect holds" if len(scans) == 1 else "The SPECTs hold"
    numbers = {"share_of_injected": share, "total_mbq": scans[0].total_mbq}
    if named:
        numbers["factor"] = slips[named][1]
    return finding(
        code, f"{place} {shown}, {limit}: is it in Bq/mL?{what}", numbers=numbers,
        time_point=scans[0].index if len(scans) == 1 else None, file=scans[0].file if len(scans) == 1 else "",
    )  # fmt: skip
