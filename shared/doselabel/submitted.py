"""Which label maps were submitted for a CT of a study, and which of them counts. Reads files; writes none.

``labels/versions/<ct>/v0001.nii.gz`` with ``v0001.json`` beside it is a version: the metadata are written last and
make it count. ``v0001.review.json`` holds what a reviewer said. The server writes them (`monailabel_app.versions`);
training, evaluation and dosimetry read them here.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from doselabel.errors import LabelError
from doselabel.study import Study, image_id
from doselabel.wire import LabelReview, LabelVersion

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
        """All versions, newest first."""
        return [self.version(number) for number in sorted(self._numbers(), reverse=True)]

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
                f"{self._file(number, '.json')}: can't be read ({error}).", "Restore the file from a backup."
            ) from error
        review = self.review_of(number)
        return known.model_copy(update={"approved": bool(review and review.approved)})

    def path(self, number: int) -> Path:
        """The label map of a version."""
        self.version(number)
        return self._file(number, ".nii.gz")

    def final(self) -> LabelVersion | None:
        """The version that counts: the newest approved one, or the newest when none is approved."""
        versions = self.versions()
        return next((v for v in versions if v.approved), versions[0] if versions else None)

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
