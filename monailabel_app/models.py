"""Which model answers: the champion, all that ever did, and the record of every change. Knows no training."""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

from doselabel import disk
from doselabel.errors import ModelError
from doselabel.files import file_sha256
from doselabel.wire import ModelEvent, ModelInfo

_HISTORY = "history.jsonl"


class ModelStore:
    """The models in one folder.

    Parameters
    ----------
    folder : Path
        Once a model was promoted it holds ``champion.safetensors``, ``history.jsonl``, and in ``kept`` every model
        that has answered, named by its hash.
    first : Path, optional
        Answers until then; by default the starter model of the package.
    """

    def __init__(self, folder: Path, first: Path | None = None) -> None:
        self._folder = folder
        self._first = first
        self._lock = threading.Lock()

    @property
    def _champion(self) -> Path:
        return self._folder / "champion.safetensors"

    def _kept(self, sha256: str) -> Path:
        return self._folder / "kept" / f"{sha256}.safetensors"

    def champion(self) -> Path:
        """Path of the checkpoint that answers.

        Raises
        ------
        ModelError
            When there is none.
        """
        if self._champion.is_file():
            return self._champion
        if self._first:
            return self._first
        from doselabel.model.checkpoint import starter_path

        return starter_path()

    def sha256(self) -> str:
        """Hash of the champion's file."""
        return file_sha256(self.champion())

    def info(self) -> ModelInfo | None:
        """Who answers; None when no model is there."""
        from doselabel.model.checkpoint import read_card

        try:
            path = self.champion()
            profile, card = read_card(path)
        except ModelError:
            return None
        return ModelInfo(
            name=path.stem,
            sha256=self.sha256(),
            profile=profile.name,
            created=datetime.fromtimestamp(path.stat().st_mtime, UTC),
            card=card,
        )

    def promote(self, candidate: Path, reason: str, by: str = "") -> None:
        """Let a candidate answer from now on; what answered before is kept for `rollback`."""
        with self._lock:
            before = self.sha256()
            self._keep(self.champion())
            self._keep(candidate)
            disk.copy(candidate, self._champion)
            self._record("promoted", before, reason, by)

    def rollback(self, by: str = "", sha256: str = "") -> None:
        """Let an earlier model answer again.

        Parameters
        ----------
        by : str
        sha256 : str
            Of any model that has answered, or how its hash begins; "": the one before the champion.

        Raises
        ------
        ModelError
            When there is no such model.
        """
        with self._lock:
            before = self.sha256()
            wanted = self._find(sha256) if sha256 else self._before(before)
            path = self._kept(wanted)
            if not path.is_file() or file_sha256(path) != wanted:
                raise ModelError(f"The model {wanted[:12]} is no longer there as it was.", "Restore it from a backup.")
            disk.copy(path, self._champion)
            self._record("rolled back", before, "", by)

    def _find(self, begin: str) -> str:
        known = {event.sha256 for event in self.history()} | {event.previous_sha256 for event in self.history()}
        found = [sha256 for sha256 in sorted(known) if sha256.startswith(begin) and self._kept(sha256).is_file()]
        if len(found) != 1:
            what = f"{len(found)} models" if found else "no model"
            raise ModelError(f"There is {what} whose hash begins with '{begin[:64]}'.", "Take one of the history.")
        return found[0]

    def _before(self, sha256: str) -> str:
        for event in self.history():
            if event.what == "promoted" and event.sha256 == sha256 and event.previous_sha256:
                return event.previous_sha256
        raise ModelError("There is no earlier model to go back to.", "Name one of the history by its hash.")

    def history(self) -> list[ModelEvent]:
        """Every change of the model that answers, newest first; a line that can't be read is passed over."""
        try:
            lines = (self._folder / _HISTORY).read_text("utf-8", "replace").splitlines()
        except FileNotFoundError:
            return []
        events = []
        for line in reversed(lines):
            with suppress(ValueError):
                event = ModelEvent.model_validate_json(line)
                events.append(event.model_copy(update={"kept": self._kept(event.sha256).is_file()}))
        return events

    def _keep(self, path: Path) -> None:
        target = self._kept(file_sha256(path))
        disk.make_folder(target.parent)
        if not target.is_file():
            disk.copy(path, target)

    def _record(self, what: str, before: str, reason: str, by: str) -> None:
        line = {
            "time": datetime.now(UTC).isoformat(),
            "what": what,
            "sha256": self.sha256(),
            "previous_sha256": before,
            "reason": reason,
            "by": by,
        }
        disk.append(self._folder / _HISTORY, json.dumps(line))
