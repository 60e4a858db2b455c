"""Time-activity, dose-volume and training curves in the window's colours. Knows numbers with units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from qtpy.QtGui import QShowEvent
from qtpy.QtWidgets import QVBoxLayout, QWidget

from doselabel.labels import region, title
from doselabel.wire import DoseResults

if TYPE_CHECKING:
    from doselabel.io.comparison import Comparison
    from napari_plugin.views.canvas import Canvas

Colours = Mapping[str, str]
"""``background``, ``text`` and ``grid`` as ``#rrggbb``."""
DARK: Colours = {"background": "#23242b", "text": "#f0f1f2", "grid": "#565f6c"}


class Plot(QWidget):
    """One set of axes that follows the viewer's theme; made when first seen, for matplotlib takes long to load."""

    def __init__(self, colours: Colours = DARK, *, height_px: int = 200) -> None:
        super().__init__()
        self._colours, self._draw = colours, lambda axes: None
        self._canvas: Canvas | None = None
        self.setFixedHeight(height_px)

    @property
    def canvas(self) -> Canvas:
        """Where it is drawn."""
        if self._canvas is None:
            from napari_plugin.views.canvas import Canvas

            self._canvas = Canvas()
            lines = QVBoxLayout(self)
            lines.setContentsMargins(0, 0, 0, 0)
            lines.addWidget(self._canvas)
            self._canvas.redraw(self._draw, self._colours)
        return self._canvas

    def showEvent(self, event: QShowEvent) -> None:
        """Draw what was not drawn while nobody saw it."""
        self.canvas.show()
        super().showEvent(event)

    def set_colours(self, colours: Colours) -> None:
        """Follow a change of theme."""
        self._colours = colours
        self._show(self._draw, alike=True)

    def show_time_activity(self, results: DoseResults, *, alike: bool = False) -> None:
        """Plot measured activities and the fitted curve of each organ; ``alike``: not far from what is shown."""

        def draw(axes) -> None:
            for name, dose in results.organs.items():
                colour, tac = _colour(name), dose.tac
                axes.plot(tac.curve_time_h, tac.curve_activity_mbq, color=colour, label=title(name))
                errors = tac.activity_sd_mbq or None
                axes.errorbar(tac.time_h, tac.activity_mbq, yerr=errors, fmt="o", ms=4, color=colour, capsize=2)
            axes.set(xlabel="time after injection (h)", ylabel="activity (MBq)")
            axes.set_ylim(bottom=0)
            axes.set_xlim(left=0)

        self._show(draw, alike=alike)

    def show_dose_volume(self, results: DoseResults, *, alike: bool = False) -> None:
        """Plot the cumulative dose-volume histogram of each organ; ``alike``: not far from what is shown."""

        def draw(axes) -> None:
            for name, dose in results.organs.items():
                axes.plot(dose.dvh.dose_gy, dose.dvh.volume_percent, color=_colour(name), label=title(name))
            axes.set(xlabel="absorbed dose (Gy)", ylabel="volume (%)", ylim=(0, 103))
            axes.set_xlim(left=0)

        self._show(draw, alike=alike)

    def show_two_dose_volumes(self, both: Comparison) -> None:
        """Plot each organ's cumulative dose-volume histogram by both sides, the second one dashed."""

        def draw(axes) -> None:
            for results, side, style in ((both.results_a[0], "A", "-"), (both.results_b[0], "B", (0, (4, 2)))):
                for name in both.organs:
                    if name in results.organs:
                        dvh, label = results.organs[name].dvh, f"{title(name)} {side}"
                        axes.plot(dvh.dose_gy, dvh.volume_percent, color=_colour(name), linestyle=style, label=label)
            axes.set(xlabel="absorbed dose (Gy)", ylabel="volume (%)", ylim=(0, 103))
            axes.set_xlim(left=0)

        self._show(draw)

    def show_learning(self, rows: Sequence[Mapping[str, float]]) -> None:
        """Plot a training's loss, and each organ's Dice on the cases kept for validation, over its steps."""

        def draw(axes) -> None:
            losses = [(row["step"], row["loss"]) for row in rows if "loss" in row]
            if losses:
                axes.plot(*zip(*losses, strict=True), "o-", ms=2, lw=1, color="#46b4dc", label="loss")
            for key in sorted({key for row in rows for key in row if key.startswith("dice_")}):
                points = [(row["step"], row[key]) for row in rows if key in row]
                name = key.removeprefix("dice_")
                axes.plot(*zip(*points, strict=True), "o--", ms=3, color=_colour(name), label=f"Dice {title(name)}")
            axes.xaxis.get_major_locator().set_params(integer=True)
            axes.set(xlabel="step", ylabel="loss, Dice (dimensionless)")

        self._show(draw)

    def _show(self, draw, *, alike: bool = False) -> None:
        self._draw = draw
        if self._canvas is not None:
            self._canvas.redraw(draw, self._colours, alike=alike)


def _colour(name: str) -> str:
    return region(name).color
