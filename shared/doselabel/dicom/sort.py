"""Files of a folder, an archive or a DICOMDIR → the DICOM instances in them. Reads headers only; changes nothing."""

from __future__ import annotations

import shutil
import tarfile
import warnings
import zipfile
from collections.abc import Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from doselabel.dicom.need import Dataset, pydicom, read_partial
from doselabel.errors import DicomError, Progress, no_progress
from doselabel.files import file_sha256

_MOST_UNPACKED = 64 << 30
CT, ENHANCED_CT, LEGACY_CT = (f"1.2.840.10008.5.1.4.1.1.2{end}" for end in ("", ".1", ".2"))
NM = "1.2.840.10008.5.1.4.1.1.20"
PET, LEGACY_PET, ENHANCED_PET = (f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("128", "128.1", "130"))
VOLUMES = {CT, ENHANCED_CT, LEGACY_CT, NM, PET, LEGACY_PET, ENHANCED_PET}
_SERIES = 0x0020000E
_DICOMDIR = "1.2.840.10008.1.3.10"
_KNOWN_OTHERS = {".txt", ".json", ".xml", ".html", ".htm", ".pdf", ".jpg", ".png", ".exe", ".inf", ".ini", ".md", ".gz",
                 ".csv", ".nii", ".nrrd", ".log", ".dll", ".ds_store", ".yaml", ".yml", ".py"}  # fmt: skip


@dataclass(frozen=True, eq=False)
class Instance:
    """One DICOM object: its file, the name a user knows it by, and its header without voxels."""

    path: Path
    name: str
    header: Dataset

    def text(self, keyword: str) -> str:
        """An attribute as text, "" when it is not there."""
        return str(self.header.get(keyword) or "").strip()


class Broken(NamedTuple):
    """A damaged file, why, and as much of its header as can be read."""

    name: str
    why: str
    header: Dataset | None = None


@dataclass
class Gathered:
    """What was found: instances, and what is no part of any."""

    instances: list[Instance] = field(default_factory=list)
    broken: list[Broken] = field(default_factory=list)
    clashes: list[tuple[Instance, Instance]] = field(default_factory=list)
    """Pairs that state one SOPInstanceUID and differ: harmless as long as neither is used."""
    words: list[str] = field(default_factory=list)
    others: int = 0

    def usable(self, used: Container[str]) -> None:
        """Raise DicomError when one of the named instances has a twin that differs."""
        for a, b in self.clashes:
            if a.name in used or b.name in used:
                raise DicomError(
                    f"{a.name} and {b.name} state one SOPInstanceUID and differ.",
                    "One of them was altered: keep the right one, or export both again.",
                )


@contextmanager
def gathered(source: str | Path, progress: Progress = no_progress) -> Iterator[Gathered]:
    """All instances in a folder (with archives in it), an archive (zip, tar), a DICOMDIR or a file.

    Raises
    ------
    DicomError
        When there is nothing, or an archive can't be unpacked.
    """
    source = Path(source)
    if not source.exists():
        raise DicomError(f"{source}: there is no such file or folder.", "Give a folder of DICOM files, or an archive.")
    with TemporaryDirectory(prefix="doselabel-dicom-") as scratch:
        yield _gather(source, Path(scratch), progress)


def _gather(source: Path, scratch: Path, progress: Progress) -> Gathered:
    found = Gathered()
    files = list(_files(source, source, scratch, found))
    seen: dict[str, Instance] = {}
    for number, (path, name) in enumerate(files):
        progress("reading headers", number / len(files))
        instance = _instance(path, name, found)
        if instance is None:
            continue
        uid = str(instance.header.SOPInstanceUID)
        if (twin := seen.get(uid)) is None:
            seen[uid] = instance
        elif file_sha256(twin.path) == file_sha256(path):
            found.words.append(f"{name} is a copy of {twin.name}; it was passed over.")
        else:
            found.clashes.append((twin, instance))
            seen[f"{uid} of {name}"] = instance
    found.instances = list(seen.values())
    if not found.instances:
        broken = "; ".join(f"{b.name}: {b.why}" for b in found.broken[:3])
        raise DicomError(
            f"{source}: holds no DICOM object that can be read ({len(files)} file(s) looked at"
            + (f"; {broken}" if broken else "")
            + ").",
            "Give the folder that was exported from the PACS or the workstation.",
        )
    return found


def _files(source: Path, root: Path, scratch: Path, found: Gathered) -> Iterator[tuple[Path, str]]:
    if source.is_dir():
        for path in sorted(source.rglob("*")):
            if path.is_file():
                yield from _files(path, root, scratch, found)
        return
    name = source.relative_to(root).as_posix() if source != root else source.name
    if zipfile.is_zipfile(source) or _is_tar(source):
        try:
            inside = _unpacked(source, scratch)
        except (OSError, RuntimeError, EOFError, zipfile.BadZipFile, tarfile.TarError, NotImplementedError) as error:
            raise DicomError(f"{name}: the archive can't be unpacked ({error}).", "Copy or make it again.") from error
        for path in sorted(inside.rglob("*")):
            if path.is_file():
                yield path, f"{name}/{path.relative_to(inside).as_posix()}"
    elif source == root and source.name.upper() == "DICOMDIR":
        yield from _files(source.parent, source.parent, scratch, found)
    elif source != root and source.suffix.lower() in _KNOWN_OTHERS:
        found.others += 1
    else:
        yield source, name


