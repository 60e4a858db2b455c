"""At 150 % scaling: a plot, icons and swatches have as many pixels as the screen shows of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from doselabel.organs import region

CHILD = """
import json
from qtpy.QtWidgets import QAbstractButton, QApplication
app = QApplication([])
from napari_plugin.views.organs import OrganTable
from napari_plugin.views.palette import ToolPalette
from napari_plugin.views.plots import Plot
from napari_plugin.views.submit import SubmitBar

plot, palette, bar, table = Plot(), ToolPalette(), SubmitBar(), OrganTable()
palette.set_colours("#ffffff", "#0000ff")
bar.set_colour("#ffffff")
for view in (plot, palette, bar, table):
    view.show()
plot.canvas.draw()
given = [(button.icon(), button.iconSize()) for view in (palette, bar) for button in view.findChildren(QAbstractButton)]
given += [(table.item(0, 0).icon(), table.iconSize())]
ratio = plot.devicePixelRatio()
drawn = [(icon.pixmap(size, ratio).width(), round(ratio * size.width())) for icon, size in given if not icon.isNull()]
chosen = table.item(0, 0).icon().pixmap(table.iconSize(), ratio, table.item(0, 0).icon().Mode.Selected)
print(json.dumps(dict(
    ratio=ratio, drawn=drawn, plot=plot.canvas.get_renderer().width / plot.canvas.width(),
    chosen=chosen.toImage().pixelColor(3, 3).name(),
)))
"""


def test_plots_icons_and_swatches_are_drawn_in_the_screens_own_pixels():
    scaled = os.environ | {"QT_SCALE_FACTOR": "1.5"}
    done = subprocess.run(
        [sys.executable, "-c", CHILD], env=scaled, capture_output=True, encoding="utf-8", timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["ratio"] == 1.5
    assert len(found["drawn"]) > 20
    assert [given for given, shown in found["drawn"] if given != shown] == []
    assert abs(found["plot"] - 1.5) < 0.01
    assert found["chosen"] == region("left_kidney").color
