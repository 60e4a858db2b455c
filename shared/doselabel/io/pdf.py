"""A `Document` on A4 paper, by matplotlib alone. Knows pages, lines and columns; no doses.

Blocks are laid out first, from top to bottom, as drawing instructions in millimetres from the page's upper left
corner; pages are drawn once their number is known. Charts stay vectors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import matplotlib
from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.figure import Figure as MplFigure
from matplotlib.font_manager import FontProperties
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.textpath import text_to_path

from doselabel.io.document import (
    FLAG,
    MM_PER_INCH,
    STYLE,
    Block,
    Document,
    Facts,
    Figure,
    Heading,
    Note,
    Table,
    new_figure,
)

PAGE_MM = (210.0, 297.0)
LEFT_MM, RIGHT_MM = 16.0, 194.0
TOP_MM, BOTTOM_MM = 22.0, 280.0
WIDTH_MM = RIGHT_MM - LEFT_MM
POINT_MM = MM_PER_INCH / 72
KEPT_TOGETHER_MM = 90.0
"""A table up to this height is not broken over two pages."""
LARGEST_GAP_MM = 90.0
"""No more of a page than this is left empty so that a part may begin on a fresh one."""

INK, SOFT, RULE, ACCENT, TINT = "#1d262c", "#5b6973", "#cfd8dd", "#0b5c7a", "#f1f5f7"
ALARM, WARN = "#9c1c1c", "#8a5a00"
NOTE_COLORS = {"hint": (TINT, RULE, INK), "warning": ("#fff7e6", "#d99100", INK), "alarm": (ALARM, ALARM, "white")}
HEADING_POINTS = {2: 13.0, 3: 9.5}
BODY, TABLE, SMALL = 8.2, 7.3, 6.8

Draw = Callable[[MplFigure], None]


def to_pdf(document: Document, path: Path) -> Path:
    """Write the document as A4 pages; the file appears whole or not at all."""
    layout = _Layout()
    layout.title(document)
    for part in _parts(document.blocks):
        layout.begin(part)
        for block in part:
            layout.add(block)
    temporary = path.with_name(f".writing-{path.name}")
    metadata = {
        "Title": f"{document.title}: {document.subtitle}",
        "Creator": "doselabel",
        "Subject": document.small_print,
    }
    try:
        with matplotlib.rc_context(STYLE), PdfPages(temporary, metadata=metadata) as pdf:
            for number, instructions in enumerate(layout.pages, start=1):
                page = new_figure(*PAGE_MM)
                _furniture(page, document, number, len(layout.pages))
                for draw in instructions:
                    draw(page)
                pdf.savefig(page)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return path


def _furniture(page: MplFigure, document: Document, number: int, total: int) -> None:
    """What every page carries, so that a loose sheet still says whose it is and what it is not."""
    _text(page, LEFT_MM, 13.0, document.small_print, SMALL, ALARM, bold=True)
    _text(page, RIGHT_MM, 288.0, f"{number} / {total}", SMALL, SOFT, right=True)
    _text(page, LEFT_MM, 288.0, f"{document.title}, {document.subtitle}  {document.date}", SMALL, SOFT)
    _line(page, 15.5, RULE)
    _line(page, 284.0, RULE)


class _Layout:
    """Pages so far, and how far down the last one is filled."""

    def __init__(self, bottom_mm: float = BOTTOM_MM) -> None:
        self.pages: list[list[Draw]] = [[]]
        self.y = TOP_MM
        self.bottom = bottom_mm

    def room(self, height_mm: float) -> float:
        """Upper edge of a piece of this height, on a new page when the present one is too full."""
        if self.y + height_mm > self.bottom and self.y > TOP_MM:
            self.break_page()
        top = self.y
        self.y += height_mm
        return top

    def break_page(self) -> None:
        if self.pages[-1]:
            self.pages.append([])
        self.y = TOP_MM

    def begin(self, part: Sequence[Block]) -> None:
        """Go to a fresh page where the part's beginning does not fit, or where it would be torn and need not be."""
        left, page = self.bottom - self.y, self.bottom - TOP_MM
        whole = _height_mm(part)
        torn = left < whole <= page and left <= LARGEST_GAP_MM
        wanted = isinstance(part[0], Heading) and part[0].together and torn
        if wanted or left < min(_height_mm(_beginning(part)), page):
            self.break_page()

    def put(self, draw: Draw) -> None:
        self.pages[-1].append(draw)

    def title(self, document: Document) -> None:
        self.put(lambda page: _text(page, LEFT_MM, 28.0, document.title, 18, INK, bold=True))
        self.put(lambda page: _text(page, LEFT_MM, 34.0, document.subtitle, 9.5, SOFT))
        self.put(lambda page: _text(page, RIGHT_MM, 34.0, document.date, 8, SOFT, right=True))
        self.put(lambda page: _line(page, 37.0, ACCENT, 1.2))
        self.y = 41.0

    def add(self, block: object) -> None:
        if isinstance(block, Heading):
            self.heading(block)
        elif isinstance(block, Note):
            self.note(block)
        elif isinstance(block, Facts):
            self.facts(block)
        elif isinstance(block, Table):
            self.table(block)
        elif isinstance(block, Figure):
            self.figure(block)

    def heading(self, block: Heading) -> None:
        size = HEADING_POINTS[block.level]
        before = 0.0 if self.y == TOP_MM else (5.0 if block.level == 2 else 3.0)
        top = self.room(before + size * POINT_MM * 1.65)
        baseline = top + before + size * POINT_MM
        color = ACCENT if block.level == 2 else INK
        self.put(lambda page: _text(page, LEFT_MM, baseline, block.text, size, color, bold=True))

    def note(self, block: Note) -> None:
        framed = block.kind != "plain"
        size, bold = (10.5, True) if block.kind == "alarm" else (BODY, False)
        inset = 4.0 if framed else 0.0
        width = WIDTH_MM - 2 * inset
        lines = [(0.0, line) for line in (_wrap(block.text, width, size, bold=bold) if block.text else [])]
        for item in block.items:
            wrapped = _wrap(item, width - 3.0, size, bold=bold)
            lines += [(0.0, f"•  {wrapped[0]}"), *((3.0, line) for line in wrapped[1:])]
        step = size * POINT_MM * 1.38
        padding = 1.8 if framed else 0.4
        height = len(lines) * step + 2 * padding
        top = self.room(height + 1.6)
        background, edge, ink = NOTE_COLORS.get(block.kind, ("white", "white", INK))
        if framed:
            self.put(lambda page: _box(page, LEFT_MM, top, WIDTH_MM, height, background))
            self.put(lambda page: _box(page, LEFT_MM, top, 1.2, height, edge))
        for i, (shift, line) in enumerate(lines):
            x, y = LEFT_MM + inset + shift, top + padding + (i + 0.76) * step
            self._line_of_text(x, y, line, size, ink, bold=bold)

    def facts(self, block: Facts) -> None:
        columns, gap = 3, 5.0
        self.y += 2.0
        width = (WIDTH_MM - (columns - 1) * gap) / columns
        step = BODY * POINT_MM * 1.32
        for i in range(0, len(block.pairs), columns):
            row = [(name, _wrap(value, width, BODY, bold=True)) for name, value in block.pairs[i : i + columns]]
            height = 4.6 + max(len(lines) for _, lines in row) * step
            top = self.room(height + 1.2)
            for j, (name, lines) in enumerate(row):
                x = LEFT_MM + j * (width + gap)
                self._rule(x, top, width)
                self._line_of_text(x, top + 3.4, name, SMALL, SOFT)
                for k, line in enumerate(lines):
                    self._line_of_text(x, top + 4.2 + (k + 0.76) * step, line, BODY, INK, bold=True)
        self.y += 2.0

    def table(self, block: Table) -> None:
        widths = _column_widths(block)
        edges = [LEFT_MM + sum(widths[:j]) for j in range(len(widths))]
        step = TABLE * POINT_MM * 1.3
        head = [_wrap(c.title, w - 2.4, TABLE, bold=True) for c, w in zip(block.columns, widths, strict=True)]
        units = any(c.unit for c in block.columns)
        head_height = (
            (max(map(len, head)) + (0.95 if units else 0)) * step + 1.8 if any(c.title for c in block.columns) else 0
        )

        def draw_head() -> None:
            top = self.room(head_height)
            for j, column in enumerate(block.columns):
                offset = max(map(len, head)) - len(head[j])
                for k, line in enumerate(head[j]):
                    self._cell(edges[j], widths[j], top + (offset + k + 0.8) * step, line, column.align, INK, bold=True)
                if column.unit:
                    y = top + (max(map(len, head)) + 0.78) * step
                    self._cell(edges[j], widths[j], y, column.unit, column.align, SOFT)
            self._rule(LEFT_MM, top + head_height - 0.5, WIDTH_MM, INK, 0.8)

        rows = [
            [_wrap(text, w - 2.4, TABLE, bold=i in block.strong) for text, w in zip(row, widths, strict=True)]
            for i, row in enumerate(block.rows)
        ]
        heights = [max(map(len, row)) * step + 1.7 for row in rows]
        together = heights if sum(heights) <= KEPT_TOGETHER_MM else heights[:3]
        foot = len(_wrap(block.caption, WIDTH_MM, SMALL)) * SMALL * POINT_MM * 1.35 if block.caption else 0.0
        if self.y + head_height + sum(together) + foot > self.bottom:
            self.break_page()
        if head_height:
            draw_head()
        for i, (row, height) in enumerate(zip(rows, heights, strict=True)):
            if self.y + height > self.bottom:
                self.break_page()
                if head_height:
                    draw_head()
            top, strong = self.room(height), i in block.strong
            if strong:
                self._tint(top, height)
            for j, lines in enumerate(row):
                color = WARN if block.rows[i][j].startswith(FLAG) else INK
                for k, line in enumerate(lines):
                    y = top + 0.9 + (k + 0.78) * step
                    self._cell(edges[j], widths[j], y, line, block.columns[j].align, color, bold=strong)
            self._rule(LEFT_MM, top + height, WIDTH_MM)
        self._caption(block.caption)

    def figure(self, block: Figure) -> None:
        width = min(block.width_mm, WIDTH_MM)
        height = block.height_mm * width / block.width_mm
        caption = _wrap(block.caption, WIDTH_MM, SMALL) if block.caption else []
        top = self.room(height + len(caption) * SMALL * POINT_MM * 1.35 + 1.0)
        self.y = top + height + 0.5
        self.put(lambda page: _subfigure(page, block, LEFT_MM, top, width, height))
        self._caption(block.caption)

    def _caption(self, text: str) -> None:
        step = SMALL * POINT_MM * 1.35
        if text:
            for line in _wrap(text, WIDTH_MM, SMALL):
                self._line_of_text(LEFT_MM, self.room(step) + 0.95 * step, line, SMALL, SOFT)
        self.y += 3.0

    def _line_of_text(self, x: float, y: float, text: str, size: float, color: str, *, bold: bool = False) -> None:
        self.put(lambda page: _text(page, x, y, text, size, color, bold=bold))

    def _cell(self, x: float, width: float, y: float, text: str, align: str, color: str, *, bold: bool = False) -> None:
        right = align == "right"
        at = x + width - 1.2 if right else x + 1.2
        self.put(lambda page: _text(page, at, y, text, TABLE, color, bold=bold, right=right))

    def _rule(self, x: float, y: float, width: float, color: str = RULE, points: float = 0.5) -> None:
        self.put(lambda page: _line(page, y, color, points, x, x + width))

    def _tint(self, top: float, height: float) -> None:
        self.put(lambda page: _box(page, LEFT_MM, top, WIDTH_MM, height, TINT))


