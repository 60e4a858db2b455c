"""A training run on disk: state to go on from, curves, validation, the best weights. Draws and teaches nothing."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np
import torch
from torch import distributed, nn

from doselabel.errors import ModelError, Progress, Watch
from doselabel.model import checkpoint
from doselabel.model.cases import TrainCase
from doselabel.model.profiles import Profile
from doselabel.model.settings import Settings

STATE, LOG, WEIGHTS = "state.pt", "log.jsonl", "model.safetensors"
_ROW_STEPS = 20
_MAY_CHANGE = {"steps", "max_minutes", "workers", "device", "checkpoint_every", "validate_every", "patience", "cache"}


@dataclass(frozen=True)
class Team:
    """The processes that train together (``torchrun``), or one alone."""

    rank: int
    size: int
    device: torch.device

    @classmethod
    def join(cls, device: str) -> Team:
        """Join the processes that torchrun started, if it did."""
        cuda = torch.cuda.is_available() if device == "auto" else device.startswith("cuda")
        size = int(os.environ.get("WORLD_SIZE", "1"))
        if size > 1 and not distributed.is_initialized():
            # The others wait while the first validates.
            distributed.init_process_group("nccl" if cuda else "gloo", timeout=timedelta(hours=6))
        local = int(os.environ.get("LOCAL_RANK", "0"))
        chosen = torch.device("cuda", local) if cuda else torch.device("cpu")
        return cls(distributed.get_rank() if size > 1 else 0, size, chosen)

    def wrap(self, model: nn.Module) -> nn.Module:
        """Let gradients be averaged over all processes."""
        if self.size == 1:
            return model
        return nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)

    def agreed(self, value: bool) -> bool:
        """What the first process decided."""
        if self.size == 1:
            return value
        told = [value]
        distributed.broadcast_object_list(told)
        return bool(told[0])


class Run:
    """Keeps a run's books: where it stands, what it learned, when it ends."""

    def __init__(
        self,
        out: Path,
        settings: Settings,
        model: nn.Module,
        average: nn.Module,
        optimizer: torch.optim.Optimizer,
        profile: Profile,
        card: dict,
        validation: Sequence[TrainCase],
        team: Team,
        progress: Progress,
        watch: Watch | None = None,
    ) -> None:
        out = Path(out)
        self.weights = out if out.suffix == ".safetensors" else out / WEIGHTS
        self.folder = self.weights.parent
        self.folder.mkdir(parents=True, exist_ok=True)
        self.settings, self.profile, self.card, self.team = settings, profile, card, team
        self.model, self.average, self.optimizer = model, average, optimizer
        self.validation, self.progress, self.watch = validation, progress, watch
        self.step, self.best, self.since_best = 0, -1.0, 0
        self.rows: list[dict[str, float]] = []
        self._open: list[dict[str, float]] = []
        self._before_s, self._began = 0.0, time.monotonic()
        self._board = None
        self._resume()
        if team.rank == 0 and settings.checkpoint_every:
            with suppress(ImportError):
                from torch.utils.tensorboard import SummaryWriter

                self._board = SummaryWriter(str(self.folder / "tensorboard"), purge_step=self.step)

    def fraction(self) -> float:
        """How much of the run is done, by steps or by time, whichever is further."""
        done = self.step / self.settings.steps
        if self.settings.max_minutes:
            done = max(done, self._seconds() / 60 / self.settings.max_minutes)
            if self.team.size > 1:
                told = [done]
                distributed.broadcast_object_list(told)
                done = told[0]
        return min(done, 1.0)

    def stepped(self, losses: dict[str, float]) -> bool:
        """Write down a step; whether the run should stop early."""
        self.step += 1
        self.card["steps"] = self.step
        self._open.append(losses)
        if len(self._open) == _ROW_STEPS:
            self._close_row()
        stop = False
        if self.settings.validate_every and self.step % self.settings.validate_every == 0:
            stop = self.team.agreed(self.team.rank == 0 and self._validate())
        if self.settings.checkpoint_every and self.step % self.settings.checkpoint_every == 0 and self.team.rank == 0:
            self._save_state()
        return stop

    def cancelled(self) -> None:
        """Keep what was learned so far."""
        checkpoint.save(self.weights, self.average, self.profile, self.card | {"cancelled": True})
        if self.settings.checkpoint_every:
            self._save_state()

    def finish(self) -> tuple[Path, tuple[dict[str, float], ...], dict]:
        """Write the final weights; of several evaluations the best ones stay."""
        if self._open:
            self._close_row()
        metrics: dict = {}
        if self.team.rank == 0:
            if not self.validation or self.settings.keep == "last":
                checkpoint.save(self.weights, self.average, self.profile, self.card)
            else:
                self._validate()
                metrics = checkpoint.read_card(self.weights)[1]["metrics"]
            (self.folder / STATE).unlink(missing_ok=True)
            if self._board:
                self._board.close()
        if self.team.size > 1:
            distributed.barrier()
        return self.weights, tuple(self.rows), metrics

    def _seconds(self) -> float:
        return self._before_s + time.monotonic() - self._began

    def _close_row(self) -> None:
        mean = {name: float(np.mean([row[name] for row in self._open])) for name in self._open[0]}
        row = {"step": self.step, "loss": float(sum(mean.values())), **mean}
        self._open = []
        self.rows.append(row)
        self._log(row | {"lr": self.optimizer.param_groups[0]["lr"], "seconds": round(self._seconds(), 1)})

    def _log(self, row: dict) -> None:
        if self.team.rank:
            return
        if self.watch:
            self.watch(row)
        if self.settings.checkpoint_every:
            with (self.folder / LOG).open("a", encoding="utf-8") as file:
                file.write(json.dumps(row) + "\n")
        if self._board:
            for name, value in row.items():
                if name != "step":
                    self._board.add_scalar(name, value, row["step"])

    def _validate(self) -> bool:
        """Evaluate the averaged weights, keep them if they are the best so far; whether patience is over."""
        from doselabel.model.checkpoint import Checkpoint
        from doselabel.model.evaluate import evaluate, summarize

        if not self.validation:
            return False
        ready = Checkpoint(self.average, self.profile, self.card, "")
        device = str(self.team.device)
        metrics = summarize(
            evaluate(ready, self.validation, device=device, progress=lambda _, f: self.progress("validating", f))
        )
        self.average.to(self.team.device)
        dice = float(np.mean([figures["dice"] for figures in metrics.values()])) if metrics else 0.0
        self._log({"step": self.step, **{f"dice_{name}": figures["dice"] for name, figures in metrics.items()}})
        if dice > self.best:
            self.best, self.since_best = dice, 0
            if self.settings.keep == "best":
                checkpoint.save(self.weights, self.average, self.profile, self.card | {"metrics": metrics})
        else:
            self.since_best += 1
        return 0 < self.settings.patience <= self.since_best

    def _save_state(self) -> None:
        state = {
            "settings": self.settings.to_dict(),
            "profile": self.profile.to_dict(),
            "patients": self.card["patients"],
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "books": [self.step, self.rows, self.best, self.since_best, self._open, self._seconds()],
        }
        handle, temporary = tempfile.mkstemp(prefix=".writing-", suffix=".pt", dir=self.folder)
        os.close(handle)
        torch.save(state, temporary)
        os.replace(temporary, self.folder / STATE)
        # What has been learned so far, ready for use.
        checkpoint.save(self.folder / "latest.safetensors", self.average, self.profile, self.card)

    def _resume(self) -> None:
        path = self.folder / STATE
        if not self.settings.checkpoint_every or not path.is_file():
            return
        state = torch.load(path, map_location=self.team.device, weights_only=True)
        mine = {k: v for k, v in self.settings.to_dict().items() if k not in _MAY_CHANGE}
        was = {k: v for k, v in (Settings().to_dict() | state["settings"]).items() if k not in _MAY_CHANGE}
        changed = [
            f"{name} was {was.get(name)!r}, is {value!r}" for name, value in mine.items() if was.get(name) != value
        ]
        if state["profile"] != _plain(self.profile.to_dict()) and state["profile"] != self.profile.to_dict():
            changed.append("the profile")
        if state["patients"] != self.card["patients"]:
            changed.append("the patients trained on")
        if changed:
            raise ModelError(
                f"{self.folder}: holds an unfinished run with other settings ({'; '.join(changed)}).",
                "Give the same settings to go on with it, or another --out to begin anew.",
            )
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.rows, self.best, self.since_best, self._open, self._before_s = state["books"]
        if self.team.rank == 0:
            self._forget_later_rows()

    def _forget_later_rows(self) -> None:
        """What was logged after the last state is done again."""
        log = self.folder / LOG
        lines = log.read_text("utf-8").splitlines(keepends=True) if log.is_file() else []
        log.write_text("".join(line for line in lines if _step_of(line) <= self.step), "utf-8")


def _step_of(line: str) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError):  # cut off while it was written
        return float("inf")


def _plain(value):
    return json.loads(json.dumps(value))
