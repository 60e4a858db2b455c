"""Series → the plan of a study: which SPECT and CT make a time point, when, and what must still be asked.

Works on headers alone and writes nothing; `doselabel.dicom.studies` carries it out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from doselabel.dicom.answers import Answers, Question
from doselabel.dicom.injection import NUCLIDES, Stated, stated
from doselabel.dicom.scale import DecayTo, Scale, decay_of, scale_of
from doselabel.dicom.series import NM, Series
from doselabel.dicom.timing import duration_s, started
from doselabel.dicom.volume import Stack, stacked
from doselabel.errors import DicomError
from doselabel.nuclides import nuclide as find_nuclide

if TYPE_CHECKING:
    from doselabel.dicom.drawn import Drawn

ONE_SCAN = timedelta(minutes=3)
"""Emission series that begin within this are reconstructions of one scan."""
ONE_SESSION = timedelta(hours=3)
"""A CT belongs to a SPECT of the same session."""


@dataclass(frozen=True, eq=False)
class Scan:
    """A SPECT, and all that its values mean."""

    series: Series
    stack: Stack
    start: datetime
    duration_s: float | None
    scale: Scale
    decay: DecayTo

    @property
    def middle(self) -> datetime:
        """The middle of the scan; its start when nobody says how long it took."""
        return self.start + timedelta(seconds=(self.duration_s or 0.0) / 2)


@dataclass(frozen=True, eq=False)
class Point:
    """A time point of the study."""

    scan: Scan
    ct: Series
    time_h: float


@dataclass
class Plan:
    """What would be imported; complete when there are no ``questions``."""

    series: list[Series]
    identity: str
    fate: dict[int, str] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)
    stacks: dict[int, Stack] = field(default_factory=dict)
    diagnostic: Series | None = None
    nuclide: str = ""
    activity_mbq: float = 0.0
    injection_time: datetime | None = None
    drug: str = ""
    questions: list[Question] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    drawn: list[Drawn] = field(default_factory=list)


def planned(everything: Sequence[Series], answers: Answers) -> Plan:
    """Plan a study of one patient's series.

    Raises
    ------
    DicomError
        For what no answer can mend: several patients, damaged geometry, no SPECT, no CT.
    """
    series, identity = _one_patient(everything, answers)
    plan = Plan(series, identity)
    for each in series:
        if each.kind == "left out":
            plan.fate[each.number] = f"left out: {each.reason}"
        elif each.number in answers.leave_out:
            plan.fate[each.number] = "left out as stated"
    kept = [s for s in series if s.number not in plan.fate]
    spects, cts = ([s for s in kept if s.kind == kind] for kind in ("spect", "ct"))
    _need(bool(spects), "no reconstructed SPECT", plan)
    _need(bool(cts), "no CT", plan)
    scans = _scans(spects, answers, plan)
    cts = _usable_cts(cts, plan)
    said = stated([scan.series for scan in scans])
    _injection(said, answers, plan)
    _diagnostic(cts, scans, answers, plan)
    for scan in scans:
        _time_point(scan, cts, plan)
    plan.points.sort(key=lambda point: point.scan.start)
    _units(plan, answers)
    if drawings := [s for s in kept if s.kind in ("rtstruct", "seg")]:
        from doselabel.dicom.drawn import all_drawn  # highdicom, which most imports do without

        taken = {ct.number: ct for ct in (plan.diagnostic, *(p.ct for p in plan.points)) if ct is not None}
        plan.drawn, fate = all_drawn(drawings, list(taken.values()), plan.stacks)
        plan.fate |= fate
    return plan


def _one_patient(everything: Sequence[Series], answers: Answers) -> tuple[list[Series], str]:
    by_patient: dict[str, list[Series]] = {}
    for each in everything:
        for instance in each.instances:
            who = instance.text("PatientID") or instance.text("PatientName")
            group = by_patient.setdefault(who, [])
            if not group or group[-1] is not each:
                group.append(each)
    if answers.patient is not None:
        if answers.patient not in by_patient:
            raise DicomError(f"There is no patient '{answers.patient}' in it.", f"There are {len(by_patient)} others.")
        by_patient = {answers.patient: by_patient[answers.patient]}
    if len(by_patient) > 1:
        raise DicomError(
            f"{len(by_patient)} patients in one folder: {', '.join(repr(who) for who in list(by_patient)[:5])}.",
            "Import one at a time: give one patient's folder, or --patient ID.",
        )
    (identity, series), births = next(iter(by_patient.items())), set()
    for each in series:
        whose = {(i.text("PatientID") or i.text("PatientName")) for i in each.instances}
        if whose != {identity}:
            raise DicomError(f"{each.words()}: holds instances of {len(whose)} patients.", "Export it again.")
        births |= {i.text("PatientBirthDate") for i in each.instances} - {""}
    if len(births) > 1:
        raise DicomError(
            "Two patients in one folder: files of one PatientID state different dates of birth.",
            "Take the other patient's files away; if it is one person, have the PACS corrected.",
        )
    if not identity and answers.patient_id is None:
        raise DicomError("No file says whose it is (PatientID and PatientName are empty).", "Give --patient-id.")
    return series, identity or str(answers.patient_id)


def _need(there: bool, what: str, plan: Plan) -> None:
    if there:
        return
    why = "; ".join(f"{s.words()}: {plan.fate.get(s.number) or s.kind}" for s in plan.series[:6])
    raise DicomError(
        f"There is {what} in it, and a study needs a SPECT and a CT ({why}).",
        "Give the folder with all series of the patient; --images writes the images alone.",
    )


def _scans(spects: list[Series], answers: Answers, plan: Plan) -> list[Scan]:
    """One SPECT of each scan: of several reconstructions, the corrected one."""
    dated: list[tuple[datetime, Series]] = []
    for each in spects:
        at = answers.scan_start.get(each.number) or started(each)
        if at is None:
            plan.questions.append(
                Question("scan_start", f"{each.words()} does not state when it was acquired (AcquisitionDate, Time).",
                         f"--scan-start {each.number}=YYYY-MM-DDTHH:MM")
            )  # fmt: skip
            continue
        dated.append((at, each))
    dated.sort(key=lambda item: (item[0], item[1].number))
    groups: list[list[tuple[datetime, Series]]] = []
    for item in dated:
        if groups and item[0] - groups[-1][0][0] <= ONE_SCAN:
            groups[-1].append(item)
        else:
            groups.append([item])
    return [scan for group in groups if (scan := _best(group, answers, plan)) is not None]


def _best(group: list[tuple[datetime, Series]], answers: Answers, plan: Plan) -> Scan | None:
    ranked, refused = [], []
    for at, each in group:
        try:
            unit = scale_of(each).unit
        except DicomError as error:
            refused.append(error)
            plan.fate[each.number] = f"left out: {error.message}"
            continue
        corrections = each.corrections or frozenset()
        rank = (each.attenuation_corrected is True, each.attenuation_corrected is None, "SCAT" in corrections,
                unit == "Bq/mL")  # fmt: skip
        ranked.append((rank, at, each))
    if not ranked:
        raise refused[0]
    ranked.sort(key=lambda item: item[0], reverse=True)
    rank, at, chosen = ranked[0]
    if len(ranked) > 1 and ranked[1][0] == rank:
        plan.questions.append(
            Question("leave_out", f"{chosen.words()} and {ranked[1][2].words()} are reconstructions of one scan "
                     f"({at:%Y-%m-%d %H:%M}), and nothing tells which is to be taken.",
                     f"--leave-out {ranked[1][2].number} (or {chosen.number})")
        )  # fmt: skip
        return None
    for _, _, other in ranked[1:]:
        plan.fate[other.number] = (
            f"left out: another reconstruction of the scan of series {chosen.number}, less corrected"
        )
    if chosen.attenuation_corrected is False and not answers.allow_uncorrected:
        raise DicomError(
            f"{chosen.words()}: is not corrected for attenuation; deep organs would show a fraction of their activity.",
            "Export the corrected reconstruction; --allow-uncorrected takes it all the same.",
        )
    if chosen.attenuation_corrected is None:
        plan.words.append(
            f"{chosen.words()} does not say whether it is corrected for attenuation and scatter: look it up."
        )
    elif chosen.corrections is not None and not chosen.corrections & {"SCAT"}:
        plan.words.append(
            f"{chosen.words()} is not corrected for scatter: activities are too large by some 10 to 40 %."
        )
    scale = scale_of(chosen)
    scale = scale.stated(answers.unit) if scale.unit is None and answers.unit is not None else scale
    decay = decay_of(chosen)
    if decay is None:
        decay = answers.decay_corrected_to
        if decay is None:
            pet = str(chosen.head.SOPClassUID) != NM
            if pet or (chosen.corrections and "DECY" in chosen.corrections):
                plan.questions.append(
                    Question("decay_corrected_to", f"{chosen.words()} does not say to which time decay is corrected.",
                             "--decay-corrected-to none|scan_start|injection")
                )  # fmt: skip
            else:
                plan.words.append(f"{chosen.words()} states no decay correction; its values are taken as measured.")
            decay = "none"
    elif answers.decay_corrected_to not in (None, decay):
        raise DicomError(
            f"{chosen.words()} states that it is corrected for decay to {decay}; the answer is "
            f"{answers.decay_corrected_to}.",
            "Leave --decay-corrected-to out if the file is right.",
        )
    length = duration_s(chosen)
    if length is None and answers.scan_duration_min is not None:
        length = 60 * answers.scan_duration_min
    stack = stacked(chosen)
    plan.stacks[chosen.number] = stack
    plan.words += stack.words
    return Scan(chosen, stack, at, length, scale, decay)


def _usable_cts(cts: list[Series], plan: Plan) -> list[Series]:
    usable, refused = [], []
    for each in cts:
        try:
            plan.stacks[each.number] = stacked(each)
        except DicomError as error:
            if "single plane" in error.message:
                plan.fate[each.number] = "left out: a single plane"
                continue
            refused.append(error)
            continue
        usable.append(each)
    if refused:
        raise refused[0]
    _need(bool(usable), "no CT volume", plan)
    return usable


def _injection(said: Stated, answers: Answers, plan: Plan) -> None:
    nuclide = answers.nuclide or said.nuclide
    if nuclide is None:
        plan.questions.append(
            Question("nuclide", f"Which nuclide? ({said.nuclide_why})", f"--nuclide {'|'.join(NUCLIDES)}")
        )
    else:
        plan.nuclide = find_nuclide(nuclide).name
        if said.nuclide is not None and find_nuclide(said.nuclide).name != plan.nuclide:
            raise DicomError(f"The files state {said.nuclide}; the answer is {plan.nuclide}.", "Correct the answer.")
    activity = answers.injected_activity_mbq or said.activity_mbq
    if activity is None:
        plan.questions.append(
            Question("injected_activity_mbq", f"How much was injected, in MBq? ({said.activity_why})",
                     "--injected-activity-mbq MBQ")
        )  # fmt: skip
    else:
        plan.activity_mbq = activity
        if answers.injected_activity_mbq is None:
            plan.words.append(f"Injected activity {activity:g} MBq ({said.activity_why}): confirm it.")
        elif said.activity_mbq is not None and abs(said.activity_mbq - activity) > 0.02 * activity:
            plan.words.append(
                f"The files state {said.activity_mbq:g} MBq injected; {activity:g} MBq was stated and counts."
            )
    time = answers.injection_time or said.time
    if time is None:
        plan.questions.append(
            Question("injection_time", f"When was it injected? ({said.time_why})", "--injection-time YYYY-MM-DDTHH:MM")
        )  # fmt: skip
    plan.injection_time, plan.drug = time, said.drug
    if answers.injection_time is not None and said.time is not None and answers.injection_time != said.time:
        plan.words.append(f"The files state {said.time:%Y-%m-%d %H:%M} as the injection; what was stated counts.")


def _diagnostic(cts: list[Series], scans: list[Scan], answers: Answers, plan: Plan) -> None:
    """The CT of the masses: as stated; else the one that belongs to no SPECT, or was taken with contrast."""
    if answers.diagnostic is not None:
        named = [ct for ct in cts if ct.number == answers.diagnostic]
        if not named:
            raise DicomError(f"Series {answers.diagnostic} is no CT.", f"CTs are {[ct.number for ct in cts]}.")
        plan.diagnostic = named[0]
        return
    own = {ct.number for scan in scans if (ct := _nearest(scan, cts, plan.stacks)) is not None}
    free = [ct for ct in cts if ct.number not in own]
    enhanced = [ct for ct in free or cts if ct.contrast]
    choice = enhanced or free
    if choice:
        plan.diagnostic = max(choice, key=lambda ct: (len(plan.stacks[ct.number].planes), -ct.number))
        if len(choice) > 1:
            plan.words.append(
                f"Several CTs may be the diagnostic one; {plan.diagnostic.words()} was taken (--diagnostic N)."
            )
    else:
        plan.diagnostic = _nearest(scans[0], cts, plan.stacks) if scans else cts[0]
        plan.words.append("There is no diagnostic CT; masses come from the first time point's CT.")


def _nearest(scan: Scan, cts: list[Series], stacks: dict[int, Stack]) -> Series | None:
    """The CT of a SPECT's own session: in its frame of reference and in time, the finest of several."""
    own = []
    for ct in cts:
        at = started(ct)
        apart = abs(at - scan.start) if at is not None else None
        framed = bool(ct.frame_of_reference) and ct.frame_of_reference == scan.series.frame_of_reference
        if (apart is not None and apart <= ONE_SESSION) or (apart is None and framed):
            stack = stacks[ct.number]
            if stack.geometry.overlaps(scan.stack.geometry):
                own.append(((not framed, ct.contrast, apart or timedelta(0), -len(stack.planes), ct.number), ct))
    return min(own, key=lambda item: item[0])[1] if own else None


