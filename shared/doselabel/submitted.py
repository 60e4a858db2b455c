"""Which label maps were submitted for a CT of a study, and which of them counts. Reads files; writes none.

``labels/versions/<ct>/v0001.nii.gz`` with ``v0001.json`` beside it is a version: the metadata are written last and
make it count. ``v0001.review.json`` holds what a reviewer said. The server writes them (`monailabel_app.versions`);
training, evaluation and dosimetry read them here.
"""

from __future__ import annotations

import hashlib
import os
import re
from datetime import UTC, datetime
from pathlib import Path

from doselabel.errors import LabelError
from doselabel.study import Study, image_id
from doselabel.wire import ErrorInfo, LabelReview, LabelVersion

_VERSION = re.compile(r"v(\d{4,})\.")


class Submitted:
    """The label maps that were submitted for one CT.

    Parameters
    ----------
    folder : Path
        ``labels`` in the study folder.
    image_id : str
        The CT's id.
    stem : str
        The CT's file name without suffix.
    """

    def __init__(self, folder: Path, image_id: str, stem: str) -> None:
        self._folder = folder
        self._image_id = image_id
        self._stem = stem
        self._versions = folder / "versions" / stem

    @classmethod
    def of(cls, study: Study, ct: str) -> Submitted:
        """Those of a CT that a study names."""
        name = image_id(study.patient_id, ct)
        return cls(study.folder / "labels", name, name.partition("__")[2])

    def count(self) -> int:
        """Number of versions."""
        return len(self._numbers())

    def versions(self) -> list[LabelVersion]:
        """All versions, newest first; one that is damaged says so in its ``error``, and does not count."""
        return [self._version(number) for number in sorted(self._numbers(), reverse=True)]

    def _version(self, number: int) -> LabelVersion:
        try:
            return self.version(number)
        except LabelError as error:
            told = ErrorInfo(code=error.code, message=error.message, hint=error.hint)
            return LabelVersion(
                image_id=self._image_id, version=number, created=datetime.fromtimestamp(0, UTC), error=told
            )

    def version(self, number: int) -> LabelVersion:
        """One version's metadata.

        Raises
        ------
        LabelError
            When there is no such version.
        """
        try:
            known = LabelVersion.model_validate_json(self._file(number, ".json").read_bytes())
        except FileNotFoundError as error:
            raise LabelError(
                f"{self._image_id}: has no label version {number}.", f"It has {sorted(self._numbers())}."
            ) from error
        except ValueError as error:
            raise LabelError(
                f"{self._file(number, '.json')}: can't be read.", "Restore the file from a backup."
            ) from error
        review = self.review_of(number)
        said = {"approved": bool(review and review.approved), "flagged": bool(review and review.flagged)}
        return known.model_copy(update=said)

    def path(self, number: int) -> Path:
        """The label map of a version, after a look whether it is still the one that was submitted.

        Raises
        ------
        LabelError
            When there is no such version, or its file has changed since.
        """
        known, file = self.version(number), self._file(number, ".nii.gz")
        if known.sha256 and hash_of(file) != known.sha256:
            raise LabelError(
                f"{self._image_id}: the file of version {number} is not the one that was submitted.",
                "Restore it from a backup.",
            )
        return file

    def final(self) -> LabelVersion | None:
        """The version that counts: the newest approved one; else the newest that is not flagged; else the newest."""
        versions = [version for version in self.versions() if version.error is None]
        good = next((v for v in versions if v.approved), None) or next((v for v in versions if not v.flagged), None)
        return good or (versions[0] if versions else None)

    def final_path(self) -> Path | None:
        """The label map that counts; None when none was submitted."""
        final = self.final()
        return self._file(final.version, ".nii.gz") if final else None

    def review_of(self, number: int) -> LabelReview | None:
        """What a reviewer said of a version."""
        try:
            return LabelReview.model_validate_json(self._file(number, ".review.json").read_bytes())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise LabelError(
                f"{self._image_id}: the review of version {number} can't be read.", "Review it again."
            ) from error

    def _numbers(self, complete: bool = True) -> set[int]:
        """Numbers that are versions; with ``complete=False`` also those whose writing was interrupted."""
        try:
            names = os.listdir(self._versions)
        except FileNotFoundError:
            return set()
        ours = [name for name in names if not complete or name.endswith(".json")]
        return {int(match[1]) for name in ours if (match := _VERSION.match(name)) and ".review." not in name}

    def _file(self, number: int, suffix: str) -> Path:
        return self._versions / f"v{number:04d}{suffix}"


def hash_of(file: Path) -> str:
    """SHA-256 of a file.

    Raises
    ------
    LabelError
        When it is gone or can't be read.
    """
    try:
        with file.open("rb") as opened:
            return hashlib.file_digest(opened, "sha256").hexdigest()
    except OSError as error:
        raise LabelError(f"{file}: can't be read ({error.strerror}).", "Restore it from a backup.") from error
