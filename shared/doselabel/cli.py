"""The command `doselabel`: each subcommand is one call of the room that does the work.

It knows arguments, the terminal and exit codes: 0 done, 1 failed (or a check that did not pass), 2 bad input,
130 interrupted.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from doselabel import __version__, cli_batch, cli_check, cli_dicom, cli_dose, cli_pacs, cli_scores, cli_train
from doselabel.cli_calibrate import add_calibrate
from doselabel.cli_course import add_course
from doselabel.cli_data import consensus_argument, planes_of, reading_arguments
from doselabel.errors import DoselabelError, Progress

if TYPE_CHECKING:
    from doselabel.grid import StatedGrid


def main(argv: Sequence[str] | None = None) -> int:
    """Run one subcommand; bad input prints what was found and what to do, never a traceback."""
    args = build_parser().parse_args(argv)
    try:
        return int(args.run(args) or 0)
    except DoselabelError as error:
        return _refused(error)
    except ModuleNotFoundError as error:
        from doselabel.doctor import missing

        if not error.name or error.name.startswith("doselabel"):
            raise
        return _refused(missing(error.name))
    except KeyboardInterrupt:
        print("\ndoselabel: interrupted", file=sys.stderr)
        return 130


def _refused(error: DoselabelError) -> int:
    print(f"doselabel: {error.message}", file=sys.stderr)
    if error.hint:
        print(f"  → {error.hint}", file=sys.stderr)
    return 2


# ---- subcommands


def _sample(args: argparse.Namespace) -> None:
    from sample_data.phantom import generate

    folders = generate(args.dir, patients=args.patients, seed=args.seed, full=args.full, progress=_terminal())
    print(f"{len(folders)} synthetic patient(s) with ground truth in {args.dir}")


def _labels(args: argparse.Namespace) -> None:
    from doselabel.labels import ORGANS

    print(f"{'value':>5}  {'name':<14}{'g/cm³':>6}  colour")
    for organ in ORGANS:
        print(f"{organ.index:>5}  {organ.name:<14}{organ.density_g_cm3:>6.2f}  {organ.color}")


def _segment(args: argparse.Namespace) -> None:
    from doselabel.labels import title, write_labels
    from doselabel.model.checkpoint import starter_path
    from doselabel.model.predict import segment
    from doselabel.reading import read_of_study

    found = segment(
        read_of_study(args.ct, stated=_stated(args)),
        args.checkpoint or starter_path(),
        spect=read_of_study(args.spect) if args.spect else None,
        planes=planes_of(args),
        consensus=args.consensus or None,
        score_threshold=args.score,
        gap_fill=args.fill,
        engine=args.engine,
        name=str(args.ct),
        progress=_terminal(),
    )
    write_labels(args.out, found.labels)
    for name, organ in found.summary.organs.items():
        print(f"{title(name):<14}{organ.volume_ml:>8.0f} mL   score {organ.score:.2f}   {'; '.join(organ.flags)}")
    for flag in found.summary.flags:
        print(f"note: {flag}")
    print(f"labels in {args.out} (not reviewed)")


def _stated(args: argparse.Namespace) -> StatedGrid | None:
    from doselabel.errors import GeometryError
    from doselabel.grid import StatedGrid

    if args.orientation is None and args.spacing_mm is None:
        return None
    if args.orientation is None or args.spacing_mm is None:
        raise GeometryError("--orientation and --spacing-mm go together.", "Give both, or neither.")
    return StatedGrid(args.orientation, tuple(args.spacing_mm))


def _study_place(args: argparse.Namespace) -> None:
    from doselabel.errors import GeometryError, StudyError
    from doselabel.geometry import read_grid
    from doselabel.study import StatedPlace, Study

    study, stated = Study.load(args.dir), _stated(args)
    if args.file not in dict((name, field) for field, name in study.files()):
        raise StudyError(f"{args.dir}: names no image '{args.file}'.", "Give the file's name as study.json has it.")
    try:
        own = read_grid(study.path(args.file), within=study.folder)
    except GeometryError:
        own = None
    if own is not None:
        raise StudyError(f"{args.file}: says itself where it is: {own.words()}.", "Nothing need be stated.")
    assert stated is not None
    study.stated_places[args.file] = StatedPlace(orientation=stated.orientation, spacing_mm=stated.spacing_mm)
    print(f"{args.file}: {study.grid(args.file).words()}, axes to {stated.orientation}")
    print(f"kept in {study.save()}")


def _serve(args: argparse.Namespace) -> int:
    from doselabel.doctor import need

    need("monailabel")
    command = [sys.executable, "-m", "monailabel_app.launch", "--studies", str(args.studies)]
    command += ["--host", args.host, "--port", str(args.port)]
    for key, value in args.conf or []:
        command += ["--conf", key, value]
    for origin in args.origin or []:
        command += ["--origin", origin]
    for flag in ("--ssl-certfile", "--ssl-keyfile", "--workers"):
        value = getattr(args, flag[2:].replace("-", "_"))
        command += [flag, str(value)] if value else []
    command += ["--profile-start"] if args.profile_start else []
    if os.name == "posix":  # who stops this process, be it a container's first one, stops the server
        sys.stdout.flush()
        os.execv(sys.executable, command)
    return subprocess.run(command, check=False).returncode


def _users(args: argparse.Namespace) -> int:
    from doselabel.doctor import need

    need("monailabel")
    command = [sys.executable, "-m", "monailabel_app.users", args.what, str(args.studies)]
    command += [args.name] if args.name else []
    command += ["--role", args.role] if args.what == "add" else []
    return subprocess.run(command, check=False).returncode


def _doctor(args: argparse.Namespace) -> int:
    from doselabel.doctor import examine

    findings = examine(port=args.port)
    for finding in findings:
        print(f"{finding.mark} {finding.what}: {finding.found}")
        if finding.remedy:
            print(f"      → {finding.remedy}")
    return int(any(finding.state == "broken" for finding in findings))


def _demo(args: argparse.Namespace) -> int:
    from doselabel.demo import run

    return run(args.out, patients=args.patients, seed=args.seed, steps=args.steps, window=args.window)


# ---- the parser


def build_parser() -> argparse.ArgumentParser:
    """The command line of `doselabel`, with all its commands."""
    parser = argparse.ArgumentParser(
        prog="doselabel",
        description="Organ contours and patient-specific dosimetry on SPECT/CT. Research use only.",
    )
    parser.add_argument("--version", action="version", version=f"doselabel {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    demo = _command(commands, "demo", _demo, "the main job from first to last on sample patients")
    demo.add_argument("--out", type=Path, default=Path("demo"), help="where everything goes (default: demo)")
    demo.add_argument("--patients", type=_count, default=2)
    demo.add_argument("--seed", type=int, default=0)
    demo.add_argument("--steps", type=_count, default=6, help="training steps on the correction (default: 6)")
    demo.add_argument(
        "--window", action="store_true", help="leave a window open at the end, on a machine with a display"
    )

    sample = _command(commands, "sample", _sample, "make synthetic patients with ground truth")
    sample.add_argument("dir", type=Path)
    sample.add_argument("--patients", type=_count, default=4, help="how many (default: 4)")
    sample.add_argument("--seed", type=int, default=0, help="same seed, same patients (default: 0)")
    sample.add_argument("--full", action="store_true", help="clinical matrix: CT 512×512 in plane")

    study = commands.add_parser("study", help="look after studies on disk").add_subparsers(required=True)
    cli_check.add_check(study)
    place = _command(study, "place", _study_place, "state orientation and spacing of an image that states none")
    place.add_argument("dir", type=Path)
    place.add_argument("file", help="as study.json names it")
    _place_arguments(place, required=True)

    _command(commands, "labels", _labels, "print the label table")

    serve = _command(commands, "serve", _serve, "start the MONAI Label server on a folder of studies")
    serve.add_argument("studies", type=Path)
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    serve.add_argument("--port", type=int, default=8000)
    serve.add_argument("--conf", nargs=2, action="append", metavar=("KEY", "VALUE"), help="option of the app")
    serve.add_argument("--origin", action="append", help="web origin that may call the server, such as a viewer's")
    serve.add_argument("--ssl-certfile", type=Path, help="certificate (PEM): the server then speaks HTTPS only")
    serve.add_argument("--ssl-keyfile", type=Path, help="key of the certificate (PEM)")

    serve.add_argument("--workers", metavar="tcp://HOST:PORT", help="Dask scheduler whose workers do the jobs")
    serve.add_argument("--profile-start", action="store_true", help="print what the start spends its time on")

    users = _command(commands, "users", _users, "say who may use the server of a folder of studies")
    users.add_argument("what", choices=("add", "remove", "list"))
    users.add_argument("studies", type=Path)
    users.add_argument("name", nargs="?", help="the password is asked for, or read from a pipe")
    users.add_argument(
        "--role",
        choices=("annotator", "reviewer", "admin"),
        default="annotator",
        help="an annotator labels, a reviewer also approves, an admin also trains (default: annotator)",
    )

    segment = _command(commands, "segment", _segment, "find kidneys and liver on a CT")
    segment.add_argument("ct", type=Path)
    segment.add_argument("--out", type=Path, required=True, help="label map to write (.nii.gz, .nrrd)")
    segment.add_argument("--checkpoint", type=Path, help="default: the starter model")
    segment.add_argument("--spect", type=Path, help="SPECT in the CT's space, for a model with a SPECT channel")
    _place_arguments(segment, required=False)
    consensus_argument(segment)
    reading_arguments(segment)
    engines = segment.add_argument("--engine", choices=("auto", "torch", "openvino"), default="auto")
    engines.help = "what runs the network; default: OpenVINO where it is installed (extra 'openvino')"

    cli_train.add(_command, commands, _terminal)
    cli_scores.add(_command, commands, _terminal)

    cli_dose.add(_command, commands, _terminal)
    cli_dicom.add(_command, commands, _terminal)
    cli_pacs.add(_command, commands, _terminal)
    cli_batch.add(_command, commands, _terminal)
    add_course(commands)
    add_calibrate(commands)

    doctor = _command(commands, "doctor", _doctor, "what is installed, what is missing, and how to mend it")
    doctor.add_argument("--port", type=int, default=8000, help="port the server would use (default: 8000)")
    return parser


def _place_arguments(parser: argparse.ArgumentParser, *, required: bool) -> None:
    parser.add_argument(
        "--orientation", required=required, help="for a file that states none: where its axes point, such as LPS or RAS"
    )
    parser.add_argument(
        "--spacing-mm", nargs=3, type=float, required=required, metavar=("X", "Y", "Z"), help="and its voxel size, mm"
    )


def _command(commands: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.set_defaults(run=run)
    return parser


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


def _terminal() -> Progress:
    """One line that is rewritten on a terminal; elsewhere, one line for each stage."""
    live = sys.stderr.isatty()
    shown_stage, shown_at = "", 0.0

    def show(stage: str, fraction: float) -> None:
        nonlocal shown_stage, shown_at
        now = time.monotonic()
        if live and (stage != shown_stage or now - shown_at > 0.1 or fraction >= 1):
            print(f"\r\033[K{fraction:5.0%}  {stage}", end="\n" if fraction >= 1 else "", file=sys.stderr, flush=True)
            shown_at = now
        elif not live and stage != shown_stage:
            print(f"{fraction:5.0%}  {stage}", file=sys.stderr, flush=True)
        shown_stage = stage

    return show


if __name__ == "__main__":
    sys.exit(main())
