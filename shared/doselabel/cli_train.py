"""The command `doselabel train`, and how any command is told to train. Knows arguments; the work is done below.

Every setting of `doselabel.model.settings` is a flag; a flag goes before a file of settings, that before a recipe.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from doselabel.cli_data import data_arguments, found_cases, say
from doselabel.errors import ModelError, Progress

if TYPE_CHECKING:
    from doselabel.model.cases import TrainCase
    from doselabel.model.mix import Mix
    from doselabel.model.profiles import Profile
    from doselabel.model.settings import Settings

Terminal = Callable[[], Progress]


def add(command: Callable[..., argparse.ArgumentParser], commands: Any, terminal: Terminal) -> None:
    """Add the command to a parser; ``terminal`` makes what shows progress."""
    train = command(commands, "train", lambda args: _train(args, terminal), "train the network on CTs with label maps")
    train.add_argument("dir", type=Path, nargs="?", help="cases: studies, KiTS, LiTS, pairs … (docs/data.md)")
    train.add_argument("--out", type=Path, required=True, help="folder of the run; a run that was killed goes on")
    train.add_argument("--validation", type=Path, help="folder of cases never trained on")
    train.add_argument("--split", type=Path, help="split.json: train on its training patients, validate on its others")
    train.add_argument(
        "--pack", metavar="FILE", type=Path, help="train nothing: write the recipe's cases, ready, into FILE"
    )
    train.add_argument(
        "--packed", metavar="FILE", type=Path, help="take the recipe's cases from FILE, without any data"
    )
    data_arguments(train)
    training_arguments(train)


def training_arguments(parser: argparse.ArgumentParser) -> None:
    """What a run learns, from what it starts, and every setting."""
    parser.add_argument(
        "--recipe",
        "--mix",
        metavar="NAME|FILE",
        help="paper, paper-kidneys, paper-liver, paper-parenchyma, starter, or a YAML file (doselabel.model.mix)",
    )
    parser.add_argument("--data", type=Path, help="what $DATA stands for in the recipe")
    parser.add_argument("--config", type=Path, help="YAML file of settings; a flag goes before it")
    parser.add_argument("--profile", help="fast, fast-spect or paper (default: that of --start, else fast)")
    parser.add_argument("--learn-organs", metavar="NAMES", help="organs to learn, with commas (default: the profile's)")
    parser.add_argument("--parenchyma", type=Path, help="cases whose kidneys are parenchyma, for stages that learn it")
    parser.add_argument("--start", type=Path, help="checkpoint to go on from (or: starter); with --profile, what fits")
    parser.add_argument("--pretrained", type=Path, help="file of torchvision's ImageNet weights for the backbone")
    for flag, name, kind, text in (
        ("--steps", "steps", int, "optimizer steps (default: 2000)"),
        ("--epochs", "epochs", float, "instead: draws of each slice that shows an organ, on the mean"),
        ("--max-minutes", "max_minutes", float, "end the learning rate's cycle after this time at the latest"),
        ("--batch", "batch", int, "slices per step (default: 4)"),
        ("--crop", "crop_px", int, "longest side of a training slice in pixels (default: 224)"),
        ("--planes", "planes", str, "planes trained on (default: axial,coronal,sagittal)"),
        ("--rate", "learning_rate", float, "peak learning rate (default: 1e-3; 1e-4 from a checkpoint)"),
        ("--stages", "stages", str, "learn:epochs:rate[:labels],… such as heads:50:1e-3,all:100:1e-4"),
        ("--ema", "ema", float, "decay of the averaged weights (default: 0.998)"),
        ("--keep-start", "keep_start", float, "part of the weights of --start in what is written (default: 0)"),
        ("--seed", "seed", int, "same seed, same slices (default: 0)"),
        ("--device", "device", str, "cpu, cuda or auto (default: auto)"),
        ("--workers", "workers", int, "processes that draw slices (default: 0)"),
        ("--checkpoint-every", "checkpoint_every", int, "steps between states to go on from (default: 200)"),
        ("--validate-every", "validate_every", int, "steps between evaluations (default: at the end only)"),
        ("--keep", "keep", str, "weights that stay: the best on validation patients, or the last (default: best)"),
        ("--patience", "patience", int, "evaluations without gain after which to stop (default: never)"),
        ("--cache", "cache", Path, "folder of prepared cases (default: OUT/prepared)"),
    ):
        parser.add_argument(flag, dest=name, type=kind, help=text)
    parser.add_argument(
        "--augment", action=argparse.BooleanOptionalAction, default=None, help="vary slices (default: yes)"
    )


def recipe_of(args: argparse.Namespace, progress: Progress, *, hold_out: bool = True) -> Mix:
    """The recipe that was named, or an empty one."""
    from doselabel.model.mix import Mix, read_mix

    if args.recipe is None:
        return Mix()
    packed = getattr(args, "packed", None)
    recipe = read_mix(args.recipe, args.out / "made", args.data, progress, hold_out=hold_out, packed=packed)
    if (args.dir is None) == (not recipe.sources):
        raise ModelError(
            f"Found {'no cases' if args.dir is None else 'cases in ' + str(args.dir)}, and the recipe {args.recipe} "
            f"names {len(recipe.sources)} source(s).",
            "Give a folder of cases exactly when the recipe names no sources.",
        )
    return recipe


def settings_of(args: argparse.Namespace, recipe: Mix) -> Settings:
    """Settings of a run: the recipe's, then those of ``--config``, then flags."""
    from doselabel.model.settings import read_yaml

    settings = recipe.settings
    if not settings.checkpoint_every:
        settings = settings.replace(checkpoint_every=200)
    if args.config:
        settings = settings.replace(**read_yaml(args.config))
    return settings.replace(**{name: getattr(args, name) for name in settings.to_dict()})


