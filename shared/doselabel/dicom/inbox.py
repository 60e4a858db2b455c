"""A folder that a PACS, a router or a person puts patients' folders into; each is imported when it is complete.

Complete is a folder in which nothing has changed for a while. What became of it is kept in ``INBOX/.doselabel``; it is
imported again when something is added. Each import is a process of its own, so that none stops the others.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

from doselabel import disk
from doselabel.dosimetry.cache import digest
from doselabel.errors import StudyError

LOOK_S = 5.0
KEPT = ".doselabel"


def listen(
    inbox: Path, studies: Path, answers: Path | None, key: Path | None, quiet_s: float, *, once: bool = False
) -> int:
    """Look into a folder, again and again.

    Parameters
    ----------
    inbox : Path
        One folder (or archive) for each patient.
    studies : Path
        Folder of studies.
    answers, key : Path, optional
        As for `doselabel import`.
    quiet_s : float
        Seconds without a change after which a folder is complete.
    once : bool
        Look once.

    Returns
    -------
    int
        1 when something could not be imported in the only look, else 0.
    """
    if not inbox.is_dir():
        raise StudyError(f"{inbox}: there is no such folder.", "Make it, and have the PACS or the router write there.")
    while True:
        imported = [_import(path, studies, answers, key) for path in _complete(inbox, quiet_s)]
        if once:
            return 0 if all(imported) else 1
        time.sleep(LOOK_S)


def _complete(inbox: Path, quiet_s: float) -> list[Path]:
    """What has arrived, and was not imported as it is."""
    found = []
    for path in sorted(inbox.iterdir()):
        if path.name.startswith("."):
            continue
        try:
            newest = max(f.lstat().st_mtime for f in [path, *path.rglob("*")])
            if time.time() - newest >= quiet_s and _kept(path).get("content") != _content(path):
                found.append(path)
        except FileNotFoundError:  # renamed or taken away in this moment: it is not complete
            continue
    return found


def _content(path: Path) -> str:
    files = [f for f in [path, *sorted(path.rglob("*"))] if f.is_file()]
    return digest([[f.relative_to(path).as_posix(), f.stat().st_size, f.stat().st_mtime_ns] for f in files])


def _note(path: Path) -> Path:
    return path.parent / KEPT / f"{path.name}.json"


def _kept(path: Path) -> dict[str, str]:
    try:
        return dict(json.loads(_note(path).read_text("utf-8")))
    except (OSError, ValueError):
        return {}


def _import(path: Path, studies: Path, answers: Path | None, key: Path | None) -> bool:
    content = _content(path)
    line = [sys.executable, "-m", "doselabel.cli", "import", str(path), str(studies)]
    line += ["--answers", str(answers)] if answers else []
    line += ["--key", str(key)] if key else []
    done = subprocess.run(
        line, stdin=subprocess.DEVNULL, capture_output=True, text=True, encoding="utf-8", check=False
    )  # fmt: skip
    imported = done.returncode in (0, 1)  # 1: imported, with alarms
    said = done.stdout + done.stderr
    note = {"content": content, "at": datetime.now().isoformat(timespec="seconds"), "imported": imported, "said": said}
    disk.make_folder(_note(path).parent)
    disk.write(_note(path), json.dumps(note, indent=1))
    state = {0: "imported", 1: "imported, with alarms"}.get(done.returncode, "not imported")
    why = next((text for text in said.splitlines() if text.startswith(("doselabel:", "question:"))), "")
    print(f"{path.name}: {state}{f' ({why})' if not imported and why else ''}; {_note(path)}", flush=True)
    return imported
