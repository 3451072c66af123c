"""The marks of a plotly figure: points, colours and colour scales, the entries of its key, what is said at a point."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from labkit.views.drawing.figure_axes import nice, number_of, plain_number
from labkit.views.drawing.figure_texts import plain, width_of
from labkit.views.drawing.scene import Box, Dot, Path, Point, Shape, mixed
from labkit.views.kit.plots import GRID, INK, OKABE_ITO

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from plotly.basedatatypes import BasePlotlyType as Part

GREY = "#59636e"  # of axes and what is written at them: darker than INK, since this has a white paper
FIRST = OKABE_ITO[0]
DASHES = {
    "dash": (7.0, 5.0),
    "dot": (2.0, 3.0),
    "dashdot": (7.0, 4.0, 2.0, 4.0),
    "longdash": (11.0, 5.0),
    "longdashdot": (11.0, 4.0, 2.0, 4.0),
}


def marker(looks: Part, i: int, x: float, y: float, otherwise: str, hover: str = "") -> list[Shape]:
    """One point of a trace, by plotly's names of symbols."""
    symbol = str(entry(looks.symbol, i) or "circle")
    radius = float(entry(looks.size, i) or 6) / 2
    colour = solid(entry(looks.color, i), otherwise)
    edge = float(entry(looks.line.width, i) or 2) if looks.line is not None else 2.0
    if symbol == "circle-open":
        return [Dot(x, y, radius, None, colour, edge, hover)]
    if symbol == "line-ne":
        ends = ((x - radius * 0.7, y + radius * 0.7), (x + radius * 0.7, y - radius * 0.7))
        return [Path(ends, solid(entry(looks.line.color, i), colour), edge)]
    if symbol in POLYGONS:
        points = tuple((x + radius * dx, y + radius * dy) for dx, dy in POLYGONS[symbol])
        return [Path(points, fill=colour, closed=True, hover=hover)]
    return [Dot(x, y, radius, colour, hover=hover)]


def _star() -> tuple[Point, ...]:
    ends = []
    for i in range(10):
        angle, reach = math.pi * (i / 5 - 0.5), 1.3 if i % 2 == 0 else 0.52
        ends.append((reach * math.cos(angle), reach * math.sin(angle)))
    return tuple(ends)


_BAR = 0.4
_CROSS: tuple[Point, ...] = (
    (-_BAR, -1), (_BAR, -1), (_BAR, -_BAR), (1, -_BAR), (1, _BAR), (_BAR, _BAR),
    (_BAR, 1), (-_BAR, 1), (-_BAR, _BAR), (-1, _BAR), (-1, -_BAR), (-_BAR, -_BAR),
)  # fmt: skip
POLYGONS: dict[str, tuple[Point, ...]] = {
    "square": ((-1, -1), (1, -1), (1, 1), (-1, 1)),
    "diamond": ((0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)),
    "triangle-up": ((0, -1.2), (1.1, 0.8), (-1.1, 0.8)),
    "triangle-down": ((0, 1.2), (1.1, -0.8), (-1.1, -0.8)),
    "star": _star(),
    "cross": _CROSS,
    "x": tuple(((px - py) * 0.8, (px + py) * 0.8) for px, py in _CROSS),
}


def sign(trace: Part, x: float, y: float) -> list[Shape]:
    """A trace's sign in the key."""
    if trace.type == "bar":
        return [Box(x + 6, y - 6, 12, 12, entry(trace.marker.color, 0) or FIRST)]
    shapes: list[Shape] = []
    mode = trace.mode or "lines"
    if "lines" in mode:
        dash = DASHES.get(trace.line.dash or "", ())
        shapes.append(Path(((x, y), (x + 24, y)), line_colour(trace), float(trace.line.width or 2), dash))
    if "markers" in mode:
        shapes += marker(trace.marker, 0, x + 12, y, line_colour(trace))
    return shapes


def entries_of(figure: go.Figure) -> list[Part]:
    """The traces that stand in the key, one for each name of a group."""
    layout = figure.layout
    named = [t for t in figure.data if t.name and t.showlegend is not False and t.type != "heatmap"]
    if layout.showlegend is False or (len(figure.data) == 1 and layout.showlegend is not True):
        return []
    return list({(t.legendgroup, t.name): t for t in reversed(named)}.values())[::-1]


