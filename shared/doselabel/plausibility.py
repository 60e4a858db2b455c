"""Whether a study's SPECTs can be what they claim: amounts against injection and decay, and against each other.

Knows figures of images (`Seen`) and a nuclide's half-life; knows no files, organs or doses. What the limits rest on:

- *Amounts* are `doselabel.amounts`: never more than injected, not too little for any patient.
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
from doselabel.amounts import LARGEST_SHARE, amounts, floor
from doselabel.nuclides import Nuclide
from doselabel.spect_figures import Seen

FILLING = 1.5
"""What soft tissue would have to gain to show that two scans are in the wrong order; it only loses."""
RISE, EARLY_RISE, EARLY_H = 1.15, 1.6, 6.0
"""By how much a decay-corrected total may rise: calibration drift; and while activity still enters the field."""
SLOWEST_HALF_LIFE_SHARE = 0.40
"""Totals that fall with a longer half-life than this share of the physical one (64 h of 160 h) may be corrected for
decay; the noise decides. Published effective half-lives of 177Lu peptides in kidneys are 35 to 60 h."""
SAME_RESIDUAL = 0.005
"""Two scans whose difference, after scaling, is below this share of their signal are one: counting noise makes more."""
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
        amount = amounts(scans, shares, nuclide, injected_mbq, together=False) if above else [_unchecked(scans)]
        return [*twice, *amount, *found]
    measurable = len(scans) > 1 and min(scan.total_mbq for scan in scans) > 0 and not twice
    course = _Course(scans, nuclide, injected_mbq).findings() if measurable else []
    misplaced = any(alarm.code.startswith("times-") for alarm in course)
    together = _falls([s.total_mbq for s in scans], [s.time_h for s in scans], nuclide)
    amount = [] if misplaced else amounts(scans, shares, nuclide, injected_mbq, together=together)
    if any(alarm.code == "activity-in-counts" for alarm in amount):
        course = []  # counts follow the scan's duration and each file's slope as much as the patient
    return [*twice, *amount, *course, *found]


def _unchecked(scans: Sequence[Seen]) -> Alarm:
    narrow = min(scans, key=lambda scan: scan.width_mm)
    sentence = (
        f"time_points[{narrow.index}].spect ({narrow.file}) covers {narrow.width_mm:.0f} mm only: whether totals can "
        "be was not judged."
    )
    return finding("activity-unchecked", sentence, numbers={"width_mm": narrow.width_mm})


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
        if a.shape != b.shape or (a.distinct <= PAINTED and a.file != b.file):
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
        return all(floor(s, self.nuclide) <= s.share(self.nuclide, self.injected_mbq) <= LARGEST_SHARE for s in at)

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