def _parts(blocks: Sequence[Block]) -> list[list[Block]]:
    """Blocks from one heading to the next."""
    parts: list[list[Block]] = []
    for block in blocks:
        if isinstance(block, Heading) or not parts:
            parts.append([])
        parts[-1].append(block)
    return parts


def _beginning(part: Sequence[Block]) -> list[Block]:
    """What must not be parted from a heading: a title alone at the foot of a page helps nobody."""
    first = next((i for i, block in enumerate(part) if not isinstance(block, Heading | Note)), len(part) - 1)
    block = part[first]
    if isinstance(block, Table):
        rows_mm = _height_mm([block]) - _height_mm([replace(block, rows=[], strong=())])
        if rows_mm > KEPT_TOGETHER_MM:  # else the table goes to the next page whole, and so must its title
            block = replace(block, rows=block.rows[:3], strong=())
    return [*part[:first], block]


def _height_mm(blocks: Sequence[Block]) -> float:
    """What blocks take on a page without end."""
    scratch = _Layout(math.inf)
    for block in blocks:
        scratch.add(block)
    return scratch.y - TOP_MM


def _column_widths(block: Table) -> list[float]:
    """Widths in mm that fill the page: as wide as the texts when they fit, else texts on the left give way."""
    natural, narrowest = [], []
    for j, column in enumerate(block.columns):
        texts = [str(row[j]) for row in block.rows]
        heads = [_width_mm(word, TABLE, True) for word in (column.title.split() or [""])]
        cells = [_width_mm(t, TABLE, i in block.strong) for i, t in enumerate(texts)]
        needed = max([*heads, _width_mm(column.unit, TABLE, False), *cells]) + 2.6
        words = [_width_mm(w, TABLE, True) for t in texts for w in t.split()] if column.align == "left" else cells
        natural.append(needed)
        narrowest.append(min(max([*heads, *words, 6.0]) + 2.6, 60.0 if column.align == "left" else needed))
    spare = WIDTH_MM - sum(natural)
    if spare >= 0:
        return [w + spare * w / sum(natural) for w in natural]
    slack = [n - m for n, m in zip(natural, narrowest, strict=True)]
    share = min(1.0, -spare / sum(slack)) if sum(slack) > 0 else 0.0
    widths = [n - share * s for n, s in zip(natural, slack, strict=True)]
    return [w * WIDTH_MM / sum(widths) for w in widths]


