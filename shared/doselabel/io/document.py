"""A report as a list of blocks, and its HTML form. Knows how things are shown, not what they mean.

The same `Document` becomes a web page here and A4 pages in `doselabel.io.pdf`, so both say the same.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jinja2
import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as MplFigure
from matplotlib.figure import FigureBase

MM_PER_INCH = 25.4
FLAG = "⚠"
"""A table cell that begins with this sign is set in the colour of a warning."""

STYLE: Any = {
    "font.family": "DejaVu Sans",
    "font.size": 7.5,
    "axes.titlesize": 8,
    "axes.titley": 1.0,  # no ticks are above an axis, and to look for them lasts
    "axes.labelsize": 7.5,
    "axes.edgecolor": "#52606b",
    "axes.labelcolor": "#27323a",
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": False,
    "grid.color": "#dfe5e9",
    "grid.linewidth": 0.5,
    "xtick.color": "#52606b",
    "ytick.color": "#52606b",
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "lines.linewidth": 1.3,
    "pdf.fonttype": 42,
    "svg.fonttype": "path",
    "svg.hashsalt": "doselabel",
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "image.interpolation": "bilinear",
}


@dataclass(frozen=True)
class Heading:
    """A title; level 2 begins a part, level 3 a section of it. ``together`` asks paper not to tear the part where a
    fresh page, at no great loss, would hold it whole."""

    text: str
    level: int = 2
    together: bool = False


@dataclass(frozen=True)
class Note:
    """A paragraph, with a list under it if there are items: plain, or a hint, a warning, an alarm none can miss."""

    text: str
    kind: Literal["plain", "hint", "warning", "alarm"] = "plain"
    items: Sequence[str] = ()


@dataclass(frozen=True)
class Column:
    """Head of a table column: what, in which unit."""

    title: str
    unit: str = ""
    align: Literal["left", "right"] = "right"


class Link(str):
    """A table cell that leads somewhere, on a page."""

    href: str

    def __new__(cls, text: str, href: str) -> Link:
        """A text with its target."""
        made = super().__new__(cls, text)
        made.href = href
        return made


@dataclass(frozen=True)
class Table:
    """Rows of ready-made texts; ``strong`` lists rows to emphasise, ``mono`` columns set in typewriter."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    strong: Sequence[int] = ()
    mono: Sequence[int] = ()


@dataclass(frozen=True)
class Facts:
    """Name-and-value pairs, side by side."""

    pairs: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Figure:
    """Something to draw; ``draw`` gets an empty figure or subfigure of the size given.

    ``vector`` is for charts; images with many pixels are better off as pixels.
    """

    draw: Callable[[FigureBase], None]
    width_mm: float
    height_mm: float
    caption: str = ""
    alt: str = ""
    vector: bool = True


Block = Heading | Note | Table | Facts | Figure


@dataclass(frozen=True)
class Document:
    """A report: title, the line under it, the small print on every page, and its blocks."""

    title: str
    subtitle: str
    small_print: str
    blocks: Sequence[Block]
    date: str = ""


def new_figure(width_mm: float, height_mm: float) -> MplFigure:
    """An empty figure without pyplot, so that nothing global is left behind."""
    figure = MplFigure(figsize=(width_mm / MM_PER_INCH, height_mm / MM_PER_INCH))
    FigureCanvasAgg(figure)
    return figure


def render(figure: Figure, *, dpi: int = 170, png: bool = False) -> tuple[bytes, str]:
    """Draw one figure: its bytes and MIME type, SVG for charts and PNG for images (or where ``png``)."""
    vector = figure.vector and not png
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        canvas = new_figure(figure.width_mm, figure.height_mm)
        figure.draw(canvas)
        if vector:
            canvas.savefig(buffer, format="svg", metadata={"Date": None})
        else:
            canvas.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue(), "image/svg+xml" if vector else "image/png"


def data_uri(figure: Figure) -> str:
    """A figure as a ``data:`` address."""
    content, mime = render(figure)
    return f"data:{mime};base64,{base64.b64encode(content).decode('ascii')}"


def to_html(document: Document) -> str:
    """The document as one HTML page that needs nothing beside itself."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    page = environment.get_template("document.html.j2")
    return page.render(document=document, kind=_kind, data_uri=data_uri, anchor=anchor, flag=FLAG)


def anchor(text: str) -> str:
    """Name of a heading in a link."""
    return "-".join("".join(c.lower() if c.isalnum() else " " for c in text).split())


def _kind(block: Block) -> str:
    return type(block).__name__.lower()
