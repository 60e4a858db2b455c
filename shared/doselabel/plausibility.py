"""Whether a study's SPECTs can be what they claim: amounts against injection and decay, and against each other.

Knows figures of images (`Seen`) and a nuclide's half-life; knows no files, organs or doses. What the limits rest on:

- *Never more than injected.* A field of view holds at most the injected activity, decayed.
- *Not too little.* Within 6 h most of the activity is in the trunk (of 177Lu-DOTATATE some 40 % in 40 cm), a third of
  it at 24 h, a fifth at 72 h. The floors lie far below: liver, kidneys and spleen of a patient of low uptake, without
  the rest of the body, hold 4.2 % at 4 h, 3.5 % at 24 h, 1.1 % at 168 h. Where the images are shorter than `TRUNK_MM`
  the floors are lowered in proportion.
- *Falling.* After the first hours nothing enters the field of view, so totals fall at least as the nuclide decays.
- *Washing out.* Soft tissue only loses activity once the injection is distributed.
- *Noise.* Variance over mean of a reconstruction goes with becquerels per count: constant over scans of one protocol,
  growing as exp(λt) where the images were corrected for decay. This shows decay correction where the organs clear so
  fast that even corrected totals fall.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from doselabel.alarms import Alarm, finding
from doselabel.nuclides import Nuclide
from doselabel.spect_figures import HOT_ML, WARM_ML, Seen

LARGEST_SHARE = 1.05
"""Of the injected activity, decayed: one, and the calibration's error."""
SMALLEST_SHARE = ((1.0, 0.06), (4.0, 0.04), (24.0, 0.03), (72.0, 0.02), (168.0, 0.008))
"""(h, share of the injected activity, decayed) below which nothing explains a trunk; in between by logarithms."""
TRUNK_MM = 280.0
FILLING = 1.5
"""What soft tissue would have to gain to show that two scans are in the wrong order; it only loses."""
RISE, EARLY_RISE, EARLY_H = 1.15, 1.6, 6.0
"""By how much a decay-corrected total may rise: calibration drift; and while activity still enters the field."""
SLOWEST_HALF_LIFE_SHARE = 0.40
"""Totals that fall with a longer half-life than this share of the physical one (64 h of 160 h) may be corrected for
decay; the noise decides. Published effective half-lives of 177Lu peptides in kidneys are 35 to 60 h."""
SAME_RESIDUAL = 0.005
"""Two scans whose difference, after scaling, is below this share of their signal are one: counting noise makes more."""
TYPICAL_SHARE, TYPICAL_HOT_PER_ML = 0.15, 6e-5
"""Share of the injected activity in the field, and per mL of the hottest 200 mL: what a slip of units is named by."""
UNUSUAL_HOT_PER_ML, UNUSUAL_WARM_PER_ML = 1e-4, 3e-5
"""Two kidneys of 0.9 Gy/GBq hold the former; published means are 0.37 to 0.6. Tumours reach it, so it is a warning;
where also the hottest 1.2 L, most of them liver, hold the latter (a liver of 0.3 Gy/GBq), it is the calibration or a
liver full of tumour."""
MOST_SCANS_ORDERED = 5
PLATEAU_VOXELS, PAINTED = 5, 200
"""A painted image, of fewer values than the latter, has plateaus, and repeats itself, without being wrong."""
SMALLEST_FIELD_MM = 150.0
"""A field of view narrower than this shows no trunk: only what is too much for anything is said of it."""
ODD_GRAIN, SAME_GRAIN = 1.25, 1.12
"""One scan's noise that is off by the former while the others agree within the latter goes with a wrong scale."""


def judge(scans: Sequence[Seen], nuclide: Nuclide, injected_mbq: float) -> list[Alarm]:
    """What is implausible about a study's SPECTs, given in the order of time."""
    found = [alarm for scan in scans for alarm in _of_one(scan)]
    twice = _twice(scans)
    shares = [s.share(nuclide, injected_mbq) for s in scans]
    if any(scan.width_mm < SMALLEST_FIELD_MM for scan in scans):
        above = any(share > LARGEST_SHARE for share in shares)
        return [*twice, *(_amount(scans, shares, nuclide, injected_mbq) if above else []), *found]
    measurable = len(scans) > 1 and min(scan.total_mbq for scan in scans) > 0 and not twice
    course = _Course(scans, nuclide, injected_mbq).findings() if measurable else []
    misplaced = any(alarm.code.startswith("times-") for alarm in course)
    amount = [] if misplaced else _amount(scans, shares, nuclide, injected_mbq)
    if any(alarm.code == "activity-in-counts" for alarm in amount):
        course = []  # counts follow the scan's duration and each file's slope as much as the patient
    return [*twice, *amount, *course, *found]


