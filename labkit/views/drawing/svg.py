"""A picture as SVG: one text, no style sheet, nothing fetched."""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Hashable, Iterable
from dataclasses import replace
from itertools import groupby

from labkit.markup import escaped, visible
from labkit.views.drawing.pixels import data_address, png
from labkit.views.drawing.scene import Box, Dot, Path, Picture, Point, Raster, Shape, Words, text_width

FONTS = "Helvetica, Arial, 'Liberation Sans', 'Noto Sans', 'Noto Sans CJK SC', 'WenQuanYi Micro Hei', sans-serif"


def svg(picture: Picture, *, hover: bool = False) -> str:
    """hover: with what is said of each shape, as its title, which a browser shows where it is pointed at."""
    width, height = _n(picture.width), _n(picture.height)
    described = f"<title>{_text(picture.description)}</title>" if picture.description else ""
    if hover:
        body = "".join(_shape(shape, hover) for shape in picture.shapes)
    else:
        seen = (shape for shape in picture.shapes if not _unseen(shape))
        body = "".join(_together(list(alike)) for _, alike in groupby(seen, _look))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        f'role="img" font-family="{FONTS}" style="max-width:100%;height:auto">{described}'
        f'<rect width="{width}" height="{height}" fill="{picture.paper}"/>{body}</svg>'
    )


def inline(picture: Picture) -> str:
    """A picture as a part of an HTML page."""
    return svg(picture).replace(' xmlns="http://www.w3.org/2000/svg"', "", 1)


def svg_image(picture: Picture, words: str) -> str:
    """A picture as an HTML element that sanitizers leave alone, and the words that stand for it where no picture is shown."""
    data = base64.b64encode(svg(picture).encode("utf-8")).decode("ascii")
    return f'<img src="data:image/svg+xml;base64,{data}" alt="{escaped(words)}" style="max-width:100%">'


def _look(shape: Shape) -> Hashable:
    """What neighbours have in common that are written as one element: lines and boxes of one look, words of one look on one
    line."""
    if isinstance(shape, Box) and shape.opacity == 1:
        return Box, shape.fill
    if isinstance(shape, Path) and shape.fill is None and shape.opacity == 1:
        return shape.stroke, shape.width, shape.dash, shape.closed
    if isinstance(shape, Words) and shape.anchor == "start" and not shape.angle:
        return shape.y, shape.size, shape.colour, shape.bold
    return id(shape)


def _together(shapes: list[Shape]) -> str:
    first = shapes[0]
    if len(shapes) > 1 and isinstance(first, Path):
        gap = (math.nan, math.nan)
        points = (point for shape in shapes if isinstance(shape, Path) for point in (*shape.points, gap))
        return _shape(replace(first, points=tuple(points)), hover=False)
    if len(shapes) > 1 and isinstance(first, Box):
        boxes = "".join(
            f"M{_n(each.x)} {_n(each.y)}h{_n(each.width)}v{_n(each.height)}h{_n(-each.width)}z"
            for each in shapes
            if isinstance(each, Box)
        )
        return f'<path d="{boxes}" fill="{first.fill}"/>'
    if len(shapes) > 1 and isinstance(first, Words):
        words = [shape for shape in shapes if isinstance(shape, Words)]
        spans = "".join(
            f'{_space(before, each)}<tspan x="{_n(each.x)}"{_kept(each.text)}>{_text(each.text)}</tspan>'
            for before, each in zip([None, *words], words, strict=False)
        )
        tag, attributes, _ = _drawn(replace(first, text=""))
        return f"<{tag}{attributes}>{spans}</{tag}>"
    return _shape(first, hover=False)


def _space(before: Words | None, word: Words) -> str:
    """What a reader who copies the text finds between two words: they stand where they are told in any case."""
    return " " if before and word.x > before.x + text_width(before.text, before.size) + 1 else ""


def _kept(text: str) -> str:
    """Spaces stay where they say something."""
    return ' xml:space="preserve"' if "  " in text or text != text.strip() else ""


def _unseen(shape: Shape) -> bool:
    """Whether a shape is there to be pointed at alone."""
    return isinstance(shape, Box | Path) and shape.opacity == 0


def _shape(shape: Shape, hover: bool) -> str:
    if isinstance(shape, Raster):
        return (
            f'<image x="{_n(shape.x)}" y="{_n(shape.y)}" width="{_n(shape.width)}" height="{_n(shape.height)}" '
            f'preserveAspectRatio="none" style="image-rendering:pixelated" href="{data_address(png(shape.pixels))}"/>'
        )
    tag, attributes, inside = _drawn(shape)
    inside += f"<title>{_text(shape.hover)}</title>" if hover and shape.hover else ""
    return f"<{tag}{attributes}>{inside}</{tag}>" if inside else f"<{tag}{attributes}/>"


def _drawn(shape: Box | Path | Dot | Words) -> tuple[str, str, str]:
    """(tag, attributes, contents)"""
    if isinstance(shape, Box):
        size = f'width="{_n(shape.width)}" height="{_n(shape.height)}"'
        return "rect", f' x="{_n(shape.x)}" y="{_n(shape.y)}" {size} fill="{shape.fill}"{_opacity(shape.opacity)}', ""
    if isinstance(shape, Dot):
        edge = f' stroke="{shape.stroke}" stroke-width="{_n(shape.width)}"' if shape.stroke else ""
        place = f' cx="{_n(shape.x)}" cy="{_n(shape.y)}" r="{_n(shape.radius)}"'
        return "circle", f'{place} fill="{shape.fill or "none"}"{edge}', ""
    if isinstance(shape, Path):
        edge = f' stroke="{shape.stroke}" stroke-width="{_n(shape.width)}"' if shape.stroke else ""
        edge += f' stroke-dasharray="{" ".join(map(_n, shape.dash))}"' if shape.dash and shape.stroke else ""
        line = f' d="{_line(shape.points, shape.closed)}" fill="{shape.fill or "none"}"'
        return "path", f"{line}{edge}{_opacity(shape.opacity)}", ""
    turned = f' transform="rotate({_n(shape.angle)} {_n(shape.x)} {_n(shape.y)})"' if shape.angle else ""
    looks = f' fill="{shape.colour}"' + (' font-weight="bold"' if shape.bold else "")
    looks += f' text-anchor="{shape.anchor}"' if shape.anchor != "start" else ""
    place = f' x="{_n(shape.x)}" y="{_n(shape.y)}" font-size="{_n(shape.size)}"'
    return "text", f"{place}{looks}{turned}{_kept(shape.text)}", _text(shape.text)


def _line(points: Iterable[Point], closed: bool) -> str:
    steps, down = [], False
    for x, y in points:
        if not (math.isfinite(x) and math.isfinite(y)):
            down = False
            continue
        steps.append(f"{'L' if down else 'M'}{_n(x)} {_n(y)}")
        down = True
    return "".join(steps) + ("Z" if closed else "")


def _opacity(opacity: float) -> str:
    return "" if opacity == 1 else f' opacity="{_n(opacity)}"'


def _n(value: float) -> str:
    return f"{value:.2f}".rstrip("0").rstrip(".")


def _text(text: str) -> str:
    return html.escape(visible(text))
