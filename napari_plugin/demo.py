"""The annotator's part of `make demo`, played by a program: the same dock and controller, a real window.

The annotator is an expert: where the network's contour differs most from the phantom's ground truth, they redraw it.
What they saw and did goes to ``story.json`` and pictures beside it; `doselabel.demo_story` makes the page of it.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import napari
import numpy as np
from qtpy.QtWidgets import QApplication

from doselabel.errors import DoselabelError
from doselabel.geometry import canonical
from doselabel.labels import SEGMENTED, organ, read_labels, title
from napari_plugin.controller import Controller
from napari_plugin.dock import NAME, DoselabelDock
from napari_plugin.editing import MEASURE_AFTER_MS
from napari_plugin.session.settings import Settings

SLICES_CORRECTED = 5
AUTHOR = "demo"
SETTLED_S = 2 * MEASURE_AFTER_MS / 1000


def main(argv: Sequence[str] | None = None) -> int:
    """Annotate one case, train on it and compute the dose; files go to ``--out``."""
    parser = argparse.ArgumentParser(prog="python -m napari_plugin.demo", description=main.__doc__)
    parser.add_argument("--server", required=True, help="address of a running server")
    parser.add_argument("--studies", type=Path, required=True, help="the sample patients, with their ground truth")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--stay", action="store_true", help="only connect, and leave the window to its user")
    args = parser.parse_args(argv)
    viewer = napari.Viewer(show=True)
    viewer.window.resize(1400, 900)
    dock = DoselabelDock(viewer, Settings(author=AUTHOR, folder=args.out / "napari-settings"))
    viewer.window.add_dock_widget(dock, name=NAME, area="right")
    try:
        if args.stay:
            dock.controller.connect(args.server)
            napari.run()
            return 0
        _play(dock, args.server, args.studies, args.out, args.steps)
    except DoselabelError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    finally:
        dock.controller.cleanup()
        viewer.close()
    return 0


def _play(dock: DoselabelDock, server: str, studies: Path, out: Path, steps: int) -> None:
    controller = dock.controller
    controller.connect(server)
    info = controller.wait("connect", 60)
    _say(f"connected: {info.studies} patients, {info.images} CTs, {info.labelled} labelled")

    reasons: list[str] = []
    controller.next_reason.connect(reasons.append)
    controller.next_case()
    case = controller.wait("case", 120)
    _say(f"next case: {case.image_id}")
    truth = _truth(controller, studies)
    _shot(dock, truth, out / "1-case.png")

    controller.segment()
    summary = controller.wait("segment", 900)
    for name, found in summary.organs.items():
        _say(f"  {title(name):<13} {found.volume_ml:6.0f} mL, score {found.score:.2f}")
    drawn = _dice(controller, truth)
    _shot(dock, truth, out / "2-model.png")

    changed = _correct(controller, truth)
    _say(f"corrected {changed} voxels as the expert would draw them")
    corrected = _dice(controller, truth)
    _shot(dock, truth, out / "3-corrected.png")
    controller.submit(author=AUTHOR, comment="worst slices redrawn")
    version = controller.wait("submit", 120)
    _say(f"submitted as version {version.version}")

    controller.train(steps=steps)
    training = controller.wait("train", 1800)
    _say(f"trained {training.steps} steps on {training.cases} case(s): {training.reason}")
    _shot(dock, truth, out / "4-learned.png", "Learn")

    controller.dose(labels="model", report=False)  # it comes at the end, beside the truth
    results = controller.wait("dose", 1800)
    for name, dose in results.organs.items():
        _say(f"  {title(name):<13} {dose.mean_dose_gy:6.2f} ± {dose.dose_sd_gy:.2f} Gy")
    controller.save_dose(out)
    _shot(dock, truth, out / "napari.png", "Dose")

    story = {
        "case": case.image_id,
        "reason": reasons[-1],
        "model": {
            name: {**found.model_dump(mode="json"), "dice": drawn[name]} for name, found in summary.organs.items()
        },
        "corrected": {"voxels": changed, "version": version.version, "dice": corrected},
        "training": training.model_dump(mode="json"),
    }
    (out / "story.json").write_text(json.dumps(story, indent=1), "utf-8")


def _truth(controller: Controller, studies: Path) -> np.ndarray:
    """The phantom's own label map of the case on screen."""
    assert controller.session is not None
    patient, _, stem = controller.session.case.image_id.partition("__")
    return canonical(read_labels(studies / patient / "truth" / f"{stem}.nii.gz").renumbered().volume).array


def _dice(controller: Controller, truth: np.ndarray) -> dict[str, float]:
    assert controller.layers is not None
    pairs = {n: (controller.layers.labels.data == organ(n).index, truth == organ(n).index) for n in SEGMENTED}
    return {name: round(2 * (a & b).sum() / max(1, a.sum() + b.sum()), 4) for name, (a, b) in pairs.items()}


def _shot(dock: DoselabelDock, truth: np.ndarray, path: Path, tab: str = "Annotate") -> None:
    """A picture of the window at the same slice, when the organs' numbers are those of what is drawn."""
    dock.show_tab(tab)
    _look_at_kidneys(dock.controller, truth)
    end = time.monotonic() + SETTLED_S
    while time.monotonic() < end or dock.controller.tasks.running("measure"):
        QApplication.processEvents()
        time.sleep(0.02)
    dock.viewer.screenshot(str(path), canvas_only=False, flash=False)


def _correct(controller: Controller, truth: np.ndarray) -> int:
    """Redraw, for each organ, the slices that differ most from the truth; each is one undo step."""
    layers = controller.layers
    assert layers is not None
    changed = 0
    for name in SEGMENTED:
        value = organ(name).index
        wrong = (layers.labels.data == value) != (truth == value)
        worst = np.argsort(wrong.sum(axis=(1, 2)))[::-1][:SLICES_CORRECTED]
        for z in sorted(int(z) for z in worst if wrong[z].any()):
            y, x = np.nonzero(wrong[z])
            new = np.where(truth[z, y, x] == value, value, 0).astype(layers.labels.data.dtype)
            layers.labels.data_setitem((np.full(y.shape, z), y, x), new)
            changed += y.size
    return changed


def _look_at_kidneys(controller: Controller, truth: np.ndarray) -> None:
    """Go to the slice that has most kidney."""
    assert controller.layers is not None
    kidneys = np.isin(truth, [organ("left_kidney").index, organ("right_kidney").index])
    z = int(kidneys.sum(axis=(1, 2)).argmax())
    place = controller.layers.labels.data_to_world((z, 0, 0))[0]
    controller.viewer.dims.set_point(controller.viewer.dims.ndim - 3, float(place))


def _say(text: str) -> None:
    print(f"      {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
