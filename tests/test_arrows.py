"""Who may import whom: the drawing in CONTRIBUTING.md, held to the imports; and the order of the dose chain."""

from __future__ import annotations

import re
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("doselabel", "monailabel_app", "napari_plugin", "sample_data")
OTHERS = {"torch", "torchvision", "monai", "monailabel", "napari", "qtpy", "PySide6"}


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    return grimp.build_graph(*PACKAGES, include_external_packages=True, cache_dir=None)


def imports(graph: grimp.ImportGraph, room: str) -> set[tuple[str, str]]:
    """Who in a room imports what outside it."""
    own = {room} | graph.find_descendants(room)
    found = {(name, to) for name in own for to in graph.find_modules_directly_imported_by(name) if to not in own}
    assert found, room
    return found


def drawn() -> dict[str, set[str]]:
    """The rooms of the drawing, and what each may import."""
    text = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    block = re.search(r"<!-- arrows.*?```\n(.*?)```", text, re.DOTALL)
    assert block
    rows = [line.partition("→") for line in block[1].splitlines() if "→" in line]
    return {room.strip(): set(re.findall(r"[\w.]+", to.partition("#")[0])) for room, _, to in rows}


def test_the_packages_import_each_other_as_drawn(graph):
    for package in PACKAGES:
        found = {to.split(".")[0] for _, to in imports(graph, package)} & set(PACKAGES)
        assert found == drawn()[package] & set(PACKAGES), package


def test_nothing_large_is_imported_where_it_is_not_drawn(graph):
    for room, allowed in drawn().items():
        found = {(name, to) for name, to in imports(graph, room) if to.split(".")[0] in OTHERS - allowed}
        assert not found, room


@pytest.mark.parametrize("room", ["study", "geometry", "labels", "alarms"])
def test_the_foundations_do_not_look_up(graph, room):
    upper = tuple(f"doselabel.{name}" for name in ("model", "dosimetry", "io", "cli", "wire", "dicom", "cohort"))
    below = graph.find_modules_directly_imported_by(f"doselabel.{room}")
    assert not [name for name in below if name.startswith(upper)]


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


def test_the_dose_chain_runs_one_way(graph):
    chain = "doselabel.dosimetry."
    level = {chain + name: i for i, names in enumerate(DOSIMETRY) for name in names}
    assert set(level) == graph.find_children("doselabel.dosimetry")
    for room in level:
        for name, to in imports(graph, room):
            if to.startswith(chain):
                assert level[".".join(to.split(".")[:3])] < level[room], f"{name} imports {to}"


def test_a_module_fits_in_the_head(graph):
    """The rooms under ``shared`` and those beside it."""
    for package in PACKAGES:
        home = ROOT / "shared" / package if package == "doselabel" else ROOT / package
        for file in home.rglob("*.py"):
            assert len(file.read_text("utf-8").splitlines()) <= 400, file
