"""The text of a ``study.json`` and the files it names: read, or refused by the true cause. Knows no fields' meaning."""

from __future__ import annotations

import codecs
import json
import unicodedata
from collections import Counter
from pathlib import Path
from typing import Any

from doselabel.errors import StudyError
from doselabel.geometry import SUFFIXES

USUAL_FAULTS = (
    "Mend the place it names. Usual: a comma after the last entry, a comment, typographic quotes, a decimal comma."
)


def read_object(manifest: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises
    ------
    StudyError
        When it can't be opened, is no text, no JSON, no object, or has a field twice.
    """
    try:
        text = _text(manifest.read_bytes())
    except OSError as error:
        raise StudyError(f"{manifest}: can't be read: {error.strerror}.", "Mend the file's permissions.") from error
    except UnicodeDecodeError as error:
        raise StudyError(f"{manifest}: is not text (byte {error.start}).", "Save it as UTF-8.") from error
    if not text.strip("\0 \t\r\n"):
        raise StudyError(f"{manifest}: is empty.", "Write it as docs/study.md says, or copy it again.")
    try:
        content = json.loads(text, object_pairs_hook=_each_once)
    except ValueError as error:
        raise StudyError(f"{manifest}: is not JSON ({error}).", USUAL_FAULTS) from error
    except RecursionError as error:
        raise StudyError(f"{manifest}: is not a study: its brackets are nested without end.", USUAL_FAULTS) from error
    if not isinstance(content, dict):
        kind = {list: "a list", str: "a text", type(None): "null"}.get(type(content), "a number")
        raise StudyError(f"{manifest}: holds {kind}; expected an object {{…}}.", "docs/study.md shows one.")
    return content


def file_inside(manifest: Path, field: str, name: str) -> Path:
    """The file that a field names, inside the manifest's folder.

    Raises
    ------
    StudyError
        When there is none, it is a folder, or it lies elsewhere.
    """
    folder = manifest.parent.resolve()
    where = f"{manifest}: field '{field}'"
    try:
        path = (folder / name).resolve()
        there = path.is_file()
    except (OSError, ValueError, RuntimeError) as error:
        why = "leads in a circle" if isinstance(error, RuntimeError) else "can be no file's name"
        raise StudyError(f"{where} is {name[:80]!r}, which {why}.", "Correct the name.") from error
    if not path.is_relative_to(folder):
        raise StudyError(f"{where} is '{name}', which lies outside the study folder.", "Copy the file into the folder.")
    if there:
        return path
    if not name:
        raise StudyError(f"{where} is empty; expected a file's name.", "Name the file.")
    if path.is_dir():
        raise StudyError(
            f"{where} names '{name}', which is a folder; expected one image file.",
            "Convert a folder of DICOM slices to one NIfTI file, with its orientation.",
        )
    if path.exists():
        raise StudyError(f"{where} names '{name}', which is no ordinary file.", "Copy the image itself there.")
    raise StudyError(f"{where} names '{name}', and there is no such file in {folder}.", _likely(folder, name))


def image_inside(manifest: Path, field: str, name: str) -> Path:
    """The image that a field names; raises as `file_inside`, and for a file of another kind."""
    path = file_inside(manifest, field, name)
    if not path.name.lower().endswith(SUFFIXES):
        raise StudyError(
            f"{manifest}: field '{field}' is '{name}'; expected an image ({', '.join(SUFFIXES)}).",
            "Convert it to NIfTI.",
        )
    return path


def explain(error: Any) -> str:
    """One of pydantic's errors in words, with the field's place and what was found."""
    place = ""
    for part in error["loc"]:
        place += f"[{part}]" if isinstance(part, int) else f".{part}" if place else str(part)
    message = str(error["msg"]).removeprefix("Value error, ").rstrip(".")
    found = error.get("input")
    if error["type"] == "missing":
        return f"field '{place}' is missing"
    if error["type"] == "extra_forbidden":
        return f"field '{place}' is not known"
    shown = f" (found {found!r})" if isinstance(found, str | int | float | bool | None) else ""
    return f"field '{place}': {message}{shown}" if place else message


def _text(content: bytes) -> str:
    """What an editor wrote: UTF-8 with or without a mark, UTF-16 with one, else the code page of western Windows."""
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252")


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    twice = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
    if twice:
        raise ValueError(f"field '{twice[0]}' is there twice")
    return dict(pairs)


def _likely(folder: Path, name: str) -> str:
    """What to do about a file that is not there, by what is there under a name much like it."""

    def plain(text: str) -> str:
        return unicodedata.normalize("NFKC", text).casefold()

    if (folder / name).is_symlink():
        return f"'{name}' is a link whose target is gone: copy the file itself."
    if "\\" in name and (folder / name.replace("\\", "/")).is_file():
        return f"Write it with slashes: '{name.replace(chr(92), '/')}'."
    parent = (folder / name).parent
    others = parent.iterdir() if parent.is_dir() else ()
    if near := next((other.name for other in others if plain(other.name) == plain(Path(name).name)), None):
        return f"There is '{near}', which differs in case, or in how its accents are stored: rename it."
    return "Put the file there or correct the name."
