"""Which model answers: the champion, the one before it, and the record of every change. Knows no training."""

from __future__ import annotations

import json
import os
import shutil
import threading
from datetime import UTC, datetime
from pathlib import Path

from doselabel.errors import ModelError
from doselabel.wire import ModelInfo


class ModelStore:
    """The models in one folder.

    Parameters
    ----------
    folder : Path
        Holds ``champion.safetensors``, ``previous.safetensors`` and ``history.jsonl`` once a model was promoted.
    first : Path, optional
        Answers until then; by default the starter model of the package.
    """

    def __init__(self, folder: Path, first: Path | None = None) -> None:
        self._folder = folder
        self._first = first
        self._lock = threading.Lock()
        self._hashes: dict[tuple[str, int, int], str] = {}

    @property
    def _champion(self) -> Path:
        return self._folder / "champion.safetensors"

    @property
    def _previous(self) -> Path:
        return self._folder / "previous.safetensors"

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
        """Hash of the champion's file; computed once per file."""
        from doselabel.model.checkpoint import file_hash

        path = self.champion()
        stat = path.stat()
        key = (str(path), stat.st_mtime_ns, stat.st_size)
        if key not in self._hashes:
            self._hashes[key] = file_hash(path)
        return self._hashes[key]

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
        """Let a candidate answer from now on; the old champion is kept for `rollback`."""
        with self._lock:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._replace(self._previous, self.champion())
            self._replace(self._champion, candidate)
            self._record("promoted", reason, by)

    def rollback(self, by: str = "") -> None:
        """Go back one promotion.

        Raises
        ------
        ModelError
            When there is nothing to go back to.
        """
        with self._lock:
            if not self._previous.is_file():
                raise ModelError(
                    "There is no earlier model to go back to.", "Only the last promotion can be undone, once."
                )
            os.replace(self._previous, self._champion)
            self._record("rolled back", "", by)

    @staticmethod
    def _replace(target: Path, source: Path) -> None:
        temporary = target.with_name(f".writing-{target.name}")
        shutil.copyfile(source, temporary)
        os.replace(temporary, target)

    def _record(self, what: str, reason: str, by: str) -> None:
        line = {
            "time": datetime.now(UTC).isoformat(),
            "what": what,
            "sha256": self.sha256(),
            "reason": reason,
            "by": by,
        }
        with (self._folder / "history.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
