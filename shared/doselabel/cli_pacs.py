"""The commands `pull`, `push` and `listen`: to and from a PACS. Knows arguments and the terminal."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from doselabel.errors import Progress

if TYPE_CHECKING:
    from doselabel.dicom.pacs import Transfer

Terminal = Callable[[], Progress]


def add(command: Callable[..., argparse.ArgumentParser], commands: Any, terminal: Terminal) -> None:
    """Add the commands to a parser; ``terminal`` makes what shows progress."""
    pull = command(commands, "pull", lambda args: _pull(args, terminal()), "fetch a patient's studies from a PACS")
    pull.add_argument("url", help="DICOMweb service, such as https://HOST/dicom-web; credentials: docs/clinic.md")
    pull.add_argument("out", type=Path, help="folder; the same one goes on, and is what `doselabel import` takes")
    which = pull.add_mutually_exclusive_group(required=True)
    which.add_argument("--patient-id")
    which.add_argument("--study-uid")
    which.add_argument("--accession")

    push = command(commands, "push", lambda args: _push(args, terminal()), "store DICOM objects in a PACS")
    push.add_argument("url", help="DICOMweb service, such as https://HOST/dicom-web")
    push.add_argument("files", type=Path, nargs="+", help="files, or folders such as `doselabel export` fills")

    listen = command(commands, "listen", _listen, "import every folder that arrives in another one")
    listen.add_argument("inbox", type=Path, help="a folder for each patient is put here")
    listen.add_argument("studies", type=Path)
    listen.add_argument("--answers", type=Path, metavar="YAML", help="as for `doselabel import`, for all of them")
    listen.add_argument("--key", type=Path, metavar="FILE", help="key file of the pseudonyms")
    listen.add_argument("--quiet-s", type=float, default=60.0, help="a folder is complete after so long (default: 60)")
    listen.add_argument("--once", action="store_true", help="look once, and end")


def _pull(args: argparse.Namespace, progress: Progress) -> int:
    from doselabel.dicom.pacs import Pacs

    names = {"PatientID": args.patient_id, "StudyInstanceUID": args.study_uid, "AccessionNumber": args.accession}
    filters = {name: value for name, value in names.items() if value}
    return _told("pulled", Pacs(args.url).pull(args.out, progress, **filters))


def _push(args: argparse.Namespace, progress: Progress) -> int:
    from doselabel.dicom.pacs import Pacs

    files = [file for path in args.files for file in (sorted(path.rglob("*.dcm")) if path.is_dir() else [path])]
    return _told("pushed", Pacs(args.url).push(files, progress))


def _told(word: str, done: Transfer) -> int:
    for name, why in done.failed:
        print(f"failed: {name}: {why}")
    print(f"{len(done.moved)} object(s) {word}, {len(done.there)} were there, {len(done.failed)} failed")
    if done.failed:
        print("  → the same command tries those again")
    return 1 if done.failed else 0


def _listen(args: argparse.Namespace) -> int:
    from doselabel.dicom.inbox import listen

    return listen(args.inbox, args.studies, args.answers, args.key, args.quiet_s, once=args.once)
