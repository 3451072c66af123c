"""plotly's figures as pictures, without a browser: what labkit's charts use of plotly, and no more.

Bars, scatters (lines, points, texts, error bars, filled bands), heat maps, several plots below or beside each other, key,
colour scale, annotations and lines. A figure with anything else is refused.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from labkit.errors import Unavailable
from labkit.views.drawing.figure_axes import Axes, Axis, number_of
from labkit.views.drawing.figure_marks import (
    DASHES,
    FIRST,
    GREY,
    coloured,
    entries_of,
    entry,
    hovers_of,
    line_colour,
    marker,
    packed,
    scale_of,
    scale_stops,
    sign,
    solid,
)
from labkit.views.drawing.figure_texts import BODY, SMALL, height_of, lines_of, plain, width_of, written
from labkit.views.drawing.scene import (
    LINE,
    Anchor,
    Box,
    Path,
    Picture,
    Point,
    Raster,
    Words,
    fitted,
    readable_on,
)

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from plotly.basedatatypes import BasePlotlyType as Part

FAINT = "#d4d9de"
WIDTH = 760.0
MOST_TEXTS = 1_500  # written into the cells of a heat map


def drawn(figure: go.Figure) -> Picture:
    """The figure as it stands now. Raises Unavailable where it has a kind of trace that is not drawn here."""
    if unknown := sorted({trace.type for trace in figure.data} - {"bar", "scatter", "heatmap"}):
        raise Unavailable(
            f"A figure with a trace of kind {unknown[0]!r} is drawn by plotly alone; "
            "its own write_html and, with kaleido, write_image write it."
        )
    return _Drawing(figure).picture


class _Drawing:
    def __init__(self, figure: go.Figure) -> None:
        self.figure, layout = figure, figure.layout
        self.axes = Axes(figure)
        title = layout.title.text
        margin = layout.margin
        self.scale = scale_of(figure)
        self.left = max([24.0, *(self._room_left(axis) for axis in self.axes.all.values())])
        self.right = 24.0 + (self._room_scale() if self.scale else 0.0)
        width = float(layout.width or WIDTH)
        above = [16.0, *(height_of(a.text, a.font.size or BODY) for a in layout.annotations or ())]
        self.top = height_of(title, 15.0) + 22 + max([*above, height_of(self.scale.title, 12.0) if self.scale else 0.0])
        entries = entries_of(figure)
        heading = layout.legend.title.text if layout.showlegend is not False and entries else ""
        self.key = packed(entries, heading or "", width - self.left - 12)
        below = self._room_below()
        wanted = float(margin.b if margin.b is not None else 50)
        height = float(layout.height or 450)
        inner = height - float(margin.t if margin.t is not None else 60) - wanted
        bottom = below + 20.0 * len(self.key) + 12
        self.picture = Picture(width, math.ceil(self.top + inner + bottom), plain(title))
        self.inner = (self.left, self.top, width - self.right, self.top + inner)
        for axis in self.axes.all.values():
            self._place(axis)
        self.add = self.picture.add
        self._papers()
        for trace in figure.data:
            self._trace(trace)
        self._lines()
        self._axes()
        for annotation in layout.annotations or ():
            self._annotation(annotation)
        self.add(*written(title, 12.0, 8.0, 15.0, "#1b1f24"))
        if self.scale:
            self._colour_scale()
        self._legend(self.top + inner + below)

    # room and places

    def _room_left(self, axis: Axis) -> float:
        if axis.name[0] != "y" or (axis.layout.domain and self._column(axis) > 0.01):
            return 0.0
        labels = max((width_of(text, SMALL) for _, text in axis.ticks), default=0.0) if axis.labelled else 0.0
        return labels + 18 + (height_of(axis.layout.title.text, BODY) + 4 if axis.layout.title.text else 0)

    def _column(self, axis: Axis) -> float:
        anchor = axis.layout.anchor
        other = self.axes.all.get(anchor) if anchor else None
        return float(other.layout.domain[0]) if other is not None and other.layout.domain else 0.0

    def _room_scale(self) -> float:
        assert self.scale is not None
        labels = max(width_of(text, SMALL) for _, text in self.scale.ticks)
        return max(20 + labels + 22, width_of(self.scale.title, 12.0) + 16)

    def _room_below(self) -> float:
        most = 12.0
        for axis in self.axes.all.values():
            if axis.name[0] != "x" or (axis.layout.domain and self._row(axis) > 0.01):
                continue
            title = height_of(axis.layout.title.text, BODY)
            most = max(most, self._label_height(axis) + (title + 6 if title else 0) + 8)
        return most

    def _row(self, axis: Axis) -> float:
        anchor = axis.layout.anchor
        other = self.axes.all.get(anchor) if anchor else None
        return float(other.layout.domain[0]) if other is not None and other.layout.domain else 0.0

    def _label_height(self, axis: Axis) -> float:
        if not axis.labelled:
            return 4.0
        widest = max((width_of(text, SMALL) for _, text in axis.ticks), default=0.0)
        angle = self._angle(axis)
        return 14 + (abs(math.sin(math.radians(angle))) * widest if angle else 6)

    def _angle(self, axis: Axis) -> float:
        """How labels are turned: as told, or where they would run into each other."""
        if axis.layout.tickangle is not None:
            return float(axis.layout.tickangle)
        widths = [width_of(text, SMALL) for _, text in axis.ticks]
        room = abs(axis.end - axis.start) or WIDTH - 120
        return -45.0 if len(widths) > 1 and sum(widths) + 8 * len(widths) > room * 1.02 else 0.0

    def _place(self, axis: Axis) -> None:
        left, top, right, bottom = self.inner
        low, high = axis.layout.domain or (0.0, 1.0)
        if axis.name[0] == "x":
            axis.start, axis.end = left + low * (right - left), left + high * (right - left)
        else:
            axis.start, axis.end = bottom - low * (bottom - top), bottom - high * (bottom - top)

    def _pairs(self) -> list[tuple[Axis, Axis]]:
        pairs = {((t.xaxis or "x"), (t.yaxis or "y")): self.axes.of(t) for t in self.figure.data}
        return list(pairs.values())

    # what is drawn

    def _papers(self) -> None:
        for x, y in self._pairs():
            for axis, other in ((x, y), (y, x)):
                if axis.layout.showgrid is False:
                    continue
                for tick, _ in axis.ticks:
                    if axis.low - 1e-9 <= tick <= axis.high + 1e-9:
                        self.add(_across(axis, other, axis.at(tick), LINE, 1.0))
            for axis, other in ((x, y), (y, x)):
                wanted = axis.layout.zeroline or (axis.layout.zeroline is None and axis.layout.showgrid is not False)
                named = axis.logarithmic or axis.name in self.axes.names
                if wanted and not named and axis.low < 0 < axis.high:
                    colour = GREY if axis.layout.zerolinecolor else FAINT
                    self.add(_across(axis, other, axis.at(0.0), colour, 1.0))

    def _trace(self, trace: Part) -> None:
        if trace.visible in (False, "legendonly"):
            return
        x, y = self.axes.of(trace)
        if trace.type == "heatmap":
            self._heat_map(trace, x, y)
        elif trace.type == "bar":
            self._bars(trace, x, y)
        else:
            self._scatter(trace, x, y)

    def _bars(self, trace: Part, x: Axis, y: Axis) -> None:
        along, across = (x, y) if trace.orientation == "h" else (y, x)
        lengths = self.axes.values(along, getattr(trace, along.name[0]))
        places = self.axes.values(across, getattr(trace, across.name[0]))
        bases = self._bases(trace, along, across, places)
        step = abs(across.at(1) - across.at(0))
        wide = step * (1 - float(self.figure.layout.bargap if self.figure.layout.bargap is not None else 0.35))
        beside = [t for t in self.figure.data if t.type == "bar" and self.axes.of(t) == (x, y)]
        first = 0.0
        if self.figure.layout.barmode != "stack" and len(beside) > 1:  # several stand beside each other
            wide /= len(beside)
            first = (beside.index(trace) - (len(beside) - 1) / 2) * wide
        hovers = hovers_of(trace, len(places))
        for i, (place, length, base) in enumerate(zip(places, lengths, bases, strict=True)):
            if not (math.isfinite(place) and math.isfinite(length)):
                continue
            ends = sorted((along.at(base), along.at(base + length)))
            at = across.at(place) + first - wide / 2
            box = (ends[0], at, ends[1] - ends[0], wide) if along is x else (at, ends[0], wide, ends[1] - ends[0])
            self.add(Box(*box, entry(trace.marker.color, i) or FIRST, hover=hovers[i]))
            if trace.text is not None and trace.textposition == "outside":
                beyond = along.at(base + length)
                self._beside(str(entry(trace.text, i)), along is x, beyond, across.at(place), length < 0)

    def _beside(self, text: str, lying: bool, beyond: float, place: float, negative: bool) -> None:
        if lying:
            self.add(
                Words(beyond + (-5 if negative else 5), place + 4, text, SMALL, GREY, "end" if negative else "start")
            )
        else:
            self.add(Words(place, beyond + (14 if negative else -5), text, SMALL, GREY, "middle"))

    def _bases(self, trace: Part, along: Axis, across: Axis, places: Sequence[float]) -> list[float]:
        """Where each bar begins: on those before it, where bars are stacked."""
        bases = [0.0] * len(places)
        if self.figure.layout.barmode != "stack":
            return bases
        for earlier in self.figure.data:
            if earlier is trace:
                break
            if earlier.type != "bar" or self.axes.of(earlier) != self.axes.of(trace):
                continue
            lengths = self.axes.values(along, getattr(earlier, along.name[0]))
            found = dict(zip(self.axes.values(across, getattr(earlier, across.name[0])), lengths, strict=True))
            bases = [base + found.get(place, 0.0) for base, place in zip(bases, places, strict=True)]
        return bases

    def _scatter(self, trace: Part, x: Axis, y: Axis) -> None:
        xs = [x.at(v) for v in self.axes.values(x, trace.x)]
        ys = [y.at(v) for v in self.axes.values(y, trace.y)]
        points: tuple[Point, ...] = tuple(zip(xs, ys, strict=False))
        mode = trace.mode or "lines"
        if trace.fill == "toself" and len(points) > 2:
            self.add(Path(points, fill=trace.fillcolor or "#cccccc", closed=True))
        if "lines" in mode and (trace.line.width is None or trace.line.width > 0):
            self.add(
                Path(points, line_colour(trace), float(trace.line.width or 2), DASHES.get(trace.line.dash or "", ()))
            )
        hovers = hovers_of(trace, len(points))
        across, along = trace.error_x, trace.error_y
        for i, (px, py) in enumerate(points):
            if not (math.isfinite(px) and math.isfinite(py)):
                continue
            if along is not None and along.array is not None:
                low, high = (y.at(end) for end in _ends(along, i, y.own(trace.y[i])))
                self.add(
                    Path(((px, low), (px, high)), along.color or line_colour(trace), float(along.thickness or 1.5))
                )
            if across is not None and across.array is not None:
                low, high = (x.at(end) for end in _ends(across, i, x.own(trace.x[i])))
                self.add(
                    Path(((low, py), (high, py)), across.color or line_colour(trace), float(across.thickness or 1.5))
                )
            if "markers" in mode:
                self.add(*marker(trace.marker, i, px, py, line_colour(trace), hovers[i]))
            if "text" in mode and trace.text is not None:
                colour = solid(trace.textfont.color, GREY)
                where = str(entry(trace.textposition, i) or "")
                anchor: Anchor = "start" if "right" in where else "end" if "left" in where else "middle"
                aside = 9 if "markers" in trace.mode else 0  # past the marker
                place = px + (aside if anchor == "start" else -aside if anchor == "end" else 0)
                self.add(Words(place, py + 4, plain(entry(trace.text, i)), SMALL + 1, colour, anchor))

    def _heat_map(self, trace: Part, x: Axis, y: Axis) -> None:
        z = np.array([[number_of(v) for v in row] for row in trace.z], dtype=float)
        if not z.size:
            return
        xs = self.axes.values(x, trace.x) or [float(i) for i in range(z.shape[1])]
        ys = self.axes.values(y, trace.y) or [float(i) for i in range(z.shape[0])]
        stops, low, high = scale_stops(trace, self.figure)
        opacity = float(trace.opacity if trace.opacity is not None else 1.0)
        colours = [[None if math.isnan(v) else coloured(stops, low, high, float(v)) for v in row] for row in z]
        # (rows, columns, 4), in the order of the page
        order_y = sorted(range(len(ys)), key=lambda i: y.at(ys[i]))
        order_x = sorted(range(len(xs)), key=lambda i: x.at(xs[i]))
        pixels = np.zeros((len(ys), len(xs), 4), np.uint8)
        for row, i in enumerate(order_y):
            for column, j in enumerate(order_x):
                colour = colours[i][j]
                if colour is not None:
                    pixels[row, column] = (*(int(colour[k : k + 2], 16) for k in (1, 3, 5)), round(255 * opacity))
        step_x, step_y = abs(x.at(1) - x.at(0)), abs(y.at(1) - y.at(0))
        left, top = min(x.at(v) for v in xs) - step_x / 2, min(y.at(v) for v in ys) - step_y / 2
        width, height = step_x * span(xs), step_y * span(ys)
        if (width, height) == (step_x * len(xs), step_y * len(ys)):
            self.add(Raster(left, top, width, height, pixels))
        else:  # rows or columns were left out: each cell stands for itself
            for row, i in enumerate(order_y):
                for column, j in enumerate(order_x):
                    at = (x.at(xs[j]) - step_x / 2, y.at(ys[i]) - step_y / 2, step_x, step_y)
                    self.add(Raster(*at, pixels[row : row + 1, column : column + 1]))
        if step_x >= 5 and step_y >= 5:  # gaps between cells
            paper = self.picture.paper
            for j in range(1, len(xs)):
                self.add(Path(((left + j * step_x, top), (left + j * step_x, top + height)), paper, 1.0))
            for i in range(1, len(ys)):
                self.add(Path(((left, top + i * step_y), (left + width, top + i * step_y)), paper, 1.0))
        self._cells(trace, colours, [x.at(v) for v in xs], [y.at(v) for v in ys], (step_x, step_y))

    def _cells(
        self, trace: Part, colours: list[list[str | None]], xs: list[float], ys: list[float], step: tuple[float, float]
    ) -> None:
        """What is written into the cells, and said of them."""
        texts = trace.text if trace.text is not None and trace.texttemplate else None
        many = len(xs) * len(ys) > MOST_TEXTS
        said = trace.customdata if trace.customdata is not None else (trace.text if not trace.texttemplate else None)
        for i, py in enumerate(ys):
            for j, px in enumerate(xs):
                colour = colours[i][j]
                if said is not None and str(said[i][j]) and colour is not None:
                    at = (px - step[0] / 2, py - step[1] / 2, *step)
                    self.picture.shapes.append(Box(*at, "#ffffff", 0.0, plain(said[i][j])))
                if texts is not None and not many and colour is not None and (text := plain(texts[i][j])):
                    shown = fitted(text, step[0] - 3, SMALL)
                    self.add(Words(px, py + 4, shown, SMALL, readable_on(colour), "middle"))

    def _lines(self) -> None:
        for shape in self.figure.layout.shapes or ():
            if shape.type != "line":
                continue
            points = []
            for px, py in ((shape.x0, shape.y0), (shape.x1, shape.y1)):
                at = (
                    self._coordinate(px, shape.xref, "x", value=True),
                    self._coordinate(py, shape.yref, "y", value=True),
                )
                points.append(at)
            dash = DASHES.get(shape.line.dash or "", ())
            self.add(Path(tuple(points), solid(shape.line.color, GREY), float(shape.line.width or 2), dash))

    def _coordinate(self, given: object, reference: str | None, kind: str, *, value: bool = False) -> float:
        """value: on a logarithmic axis a shape's place is given as a value, an annotation's as its logarithm."""
        left, top, right, bottom = self.inner
        reference = reference or kind
        name = reference.removesuffix(" domain")
        if reference == "paper" or reference.endswith(" domain") or name not in self.axes.all:
            axis = self.axes.all.get(name)
            start, end = (axis.start, axis.end) if axis else ((left, right) if kind == "x" else (bottom, top))
            return start + number_of(given) * (end - start)
        axis = self.axes.all[name]
        return axis.pixel(given) if value else axis.at(number_of(given))

    def _annotation(self, annotation: Part) -> None:
        px = self._coordinate(annotation.x, annotation.xref, "x")
        py = self._coordinate(annotation.y, annotation.yref, "y") - float(annotation.yshift or 0)
        size = min(float(annotation.font.size or BODY), 15.0)
        anchor: Anchor = {"left": "start", "right": "end"}.get(annotation.xanchor or "", "middle")  # type: ignore[assignment]
        colour = solid(annotation.font.color, GREY)
        high = height_of(annotation.text, size)
        top = {"bottom": py - high - 2, "top": py + 2}.get(annotation.yanchor or "", py - high / 2)
        self.add(*written(annotation.text, px, top, size, colour, anchor))

    def _axes(self) -> None:
        for x, y in self._pairs():
            self._labels_below(x, y)
            self._labels_left(x, y)

    def _labels_below(self, axis: Axis, other: Axis) -> None:
        bottom = max(other.start, other.end)
        angle = self._angle(axis)
        size = float(axis.layout.tickfont.size or SMALL)
        for tick, text in axis.ticks if axis.labelled else ():
            if not axis.low - 1e-9 <= tick <= axis.high + 1e-9:
                continue
            px = axis.at(tick)
            if angle:
                anchor: Anchor = "end" if angle < 0 else "start"
                self.add(Words(px + 4, bottom + 13, plain(text), min(size, SMALL), GREY, anchor, angle=angle))
            else:
                self.add(*written(text, px, bottom + 3, min(size, SMALL), GREY, "middle"))
        if axis.layout.title.text:
            middle = (axis.start + axis.end) / 2
            below = bottom + self._label_height(axis) + 4
            self.add(*written(axis.layout.title.text, middle, below, BODY - 1, GREY, "middle"))

    def _labels_left(self, other: Axis, axis: Axis) -> None:
        left = min(other.start, other.end)
        widest = 0.0
        for tick, text in axis.ticks if axis.labelled else ():
            if axis.low - 1e-9 <= tick <= axis.high + 1e-9:
                widest = max(widest, width_of(text, SMALL))
                self.add(*written(text, left - 7, axis.at(tick) - 8.2, SMALL, GREY, "end"))
        if axis.layout.title.text:
            px = left - widest - 16
            middle = (axis.start + axis.end) / 2
            for line in reversed(lines_of(axis.layout.title.text, BODY - 1)):
                said = "".join(run.text for run in line)
                self.add(Words(px, middle, said, BODY - 1, GREY, "middle", angle=-90))
                px -= 16

    def _colour_scale(self) -> None:
        assert self.scale is not None
        _, top, right, bottom = self.inner
        scale, x = self.scale, right + 18
        high = min(bottom - top, 320.0)
        said = height_of(scale.title, 12.0)
        self.add(*written(scale.title, x, max(2.0, top - said - 8), 12.0, GREY))
        steps = 64
        shades = np.zeros((steps, 1, 4), np.uint8)
        for i in range(steps):
            colour = coloured(scale.stops, 0.0, 1.0, 1 - i / (steps - 1))
            shades[i, 0] = (*(int(colour[k : k + 2], 16) for k in (1, 3, 5)), 255)
        self.add(Raster(x, top, 14, high, shades))
        for value, text in scale.ticks:
            share = (value - scale.low) / ((scale.high - scale.low) or 1.0)
            self.add(*written(text, x + 19, top + (1 - share) * high - 8.2, SMALL, GREY))

    def _legend(self, top: float) -> None:
        for i, line in enumerate(self.key):
            y = top + 20.0 * i + 10
            for x, each in line:
                if isinstance(each, str):
                    self.add(Words(x, y + 4, each, 12.0, GREY))
                    continue
                self.add(*sign(each, x, y), Words(x + 28, y + 4, plain(each.name), 12.0, GREY))


def _ends(bars: Part, number: int, at: float) -> tuple[float, float]:
    """Where the interval of a point begins and ends."""
    minus = bars.array if bars.arrayminus is None else bars.arrayminus
    return at - number_of(minus[number]), at + number_of(bars.array[number])


def _across(axis: Axis, other: Axis, at: float, colour: str, width: float) -> Path:
    ends = ((at, other.start), (at, other.end)) if axis.name[0] == "x" else ((other.start, at), (other.end, at))
    return Path(ends, colour, width)


def span(values: Sequence[float]) -> float:
    return max(values) - min(values) + 1
