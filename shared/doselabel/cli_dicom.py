"""The commands `import` and `export`: DICOM in and out. Knows arguments, questions and the terminal."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from doselabel import cli_check
from doselabel.errors import Progress

if TYPE_CHECKING:
    from doselabel.dicom.answers import Answers
    from doselabel.dicom.plan import Plan
    from doselabel.dicom.series import Series
    from doselabel.dicom.sort import Gathered

Terminal = Callable[[], Progress]
_OPTIONS = ("patient", "patient_id", "nuclide", "injected_activity_mbq", "injection_time", "unit", "camera",
            "scan_duration_min", "decay_corrected_to", "diagnostic")  # fmt: skip


def add(command: Callable[..., argparse.ArgumentParser], commands: Any, terminal: Terminal) -> None:
    """Add the commands to a parser; ``terminal`` makes what shows progress."""
    take = command(
        commands, "import", lambda args: _import(args, terminal()),
        "make a study of a patient's DICOM: a folder, an archive or a DICOMDIR",
    )  # fmt: skip
    take.add_argument("source", type=Path)
    take.add_argument("studies", type=Path, help="folder of studies")
    take.add_argument("--dry-run", action="store_true", help="show the plan, write nothing")
    take.add_argument("--images", action="store_true", help="write CTs and SPECTs as NIfTI alone, no study")
    take.add_argument("--answers", type=Path, metavar="YAML", help="answers in a file; flags count more")
    take.add_argument("--key", type=Path, metavar="FILE", help="key file of the pseudonyms (default: this user's own)")
    take.add_argument("--keep-identity", action="store_true", help="keep PatientID, dates and UIDs as they are")
    group = take.add_argument_group("answers to what the files do not say")
    for name in _OPTIONS:
        group.add_argument(f"--{name.replace('_', '-')}", metavar="VALUE", help=_help(name))
    group.add_argument("--scan-start", action="append", type=_scan_start, metavar="N=TIME", help=_help("scan_start"))
    group.add_argument("--leave-out", action="append", type=int, metavar="N", help=_help("leave_out"))
    group.add_argument("--allow-uncorrected", action="store_true", help=_help("allow_uncorrected"))

    give = command(
        commands, "export", lambda args: _export(args, terminal()),
        "a finished dose as DICOM: SEG, RTSTRUCT, RTDOSE, PDF and SR, referring to the source",
    )  # fmt: skip
    give.add_argument("dose", type=Path, help="folder that `doselabel dose` filled")
    give.add_argument("study", type=Path, help="the study, as `doselabel import` made it")
    give.add_argument("--source", type=Path, required=True, help="the DICOM that was imported")
    give.add_argument("--out", type=Path, required=True)
    give.add_argument("--what", default="seg,rtstruct,rtdose,pdf,sr", help="default: seg,rtstruct,rtdose,pdf,sr")
    give.add_argument("--key", type=Path, metavar="FILE", help="key file that it was imported with")


def _help(name: str) -> str:
    from doselabel.dicom.answers import Answers

    return Answers.model_fields[name].description or ""


def _scan_start(text: str) -> tuple[int, datetime]:
    number, _, at = text.partition("=")
    try:
        return int(number), datetime.fromisoformat(at)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not N=TIME, as in 3=2026-03-03T10:20") from None


def _import(args: argparse.Namespace, progress: Progress) -> int:
    from doselabel.dicom.answers import Answers
    from doselabel.dicom.plan import planned
    from doselabel.dicom.pseudonym import Key
    from doselabel.dicom.series import refuse_damaged, sorted_series
    from doselabel.dicom.sort import gathered
    from doselabel.dicom.studies import import_study, write_images
    from doselabel.errors import DicomError, DoselabelError

    given = {name: getattr(args, name) for name in (*_OPTIONS, "leave_out", "allow_uncorrected")}
    answers = Answers.read(args.answers, {**given, "scan_start": dict(args.scan_start or [])})
    key = Key.open(args.key, plain=args.keep_identity)
    with gathered(args.source, progress) as found:
        series = sorted_series(found.instances)
        if args.images and not args.dry_run:
            _print_series(series, {s.number: f"left out: {s.reason}" for s in series if s.reason}, found)
            for path in write_images(series, args.studies, key):
                print(f"written: {path}")
            return 0
        if not args.dry_run:
            used = (s for s in series if s.kind != "left out" and s.number not in answers.leave_out)
            found.usable({i.name for s in used for i in s.instances})
            refuse_damaged(found.broken, series, answers.leave_out)
        try:
            plan = planned(series, answers)
        except DicomError:
            _print_series(series, {s.number: f"left out: {s.reason}" for s in series if s.reason}, found)
            raise
        while plan.questions and sys.stdin.isatty() and not args.dry_run:
            _print_plan(plan, found)
            try:
                wanted = _ask(plan, answers)
                plan, answers = planned(series, wanted), wanted
            except DoselabelError as error:  # what was answered before stays
                print(error)
        _print_plan(plan, found)
        if args.dry_run:
            return 2 if plan.questions else 0
        if sys.stdin.isatty() and not _yes("Import this?"):
            print("nothing was written")
            return 1
        done = import_study(plan, answers, args.studies, key, progress)
    if done.added:
        print(f"{done.folder.name}: {len(done.added)} time point(s) added in {done.folder}")
    elif not done.labels:
        print(f"{done.folder.name}: nothing new in it ({done.folder})")
    for word in done.labels:
        print(word)
    cli_check.print_findings(done.report.alarms)
    return 1 if done.report.state == "alarm" else 0


def _print_plan(plan: Plan, found: Gathered) -> None:
    fate = dict(plan.fate)
    for number, point in enumerate(plan.points, start=1):
        hours = f"{point.time_h:.2f} h" if plan.injection_time is not None else "hours not known yet"
        scale = point.scan.scale.source or point.scan.scale.unit
        fate[point.scan.series.number] = f"SPECT of time point {number}, {hours}; {scale}; decay {point.scan.decay}"
        fate.setdefault(point.ct.number, f"CT of time point {number}")
    if plan.diagnostic is not None:
        own = fate.get(plan.diagnostic.number)
        fate[plan.diagnostic.number] = "diagnostic CT" + (f", {own}" if own else "")
    for series in plan.series:
        fate.setdefault(series.number, "not needed")
    _print_series(plan.series, fate, found)
    for word in plan.words:
        print(f"note: {word}")
    for question in plan.questions:
        print(f"question: {question.text}\n  → {question.flag}")


def _print_series(series: list[Series], fate: dict[int, str], found: Gathered) -> None:
    from doselabel.dicom.timing import started

    print(f"{'':>3}  {'acquired':<16} {'planes':>6}  what")
    for each in series:
        at = started(each)
        when = f"{at:%Y-%m-%d %H:%M}" if at is not None else "–"
        print(f"{each.number:>3}  {when:<16} {each.planes:>6}  {fate.get(each.number) or each.kind.upper()}")
    for broken in found.broken:
        print(f"damaged: {broken.name}: {broken.why}")
    for word in found.words:
        print(f"note: {word}")
    if found.others:
        print(f"{found.others} other file(s) passed over")


def _ask(plan: Plan, answers: Answers) -> Answers:
    """Ask the first question on the terminal, and take the answer in."""
    from doselabel.dicom.answers import Answers

    question = plan.questions[0]
    text = _typed(f"{question.text} ")
    value: Any = text
    if question.field == "scan_start":
        number = int(question.flag.split()[1].partition("=")[0])
        value = {**answers.scan_start, number: text}
    elif question.field == "leave_out":
        value = [*answers.leave_out, text]
    return Answers.read(None, {**answers.model_dump(exclude_defaults=True), question.field: value})


def _yes(question: str) -> bool:
    return _typed(f"{question} [Y/n] ").lower() in ("", "y", "yes", "j", "ja")


def _typed(question: str) -> str:
    try:
        return input(question).strip()
    except EOFError:  # Ctrl+D is Ctrl+C here: nothing was written yet
        raise KeyboardInterrupt from None


def _export(args: argparse.Namespace, progress: Progress) -> None:
    from doselabel.dicom import KINDS
    from doselabel.dicom.export import export, material
    from doselabel.dicom.studies import origin_of
    from doselabel.errors import DicomError
    from doselabel.study import Study

    kinds = tuple(args.what.split(","))
    if unknown := set(kinds) - set(KINDS):
        raise DicomError(f"'{unknown.pop()}' can't be exported.", f"Choose of {', '.join(KINDS)}.")
    study = Study.load(args.study)
    origins = origin_of(study.folder)
    made = material(study.patient_id, study.ct, origins, args.dose, args.source, args.key, progress)
    for path in export(made, args.out, kinds):
        print(f"written: {path}")