# ---- one image


def _of_one(scan: Seen) -> list[Alarm]:
    found = []
    name = f"time_points[{scan.index}].spect ({scan.file})"
    if scan.at_maximum >= max(PLATEAU_VOXELS, 3 * scan.usual_ties) and scan.distinct > PAINTED:
        numbers = {"voxels_at_maximum": scan.at_maximum, "maximum_bq_ml": scan.largest}
        sentence = (
            f"{name}: {scan.at_maximum} voxels share the largest value, {scan.largest:.6g}; just below it every value "
            f"has {scan.usual_ties:.3g}. The values were cut off there."
        )
        found.append(finding("spect-clipped", sentence, numbers=numbers, time_point=scan.index, file=scan.file))
    if scan.negative_voxels:
        numbers = {"negative_voxels": scan.negative_voxels, "negative_percent_of_total": 100 * scan.negative_share}
        sentence = (
            f"{name}: {scan.negative_voxels} voxels are negative ({100 * scan.negative_share:.2g} % of the total); "
            "they count as zero."
        )
        found.append(finding("spect-negative", sentence, numbers=numbers, time_point=scan.index, file=scan.file))
    return found


# ---- images among themselves


def _twice(scans: Sequence[Seen]) -> list[Alarm]:
    found = []
    for a, b in itertools.combinations(scans, 2):
        if a.shape != b.shape or a.distinct <= PAINTED:
            continue
        x, y = a.sample.astype(np.float64), b.sample.astype(np.float64)
        factor = float(x @ y / (x @ x)) if x.any() else 0.0
        if factor <= 0 or np.linalg.norm(y - factor * x) > SAME_RESIDUAL * np.linalg.norm(y):
            continue
        how = "the same values" if abs(factor - 1) < 1e-4 else f"the same values multiplied by {factor:.4g}"
        sentence = (
            f"time_points[{b.index}].spect ({b.file}) has {how} as time_points[{a.index}].spect ({a.file}); two scans "
            "are expected to differ by their noise at least. It is one scan, twice."
        )
        found.append(finding("spect-twice", sentence, numbers={"factor": factor}, time_point=b.index, file=b.file))
    return found


def _falls(totals: Sequence[float], times: Sequence[float], nuclide: Nuclide) -> bool:
    """Whether totals at these times neither rise nor fall faster than patients make them."""
    for (t1, a1), (t2, a2) in itertools.pairwise(zip(times, totals, strict=True)):
        kept = a2 / a1 * math.exp(nuclide.decay_constant_per_h * (t2 - t1))
        if kept > _rise(t1) or kept < 0.5 ** (0.75 + (t2 - t1) / 24.0):
            return False
    return True


def _rise(start_h: float) -> float:
    return EARLY_RISE if start_h < EARLY_H else RISE


