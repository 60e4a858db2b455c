"""Training: one loop on one screen. Knows sources of cases, steps and checkpoints; no server, no queue, no promotion.

From scratch (`FAST`), from pretrained ImageNet weights (heads first, then everything, as in the paper), in stages, or
from a checkpoint on corrections mixed with replay; on a CPU, a GPU, or several processes under ``torchrun``. A run
that was killed goes on from its last state with the same numbers: sample n is drawn from (seed, n) alone.
"""

from __future__ import annotations

import copy
import itertools
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import doselabel
from doselabel.alarms import Alarm, ordered
from doselabel.errors import Cancelled, ModelError, Progress, Watch, no_progress
from doselabel.files import file_sha256
from doselabel.model import checkpoint
from doselabel.model.augment import draw_slice, training_slice
from doselabel.model.cache import Prepared, prepare
from doselabel.model.cases import TrainCase
from doselabel.model.network import bf16_pays, build
from doselabel.model.profiles import FAST, Profile
from doselabel.model.run import Run, Team
from doselabel.model.settings import Settings, Stage

__all__ = ["Source", "TrainCase", "TrainResult", "train"]

NEW_SHARE = 1 / 2
"""Part of the slices that comes from ``cases`` when replay is given; the rest keeps alive what was learned."""

CLIP_NORM = 5.0
EMA_EVERY = 5
PLANE_SHARES = {"axial": 0.5, "coronal": 0.25, "sagittal": 0.25}


@dataclass(frozen=True)
class Source:
    """Cases of one kind and the part of all slices that comes from them."""

    name: str
    share: float
    cases: Sequence[TrainCase]


@dataclass(frozen=True)
class TrainResult:
    """What training left behind.

    Attributes
    ----------
    checkpoint : Path
        EMA weights, fp16, with the model card; the best on ``validation`` when there is one.
    history : tuple of dict
        Mean losses per 20 steps: ``step``, ``loss``, and each of the five by name.
    metrics : dict
        Organ → mean Dice etc. on ``validation``; empty without one.
    findings : tuple of Alarm
        What was odd about the label maps that it learned from, the gravest first.
    """

    checkpoint: Path
    history: tuple[dict[str, float], ...]
    metrics: dict
    findings: tuple[Alarm, ...] = ()


