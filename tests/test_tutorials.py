"""Tutorials and how-tos: every command and every line of code of a page is run, in order, and shows what the page says.

What `doselabel sample` makes is made once and copied for the pages that ask for the same.
A block marked ``sh`` or ``python`` is run in one folder of the page's own. With the title "another terminal" it runs
on beside the others; with one of `SHOWN` it is shown only (a window needs hands: its clicks are in
tests/napari_plugin). A ``text`` block is what the block before it printed, "..." standing for anything.
"""

from __future__ import annotations

import doctest
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.md"))
PAGES = [*TUTORIALS, ROOT / "docs" / "how-to.md"]
BLOCK = re.compile(r'^ *```(sh|python|text)(?: title="([^"]*)")?\n(.*?)^ *```$', re.MULTILINE | re.DOTALL)
SAMPLES = re.compile(r"doselabel sample (?P<out>\w+)(?P<told> --patients \d+ --seed \d+)\n")
SHOWN = ("not run", "on your own data")
PORT = "8000"
LOOSE = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
START_S = 120


@pytest.mark.e2e
@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_what_the_page_says_works(page, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    text = page.read_text("utf-8").replace(PORT, port)
    blocks = BLOCK.findall(text)
    assert len(blocks) == text.count("```") // 2, "a block that is neither sh, python nor text"
    printed = ""
    with terminals(tmp_path) as another:
        for kind, title, body in blocks:
            if title in SHOWN:
                continue
            if kind == "text":
                assert doctest.OutputChecker().check_output(body, printed, LOOSE), f"{body}\n--- it printed\n{printed}"
            elif title:
                another(body)
                answers(f"http://127.0.0.1:{port}/health")
            else:
                printed = run(kind, body, tmp_path)


def test_there_is_one_for_each_reader_and_the_site_has_it():
    assert [page.stem for page in TUTORIALS] == ["administrator", "annotator", "developer", "physicist", "researcher"]
    site = (ROOT / "mkdocs.yml").read_text("utf-8")
    assert not [page for page in PAGES if page.relative_to(ROOT / "docs").as_posix() not in site]


def environment(folder: Path) -> dict[str, str]:
    python = Path(sys.executable).parent
    return os.environ | {
        "PATH": f"{python}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(ROOT / "shared"), str(ROOT)]),
        "PYTHONUTF8": "1",
        "REPOSITORY": str(ROOT),
        "HOME": str(folder / "home"),
    }


_made: dict[str, tuple[Path, str]] = {}


def run(kind: str, body: str, folder: Path) -> str:
    """What a block prints; sample patients that a page before made by the same command are its copies."""
    if kind == "sh" and (line := SAMPLES.match(body)):
        if line["told"] in _made:
            made, printed = _made[line["told"]]
            shutil.copytree(made, folder / line["out"])
        else:
            printed = _run("sh", line[0], folder)
            made = Path(shutil.copytree(folder / line["out"], folder.parent / f"samples{line['told']}"))
            _made[line["told"]] = made, printed
        return printed + _run("sh", body[line.end() :], folder)
    return _run(kind, body, folder)


def _run(kind: str, body: str, folder: Path) -> str:
    command = ["bash", "-euo", "pipefail", "-c", body] if kind == "sh" else [sys.executable, "-c", body]
    done = subprocess.run(
        command, cwd=folder, env=environment(folder), capture_output=True, encoding="utf-8", timeout=500, check=False
    )
    assert done.returncode == 0, f"{body}\n--- ended with {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


@contextmanager
def terminals(folder: Path) -> Iterator:
    """A function that starts a command beside; all of them end as by Ctrl+C."""
    started = []

    def start(body: str) -> None:
        log = (folder / "terminal.log").open("w", encoding="utf-8")
        command = ["bash", "-c", f"exec {body}"]
        started.append(
            subprocess.Popen(
                command, cwd=folder, env=environment(folder), stdout=log, stderr=log, start_new_session=True
            )
        )
        log.close()

    try:
        yield start
    finally:
        for process in started:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()


def answers(url: str) -> None:
    """Wait until a server does."""
    end = time.monotonic() + START_S
    while time.monotonic() < end:
        try:
            with urllib.request.urlopen(url, timeout=10):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise AssertionError(f"{url} did not answer within {START_S} s")