def _time_point(scan: Scan, cts: list[Series], plan: Plan) -> None:
    ct = _nearest(scan, cts, plan.stacks)
    assert plan.diagnostic is not None
    if ct is None:
        ct = plan.diagnostic
        if not plan.stacks[ct.number].geometry.overlaps(scan.stack.geometry):
            raise DicomError(
                f"{scan.series.words()}: no CT of its session is there, and it lies outside of {ct.words()}.",
                "Give the CT that was taken with it.",
            )
        plan.words.append(
            f"{scan.series.words()} has no CT of its own session: {ct.words()} is taken; look at the overlay."
        )
    elif ct.frame_of_reference != scan.series.frame_of_reference:
        plan.words.append(
            f"{scan.series.words()} and {ct.words()} do not share a frame of reference: look at the overlay."
        )
    if plan.injection_time is None:
        plan.points.append(Point(scan, ct, 0.0))
        return
    time_h = (scan.middle - plan.injection_time).total_seconds() / 3600
    if time_h <= 0:
        raise DicomError(
            f"{scan.series.words()}: was acquired {scan.start:%Y-%m-%d %H:%M}, before the injection "
            f"({plan.injection_time:%Y-%m-%d %H:%M}).",
            "Correct the time of injection; a scan before it is left out by --leave-out.",
        )
    if time_h > 24 * 60:
        raise DicomError(
            f"{scan.series.words()}: was acquired {time_h / 24:.0f} days after the injection.",
            "It may be of another cycle: import each cycle by itself (--injection-time, --leave-out).",
        )
    if scan.duration_s is None:
        plan.words.append(f"{scan.series.words()} does not state how long it took: its hours count to its start.")
    plan.points.append(Point(scan, ct, round(time_h, 4)))


def _units(plan: Plan, answers: Answers) -> None:
    unknown = [p.scan for p in plan.points if p.scan.scale.unit is None]
    for scan in unknown:
        plan.questions.append(
            Question("unit", f"{scan.series.words()}: what do its values mean? ({scan.scale.source})",
                     "--unit Bq/mL|counts|counts/s")
        )  # fmt: skip
    units = {p.scan.scale.unit for p in plan.points} - {None}
    if "Bq/mL" in units and len(units) > 1:
        raise DicomError(
            "Some SPECTs are in Bq/mL and some in counts.", "Leave the ones of one kind out, or export all in Bq/mL."
        )
    counts = [p.scan for p in plan.points if p.scan.scale.unit in ("counts", "counts/s")]
    if counts and answers.camera is None:
        plan.questions.append(
            Question("camera", "The SPECTs are in counts: a camera file turns them into Bq/mL (doselabel calibrate).",
                     "--camera FILE")
        )  # fmt: skip
    for scan in (s for s in counts if s.duration_s is None):
        plan.questions.append(
            Question("scan_duration_min", f"{scan.series.words()}: how many minutes did it take? (it is in counts)",
                     "--scan-duration-min MIN")
        )  # fmt: skip
