"""A picture made from above to below: headings, paragraphs, text token by token, tables, bitmaps, other pictures."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from labkit.markup import visible
from labkit.views.drawing.scene import (
    INK,
    LINE,
    LINE_HEIGHT,
    MUTED,
    SIZE,
    Box,
    Path,
    Picture,
    Raster,
    Shape,
    Words,
    fitted,
    place,
    readable_on,
    text_width,
)

MARGIN = 16.0
WIDTH = 720.0
LONGEST = 4_000  # characters of a text; nobody reads on in a picture
_SIGNS = {"\n": "↵", "\t": "→", "\r": "␍"}


@dataclass(frozen=True)
class Token:
    """A piece of running text. fill: behind it; line: the thickness of a line under it, 0 for none; note: small, after it."""

    text: str
    fill: str | None = None
    line: float = 0.0
    line_colour: str = INK
    colour: str | None = None
    note: str = ""
    hover: str = ""


class Page:
    """Stacks what it is given; `picture()` is the whole, as high as it has become."""

    def __init__(self, *, width: float = WIDTH, description: str = "") -> None:
        self._picture = Picture(width, 0, description)
        self._inner = width - 2 * MARGIN
        self._y = MARGIN

    def picture(self) -> Picture:
        self._picture.height = math.ceil(self._y + MARGIN / 2)
        return self._picture

    def heading(self, text: str) -> Page:
        return self.paragraph(text, size=16.0, bold=True, gap=6.0)

    def paragraph(
        self, text: str, *, size: float = SIZE, colour: str = INK, bold: bool = False, gap: float = 8.0
    ) -> Page:
        for line in _lines(visible(text)[:LONGEST], self._inner, size, bold):
            self._y += LINE_HEIGHT * size
            self._picture.add(Words(MARGIN, self._y - 0.3 * size, line, size, colour, bold=bold))
        self._y += gap
        return self

    def note(self, text: str) -> Page:
        return self.paragraph(text, size=12.0, colour=MUTED)

    def tokens(self, tokens: Iterable[Token], *, size: float = 14.0) -> Page:
        """Running text: a token that has no room is set on the next line, and a line break ends its line."""
        x, high = MARGIN, 1.75 * size
        self._y += high
        count = 0
        fills: list[Shape] = []
        words: list[Shape] = []
        lines: list[Shape] = []
        for token in tokens:
            count += len(token.text)
            if count > LONGEST:
                words.append(Words(x, self._y, "…", size, MUTED))
                break
            breaks = token.text.count("\n")
            text = visible("".join(_SIGNS.get(c, c) for c in token.text))
            text = fitted(text, self._inner - 8, size)
            wide, small = text_width(text, size), text_width(token.note, 9.0)
            if x + wide + small > MARGIN + self._inner and x > MARGIN:
                x, self._y = MARGIN, self._y + high
                if text.startswith(" ") and len(text) > 1:
                    text = text[1:]
                    wide = text_width(text, size)
            lead = text_width(" ", size) if text.startswith(" ") and len(text) > 1 else 0.0
            if token.fill:
                fills.append(Box(x + lead, self._y - size, wide - lead, 1.3 * size, token.fill, hover=token.hover))
            colour = token.colour or (readable_on(token.fill) if token.fill else INK)
            shown = text[1:] if lead else text
            if shown.strip():
                words.append(Words(x + lead, self._y, shown, size, colour, hover=token.hover))
            if token.line:
                at = self._y + 4
                ends = ((x + lead, at), (x + max(wide, lead + 4), at))
                lines.append(Path(ends, token.line_colour, token.line, hover=token.hover))
            x += wide
            if token.note:
                words.append(Words(x, self._y + 3, token.note, 9.0, MUTED))
                x += small + 1
            for _ in range(min(breaks, 3)):
                x, self._y = MARGIN, self._y + high
        lines.sort(key=lambda line: (line.stroke or "", line.width) if isinstance(line, Path) else ("", 0.0))
        self._picture.add(*fills, *words, *lines)  # what looks alike stands together: svg.py writes it as one element
        self._y += 14
        return self

    def table(
        self,
        rows: Sequence[Sequence[object]],
        head: Sequence[str] = (),
        *,
        caption: str = "",
        right: Collection[int] = (),
        bars: Sequence[float] | None = None,
        colours: Sequence[str] | None = None,
    ) -> Page:
        """Rows of cells. bars: behind the table, for each row one of this share (0 to 1) of the room that is left."""
        if not rows:
            return self
        if caption:
            self.paragraph(caption, bold=True, gap=2.0)
        size = 12.0
        cells = [[visible(str(cell)).replace("\n", "↵") for cell in row] for row in rows]
        columns = max(map(len, cells))
        most = self._inner * (0.9 if columns == 1 else 0.6)
        widths = [
            min(most, max(text_width(row[i], size) for row in [*cells, list(head)] if i < len(row)))
            for i in range(columns)
        ]
        lefts = [MARGIN + sum(widths[:i]) + 18 * i for i in range(columns)]

        def write(row: Sequence[str], colour: str) -> None:
            self._y += 19
            for i, cell in enumerate(row):
                text = fitted(cell, widths[i] + 1, size)
                if i in right:
                    self._picture.add(Words(lefts[i] + widths[i], self._y - 5, text, size, colour, "end"))
                else:
                    self._picture.add(Words(lefts[i], self._y - 5, text, size, colour))

        if head:
            write(head, MUTED)
            self._picture.add(Path(((MARGIN, self._y), (lefts[-1] + widths[-1], self._y)), LINE))
        start = lefts[-1] + widths[-1] + 18
        room = max(0.0, min(260.0, MARGIN + self._inner - start))
        for i, row in enumerate(cells):
            write(row, INK)
            if bars is not None and room > 20 and bars[i] > 0:
                fill = colours[i] if colours else "#9db8cb"
                self._picture.add(Box(start, self._y - 15, room * min(1.0, bars[i]), 11, fill))
        self._y += 12
        return self

    def pixels(self, pixels: np.ndarray, *, width: float, height: float) -> Page:
        """(rows, columns, 4) uint8, drawn this large."""
        self._picture.add(Raster(MARGIN, self._y, width, height, pixels))
        self._y += height + 12
        return self

    def key(self, entries: Sequence[tuple[str, str]]) -> Page:
        """Colours and what each stands for, in lines."""
        x = MARGIN
        self._y += 18
        for colour, name in entries:
            wide = 22 + text_width(name, 12.0)
            if x + wide > MARGIN + self._inner and x > MARGIN:
                x, self._y = MARGIN, self._y + 18
            self._picture.add(Box(x, self._y - 14, 12, 12, colour), Words(x + 17, self._y - 4, name, 12.0, INK))
            x += wide + 14
        self._y += 8
        return self

    def drawing(self, picture: Picture) -> Page:
        """Another picture, below what is there; the page becomes as wide as it is."""
        self._picture.width = max(self._picture.width, picture.width)
        self._picture.add(*(place(shape, 0, self._y) for shape in picture.shapes))
        self._y += picture.height
        return self


def _lines(text: str, width: float, size: float, bold: bool) -> list[str]:
    lines = []
    for part in text.split("\n"):
        line = ""
        for word in part.split(" "):
            longer = f"{line} {word}" if line else word
            if line and text_width(longer, size, bold=bold) > width:
                lines.append(line)
                line = word
            else:
                line = longer
            while text_width(line, size, bold=bold) > width and len(line) > 1:  # one word, longer than a line
                cut = len(fitted(line, width, size)) - 1
                lines.append(line[: max(1, cut)])
                line = line[max(1, cut) :]
        lines.append(line)
    return lines
