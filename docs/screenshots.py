"""Take the pictures of the documentation: tabs of the real window, at the sizes and in the themes that the pages show.

``make screenshots``, or with a display ``python docs/screenshots.py [--all OUT]``: it makes three sample patients and
starts a server of its own, and notes which code the pictures show (`docs/shown.py`). ``--all`` takes every tab at every
size in both themes, for the eye, and notes nothing.
"""

from __future__ import annotations

import argparse
import re
import tempfile
import time
from pathlib import Path

import napari
import numpy as np
import shown

from doselabel import demo
from doselabel.geometry import canonical
from doselabel.labels import read_labels
from napari_plugin.dock import NAME, TABS, DoselabelDock
from napari_plugin.session.settings import Settings
from tests.napari_plugin.hands import pause

DOCS = Path(__file__).parent
SIZES, THEMES = ("1400x900", "1100x700", "1920x1080", "1280x720"), ("dark", "light")
PATIENTS, SEED = 3, 1


def main() -> None:
    """Take them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", type=Path, metavar="OUT", help="every tab, size and theme, to a folder")
    args = parser.parse_args()
    every = {f"{tab.lower()}-{size}-{theme}" for tab in TABS for size in SIZES for theme in THEMES}
    wanted = every if args.all else every & _on_the_pages()
    out = args.all or DOCS / "images"
    out.mkdir(parents=True, exist_ok=True)
    viewer = napari.Viewer(show=True)
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        demo.sample(home / "patients", PATIENTS, SEED)
        dock = DoselabelDock(viewer, Settings(author="ada", folder=home / "settings"))
        viewer.window.add_dock_widget(dock, name=NAME, area="right")
        with demo.serving(home / "patients", home / "server.log") as url:
            _work(dock, url, home / "patients")
            for size in SIZES:
                viewer.window.resize(*map(int, size.split("x")))
                for theme in THEMES:
                    viewer.theme = theme
                    for tab in TABS:
                        if (name := f"{tab.lower()}-{size}-{theme}") in wanted:
                            dock.show_tab(tab)
                            pause(300)
                            viewer.screenshot(str(out / f"{name}.png"), canvas_only=False, flash=False)
            dock.controller.session.abandoned()
            dock.controller.cleanup()
        viewer.close()
    if not args.all:
        shown.keep()


def _on_the_pages() -> set[str]:
    """The pictures that a page shows."""
    pages = [*DOCS.rglob("*.md"), DOCS.parent / "README.md"]
    return set(re.findall(r"images/([a-z]+-\d+x\d+-[a-z]+)\.png", "".join(page.read_text("utf-8") for page in pages)))


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
        pause(600)
        controller.wait("draft", 300)
        print(f"edit to the draft's dose: {time.monotonic() - begun:.1f} s")
    kidneys = np.isin(truth, (1, 2))
    z = int(kidneys.sum(axis=(1, 2)).argmax())
    viewer = dock.viewer
    viewer.dims.set_point(viewer.dims.ndim - 3, float(controller.layers.labels.data_to_world((z, 0, 0))[0]))
    controller.editing.planes.fit()


if __name__ == "__main__":
    main()
