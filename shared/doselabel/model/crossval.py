"""Cross-validation: folds by patient, a model for each, its masks with and without consensus, one table.

It knows splits, folders and scores; how a fold is trained it is told. What is done is kept: a run that was stopped
goes on where it was.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from doselabel.errors import ModelError, Progress, no_progress
from doselabel.model.cases import TrainCase
from doselabel.model.scores import OrganScore, global_dice, read_scores, write_scores
from doselabel.model.splits import SPLITS, Split, check_patients, folds, random_split

MODES: Mapping[str, tuple[str, ...]] = {"axial": ("axial",), "consensus": ("axial", "coronal", "sagittal")}
"""Without and with consensus of three planes (Nazari 2021, A.2)."""

ALL_BUT_TEST = "80/0/20"

TrainFold = Callable[[Split, Path, Progress], Path]
"""Trains on a split, in a folder of its own; returns the checkpoint. It may go on where an earlier call stopped."""


@dataclass(frozen=True)
class CrossValidation:
    """Scores of all folds.

    Attributes
    ----------
    rows : dict of str to tuple of tuple of OrganScore
        Mode ("axial", "consensus") → the rows of each fold's test patients.
    about : dict
        What was run: folds, split, steps, patients.
    """

    rows: Mapping[str, tuple[tuple[OrganScore, ...], ...]]
    about: dict

    def organs(self) -> list[str]:
        """Organs that were scored."""
        return list(dict.fromkeys(row.organ for parts in self.rows.values() for part in parts for row in part))

    def over_folds(self, mode: str, figure: str, organ: str) -> tuple[float, float]:
        """Mean and standard deviation over the folds' means; nan where fewer than two folds have the organ."""
        means = []
        for part in self.rows[mode]:
            values = [getattr(row, figure) for row in part if row.organ == organ]
            values = [value for value in values if not math.isnan(value)]
            if values:
                means.append(float(np.mean(values)))
        return _mean_sd(means)

    def global_dice(self, mode: str, kind: str) -> tuple[float, float]:
        """Global mean Dice over folds: of masks, or of slices as in the paper."""
        return _mean_sd([value for part in self.rows[mode] if not math.isnan(value := global_dice(part)[kind])])

    def text(self) -> str:
        """The table, for reading and for docs (Markdown)."""
        lines = [
            "| organ | planes | Dice | surface Dice 2 mm | HD95 mm | volume error % | masks |",
            "|---|---|---|---|---|---|---|",
        ]
        for organ in self.organs():
            for mode, parts in self.rows.items():
                count = sum(row.organ == organ for part in parts for row in part)
                cells = [
                    _shown(self.over_folds(mode, figure, organ), digits)
                    for figure, digits in (
                        ("dice", 3), ("surface_dice_2mm", 3), ("hd95_mm", 1), ("volume_error_percent", 1),
                    )
                ]  # fmt: skip
                lines.append(f"| {organ.replace('_', ' ')} | {mode} | {' | '.join(cells)} | {count} |")
        for mode in self.rows:
            lines.append(
                f"| global mean | {mode} | {_shown(self.global_dice(mode, 'masks'), 3)} "
                f"(by slice {_shown(self.global_dice(mode, 'slices'), 3)}) | | | | |"
            )
        done = len(next(iter(self.rows.values())))
        lines.append("")
        lines.append(f"Mean ± standard deviation over {done} fold(s). " + _words(self.about))
        return "\n".join(lines)


def splits_of(
    cases: Sequence[TrainCase], out: Path, *, count: int = 5, split: str = ALL_BUT_TEST, seed: int = 0
) -> list[Split]:
    """Draw the folds, or read them from an earlier run in the same folder.

    Parameters
    ----------
    count : int
        Folds; 1 draws one split.
    split : str
        "80/0/20", "60/20/20" or "70/10/20" (the paper's): what is not tested is trained on or validated. The tested
        share is that of the folds.

    Raises
    ------
    ModelError
        When the folder holds a run with other folds or patients.
    """
    shares = {**SPLITS, ALL_BUT_TEST: (0.8, 0.0, 0.2)}.get(split)
    if shares is None:
        raise ModelError(f"'{split}' is no split; expected {ALL_BUT_TEST}, {' or '.join(SPLITS)}.", "Give one of them.")
    patients = [case.patient for case in cases]
    if count == 1:
        wanted = [random_split(patients, shares, seed)]
    else:
        wanted = folds(patients, count, seed, validation=shares[1])
    files = [Path(out) / f"fold_{k}" for k in range(1, count + 1)]
    for fold, folder in zip(wanted, files, strict=True):
        if (folder / "split.json").is_file():
            kept = Split.read(folder)
            check_patients(kept, cases)
            if (kept.train, kept.validation, kept.test) != (fold.train, fold.validation, fold.test):
                raise ModelError(
                    f"{folder}: holds a fold that was drawn otherwise ({kept.kind}, seed {kept.seed}).",
                    "Give another --out, or the folds, split, seed and data of that run.",
                )
        else:
            fold.write(folder)
    return wanted