def profile_of(args: argparse.Namespace, recipe: Mix, start: Path | None) -> Profile:
    """The profile that was named, else that of ``start``, else the default; with the organs that were named."""
    from doselabel.model.checkpoint import read_card
    from doselabel.model.profiles import FAST, PROFILES

    if args.profile and args.profile not in PROFILES:
        raise ModelError(f"'{args.profile}' is no profile; there are {', '.join(PROFILES)}.", "Give one of them.")
    profile = PROFILES[args.profile] if args.profile else recipe.profile
    profile = profile or (read_card(start)[0] if start else FAST)
    organs = [part for part in (args.learn_organs or "").split(",") if part] or recipe.organs
    return profile.of_organs(organs) if organs else profile


def parenchyma_of(args: argparse.Namespace) -> list[TrainCase]:
    """The cases given for stages that learn parenchyma."""
    from doselabel.model.datasets import cases_from

    return cases_from(args.parenchyma) if args.parenchyma else []


def _train(args: argparse.Namespace, terminal: Terminal) -> None:
    from doselabel.model.splits import Split, check_patients
    from doselabel.model.train import Source, train

    progress = terminal()
    recipe = recipe_of(args, progress)
    if args.dir is None and args.recipe is None:
        raise ModelError("Found no cases.", "Give a folder of cases, or a --recipe with sources.")
    settings = settings_of(args, recipe)
    profile = profile_of(args, recipe, settings.start)
    if args.pack:
        from doselabel.model.carry import pack

        size = pack(recipe.sources, profile, args.pack, settings.cache or args.out / "prepared", progress)
        print(
            f"{args.pack}: {size / 1e6:.1f} MB, for 'doselabel train --recipe {args.recipe} --packed {args.pack.name}'"
        )
        return
    card: dict[str, Any] = {"name": args.out.name}
    card |= recipe.card
    if recipe.attribution:
        card["attribution"] = list(recipe.attribution)
    sources: Sequence[Source] = recipe.sources or [Source("cases", 1.0, found_cases(args))]
    validation = [*recipe.validation, *(found_cases(args, args.validation) if args.validation else [])]
    if args.split:
        split = Split.read(args.split)
        every = [case for source in sources for case in source.cases]
        check_patients(split, every)
        validation += split.cases(every, "validation")
        sources = [dataclasses.replace(s, cases=split.cases(s.cases, "train")) for s in sources]
    result = train(
        sources,
        args.out,
        settings=settings,
        profile=profile,
        validation=validation,
        parenchyma=parenchyma_of(args),
        card=card,
        progress=progress,
    )
    say(result.findings)
    print(f"checkpoint in {result.checkpoint}")
