"""The commands that score: `doselabel evaluate` and `doselabel crossval`. Knows arguments; the work is done below.

Their room apart from `doselabel.cli` keeps both short.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from doselabel.cli_data import consensus_argument, data_arguments, found_cases, planes_of, reading_arguments, say
from doselabel.cli_train import parenchyma_of, profile_of, recipe_of, settings_of, training_arguments
from doselabel.errors import ModelError, Progress
from doselabel.files import file_sha256

if TYPE_CHECKING:
    from doselabel.model.splits import Split

UNTOLD = {"steps", "seed", "device", "workers", "checkpoint_every", "cache"}
"""Settings that a table of results need not name, or names already."""
Terminal = Callable[[], Progress]


def add(command: Callable[..., argparse.ArgumentParser], commands: Any, terminal: Terminal) -> None:
    """Add both commands to a parser; ``terminal`` makes what shows progress."""
    evaluate = command(
        commands, "evaluate", lambda args: _evaluate(args, terminal),
        "Dice, surface Dice, HD95, volume, mass and dose error of a model or of label maps",
    )  # fmt: skip
    evaluate.add_argument("dir", type=Path, nargs="?", help="cases to segment and score (any layout of docs/data.md)")
    evaluate.add_argument("--checkpoint", type=Path, help="default: the starter model")
    consensus_argument(evaluate)
    reading_arguments(evaluate)
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
    crossval.add_argument("dir", type=Path, nargs="?", help="cases (any layout of docs/data.md), or a --recipe's")
    crossval.add_argument("--out", type=Path, required=True, help="folder of the run; the same one goes on")
    crossval.add_argument("--folds", type=int, help="1 draws one split (default: 5)")
    crossval.add_argument(
        "--split",
        help="training/validation/test in percent: 80/0/20 (default), or the paper's 60/20/20 or 70/10/20",
    )
    crossval.add_argument("--no-consensus", action="store_true", help="axial alone")
    crossval.add_argument("--consensus", choices=("mean", "vote"), help="default: the profile's own")
    reading_arguments(crossval)
    data_arguments(crossval)
    training_arguments(crossval)


def _evaluate(args: argparse.Namespace, terminal: Terminal) -> None:
    from doselabel.io.evaluation import evaluate_files, evaluate_model
    from doselabel.model.checkpoint import starter_path
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
        cases = found_cases(args, truth_first=True)
        if args.split:
            cases = Split.read(args.split).cases(cases, args.part)
        found = evaluate_model(
            args.checkpoint or starter_path(),
            cases,
            planes=planes_of(args),
            reading={"consensus": args.consensus or None, "score_threshold": args.score, "gap_fill": args.fill},
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
    from doselabel.model.settings import Settings
    from doselabel.model.train import Source, train

    progress = terminal()
    recipe = recipe_of(args, progress, hold_out=False)
    if args.dir is None and args.recipe is None:
        raise ModelError("Found no cases.", "Give a folder of cases, or a --recipe with sources.")
    sources = recipe.sources or (Source("cases", 1.0, found_cases(args)),)
    cases = [case for source in sources if source.name not in recipe.made for case in source.cases]
    settings, fine = settings_of(args, recipe), parenchyma_of(args)
    settings = settings.replace(cache=settings.cache or args.out / "prepared")
    profile = profile_of(args, recipe, settings.start)
    if settings.start:
        _refuse_known(settings.start, {case.patient for case in cases})
    if settings.schedule()[-1].labels == "parenchyma":  # then that is what the model was taught last
        cases = [dataclasses.replace(case, parenchyma=True) for case in cases]

    def train_fold(split: Split, out: Path, progress: Progress) -> Path:
        # What is painted or synthetic helps in every fold.
        kept = {*split.validation, *split.test}
        done = train(
            [dataclasses.replace(s, cases=[c for c in s.cases if c.patient not in kept]) for s in sources],
            out,
            settings=settings,
            profile=profile,
            validation=split.cases(cases, "validation"),
            parenchyma=[case for case in fine if case.patient not in kept],
            progress=progress,
        )
        return done.checkpoint

    told, usual = settings.to_dict(), Settings().to_dict()
    about: dict[str, Any] = {"profile": profile.name}
    about |= {"epochs": settings.epochs} if settings.epochs else {"steps": settings.steps}
    about |= {name: value for name, value in told.items() if value != usual[name] and name not in UNTOLD}
    files = {name: path for name in ("start", "pretrained") if (path := getattr(settings, name))}
    about |= {name: f"{path.name} ({file_sha256(path)[:12]})" for name, path in files.items() if path.is_file()}
    about |= {name: getattr(args, name) for name in ("score", "fill", "consensus") if getattr(args, name)}
    about |= {"lesions": args.lesions} if args.lesions != "merge" else {}
    about |= {"kidneys": "parenchyma"} if any(case.parenchyma for case in cases) else {}
    result = crossvalidate(
        cases,
        args.out,
        train_fold,
        count=args.folds or recipe.folds or 5,
        split=args.split or recipe.split or "80/0/20",
        seed=settings.seed,
        modes=("axial",) if args.no_consensus else tuple(MODES),
        reading={"consensus": args.consensus, "score_threshold": args.score, "gap_fill": args.fill},
        about=about,
        progress=progress,
    )
    print(result.text())
    print(f"folds, checkpoints and scores in {args.out}")


def _refuse_known(start: Path, patients: set[str]) -> None:
    """A fold that starts from a model that has seen its test patients proves nothing."""
    from doselabel.model.checkpoint import read_card

    card = read_card(start)[1]
    if seen := sorted(patients & set(card.get("patients", ()))):
        raise ModelError(
            f"{start}: was trained on {len(seen)} of the patients that would be tested: {', '.join(seen[:5])}.",
            "Start from a checkpoint that knows none of them, or without --start.",
        )
