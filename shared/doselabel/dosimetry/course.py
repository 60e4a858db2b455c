"""A patient's cycles as one course: cumulative dose and BED, their uncertainty, and what remains to a constraint.

Knows results of single cycles; no images, no curves. Cycles are weeks apart, so that damage between them is repaired
and BEDs add up. Errors add up as they belong together: what is wrong in every cycle alike (calibration, resolution,
how an observer draws) linearly, what is new in each (noise, place) in quadrature.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from doselabel.alarms import Alarm, finding
from doselabel.dosimetry.options import ANY, of_organ
from doselabel.dosimetry.uncertainty import CONTOUR_SHARED
from doselabel.errors import DoseError
from doselabel.files import file_sha256
from doselabel.labels import title
from doselabel.organs import region
from doselabel.wire import Constraint, CourseCycle, CourseResults, DoseResults, OrganCourse, OrganDose

Kind = Literal["dose", "bed"]
RESULTS = "results.json"
SHARED: Mapping[str, float] = {
    "volume": CONTOUR_SHARED,
    "contours": 0.0,
    "recovery": 1.0,
    "calibration": 1.0,
    "reconstruction": 1.0,
    "counts": 0.0,
    "registration": 0.0,
    "spill_out": 1.0,
    "spill_in": 1.0,
    "fit": 0.0,
    "model": 1.0,
    "time_sampling": 1.0,
    "half_life": 1.0,
    "s_value": 1.0,
}
"""Part of each error's variance that is the same in every cycle of a patient; an unknown one counts as all the same."""


NEAR = "limit-near"
"""Code of what is said of a limit: it doubts no dose, as other alarms do."""
LIKELY_PERCENT = 16.0
"""A limit that is exceeded with at least this probability (less than 1 σ away) is an alarm."""


@dataclass(frozen=True, eq=False)
class Cycle:
    """Results of one cycle, and where they lie."""

    name: str
    results: DoseResults
    file: Path


def read_cycles(folder: str | Path) -> list[Cycle]:
    """Read the cycles in a folder, ``<cycle>/results.json`` or ``<cycle>/dose/results.json``, in order of injection.

    Without an injection time in every cycle the order is that of their stated numbers, without these of the names.

    Raises
    ------
    DoseError
        When there are none, or one can't be read.
    """
    folder = Path(folder)
    cycles = []
    for part in _parts_of(folder):
        file = _results_in(part)
        if file is None:
            continue
        text = file.read_text(encoding="utf-8")
        if '"doselabel.course/' in text[:200]:
            continue  # an earlier course's own result
        try:
            cycles.append(Cycle(part.name, DoseResults.model_validate_json(text), file))
        except ValueError as error:
            raise DoseError(
                f"{file}: can't be read as a cycle's results ({error}).", "Run `doselabel dose` for it again."
            ) from error
    if not cycles:
        raise DoseError(
            f"{folder}: holds no results of a cycle; expected a folder for each, with {RESULTS} in it.",
            "Run `doselabel dose STUDY --out COURSE/cycle1` for each cycle, then `doselabel course COURSE`.",
        )
    if all(c.results.injection_time for c in cycles):
        cycles.sort(key=lambda c: c.results.injection_time.timestamp())  # type: ignore[union-attr]
    elif all(c.results.cycle for c in cycles):
        cycles.sort(key=lambda c: c.results.cycle or 0)
    return cycles


def without_results(folder: str | Path) -> list[str]:
    """Names of the folders that `read_cycles` passes over because nothing was computed into them."""
    return [part.name for part in _parts_of(Path(folder)) if _results_in(part) is None]


def _parts_of(folder: Path) -> list[Path]:
    return sorted(p for p in folder.glob("*") if p.is_dir() and not p.name.startswith("."))


def _results_in(part: Path) -> Path | None:
    return next((f for f in (part / RESULTS, part / "dose" / RESULTS) if f.is_file()), None)


