"""The house rules that a machine can check: what importing costs, what a wheel holds."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "torchvision", "qtpy", "PySide6", "napari", "monai", "monailabel"}


def run(*command: str, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_importing_doselabel_is_light():
    code = f"import doselabel; import sys; heavy = {HEAVY} & set(sys.modules); assert not heavy, heavy"
    run(sys.executable, "-c", code)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="the system does not list a process's threads there")
def test_numpy_multiplies_alone_where_doselabel_was_there_first():
    code = "import doselabel, numpy, scipy.linalg, os; print(len(os.listdir('/proc/self/task')))"
    mine = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    assert run(sys.executable, "-c", code, env=mine).strip() == "1"


def test_the_dosimetry_pipeline_runs_without_torch():
    code = (
        "import sys, importlib.abc\n"
        "class Block(importlib.abc.MetaPathFinder):\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in {'torch', 'qtpy', 'monailabel'}: raise ImportError(name)\n"
        "sys.meta_path.insert(0, Block())\n"
        "import doselabel.dosimetry.pipeline, doselabel.io.report, doselabel.io.compare"
    )
    run(sys.executable, "-c", code)


def test_ruff_and_its_formatter_are_content():
    run(sys.executable, "-m", "ruff", "check", ".")
    run(sys.executable, "-m", "ruff", "format", "--check", ".")


def test_the_packages_are_typed():
    run(sys.executable, "-m", "mypy")


def test_the_napari_manifest_is_valid():
    assert "valid" in run(sys.executable, "-m", "npe2", "validate", "napari_plugin/napari.yaml")


def test_the_wheel_holds_what_a_user_needs_and_no_more(tmp_path):
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(tmp_path))
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    for needed in (
        "doselabel/dosimetry/physics/data/dpk_Lu-177_icru4.npz",
        "doselabel/model/starter.safetensors",
        "napari_plugin/napari.yaml",
        "monailabel_app/main.py",
        "sample_data/phantom.py",
    ):
        assert needed in names
    assert not [name for name in names if name.startswith(("tests", "shared", "monailabel_app/logs/"))]
    assert not [name for name in names if name.endswith((".nii.gz", ".pyc"))]


@pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")
def test_no_tracked_file_names_a_registry_or_is_huge():
    tracked = run("git", "ls-files", "-z").split("\0")[:-1]
    needle = ("py" + "pi.org", "python" + "hosted", "--index" + "-url", "--extra" + "-index")
    for name in tracked:
        path = ROOT / name
        if not path.is_file():
            continue
        if path.stat().st_size > 2_000_000:
            assert name == "shared/doselabel/model/starter.safetensors"
        elif path.suffix in {".py", ".md", ".toml", ".txt", ".yaml", ".json", ""}:
            text = path.read_text("utf-8", errors="ignore")
            assert not [n for n in needle if n in text], name
