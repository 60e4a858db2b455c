"""Files and JSON that come with a request. Knows HTTP forms and file kinds; no studies."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastapi import UploadFile

from doselabel.errors import DoselabelError
from doselabel.geometry import SUFFIXES
from doselabel.images import read_header
from doselabel.images.header import looks_like
from doselabel.images.stream import GZIP_MAGIC
from monailabel_app.refusals import Refused, upload_words

MAX_DECODED_BYTES = 1 << 30
"""An uploaded image that declares more (512×512×2048 voxels of a CT) is refused before a voxel is read."""

_HEAD_BYTES = 4096
PREFIX = "doselabel-upload-"


@contextmanager
def spooled(upload: UploadFile) -> Iterator[Path]:
    """Put an uploaded image into a temporary file, named by what it holds: a client's names are often wrong.

    OHIF calls whatever it sends ``label.bin``; the name counts only where the content tells nothing.
    """
    name = (upload.filename or "").lower()
    upload.file.seek(0)
    head = upload.file.read(_HEAD_BYTES)
    suffix = kind_of(head)
    suffix = suffix or next((s for s in SUFFIXES if name.endswith(s) and s != ".mhd"), None)
    if suffix is None:
        looks = f" ({looks})" if (looks := looks_like(head)) else ""
        raise Refused(
            f"The file '{name[-60:]}' is no image{looks}; expected one of "
            f"{', '.join(s for s in SUFFIXES if s != '.mhd')}.",
            "Save it as NIfTI.",
        )
    upload.file.seek(0)
    with tempfile.TemporaryDirectory(prefix=PREFIX) as folder:
        path = Path(folder) / f"upload{suffix}"
        with path.open("wb") as file:
            shutil.copyfileobj(upload.file, file, 1 << 20)
        yield path


def kind_of(head: bytes) -> str | None:
    """The suffix that fits the first bytes of an image file; None when they are of no kind known here."""
    if head.startswith(b"NRRD"):
        return ".nrrd"
    if head.startswith((b"ObjectType", b"NDims")):
        return ".mha"
    if _is_nifti(head):
        return ".nii"
    return ".nii.gz" if head.startswith(GZIP_MAGIC) else None


def _is_nifti(head: bytes) -> bool:
    return head[344:348] in (b"n+1\0", b"ni1\0") or head[4:8] in (b"n+2\0", b"ni2\0")


def bounded(path: Path) -> Path:
    """An uploaded image that says how large it is and where; anything else is refused before a voxel is read."""
    try:
        read_header(path, max_bytes=MAX_DECODED_BYTES)
    except DoselabelError as error:
        raise Refused(upload_words(error.message, path, "The uploaded file"), error.hint) from error
    return path


def json_object(text: str) -> dict[str, Any]:
    """Read a form field that should hold a JSON object."""
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        raise Refused(f"'params' is not JSON ({error}).", "Send a JSON object.") from error
    if not isinstance(value, dict):
        raise Refused(f"'params' is a {type(value).__name__}; expected a JSON object.")
    return value
