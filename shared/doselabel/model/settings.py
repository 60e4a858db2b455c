"""How long, how fast and with what a network is trained: every setting, as a file or as flags. Knows no torch."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from doselabel.errors import ModelError

Learn = Literal["heads", "all"]
Labels = Literal["given", "parenchyma"]


@dataclass(frozen=True)
class Stage:
    """A part of a run with its own rate, written ``learn:epochs:rate[:labels]``, as in ``heads:50:1e-3:parenchyma``.

    Attributes
    ----------
    learn : {"heads", "all"}
        "heads" freezes what came with pretrained weights, the ResNet; all else has nothing to keep (Nazari 2021,
        Algorithm training).
    epochs : float
        How long, in proportion to the other stages.
    learning_rate : float, optional
        Constant. None: one cycle that peaks at the run's rate.
    labels : {"given", "parenchyma"}
        Kidneys as they were drawn, or their parenchyma.
    """

    learn: Learn = "all"
    epochs: float = 1.0
    learning_rate: float | None = None
    labels: Labels = "given"

    @classmethod
    def read(cls, text: str) -> Stage:
        """Read a stage as it is written.

        Raises
        ------
        ValueError
        """
        parts = str(text).strip().split(":")
        labels = parts[3] if len(parts) == 4 else "given"
        if len(parts) not in (3, 4) or parts[0] not in get_args(Learn) or labels not in get_args(Labels):
            raise ValueError(f"'{text}' is not learn:epochs:rate or learn:epochs:rate:labels, as in heads:50:1e-3")
        epochs, rate = float(parts[1]), float(parts[2])
        if not (epochs > 0 and rate > 0):
            raise ValueError(f"'{text}' has epochs or a rate that are not above 0")
        return cls(parts[0], epochs, rate, labels)  # type: ignore[arg-type]

    def __str__(self) -> str:
        return f"{self.learn}:{self.epochs:g}:{self.learning_rate:g}:{self.labels}"


@dataclass(frozen=True)
class Settings:
    """Settings of a training run.

    Attributes
    ----------
    steps, batch, crop_px, seed : int
        Optimizer steps; slices per step and process; longest side of a training slice.
    epochs : float, optional
        Instead of ``steps``: how often, on the mean, each slice is drawn that shows an organ (in all ``planes``).
    max_minutes : float, optional
        The learning rate's cycle ends after this time, should the steps not be done by then.
    planes : tuple of str
    learning_rate : float, optional
        Peak; default 1e-3 from scratch, 1e-4 from a checkpoint or pretrained weights.
    stages : tuple of Stage
        What learns how fast; default: one cycle, or with ``pretrained`` the paper's heads:50:1e-3 and all:100:1e-4.
    augment : bool
        Vary slices (`doselabel.model.augment`); the paper does not.
    start : Path, optional
        Checkpoint to go on from; its profile is used.
    pretrained : Path, optional
        ImageNet weights for the backbone.
    ema : float
        Decay of the averaged weights, which are what is kept.
    device : str
        "cpu", "cuda", or "auto": CUDA (with bf16) when there is one.
    workers : int
        Processes that draw and vary slices; 0 does it in the training process.
    checkpoint_every : int
        Steps between states on disk from which a killed run goes on; 0 keeps none.
    validate_every : int
        Steps between evaluations of the averaged weights; 0 evaluates at the end only.
    keep : str
        Which weights stay: the "best" on the validation patients, or the "last", so that who decides later has not
        helped to choose.
    patience : int
        Evaluations without a better mean Dice after which the run stops; 0 never stops.
    cache : Path, optional
        Folder of prepared cases; default: in the run's folder.
    """

    steps: int = 2000
    epochs: float | None = None
    max_minutes: float | None = None
    batch: int = 4
    crop_px: int = 224
    planes: tuple[str, ...] = ("axial", "coronal", "sagittal")
    learning_rate: float | None = None
    stages: tuple[Stage, ...] = ()
    augment: bool = True
    start: Path | None = None
    pretrained: Path | None = None
    ema: float = 0.998
    keep_start: float = 0.0
    seed: int = 0
    device: str = "auto"
    workers: int = 0
    checkpoint_every: int = 0
    validate_every: int = 0
    keep: Literal["best", "last"] = "best"
    patience: int = 0
    cache: Path | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "batch"):
            if getattr(self, name) < 1:
                what = "training steps" if name == "steps" else "slices per batch"
                raise ModelError(
                    f"Found {getattr(self, name)} {what}; expected at least 1.", f"Give --{name} 4 or more."
                )
        if self.crop_px < 64:
            raise ModelError(f"Found a crop of {self.crop_px} pixels; expected at least 64.", "Give --crop 224.")
        if not 0 <= self.keep_start < 1:
            raise ModelError(f"Found --keep-start {self.keep_start}; expected 0 to less than 1.")
        for flag, value in (("--max-minutes", self.max_minutes), ("--epochs", self.epochs)):
            if value is not None and not value > 0:
                raise ModelError(f"Found {flag} {value}; expected more than 0.")
        if unknown := set(self.planes) - {"axial", "coronal", "sagittal"} or not self.planes:
            raise ModelError(
                f"Found the planes {self.planes}; expected some of axial, coronal, sagittal.", str(unknown)
            )

    def replace(self, **changes: Any) -> Settings:
        """Return the same settings with some of them changed; None changes nothing.

        Raises
        ------
        ModelError
            When there is no such setting.
        """
        known = {field.name for field in fields(self)}
        if unknown := sorted(set(changes) - known):
            raise ModelError(
                f"There is no training setting {', '.join(unknown)}.", f"Known: {', '.join(sorted(known))}."
            )
        told = {name: _typed(name, value) for name, value in changes.items() if value is not None}
        if "steps" in told and "epochs" not in told:
            told["epochs"] = None  # a length that is stated later counts
        return replace(self, **told)

    def schedule(self) -> tuple[Stage, ...]:
        """The stages of the run, in order."""
        if self.stages or not self.pretrained:
            return self.stages or (Stage(),)
        rate = self.learning_rate or 1e-4
        return Stage("heads", 50, 10 * rate), Stage("all", 100, rate)

    @classmethod
    def read(cls, path: Path) -> Settings:
        """Read settings from a YAML file.

        Raises
        ------
        ModelError
            When it can't be read or names what is no setting.
        """
        return cls().replace(**read_yaml(path))

    def to_dict(self) -> dict[str, Any]:
        """Plain data, as `read` takes it."""
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a YAML file that holds a mapping.

    Raises
    ------
    ModelError
    """
    try:
        content = yaml.safe_load(Path(path).read_text("utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ModelError(
            f"{path}: can't be read as YAML ({error}).", "Check the path and the line it names."
        ) from error
    if not isinstance(content, dict):
        raise ModelError(f"{path}: holds {type(content).__name__}; expected settings as 'name: value'.")
    return content


def _plain(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path | Stage) else value


def _listed(value: Any) -> tuple:
    return tuple(value.split(",")) if isinstance(value, str) else tuple(value)


def _typed(name: str, value: Any) -> Any:
    try:
        if name in ("start", "pretrained", "cache"):
            return Path(value)
        if name == "planes":
            return _listed(value)
        if name == "stages":
            return tuple(part if isinstance(part, Stage) else Stage.read(part) for part in _listed(value))
        if name in ("max_minutes", "epochs", "learning_rate", "ema", "keep_start"):
            return float(value)
        if name == "device":
            return str(value)
        if name == "keep":
            if value not in ("best", "last"):
                raise ValueError("best or last is wanted")
            return value
        if name == "augment":
            if not isinstance(value, bool):
                raise ValueError("true or false is wanted")
            return value
        if isinstance(value, bool) or int(value) != float(value):
            raise ValueError("a whole number is wanted")
        return int(value)
    except (TypeError, ValueError) as error:
        raise ModelError(f"Training setting '{name}' is {value!r}: {error}.") from error
