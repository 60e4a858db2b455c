"""The commands that score: `doselabel evaluate` and `doselabel crossval`. Knows arguments; the work is done below.

Their room apart from `doselabel.cli` keeps both short.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from doselabel.errors import ModelError, Progress

if TYPE_CHECKING:
    from doselabel.alarms import Alarm
    from doselabel.model.splits import Split

PLANES = ("axial", "coronal", "sagittal")
Terminal = Callable[[], Progress]


def add(command: Callable[..., argparse.ArgumentParser], commands: Any, terminal: Terminal) -> None:
    """Add both commands to a parser; ``terminal`` makes what shows progress."""
    evaluate = command(
        commands, "evaluate", lambda args: _evaluate(args, terminal),
        "Dice, surface Dice, HD95, volume, mass and dose error of a model or of label maps",
    )  # fmt: skip
    evaluate.add_argument("dir", type=Path, nargs="?", help="cases to segment and score (any layout of docs/data.md)")
    evaluate.add_argument("--checkpoint", type=Path, help="default: the starter model")
    evaluate.add_argument("--consensus", action="store_true", help="all three planes")
    evaluate.add_argument("--score", type=float, help="score threshold (default: the profile's)")
    evaluate.add_argument("--pred", type=Path, help="label map, or folder of label maps, instead of a model")
    evaluate.add_argument("--truth", type=Path, help="what --pred is compared with: file, folder, or folder of cases")
    evaluate.add_argument("--pred-scheme", metavar="NAME", help="numbering of --pred, when it does not carry names")
    evaluate.add_argument("--organs", help="with commas; default: what both sides have")
    evaluate.add_argument("--split", type=Path, help="split.json: score its test patients alone")
    evaluate.add_argument("--part", choices=("train", "validation", "test"), default="test", help="of --split")
    evaluate.add_argument("--doses", action="store_true", help="also compute the doses of studies with both masks")
    evaluate.add_argument("--out", type=Path, help="folder for scores.csv, scores.json, box plots, worst cases")
    data_arguments(evaluate)

    crossval = command(
        commands, "crossval", lambda args: _crossval(args, terminal),
        "train and test in folds by patient; one table, with and without consensus",
    )  # fmt: skip
    crossval.add_argument("dir", type=Path, help="cases (any layout of docs/data.md)")
    crossval.add_argument("--out", type=Path, required=True, help="folder of the run; the same one goes on")
    crossval.add_argument("--folds", type=int, default=5, help="1 draws one split (default: 5)")
    crossval.add_argument(
        "--split", default="80/0/20", help="80/0/20, or with validation the paper's 60/20/20, 70/10/20"
    )
    crossval.add_argument("--seed", type=int, default=0)
    crossval.add_argument("--steps", type=int, default=2000, help="of each fold (default: 2000)")
    crossval.add_argument("--start", type=Path, help="checkpoint each fold goes on from; it must not know the patients")
    crossval.add_argument("--profile", choices=("fast", "paper"), default="fast")
    crossval.add_argument("--score", type=float, help="score threshold (default: the profile's)")
    crossval.add_argument("--no-consensus", action="store_true", help="axial alone")
    data_arguments(crossval)


def data_arguments(parser: argparse.ArgumentParser) -> None:
    """Which files are cases, and what counts to an organ."""
    parser.add_argument(
        "--label-scheme",
        metavar="NAME",
        help="how label maps without names are numbered, when the layout does not tell: kits, btcv …",
    )
    parser.add_argument("--layout", help="layout of the cases (default: found by the names of files)")
    parser.add_argument(
        "--lesions", choices=("merge", "apart"), default="merge", help="tumours and cysts count to their organ, or not"
    )


def _evaluate(args: argparse.Namespace, terminal: Terminal) -> None:
    from doselabel.io.evaluation import evaluate_files, evaluate_model
    from doselabel.model.checkpoint import starter_path
    from doselabel.model.datasets import cases_from
    from doselabel.model.scores import table
    from doselabel.model.splits import Split

    if (args.pred is None) != (args.truth is None) or (args.pred is None) == (args.dir is None):
        raise ModelError(
            "Found neither a folder of cases, nor --pred with --truth (or both).",
            "Write `doselabel evaluate CASES [--checkpoint FILE]` or `doselabel evaluate --pred DIR --truth DIR`.",
        )
    if args.pred is not None:
        found = evaluate_files(
            args.pred,
            args.truth,
            predicted_scheme=args.pred_scheme,
            truth_scheme=args.label_scheme,
            layout=args.layout,
            organs=[name for name in (args.organs or "").split(",") if name],
            merge_lesions=args.lesions == "merge",
            doses=args.doses,
            progress=terminal(),
        )
    else:
        cases = cases_from(
            args.dir, args.layout, scheme=args.label_scheme, merge_lesions=args.lesions == "merge", truth_first=True
        )
        if args.split:
            cases = Split.read(args.split).cases(cases, args.part)
        found = evaluate_model(
            args.checkpoint or starter_path(),
            cases,
            planes=PLANES if args.consensus else PLANES[:1],
            score_threshold=args.score,
            doses=args.doses,
            progress=terminal(),
        )
    say(found.alarms)
    print(table(found.rows))
    for note in found.notes:
        print(f"note: {note}")
    if args.out:
        found.write(args.out)
        print(f"table, box plots and worst cases in {args.out}")


def _crossval(args: argparse.Namespace, terminal: Terminal) -> None:
    from doselabel.model.crossval import MODES, crossvalidate
    from doselabel.model.datasets import cases_from

    cases = cases_from(args.dir, args.layout, scheme=args.label_scheme, merge_lesions=args.lesions == "merge")
    if args.start:
        _refuse_known(args.start, {case.patient for case in cases})

    def train_fold(split: Split, out: Path, progress: Progress) -> Path:
        from doselabel.model.profiles import PROFILES
        from doselabel.model.train import train

        done = train(
            split.cases(cases, "train"),
            out,
            start=args.start,
            profile=None if args.start else PROFILES[args.profile],
            steps=args.steps,
            seed=args.seed,
            validation=split.cases(cases, "validation"),
            progress=progress,
        )
        return done.checkpoint

    result = crossvalidate(
        cases,
        args.out,
        train_fold,
        count=args.folds,
        split=args.split,
        seed=args.seed,
        modes=("axial",) if args.no_consensus else tuple(MODES),
        score_threshold=args.score,
        about={
            "steps": args.steps,
            "profile": args.profile,
            "start": str(args.start or ""),
            "score": args.score,
            "lesions": args.lesions,
        },
        progress=terminal(),
    )
    print(result.text())
    print(f"folds, checkpoints and scores in {args.out}")


def say(alarms: Iterable[Alarm]) -> None:
    """Print what must be known before any number."""
    for alarm in alarms:
        print(f"{alarm.severity}: {alarm.sentence}")


def _refuse_known(start: Path, patients: set[str]) -> None:
    """A fold that starts from a model that has seen its test patients proves nothing."""
    from doselabel.model.checkpoint import read_card

    card = read_card(start)[1]
    if seen := sorted(patients & set(card.get("patients", ()))):
        raise ModelError(
            f"{start}: was trained on {len(seen)} of the patients that would be tested: {', '.join(seen[:5])}.",
            "Start from a checkpoint that knows none of them, or without --start.",
        )
