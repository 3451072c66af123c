"""A picture as a list of shapes, in pixels from the top left. Whatever draws it (SVG, PNG) draws the same."""

from __future__ import annotations

import unicodedata
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

PAPER, INK, MUTED, LINE = "#ffffff", "#1b1f24", "#59636e", "#dfe3e8"
ACCENT = "#0072b2"
PALE, DEEP = "#e1ecf6", "#103a80"  # of a scale from little to much
SIZE = 13.0  # of a text, in pixels
LINE_HEIGHT = 1.4  # of a line, in sizes

Point = tuple[float, float]
Anchor = Literal["start", "middle", "end"]


@dataclass(frozen=True)
class Box:
    """A rectangle. hover: what is said of it where a picture can be pointed at."""

    x: float
    y: float
    width: float
    height: float
    fill: str
    opacity: float = 1.0
    hover: str = ""


@dataclass(frozen=True)
class Path:
    """A line through points, or an area. A NaN among the points lifts the pen. dash: lengths of strokes and gaps."""

    points: tuple[Point, ...]
    stroke: str | None = None
    width: float = 1.0
    dash: tuple[float, ...] = ()
    fill: str | None = None
    closed: bool = False
    opacity: float = 1.0
    hover: str = ""


@dataclass(frozen=True)
class Dot:
    """A circle."""

    x: float
    y: float
    radius: float
    fill: str | None = None
    stroke: str | None = None
    width: float = 1.0
    hover: str = ""


@dataclass(frozen=True)
class Words:
    """One line of text; y is its base line. angle: clockwise, in degrees, about (x, y)."""

    x: float
    y: float
    text: str
    size: float = SIZE
    colour: str = INK
    anchor: Anchor = "start"
    bold: bool = False
    angle: float = 0.0
    hover: str = ""


@dataclass(frozen=True)
class Raster:
    """A picture of pixels, each a sharp-edged cell. pixels: (rows, columns, 4) uint8, red, green, blue and opacity."""

    x: float
    y: float
    width: float
    height: float
    pixels: np.ndarray


Shape = Box | Path | Dot | Words | Raster


@dataclass
class Picture:
    """Shapes in the order they are drawn, on paper of this size. description: the picture in words."""

    width: float
    height: float
    description: str = ""
    shapes: list[Shape] = field(default_factory=list)
    paper: str = PAPER

    def add(self, *shapes: Shape) -> None:
        self.shapes.extend(shapes)


def place(shape: Shape, dx: float, dy: float) -> Shape:
    """The same shape elsewhere."""
    if isinstance(shape, Path):
        return _with(shape, points=tuple((x + dx, y + dy) for x, y in shape.points))
    return _with(shape, x=shape.x + dx, y=shape.y + dy)


def _with(shape: Shape, **changed: object) -> Shape:
    import dataclasses

    return dataclasses.replace(shape, **changed)  # type: ignore[arg-type]  # the fields' own types, by name


# Widths of the printable ASCII characters, in thousandths of the size: those of Helvetica and of every font made to fit
# where it was meant (Arial, Liberation Sans), from Adobe's published metrics.
_ASCII = (
    278, 278, 355, 556, 556, 889, 667, 191, 333, 333, 389, 584, 278, 333, 278, 278, 556, 556, 556, 556, 556, 556, 556, 556,
    556, 556, 278, 278, 584, 584, 584, 556, 1015, 667, 667, 722, 722, 667, 611, 778, 722, 278, 500, 667, 556, 833, 722, 778,
    667, 778, 722, 667, 611, 722, 667, 944, 667, 667, 611, 278, 278, 278, 469, 556, 333, 556, 556, 500, 556, 556, 278, 556,
    556, 222, 222, 500, 222, 833, 556, 556, 556, 556, 333, 500, 278, 556, 500, 722, 500, 500, 500, 334, 260, 334, 584,
)  # fmt: skip
_WIDE, _OTHER = 1000, 600


def text_width(text: str, size: float = SIZE, *, bold: bool = False) -> float:
    """About how wide a line of text is, in pixels; a browser's own font may differ by a few per cent."""
    total = 0
    for character in text:
        code = ord(character)
        if 32 <= code < 127:
            total += _ASCII[code - 32]
        elif unicodedata.combining(character):
            continue
        else:
            total += _WIDE if unicodedata.east_asian_width(character) in "WF" else _OTHER
    return total / 1000 * size * (1.07 if bold else 1.0)


def fitted(text: str, width: float, size: float = SIZE) -> str:
    """The text, cut where it would be wider than this."""
    if text_width(text, size) <= width:
        return text
    while text and text_width(text + "…", size) > width:
        text = text[:-1]
    return text + "…"


def mixed(low: str, high: str, share: float) -> str:
    """A colour (#rrggbb) between two others; share: of the second, 0 to 1."""
    ends = [[int(colour[i : i + 2], 16) for i in (1, 3, 5)] for colour in (low, high)]
    return "#" + "".join(f"{round(a + (b - a) * min(1.0, max(0.0, share))):02x}" for a, b in zip(*ends, strict=True))


def readable_on(colour: str) -> str:
    """Black or white, whichever reads better on a colour (#rrggbb), by its relative luminance (WCAG 2)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts)
    return "#ffffff" if 0.2126 * red + 0.7152 * green + 0.0722 * blue < 0.179 else "#000000"
