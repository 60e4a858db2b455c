"""What the plugin remembers between sessions: servers, author, strategy; and where drafts go. Knows one JSON file."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import platformdirs

DEFAULT_URL = "http://127.0.0.1:8000"
HISTORY = 8


@dataclass(frozen=True)
class Settings:
    """Remembered choices; tokens are not among them."""

    urls: tuple[str, ...] = (DEFAULT_URL,)
    author: str = ""
    strategy: str = ""
    folder: Path = field(default_factory=lambda: Path(platformdirs.user_data_dir("doselabel", appauthor=False)))

    @classmethod
    def load(cls, folder: Path | None = None) -> Settings:
        """Read the settings; missing or damaged ones are the defaults."""
        fresh = cls() if folder is None else cls(folder=folder)
        try:
            content = json.loads(fresh._file.read_text("utf-8"))
            return replace(
                fresh,
                urls=tuple(str(url) for url in content["urls"]) or fresh.urls,
                author=str(content["author"]),
                strategy=str(content["strategy"]),
            )
        except (OSError, ValueError, KeyError, TypeError):
            return fresh

    def save(self) -> None:
        """Write the settings; a disk that refuses is no reason to stop annotating."""
        content = {key: value for key, value in asdict(self).items() if key != "folder"}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            temporary = self._file.with_suffix(".json.writing")
            temporary.write_text(json.dumps(content, indent=1), "utf-8")
            os.replace(temporary, self._file)
        except OSError:
            pass

    def with_url(self, url: str) -> Settings:
        """Put a server first in the history."""
        return replace(self, urls=(url, *(old for old in self.urls if old != url))[:HISTORY])

    @property
    def recovery_folder(self) -> Path:
        """Where drafts go."""
        return self.folder / "recovery"

    @property
    def outbox_folder(self) -> Path:
        """Where submissions wait for their server."""
        return self.folder / "outbox"

    @property
    def _file(self) -> Path:
        return self.folder / "plugin.json"
