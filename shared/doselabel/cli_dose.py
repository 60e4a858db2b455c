"""The commands about doses: `dose`, `report`, `compare`, `sensitivity`. Knows arguments and the terminal.

Every option of `doselabel.dosimetry.options.DoseOptions` is an argument, with that class's own words.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from doselabel import cli_check
from doselabel.errors import Progress

if TYPE_CHECKING:
    from doselabel.alarms import Alarm
    from doselabel.dosimetry.options import DoseOptions
    from doselabel.wire import DoseResults

Terminal = Callable[[], Progress]


def add(command: Callable[..., argparse.ArgumentParser], commands: Any, terminal: Terminal) -> None:
    """Add the commands to a parser; ``terminal`` makes what shows progress."""
    dose = command(
        commands, "dose", lambda args: _dose(args, terminal()), "absorbed dose of a study's organs, with a report"
    )
    dose.add_argument("study", type=Path)
    dose.add_argument("--out", type=Path, required=True, help="folder for results.json, dose.nii.gz, report.html, .pdf")
    dose.add_argument("--cache", type=Path, help="folder of what need not be computed again (default: OUT/.cache)")
    dose.add_argument("--vois", metavar="DIR", help="volumes of interest corrected by hand: voi_tp1.nii.gz …")
    dose.add_argument(
        "--half-life-from", type=Path, action="append", metavar="RESULTS",
        help="results.json of an earlier cycle of the patient: half-lives for a cycle of a single scan",
    )  # fmt: skip
    dose.add_argument("--no-report", action="store_true", help="no report.html and .pdf")
    dose.add_argument("--store-registration", action="store_true", help="keep the transforms found in study.json")
    option_arguments(dose)

    report = command(
        commands, "report", lambda args: _report(args, terminal()), "write the report of a finished dose again"
    )
    report.add_argument("dir", type=Path, help="folder that `doselabel dose` filled")
    report.add_argument("study", type=Path)

    compare = command(
        commands, "compare", lambda args: _compare(args, terminal()),
        "the paper's tables 3 and 4 and its DVH figure, for two sides",
    )  # fmt: skip
    compare.add_argument("studies", type=Path, nargs="+", help="study folders, or folders of studies")
    for side, what in (("--a", "preset=expert1,labels=truth,name=Ex"), ("--b", "preset=ai,labels=final,name=AI")):
        compare.add_argument(
            side, required=True, action="append", metavar="SIDE",
            help=f"{'reference' if side == '--a' else 'compared'}, e.g. {what}; again, with patients=P1/P2, for some",
        )  # fmt: skip
    compare.add_argument("--organs", default="left_kidney,right_kidney", help="default: left_kidney,right_kidney")
    compare.add_argument("--out", type=Path, default=Path("compare"))

    sensitivity = command(
        commands, "sensitivity", lambda args: _sensitivity(args, terminal()),
        "one study's doses by margin, VOI method and fit",
    )  # fmt: skip
    sensitivity.add_argument("study", type=Path)
    sensitivity.add_argument("--out", type=Path, default=Path("sensitivity"))
    option_arguments(sensitivity)


def option_arguments(parser: argparse.ArgumentParser) -> None:
    """Whose masks, and an argument for every option of the dose calculation."""
    from doselabel.dosimetry.options import DoseOptions

    parser.add_argument("--labels", default="final", help="tag, folder or file of label maps (default: final)")
    group = parser.add_argument_group("options of the calculation")
    for name, field in DoseOptions.model_fields.items():
        parts = [value for part in get_args(field.annotation) for value in get_args(part) or (part,)]  # Literal or None
        choices = [value for value in parts if isinstance(value, str)]
        group.add_argument(
            f"--{name.replace('_', '-')}",
            metavar="|".join(choices) or "VALUE",
            help=" ".join((field.description or "").split()).replace("%", "%%"),
        )


def options_of(args: argparse.Namespace) -> DoseOptions:
    """The options given on a command line."""
    from doselabel.dosimetry.options import DoseOptions

    given = {name: getattr(args, name) for name in DoseOptions.model_fields}
    return DoseOptions.read({name: value for name, value in given.items() if value is not None})


def _dose(args: argparse.Namespace, progress: Progress) -> None:
    from doselabel.dosimetry.priors import with_earlier_cycles
    from doselabel.dosimetry.results import read_results, read_vois, store_registration
    from doselabel.io.compare import labels_of, vois_of
    from doselabel.io.study_dose import dose_study
    from doselabel.study import Study

    study, options = Study.load(args.study), options_of(args)
    if args.half_life_from:
        options = with_earlier_cycles(options, [read_results(path) for path in args.half_life_from], study.nuclide)
    results = dose_study(
        study,
        labels_of(study, args.labels),
        options,
        args.out,
        cache=args.cache,
        edited_vois=read_vois(vois_of(study, args.vois), study) if args.vois else None,
        report=not args.no_report,
        progress=progress,
    )
    if args.store_registration:
        store_registration(study, results)
    print_doses(results)
    print(f"results in {args.out / 'results.json'}" if args.no_report else f"report in {args.out / 'report.html'}")


def print_alarms(grave: Sequence[Alarm], end: str = "") -> None:
    """What must be known before any number; nothing when there is nothing."""
    if grave:
        print(f"{len(grave)} alarm(s): these doses are probably wrong until somebody has looked")
        cli_check.print_findings(grave)
        print(end=end)


def print_doses(results: DoseResults) -> None:
    """Alarms, a line for each organ, and warnings."""
    from doselabel.labels import title

    print_alarms(results.grave())
    print(
        f"{'organ':<14}{'mL':>8}{'g':>8}{'TIA MBq·h':>12}{'T_eff h':>9}{'Gy':>8}{'± Gy':>7}{'Gy/GBq':>8}{'BED Gy':>8}"
    )
    for name, organ in results.organs.items():
        bed = f"{organ.bed_gy:.2f}" if organ.bed_gy is not None else "–"
        print(
            f"{title(name):<14}{organ.volume_ml:>8.0f}{organ.mass_g:>8.0f}{organ.tia_mbq_h:>12.0f}"
            f"{organ.effective_half_life_h:>9.1f}{organ.mean_dose_gy:>8.2f}{organ.dose_sd_gy:>7.2f}"
            f"{organ.dose_gy_per_gbq:>8.3f} {bed:>7}"
        )
    for marrow in results.marrow:
        print(f"Bone marrow, estimated by {marrow.method}: {marrow.dose_gy:.3f} ± {marrow.dose_sd_gy:.3f} Gy")
    for warning in results.other_warnings():
        print(f"warning: {warning}")


def _report(args: argparse.Namespace, progress: Progress) -> None:
    from doselabel.io.report import write_report_of
    from doselabel.io.study_dose import truth_of
    from doselabel.study import Study

    study = Study.load(args.study)
    report = write_report_of(args.dir, study, truth=truth_of(study), progress=progress)
    print(f"report in {report.html}")


def _compare(args: argparse.Namespace, progress: Progress) -> None:
    from doselabel.io.compare import compare, parse_side
    from doselabel.study import Study

    studies = [Study.load(folder) for path in args.studies for folder in Study.find(path) or [path]]
    a, b = ([parse_side(text, name) for text in given] for given, name in ((args.a, "A"), (args.b, "B")))
    found = compare(studies, a, b, organs=args.organs.split(","), out=args.out, progress=progress)
    print_alarms(found.alarms(), "\n")
    print(found.text())
    print(f"table, CSV and figure in {args.out}")


def _sensitivity(args: argparse.Namespace, progress: Progress) -> None:
    from doselabel.io.compare import sensitivity
    from doselabel.study import Study

    study = Study.load(args.study)
    found = sensitivity(study, args.labels, options_of(args), out=args.out, progress=progress)
    print_alarms(found.alarms(), "\n")
    print(found.text())
    print(f"table and CSV in {args.out}")
