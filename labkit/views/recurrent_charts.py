"""What a model keeps of a text, as plotly pictures of our template: recall by bytes of state, and what length costs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal

from labkit import checks
from labkit.markup import counted
from labkit.results import Result, as_table
from labkit.views.chart import Chart
from labkit.views.kit.plots import (
    GREY,
    INK,
    OKABE_ITO,
    Row,
    below_title,
    check_columns,
    escaped,
    hovers,
    intervals,
    missing,
    template,
    ticks,
    titled,
)

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

RECALL_COLUMNS = ("kind", "pairs", "accuracy", "low", "high", "chance", "among_read", "state_bytes", "seed")
LENGTH_COLUMNS = ("model", "tokens", "state_bytes", "computed_bytes", "read_seconds", "step_seconds")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "x")
MEASURES = {
    "bytes": ("state_bytes", "bytes kept of the text (logarithmic)"),
    "step": ("step_seconds", "seconds for a new token (logarithmic)"),
    "read": ("read_seconds", "seconds for reading the text (logarithmic)"),
}


def recall(
    what: Result | pd.DataFrame,
    *,
    by: Literal["state", "pairs"] | None = None,
    pairs: int | None = None,
    title: str | None = None,
) -> Chart:
    """How much models recall, a line for each kind: by the bytes they keep, or by the number of pairs.

    what: of `lk.recurrent.recall` or `lk.recurrent.recorded_recall`, or rows of it.  by: "state" or "pairs"; by default what
        there is more of.  pairs: with by="state", of how many pairs; the most there are by default.
    A point is a training, with 95 % over sequences (attention of several widths keeps several sizes); lines join the means of
    several seeds. The dashed line is what naming any of the values read would give, the dotted one what naming any value would.
    Returns a Chart, its figure plotly's. Raises BadInput for another table, or a number of pairs that is not in it.
    """
    import plotly.graph_objects as go

    check_columns(what, RECALL_COLUMNS, "lk.recurrent.recall")
    table = as_table(what)
    sizes = table[table["pairs"] == table["pairs"].max()].groupby("kind")["state_bytes"].nunique().max()
    if by is None:
        by = "state" if sizes > 1 else "pairs"
    by = checks.one_of("by", by, ("state", "pairs"))
    shown = table
    if by == "state":
        there = sorted(map(int, table["pairs"].unique()))
        pairs = there[-1] if pairs is None else checks.whole("pairs", pairs)
        if pairs not in there:
            checks.refuse("pairs", pairs, checks.listed(there, "or"))
        shown = table[table["pairs"] == pairs]
    column = "state_bytes" if by == "state" else "pairs"
    figure = go.Figure()
    for number, kind in enumerate(dict.fromkeys(shown["kind"])):
        _kind(figure, shown[shown["kind"] == kind], str(kind), column, number)
    chance = shown.groupby(column)[["among_read", "chance"]].mean().sort_index()
    for name, dash in (("among_read", "dash"), ("chance", "dot")):
        figure.add_scatter(
            x=[float(x) for x in chance.index],
            y=[float(y) for y in chance[name]],
            mode="lines",
            name={"among_read": "any value it has read", "chance": "any value"}[name],
            line={"color": GREY, "dash": dash, "width": 1.5},
            hoverinfo="skip",
        )
    wide = _log_axis("bytes kept of a sequence (logarithmic)", [float(x) for x in shown["state_bytes"]])
    places = sorted(map(int, shown["pairs"].unique()))
    figure.update_layout(
        template=template(),
        title=escaped(title) if title else _recall_sentence(shown, by, pairs),
        height=430,
        margin={"t": 90},
        xaxis=wide if by == "state" else ticks(places) | {"title": titled("pairs read")},
        yaxis={"title": titled("share of the keys answered with their value"), "range": [0, 1.05]},
    )
    return Chart(figure, shown)


def _log_axis(name: str, values: list[float]) -> dict[str, object]:
    """A logarithmic axis with ticks at 1, 2 and 5 times powers of ten."""
    powers = range(math.floor(math.log10(min(values))), math.ceil(math.log10(max(values))) + 1)
    every = [step * 10.0**power for power in powers for step in (1, 2, 5)]
    places = [tick for tick in every if min(values) / 1.5 <= tick <= max(values) * 1.5]
    return {"type": "log"} | ticks(places, [f"{tick:,.15g}" for tick in places]) | {"title": titled(name)}


def _kind(figure: go.Figure, own: pd.DataFrame, kind: str, column: str, number: int) -> None:
    colour, symbol = OKABE_ITO[number % len(OKABE_ITO)], SYMBOLS[number % len(SYMBOLS)]
    rows: list[Row] = own.sort_values(column).to_dict("records")
    low, at, high = ([float(row[name]) for row in rows] for name in ("low", "accuracy", "high"))
    figure.add_scatter(
        x=[float(row[column]) for row in rows],
        y=at,
        mode="markers",
        name=escaped(kind),
        legendgroup=kind,
        marker={"size": 9, "color": colour, "symbol": symbol},
        error_y={**intervals(low, at, high), "color": colour, "thickness": 1.2, "width": 0},
        **hovers([_recall_hover(row) for row in rows]),
    )
    means = own.groupby(column)["accuracy"].mean().sort_index()
    figure.add_scatter(
        x=[float(x) for x in means.index],
        y=[float(y) for y in means],
        mode="lines",
        legendgroup=kind,
        showlegend=False,
        line={"color": colour, "width": 2},
        hoverinfo="skip",
    )


def _recall_hover(row: Row) -> str:
    size = "" if missing(row.get("d_state")) else f", d_state {int(row['d_state'])}"
    wide = "" if missing(row.get("d_model")) else f", d_model {int(row['d_model'])}"
    return (
        f"<b>{escaped(str(row['kind']))}</b>{wide}{size}, seed {int(row['seed'])}<br>{row['accuracy']:.1%} of "
        f"{int(row['pairs'])} pairs ({row['low']:.1%} to {row['high']:.1%})<br>{int(row['state_bytes']):,} bytes kept"
    )


def _recall_sentence(shown: pd.DataFrame, by: str, pairs: int | None) -> str:
    note = below_title("bars: 95 %, each sequence counted as one answer")
    if by == "pairs":
        most = shown[shown["pairs"] == shown["pairs"].max()]
        said = ", ".join(f"{escaped(str(kind))} {_by_size(own)}" for kind, own in most.groupby("kind", sort=False))
        return f"Of {int(shown['pairs'].max())} pairs recalled: {said}{note}"
    own = shown[shown["kind"] == "state space"]
    own = own if len(own) else shown
    means = own.groupby("state_bytes")["accuracy"].mean().sort_index()
    least, most = int(means.index[0]), int(means.index[-1])
    kind = escaped(str(own["kind"].iloc[0]).capitalize())
    if least == most:
        return f"{kind} recalls {means.iloc[0]:.0%} of {pairs} pairs with {counted(least, 'byte')}{note}"
    return (
        f"{kind} recalls {means.iloc[0]:.0%} of {pairs} pairs with {least:,} bytes, {means.iloc[-1]:.0%} with {most:,}"
        f"{_attention_beside(shown)}{note}"
    )


def _by_size(own: pd.DataFrame) -> str:
    """The share recalled; of several sizes, from the worst to the best: their mean says nothing about any."""
    means = own.groupby("state_bytes")["accuracy"].mean()
    low, high = f"{means.min():.0%}", f"{means.max():.0%}"
    return low if low == high else f"{low} to {high} by its size"


def _attention_beside(shown: pd.DataFrame) -> str:
    own = shown[shown["kind"] == "attention"]
    return f"; attention {_by_size(own).removesuffix(' by its size')}" if len(own) and len(own) < len(shown) else ""


def lengths(
    what: Result | pd.DataFrame, *, measure: Literal["bytes", "step", "read"] = "bytes", title: str | None = None
) -> Chart:
    """What a text costs by its length, a line for each model: bytes kept, seconds a new token, or seconds of reading.

    what: of `lk.recurrent.length_costs`, or rows of it.  measure: with "bytes", what `lk.memory` computes is dashed.
    Both axes are logarithmic. Returns a Chart, its figure plotly's. Raises BadInput for another table or measure.
    """
    import plotly.graph_objects as go

    check_columns(what, LENGTH_COLUMNS, "lk.recurrent.length_costs")
    measure = checks.one_of("measure", measure, ("bytes", "step", "read"))
    column, unit = MEASURES[measure]
    table = as_table(what)
    figure = go.Figure()
    for number, name in enumerate(dict.fromkeys(table["model"])):
        rows: list[Row] = table[table["model"] == name].sort_values("tokens").to_dict("records")
        colour = OKABE_ITO[number % len(OKABE_ITO)]
        x = [int(row["tokens"]) for row in rows]
        figure.add_scatter(
            x=x,
            y=[float(row[column]) for row in rows],
            mode="lines+markers",
            name=escaped(str(name)),
            line={"color": colour, "width": 2},
            marker={"size": 8, "symbol": SYMBOLS[number % len(SYMBOLS)], "color": colour},
            **hovers([_length_hover(row) for row in rows]),
        )
        known = [(int(row["tokens"]), int(row["computed_bytes"])) for row in rows if not missing(row["computed_bytes"])]
        if measure == "bytes" and known:
            figure.add_scatter(
                x=[tokens for tokens, _ in known],
                y=[size for _, size in known],
                mode="lines",
                name="computed by lk.memory",
                legendgroup="computed",
                showlegend=number == 0,
                line={"color": INK, "width": 1, "dash": "dash"},
                hoverinfo="skip",
            )
    figure.update_layout(
        template=template(),
        title=escaped(title) if title else _length_sentence(table, column, measure),
        height=420,
        margin={"t": 90},
        xaxis=_log_axis("tokens read (logarithmic)", [float(x) for x in table["tokens"]]),
        yaxis=_log_axis(unit, [float(value) for value in table[column] if value > 0] or [1.0]) | {"showgrid": True},
    )
    return Chart(figure, table)


def _length_hover(row: Row) -> str:
    return (
        f"<b>{escaped(str(row['model']))}</b>, {int(row['tokens']):,} tokens<br>{int(row['state_bytes']):,} bytes kept<br>"
        f"{row['read_seconds']:.3g} s to read, {1e3 * row['step_seconds']:.3g} ms a new token"
    )


def _length_sentence(table: pd.DataFrame, column: str, measure: str) -> str:
    first, last = int(table["tokens"].min()), int(table["tokens"].max())
    ends = table.pivot_table(index="model", columns="tokens", values=column, sort=False)
    what = {"bytes": "Bytes kept", "step": "Time of a new token", "read": "Time of reading"}[measure]
    if first == last:
        return f"{what} at {counted(last, 'token')}"
    more = "as many" if measure == "bytes" else "as long"
    grows = (ends[last] / ends[first]).dropna()
    said = ", ".join(
        f"{escaped(str(name))} " + ("the same" if round(times, 2) == 1 else f"{times:.2g} times {more}")
        for name, times in grows.items()
        if math.isfinite(times)
    )
    return f"{what} at {last:,} tokens, beside {first:,}" + below_title(said)
