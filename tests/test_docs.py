"""The documentation: it builds without a warning, its links lead somewhere, and reading it fetches nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from doselabel.alarms import CATALOGUE

ROOT = Path(__file__).parents[1]
FETCHED = re.compile(r"<(?:script|img|link|iframe)\b[^>]*?(?:src|href)=[\"']?([^\"' >]+)")
COMMANDS = ("doselabel import", "doselabel study check", "doselabel dose", "doselabel batch", "doselabel serve")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)]
    quiet = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True, encoding="utf-8", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    return out


def test_every_page_fetches_nothing_from_elsewhere(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 12
    for page in pages:
        fetched = re.findall(
            r"<(?:script|img|link|iframe)\b[^>]*?(?:src|href)=[\"']?([^\"' >]+)", page.read_text("utf-8")
        )
        assert fetched
        assert not [url for url in fetched if url.startswith(("http:", "https:", "//"))], page


def test_the_reference_has_every_command_and_every_alarm(site):
    commands = (site / "reference" / "cli.html").read_text("utf-8")
    for command in (
        "doselabel import",
        "doselabel study check",
        "doselabel dose",
        "doselabel batch",
        "doselabel serve",
    ):
        assert f">{command}</a>" in commands or f'id="{command.replace(" ", "-")}"' in commands
    alarms = (site / "reference" / "alarms.html").read_text("utf-8")
    assert not [code for code in CATALOGUE if f"<code>{code}</code>" not in alarms]


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "sample_data/README.md"])
def test_links_in_the_repository_lead_somewhere(page):
    text = (ROOT / page).read_text("utf-8")
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text)
    assert not [t for t in targets if "://" not in t and not ((ROOT / page).parent / t).exists()]


def test_what_the_tour_names_is_there():
    homes = [
        ROOT / home for home in (".", "shared/doselabel", "shared/doselabel/model", "monailabel_app", "napari_plugin")
    ]
    named = re.findall(r"`([\w/.]+(?:\.py|/))`", (ROOT / "CONTRIBUTING.md").read_text("utf-8"))
    assert len(named) > 15
    assert not [name for name in named if not any((home / name).exists() for home in homes)]
