"""Which code the pictures show: a fingerprint of what draws the window, kept beside the pictures."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

ROOT = Path(__file__).parents[1]
DRAWN_BY = ("dock.py", "display.py", "layers.py", "planes.py", "views")
"""Files and folders of `napari_plugin` that decide how the window looks."""
KEPT_IN = ROOT / "docs" / "images" / "shown.json"


def fingerprint() -> str:
    """SHA-256 of the code that draws the window."""
    plugin, digest = ROOT / "napari_plugin", hashlib.sha256()
    for name in DRAWN_BY:
        path = plugin / name
        for file in sorted(path.glob("*.py")) if path.is_dir() else [path]:
            digest.update(file.name.encode() + file.read_bytes().replace(b"\r\n", b"\n"))
    return digest.hexdigest()


def keep() -> None:
    """Write that the pictures show the code as it is."""
    KEPT_IN.write_text(json.dumps({"napari_plugin": fingerprint()}) + "\n", "utf-8")
