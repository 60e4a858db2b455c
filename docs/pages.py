"""Pages of the documentation that are made from the program itself: its command line, its alarms, how to contribute.

Run by mkdocs (``hooks`` in mkdocs.yml).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

from doselabel.alarms import CATALOGUE
from doselabel.cli import build_parser

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(Path(__file__).parent))  # a hook is loaded by its path
import reference_pages  # noqa: E402


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that are made."""
    pages = {
        "reference/cli.md": command_line(),
        "reference/alarms.md": alarms(),
        "reference/schemas.md": reference_pages.schemas(),
        "reference/configuration.md": reference_pages.configuration(),
        "reference/keys.md": reference_pages.shortcuts(),
        "reference/model-card.md": reference_pages.model_card(),
        "reference/notices.md": reference_pages.notices(),
        "examples.md": examples(),
        "contributing.md": (ROOT / "CONTRIBUTING.md").read_text("utf-8"),
    }
    for name, text in pages.items():
        files.append(File.generated(config, name, content=text))
    return files


def command_line() -> str:
    """Every command with its help."""
    parts = ["# Command line\n\nMade from the program's own help.\n"]
    for name, command in _commands(build_parser(), "doselabel"):
        command.prog = name
        parts.append(f"## {name}\n\n```\n{command.format_help().strip()}\n```\n")
    return "\n".join(parts)


def _commands(of: argparse.ArgumentParser, name: str) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    yield name, of
    for action in of._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, command in action.choices.items():
                yield from _commands(command, f"{name} {word}")


def examples() -> str:
    """The worked examples: what each is for, and its diff."""
    parts = [
        "# Worked examples\n\nEach diff applies to the code as it is; the tests apply it to a copy and run its own.\n"
    ]
    for path in sorted((ROOT / "docs" / "examples").glob("*.patch")):
        words, _, diff = path.read_text("utf-8").partition("diff --git")
        title, _, text = words.partition("\n")
        parts.append(f"## {title.rstrip('.')}\n{text}\n```diff\ndiff --git{diff}```\n")
    return "\n".join(parts)


def alarms() -> str:
    """Every finding a program may name, with what to do."""
    rows = [
        f"| `{code}` | {kind.severity} | {kind.means} | {kind.what_to_do} |"
        for code, kind in sorted(CATALOGUE.items(), key=lambda row: (row[1].severity, row[0]))
    ]
    words = (
        "# Alarms\n\nAn *alarm* says that a number is probably wrong until somebody has looked; a *warning* that it "
        "may be less certain than it seems; a *note* what every careful report states.\n\n"
    )
    return words + "| code | | means | what to do |\n|---|---|---|---|\n" + "\n".join(rows) + "\n"
