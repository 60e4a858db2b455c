"""Training: one loop on one screen. Knows cases, steps and checkpoints; no server, no queue, no promotion.

From scratch (`FAST`), from pretrained ImageNet weights (heads first, then everything, as in the paper), or from a
checkpoint on corrections mixed with replay.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

import doselabel
from doselabel.errors import Cancelled, ModelError, Progress, no_progress
from doselabel.model import checkpoint
from doselabel.model.cases import TrainCase
from doselabel.model.network import bf16_pays, build
from doselabel.model.profiles import FAST, Profile
from doselabel.model.slices import PLANES, Loaded, draw_slice, load_case, training_slice

__all__ = ["TrainCase", "TrainResult", "train"]

NEW_SHARE = 1 / 3
"""Part of each batch that comes from ``cases`` when replay is given (2/3 replay keeps what was learned)."""

CLIP_NORM = 5.0
EMA_DECAY = 0.998


@dataclass(frozen=True)
class TrainResult:
    """What training left behind.

    Attributes
    ----------
    checkpoint : Path
        EMA weights, fp16, with the model card.
    history : tuple of dict
        Mean losses per stretch of steps: ``step``, ``loss``, and each of the five by name.
    metrics : dict
        Organ → mean Dice etc. on ``validation``; empty without one.
    """

    checkpoint: Path
    history: tuple[dict[str, float], ...]
    metrics: dict


def train(
    cases: Sequence[TrainCase],
    out: Path,
    *,
    start: Path | None = None,
    profile: Profile | None = None,
    steps: int = 1000,
    seed: int = 0,
    validation: Sequence[TrainCase] = (),
    replay: Sequence[TrainCase] = (),
    pretrained: Path | None = None,
    batch: int = 4,
    crop_px: int = 224,
    learning_rate: float | None = None,
    card: dict | None = None,
    progress: Progress = no_progress,
) -> TrainResult:
    """Train a network and write its checkpoint.

    Parameters
    ----------
    cases : sequence of TrainCase
        CTs with corrected or expert labels. Never give uncorrected predictions.
    out : Path
        Checkpoint to write (``.safetensors``), or a folder for ``model.safetensors``.
    start : Path, optional
        Checkpoint to go on from; its profile is used and the learning rate is 1e-4.
    profile : Profile, optional
        Default: that of ``start``, else `FAST`.
    steps, seed, batch : int
    validation : sequence of TrainCase
        Evaluated at the end; its patients must not be among ``cases``.
    replay : sequence of TrainCase
        Earlier cases: two thirds of each batch, ``cases`` one third.
    pretrained : Path, optional
        ImageNet weights for the backbone: a third of the steps trains the heads alone at 1e-3, then everything
        at 1e-4 (Nazari 2021, Algorithm training).
    crop_px : int
        Longest side of a training slice.
    learning_rate : float, optional
        Peak of the one-cycle schedule; with ``pretrained``, the rate after the heads' stage.
    card : dict, optional
        Added to the model card: training data, attribution, version.
    progress : Progress
        Stages "loading", "training", "validating". When it raises `Cancelled`, what was learned so far is
        written to ``out`` before the exception goes on.

    Notes
    -----
    Torch uses as many threads as the caller has set (`torch.set_num_threads`); one is best on a shared machine.

    Raises
    ------
    ModelError
        No cases; a patient both trained on and validated; a wrong checkpoint or label map.
    """
    _check(cases, replay, validation, steps)
    if profile is None:
        profile = checkpoint.read_card(start)[0] if start else FAST
    out = Path(out) / "model.safetensors" if Path(out).suffix != ".safetensors" else Path(out)
    if pretrained:
        profile = profile.pretrained()
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = build(profile, pretrained=pretrained)
    if start:
        checkpoint.load_weights(model, start, profile)
    loaded = _load([*cases, *replay], profile, progress)
    new, old = loaded[: len(cases)], loaded[len(cases) :]

    rate = learning_rate or (1e-4 if start or pretrained else 1e-3)
    optimizer = torch.optim.AdamW(model.parameters(), rate, weight_decay=0.01)
    heads_until = steps // 3 if pretrained else 0
    schedule = _schedule(optimizer, rate, steps, heads_until)
    average = copy.deepcopy(model).eval().requires_grad_(False)
    history = _History()
    model_card = {"steps": 0, "seed": seed, "started_from": checkpoint.file_hash(start) if start else None}
    model_card |= _data_card(cases, replay) | (card or {})

    model.train()
    try:
        for step in range(steps):
            progress("training", step / steps)
            model.backbone.requires_grad_(step >= heads_until)
            drawn = [_draw(new, old, rng) for _ in range(batch)]
            images, targets = zip(*(training_slice(*one, profile, rng, crop_px) for one in drawn), strict=True)
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16_pays()):
                losses = model(list(images), list(targets))
            loss = sum(losses.values())
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
            optimizer.step()
            schedule.step()
            _follow(average, model, step)
            history.add(step, {name: value.item() for name, value in losses.items()})
            model_card["steps"] = step + 1
    except Cancelled:
        checkpoint.save(out, average, profile, model_card | {"cancelled": True})
        raise
    checkpoint.save(out, average, profile, model_card)

    metrics: dict = {}
    if validation:
        from doselabel.model.evaluate import evaluate, summarize

        rows = evaluate(out, validation, progress=lambda _, fraction: progress("validating", fraction))
        metrics = summarize(rows)
        checkpoint.save(out, average, profile, model_card | {"metrics": metrics})
    progress("training", 1.0)
    return TrainResult(out, history.rows(), metrics)


def _check(cases, replay, validation, steps) -> None:
    if not cases:
        raise ModelError("No cases to train on.", "Give at least one CT with a corrected label map.")
    if steps < 1:
        raise ModelError(f"Found {steps} training steps; expected at least 1.", "Give --steps 100 or more.")
    if shared := sorted({c.patient for c in [*cases, *replay]} & {c.patient for c in validation}):
        raise ModelError(
            f"Patient(s) {', '.join(shared)} are both trained on and validated.",
            "Split by patient: scores on a patient the model has seen mean nothing.",
        )


def _load(cases: Sequence[TrainCase], profile: Profile, progress: Progress) -> list[Loaded]:
    loaded = []
    for number, case in enumerate(cases):
        progress("loading", number / len(cases))
        loaded.append(load_case(case, profile))
    return loaded


def _draw(new: list[Loaded], old: list[Loaded], rng: np.random.Generator) -> tuple[Loaded, str, int]:
    """Draw a case (patients alike, however many CTs they have), a plane and a slice."""
    pool = old if old and rng.random() > NEW_SHARE else new
    patient = rng.choice(sorted({case.patient for case in pool}))
    of_patient = [case for case in pool if case.patient == patient]
    case = of_patient[int(rng.integers(len(of_patient)))]
    plane = rng.choice(list(PLANES), p=(0.5, 0.25, 0.25))
    return case, str(plane), draw_slice(case, str(plane), rng)


def _schedule(
    optimizer: torch.optim.Optimizer, rate: float, steps: int, heads_until: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """One cycle; with pretrained weights the paper's two constant rates, 10:1 (Nazari 2021, Algorithm training)."""
    if heads_until:
        return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 10.0 if step < heads_until else 1.0)
    return torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps + 1, pct_start=0.15)


