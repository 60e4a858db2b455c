"""Checkpoints: fp16 weights with their profile and model card in one safetensors file. Knows no images."""

from __future__ import annotations

import hashlib
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


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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
    with _open(path) as file:
        return _header(path, file.metadata())


def load(path: Path) -> Checkpoint:
    """Load a checkpoint.

    Raises
    ------
    ModelError
        When the file is missing, is no checkpoint of this program, or its weights don't fit its profile.
    """
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
    return Checkpoint(model.eval(), profile, card, file_hash(path))


def _open(path: Path):
    if not Path(path).is_file():
        raise ModelError(f"{path}: there is no such checkpoint.", "Check the path, or use the starter model.")
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
    """Start a model from a checkpoint of the same profile.

    Raises
    ------
    ModelError
        When the checkpoint has another profile.
    """
    start = load(path)
    if start.profile != profile:
        raise ModelError(
            f"{path}: has the profile '{start.profile.name}' {start.profile.classes}, "
            f"training was asked for '{profile.name}' {profile.classes}.",
            "Train with the checkpoint's own profile, or without a starting checkpoint.",
        )
    with torch.no_grad():
        model.load_state_dict(start.model.state_dict(), strict=False)