def train(
    cases: Sequence[TrainCase] | Sequence[Source],
    out: Path,
    *,
    settings: Settings | None = None,
    profile: Profile | None = None,
    validation: Sequence[TrainCase] = (),
    replay: Sequence[TrainCase] = (),
    parenchyma: Sequence[TrainCase] = (),
    card: dict | None = None,
    progress: Progress = no_progress,
    watch: Watch | None = None,
    **overrides,
) -> TrainResult:
    """Train a network and write its checkpoint.

    Parameters
    ----------
    cases : sequence of TrainCase, or of Source
        CTs with corrected or expert labels. Never give uncorrected predictions.
    out : Path
        Folder of the run, or the checkpoint to write in it (``.safetensors``). With ``settings.checkpoint_every``
        a run that was stopped goes on from there.
    settings : Settings, optional
        Any field of it may also be given by name: ``train(cases, out, steps=200, seed=1)``.
    profile : Profile, optional
        Default: that of ``settings.start``, else `FAST`.
    validation : sequence of TrainCase
        Evaluated every ``settings.validate_every`` steps and at the end; its patients must not be trained on.
    replay : sequence of TrainCase
        Earlier cases: half of the slices.
    parenchyma : sequence of TrainCase
        Cases whose kidneys are renal parenchyma, for stages that learn it; default: made of all cases.
    card : dict, optional
        Added to the model card: training data, attribution, version.
    progress : Progress
        Stages "loading", "training", "validating". When it raises `Cancelled`, what was learned so far is
        written to ``out`` before the exception goes on.
    watch : Watch, optional
        Told each row of the log: ``step`` with the losses, or with ``dice_<organ>``.

    Notes
    -----
    Torch uses as many threads as the caller has set (`torch.set_num_threads`); one is best on a shared machine.

    Raises
    ------
    ModelError
        No cases; a patient both trained on and validated; a wrong checkpoint or label map.
    """
    out, settings = Path(out), (settings or Settings()).replace(**overrides)
    sources = _sources(cases, replay)
    _check(sources, [*validation], parenchyma)
    start = checkpoint.file_of(settings.start) if settings.start else None
    if settings.schedule()[0].learn == "heads" and not (start or settings.pretrained):
        raise ModelError(
            "The first stage trains the heads alone, on a backbone that has learned nothing.",
            "Give --pretrained FILE or --start FILE, or a first stage such as all:50:1e-3.",
        )
    if settings.keep_start and not start:
        raise ModelError("There are no weights to keep a part of.", "Give --start FILE with --keep-start.")
    if profile is None:
        profile = checkpoint.read_card(start)[0] if start else FAST
    if settings.pretrained:
        profile = profile.pretrained()
    team = Team.join(settings.device)
    torch.manual_seed(settings.seed)
    model = build(profile, pretrained=settings.pretrained)
    if start:
        checkpoint.load_weights(model, start, profile)
    average = copy.deepcopy(model).eval().requires_grad_(False).to(team.device)
    first = [weight.clone() for weight in average.parameters()] if settings.keep_start else []
    model = model.to(team.device)
    teamed = team.wrap(model)
    peak = settings.learning_rate or (1e-4 if start or settings.pretrained else 1e-3)
    optimizer = torch.optim.AdamW(model.parameters(), peak, weight_decay=0.02, fused=True)

    cache = settings.cache or (out.parent if out.suffix == ".safetensors" else out) / "prepared"
    samples = _samples(sources, parenchyma, profile, settings, cache, progress)
    if settings.epochs:
        settings = replace(settings, steps=samples["given"].steps(settings.epochs, team.size), epochs=None)
    model_card: dict = {"steps": 0, "seed": settings.seed, "started_from": file_sha256(start) if start else None}
    model_card |= _data_card(sources, parenchyma, settings) | (card or {})
    if settings.keep_start:
        model_card["keep_start"] = settings.keep_start
    run = Run(out, settings, model, average, optimizer, profile, model_card, validation, team, progress, watch)
    autocast = torch.autocast(team.device.type, torch.bfloat16, enabled=team.device.type == "cuda" or bf16_pays())

    model.train()
    try:
        for stage, done, (images, targets) in _batches(settings.schedule(), samples, run, team):
            progress("training", done)
            torch.manual_seed((settings.seed << 40) + run.step * team.size + team.rank)  # anchors and RoIs are drawn
            model.backbone.body.body.requires_grad_(stage.learn == "all")
            for group in optimizer.param_groups:
                group["lr"] = stage.learning_rate or _cycle(peak, done)
            with autocast:
                losses = teamed([image.to(team.device) for image in images], [_moved(t, team.device) for t in targets])
            optimizer.zero_grad(set_to_none=True)
            sum(losses.values()).backward()
            nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
            optimizer.step()
            _follow(average, model, run.step, settings.ema)
            if run.stepped({name: value.item() for name, value in losses.items()}):
                break
    except Cancelled:
        run.cancelled()
        raise
    if first:
        torch._foreach_lerp_(list(average.parameters()), first, settings.keep_start)
    result = run.finish()
    progress("training", 1.0)
    return TrainResult(*result, findings=tuple(ordered(f for own in samples.values() for f in own.findings)))


def _batches(stages: Sequence[Stage], samples: dict[str, _Samples], run: Run, team: Team):
    """(stage, part of the run that is done, batch) from where the run stands to its end."""
    total, end = sum(stage.epochs for stage in stages), 0.0
    for stage in stages:
        end += stage.epochs / total
        if (done := run.fraction()) >= end - 1e-9:
            continue
        for batch in samples[stage.labels].batches(run.step, run.settings.steps, team):
            yield stage, done, batch
            if (done := run.fraction()) >= end - 1e-9:
                break


def _samples(
    sources: Sequence[Source],
    parenchyma: Sequence[TrainCase],
    profile: Profile,
    settings: Settings,
    cache: Path,
    progress: Progress,
) -> dict[str, _Samples]:
    """The samples of each kind of labels that a stage learns from."""
    found = {"given": _Samples(sources, profile, settings, cache, progress)}
    if any(stage.labels == "parenchyma" for stage in settings.schedule()):
        made = [Source(s.name, s.share, [replace(c, parenchyma=True) for c in s.cases]) for s in sources]
        drawn = [Source("parenchyma", 1.0, list(parenchyma))]
        found["parenchyma"] = _Samples(drawn if parenchyma else made, profile, settings, cache, progress)
    return found


