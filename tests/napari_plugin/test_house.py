"""The plugin's place in the house: what it may import, its manifest, its keys."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from napari.utils.shortcuts import default_shortcuts
from npe2 import PluginManifest

from doselabel.dosimetry.options import DoseOptions
from napari_plugin.dock import NAME
from napari_plugin.shortcuts import KEYS
from napari_plugin.views.dose import DoseView
from napari_plugin.views.dose_form import OFFERED, WORDS, choices

ROOT = Path(__file__).parents[2]
WITHOUT = """
import sys
from importlib.abc import MetaPathFinder

class Blocked(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ImportError(f"{{name}} is blocked")

sys.meta_path.insert(0, Blocked())
import {modules}
"""


def imports_without(modules: str, blocked: list[str]) -> None:
    code = WITHOUT.format(blocked=blocked, modules=modules)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=False, timeout=120)
    assert done.returncode == 0, done.stderr


def test_client_session_and_tools_need_neither_qt_nor_napari_nor_torch():
    modules = "napari_plugin.client, napari_plugin.tools, napari_plugin.session.case, napari_plugin.session.state, "
    modules += "napari_plugin.session.measure, napari_plugin.session.settings"
    imports_without(modules, ["qtpy", "PySide6", "PyQt6", "napari", "vispy", "torch", "monailabel", "monailabel_app"])


def test_the_whole_plugin_needs_neither_torch_nor_the_server():
    imports_without("napari_plugin.dock", ["torch", "torchvision", "monai", "monailabel", "monailabel_app"])


def test_layers_need_no_qt():
    imports_without("napari_plugin.layers", ["qtpy", "PySide6", "PyQt6"])


def test_what_the_extra_declares_is_used():
    extra = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]["napari"]
    source = "".join(file.read_text("utf-8") for file in (ROOT / "napari_plugin").rglob("*.py"))
    named = {re.match(r"[\w-]+", line)[0] for line in extra} - {"pyside6"}  # qtpy imports it
    modules = {"skimage" if name == "scikit-image" else name for name in named}
    assert modules == {m for m in modules if re.search(rf"^\s*(from|import) {m}\b", source, re.MULTILINE)}
    assert {"magicgui", "superqt", "skimage"} <= modules


def test_the_qt_binding_keeps_its_hands_off_references_it_does_not_own(qapp):
    """PySide6 6.12.0 loses one to None per `processEvents` on Python 3.11, and the process aborts in the end."""
    before = sys.getrefcount(None)
    for _ in range(200):
        qapp.processEvents()
    assert sys.getrefcount(None) > before - 100


def test_the_manifest_is_valid_and_found_by_its_entry_point():
    manifest = PluginManifest.from_distribution("doselabel")
    manifest.validate_imports()
    assert [widget.display_name for widget in manifest.contributions.widgets] == ["Annotate and dose"]
    assert f"{manifest.contributions.widgets[0].display_name} ({manifest.display_name})" == NAME


def test_no_key_hides_one_of_naparis_on_a_ct_or_label_layer():
    others = (
        "points",
        "shapes",
        "vectors",
        "tracks",
        "surface",
        "vertex",
        "add_",
        "select_",
        "direct",
        "paste",
        "copy",
    )
    napari_keys = {
        str(key).lower(): action
        for action, keys in default_shortcuts.items()
        if not any(word in action.removeprefix("napari:") for word in others)
        for key in keys
        # plane keys (X, Y, Z, O) act in 3D plane rendering only
        if "orient_plane" not in action
    }
    ours = {key.replace("Return", "Enter").lower() for key, (name, _) in KEYS.items() if name not in ("undo", "redo")}
    assert napari_keys.keys() & ours == set()
    assert "p" in napari_keys  # the comparison looks at something


@pytest.mark.parametrize("title", OFFERED)
def test_every_value_of_an_offered_option_can_be_chosen_and_has_words(title):
    read = choices(OFFERED[title])
    for option in OFFERED[title]:
        schema = DoseOptions.model_json_schema()["properties"][option]
        values = schema.get("enum") or next(part["enum"] for part in schema["anyOf"] if "enum" in part)
        assert [value for name, value in read.values() if name == option] == values
        assert set(values) <= set(WORDS) | {"trapezoid"}
    assert all(DoseOptions.read({option: value}) for option, value in read.values())


def test_options_that_are_written_reach_the_calculation_as_on_the_command_line(qtbot):
    view = DoseView()
    qtbot.addWidget(view)
    view.form["organ_density_g_cm3"].value = "liver:1.06/tumour:1.00"
    view.form["alpha_beta_gy"].value = "liver:2.5"
    view.form["repair_half_life_h"].value = "1.5"
    view.form["voi"].value = ("preset", "expert2")
    with qtbot.waitSignal(view.dose_wanted) as sent:
        view.ask()
    asked = DoseOptions.read(sent.args[0])
    assert (asked.preset, asked.voi, asked.repair_half_life_h) == ("expert2", "threshold", 1.5)
    assert (asked.density_of("liver"), asked.density_of("tumour_2"), asked.alpha_beta_gy["liver"]) == (1.06, 1.0, 2.5)
    assert asked.alpha_beta_gy["left_kidney"] == 2.6


def test_tests_wait_without_keeping_a_core_busy():
    spinning = [f.name for f in Path(__file__).parent.glob("*.py") if "QTest." + "qWait(" in f.read_text("utf-8")]
    assert not spinning, f"hands.pause instead of qWait in {spinning}: vispy's spins"
