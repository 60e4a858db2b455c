"""Label maps on their way to a server, kept on disk until it has them. Knows files and the client; knows no Qt.

A parcel is sealed before the first attempt to send it, and carries a key of its own: when the server stored it but
its answer was lost, sending it again stores nothing twice.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from dataclasses import dataclass
from pathlib import Path

import pydantic

from doselabel.errors import ServerError
from doselabel.labels import LabelMap, write_labels
from doselabel.wire import LabelSubmission, LabelVersion
from napari_plugin.client import Client
from napari_plugin.client.http import Unreachable, inside
from napari_plugin.session.recovery import content_of

REFUSED = "refused"


@dataclass(frozen=True)
class Parcel:
    """One submission: the label file, what goes with it, and the hash of its voxels."""

    image_id: str
    file: Path
    submission: LabelSubmission
    content: str


@dataclass(frozen=True)
class Delivery:
    """What became of a parcel: stored as a version, or refused by the server."""

    parcel: Parcel
    version: LabelVersion | None = None
    error: ServerError | None = None


class Outbox:
    """What waits to be sent to one server.

    Parameters
    ----------
    root : path
        Folder of all outboxes; each server has its own inside it.
    server_url : str
        Where parcels go, and nowhere else.
    """

    def __init__(self, root: Path, server_url: str) -> None:
        self.folder = root / hashlib.sha256(server_url.encode()).hexdigest()[:12]

    def seal(self, image_id: str, labels: LabelMap, submission: LabelSubmission) -> Parcel:
        """Put a label map (on its CT's own grid) on disk, to be sent."""
        key = uuid.uuid4().hex
        self.folder.mkdir(parents=True, exist_ok=True)
        order = 1 + max((int(p.name.split("-")[0]) for p in self.folder.glob("*.json")), default=0)
        file = write_labels(inside(self.folder, f"{order:06d}-{key}.nii.gz"), labels)
        parcel = Parcel(image_id, file, submission.model_copy(update={"key": key}), content_of(labels))
        record = {
            "image_id": image_id,
            "file": file.name,
            "content": parcel.content,
            "submission": parcel.submission.model_dump(mode="json"),
        }
        temporary = self._record(parcel).with_suffix(".json.writing")
        temporary.write_text(json.dumps(record, indent=1), "utf-8")
        os.replace(temporary, self._record(parcel))
        return parcel

    def waiting(self) -> list[Parcel]:
        """Parcels not delivered yet, oldest first."""
        found = []
        for path in sorted(self.folder.glob("*.json")) if self.folder.is_dir() else []:
            try:
                record = json.loads(path.read_text("utf-8"))
                submission = LabelSubmission.model_validate(record["submission"])
                found.append(Parcel(record["image_id"], self.folder / record["file"], submission, record["content"]))
            except (ValueError, KeyError, TypeError, pydantic.ValidationError):
                self._aside(path)
        return found

    def deliver(self, client: Client) -> list[Delivery]:
        """Send what waits, oldest first, until the server stops answering.

        Raises
        ------
        Unreachable
            When the server does not answer: what was not delivered still waits.
        """
        done: list[Delivery] = []
        for parcel in self.waiting():
            try:
                version = client.submit_label(parcel.image_id, parcel.file, parcel.submission)
            except Unreachable:
                if done:
                    break
                raise
            except ServerError as error:
                self._aside(self._record(parcel), parcel.file)
                done.append(Delivery(parcel, error=error))
            else:
                self._record(parcel).unlink(missing_ok=True)
                parcel.file.unlink(missing_ok=True)
                done.append(Delivery(parcel, version))
        return done

    def _record(self, parcel: Parcel) -> Path:
        return parcel.file.with_name(parcel.file.name.removesuffix(".nii.gz") + ".json")

    def _aside(self, *paths: Path) -> None:
        """Keep what the server refused: it may be somebody's work."""
        folder = self.folder / REFUSED
        folder.mkdir(parents=True, exist_ok=True)
        for path in paths:
            if path.is_file():
                os.replace(path, folder / path.name)
