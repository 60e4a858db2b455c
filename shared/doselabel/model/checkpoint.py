"""Checkpoints: fp16 weights with their profile and model card in one safetensors file. Knows no images."""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from doselabel.errors import ModelError
from doselabel.files import file_sha256
from doselabel.model.network import build
from doselabel.model.profiles import Profile

FORMAT = "doselabel.model/1"


@dataclass(frozen=True)
class Checkpoint:
    """A network ready for use, and what is known of it.

    Attributes
    ----------
    model : nn.Module
        In evaluation mode, float32.
    profile : Profile
    card : dict
        The model card: version, training data, spacing, metrics, intended use, attribution.
    sha256 : str
        Hash of the file.
    """

    model: nn.Module
    profile: Profile
    card: dict
    sha256: str


def starter_path() -> Path:
    """Path of the starter checkpoint that ships with the package.

    Raises
    ------
    ModelError
        When the installation lacks it.
    """
    path = Path(__file__).with_name("starter.safetensors")
    if not path.is_file():
        raise ModelError(
            f"{path}: the starter model is not part of this installation.",
            "Install doselabel again, or train a model with `doselabel train`.",
        )
    return path


def file_of(path: Path) -> Path:
    """The file of a checkpoint: ``starter`` is the name of the one that ships."""
    return starter_path() if str(path) == "starter" and not Path(path).is_file() else Path(path)


def save(path: Path, model: nn.Module, profile: Profile, card: dict) -> Path:
    """Write a checkpoint atomically; floating-point weights become fp16."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {
        name: (value.half() if value.is_floating_point() else value).contiguous()
        for name, value in model.state_dict().items()
    }
    header = {"format": FORMAT, "profile": json.dumps(profile.to_dict()), "card": json.dumps(card)}
    handle, temporary = tempfile.mkstemp(prefix=".writing-", suffix=".safetensors", dir=path.parent)
    os.close(handle)
    try:
        save_file(weights, temporary, metadata=header)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return path


def read_card(path: Path) -> tuple[Profile, dict]:
    """Read profile and model card without loading the weights.

    Raises
    ------
    ModelError
        When the file is missing or is no checkpoint of this program.
    """
    path = file_of(path)
    with _open(path) as file:
        return _header(path, file.metadata())


def load(path: Path) -> Checkpoint:
    """Load a checkpoint.

    Raises
    ------
    ModelError
        When the file is missing, is no checkpoint of this program, or its weights don't fit its profile.
    """
    path = file_of(path)
    with _open(path) as file:
        profile, card = _header(path, file.metadata())
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    model = build(profile)
    weights = {name: value.float() if value.is_floating_point() else value for name, value in weights.items()}
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise ModelError(
            f"{path}: its weights do not fit its own profile '{profile.name}' ({str(error).splitlines()[-1].strip()}).",
            "The file is damaged or was made by another version; train or download it again.",
        ) from error
    # Weights as pictures are, channels last: a sixth of a slice's time went into bringing them there each time.
    return Checkpoint(model.eval().to(memory_format=torch.channels_last), profile, card, file_sha256(path))


def _open(path: Path):
    if not Path(path).is_file():
        raise ModelError(f"{path}: there is no such checkpoint.", "Check the path, or use the starter model: starter.")
    try:
        return safe_open(str(path), framework="pt")
    except (SafetensorError, OSError) as error:
        raise ModelError(
            f"{path}: is not a safetensors file ({error}).", "Give a checkpoint made by `doselabel train`."
        ) from error


def _header(path: Path, metadata: dict[str, str] | None) -> tuple[Profile, dict]:
    found = (metadata or {}).get("format", "no format")
    if found != FORMAT:
        raise ModelError(
            f"{path}: is not a doselabel checkpoint (found {found}, expected {FORMAT}).",
            "Give a checkpoint made by `doselabel train`.",
        )
    try:
        return Profile.from_dict(json.loads(metadata["profile"])), json.loads(metadata["card"])  # type: ignore[index]
    except (KeyError, ValueError, TypeError) as error:
        raise ModelError(f"{path}: its header can't be read ({error}).", "The file is damaged; train again.") from error


def load_weights(model: nn.Module, path: Path, profile: Profile) -> None:
    """Start a model from a checkpoint of the same parts.

    Organs may be added or left out, and the number of slices may differ: what both know is taken by name and by
    place, the rest stays as it was built (a slice that the checkpoint never saw counts for nothing at first).

    Raises
    ------
    ModelError
        When the checkpoint's network is made of other parts.
    """
    start = load(path)
    differing = [
        name
        for name, value in profile.to_dict().items()
        if name not in _MAY_DIFFER and value != start.profile.to_dict()[name]
    ]
    if differing:
        raise ModelError(
            f"{path}: its profile '{start.profile.name}' differs from '{profile.name}' in {', '.join(differing)}.",
            "Train with the checkpoint's own profile, or without a starting checkpoint.",
        )
    was, rows = start.profile, [0, *(1 + k for k in range(len(profile.classes)))]
    known = [row for row in rows if row == 0 or profile.classes[row - 1] in was.classes]
    old = [0 if row == 0 else 1 + was.classes.index(profile.classes[row - 1]) for row in known]
    weights, mine = start.model.state_dict(), model.state_dict()
    for name, value in weights.items():
        if name.endswith("body.body.conv1.weight"):
            mine[name] = _stem(value, was, profile)
        elif name.startswith(_PER_CLASS):
            per_class = mine[name].unflatten(0, (len(rows), -1)).clone()
            per_class[known] = value.unflatten(0, (1 + len(was.classes), -1))[old]
            mine[name] = per_class.flatten(0, 1)
        else:
            mine[name] = value
    model.load_state_dict(mine)


_MAY_DIFFER = {
    *("name", "classes", "decoys", "in_slices", "slice_gap_mm", "spect"),
    *("score_accept", "score_seed", "gap_fill", "consensus", "proposals"),
}
_PER_CLASS = ("roi_heads.box_predictor.", "roi_heads.mask_predictor.logits.")


def _stem(weight: torch.Tensor, was: Profile, now: Profile) -> torch.Tensor:
    """The first convolution (out, channels, k, k): middle slices on middle slices, SPECT on SPECT."""
    stem = weight.new_zeros(weight.shape[0], now.channels, *weight.shape[2:])
    reach = min(was.in_slices, now.in_slices) // 2
    a, b = was.in_slices // 2, now.in_slices // 2
    stem[:, b - reach : b + reach + 1] = weight[:, a - reach : a + reach + 1]
    if was.spect and now.spect:
        stem[:, -1] = weight[:, -1]
    return stem