def crossvalidate(
    cases: Sequence[TrainCase],
    out: Path,
    train_fold: TrainFold,
    *,
    count: int = 5,
    split: str = ALL_BUT_TEST,
    seed: int = 0,
    modes: Sequence[str] = tuple(MODES),
    reading: Mapping[str, Any] | None = None,
    about: dict | None = None,
    progress: Progress = no_progress,
) -> CrossValidation:
    """Train and test every fold; write ``crossval.json`` and ``crossval.md``.

    ``fold_<k>`` in ``out`` holds a fold's split, checkpoint and scores. What is there already is not done again, so
    that a run may be stopped at any time.
    """
    out = Path(out)
    wanted = splits_of(cases, out, count=count, split=split, seed=seed)
    about = {"folds": count, "split": split, "seed": seed, "patients": len({c.patient for c in cases})} | (about or {})
    _same_run(out, about)
    rows: dict[str, list[tuple[OrganScore, ...]]] = {mode: [] for mode in modes}
    for number, fold in enumerate(wanted, start=1):
        folder = out / f"fold_{number}"

        def step(stage: str, fraction: float, number: int = number) -> None:
            progress(f"fold {number} of {count}: {stage}", (number - 1 + fraction) / count)

        if not all((folder / mode / "scores.json").is_file() for mode in modes):
            _run_fold(fold, cases, folder, train_fold, modes, reading, step)
        for mode in modes:
            rows[mode].append(tuple(read_scores(folder / mode / "scores.json")))
    result = CrossValidation({mode: tuple(parts) for mode, parts in rows.items()}, about)
    (out / "crossval.json").write_text(json.dumps(_json(result), indent=1) + "\n", "utf-8")
    (out / "crossval.md").write_text(result.text() + "\n", "utf-8")
    return result


def _run_fold(
    fold: Split,
    cases: Sequence[TrainCase],
    folder: Path,
    train_fold: TrainFold,
    modes: Sequence[str],
    reading: Mapping[str, Any] | None,
    progress: Progress,
) -> None:
    from doselabel.model.checkpoint import load
    from doselabel.model.evaluate import evaluate

    done = folder / "checkpoint.json"
    if done.is_file():
        checkpoint = folder / json.loads(done.read_text("utf-8"))["file"]
    else:
        checkpoint = train_fold(fold, folder, lambda stage, fraction: progress(stage, 0.8 * fraction))
        done.write_text(json.dumps({"file": str(Path(checkpoint).relative_to(folder))}), "utf-8")
    ready = load(checkpoint)
    for k, mode in enumerate(modes):
        if (folder / mode / "scores.json").is_file():
            continue
        start = 0.8 + 0.2 * k / len(modes)

        def part(stage: str, fraction: float, start: float = start) -> None:
            progress(f"testing, {mode}", start + 0.2 * fraction / len(modes))  # noqa: B023

        rows = evaluate(ready, fold.cases(cases, "test"), planes=MODES[mode], reading=reading, progress=part)
        write_scores(rows, folder / mode, {"model_sha256": ready.sha256, "planes": list(MODES[mode])})


def _same_run(out: Path, about: dict) -> None:
    """Refuse to mix models of different runs in one table."""
    path = out / "run.json"
    if path.is_file() and (kept := json.loads(path.read_text("utf-8"))) != json.loads(json.dumps(about)):
        changed = sorted(key for key in {*kept, *about} if kept.get(key) != about.get(key))
        raise ModelError(
            f"{out}: holds a cross-validation with another {', '.join(changed)} "
            f"({', '.join(f'{key} {kept.get(key)}' for key in changed)}).",
            "Give another --out, or go on with the same settings.",
        )
    path.write_text(json.dumps(about, indent=1) + "\n", "utf-8")


def _json(result: CrossValidation) -> dict:
    def known(pair: tuple[float, float]) -> list[float | None]:
        return [None if math.isnan(value) else round(value, 4) for value in pair]

    return {
        **result.about,
        "global_mean_dice": {
            mode: {kind: known(result.global_dice(mode, kind)) for kind in ("masks", "slices")} for mode in result.rows
        },
        "organs": {
            organ: {
                mode: {
                    figure: known(result.over_folds(mode, figure, organ))
                    for figure in ("dice", "surface_dice_2mm", "hd95_mm", "volume_error_percent")
                }
                for mode in result.rows
            }
            for organ in result.organs()
        },
    }


def _mean_sd(values: Sequence[float]) -> tuple[float, float]:
    if not values:
        return math.nan, math.nan
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else math.nan


def _shown(pair: tuple[float, float], digits: int) -> str:
    mean, sd = pair
    if math.isnan(mean):
        return "–"
    return f"{mean:.{digits}f}" + ("" if math.isnan(sd) else f" ± {sd:.{digits}f}")


def _words(about: dict) -> str:
    return "; ".join(f"{key.replace('_', ' ')}: {value}" for key, value in about.items()) + "."