class _Samples(Dataset):
    """Sample n of a run, drawn from (seed, n) alone."""

    def __init__(self, sources, profile: Profile, settings: Settings, cache: Path, progress: Progress) -> None:
        self.profile, self.settings = profile, settings
        self.shares = np.array([source.share for source in sources], float)
        self.shares /= self.shares.sum()
        counts = np.cumsum([0, *(len(source.cases) for source in sources)])
        ready = prepare([case for source in sources for case in source.cases], profile, cache, progress)
        self.findings = tuple(ordered(alarm for case in ready for alarm in case.findings))
        self.pools = [_by_patient(ready[a:b]) for a, b in itertools.pairwise(counts)]

    def __getitem__(self, number: int) -> tuple[Tensor, dict[str, Tensor]]:
        rng = np.random.default_rng([self.settings.seed, number])
        pool = self.pools[int(rng.choice(len(self.pools), p=self.shares))]
        of_patient = pool[int(rng.integers(len(pool)))]  # patients alike, however many CTs they have
        case = of_patient[int(rng.integers(len(of_patient)))]
        planes = self.settings.planes
        weights = np.array([PLANE_SHARES[plane] for plane in planes])
        plane = planes[int(rng.choice(len(planes), p=weights / weights.sum()))]
        index = draw_slice(case, plane, rng)
        settings = self.settings
        return training_slice(case, plane, index, self.profile, rng, settings.crop_px, varied=settings.augment)

    def steps(self, epochs: float, processes: int) -> int:
        """Steps after which each slice that shows an organ was drawn ``epochs`` times, on the mean."""
        cases = [case for pool in self.pools for patient in pool for case in patient]
        spans = [case.organs[plane].values() for case in cases for plane in self.settings.planes]
        slices = sum(max(last for _, last in ends) - min(first for first, _ in ends) + 1 for ends in spans)
        return max(1, math.ceil(epochs * slices / (self.settings.batch * processes)))

    def batches(self, first_step: int, steps: int, team: Team):
        """Batches of this process from a step on."""
        size = self.settings.batch
        own = ([(step * team.size + team.rank) * size + k for k in range(size)] for step in range(first_step, steps))
        workers = self.settings.workers
        return DataLoader(
            self,
            batch_sampler=own,
            num_workers=workers,
            collate_fn=lambda batch: tuple(zip(*batch, strict=True)),
            prefetch_factor=4 if workers else None,
            worker_init_fn=_one_thread,
        )


def _one_thread(_: int) -> None:
    torch.set_num_threads(1)


def _by_patient(cases: Sequence[Prepared]) -> list[list[Prepared]]:
    patients: dict[str, list[Prepared]] = {}
    for case in cases:
        patients.setdefault(case.patient, []).append(case)
    return [patients[name] for name in sorted(patients)]


def _sources(cases: Sequence[TrainCase] | Sequence[Source], replay: Sequence[TrainCase]) -> list[Source]:
    if cases and isinstance(cases[0], Source):
        return [source for source in cases if source.cases]  # type: ignore[union-attr,misc]
    new = Source("cases", NEW_SHARE if replay else 1.0, list(cases))  # type: ignore[arg-type]
    return [new, Source("replay", 1 - NEW_SHARE, list(replay))] if replay else [new]


def _check(sources: Sequence[Source], validation: Sequence[TrainCase], parenchyma: Sequence[TrainCase]) -> None:
    if not sources or not all(source.cases for source in sources):
        raise ModelError("No cases to train on.", "Give at least one CT with a corrected label map.")
    trained_on = {case.patient for cases in (*(source.cases for source in sources), parenchyma) for case in cases}
    if shared := sorted(trained_on & {c.patient for c in validation}):
        raise ModelError(
            f"Patient(s) {', '.join(shared)} are both trained on and validated.",
            "Split by patient: scores on a patient the model has seen mean nothing.",
        )


def _cycle(peak: float, done: float) -> float:
    """Learning rate when a fraction of the run is done: one cycle (warm up over 10 %, then down along a cosine)."""
    warm = 0.1
    if done < warm:
        return peak * (0.04 + 0.96 * done / warm)
    return peak * max(1e-3, 0.5 * (1 + math.cos(math.pi * (done - warm) / (1 - warm))))


def _follow(average: nn.Module, model: nn.Module, step: int, decay: float) -> None:
    """Let the averaged weights follow; quickly at first, so that short training counts too."""
    if step % EMA_EVERY and step > 100:
        return
    decay = min(decay**EMA_EVERY if step > 100 else decay, (step + 1) / (step + 10))
    with torch.no_grad():
        torch._foreach_lerp_(list(average.parameters()), [p.detach() for p in model.parameters()], 1 - decay)


def _moved(target: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    return {name: value.to(device) for name, value in target.items()}


def _data_card(sources: Sequence[Source], parenchyma: Sequence[TrainCase], settings: Settings) -> dict:
    cases = [case for source in sources for case in source.cases] + [*parenchyma]
    return {
        "version": doselabel.__version__,
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "patients": sorted({case.patient for case in cases}),
        "n_ct": len(cases),
        "sources": {source.name: {"share": round(source.share, 3), "n_ct": len(source.cases)} for source in sources},
        "stages": [str(stage) for stage in settings.schedule() if stage.learning_rate],
        "intended_use": "Research use only: first contours of kidneys and liver on CT, to be corrected by an expert.",
    }
