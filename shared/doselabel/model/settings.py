"""How long, how fast and with what a network is trained: every setting, as a file or as flags. Knows no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from doselabel.errors import ModelError


@dataclass(frozen=True)
class Settings:
    """Settings of a training run.

    Attributes
    ----------
    steps, batch, crop_px, seed : int
        Optimizer steps; slices per step and process; longest side of a training slice.
    max_minutes : float, optional
        The learning rate's cycle ends after this time, should the steps not be done by then.
    planes : tuple of str
    learning_rate : float, optional
        Peak; default 1e-3 from scratch, 1e-4 from a checkpoint or pretrained weights.
    start : Path, optional
        Checkpoint to go on from; its profile is used.
    pretrained : Path, optional
        ImageNet weights for the backbone: a third of the run trains the heads alone at ten times the rate.
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
    patience : int
        Evaluations without a better mean Dice after which the run stops; 0 never stops.
    cache : Path, optional
        Folder of prepared cases; default: in the run's folder.
    """

    steps: int = 2000
    max_minutes: float | None = None
    batch: int = 4
    crop_px: int = 224
    planes: tuple[str, ...] = ("axial", "coronal", "sagittal")
    learning_rate: float | None = None
    start: Path | None = None
    pretrained: Path | None = None
    ema: float = 0.998
    seed: int = 0
    device: str = "auto"
    workers: int = 0
    checkpoint_every: int = 0
    validate_every: int = 0
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
        if self.max_minutes is not None and not self.max_minutes > 0:
            raise ModelError(f"Found --max-minutes {self.max_minutes}; expected more than 0.")
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
        return replace(self, **{name: _typed(name, value) for name, value in changes.items() if value is not None})

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
        plain = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(self).items()}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}


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


def _typed(name: str, value: Any) -> Any:
    try:
        if name in ("start", "pretrained", "cache"):
            return Path(value)
        if name == "planes":
            return tuple(value.split(",")) if isinstance(value, str) else tuple(value)
        if name in ("max_minutes", "learning_rate", "ema"):
            return float(value)
        if name == "device":
            return str(value)
        if isinstance(value, bool) or int(value) != float(value):
            raise ValueError("a whole number is wanted")
        return int(value)
    except (TypeError, ValueError) as error:
        raise ModelError(f"Training setting '{name}' is {value!r}: {error}.") from error
