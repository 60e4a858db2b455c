"""The command `doselabel study check`: what a look into studies found, as text or JSON.

It knows arguments and the terminal; what is found is `doselabel.study_check`'s. Exit codes: 0 fine, 1 an alarm, 2 a
study that can't be used.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from doselabel.alarms import Alarm
    from doselabel.study_check import FolderReport, StudyReport


def add_check(commands: Any) -> None:
    """Add the command."""
    text = "validate one study or a folder of them"
    parser = commands.add_parser(
        "check", help=text, description=f"{text}; exit code 0: fine, 1: an alarm, 2: a study that can't be used"
    )
    parser.add_argument("dir", type=Path)
    parser.add_argument("--json", action="store_true", help="print everything that was found as JSON")
    parser.set_defaults(run=_check)


def _check(args: argparse.Namespace) -> int:
    from doselabel.study_check import examine_folder

    report = examine_folder(args.dir)
    if args.json:
        print(report.model_dump_json(by_alias=True, indent=1))
    else:
        _print(report)
    return 2 if report.count("refused") else 1 if report.count("alarm") else 0


def _print(report: FolderReport) -> None:
    for study in report.studies:
        _print_study(study)
    if len(report.studies) > 1:
        print()
        rows = [["study", "patient", "state", "alarms", "warnings", "SPECT at h"]]
        rows += [
            [
                Path(study.folder).name,
                study.patient_id or "?",
                "NOT usable" if study.state == "refused" else study.state,
                str(study.count("alarm")),
                str(study.count("warning")),
                ", ".join(f"{point.time_h:g}" for point in study.time_points) or "?",
            ]
            for study in report.studies
        ]
        _print_table(rows)
        print(
            f"{len(report.studies)} studies: {report.count('ok')} ok, {report.count('alarm')} with alarms, "
            f"{report.count('refused')} not usable"
        )


def _print_study(study: StudyReport) -> None:
    name = study.patient_id or Path(study.folder).name
    if study.state == "refused":
        print(f"{name}: NOT usable ({study.folder})", flush=True)
        for reason in study.refused:
            print(f"{name}: NOT usable: {reason.message}\n  → {reason.hint}", file=sys.stderr)
    else:
        points = ", ".join(f"{point.time_h:g}" for point in study.time_points)
        about = f"{study.nuclide}, {study.injected_activity_mbq:g} MBq, SPECT at {points} h"
        if study.decay_corrected_to != "none":
            about += f"; corrected for decay to {study.decay_corrected_to.replace('_', ' ')}, undone"
        print(f"{name}: {'ok' if study.state == 'ok' else 'ALARM'} ({about})")
    print_findings(study.alarms)
    if study.time_points:
        rows = [["", "h", "SPECT (x, y, z)", "MBq", "% of injected", "highest Bq/mL", "CT (x, y, z)"]]
        rows += [
            [
                f"tp{point.time_point}",
                f"{point.time_h:g}",
                point.spect_grid or "?",
                _number(point.total_mbq),
                _number(point.percent_of_injected),
                _number(point.largest_bq_ml),
                point.ct_grid or "?",
            ]
            for point in study.time_points
        ]
        _print_table(rows, indent="  ")


def print_findings(findings: Sequence[Alarm]) -> None:
    """Print findings, the gravest first, each with its code and, where it is an alarm, with what to do."""
    for alarm in findings:
        print(f"  {alarm.severity.upper() if alarm.severity == 'alarm' else alarm.severity}: {alarm.sentence}")
        if alarm.severity == "alarm":
            print(f"    [{alarm.code}] → {alarm.what_to_do}")


def _number(value: float | None) -> str:
    return "?" if value is None else f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def _print_table(rows: Sequence[Sequence[str]], indent: str = "") -> None:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print((indent + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))).rstrip())