@dataclass(frozen=True)
class _Course:
    """The totals of a study over time."""

    scans: Sequence[Seen]
    nuclide: Nuclide
    injected_mbq: float

    @property
    def times(self) -> list[float]:
        return [scan.time_h for scan in self.scans]

    @property
    def totals(self) -> list[float]:
        return [scan.total_mbq for scan in self.scans]

    @property
    def listed(self) -> str:
        return ", ".join(f"{a:.4g} MBq at {t:g} h" for a, t in zip(self.totals, self.times, strict=True))

    def name(self, k: int) -> str:
        return f"time_points[{self.scans[k].index}].spect ({self.scans[k].file})"

    def fits(self, order: Sequence[int], times: Sequence[float]) -> bool:
        """Whether the SPECTs, taken in an order and at these times, hold what a patient can hold."""
        scans = [self.scans[k] for k in order]
        if not _falls([s.total_mbq for s in scans], times, self.nuclide) or _filling(scans):
            return False
        at = [replace(scan, time_h=t) for scan, t in zip(scans, times, strict=True)]
        return all(_floor(s, self.nuclide) <= s.share(self.nuclide, self.injected_mbq) <= LARGEST_SHARE for s in at)

    def odd_one(self) -> tuple[int, float] | None:
        """The scan whose noise is off by a factor while the others agree; None where noise follows decay correction."""
        grains = np.array([scan.grain for scan in self.scans])
        if len(grains) < 3 or grains.min() <= 0:
            return None
        corrected = np.log(grains) - self.nuclide.decay_constant_per_h * np.array(self.times)
        if np.ptp(corrected) <= math.log(SAME_GRAIN):
            return None
        for k in range(len(grains)):
            others = np.delete(grains, k)
            factor = float(grains[k] / np.median(others))
            if others.max() <= SAME_GRAIN * others.min() and max(factor, 1 / factor) >= ODD_GRAIN:
                return k, factor
        return None

    def findings(self) -> list[Alarm]:
        """Totals that rise, are exchanged, have their times in another unit, or are corrected for decay."""
        times, totals, given = self.times, self.totals, list(range(len(self.scans)))
        shares = [scan.share(self.nuclide, self.injected_mbq) for scan in self.scans]
        rising = [(i, j) for i, j in itertools.pairwise(given) if shares[j] > _rise(times[i]) * shares[i]]
        wrong = rising or _filling(self.scans)
        odd = self.odd_one()
        if wrong:
            i, j = wrong[0]
            numbers = {"rise_after_decay_correction": shares[j] / shares[i]}
            if times[0] >= 10 and self.fits(given, [t / 60 for t in times]):
                sentence = f"The totals ({self.listed}) fit a patient if the times are minutes; time_h is in hours."
                return [finding("times-in-other-unit", sentence, numbers=numbers)]
            order = None if odd else self._order()
            if order:
                return [self._exchanged(order, numbers)]
            level = all(
                b <= 1.1 * _rise(t) / RISE * a for t, (a, b) in zip(times, itertools.pairwise(totals), strict=False)
            )
            if rising and level and odd is None:
                return [self._corrected(f"The totals ({self.listed}) do not fall as physical decay alone makes them")]
            if rising:
                return [self._rises(i, j, odd, numbers)]
        days = [24 * t for t in times]
        if times[-1] <= 14 and not self.fits(given, times) and self.fits(given, days):
            shown = ", ".join(f"{t:g}" for t in times)
            sentence = f"The totals fall as in a patient if the times {shown} are days; time_h is in hours."
            return [finding("times-in-other-unit", sentence, numbers={"last_time_h": times[-1]})]
        return self._noise_grows(odd)

    def _order(self) -> Sequence[int] | None:
        """An order of the SPECTs that fits a patient, two exchanged rather than more."""
        given = tuple(range(len(self.scans)))
        if len(given) > MOST_SCANS_ORDERED:
            return None
        orders = sorted(itertools.permutations(given), key=lambda o: sum(a != b for a, b in zip(o, given, strict=True)))
        return next((order for order in orders[1:] if self.fits(order, self.times)), None)

    def _exchanged(self, order: Sequence[int], numbers: dict[str, float]) -> Alarm:
        moved = [k for k, was in enumerate(order) if k != was]
        if len(moved) == 2:
            how = f"if {self.name(moved[0])} and {self.name(moved[1])} are exchanged"
        else:
            how = "in the order " + ", ".join(self.scans[k].file for k in order)
        sentence = (
            f"The totals ({self.listed}) rise where they must fall, or soft tissue gains activity; they fit a patient "
            f"{how}."
        )
        last = self.scans[moved[-1]]
        return finding("times-exchanged", sentence, numbers=numbers, time_point=last.index, file=last.file)

    def _rises(self, i: int, j: int, odd: tuple[int, float] | None, numbers: dict[str, float]) -> Alarm:
        sentence = (
            f"{self.name(j)} holds {self.totals[j]:.4g} MBq, {numbers['rise_after_decay_correction']:.2f} times what "
            f"time_points[{self.scans[i].index}] ({self.totals[i]:.4g} MBq) leaves after physical decay; totals are "
            f"expected to fall at least so ({self.listed})."
        )
        scan = self.scans[j]
        if odd:
            scan, factor = self.scans[odd[0]], odd[1]
            sentence += f" The noise of {self.name(odd[0])} is {factor:.2f} times the other scans': its scale is off."
            numbers = numbers | {"factor": factor}
        return finding("activity-rises", sentence, numbers=numbers, time_point=scan.index, file=scan.file)

    def _noise_grows(self, odd: tuple[int, float] | None) -> list[Alarm]:
        """Decay correction, or a last scan of another scale, where totals fall slowly and the noise gives it away."""
        times, totals = self.times, self.totals
        late = [i for i, t in enumerate(times) if t >= 12.0][-2:]
        if len(late) < 2 or min(s.grain for s in self.scans) <= 0:
            return []
        (i, j), span = late, times[-1] - times[0]
        fall = math.log(totals[i] / totals[j]) / (times[j] - times[i])
        half_life = math.log(2) / fall if fall > 0 else math.inf
        if half_life < SLOWEST_HALF_LIFE_SHARE * self.nuclide.half_life_h:
            return []
        expected = math.exp(self.nuclide.decay_constant_per_h * span)
        grown = self.scans[-1].grain / self.scans[0].grain
        if expected < 1.15 or not expected**0.5 < grown < expected**1.7:
            return []
        falls = f"the totals fall with a half-life of {half_life:.0f} h only"
        if odd and odd[0] == len(times) - 1:
            last, noise = self.scans[-1], f"The noise of {self.name(odd[0])} is {odd[1]:.2f} times the other scans'"
            sentence = f"{noise}, and {falls}: its scale is off."
            return [
                finding("time-point-off", sentence, numbers={"factor": odd[1]}, time_point=last.index, file=last.file)
            ]
        text = (
            f"From the first scan to the last the noise grows by {grown:.2f}, as correction for {span:g} h of decay "
            f"makes it ({expected:.2f}; uncorrected 1), and {falls}"
        )
        return [self._corrected(text, grown)]

    def _corrected(self, text: str, grown: float | None = None) -> Alarm:
        sentence = f"{text}: the images seem to be corrected for decay. Doses come out too high by 50 % and more."
        numbers = {"physical_half_life_h": self.nuclide.half_life_h} | (
            {} if grown is None else {"noise_factor": grown}
        )
        return finding("activity-decay-corrected", sentence, numbers=numbers)


