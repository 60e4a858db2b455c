"""The worked examples of the documentation: each diff fits the code as it is, and its tests pass in a copy."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "docs" / "examples").glob("*.patch"))
COPIED = ("shared", "monailabel_app", "napari_plugin", "sample_data", "tests")


def run(folder: Path, *command: str) -> None:
    paths = {"PYTHONPATH": os.pathsep.join([str(folder / "shared"), str(folder)]), "QT_QPA_PLATFORM": "offscreen"}
    done = subprocess.run(
        command, cwd=folder, env=os.environ | paths, capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")
@pytest.mark.parametrize("patch", EXAMPLES, ids=lambda path: path.stem)
def test_an_example_applied_to_a_copy_passes_its_tests(patch, tmp_path):
    for name in COPIED:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "*.safetensors"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    run(tmp_path, "git", "apply", str(patch))
    changed = re.findall(r"^\+\+\+ b/(.*)", patch.read_text("utf-8"), re.MULTILINE)
    tests = [name for name in changed if name.startswith("tests/")]
    assert tests
    assert set(changed) - set(tests)
    run(tmp_path, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *tests)
    run(tmp_path, sys.executable, "-m", "ruff", "check", *changed)
    run(tmp_path, sys.executable, "-m", "ruff", "format", "--check", *changed)


def test_there_is_one_for_an_organ_a_nuclide_a_tool_and_a_task():
    assert [path.stem for path in EXAMPLES] == ["nuclide", "organ", "task", "tool"]
