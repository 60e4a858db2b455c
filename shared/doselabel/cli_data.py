"""Which files are cases, and what their values mean, as commands are told it. Knows arguments and datasets."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from doselabel.alarms import Alarm
    from doselabel.model.cases import TrainCase


def data_arguments(parser: argparse.ArgumentParser) -> None:
    """Which files are cases, and what counts to an organ."""
    parser.add_argument(
        "--label-scheme",
        metavar="NAME",
        help="how label maps without names are numbered, when the layout does not tell: kits, btcv …",
    )
    parser.add_argument(
        "--names", type=_names, metavar="VALUE=ORGAN,…", help="or how: 1=liver,2=right_kidney,3=left_kidney"
    )
    parser.add_argument("--layout", help="layout of the cases (default: found by the names of files)")
    parser.add_argument(
        "--lesions", choices=("merge", "apart"), default="merge", help="tumours and cysts count to their organ, or not"
    )
    parser.add_argument(
        "--kidneys",
        choices=("given", "parenchyma"),
        default="given",
        help="kidneys as drawn, or without pelvis and vessels, which are then found by HU and distance",
    )


def consensus_argument(parser: argparse.ArgumentParser) -> None:
    """All three planes, and how they agree; False is the way of the model's own profile."""
    parser.add_argument(
        "--consensus",
        nargs="?",
        choices=("mean", "vote"),
        const=False,
        help="all three planes (about three times slower): mean probability, or the paper's 2-of-3 vote (default: the "
        "model's own; fast mean, paper vote)",
    )


def planes_of(args: argparse.Namespace) -> tuple[str, ...]:
    """The planes that a command with `consensus_argument` is to look at."""
    return ("axial", "coronal", "sagittal") if args.consensus is not None else ("axial",)


def reading_arguments(parser: argparse.ArgumentParser) -> None:
    """How what the network says is read."""
    parser.add_argument(
        "--score", type=_fraction, help="least score of a detection (default: the model's own; fast 0.5, paper 0.9)"
    )
    parser.add_argument(
        "--fill",
        choices=("distance", "linear"),
        help="how missed slices are filled (default: the model's own; fast distance, paper linear)",
    )


def found_cases(args: argparse.Namespace, folder: Path | None = None, *, truth_first: bool = False) -> list[TrainCase]:
    """The cases below ``args.dir``, or another folder, with the numbering that was stated."""
    from doselabel.model.datasets import cases_from, without_labels

    cases = cases_from(
        folder or args.dir,
        args.layout,
        scheme=args.label_scheme,
        names=args.names,
        merge_lesions=args.lesions == "merge",
        parenchyma=args.kidneys == "parenchyma",
        truth_first=truth_first,
    )
    if missing := without_labels(cases):
        print(f"note: a CT without a label map that counts is left out: {', '.join(missing)}.")
    return cases


def say(alarms: Iterable[Alarm]) -> None:
    """Print what must be known before any number."""
    for alarm in alarms:
        print(f"{alarm.severity}: {alarm.sentence}")


def _names(text: str) -> dict[int, str]:
    names = {}
    for part in text.split(","):
        value, equals, name = part.partition("=")
        if not (equals and name.strip() and value.strip().isdigit()):
            raise argparse.ArgumentTypeError(f"'{part}' is not VALUE=ORGAN, as in 1=liver")
        names[int(value)] = name.strip()
    return names


def _fraction(text: str) -> float:
    value = float(text)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not between 0 and 1")
    return value
