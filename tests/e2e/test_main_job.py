"""The main job from first to last: a real server process, a real napari window, real files."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from doselabel.geometry import read_image
from doselabel.labels import read_labels
from doselabel.study import Study
from doselabel.wire import DoseResults

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]


def own_display() -> dict[str, str]:
    """The environment of a demo that brings a display of its own, where it can: windows of others have this one."""
    taken = ("DISPLAY", "WAYLAND_DISPLAY") if shutil.which("xvfb-run") else ()
    return {name: value for name, value in os.environ.items() if name not in taken}


@pytest.fixture(scope="module")
def demo(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("a demo") / "out"  # a path with a space, as users have
    command = [sys.executable, "-m", "doselabel.cli", "demo", "--out", str(out), "--patients", "1", "--steps", "2"]
    done = subprocess.run(command, env=own_display(), capture_output=True, encoding="utf-8", timeout=1500, check=False)
    log = out / "server.log"
    server = log.read_text(errors="replace")[-4000:] if log.exists() else "no server log"
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n--- server ---\n{server}"
    return out


@pytest.fixture(scope="module")
def study(demo) -> Study:
    return Study.load(Study.find(demo / "studies")[0])


@pytest.fixture(scope="module")
def results(demo) -> DoseResults:
    return DoseResults.model_validate_json((demo / "results.json").read_text("utf-8"))


def test_kidney_doses_with_the_models_own_masks_are_within_15_percent_of_the_truth(study, results):
    truth = json.loads((study.folder / "truth" / "truth.json").read_text("utf-8"))["organs"]
    kidneys = [name for name in truth if name.endswith("kidney")]
    assert kidneys
    for name in kidneys:
        assert results.organs[name].mean_dose_gy == pytest.approx(truth[name]["mean_dose_gy"], rel=0.15)


def test_the_correction_was_submitted_as_a_version_on_the_cts_own_grid(study):
    files = sorted(study.folder.glob("labels/**/*.nii.gz"))
    assert files
    labels = read_labels(files[-1])
    assert labels.volume_ml("liver") > 100
    assert any(labels.geometry.same_place(read_image(study.path(name)).geometry) for name in study.cts().values())


def test_the_dose_map_is_in_gray_on_a_grid_in_the_patient(demo, study, results):
    dose = read_image(demo / "dose.nii.gz")
    assert dose.array.dtype == np.float32
    assert dose.geometry.overlaps(read_image(study.path(study.ct)).geometry)
    assert dose.array.max() == pytest.approx(max(o.dvh.max_gy for o in results.organs.values()), rel=0.5)


def test_the_report_stands_alone_and_shows_the_truth(demo):
    html = (demo / "report.html").read_text("utf-8")
    assert "esearch use only" in html
    assert "truth" in html.lower()
    assert 'src="http' not in html
    assert (demo / "report.pdf").read_bytes().startswith(b"%PDF")


def test_the_story_shows_each_step_in_order_and_the_dose_beside_the_truth(demo, results):
    story = json.loads((demo / "story.json").read_text("utf-8"))
    page = (demo / "story.html").read_text("utf-8")
    headings = re.findall(r"<h2[^>]*>([^<]+)</h2>", page)
    assert headings == [
        "The case",
        "What the network drew",
        "What was corrected",
        "What training changed",
        "The dose beside the truth",
    ]
    assert page.count('src="data:image/png') == len(headings)
    for name, drawn in story["model"].items():
        assert story["corrected"]["dice"][name] > drawn["dice"] > 0.85
    assert story["training"]["reason"].rstrip(".") in page
    for organ in results.organs.values():
        assert f"{organ.mean_dose_gy:.2f} ± {organ.dose_sd_gy:.2f}" in page


def test_the_screenshot_shows_a_window_with_something_in_it(demo):
    image = matplotlib.image.imread(demo / "napari.png")
    assert image.shape[0] >= 600
    assert image.shape[1] >= 900
    assert image[..., :3].std() > 0.05