def _filling(scans: Sequence[Seen]) -> list[tuple[int, int]]:
    pairs = itertools.pairwise(range(len(scans)))
    return [(i, j) for i, j in pairs if scans[j].wide_bq_ml > FILLING * scans[i].wide_bq_ml > 0]


# ---- amounts


def _floor(scan: Seen, nuclide: Nuclide) -> float:
    """The smallest share that can be: of other nuclides than 177Lu little is known, remnants of thyroid keep 1 %."""
    times, floors = zip(*SMALLEST_SHARE, strict=True)
    share = float(np.exp(np.interp(np.log(scan.time_h), np.log(times), np.log(floors))))
    return share * min(1.0, scan.length_mm / TRUNK_MM) * (1.0 if nuclide.name == "Lu-177" else 0.05)


def _amount(scans: Sequence[Seen], shares: Sequence[float], nuclide: Nuclide, injected_mbq: float) -> list[Alarm]:
    above = [i for i, share in enumerate(shares) if share > LARGEST_SHARE]
    below = [i for i, (scan, share) in enumerate(zip(scans, shares, strict=True)) if share < _floor(scan, nuclide)]
    per_ml = [math.exp(nuclide.decay_constant_per_h * s.time_h) / (injected_mbq * 1e6) for s in scans]
    hot = [s.hot_bq_ml * unit for s, unit in zip(scans, per_ml, strict=True)]
    wrong = above or below
    if not wrong:
        warm = [s.warm_bq_ml * unit for s, unit in zip(scans, per_ml, strict=True)]
        return _unusual(scans, hot, warm) if nuclide.name == "Lu-177" else []
    whole_study = (
        len(scans) == 1
        or (len(below) == len(scans) and all(s.whole for s in scans))
        or _falls([s.total_mbq for s in scans], [s.time_h for s in scans], nuclide)
    )
    groups = [list(range(len(scans)))] if whole_study else [[i] for i in wrong]
    return [
        _slip(
            [scans[i] for i in group], [shares[i] for i in group], [hot[i] for i in group], nuclide, injected_mbq,
            name_it=whole_study or shares[group[0]] < 0.2 * _floor(scans[group[0]], nuclide) or bool(above),
        )
        for group in groups
    ]  # fmt: skip


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
    best = min(scores, key=lambda code: scores[code], default="")
    named = best if name_it and best and scores[best] < 0.9 else ""
    likely = [slips[c][0] for c in sorted(scores, key=lambda c: scores[c]) if scores[c] < scores[best] + 0.35]
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
        else f"of {injected_mbq:g} MBq injected; at least {100 * _floor(scans[0], nuclide):.1g} % are expected, found "
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
