"""Every label map that was submitted for one CT, kept for ever. Knows files; no server, no studies.

What a version is, and which one counts: `doselabel.submitted`. Nothing here overwrites or removes one but a draft,
when its author has stored a newer one.
``labels/final/<ct>.nii.gz`` is a copy of the version that counts, for readers that know nothing of versions, and
``labels/<tag>/<ct>…`` with its ``.json`` holds what can be made again (predictions, dose maps).
"""

from __future__ import annotations

import json
import logging
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock

from doselabel import disk
from doselabel.alarms import Alarm
from doselabel.errors import LabelError
from doselabel.geometry import SUFFIXES
from doselabel.labels import NAMES, LabelMap, write_labels
from doselabel.submitted import HISTORY, REOPENED, Submitted, hash_of
from doselabel.wire import LabelEvent, LabelReview, LabelSubmission, LabelVersion, Reopening

logger = logging.getLogger(__name__)

FINAL = "final"
ORIGINAL = "original"
_RESERVED = {FINAL, "versions"}
_STARTED_FROM = re.compile(r"version (\d{1,6})")
_BEGUN = re.compile(r"v(\d{4,})\.")
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,39}")


class LabelStore(Submitted):
    """The label maps of one CT, to write as well as to read."""

    # ---- versions

    def add(self, labels: LabelMap, submission: LabelSubmission) -> LabelVersion:
        """Keep a label map as a new version; see `adopt`."""
        volumes = {name: round(labels.volume_ml(name), 3) for name in labels.present()}
        with tempfile.TemporaryDirectory(prefix="doselabel-label-") as folder:
            file = write_labels(Path(folder) / "labels.nii.gz", labels)
            return self.adopt(file, submission, volumes, labels.findings)

    def adopt(
        self,
        file: Path,
        submission: LabelSubmission,
        organs_ml: Mapping[str, float],
        alarms: Sequence[Alarm] = (),
        *,
        needs_review: bool = False,
        changed: Mapping[str, float] | None = None,
    ) -> LabelVersion:
        """Keep a label map's file, which is as `write_labels` writes it, as a new version.

        Returns
        -------
        LabelVersion
            Once it is returned, the map is on disk. Its ``unseen`` names the versions of others that its author did
            not know of: nothing is refused then, and both can be told.
        """
        disk.make_folder(self._versions)
        with self._locked():
            known = [version for version in self.versions() if version.error is None]
            if submission.key and (again := [v for v in known if v.key == submission.key]):
                return again[0]
            seen = _seen(submission)

            def others(version: LabelVersion) -> bool:
                return not version.draft and (not version.author or version.author != submission.author)

            number = self._next_number()
            image = self._file(number, ".nii.gz")
            disk.copy(file, image)
            version = LabelVersion(
                image_id=self._image_id,
                version=number,
                created=datetime.now(UTC),
                sha256=hash_of(image),
                organs_ml=dict(organs_ml),
                unseen=[] if seen is None else sorted(v.version for v in known if v.version > seen and others(v)),
                alarms=list(alarms),
                needs_review=needs_review,
                changed=dict(changed or {}),
                **submission.model_dump(),
            )
            self._acknowledge(self._file(number, ".draft.json" if submission.draft else ".json"), version)
            self._forget_drafts([v.version for v in known if v.draft and v.author == submission.author])
            self._point()
        return version.model_copy(update={"conflicts": version.unseen})

    @staticmethod
    def _acknowledge(path: Path, version: LabelVersion) -> None:
        """Write the metadata, which make a version count; what can't be sure to be on the disk must not count."""
        try:
            disk.write(path, version.model_dump_json(indent=2))
        except OSError:
            path.unlink(missing_ok=True)
            raise

    def _forget_drafts(self, numbers: Sequence[int]) -> None:
        """Remove what an author's newer draft or submission stands for."""
        for number in numbers:
            with suppress(OSError):
                self._file(number, ".draft.json").unlink()
                self._file(number, ".nii.gz").unlink()

    def _next_number(self) -> int:
        """One more than any that was begun: also one whose writing was interrupted keeps its number."""
        begun = (_BEGUN.match(name) for name in self._names())
        return 1 + max((int(match[1]) for match in begun if match), default=0)

    def review(self, number: int, review: LabelReview) -> LabelVersion:
        """Keep what a reviewer says of a version; a later word replaces an earlier one, and the history has both.

        Raises
        ------
        LabelError
            When there is no such version, or it is a draft.
        """
        if self._metadata(number).draft:
            raise LabelError(f"{self._image_id}: version {number} is a draft.", "It is reviewed once it is submitted.")
        review = review.model_copy(update={"time": datetime.now(UTC)})
        what = "approved" if review.approved else "flagged" if review.flagged else "reviewed"
        with self._locked():
            disk.write(self._file(number, ".review.json"), review.model_dump_json(indent=2))
            self._remember(what, number, review.reviewer, review.comment)
            self._point()
        return self.version(number)

    def reopen(self, why: Reopening) -> LabelEvent:
        """Have the CT done again; what was submitted stays, and counts as before.

        Raises
        ------
        LabelError
            When nothing has been submitted yet.
        """
        newest = max(self._numbers(), default=0)
        if not newest:
            raise LabelError(f"{self._image_id}: has no label map yet.", "It is offered to annotators anyway.")
        with self._locked():
            disk.write(self._versions / REOPENED, json.dumps({"after": newest, **why.model_dump()}))
            return self._remember("reopened", newest, why.by, why.comment)

    def _remember(self, what: Any, version: int, by: str, comment: str) -> LabelEvent:
        """Add a line to the history: what happened has happened, also where the line can't be written."""
        event = LabelEvent(time=datetime.now(UTC), what=what, version=version, by=by, comment=comment)
        try:
            disk.append(self._versions / HISTORY, event.model_dump_json())
        except OSError as error:
            logger.warning("%s: the history lacks '%s' by '%s': %s", self._image_id, what, by, error)
        return event

    def _point(self) -> None:
        """Let ``labels/final`` show the version that counts.

        What was stored is stored: that the copy can't be made is logged, and made good with the next version.
        """
        try:
            final = self.final()
            target = self._folder / FINAL / f"{self._stem}.nii.gz"
            if final is None:
                target.unlink(missing_ok=True)
                return
            disk.make_folder(target.parent)
            disk.copy(self.path(final.version), target)
        except (OSError, LabelError) as error:
            logger.warning("%s: labels/final is not up to date: %s", self._image_id, error)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with FileLock(str(self._versions / ".lock"), timeout=60):
            disk.sweep(self._versions)
            yield

    # ---- what can be made again

    def tags(self) -> list[str]:
        """Tags under which something is kept for this CT."""
        try:
            folders = [entry.name for entry in os.scandir(self._folder) if entry.is_dir()]
        except FileNotFoundError:
            return []
        tags = [tag for tag in folders if tag not in _RESERVED and self.tagged(tag)]
        shown = (self._folder / FINAL / f"{self._stem}.nii.gz").exists()
        return sorted(tags + ([FINAL] if self.count() and (shown or self.final()) else []))

    def tagged(self, tag: str) -> Path | None:
        """The file of a tag; of "final" the version that counts."""
        if tag == FINAL:
            return self.final_path()
        folder = self._folder / check_tag(tag)
        return next((p for s in SUFFIXES if (p := folder / f"{self._stem}{s}").is_file()), None)

    def tag_info(self, tag: str) -> dict[str, Any]:
        """What was written down with a tag's file."""
        if tag == FINAL:
            final = self.final()
            return final.model_dump(mode="json") | self._as_reviewed(final) if final else {}
        try:
            return json.loads((self._folder / check_tag(tag) / f"{self._stem}.json").read_text("utf-8"))
        except FileNotFoundError:
            return {}
        except ValueError as error:
            logger.warning("%s: what was written down with '%s' can't be read: %s", self._image_id, tag, error)
            return {}

    def _as_reviewed(self, version: LabelVersion) -> dict[str, Any]:
        """What 3D Slicer's reviewer reads of a version, in its words."""
        others = enumerate(sorted(version.organs_ml.keys() - NAMES.values()), start=max(NAMES) + 1)
        values = {name: value for value, name in NAMES.items()} | {name: value for value, name in others}
        names = {name: values[name] for name in sorted(version.organs_ml, key=values.__getitem__)}
        said: dict[str, Any] = {
            "client_id": version.author,
            "ts": int(version.created.timestamp()),
            "label_info": [{"name": name, "idx": value} for name, value in names.items()],
            "params": {"label_names": names},
        }
        if review := self.review_of(version.version):
            said["segmentationMeta"] = {
                "status": "approved" if review.approved else "flagged" if review.flagged else "",
                "approvedBy": review.reviewer,
                "level": review.difficulty,
                "comment": review.comment,
                "editTime": int(review.time.timestamp()) if review.time else "",
            }
        return said

    def put_tag(self, tag: str, file: Path, info: Mapping[str, Any]) -> None:
        """Keep a file that can be made again; an older one of the same tag is replaced."""
        if check_tag(tag) in _RESERVED:
            raise LabelError(f"The tag '{tag}' is for submitted label maps.", "Choose another tag.")
        suffix = next((s for s in SUFFIXES if file.name.lower().endswith(s)), None)
        if suffix is None:
            raise LabelError(f"{file.name}: is no image; expected one of {', '.join(SUFFIXES)}.")
        folder = self._folder / tag
        disk.make_folder(folder)
        old = self.tagged(tag)
        target = folder / f"{self._stem}{suffix}"
        disk.copy(file, target)
        disk.write(folder / f"{self._stem}.json", json.dumps(dict(info), indent=2))
        if old and old != target:
            old.unlink()

    def remove_tag(self, tag: str) -> None:
        """Remove what can be made again.

        Raises
        ------
        LabelError
            For submitted label maps, which are never removed.
        """
        if check_tag(tag) in _RESERVED:
            raise LabelError(
                "Submitted label maps are never removed.", "Submit a better one: the newest version counts."
            )
        if file := self.tagged(tag):
            file.unlink()
            (self._folder / tag / f"{self._stem}.json").unlink(missing_ok=True)


def _seen(submission: LabelSubmission) -> int | None:
    """The newest version that the author of a submission knew of; None when nobody can tell."""
    if submission.seen is not None:
        return submission.seen
    started = _STARTED_FROM.fullmatch(submission.started_from)
    return int(started[1]) if started else None


def check_tag(tag: str) -> str:
    """Return a tag that is a plain word, or refuse it: it becomes a folder's name."""
    if not _TAG.fullmatch(tag):
        raise LabelError(
            f"The tag {tag[:60]!r} is not usable; expected 1–40 letters, digits, '-' and '_'.",
            "Use 'final' for a finished label map.",
        )
    return tag
