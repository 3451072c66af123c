"""The one look of labkit's plotly charts: quiet, readable on light and dark, colours that survive colour blindness; and how
they write their texts."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias

from labkit.errors import BadInput
from labkit.markup import visible

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

    from labkit.results import Result

Row: TypeAlias = dict[Any, Any]
"""A row of a table, as `DataFrame.to_dict("records")` gives it: values by the names of the columns."""

# Okabe and Ito (2008): eight colours told apart with any common colour vision; black is left to the text
OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
INK = "#7a7a7a"  # a grey that reads on white and on near-black alike: a chart can't ask which theme it is in
GRID = "rgba(128,128,128,0.25)"
GREY = "#8a8a8a"  # of what is nobody's choice, such as what was drawn at random
# blue against orange-red is told apart with any common colour vision; the middle is nearly white
DIVERGING = [[0.0, OKABE_ITO[0]], [0.5, "#f7f7f7"], [1.0, OKABE_ITO[5]]]
_SIGNS = {" ": "·", "\n": "↵", "\t": "⇥", "\r": "␍"}


@cache
def template() -> go.layout.Template:
    """The plotly template: no background of its own, so that the notebook's shows through."""
    import plotly.graph_objects as go

    axis = {"gridcolor": GRID, "zerolinecolor": GRID, "linecolor": GRID, "ticks": "", "automargin": True}
    return go.layout.Template(
        layout={
            "font": {"family": "system-ui, -apple-system, 'Segoe UI', sans-serif", "size": 13, "color": INK},
            "title": {"x": 0, "xanchor": "left", "xref": "paper", "font": {"size": 15}},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "colorway": OKABE_ITO,
            "xaxis": axis,
            "yaxis": axis,
            "legend": {"orientation": "h", "y": -0.16, "x": 0, "xanchor": "left", "yanchor": "top"},
            "margin": {"l": 10, "r": 20, "t": 60, "b": 50},
            "bargap": 0.35,
        }
    )


def check_columns(frame: Result | pd.DataFrame, columns: Collection[str], source: str) -> None:
    """Raises BadInput where a frame has no rows, or not the columns of what `source` returns."""
    if not set(columns) <= set(getattr(frame, "columns", ())) or not len(frame):
        raise BadInput(f"There is nothing to draw; give what {source} returned.")


def escaped(text: str) -> str:
    """Text as plotly shows it: it reads a little HTML in its texts, and formulas between dollars."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("$", "&#36;")


def token_text(token: str, longest: int = 60) -> str:
    """A token, escaped and not too long, with signs for its spaces and line breaks: labels of spaces look like nothing."""
    text = token if len(token) <= longest else token[: longest - 1] + "…"
    return escaped("".join(_SIGNS.get(character, character) for character in text))


def signed(value: float, digits: int = 2) -> str:
    """A number with its sign, a true minus."""
    return f"{value:+.{digits}f}".replace("-", "−")


def hovers(texts: object) -> dict[str, object]:
    """What is said of each point or cell where it is pointed at, and nothing else: settings of a trace."""
    return {"customdata": texts, "hovertemplate": "%{customdata}<extra></extra>"}


def cells(values: object, texts: object, *, reach: float | None = None, **looks: object) -> go.Heatmap:
    """A heat map with thin gaps between its cells, empty where there is no value. texts: what is said of each cell; reach: the
    largest value of a scale whose middle is 0."""
    import plotly.graph_objects as go

    scale = {} if reach is None else {"colorscale": DIVERGING, "zmin": -reach, "zmax": reach, "zmid": 0}
    return go.Heatmap(z=values, hoverongaps=False, xgap=1, ygap=1, **hovers(texts), **(scale | looks))


def curves(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    x: str,
    y: str,
    bars: bool = False,
    dashes: Sequence[str] = (),
    **looks: object,
) -> go.Figure:
    """A small figure of named lines, or of bars. x, y: what the axes show; dashes: of the lines, in their order, their points
    then marked; looks: settings of the layout."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for i, (name, (xs, ys)) in enumerate(lines.items()):
        colour, given = OKABE_ITO[i % len(OKABE_ITO)], {"x": xs, "y": ys, "name": escaped(visible(name))}
        if bars:
            figure.add_bar(**given, marker_color=colour)
        else:
            line = {"color": colour, "dash": dashes[i] if dashes else "solid"}
            figure.add_scatter(**given, mode="lines+markers" if dashes else "lines", line=line, marker_color=colour)
    axes = {"xaxis_title": escaped(visible(x)), "xaxis_showgrid": False, "yaxis_title": escaped(visible(y))}
    margin = {"t": 20, "b": 40}
    figure.update_layout(template=template(), height=330, margin=margin, showlegend=len(lines) > 1, **axes, **looks)
    return figure


def ticks(
    places: Sequence[object], names: Sequence[object] | None = None, *, most: int | None = None
) -> dict[str, object]:
    """An axis without a grid whose ticks are named; with more than `most`, every n-th."""
    every = 1 if most is None else max(1, math.ceil(len(places) / most))
    named = {} if names is None else {"ticktext": list(names[::every])}
    return {"tickvals": list(places[::every]), **named, "showgrid": False, "zeroline": False}


def intervals(low: Sequence[float], at: Sequence[float], high: Sequence[float]) -> dict[str, object]:
    """Error bars of points, none where an end is not known."""
    return {
        "array": [interval_reach(top, y) for top, y in zip(high, at, strict=True)],
        "arrayminus": [interval_reach(y, bottom) for y, bottom in zip(at, low, strict=True)],
    }


def band(
    x: Sequence[float], low: Sequence[float], high: Sequence[float], colour: str, group: str, opacity: float = 0.18
) -> go.Scatter:
    """The intervals along a line as a surface of its colour (#rrggbb). group: of the legend, that of the line."""
    import plotly.graph_objects as go

    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return go.Scatter(
        x=[*x, *reversed(x)],
        y=[*low, *reversed(high)],
        fill="toself",
        fillcolor=f"rgba({red},{green},{blue},{opacity})",
        line={"width": 0},
        mode="lines",
        hoverinfo="skip",
        legendgroup=group,
        showlegend=False,
    )


def at_the_left(figure: go.Figure, count: int | None = None, **font: object) -> None:
    """What a part of the picture shows stands above it at the left, as labels do."""
    for annotation in (figure.layout.annotations or ())[:count]:
        annotation.update(x=0, xanchor="left", font=font)


def titled(text: str) -> dict[str, object]:
    """An axis' title."""
    return {"text": text, "font": {"size": 13}}


def below_title(text: str) -> str:
    """A smaller line below a chart's title."""
    return f"<br><span style='font-size:12px'>{text}</span>"


def interval_reach(high: float, low: float) -> float:
    """How far an interval reaches beyond its point, 0 where that is not known."""
    return max(0.0, high - low) if math.isfinite(high - low) else 0.0


def missing(value: object) -> bool:
    """Whether a cell of a table holds nothing: None, NA or NaN."""
    import pandas as pd

    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))
