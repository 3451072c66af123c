"""The axes of a plotly figure: their ranges, ticks, and where a value lies."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import plotly.graph_objects as go
    from plotly.basedatatypes import BasePlotlyType as Part


@dataclass
class Axis:
    """One axis of one plot: `low` and `high` in its own units (logarithms where it is logarithmic), then in pixels."""

    name: str  # "x", "x2", "y", ...
    layout: Part
    low: float = 0.0
    high: float = 1.0
    reversed: bool = False
    start: float = 0.0
    end: float = 1.0
    ticks: list[tuple[float, str]] = field(default_factory=list)

    @property
    def logarithmic(self) -> bool:
        return bool(self.layout.type == "log")

    def own(self, value: object) -> float:
        number = number_of(value)
        if self.logarithmic:
            return math.log10(number) if number > 0 else math.nan
        return number

    def at(self, own: float) -> float:
        """The pixel of a value in the axis' own units."""
        share = (own - self.low) / ((self.high - self.low) or 1.0)
        return self.start + (1 - share if self.reversed else share) * (self.end - self.start)

    def pixel(self, value: object) -> float:
        return self.at(self.own(value))

    @property
    def labelled(self) -> bool:
        return self.layout.showticklabels is not False


class Axes:
    """All axes of a figure, with their ranges; those that match share one. `numbers`: values for names, as bars have them."""

    def __init__(self, figure: go.Figure) -> None:
        self.figure = figure
        self.all: dict[str, Axis] = {}
        self.names: dict[str, list[str]] = {}
        for trace in figure.data:
            for kind in "xy":
                name = getattr(trace, f"{kind}axis", None) or kind
                self.all.setdefault(name, Axis(name, figure.layout[f"{kind}axis{name[1:]}"]))
        for axis in self.all.values():
            self._name(axis)
        for axis in self.all.values():
            self._range(axis)
        for axis in self.all.values():
            axis.ticks = _ticks(axis, self.names.get(axis.name))

    def of(self, trace: Part) -> tuple[Axis, Axis]:
        return self.all[trace.xaxis or "x"], self.all[trace.yaxis or "y"]

    def values(self, axis: Axis, values: Iterable[object] | None) -> list[float]:
        """Values of a trace in the axis' own units."""
        names = self.names.get(axis.name)
        given = [] if values is None else list(values)
        return [float(names.index(str(v))) if names and str(v) in names else axis.own(v) for v in given]

    def _name(self, axis: Axis) -> None:
        names: list[str] = []
        for trace in self._traces(axis):
            values = getattr(trace, axis.name[0], None)
            for value in () if values is None else values:
                if isinstance(value, str) and value not in names:
                    names.append(value)
        if names:
            self.names[axis.name] = names

    def _traces(self, axis: Axis) -> list[Part]:
        kind = axis.name[0]
        return [t for t in self.figure.data if (getattr(t, f"{kind}axis", None) or kind) == axis.name]

    def _group(self, axis: Axis) -> list[Axis]:
        def root(name: str) -> str:
            matched = self.all[name].layout.matches if name in self.all else None
            return root(matched) if matched and matched != name else name

        return [
            each for each in self.all.values() if each.name[0] == axis.name[0] and root(each.name) == root(axis.name)
        ]

    def _range(self, axis: Axis) -> None:
        layout = axis.layout
        axis.reversed = layout.autorange == "reversed"
        if layout.range is not None:
            low, high = (float(end) for end in layout.range)
            axis.reversed = axis.reversed or low > high
            axis.low, axis.high = min(low, high), max(low, high)
            return
        found: list[float] = []
        padded = True
        for each in self._group(axis):
            for trace in self._traces(each):
                values, tight = self._extent(trace, each)
                found += values
                padded = padded and not tight
        known = [value for value in found if math.isfinite(value)]
        low, high = (min(known), max(known)) if known else (0.0, 1.0)
        room = (0.06 * (high - low) or 0.5) if padded else 0.0
        axis.low, axis.high = low - room, high + room
        if (
            layout.rangemode == "tozero" and not axis.logarithmic
        ):  # as plotly does: 0 is an end, unless values lie on both sides
            axis.low = 0.0 if low >= 0 else axis.low
            axis.high = 0.0 if high <= 0 < high - low else axis.high

    def _extent(self, trace: Part, axis: Axis) -> tuple[list[float], bool]:
        kind = axis.name[0]
        values = self.values(axis, getattr(trace, kind, None))
        if trace.type == "heatmap":
            if not values:
                values = [float(i) for i in range(np.shape(trace.z)[0 if kind == "y" else 1])]
            return [v + d for v in values for d in (-0.5, 0.5)], True
        if trace.type == "bar" and (trace.orientation == "h") == (kind == "y"):
            return [v + d for v in values for d in (-0.5, 0.5)], True
        if trace.type == "bar":
            return [0.0, *values], False
        errors = getattr(trace, f"error_{kind}", None)
        if errors is not None and errors.array is not None:
            above = [v + number_of(e) for v, e in zip(values, errors.array, strict=False)]
            minus = errors.array if errors.arrayminus is None else errors.arrayminus
            return values + above + [v - number_of(e) for v, e in zip(values, minus, strict=False)], False
        return values, False


def _ticks(axis: Axis, names: list[str] | None) -> list[tuple[float, str]]:
    layout = axis.layout
    if layout.tickvals is not None:
        texts = (
            layout.ticktext if layout.ticktext is not None else [plain_number(number_of(v)) for v in layout.tickvals]
        )
        return [(axis.own(v), str(t)) for v, t in zip(layout.tickvals, texts, strict=False)]
    if names:
        return [(float(i), name) for i, name in enumerate(names)]
    if axis.logarithmic:
        return [(float(e), plain_number(10.0**e)) for e in range(math.ceil(axis.low), math.floor(axis.high) + 1)]
    return [(tick, plain_number(tick)) for tick in nice(axis.low, axis.high)]


def nice(low: float, high: float, count: int = 6) -> list[float]:
    """Round numbers from low to high: steps of 1, 2 or 5 times a power of ten, about so many."""
    if not (math.isfinite(low) and math.isfinite(high)) or high <= low:
        return [low] if math.isfinite(low) else []
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(times * power for times in (1, 2, 5, 10) if times * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [
        round((first + i) * step, 12) + 0.0 for i in range(count * 2 + 2) if (first + i) * step <= high + step * 1e-9
    ]


def plain_number(value: float) -> str:
    return f"{value:.6g}".replace("-", "−")


def number_of(value: object) -> float:
    try:
        return math.nan if value is None else float(value)  # type: ignore[arg-type]  # what is no number is told below
    except (TypeError, ValueError):
        return math.nan
