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
from monailabel_app.refusals import Refused

MAX_UPLOAD_BYTES = 1 << 30
MAX_DECODED_BYTES = 1 << 32
"""An uploaded image that declares more is refused before a voxel is read."""


@contextmanager
def spooled(upload: UploadFile) -> Iterator[Path]:
    """Put an uploaded image into a temporary file; nothing of the name that the client gave is used but its kind."""
    name = (upload.filename or "").lower()
    suffix = next((s for s in SUFFIXES if name.endswith(s) and s != ".mhd"), None)
    if suffix is None:
        raise Refused(
            f"The file '{name[-60:]}' is no image; expected one of {', '.join(s for s in SUFFIXES if s != '.mhd')}.",
            "Save it as NIfTI.",
        )
    if (upload.size or 0) > MAX_UPLOAD_BYTES:
        raise Refused(
            f"The file has {(upload.size or 0) / 1e9:.1f} GB; at most {MAX_UPLOAD_BYTES / 1e9:.1f} GB are taken.",
            "Compress it (.nii.gz), or put the patient's folder into the studies folder.",
            status=413,
        )
    with tempfile.TemporaryDirectory(prefix="doselabel-upload-") as folder:
        path = Path(folder) / f"upload{suffix}"
        with path.open("wb") as file:
            shutil.copyfileobj(upload.file, file)
        yield path


def bounded(path: Path) -> Path:
    """An uploaded image that says how large it is and where; anything else is refused before a voxel is read."""
    try:
        read_header(path, max_bytes=MAX_DECODED_BYTES)
    except DoselabelError as error:
        raise Refused(error.message.replace(f"{path}: ", "The uploaded file ", 1), error.hint) from error
    return path


def json_object(text: str) -> dict[str, Any]:
    """Read a form field that should hold a JSON object."""
    try:
        value = json.loads(text or "{}")
    except ValueError as error:
        raise Refused(f"'params' is not JSON ({error}).", "Send a JSON object.") from error
    if not isinstance(value, dict):
        raise Refused(f"'params' is a {type(value).__name__}; expected a JSON object.")
    return value
