"""The command `doselabel course`: several cycles of one patient, added up. Knows arguments and the terminal."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_course(commands: Any) -> None:
    """Add the command."""
    text = "a patient's cycles added up: dose and BED with their ±, and what remains to a limit"
    parser = commands.add_parser("course", help=text, description=text)
    parser.add_argument("dir", type=Path, help="folder with a folder for each cycle, filled by `doselabel dose`")
    parser.add_argument("--out", type=Path, help="for results.json, report.html, report.pdf (default: DIR/course)")
    parser.add_argument(
        "--limit", action="append", default=[], metavar="ORGAN:GY", type=_limit,
        help="on the cumulative dose, e.g. kidneys:23",
    )  # fmt: skip
    parser.add_argument(
        "--limit-bed", action="append", default=[], metavar="ORGAN:GY", type=_limit, help="on the BED, e.g. kidneys:40"
    )
    parser.add_argument("--patient", help="name of the patient, where the cycles have different pseudonyms")
    parser.set_defaults(run=_course)


def _limit(text: str) -> tuple[str, float]:
    organ, colon, value = text.rpartition(":")
    try:
        limit = float(value)
    except ValueError:
        limit = -1.0
    if not (colon and organ and 0 < limit < float("inf")):
        raise argparse.ArgumentTypeError(f"'{text}' is not ORGAN:GY, a number above 0")
    return organ, limit


def _course(args: argparse.Namespace) -> None:
    from doselabel.cli_dose import print_alarms
    from doselabel.dosimetry.course import NEAR, course, read_cycles, without_results
    from doselabel.io.course_report import write_course
    from doselabel.labels import title

    out = args.out or args.dir / "course"
    found = course(
        read_cycles(args.dir),
        limits_gy=dict(args.limit),
        limits_bed_gy=dict(args.limit_bed),
        patient=args.patient,
        left_out=[name for name in without_results(args.dir) if name != out.name],
    )
    files = write_course(found, out)
    print_alarms([alarm for alarm in found.alarms if alarm.code != NEAR])
    for alarm in (alarm for alarm in found.alarms if alarm.code == NEAR):
        print(f"ALARM: {alarm}")
    print(f"{len(found.cycles)} cycles of {found.patient_id}: {', '.join(c.name for c in found.cycles)}")
    print(f"{'organ':<16}{'Gy':>8}{'± Gy':>7}{'BED Gy':>9}{'± Gy':>7}  remains")
    for name, organ in found.organs.items():
        bed = "–" if organ.total_bed_gy is None else f"{organ.total_bed_gy:.2f}"
        bed_sd = "–" if organ.total_bed_sd_gy is None else f"{organ.total_bed_sd_gy:.2f}"
        remains = "; ".join(
            f"{'BED' if c.kind == 'bed' else 'dose'} {c.limit_gy:g} Gy: "
            + ("not known" if c.remains_gy is None else f"{c.remains_gy:.1f} ± {c.remains_sd_gy:.1f} Gy")
            for c in organ.constraints
        )
        print(
            f"{title(name):<16}{organ.total_dose_gy:>8.2f}{organ.total_dose_sd_gy:>7.2f}{bed:>9}{bed_sd:>7}  {remains}"
        )
    for text in found.warnings:
        print(f"warning: {text}")
    print(f"report in {files.html}")
