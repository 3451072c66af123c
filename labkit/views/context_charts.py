"""Long contexts as plotly figures of our template: loss by position, needles by length and depth, attention over distance, the
rotation by frequency, and what a window costs."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from labkit.errors import BadInput
from labkit.models.memory import human_bytes
from labkit.results import as_table
from labkit.views.chart import Chart
from labkit.views.kit.plots import (
    GREY,
    INK,
    OKABE_ITO,
    Row,
    band,
    below_title,
    cells,
    check_columns,
    escaped,
    hovers,
    intervals,
    signed,
    template,
    titled,
)

if TYPE_CHECKING:
    import pandas as pd

    from labkit.context import AttentionOverDistance, LossByPosition, Needles, Rotation, Streaming

LOSS_COLUMNS = ("kind", "position_from", "position_to", "loss", "low", "high", "change", "unigram")
NEEDLE_COLUMNS = ("length", "depth", "found", "low", "high", "rank", "trials")
DISTANCE_COLUMNS = ("layer", "head", "distance_from", "distance_to", "share", "even")
ROTATION_COLUMNS = ("pair", "wavelength", "turns", "query_size", "key_size", "weight")
WINDOW_COLUMNS = ("kept", "loss", "low", "high", "change", "cache_bytes", "tokens_kept")
MOST_HEADS = 8  # drawn as lines of their own


def loss_by_position(what: LossByPosition | pd.DataFrame, *, title: str | None = None) -> Chart:
    """Loss by position, a line for each way of stretching, with 95 %, and the unigram loss in grey.

    what: of `lk.context.loss_by_position` or `recorded`. Beside "default" each way has bars: 95 % of its difference to it,
        document by document, which is far surer than either loss. A way alone, or none to compare with, has bands of its loss.
    The unigram loss is a line where it lies near the others, and a number below the title where it would press them flat. A
    dashed line stands at the trained length where that is known.  title: by default a sentence about the last stretch.
    Returns a Chart; raises BadInput for another table.
    """
    import plotly.graph_objects as go

    check_columns(what, LOSS_COLUMNS, "lk.context.loss_by_position")
    table = as_table(what)
    figure = go.Figure()
    compared = {"change_low", "change_high"} <= set(table) and "default" in set(table["kind"])
    compared = compared and table["kind"].nunique() > 1
    for number, kind in enumerate(dict.fromkeys(table["kind"])):
        own: list[Row] = table[table["kind"] == kind].sort_values("position_from").to_dict("records")
        x, colour, name = [_middle(row) for row in own], OKABE_ITO[number % len(OKABE_ITO)], escaped(str(kind))
        bars = {}
        if compared and kind != "default":
            low, at, high = ([row[end] for row in own] for end in ("change_low", "change", "change_high"))
            bars = {"error_y": {**intervals(low, at, high), "color": colour, "thickness": 1.2, "width": 0}}
        elif not compared and all(math.isfinite(row["low"] + row["high"]) for row in own):
            figure.add_trace(band(x, [row["low"] for row in own], [row["high"] for row in own], colour, name))
        figure.add_scatter(
            x=x,
            y=[row["loss"] for row in own],
            mode="lines+markers",
            name=name,
            legendgroup=name,
            line={"color": colour, "width": 2},
            **bars,
            **hovers([_loss_hover(name, row) for row in own]),
        )
    one: list[Row] = table[table["kind"] == table["kind"].iloc[0]].sort_values("position_from").to_dict("records")
    if near := _unigram_near(table):
        figure.add_scatter(
            x=[_middle(row) for row in one],
            y=[row["unigram"] for row in one],
            mode="lines",
            name="unigram",
            line={"color": GREY, "dash": "dot"},
            **hovers([f"unigram: <b>{row['unigram']:.3f}</b> nats" for row in one]),
        )
    trained = getattr(what, "trained", None)
    if trained is not None:
        figure.add_vline(x=trained, line={"color": INK, "dash": "dash"})
    figure.update_layout(
        template=template(),
        title=(escaped(title) if title else _loss_sentence(table)) + _loss_note(table, trained, compared, near),
        height=430,
        margin={"t": 100},
        xaxis={
            "title": titled("position of the predicted token"),
            "range": [0, float(table["position_to"].max()) + 1],
        },
        yaxis={"title": titled("loss, nats a token")},
    )
    return Chart(figure, table)


def _middle(row: Row) -> float:
    return float(row["position_from"] + row["position_to"] + 1) / 2


def _loss_hover(name: str, row: Row) -> str:
    change = f"<br>{signed(row['change'], 3)} beside default" if math.isfinite(row["change"]) else ""
    low, high = row.get("change_low", math.nan), row.get("change_high", math.nan)
    change += f" ({signed(low, 3)} to {signed(high, 3)})" if change and math.isfinite(low + high) else ""
    between = f" ({row['low']:.3f} to {row['high']:.3f})" if math.isfinite(row["low"] + row["high"]) else ""
    where = f"positions {row['position_from']:,} to {row['position_to']:,}"
    return f"{name}, {where}<br><b>{row['loss']:.3f}</b> nats{between}{change}"


def _unigram_near(table: pd.DataFrame) -> bool:
    """Whether the unigram loss can be drawn with the others, which then keep a third of the height at least."""
    low, high = float(table["loss"].min()), float(table["loss"].max())
    return float(table["unigram"].max()) - high <= 2 * (high - low)


def _loss_sentence(table: pd.DataFrame) -> str:
    last = table[table["position_to"] == table["position_to"].max()].set_index("kind")["loss"]
    reach = int(table["position_to"].max()) + 1
    if len(last) == 1:
        return escaped(f"At the end of {reach:,} tokens the loss is {float(last.iloc[0]):.2f} nats")
    if "default" not in last:
        best = str(last.idxmin())
        return escaped(f"At the end of {reach:,} tokens {best} has the lowest loss: {float(last.min()):.2f} nats")
    others = (last - last["default"]).drop("default").sort_values()
    said = ", ".join(f"{kind} {signed(float(change))}" for kind, change in others.items())
    return escaped(f"Loss at the end of {reach:,} tokens, beside default: {said} nats")


def _loss_note(table: pd.DataFrame, trained: object, compared: bool, near: bool) -> str:
    parts = [f"dashed: the {trained:,} positions it was trained with"] if trained else []
    many = "documents" not in table or int(table["documents"].min()) > 1
    if many:
        parts.append("bars: 95 % of the difference to default" if compared else "bands: 95 % by documents")
    if not near:
        parts.append(f"unigram: {float(table['unigram'].mean()):.2f} nats, above this chart")
    return "".join(below_title(part) for part in ("; ".join(parts[:2]), *parts[2:]) if part)


def needles(what: Needles | pd.DataFrame, *, title: str | None = None) -> Chart:
    """How often a needle was found, by length (across) and depth (downward).

    what: of `lk.context.needles`. In each cell stands how often of how many trials; it says its interval where it is pointed
    at. title: by default the share of all beside chance. Returns a Chart; raises BadInput for another table.
    """
    import plotly.graph_objects as go

    check_columns(what, NEEDLE_COLUMNS, "lk.context.needles")
    table = as_table(what)
    lengths, depths = sorted(set(table["length"])), sorted(set(table["depth"]))
    rows = {(row["length"], row["depth"]): row for row in table.to_dict("records")}
    values = [[rows[n, d]["found"] if (n, d) in rows else None for n in lengths] for d in depths]
    texts = [[_needle_hover(rows.get((n, d))) for n in lengths] for d in depths]
    shares = [[_needle_share(rows.get((n, d))) for n in lengths] for d in depths]
    figure = go.Figure(
        cells(
            values,
            texts,
            zmin=0,
            zmax=1,
            colorscale="Viridis",
            text=shares,
            texttemplate="%{text}",
            colorbar={"title": {"text": "found"}, "tickformat": ".0%"},
            x=[f"{n:,}" for n in lengths],
            y=[f"{d:.0%}" for d in depths],
        )
    )
    chance = getattr(what, "chance", None)
    share = float(table["found"].mean())
    said = f"The needle is found in {share:.0%} of the trials" + (f"; chance is {chance:.0%}" if chance else "")
    figure.update_layout(
        template=template(),
        title=escaped(title or said),
        height=360,
        xaxis={"title": titled("tokens of the text"), "type": "category"},
        yaxis={"title": titled("where the needle is (0%: at the start)"), "type": "category", "autorange": "reversed"},
    )
    return Chart(figure, table)


def _needle_share(row: Row | None) -> str:
    return "" if row is None else f"{round(row['found'] * row['trials'])} of {row['trials']}"


def _needle_hover(row: Row | None) -> str:
    if row is None:
        return ""
    return (
        f"{row['length']:,} tokens, depth {row['depth']:.0%}<br>found <b>{row['found']:.0%}</b> of {row['trials']} "
        f"({row['low']:.0%} to {row['high']:.0%})<br>mean rank {row['rank']:.1f}"
    )


def attention_over_distance(
    what: AttentionOverDistance | pd.DataFrame, *, layer: int | None = None, title: str | None = None
) -> Chart:
    """How much attention goes how far back: the mean of each layer's heads, or of one layer each head, and an even one in grey.

    what: of `lk.context.attention_over_distance`. Returns a Chart; raises BadInput for another table or a layer it lacks.
    """
    import plotly.graph_objects as go

    check_columns(what, DISTANCE_COLUMNS, "lk.context.attention_over_distance")
    table = as_table(what)
    far = table[table["distance_from"] >= 0]
    if layer is not None and layer not in set(far["layer"]):
        raise BadInput(f"There is no layer {layer} in this table; it has {sorted(set(far['layer']))}.")
    by = "layer" if layer is None else "head"
    own = far if layer is None else far[far["layer"] == layer]
    found = own.groupby([by, "distance_from", "distance_to"], as_index=False)[["share", "even"]].mean()
    names = sorted(set(found[by]))
    if len(names) > MOST_HEADS:  # as many as can be told apart, evenly from first to last
        names = [names[round(i * (len(names) - 1) / (MOST_HEADS - 1))] for i in range(MOST_HEADS)]
    figure = go.Figure()
    for number, name in enumerate(names):
        rows: list[Row] = found[found[by] == name].sort_values("distance_from").to_dict("records")
        figure.add_scatter(
            x=[_range(row) for row in rows],
            y=[row["share"] for row in rows],
            mode="lines+markers",
            name=f"{by} {name}",
            line={"color": OKABE_ITO[number % len(OKABE_ITO)], "dash": "solid" if number < len(OKABE_ITO) else "dash"},
            **hovers(
                [f"{by} {name}, {_range(row)} tokens back<br><b>{row['share']:.1%}</b> of attention" for row in rows]
            ),
        )
    even: list[Row] = found[found[by] == names[0]].sort_values("distance_from").to_dict("records")
    figure.add_scatter(
        x=[_range(row) for row in even],
        y=[row["even"] for row in even],
        mode="lines",
        name="looks evenly",
        line={"color": GREY, "dash": "dot"},
        **hovers([f"an even head: {row['even']:.1%}" for row in even]),
    )
    nearest = float(own[own["distance_to"] <= 1].groupby(["layer", "head"])["share"].sum().mean())
    said = f"{nearest:.0%} of attention stays with the token itself and the one before"
    figure.update_layout(
        template=template(),
        title=escaped(title or said),
        height=400,
        xaxis={"title": titled("tokens back"), "type": "category"},
        yaxis={"title": titled("share of a token's attention"), "tickformat": ".0%", "rangemode": "tozero"},
    )
    return Chart(figure, table)


def _range(row: Row) -> str:
    start, end = int(row["distance_from"]), int(row["distance_to"])
    return f"{start:,}" if start == end else f"{start:,} to {end:,}"


def rotation(what: Rotation | pd.DataFrame, *, title: str | None = None) -> Chart:
    """What queries and keys of a layer are made of by wavelength: how large each pair of channels is, before it is turned.

    what: of `lk.context.rotation`. Across: tokens for a whole turn. Returns a Chart; raises BadInput for another table.
    """
    import plotly.graph_objects as go

    check_columns(what, ROTATION_COLUMNS, "lk.context.rotation")
    table = as_table(what)
    rows: list[Row] = [row for row in table.to_dict("records") if math.isfinite(row["wavelength"])]
    figure = go.Figure()
    for number, (column, name) in enumerate((("query_size", "queries"), ("key_size", "keys"))):
        figure.add_scatter(
            x=[row["wavelength"] for row in rows],
            y=[row[column] for row in rows],
            mode="lines+markers",
            name=name,
            line={"color": OKABE_ITO[number]},
            **hovers(
                [
                    f"pair {row['pair']}: a turn in {row['wavelength']:,.1f} tokens, {row['turns']:.3g} turns in training<br>"
                    f"{name} <b>{row[column]:.3g}</b>, {row['weight']:.1%} of all products"
                    for row in rows
                ]
            ),
        )
    found = getattr(what, "frequencies", None)
    if found is not None:
        figure.add_vline(x=found.trained, line={"color": INK, "dash": "dash"})
    slow = sum(row["weight"] for row in rows if row["turns"] < 1)
    reach = "the trained length" if found is None else f"{found.trained:,} tokens"
    said = f"{slow:.0%} of the scores comes from pairs that turn less than once within {reach}"
    figure.update_layout(
        template=template(),
        title=escaped(title or said)
        + (
            below_title("left of the dashed line, the trained length, pairs have turned at least once")
            if found is not None
            else ""
        ),
        height=400,
        margin={"t": 80},
        xaxis={"title": titled("wavelength, tokens (logarithmic)"), "type": "log", "exponentformat": "none"},
        yaxis={"title": titled("mean size of a pair"), "rangemode": "tozero"},
    )
    return Chart(figure, table)


def streaming(what: Streaming | pd.DataFrame, *, title: str | None = None) -> Chart:
    """The loss with all of the cache, with a window alone, and with a window and sinks, and each one's bytes; bars are 95 %.

    what: of `lk.context.streaming`. Returns a Chart; raises BadInput for another table.
    """
    import plotly.graph_objects as go

    check_columns(what, WINDOW_COLUMNS, "lk.context.streaming")
    table = as_table(what)
    rows: list[Row] = table.to_dict("records")
    figure = go.Figure(
        go.Scatter(
            x=[row["loss"] for row in rows],
            y=[f"{escaped(str(row['kept']))}, {human_bytes(int(row['cache_bytes']))}" for row in rows],
            mode="markers",
            marker={"size": 11, "color": list(OKABE_ITO[: len(rows)])},
            error_x={
                **intervals([row["low"] for row in rows], [row["loss"] for row in rows], [row["high"] for row in rows]),
                "color": INK,
                "thickness": 1.2,
            },
            showlegend=False,
            **hovers(
                [
                    f"<b>{escaped(str(row['kept']))}</b><br>{row['loss']:.3f} nats, {signed(row['change'], 3)} beside all<br>"
                    f"{row['cache_bytes']:,} bytes for {row['tokens_kept']:,} tokens"
                    for row in rows
                ]
            ),
        )
    )
    by_name = {str(row["kept"]): row for row in rows}
    said = "Loss with a window, with sinks, and with all"
    if {"all", "window", "window and sinks"} <= set(by_name):
        share = by_name["window"]["cache_bytes"] / by_name["all"]["cache_bytes"]
        lone, both = by_name["window"]["change"], by_name["window and sinks"]["change"]
        said = f"With {share:.0%} of the cache a window alone costs {signed(lone)} nats, with sinks {signed(both)}"
    figure.update_layout(
        template=template(),
        title=escaped(title or said) + below_title("further left is better; bars: 95 %"),
        height=290,
        margin={"t": 80},
        xaxis={"title": titled("loss, nats a token")},
        yaxis={"autorange": "reversed"},
    )
    return Chart(figure, table)