def _is_tar(path: Path) -> bool:
    return path.name.lower().endswith((".tar", ".tar.gz", ".tgz", ".tar.xz", ".tar.bz2")) and tarfile.is_tarfile(path)


def _unpacked(archive: Path, scratch: Path) -> Path:
    """Unpack into a folder of its own; names that lead out of it are refused."""
    inside = scratch / str(len(list(scratch.iterdir())))
    inside.mkdir()
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as packed:
            _room_for(sum(info.file_size for info in packed.infolist()), scratch)
            packed.extractall(inside)  # which never writes outside of the folder
    else:
        with tarfile.open(archive) as tar:
            _room_for(sum(member.size for member in tar.getmembers()), scratch)
            tar.extractall(inside, filter="data")
    return inside


def _room_for(size: int, scratch: Path) -> None:
    if size > min(_MOST_UNPACKED, shutil.disk_usage(scratch).free):
        raise OSError(f"it would unpack to {size / 1e9:.1f} GB")


def _instance(path: Path, name: str, found: Gathered) -> Instance | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with path.open("rb") as file:
                marked = file.read(132)[128:] == b"DICM"
                if not marked and path.stat().st_size < 132:
                    found.others += 1
                    return None
                file.seek(0)
                header = pydicom.dcmread(file, stop_before_pixels=True, force=not marked)
                left = path.stat().st_size - file.tell()
            # Values are parsed when they are asked for: a damaged one shows here, not in the middle of the work.
            uid, made = header.get("SOPClassUID"), header.get("SOPInstanceUID")
            series = header.get("SeriesInstanceUID")
    except Exception as error:  # pydicom raises whatever a damaged file makes it raise
        if _looks_like_dicom(path):
            found.broken.append(
                Broken(name, f"its header can't be read ({type(error).__name__}: {error})", _begin(path))
            )
        else:
            found.others += 1
        return None
    media = str(header.file_meta.get("MediaStorageSOPClassUID", "")) if "file_meta" in header.__dict__ else ""
    if _DICOMDIR in (media, str(uid)):
        _check_dicomdir(path, header, name, found)
        return None
    if not uid or not made or not series:
        if marked:
            missing = next(
                k for k, v in (("SOPClassUID", uid), ("SOPInstanceUID", made), ("Series UID", series)) if not v
            )
            found.broken.append(Broken(name, f"it has no {missing}", header))
        else:
            found.others += 1
        return None
    if (short := _cut_off(left, header)) is not None:
        found.broken.append(Broken(name, short, header))
        return None
    _lift(header)
    return Instance(path, name, header)


def _lift(header: Dataset) -> None:
    """Put what a conversion to multi-frame (legacy converted enhanced CT, PET) kept aside where the slices had it."""
    for shared in header.get("SharedFunctionalGroupsSequence") or []:
        for kept in shared.get("UnassignedSharedConvertedAttributesSequence") or []:
            for element in kept:
                if element.tag not in header:
                    header.add(element)


def _begin(path: Path) -> Dataset | None:
    """A header up to the series it belongs to, where it is damaged behind that."""
    try:
        with warnings.catch_warnings(), path.open("rb") as file:
            warnings.simplefilter("ignore")
            begin = read_partial(file, stop_when=lambda tag, vr, length: tag > _SERIES)
            return begin if begin.get("SOPClassUID") and begin.get("SeriesInstanceUID") else None
    except Exception:  # damaged before that, too
        return None


def _looks_like_dicom(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(132)[128:] == b"DICM"


def _cut_off(left: int, header: Dataset) -> str | None:
    """Why the bytes behind a header can't be the voxels that it states; None when they can."""
    if left <= 0 and str(header.get("SOPClassUID")) in VOLUMES:
        return "it ends within its header"
    meta = getattr(header, "file_meta", None)
    syntax = str(meta.get("TransferSyntaxUID", "")) if meta is not None else ""
    packed = syntax.startswith("1.2.840.10008.1.2.4") or syntax in ("1.2.840.10008.1.2.5", "1.2.840.10008.1.2.1.99")
    try:
        values = int(header.get("Rows") or 0) * int(header.get("Columns") or 0) * int(header.get("NumberOfFrames") or 1)
        bits = int(header.get("BitsAllocated") or 0) * int(header.get("SamplesPerPixel") or 1)
    except (TypeError, ValueError):
        return "its rows, columns or frames are no numbers"
    wanted = values * bits // 8
    if not packed and wanted > left:
        return f"it is cut off: {wanted} bytes of voxels are stated, {max(0, left)} are there"
    return None


def _check_dicomdir(path: Path, header: Dataset, name: str, found: Gathered) -> None:
    """Say which of the files that a DICOMDIR lists are not there."""
    absent = []
    for record in header.get("DirectoryRecordSequence") or []:
        parts = record.get("ReferencedFileID")
        if parts:
            parts = [parts] if isinstance(parts, str) else list(parts)
            if not path.parent.joinpath(*parts).exists():
                absent.append("/".join(parts))
    if absent:
        found.words.append(f"{name} lists {len(absent)} file(s) that are not there, the first {absent[0]}.")
