"""How a training goes, in the words of MONAI Label's clients. Knows jobs; trains nothing.

3D Slicer draws ``epoch`` of ``max_epochs`` until there is a ``total_time``, and ``best_metric`` (0 to 1) as accuracy.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from doselabel.wire import JobStatus, TrainingSummary
from monailabel_app.jobs.manager import JobManager
from monailabel_app.refusals import Refused
from monailabel_app.tasks import TRAIN

HUNDREDTHS = 100
"""An "epoch" is one hundredth of a training: there are no epochs in a training by steps."""


def train_stats(jobs: JobManager) -> dict[str, Any]:
    """Progress of the training under way or last, and the Dice of the model that answers."""
    trainings = [job for job in jobs.list() if job.task == TRAIN]
    summary = _last_scored(jobs, trainings)
    stats: dict[str, Any] = {}
    if summary:
        dice = summary.dice_after if summary.promoted else summary.dice_before
        stats |= {"dice": dict(dice), "best_metric": mean(dice), "decision": summary.reason}
    if trainings:
        stats |= progress(trainings[0], datetime.now(UTC)) | figures(trainings[0])
    return stats


def progress(job: JobStatus, now: datetime) -> dict[str, Any]:
    """Of one training: epoch, and seconds that remain while it runs, or that it took."""
    stats: dict[str, Any] = {"epoch": int(HUNDREDTHS * job.fraction), "max_epochs": HUNDREDTHS, "stage": job.stage}
    if job.started is None:
        return stats
    if job.ended is not None:
        return stats | {"total_time": max(1, round((job.ended - job.started).total_seconds()))}
    if job.fraction > 0:
        stats["eta_s"] = round((now - job.started).total_seconds() * (1 / job.fraction - 1))
    return stats


def figures(job: JobStatus) -> dict[str, Any]:
    """Of one training: loss and Dice as it goes, the last ones apart."""
    losses = [row for row in job.rows if "loss" in row]
    scores = [
        {key.removeprefix("dice_"): value for key, value in row.items() if key.startswith("dice_")} for row in job.rows
    ]
    stats: dict[str, Any] = {"rows": job.rows} if job.rows else {}
    if losses:
        stats |= {"step": int(losses[-1]["step"]), "loss": losses[-1]["loss"]}
    if scored := [row for row in scores if row]:
        stats["dice_now"] = scored[-1]
    return stats


def mean(dice: Mapping[str, float]) -> float:
    """Mean over organs; 0 of none, which 3D Slicer draws as an empty bar."""
    return sum(dice.values()) / len(dice) if dice else 0.0


def _last_scored(jobs: JobManager, trainings: list[JobStatus]) -> TrainingSummary | None:
    for job in trainings:
        if job.state == "done":
            try:
                summary = jobs.result(job.id).training
            except Refused:  # forgotten in this moment
                continue
            if summary and summary.dice_before:
                return summary
    return None