def _follow(average: nn.Module, model: nn.Module, step: int) -> None:
    """Let the averaged weights follow; quickly at first, so that short training counts too."""
    decay = min(EMA_DECAY, (step + 1) / (step + 10))
    with torch.no_grad():
        for mean, value in zip(average.parameters(), model.parameters(), strict=True):
            mean.lerp_(value, 1 - decay)


def _data_card(cases: Sequence[TrainCase], replay: Sequence[TrainCase]) -> dict:
    return {
        "version": doselabel.__version__,
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "patients": sorted({case.patient for case in [*cases, *replay]}),
        "n_ct": len(cases) + len(replay),
        "intended_use": "Research use only: first contours of kidneys and liver on CT, to be corrected by an expert.",
    }


class _History:
    """Mean losses per 20 steps."""

    def __init__(self) -> None:
        self._rows: list[dict[str, float]] = []
        self._open: list[dict[str, float]] = []

    def add(self, step: int, losses: dict[str, float]) -> None:
        self._open.append(losses)
        if len(self._open) == 20:
            self._close(step)

    def _close(self, step: int) -> None:
        mean = {name: float(np.mean([row[name] for row in self._open])) for name in self._open[0]}
        self._rows.append({"step": step + 1, "loss": sum(mean.values()), **mean})
        self._open = []

    def rows(self) -> tuple[dict[str, float], ...]:
        if self._open:
            self._close((self._rows[-1]["step"] if self._rows else 0) + len(self._open) - 1)  # type: ignore[arg-type]
        return tuple(self._rows)
