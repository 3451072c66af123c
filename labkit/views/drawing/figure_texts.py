"""plotly's texts, with the little HTML it reads, as lines that can be measured and drawn."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass

from labkit.views.drawing.scene import Anchor, Shape, Words, text_width

SMALL, BODY = 11.0, 13.0
_TAGS = re.compile(r"<(/?)(b|br|span|i|sub|sup)\b([^>]*)>", re.IGNORECASE)
_SIZE = re.compile(r"font-size:\s*([\d.]+)px")


@dataclass(frozen=True)
class Run:
    text: str
    size: float
    bold: bool

    @property
    def width(self) -> float:
        return text_width(self.text, self.size, bold=self.bold)


def lines_of(text: object, size: float) -> list[list[Run]]:
    """plotly's little HTML (b, br, span with a size) as lines of runs; what it escapes is text again."""
    lines: list[list[Run]] = [[]]
    bold, sizes, at = 0, [size], 0
    source = "" if text is None else str(text)
    for tag in [*_TAGS.finditer(source), None]:
        piece = html.unescape(source[at : tag.start() if tag else len(source)])
        if piece:
            lines[-1].append(Run(piece, sizes[-1], bold > 0))
        if tag is None:
            break
        at = tag.end()
        closing, name = bool(tag[1]), tag[2].lower()
        if name == "br":
            lines.append([])
        elif name == "b":
            bold += -1 if closing else 1
        elif name == "span" and closing:
            sizes = sizes[:-1] or [size]
        elif name == "span":
            found = _SIZE.search(tag[3])
            sizes.append(float(found[1]) if found else sizes[-1])
    return lines


def plain(text: object) -> str:
    """plotly's text without its marks, on as many lines."""
    return "\n".join("".join(run.text for run in line) for line in lines_of(text, BODY))


def width_of(text: object, size: float) -> float:
    return max((sum(run.width for run in line) for line in lines_of(text, size)), default=0.0)


def written(
    text: object, x: float, y: float, size: float, colour: str, anchor: Anchor = "start", *, below: bool = True
) -> list[Shape]:
    """Lines of text, from y down (or, not below, up to y)."""
    lines = lines_of(text, size)
    high = [1.3 * max((run.size for run in line), default=size) for line in lines]
    at = y if below else y - sum(high)
    shapes: list[Shape] = []
    for line, height in zip(lines, high, strict=True):
        at += height
        whole = sum(run.width for run in line)
        left = x - {"start": 0.0, "middle": whole / 2, "end": whole}[anchor]
        for run in line:
            shapes.append(Words(left, at - 0.25 * height, run.text, run.size, colour, bold=run.bold))
            left += run.width
    return shapes


def height_of(text: object, size: float) -> float:
    return sum(1.3 * max((run.size for run in line), default=size) for line in lines_of(text, size)) if text else 0.0
