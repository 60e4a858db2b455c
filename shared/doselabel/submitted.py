"""Which label maps were submitted for a CT of a study, and which of them counts. Reads files; writes none.

``labels/versions/<ct>/v0001.nii.gz`` with ``v0001.json`` beside it is a version: the metadata are written last and
make it count. ``v0001.review.json`` holds what a reviewer said last, ``history.jsonl`` all that was said, and
``v0001.draft.json`` stands for ``v0001.json`` where the version is a draft. ``reopened.json`` says that the CT is to be
done again. `doselabel.versions` writes them; training, evaluation and dosimetry read them here.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from doselabel.errors import LabelError
from doselabel.files import file_sha256, too_new
from doselabel.study import Study, image_id
from doselabel.wire import ErrorInfo, LabelEvent, LabelReview, LabelState, LabelVersion, Reopening

HISTORY = "history.jsonl"
REOPENED = "reopened.json"

_finals: dict[Path, tuple[int, LabelVersion | None]] = {}
"""Folder of versions → its time, and the version that counts: it is chosen again when something came or went."""

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
    def of(cls, study: Study, ct: str) -> Self:
        """Those of a CT that a study names."""
        name = image_id(study.patient_id, ct)
        return cls(study.folder / "labels", name, name.partition("__")[2])

    def count(self) -> int:
        """Number of submitted versions."""
        return len(self._numbers())

    def standing(self) -> tuple[LabelState | None, tuple[str, ...]]:
        """How the newest submitted version stands, and who drew any; by what is written down, no image is read."""
        known = []
        for number in sorted(self._numbers(), reverse=True):
            with suppress(LabelError):
                known.append(self.version(number))
        return known[0].state if known else None, tuple(dict.fromkeys(v.author for v in known if v.author))

    def versions(self) -> list[LabelVersion]:
        """All versions, newest first; one that is damaged says so in its ``error``, and does not count."""
        return list(self._newest_first())

    def _newest_first(self) -> Iterator[LabelVersion]:
        """The same, each read when it is asked for."""
        blind: dict[int, set[int]] = {}
        for number in sorted(self._numbers(drafts=True), reverse=True):
            known = self._version(number)
            newer = {n for n, unseen in blind.items() if number in unseen}
            blind[number] = set(known.unseen)
            yield known.model_copy(update={"conflicts": sorted(newer | blind[number])})

    def _version(self, number: int) -> LabelVersion:
        known = LabelVersion(image_id=self._image_id, version=number, created=datetime.fromtimestamp(0, UTC))
        try:
            known = self._metadata(number)
            known = self._reviewed(known)
            self._check_file(known)
        except LabelError as error:
            told = ErrorInfo(code=error.code, message=error.message, hint=error.hint)
            return known.model_copy(update={"error": told})
        return known

    def version(self, number: int) -> LabelVersion:
        """One version's metadata.

        Raises
        ------
        LabelError
            When there is no such version, or what is known of it can't be read.
        """
        return self._reviewed(self._metadata(number))

    def _reviewed(self, known: LabelVersion) -> LabelVersion:
        review = self.review_of(known.version)
        approved, flagged = bool(review and review.approved), bool(review and review.flagged)
        return known.model_copy(update={"approved": approved, "flagged": flagged})

    def _metadata(self, number: int) -> LabelVersion:
        for suffix in (".json", ".draft.json"):
            try:
                return LabelVersion.model_validate_json(self._file(number, suffix).read_bytes())
            except FileNotFoundError:
                continue
            except (OSError, ValueError) as error:
                raise LabelError(
                    f"{self._file(number, suffix)}: can't be read.", "Restore the file from a backup."
                ) from error
        raise LabelError(f"{self._image_id}: has no label version {number}.", f"It has {sorted(self._numbers())}.")

    def _check_file(self, known: LabelVersion) -> Path:
        file = self._file(known.version, ".nii.gz")
        if hash_of(file) != known.sha256 and known.sha256:
            raise LabelError(
                f"{self._image_id}: the file of version {known.version} is not the one that was submitted.",
                "Restore it from a backup.",
            )
        return file

    def path(self, number: int) -> Path:
        """The label map of a version, after a look whether it is still the one that was submitted.

        Raises
        ------
        LabelError
            When there is no such version, or its file has changed since.
        """
        return self._check_file(self._metadata(number))

    def final(self) -> LabelVersion | None:
        """The version that counts: the newest approved one; else the newest that is not flagged; else the newest.

        One that needs a review counts only when it is approved; a draft, or a damaged one, never does.
        """
        try:
            stamp = os.stat(self._versions).st_mtime_ns
        except OSError:
            return None
        known = _finals.get(self._versions)
        if known is None or known[0] != stamp or not self._is_whole(known[1]):
            known = (0 if too_new([stamp]) else stamp), self._choose_final()
            _finals[self._versions] = known
        return known[1]

    def _is_whole(self, version: LabelVersion | None) -> bool:
        try:
            return version is None or bool(self._check_file(version))
        except LabelError:
            return False

    def _choose_final(self) -> LabelVersion | None:
        newest = unflagged = None
        reviewed = any(name.endswith(".review.json") for name in self._names())
        for version in self._newest_first():
            if version.error is not None or version.draft:
                continue
            if version.approved:
                return version
            if not version.needs_review:
                newest = newest or version
                unflagged = unflagged or (None if version.flagged else version)
            if unflagged and not reviewed:  # no older one is approved: none need be read
                break
        return unflagged or newest

    def final_path(self) -> Path | None:
        """The label map that counts; None when none was submitted."""
        final = self.final()
        return self._file(final.version, ".nii.gz") if final else None

    def reopened(self) -> Reopening | None:
        """Why the CT is to be done again; None when it is not, or has been."""
        try:
            row = json.loads((self._versions / REOPENED).read_text("utf-8"))
            return Reopening.model_validate(row) if int(row["after"]) >= max(self._numbers(), default=0) else None
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError):
            return Reopening(comment="why can't be read")

    def history(self) -> list[LabelEvent]:
        """What happened to the CT's label maps, oldest first; a line that a crash cut off is left out."""
        events = [
            LabelEvent(
                time=v.created,
                what="draft" if v.draft else "submitted",
                version=v.version,
                by=v.author,
                comment=v.comment,
            )
            for v in self.versions()
            if v.author or v.created.timestamp() > 0
        ]
        try:
            lines = (self._versions / HISTORY).read_text("utf-8", "replace").splitlines()
        except FileNotFoundError:
            lines = []
        for line in lines:
            with suppress(ValueError):
                events.append(LabelEvent.model_validate_json(line))
        return sorted(events, key=lambda event: event.time)

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

    def _numbers(self, *, drafts: bool = False) -> set[int]:
        """Numbers of the submitted versions; with ``drafts`` also of those that are under way."""
        ends = (".json", ".draft.json") if drafts else (".json",)
        found = ((match, name[match.end() - 1 :]) for name in self._names() if (match := _VERSION.match(name)))
        return {int(match[1]) for match, end in found if end in ends}

    def _names(self) -> list[str]:
        try:
            return os.listdir(self._versions)
        except (FileNotFoundError, NotADirectoryError):
            return []

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
        return file_sha256(file)
    except OSError as error:
        raise LabelError(f"{file}: can't be read ({error.strerror}).", "Restore it from a backup.") from error
