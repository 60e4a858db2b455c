"""The documentation: it builds without a warning, its links lead somewhere, and reading it fetches nothing."""

from __future__ import annotations

import html
import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from doselabel.alarms import CATALOGUE
from doselabel.dosimetry.options import DoseOptions
from doselabel.model.checkpoint import read_card, starter_path
from doselabel.study import Study
from doselabel.wire import DoseResults, LabelSubmission
from napari_plugin.shortcuts import KEYS

ROOT = Path(__file__).parents[1]
FETCHED = re.compile(r"<(?:script|img|link|iframe)\b[^>]*?(?:src|href)=[\"']?([^\"' >]+)")
COMMANDS = ("doselabel import", "doselabel study check", "doselabel dose", "doselabel batch", "doselabel serve")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(out)]
    quiet = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, encoding="utf-8", check=False)
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


def test_the_reference_has_every_field_every_key_and_the_starter_s_scores(site):
    schemas, keys, card = (
        (site / "reference" / f"{name}.html").read_text("utf-8") for name in ("schemas", "keys", "model-card")
    )
    for kind in (Study, DoseOptions, DoseResults, LabelSubmission):
        names = [field.alias or name for name, field in kind.model_fields.items()]
        assert not [name for name in names if f"<code>{name}</code>" not in schemas], kind
    assert not [words for _, words in KEYS.values() if html.escape(words, quote=False) not in keys]
    scores = read_card(starter_path())[1]["scores"]
    assert card.count("<tr>") == len(scores) + 1
    assert f"{scores[0]['dice']:.3f}" in card


def test_what_is_pinned_is_named_with_its_licence(site):
    notices = (site / "reference" / "notices.html").read_text("utf-8")
    for package in ("numpy", "torch", "napari", "monailabel", "pydicom"):
        assert re.search(rf"<td>{package}</td>\s*<td>[^<]+</td>\s*<td>(?!see the package)[^<]+</td>", notices), package
    assert "PENELOPE" in notices


def test_every_picture_of_the_window_is_as_new_as_the_code_that_draws_it(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    shown = importlib.import_module("shown")
    kept = json.loads(shown.KEPT_IN.read_text("utf-8"))
    assert kept == {"napari_plugin": shown.fingerprint()}, (
        "the window's code changed: `make screenshots`, and look at them"
    )


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
