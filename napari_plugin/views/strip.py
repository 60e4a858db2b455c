"""A strip beneath the slice slider: where the organ that is edited lies, how sure the network was, what to look at.

napari has no public place beside its sliders; `beneath_slider` knows the private one, and nothing else does.
"""

from __future__ import annotations

import contextlib
from typing import Any

from qtpy.QtCore import QEvent, QPoint, QRectF, Qt, Signal
from qtpy.QtGui import QColor, QHelpEvent, QMouseEvent, QPainter, QPaintEvent
from qtpy.QtWidgets import QSizePolicy, QToolTip, QWidget

from doselabel.labels import organ
from napari_plugin.doubts import Doubts

HEIGHT_PX = 12
COLOURS = {"filled": "#e03c3c", "unsure": "#e8820c", "jump": "#e6c200"}
"""Kind of doubt → its mark's colour."""


class SliceStrip(QWidget):
    """One mark for each slice to look at; a click goes there, the mouse at rest says why."""

    wanted = Signal(int)

    def __init__(self, doubts: Doubts) -> None:
        super().__init__()
        self._doubts = doubts
        self._holder: Any = None
        self.setFixedHeight(HEIGHT_PX)
        self.setSizePolicy(QSizePolicy.Policy.Expanding, QSizePolicy.Policy.Fixed)
        self.setMouseTracking(True)
        doubts.changed.connect(self._on_changed)
        self._on_changed()

    def follow(self, holder: Any) -> None:
        """Be as long as the slider of napari's slider widget, and in sight when it is."""
        if self._holder is not None:
            with contextlib.suppress(RuntimeError):  # napari makes its sliders anew with every other number of axes
                self._holder.removeEventFilter(self)
        self._holder = holder
        holder.installEventFilter(self)
        self._on_changed()

    def eventFilter(self, watched: Any, event: QEvent) -> bool:
        """Follow the slider's size and sight."""
        if watched is self._holder and event.type() in (QEvent.Type.Show, QEvent.Type.Hide, QEvent.Type.Resize):
            self._on_changed()
        return False

    def x_of(self, z: int) -> float:
        """Where a slice's mark has its middle."""
        left, width = self._track()
        return left + width * (z + 0.5) / max(1, self._doubts.slices)

    def _z_of(self, x: float) -> int:
        left, width = self._track()
        return int((x - left) / max(1.0, width) * self._doubts.slices)

    def _track(self) -> tuple[float, float]:
        if self._holder is None:
            return 6.0, max(1.0, self.width() - 12.0)
        slider = self._holder.slider
        left = slider.mapTo(slider.window(), QPoint(0, 0)).x() - self.mapTo(self.window(), QPoint(0, 0)).x()
        return float(left), float(slider.width())

    def _on_changed(self) -> None:
        self.setVisible(bool(self._doubts.organs) and (self._holder is None or not self._holder.isHidden()))
        self.update()

    # ---- Qt

    def paintEvent(self, _: QPaintEvent) -> None:
        """Draw the chosen organ as a band, paler where the network was less sure, and the marks over it."""
        with QPainter(self) as painter:  # ended also when something in it fails: one left open takes the window along
            painter.setPen(Qt.PenStyle.NoPen)
            self._draw(painter)

    def _draw(self, painter: QPainter) -> None:
        one = max(2.0, self._track()[1] / max(1, self._doubts.slices))
        chosen = self._doubts.chosen
        if chosen is not None and chosen.first_slice is not None:
            name = next(name for name, found in self._doubts.organs.items() if found is chosen)
            for k, sure in enumerate(chosen.sureness):
                colour = QColor(organ(name).color)
                colour.setAlphaF(0.15 + 0.85 * min(1.0, max(0.0, sure)))
                x = self.x_of(chosen.first_slice + k)
                painter.fillRect(QRectF(x - one / 2, 5.0, one + 0.5, HEIGHT_PX - 7.0), colour)
        for z, found in self._doubts.by_slice.items():
            kinds = [doubt.kind for _, doubt in found]
            worst = next(kind for kind in COLOURS if kind in kinds)
            painter.fillRect(QRectF(self.x_of(z) - max(3.0, one) / 2, 0.0, max(3.0, one), 6.0), QColor(COLOURS[worst]))

    def mousePressEvent(self, event: QMouseEvent) -> None:
        """Go to the mark that is nearest to the click."""
        marks = list(self._doubts.by_slice)
        if marks:
            self.wanted.emit(min(marks, key=lambda z: abs(self.x_of(z) - event.position().x())))

    def event(self, event: QEvent) -> bool:
        """Say why a slice is marked."""
        if event.type() == QEvent.Type.ToolTip and isinstance(event, QHelpEvent):
            z = self._z_of(event.pos().x())
            near = min(self._doubts.by_slice, key=lambda k: abs(k - z), default=None)
            lines = self._doubts.words(near) if near is not None and abs(self.x_of(near) - event.pos().x()) < 6 else []
            head = f"Slice {near}" if lines else "Slices to look at: click, or the keys , and ."
            QToolTip.showText(event.globalPos(), "\n".join([head, *lines]), self)
            return True
        return super().event(event)


def beneath_slider(viewer: Any, strip: SliceStrip) -> bool:
    """Put the strip beneath napari's slider of the axial slices; False where napari has changed."""
    try:
        dims = viewer.window._qt_viewer.dims
        holder, layout = dims.slider_widgets[-3], dims.layout()
        at = layout.indexOf(holder)
        known = isinstance(holder.slider, QWidget) and at >= 0
    except (AttributeError, IndexError):
        return False
    if known:
        layout.removeWidget(strip)
        layout.insertWidget(layout.indexOf(holder) + 1, strip)
        strip.follow(holder)
    return known
