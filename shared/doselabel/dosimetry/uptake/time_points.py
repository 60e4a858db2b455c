"""The study's time points, each measured: masks → registration → organ activities. Knows no curves and no doses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from doselabel.alarms import Alarm
from doselabel.dosimetry.alignment.placement import Placement, compared
from doselabel.dosimetry.alignment.registration import Alignment
from doselabel.dosimetry.failures import Failures
from doselabel.dosimetry.uptake.activity import Scan, ScanActivity, align, measure, scan_of
from doselabel.dosimetry.uptake.case import Case
from doselabel.dosimetry.uptake.consistency import time_point_off
from doselabel.dosimetry.uptake.frames import Frames
from doselabel.errors import DoselabelError, Progress
from doselabel.geometry import Geometry
from doselabel.labels import LabelMap

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Uptake:
    """One time point, measured.

    Attributes
    ----------
    scan : Scan
        SPECT and masks.
    placement : Placement
        Where the SPECT was put.
    activity : ScanActivity
        What the organs hold.
    to_diagnostic : dict
        Organ → 4×4 matrix from the time point's CT to the diagnostic one; "" holds for the rest of the body.
    own_masks : bool
        Whether the masks were drawn on the time point's own CT.
    """

    scan: Scan
    placement: Placement
    activity: ScanActivity
    to_diagnostic: Mapping[str, np.ndarray]
    own_masks: bool

    @property
    def alignment(self) -> Alignment:
        """Of the SPECT."""
        return self.placement.alignment

    def noise(self, name: str) -> float:
        """Relative noise of an organ's activity, by counts and by the SPECT's place."""
        errors = self.activity.errors[name]
        return float(np.hypot(errors.counts, errors.place(self.alignment.sd_mm)))

    def registration(self) -> dict[str, Any]:
        """What `results.json` says of the SPECT's place."""
        at = self.alignment
        return {
            "time_point": self.scan.index,
            "method": at.method,
            "shift_mm": at.shift_mm,
            "merit_before": at.agreement_before,
            "merit_after": at.agreement_after,
            "sd_mm": at.sd_mm,
            "matrix": at.matrix.tolist(),
            "ct_to_diagnostic": self.to_diagnostic[""].tolist(),
            "center_mm": _centre(self.scan.spect.geometry),
        }


def measured(
    case: Case, organs: tuple[str, ...], failures: Failures, said: list[Alarm | str], progress: Progress
) -> list[Uptake]:
    """Measure every time point; organs that fail at one are in ``failures``, what a reader must know in ``said``.

    Raises
    ------
    OrganFailures
        When there are any.
    """
    frames, count = Frames(case, organs), len(case.study.time_points)

    def mask(i: int) -> tuple[LabelMap, list[Alarm | str], dict[str, DoselabelError]]:
        progress(f"time point {i + 1} of {count}: masks", 0.02 + 0.1 * i / count)
        return frames.masks(i)

    masks = _each(mask, count, case.workers)

    def look(i: int) -> tuple[Scan, Placement, ScanActivity | None]:
        label_map, _, lost = masks[i]

        def step(name: str, part: float) -> None:
            progress(f"time point {i + 1} of {count}: {name}", 0.12 + 0.5 * (i + part) / count)

        step("registration", 0.0)
        scan = scan_of(case, i, label_map)
        there = align(scan, case)
        step("organ activities", 0.5)
        measurable = tuple(name for name in organs if name not in lost)
        return scan, there, measure(scan, there.alignment.matrix, measurable, case) if measurable else None

    looks = _each(look, count, case.workers)
    for i, ((_, notes, lost), (_, _, found)) in enumerate(zip(masks, looks, strict=True)):
        said += notes
        failures.add(lost)
        if found is not None:
            failures.add(found.failed)
            where = f"Time point {i + 1} ({case.times_h[i]:g} h)"
            said += [f"{where}: {text}" for text in found.warnings]
    failures.settle()
    places = compared([there for _, there, _ in looks], case.times_h)
    matrices = _each(frames.to_diagnostic, count, case.workers)
    uptakes = [
        Uptake(scan, there, found, matrices[scan.index], _own_masks(case, scan.index))
        for (scan, _, found), there in zip(looks, places, strict=True)
        if found is not None
    ]
    said += [alarm for there in places for alarm in there.findings]
    said += time_point_off(case.times_h, {n: [u.activity.activity_mbq[n] for u in uptakes] for n in organs})
    return uptakes


def _each(work: Callable[[int], T], count: int, workers: int) -> list[T]:
    """What ``work`` returns of every time point, in order; by several threads where there may be."""
    if workers == 1:
        return [work(i) for i in range(count)]
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(work, range(count)))


def _own_masks(case: Case, index: int) -> bool:
    ct = case.study.time_points[index].ct
    return ct != case.study.ct and ct in case.labels.maps


def _centre(geometry: Geometry) -> list[float]:
    return [float(v) for v in geometry.index_to_lps((np.asarray(geometry.shape) - 1) / 2)]