def packed(entries: list[Part], heading: str, room: float) -> list[list[tuple[float, Part]]]:
    """Lines of (x, entry); the heading is an entry that is a text."""
    if not entries:
        return []
    lines: list[list[tuple[float, Part]]] = [[]]
    x = 12.0
    if heading:
        lines[0].append((x, plain(heading)))
        x += width_of(heading, 12.0) + 12
    for entry in entries:
        wide = 28 + width_of(entry.name, 12.0) + 18
        if x + wide > room + 24 and lines[-1]:
            lines.append([])
            x = 12.0
        lines[-1].append((x, entry))
        x += wide
    return lines


Stops = list[tuple[float, str]]


@dataclass(frozen=True)
class ColourScale:
    title: str
    stops: Stops
    low: float
    high: float
    ticks: list[tuple[float, str]]


def coloured(stops: Stops, low: float, high: float, value: float) -> str:
    """The colour (#rrggbb) of a value on a scale from low to high."""
    share = min(1.0, max(0.0, (value - low) / ((high - low) or 1.0)))
    for (before, first), (after, second) in pairwise(stops):
        if share <= after:
            return mixed(first, second, (share - before) / ((after - before) or 1.0))
    return stops[-1][1]


def scale_stops(trace: Part, figure: go.Figure) -> tuple[Stops, float, float]:
    shared = figure.layout[trace.coloraxis] if trace.coloraxis else None
    given = shared.colorscale if shared is not None else trace.colorscale
    low, high = (shared.cmin, shared.cmax) if shared is not None else (trace.zmin, trace.zmax)
    known = [v for row in trace.z for v in map(number_of, row) if math.isfinite(v)] or [0.0, 1.0]
    stops = [(float(at), hex_colour(colour)) for at, colour in given or ((0.0, "#f7f7f7"), (1.0, "#0072b2"))]
    return stops, float(min(known) if low is None else low), float(max(known) if high is None else high)


def scale_of(figure: go.Figure) -> ColourScale | None:
    """The colour scale that is written out beside the picture."""
    for trace in figure.data:
        if trace.type != "heatmap" or (trace.showscale is False and not trace.coloraxis):
            continue
        stops, low, high = scale_stops(trace, figure)
        bar = figure.layout[trace.coloraxis].colorbar if trace.coloraxis else trace.colorbar
        if bar.tickvals is not None:
            ticks = [(float(v), str(t)) for v, t in zip(bar.tickvals, bar.ticktext or bar.tickvals, strict=False)]
        else:
            ticks = [(value, plain_number(value)) for value in nice(low, high, 5)]
        return ColourScale(bar.title.text or "", stops, low, high, ticks or [(low, plain_number(low))])
    return None


def hex_colour(colour: str) -> str:
    """plotly's colours ("#0072B2", "rgb(0, 32, 76)") as #rrggbb."""
    if colour.startswith("rgb"):
        parts = [float(part) for part in colour[colour.index("(") + 1 : -1].split(",")[:3]]
        return "#" + "".join(f"{round(part):02x}" for part in parts)
    return colour.lower()


def solid(colour: object, otherwise: str) -> str:
    """A colour as it is written here; the template's grey, which suits dark paper too, becomes the darker one."""
    if not isinstance(colour, str):
        return otherwise
    if colour.lower() in (INK, GRID):
        return GREY
    return hex_colour(colour) if colour.startswith("rgb(") else colour


def line_colour(trace: Part) -> str:
    return solid(trace.line.color, FIRST)


def entry(value: Part, i: int) -> Part:
    """What holds for point i: an entry of a list, or the one value for all."""
    if isinstance(value, list | tuple | np.ndarray):
        return value[i] if i < len(value) else None
    return value


def hovers_of(trace: Part, count: int) -> list[str]:
    if trace.hoverinfo == "skip":
        return [""] * count
    template = trace.hovertemplate or ""
    if trace.customdata is None or "%{customdata}" not in template:
        return [""] * count
    said = [str(entry(trace.customdata, i)) for i in range(count)]
    before, _, after = template.replace("<extra></extra>", "").partition("%{customdata}")
    if "%{x" in after or "%{y" in after:  # "name: %{x:+.4f} logits"
        values = trace.x if "%{x" in after else trace.y
        form = re.search(r"%\{[xy]:?([^}]*)\}", after)
        assert form is not None
        after = ""
        rest = (trace.hovertemplate or "").replace("<extra></extra>", "").partition("%{customdata}")[2]
        return [
            plain(before + text + rest.replace(form[0], format(number_of(value), form[1])))
            for text, value in zip(said, values, strict=True)
        ]
    return [plain(before + text + after) for text in said]
