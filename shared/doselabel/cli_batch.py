"""The command `batch`: the steps of one patient for a folder of studies. Knows arguments and the terminal."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from doselabel.cli_data import consensus_argument, planes_of, reading_arguments
from doselabel.cli_dose import option_arguments, options_of
from doselabel.errors import DoselabelError, Progress

Terminal = Callable[[], Progress]
TASKS = "segment,register,dose"


def add(command: Callable[..., argparse.ArgumentParser], commands: Any, terminal: Terminal) -> None:
    """Add the command to a parser; ``terminal`` makes what shows progress."""
    batch = command(
        commands, "batch", lambda args: _batch(args, terminal()),
        "segment, register and dose all patients of a folder, side by side; what is finished is not done again",
    )  # fmt: skip
    batch.add_argument("studies", type=Path)
    batch.add_argument("--out", type=Path, required=True, help="folder of the cohort; the same one goes on")
    batch.add_argument(
        "--tasks", default=TASKS, help=f"of segment, register, dose, train-data, evaluate (default: {TASKS})"
    )
    batch.add_argument(
        "--workers", type=_workers, help="processes here, 0: none but this one (default: by cores and memory)"
    )
    batch.add_argument("--scheduler", metavar="ADDRESS", help="Dask scheduler whose workers do it: tcp://HOST:8786")
    batch.add_argument("--no-report", action="store_true", help="no report.html and .pdf of each patient")
    batch.add_argument("--checkpoint", type=Path, help="default: the starter model")
    consensus_argument(batch)
    reading_arguments(batch)
    option_arguments(batch)


def _workers(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{value} is below 0")
    return value


def _batch(args: argparse.Namespace, progress: Progress) -> int:
    from doselabel.cohort.page import write_cohort
    from doselabel.cohort.patient import TASKS, Job
    from doselabel.cohort.run import Interrupted, run, studies_of

    tasks = tuple(args.tasks.split(","))
    if unknown := [task for task in tasks if task not in TASKS]:
        raise DoselabelError(f"'{unknown[0]}' is no task; there are {', '.join(TASKS)}.", "Name some, with commas.")
    reading = {
        "planes": planes_of(args),
        "consensus": args.consensus or None,
        "score_threshold": args.score,
        "gap_fill": args.fill,
    }
    out, found = args.out.resolve(), studies_of(args.studies)
    out.mkdir(parents=True, exist_ok=True)
    checkpoint = args.checkpoint and args.checkpoint.resolve()
    labels = str(Path(args.labels).resolve()) if os.sep in args.labels else args.labels
    options = options_of(args).model_dump(mode="json")
    jobs = [Job(study, out, tasks, labels, checkpoint, reading, options, not args.no_report) for study in found]
    try:
        outcomes = run(jobs, workers=args.workers, scheduler=args.scheduler, progress=progress)
    except Interrupted as error:
        known = {outcome.name for outcome in error.outcomes}
        left = [job.study.name for job in jobs if job.study.name not in known]
        write_cohort(error.outcomes, out, left)
        print(f"\n{len(known)} of {len(jobs)} patients are done; the same command goes on.", file=sys.stderr)
        raise
    page = write_cohort(outcomes, out)
    failed = [outcome for outcome in outcomes if outcome.error]
    for outcome in failed:
        assert outcome.error is not None
        print(f"{outcome.name}: {outcome.error['step']}: {outcome.error['message']}")
        if outcome.error["hint"]:
            print(f"  → {outcome.error['hint']}")
    computed = sum(len(outcome.computed) for outcome in outcomes)
    reused = sum(len(outcome.reused) for outcome in outcomes)
    print(f"{len(outcomes) - len(failed)} of {len(outcomes)} patients done ({computed} steps, {reused} done before)")
    print(f"table in {page}, cohort.csv, cohort.parquet")
    return 1 if failed else 0
