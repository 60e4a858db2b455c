"""Unsaved edits on disk, so that neither a crash nor a closed window loses them. Knows files; knows no server.

One draft per case: ``<image_id>.json`` names the label file that belongs to it, and is replaced atomically only
after that file is complete; a crash at any moment leaves the older draft or the newer one.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from doselabel.errors import DoselabelError
from doselabel.geometry import Volume
from doselabel.labels import LabelMap, read_labels, write_labels
from napari_plugin.client import inside

DISCARDED = "discarded"


@dataclass(frozen=True)
class Draft:
    """Unsubmitted labels on the CT's native grid, and what they started from."""

    labels: LabelMap
    origin: str
    started_from: str
    saved: datetime
    seen: int | None = None
    """The newest version the annotator knew of; None in drafts of older plugins."""


class Recovery:
    """The drafts of one server.

    Parameters
    ----------
    root : path
        Folder of all drafts; each server has its own inside it.
    server_url : str
        Cases of different servers may have the same id.
    """

    def __init__(self, root: Path, server_url: str) -> None:
        self.folder = root / hashlib.sha256(server_url.encode()).hexdigest()[:12]

    def save(self, image_id: str, draft: Draft) -> Path:
        """Write a draft, replacing the one before."""
        stamp = draft.saved.strftime("%Y%m%dT%H%M%S%f")
        path = self.folder / f"{image_id}.{stamp}.nii.gz"
        self.folder.mkdir(parents=True, exist_ok=True)
        write_labels(path, draft.labels)
        record = {
            "image_id": image_id,
            "file": path.name,
            "origin": draft.origin,
            "started_from": draft.started_from,
            "saved": draft.saved.isoformat(),
            "seen": draft.seen,
            "content": content_of(draft.labels),
        }
        temporary = self._record(image_id).with_suffix(".json.writing")
        temporary.write_text(json.dumps(record, indent=1), "utf-8")
        os.replace(temporary, self._record(image_id))
        self._remove_files(image_id, but=path.name)
        return path

    def load(self, image_id: str, ct: Volume | None = None) -> Draft | None:
        """Read a case's draft, None when it has none; a damaged one is set aside, not deleted.

        With the CT that it was drawn on, ``labels.findings`` also say what lies on air or outside the body.
        """
        try:
            record = json.loads(self._record(image_id).read_text("utf-8"))
            labels = read_labels(self.folder / record["file"], ct=ct)
            saved = datetime.fromisoformat(record["saved"])
            return Draft(labels, record["origin"], record["started_from"], saved, record.get("seen"))
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, DoselabelError):
            self.discard(image_id)
            return None

    def pending(self) -> list[str]:
        """Cases that have a draft."""
        if not self.folder.is_dir():
            return []
        return sorted(path.name.removesuffix(".json") for path in self.folder.glob("*.json"))

    def holds(self, image_id: str, content: str) -> bool:
        """Whether a case's draft is just these labels (see `content_of`)."""
        try:
            return json.loads(self._record(image_id).read_text("utf-8")).get("content") == content
        except (OSError, ValueError):
            return False

    def clear(self, image_id: str) -> None:
        """Forget a draft: its work has been submitted."""
        self._record(image_id).unlink(missing_ok=True)
        self._remove_files(image_id)

    def discard(self, image_id: str) -> None:
        """Put a draft aside: the annotator does not want it, and may be wrong; every one is kept."""
        aside = self.folder / DISCARDED
        aside.mkdir(parents=True, exist_ok=True)
        name, number = image_id, 1
        while any((aside / f"{name}{suffix}").exists() for suffix in (".json", ".nii.gz")):
            number += 1
            name = f"{image_id}.{number}"
        for path in [self._record(image_id), *self.folder.glob(f"{image_id}.*.nii.gz")]:
            if path.is_file():
                suffix = ".json" if path.suffix == ".json" else ".nii.gz"
                os.replace(path, aside / f"{name}{suffix}")

    def _record(self, image_id: str) -> Path:
        return inside(self.folder, f"{image_id}.json")

    def _remove_files(self, image_id: str, but: str = "") -> None:
        for path in self.folder.glob(f"{image_id}.*.nii.gz"):
            if path.name != but:
                path.unlink(missing_ok=True)


def content_of(labels: LabelMap) -> str:
    """Hash of a label map's voxels, by which a draft and what was sent are known to be the same."""
    return hashlib.sha256(np.ascontiguousarray(labels.array).data).hexdigest()


def now() -> datetime:
    """Moment a draft is saved."""
    return datetime.now(UTC)
