"""The house rules that a machine can check: who imports whom, what importing costs, what a wheel holds."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = {"torch", "torchvision", "qtpy", "PySide6", "napari", "monai", "monailabel"}


def run(*command: str) -> str:
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def imported_by(file: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def files(room: str) -> list[Path]:
    found = sorted((ROOT / room).rglob("*.py"))
    assert found, room
    return found


@pytest.mark.parametrize(
    ("room", "forbidden"),
    [
        ("shared/doselabel", {"monailabel", "monailabel_app", "napari", "napari_plugin", "qtpy"}),
        ("shared/doselabel/dosimetry", {"torch", "torchvision", "monai"}),
        ("shared/doselabel/io", {"torch", "torchvision", "monai"}),
        ("monailabel_app", {"napari", "napari_plugin", "qtpy"}),
        ("napari_plugin", {"torch", "torchvision", "monai", "monailabel", "monailabel_app"}),
        ("napari_plugin/client", {"qtpy", "napari", "PySide6"}),
        ("napari_plugin/session", {"qtpy", "napari", "PySide6"}),
        ("napari_plugin/tools", {"qtpy", "napari", "PySide6"}),
        ("sample_data", {"torch", "monailabel_app", "napari_plugin", "qtpy"}),
    ],
)
def test_imports_point_down_only(room, forbidden):
    for file in files(room):
        roots = {name.split(".")[0] for name in imported_by(file)}
        assert not roots & forbidden, file


@pytest.mark.parametrize("room", ["doselabel.study", "doselabel.geometry", "doselabel.labels", "doselabel.alarms"])
def test_the_foundations_do_not_look_up(room):
    file = ROOT / "shared" / (room.replace(".", "/") + ".py")
    upper = ("doselabel.model", "doselabel.dosimetry", "doselabel.io", "doselabel.cli", "doselabel.wire")
    assert not [name for name in imported_by(file) if name.startswith(upper)]


DOSIMETRY = (
    {"options", "cache", "failures"},
    {"physics"},
    {"alignment"},
    {"uptake"},
    {"curves"},
    {"dose"},
    {"uncertainty"},
    {"results", "priors", "course"},
    {"organ_results", "marrow"},
    {"pipeline"},
    {"session"},
)
"""The rooms and modules of `doselabel.dosimetry` in the order in which a patient's data pass through them."""


def test_the_dose_chain_runs_one_way():
    level = {name: i for i, names in enumerate(DOSIMETRY) for name in names}
    home = ROOT / "shared" / "doselabel" / "dosimetry"
    found = {path.stem for path in home.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert set(level) == found - {"__init__", "__pycache__"}
    for file in files("shared/doselabel/dosimetry"):
        room = file.relative_to(home).parts[0].removesuffix(".py")
        for name in imported_by(file):
            if name.startswith("doselabel.dosimetry.") and (other := name.split(".")[2]) != room:
                assert level[other] < level[room], f"{file} imports {name}"


def test_a_module_of_the_dose_chain_fits_in_the_head():
    for file in files("shared/doselabel/dosimetry"):
        assert len(file.read_text("utf-8").splitlines()) <= 400, file


def test_importing_doselabel_is_light_and_quick():
    code = (
        "import time; t = time.perf_counter(); import doselabel; t = time.perf_counter() - t; import sys;"
        f"heavy = {HEAVY} & set(sys.modules); assert not heavy, heavy; assert t < 1, t"
    )
    run(sys.executable, "-c", code)


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


def test_shared_is_typed():
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
