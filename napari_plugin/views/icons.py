"""The window's icons: a few lines each, drawn in a theme's colour, sharp at any scaling. Knows Qt only."""

from __future__ import annotations

from qtpy.QtCore import QByteArray, QRectF, Qt
from qtpy.QtGui import QIcon, QPainter, QPixmap
from qtpy.QtSvg import QSvgRenderer

KIDNEY = "M9 4c4 0 6 3 6 8s-2 8-6 8c-3 0-5-2-5-4s2-2 2-4-2-2-2-4 2-4 5-4z"
SHAPES = {
    "pan_zoom": '<path d="M12 3v18M3 12h18M9 6l3-3 3 3M9 18l3 3 3-3M6 9l-3 3 3 3M18 9l3 3-3 3"/>',
    "paint": '<path d="M20 4l-9 9M8 13c-3 0-2 5-5 6 4 2 8 1 8-3 0-2-1-3-3-3z"/>',
    "erase": '<path d="M4 14l9-9 7 7-7 7H9zM9 9l7 7M9 19h11"/>',
    "fill": '<path d="M5 12l7-7 7 7-7 7zM12 5L9 2M21 16c1 2 1 4 0 4s-1-2 0-4z"/>',
    "polygon": '<path d="M5 8l8-4 7 6-4 9-10-2z"/>',
    "pick": '<path d="M4 20l1-4 8-8 3 3-8 8zM12 6l6 6M15 5l2-2 4 4-2 2z"/>',
    "sphere": '<circle cx="12" cy="12" r="8"/><ellipse cx="12" cy="12" rx="8" ry="3"/>',
    "protect": '<path d="M12 3l7 3v5c0 5-3 8-7 10-4-2-7-5-7-10V6z"/>',
    "hu": '<path d="M4 18l5-9 4 5 3-6 4 10M4 21h16"/>',
    "outline": '<circle cx="12" cy="12" r="8" stroke-dasharray="4 3"/>',
    "correct": '<path d="M4 4l6 14 2-6 6-2zM17 15v6M14 18h6"/>',
    "grow_from_seeds": '<circle cx="12" cy="12" r="2.5" fill="{c}"/>'
    '<path d="M12 7V3M12 21v-4M7 12H3M21 12h-4M8.5 8.5l-3-3M18.5 18.5l-3-3M8.5 15.5l-3 3M18.5 5.5l-3 3"/>',
    "open": '<path d="M3 12c0-5 6-6 8-2M3 12c0 5 6 6 8 2M21 12c0-5-6-6-8-2M21 12c0 5-6 6-8 2"/>',
    "close": '<path d="M3 12c0-6 7-7 9-3 2-4 9-3 9 3s-7 7-9 3c-2 4-9 3-9-3z"/>',
    "threshold_spect": '<path d="M2 20c4 0 5-15 10-15s6 15 10 15"/><path stroke-dasharray="3 2" d="M2 13h20"/>',
    "fill_between_slices": '<path d="M5 6c4-3 10-3 14 0M5 20c4-3 10-3 14 0M12 7v9M9 10l3-3 3 3M9 13l3 3 3-3"/>',
    "fill_holes": '<circle cx="12" cy="12" r="9"/><circle cx="12" cy="12" r="4" fill="{c}"/>',
    "keep_largest": '<circle cx="10" cy="13" r="7" fill="{c}" fill-opacity=".4"/><path d="M18 3l4 4M22 3l-4 4"/>',
    "remove_small": '<circle cx="6" cy="18" r="2"/><circle cx="17" cy="7" r="3"/><path d="M4 8l5 5M9 8l-5 5"/>',
    "smooth": '<path d="M3 8l3-4 3 4 3-4 3 4 3-4 3 4M3 18c6-4 12-4 18 0"/>',
    "margin": '<circle cx="12" cy="12" r="4"/><circle cx="12" cy="12" r="9" stroke-dasharray="3 3"/>',
    "limit_to_hu": '<path d="M5 3v18M19 3v18M8 16l3-7 2 4 3-6"/>',
    "mirror": '<path stroke-dasharray="3 2" d="M12 3v18"/>'
    f'<path d="{KIDNEY}" transform="scale(.6) translate(-1 8)"/>'
    f'<path d="{KIDNEY}" transform="translate(24) scale(-.6 .6) translate(-1 8)"/>',
    "swap": '<path d="M4 8h15M15 4l4 4-4 4M20 16H5M9 12l-4 4 4 4"/>',
    "clear": '<path d="M5 7h14M9 7V4h6v3M7 7l1 13h8l1-13M10 11v6M14 11v6"/>',
    "undo": '<path d="M8 4L3 9l5 5M3 9h11a6 6 0 010 12h-4"/>',
    "folded": '<path d="M9 6l7 6-7 6z" fill="{c}"/>',
    "unfolded": '<path d="M6 9l6 7 6-7z" fill="{c}"/>',
    "redo": '<path d="M16 4l5 5-5 5M21 9H10a6 6 0 000 12h4"/>',
}
"""Name → shapes on a square of 24 units."""

SIDE_PX = 22
SHARPNESS = 3
"""Pixels that are drawn for one of the window's: as many as the finest scaling shows."""


def icon(name: str, colour: str) -> QIcon:
    """Draw an icon in a colour, and fainter for what can't be used."""
    made = QIcon()
    made.addPixmap(_draw(name, colour, 1.0), QIcon.Mode.Normal)
    made.addPixmap(_draw(name, colour, 0.3), QIcon.Mode.Disabled)
    return made


def _draw(name: str, colour: str, opacity: float) -> QPixmap:
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 24 24" fill="none" stroke="{colour}" '
        f'stroke-width="1.6" stroke-linecap="round" stroke-linejoin="round">{SHAPES[name].replace("{c}", colour)}</svg>'
    )
    side = SIDE_PX * SHARPNESS
    pixmap = QPixmap(side, side)
    pixmap.fill(Qt.GlobalColor.transparent)
    with QPainter(pixmap) as painter:
        painter.setOpacity(opacity)
        QSvgRenderer(QByteArray(svg.encode())).render(painter, QRectF(0, 0, side, side))
    return pixmap