def _wrap(text: str, width_mm: float, size: float, *, bold: bool = False) -> list[str]:
    """Break a text into lines no wider than ``width_mm``; words too long for a line (hashes) are cut."""
    text = text.replace("\n", " ").lstrip(" ")
    if _width_mm(text, size, bold) <= width_mm:
        return [text]
    lines, line = [], ""
    for word in text.split(" "):
        trial = f"{line} {word}" if line else word
        if _width_mm(trial, size, bold) <= width_mm:
            line = trial
            continue
        if line:
            lines.append(line)
        while _width_mm(word, size, bold) > width_mm and len(word) > 1:
            cut = next(n for n in range(len(word) - 1, 0, -1) if n == 1 or _width_mm(word[:n], size, bold) <= width_mm)
            lines.append(word[:cut])
            word = word[cut:]
        line = word
    return [*lines, line]


@lru_cache
def _font(size: float, bold: bool) -> FontProperties:
    return FontProperties(family="DejaVu Sans", size=size, weight="bold" if bold else "normal")


@lru_cache(maxsize=20_000)
def _width_mm(text: str, size: float, bold: bool) -> float:
    if not text:
        return 0.0
    return text_to_path.get_text_width_height_descent(text, _font(size, bold), False)[0] * POINT_MM


def _text(
    page: MplFigure, x: float, y: float, text: str, size: float, color: str, *, bold: bool = False, right: bool = False
) -> None:
    page.text(
        x / PAGE_MM[0], 1 - y / PAGE_MM[1], text, color=color, fontproperties=_font(size, bold),
        ha="right" if right else "left", va="baseline", parse_math=False,
    )  # fmt: skip


