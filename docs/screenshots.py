"""Take the pictures of docs/annotators.md: each tab of the real window, at the sizes and in the themes people use.

doselabel sample patients --patients 3 --seed 1 && doselabel serve patients        # in one terminal
python docs/screenshots.py http://127.0.0.1:8000 patients docs/images              # in another, with a display
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import napari
import numpy as np
from qtpy.QtTest import QTest

from doselabel.geometry import canonical
from doselabel.labels import read_labels
from napari_plugin.dock import NAME, TABS, DoselabelDock
from napari_plugin.session.settings import Settings

SIZES = ((1400, 900), (1100, 700))
THEMES = ("dark", "light")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("server")
    parser.add_argument("studies", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--sizes", nargs="*", default=[f"{w}x{h}" for w, h in SIZES])
    parser.add_argument("--themes", nargs="*", default=list(THEMES))
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    viewer = napari.Viewer(show=True)
    with tempfile.TemporaryDirectory() as folder:
        dock = DoselabelDock(viewer, Settings(author="ada", folder=Path(folder)))
        viewer.window.add_dock_widget(dock, name=NAME, area="right")
        _work(dock, args.server, args.studies)
        for size in args.sizes:
            viewer.window.resize(*map(int, size.split("x")))
            for theme in args.themes:
                viewer.theme = theme
                for tab in TABS:
                    dock.show_tab(tab)
                    QTest.qWait(300)
                    name = f"{tab.lower()}-{size}-{theme}.png"
                    viewer.screenshot(str(args.out / name), canvas_only=False, flash=False)
        dock.controller.session.abandoned()
        dock.controller.cleanup()
        viewer.close()


def _work(dock: DoselabelDock, server: str, studies: Path) -> None:
    """A case, corrected; the doses of its patient."""
    controller = dock.controller
    controller.connect(server)
    controller.wait("connect", 60)
    image_id = controller.connection.studies[0].images[0].image_id
    controller.open_case(image_id)
    case = controller.wait("case", 120)
    patient, _, stem = image_id.partition("__")
    truth = canonical(read_labels(studies / patient / "truth" / f"{stem}.nii.gz").renumbered().volume).array
    controller.editing.replace(truth, "")
    if not case.versions:
        controller.submit(author="ada")
        controller.wait("submit", 60)
    controller.dose(labels="model")
    controller.wait("dose", 1800)
    for margin_mm in (2.0, -3.0):
        begun = time.monotonic()
        controller.tool("margin", organ="left_kidney", margin_mm=margin_mm)
        QTest.qWait(600)
        controller.wait("draft", 300)
        print(f"edit to the draft's dose: {time.monotonic() - begun:.1f} s")
    kidneys = np.isin(truth, (1, 2))
    z = int(kidneys.sum(axis=(1, 2)).argmax())
    viewer = dock.viewer
    viewer.dims.set_point(viewer.dims.ndim - 3, float(controller.layers.labels.data_to_world((z, 0, 0))[0]))
    controller.editing.planes.fit()


if __name__ == "__main__":
    main()
