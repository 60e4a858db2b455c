"""Prepared cases in one small file, for a machine that has a GPU and no data. Knows files and arrays; no training.

A file is a zip of slices, HU as the network can see them (`CLIP_HU`, in steps of `STEP_HU`, far below the noise of any
CT) and classes as they are: about 0.35 bytes per voxel instead of 3. It holds pictures of patients: it stays within
the hospital, like the CTs it was made from.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from doselabel.errors import ModelError, Progress, no_progress
from doselabel.model.cache import Prepared, prepare
from doselabel.model.cases import TrainCase
from doselabel.model.profiles import Profile
from doselabel.model.slices import CLIP_HU

if TYPE_CHECKING:
    from doselabel.model.train import Source

STEP_HU = 3.2
"""Rounding adds noise of 0.9 HU; the window has 125 steps of it."""


def pack(sources: Sequence[Source], profile: Profile, file: Path, cache: Path, progress: Progress = no_progress) -> int:
    """Write the cases of all sources, made ready for a profile, into one file; its size in bytes.

    Raises
    ------
    ModelError
        When a case can't be prepared, or has a SPECT: that is not carried.
    """
    if profile.spect:
        raise ModelError("SPECT can't be packed.", "Train profiles with a SPECT channel where the data are.")
    handle, staged = tempfile.mkstemp(prefix=".packing-", dir=file.parent)
    os.close(handle)
    try:
        with zipfile.ZipFile(staged, "w") as archive:
            for source in sources:
                for number, case in enumerate(prepare(source.cases, profile, cache, progress)):
                    progress(f"packing {source.name}", number / len(source.cases))
                    _pack_case(archive, f"{source.name}/{number:04d}", case, profile)
        os.replace(staged, file)
    finally:
        Path(staged).unlink(missing_ok=True)
    return file.stat().st_size


def packed_cases(
    file: Path, profile: Profile, folder: Path, progress: Progress = no_progress
) -> dict[str, list[TrainCase]]:
    """Cases of each source's name, ready, laid out once below ``folder``.

    Raises
    ------
    ModelError
        When the file is none that `pack` wrote, is damaged, or was made for other organs.
    """
    found: dict[str, list[TrainCase]] = {}
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.namelist()
            homes = [PurePosixPath(name).parent for name in members if name.endswith("/case.json")]
            for number, home in enumerate(homes):
                progress("unpacking", number / len(homes))
                source, place = home.parts
                ready = Path(folder) / f"{source}-{place}"
                if not ready.is_dir():
                    _unpack_case(archive, [name for name in members if PurePosixPath(name).parent == home], ready)
                card = json.loads((ready / "case.json").read_text("utf-8"))
                if tuple(card["classes"]) != profile.classes:
                    raise ModelError(
                        f"{file}: was packed for {', '.join(card['classes'])}; this network learns "
                        f"{', '.join(profile.classes)}.",
                        "Pack the cases again with the same --start, --profile and --learn-organs.",
                    )
                case = TrainCase(ready / "hu.npy", ready / "classes.npy", card["patient"], ready=ready)
                found.setdefault(source, []).append(case)
    except (OSError, zipfile.BadZipFile, KeyError, ValueError) as error:
        raise ModelError(
            f"{file}: holds no packed cases, or is damaged ({error}).", "Write it with 'doselabel train --pack FILE'."
        ) from error
    if not found:
        raise ModelError(f"{file}: holds no packed cases.", "Write it with 'doselabel train --pack FILE'.")
    return found


def _pack_case(archive: zipfile.ZipFile, home: str, case: Prepared, profile: Profile) -> None:
    card = case.card() | {"classes": profile.classes}
    archive.writestr(f"{home}/case.json", json.dumps(card))
    low, high = CLIP_HU
    for index, (hu, classes) in enumerate(zip(case.hu, case.classes, strict=True)):
        steps = np.round((hu.astype(np.float32).clip(low, high) - low) / STEP_HU).astype(np.uint8)
        for kind, picture in (("hu", steps), ("classes", np.asarray(classes))):
            data = io.BytesIO()
            Image.fromarray(picture).save(data, "WEBP" if kind == "hu" else "PNG", **_SMALL[kind])
            archive.writestr(f"{home}/{kind}-{index:05d}", data.getvalue())


_SMALL: dict[str, dict] = {"hu": {"lossless": True, "quality": 60, "method": 4}, "classes": {"optimize": True}}


def _unpack_case(archive: zipfile.ZipFile, members: Sequence[str], ready: Path) -> None:
    ready.parent.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=ready.parent))
    try:
        for kind in ("hu", "classes"):
            names = sorted(name for name in members if PurePosixPath(name).name.startswith(f"{kind}-"))
            pictures = [np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("L")) for name in names]
            volume = np.stack(pictures)
            if kind == "hu":
                volume = np.round(volume * np.float32(STEP_HU) + CLIP_HU[0]).astype(np.int16)
            np.save(staged / f"{kind}.npy", volume)
        card = next(name for name in members if name.endswith("/case.json"))
        (staged / "case.json").write_bytes(archive.read(card))
        os.rename(staged, ready)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