def _line(
    page: MplFigure, y: float, color: str, points: float = 0.5, left: float = LEFT_MM, right: float = RIGHT_MM
) -> None:
    xs, ys = (left / PAGE_MM[0], right / PAGE_MM[0]), (1 - y / PAGE_MM[1],) * 2
    page.add_artist(Line2D(xs, ys, color=color, linewidth=points))


def _box(page: MplFigure, x: float, y: float, width: float, height: float, color: str) -> None:
    corner = (x / PAGE_MM[0], 1 - (y + height) / PAGE_MM[1])
    page.add_artist(Rectangle(corner, width / PAGE_MM[0], height / PAGE_MM[1], facecolor=color, edgecolor="none"))


def _subfigure(page: MplFigure, block: Figure, x: float, y: float, width: float, height: float) -> None:
    """Let a figure draw itself into a rectangle of the page: the middle cell of a three-by-three grid."""
    columns = _ratios(x, width, PAGE_MM[0])
    rows = _ratios(y, height, PAGE_MM[1])
    grid = page.add_gridspec(3, 3, width_ratios=columns, height_ratios=rows)
    block.draw(page.add_subfigure(grid[1, 1], facecolor="none"))


def _ratios(start: float, length: float, whole: float) -> Sequence[float]:
    return start, length, whole - start - length
