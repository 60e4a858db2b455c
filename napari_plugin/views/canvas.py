"""A set of axes in Qt, drawn when it is seen and laid out when it must be. Knows matplotlib; not what is drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from matplotlib.axes import Axes
from matplotlib.backends.backend_qtagg import FigureCanvasQTAgg
from matplotlib.figure import Figure
from qtpy.QtGui import QResizeEvent, QShowEvent


class Canvas(FigureCanvasQTAgg):
    """One set of axes."""

    def __init__(self) -> None:
        super().__init__(Figure(layout="constrained"))
        self.axes = self.figure.add_subplot()

    def draw_idle(self) -> None:
        """Draw soon, but only what is seen: a plot behind another tab would stall the window for a quarter second."""
        if self.isVisible():
            super().draw_idle()

    def draw(self) -> None:
        """Draw; what was laid out stays so until size or content change, which saves half of a drawing's time."""
        super().draw()
        self.figure.set_layout_engine("none")

    def showEvent(self, event: QShowEvent) -> None:
        """Draw what was not drawn while nobody saw it."""
        super().showEvent(event)
        self.draw_idle()

    def resizeEvent(self, event: QResizeEvent) -> None:
        """Lay out anew."""
        self.figure.set_layout_engine("constrained")
        super().resizeEvent(event)

    def redraw(self, draw: Callable[[Axes], None], colours: Mapping[str, str], *, alike: bool = False) -> None:
        """Draw in these colours (see `plots.Colours`); ``alike``: it needs no more room than what is there."""
        if not alike:
            self.figure.set_layout_engine("constrained")
        text, grid = colours["text"], colours["grid"]
        self.figure.set_facecolor(colours["background"])
        self.axes.clear()
        draw(self.axes)
        self.axes.set_facecolor(colours["background"])
        self.axes.tick_params(colors=text, labelsize=8)
        self.axes.grid(True, color=grid, alpha=0.4, lw=0.5)
        for label in (self.axes.xaxis.label, self.axes.yaxis.label):
            label.set(color=text, size=8)
        for spine in self.axes.spines.values():
            spine.set_color(grid)
        if self.axes.get_legend_handles_labels()[0]:
            self.axes.legend(fontsize=8, labelcolor=text, frameon=False)
        self.draw_idle()
