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
from doselabel.files import file_sha256
from doselabel.model.cache import CARD, CLASSES, HU, Prepared, prepare
from doselabel.model.cases import TrainCase
from doselabel.model.profiles import Profile
from doselabel.model.slices import CLIP_HU

if TYPE_CHECKING:
    from doselabel.model.train import Source

STEP_HU = 3.2
"""Rounding adds noise of 0.9 HU; the window has 125 steps of it."""
_SMALL: dict[str, dict] = {
    "hu": {"format": "WEBP", "lossless": True, "quality": 60, "method": 4},
    "classes": {"format": "PNG", "optimize": True},
}


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
                    _pack_case(archive, f"{source.name}/{number:04d}", case)
        os.replace(staged, file)
    finally:
        Path(staged).unlink(missing_ok=True)
    return file.stat().st_size


def packed_cases(file: Path, folder: Path, progress: Progress = no_progress) -> dict[str, list[TrainCase]]:
    """Cases of each source's name, ready, laid out once below ``folder``.

    Raises
    ------
    ModelError
        When the file is none that `pack` wrote, or is damaged.
    """
    found: dict[str, list[TrainCase]] = {}
    try:
        place = Path(folder) / file_sha256(file)[:16]
        with zipfile.ZipFile(file) as archive:
            homes: dict[PurePosixPath, list[str]] = {}
            for name in archive.namelist():
                homes.setdefault(PurePosixPath(name).parent, []).append(name)
            for number, (home, members) in enumerate(homes.items()):
                progress("unpacking", number / len(homes))
                source, which = home.parts
                ready = place / f"{source}-{which}"
                if not ready.is_dir():
                    _unpack_case(archive, members, ready)
                patient = json.loads((ready / CARD).read_text("utf-8"))["patient"]
                found.setdefault(source, []).append(TrainCase(ready / HU, ready / CLASSES, patient, ready=ready))
    except (OSError, zipfile.BadZipFile, KeyError, ValueError) as error:
        raise ModelError(
            f"{file}: holds no packed cases, or is damaged ({error}).", "Write it with 'doselabel train --pack FILE'."
        ) from error
    if not found:
        raise ModelError(f"{file}: holds no packed cases.", "Write it with 'doselabel train --pack FILE'.")
    return found


def _pack_case(archive: zipfile.ZipFile, home: str, case: Prepared) -> None:
    archive.write(case.home / CARD, f"{home}/{CARD}")
    low, high = CLIP_HU
    for index, (hu, classes) in enumerate(zip(case.hu, case.classes, strict=True)):
        steps = np.round((hu.astype(np.float32).clip(low, high) - low) / STEP_HU).astype(np.uint8)
        for kind, picture in (("hu", steps), ("classes", np.asarray(classes))):
            data = io.BytesIO()
            Image.fromarray(picture).save(data, **_SMALL[kind])
            archive.writestr(f"{home}/{kind}-{index:05d}", data.getvalue())


def _unpack_case(archive: zipfile.ZipFile, members: Sequence[str], ready: Path) -> None:
    def volume(kind: str) -> np.ndarray:
        names = sorted(name for name in members if PurePosixPath(name).name.startswith(f"{kind}-"))
        return np.stack([np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("L")) for name in names])

    ready.parent.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(prefix=".unpacking-", dir=ready.parent))
    try:
        np.save(staged / HU, np.round(volume("hu") * np.float32(STEP_HU) + CLIP_HU[0]).astype(np.int16))
        np.save(staged / CLASSES, volume("classes"))
        (staged / CARD).write_bytes(archive.read(next(name for name in members if name.endswith(f"/{CARD}"))))
        os.rename(staged, ready)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