def course(
    cycles: Sequence[Cycle],
    *,
    limits_gy: Mapping[str, float] | None = None,
    limits_bed_gy: Mapping[str, float] | None = None,
    patient: str | None = None,
    left_out: Sequence[str] = (),
) -> CourseResults:
    """Add cycles up.

    Parameters
    ----------
    cycles : sequence of Cycle
        In order.
    limits_gy, limits_bed_gy : dict, optional
        Organ → constraint on the cumulative dose, and on the cumulative BED; "kidney" stands for both, "*" for all.
    patient : str, optional
        The patient's name, which asserts that cycles with different pseudonyms are one patient's.
    left_out : sequence of str
        Folders in which a cycle was expected and no results are (`without_results`): an alarm.

    Raises
    ------
    DoseError
        When the cycles are of different patients or nuclides, one is there twice, or a limit is of no organ.
    """
    first = cycles[0].results
    who = {c.results.patient_id for c in cycles}
    if patient is None and len(who) > 1:
        raise DoseError(
            f"The cycles are of different patients: {', '.join(sorted(who))}.",
            "If they are one person's pseudonyms, say so with --patient NAME; else move one out of the folder.",
        )
    nuclides = {c.results.nuclide for c in cycles}
    if len(nuclides) > 1:
        raise DoseError(
            f"The cycles are of different nuclides: {', '.join(sorted(nuclides))}.",
            "Their doses differ in effect; make a course of each.",
        )
    _refuse_twice(cycles)
    names = list(dict.fromkeys(n for c in cycles for n in (*c.results.organs, *c.results.failed)))
    warnings = []
    numbered = all(c.results.cycle for c in cycles)
    if len(cycles) > 1 and not all(c.results.injection_time for c in cycles):
        order = "their numbers" if numbered else "their folders' names"
        warnings.append(
            f"Not every cycle states its injection_time; they stand in the order of {order}. Sums do not depend on it."
        )
    for a, b in itertools.pairwise(c for c in cycles if c.results.cycle):
        if (a.results.cycle or 0) > (b.results.cycle or 0):
            warnings.append(
                f"'{a.name}' is stated to be cycle {a.results.cycle} and was injected before '{b.name}', cycle "
                f"{b.results.cycle}: one of these times or numbers is wrong."
            )
    lost = _lost(cycles, left_out)
    if any(not c.results.reviewed for c in cycles):
        loose = ", ".join(c.name for c in cycles if not c.results.reviewed)
        warnings.append(f"Masks that nobody reviewed: {loose}.")
    limits: dict[Kind, dict[str, float]] = {"dose": _limits(limits_gy, names), "bed": _limits(limits_bed_gy, names)}
    organs = {name: _organ(name, cycles, limits, warnings, complete=not lost) for name in names}
    alarms = [alarm.of_file(c.name) for c in cycles for alarm in c.results.grave()]
    return CourseResults(
        patient_id=patient or first.patient_id,
        nuclide=first.nuclide,
        cycles=[
            CourseCycle(
                name=c.name,
                patient_id=c.results.patient_id,
                injection_time=c.results.injection_time,
                cycle=c.results.cycle,
                injected_activity_mbq=c.results.injected_activity_mbq,
                voi=str(c.results.options.get("voi", "")),
                results_sha256=file_sha256(c.file),
            )
            for c in cycles
        ],
        organs=organs,
        alarms=[*lost, *_near(organs), *alarms],
        warnings=warnings,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def summed_sd(parts: Sequence[Mapping[str, float]]) -> float:
    """Standard uncertainty of a sum from each summand's, by source: common parts linearly, others in quadrature."""
    variance = 0.0
    for source in {s for part in parts for s in part}:
        common = SHARED.get(source, 1.0)
        values = [part.get(source, 0.0) for part in parts]
        variance += common * sum(values) ** 2 + (1 - common) * sum(v**2 for v in values)
    return math.sqrt(variance)


def _refuse_twice(cycles: Sequence[Cycle]) -> None:
    seen: dict[tuple[str, object], str] = {}
    for cycle in cycles:
        results = cycle.results
        when, number = results.injection_time, results.cycle
        doses = repr({n: (o.mean_dose_gy, o.activity_mbq) for n, o in results.organs.items()})
        keys: list[tuple[str, object]] = [("have the same activities and doses", doses)] if results.organs else []
        keys += [(f"have the same injection_time, {when.isoformat(' ', 'minutes')}", when.timestamp())] if when else []
        keys += [(f"are both stated to be cycle {number}", number)] if number else []
        for key in keys:
            if key in seen:
                raise DoseError(
                    f"The cycles '{seen[key]}' and '{cycle.name}' {key[0]}.",
                    "If they are one cycle, leave one of them out; else correct the study and compute its dose again.",
                )
            seen[key] = cycle.name


def _lost(cycles: Sequence[Cycle], left_out: Sequence[str]) -> list[Alarm]:
    """Cycles that are not among those added up, as far as folders and stated numbers tell."""
    found = [
        finding("course-incomplete", f"The folder '{name}' has no results and is not in the sums.", file=name)
        for name in left_out
    ]
    numbers = {c.results.cycle for c in cycles if c.results.cycle}
    absent = [n for n in range(1, max(numbers, default=0)) if n not in numbers]
    unnumbered = len(cycles) - len(numbers)  # may be among those
    if len(absent) > unnumbered and not left_out:
        which = ", ".join(map(str, absent))
        text = f"Cycle {which} is" if len(absent) == 1 else f"Of the cycles {which} {len(absent) - unnumbered} are"
        found.append(finding("course-incomplete", f"{text} not among those added up: {_named(cycles)}."))
    return found


def _named(cycles: Sequence[Cycle]) -> str:
    return ", ".join(f"{c.name} (cycle {c.results.cycle})" if c.results.cycle else c.name for c in cycles)


def _near(organs: Mapping[str, OrganCourse]) -> list[Alarm]:
    """Limits that are reached, or less than one standard uncertainty away."""
    found = []
    for name, organ in organs.items():
        for c in organ.constraints:
            if c.likely_exceeded_percent is None or c.likely_exceeded_percent < LIKELY_PERCENT:
                continue
            what = "BED" if c.kind == "bed" else "dose"
            likely = f"exceeded with a probability of {c.likely_exceeded_percent:.0f} %"
            remain = f"{c.remains_gy:.1f} ± {c.remains_sd_gy:.1f} Gy remain"
            text = f"{title(name)}: of the {what} limit of {c.limit_gy:g} Gy {remain}; it is {likely}."
            numbers = {"limit_gy": c.limit_gy, "remains_gy": c.remains_gy or 0.0}
            found.append(finding(NEAR, text, numbers=numbers, organ=name))
    return found


def _limits(limits: Mapping[str, float] | None, names: Sequence[str]) -> dict[str, float]:
    """Limit by organ, of those that have one."""
    found: dict[str, float] = {}
    for key, limit in (limits or {}).items():
        both = key.strip().lower() in ("kidney", "kidneys")
        asked = ("left_kidney", "right_kidney") if both else (key if key == ANY else region(key).name,)
        given = dict.fromkeys(asked, limit)
        mine = {name: limit for name in names if of_organ(given, name) is not None}
        if not mine:
            raise DoseError(
                f"There is a limit for '{key}', and no cycle has it; they have {', '.join(map(title, names))}.",
                "Name one of these organs.",
            )
        found |= mine
    return found


def _organ(
    name: str,
    cycles: Sequence[Cycle],
    limits: Mapping[Kind, Mapping[str, float]],
    warnings: list[str],
    *,
    complete: bool,
) -> OrganCourse:
    found = [c.results.organs.get(name) for c in cycles]
    there = [o for o in found if o is not None]
    missing = [c.name for c, o in zip(cycles, found, strict=True) if o is None]
    if missing:
        warnings.append(
            f"{title(name)}: no dose in {', '.join(missing)}; the sum is of the other cycles and too low, and "
            "nothing is said of what remains."
        )
    dose = sum(o.mean_dose_gy for o in there)
    dose_sd = summed_sd([_parts(o, o.mean_dose_gy) for o in there])
    beds = [o.bed_gy for o in there]
    bed = bed_sd = None
    if there and all(b is not None for b in beds):
        bed = sum(b for b in beds if b is not None)
        bed_sd = summed_sd([_bed_parts(o) for o in there])
    elif any(b is not None for b in beds):
        warnings.append(f"{title(name)}: some cycles have no BED (no α/β was stated); there is no cumulative BED.")
    constraints = []
    if not missing:
        sums: tuple[tuple[Kind, float | None, float | None, float | None], ...] = (
            ("dose", dose, dose_sd, there[-1].mean_dose_gy),
            ("bed", bed, bed_sd, there[-1].bed_gy),
        )
        constraints = [
            _constraint(kind, limits[kind].get(name), total if complete else None, sd, last)
            for kind, total, sd, last in sums
        ]
    return OrganCourse(
        dose_gy=[None if o is None else o.mean_dose_gy for o in found],
        dose_sd_gy=[None if o is None else o.dose_sd_gy for o in found],
        bed_gy=[None if o is None else o.bed_gy for o in found],
        bed_sd_gy=[None if o is None else o.bed_sd_gy for o in found],
        mass_g=[None if o is None else o.mass_g for o in found],
        total_dose_gy=dose,
        total_dose_sd_gy=dose_sd,
        total_bed_gy=bed,
        total_bed_sd_gy=bed_sd,
        missing=missing,
        constraints=[c for c in constraints if c is not None],
    )


def _parts(organ: OrganDose, gy: float) -> dict[str, float]:
    """Uncertainty of a dose by source, Gy; as one source when the results do not tell them apart."""
    parts = {k: v / 100 * gy for k, v in organ.uncertainty_percent.items() if k not in ("total", "dose", "combined")}
    return parts or {"all": organ.dose_sd_gy / organ.mean_dose_gy * gy if organ.mean_dose_gy > 0 else 0.0}


def _bed_parts(organ: OrganDose) -> dict[str, float]:
    """Uncertainty of a BED by source, Gy: the dose's, by the slope that the BED's own ± says."""
    if organ.bed_gy is None or not organ.mean_dose_gy > 0:
        return {}
    parts = _parts(organ, organ.mean_dose_gy)
    whole = math.sqrt(sum(v**2 for v in parts.values()))
    sd = organ.bed_sd_gy
    if sd is None:  # written before BEDs had their ±: the slope of D (1 + x) is (1 + 2x)
        x = organ.bed_gy / organ.mean_dose_gy - 1
        sd = whole * (1 + 2 * x)
    return {source: value * sd / whole for source, value in parts.items()} if whole > 0 else {}


def _constraint(
    kind: Kind, limit: float | None, total: float | None, sd: float | None, last: float | None
) -> Constraint | None:
    if limit is None:
        return None
    if total is None or sd is None or last is None:
        return Constraint(kind=kind, limit_gy=limit)
    remains = limit - total
    return Constraint(
        kind=kind,
        limit_gy=limit,
        remains_gy=remains,
        remains_sd_gy=sd,
        likely_exceeded_percent=100 * (0.5 * math.erfc(remains / sd / math.sqrt(2)) if sd > 0 else float(remains < 0)),
        cycles_like_last=max(0.0, remains / last) if last > 0 else None,
    )
