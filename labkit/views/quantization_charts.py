"""What bits cost, as plotly figures of our template: size against damage, where it hurts, and damage along a training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from labkit.results import as_table
from labkit.views.chart import Chart
from labkit.views.kit.plots import (
    INK,
    OKABE_ITO,
    Row,
    band,
    below_title,
    check_columns,
    escaped,
    interval_reach,
    template,
    titled,
)

if TYPE_CHECKING:
    import pandas as pd
    from plotly.basedatatypes import BaseTraceType

    from labkit.quantization import ByFormat, Sensitivity

FORMAT_COLUMNS = ("format", "method", "size_bytes", "bits_per_weight", "kl", "kl_low", "kl_high", "top1")
SENSITIVITY_COLUMNS = ("layer", "matrix", "kl")
SQUEEZE_COLUMNS = ("tokens", "format", "loss_change", "low", "high")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "star", "cross", "x")
MB, MILLION = 1e6, 1e6
LEAST_CHANGE = 1e-4  # nats, below which loss added is none to be seen
Box = tuple[float, float, float, float]  # left, bottom, right, top
PLOT = (560, 270)  # px, of the drawn part in a notebook's cell: where names would cover one another is judged by it
LETTER = 6.5  # px, of a name
# by preference: up or down, left or right
SIDES = {
    "middle right": (0, 1),
    "middle left": (0, -1),
    "top center": (1, 0),
    "bottom center": (-1, 0),
    "top right": (1, 1),
    "bottom right": (-1, 1),
    "top left": (1, -1),
    "bottom left": (-1, -1),
}
THREE_LINES = 95  # px above the plot, for a sentence of two lines and what stands beneath it
TINY = 1e-9  # nats: a logarithmic axis has no place for what costs nothing


def formats(frame: ByFormat | pd.DataFrame, *, title: str | None = None) -> Chart:
    """Size against damage of several formats: true bytes across, KL divergence to the original upward, logarithmic.

    frame: of `lk.quantization.by_format`, a row for each format and method. Bars: 95 %. What costs nothing that can be
    measured (KL below a billionth of a nat) stands at the lower edge. title: by default a sentence that says where the
    damage begins. Returns a Chart, its figure plotly's. Raises BadInput for another frame.
    """
    import plotly.graph_objects as go

    check_columns(frame, FORMAT_COLUMNS, "lk.quantization.by_format")
    rows: list[Row] = as_table(frame).to_dict("records")
    figure = go.Figure()
    least = min((row["kl"] for row in rows if row["kl"] > TINY), default=1e-4) / 3
    top = max(max(row["kl_high"] if math.isfinite(row["kl_high"]) else 0.0, row["kl"], least) for row in rows)
    largest = max(row["size_bytes"] for row in rows) / MB
    original = getattr(frame, "original_bytes", None)
    left, right = min(row["size_bytes"] for row in rows) / MB, max(largest, (original or 0) / MB)
    aside = 0.15 * ((right - left) or right)  # room for the names
    methods = list(dict.fromkeys(row["method"] for row in rows))
    across, up = PLOT[0] / (right - left + 2 * aside), PLOT[1] / (math.log10(top / least) + 0.4)
    at = [(across * row["size_bytes"] / MB, up * math.log10(max(row["kl"], least))) for row in rows]
    sides = label_sides(at, [str(row["format"]) for row in rows])
    places = {id(row): side for row, side in zip(rows, sides, strict=True)}
    for number, method in enumerate(methods):
        own = sorted((row for row in rows if row["method"] == method), key=lambda row: row["size_bytes"])
        heights = [max(row["kl"], least) for row in own]
        figure.add_scatter(
            x=[row["size_bytes"] / MB for row in own],
            y=heights,
            error_y={
                "array": [interval_reach(row["kl_high"], y) for row, y in zip(own, heights, strict=True)],
                # a bar never reaches zero, which a logarithmic axis does not have
                "arrayminus": [
                    min(interval_reach(y, row["kl_low"]), 0.9 * y) for row, y in zip(own, heights, strict=True)
                ],
                "thickness": 1.2,
                "width": 3,
            },
            mode="markers+text",
            text=[escaped(f" {row['format']} ") for row in own],
            textposition=[places[id(row)] for row in own],
            textfont={"size": 11, "color": INK},
            name=escaped(str(method)),
            marker={"size": 9, "color": OKABE_ITO[number % len(OKABE_ITO)], "symbol": SYMBOLS[number % len(SYMBOLS)]},
            customdata=[_format_hover(row) for row in own],
            hovertemplate="%{customdata}<extra></extra>",
        )
    if original:
        figure.add_vline(x=original / MB, line={"color": INK, "dash": "dash"})
        figure.add_annotation(
            x=original / MB,
            y=1,
            yref="paper",
            yanchor="top",
            xanchor="right",
            text="the original ",
            showarrow=False,
            font={"color": INK},
        )
    figure.update_layout(
        template=template(),
        title=escaped(title) if title else _format_sentence(rows),
        height=450,
        margin={"t": THREE_LINES},
        xaxis={"title": titled("MB, everything counted"), "range": [left - aside, right + aside]},
        yaxis={
            "title": titled("KL divergence, nats a token (logarithmic)"),
            "type": "log",
            "exponentformat": "none",
            "range": [math.log10(least) - 0.15, math.log10(top) + 0.25],
        },
        showlegend=len(methods) > 1,
    )
    return Chart(figure, as_table(frame))


def label_sides(points: Sequence[tuple[float, float]], names: Sequence[str]) -> list[str]:
    """On which side of its point each name stands (plotly's words), so that it covers no point and no other name.

    points: in px, y upward. Where every side is taken, the name goes where it covers least.
    """
    taken = [(x - 6, y - 6, x + 6, y + 6) for x, y in points]
    chosen = []
    for (x, y), name in zip(points, names, strict=True):
        wide = LETTER * len(name)
        boxes = {}
        for side, (over, aside) in SIDES.items():
            middle = x + aside * (10 + wide / 2)
            level = y + over * 14
            boxes[side] = (middle - wide / 2, level - 7, middle + wide / 2, level + 7)
        best = min(boxes, key=lambda side: sum(_shared(boxes[side], other) for other in taken))
        chosen.append(best)
        taken.append(boxes[best])
    return chosen


def _shared(one: Box, other: Box) -> float:
    """The area that two boxes have in common."""
    across = min(one[2], other[2]) - max(one[0], other[0])
    down = min(one[3], other[3]) - max(one[1], other[1])
    return max(across, 0.0) * max(down, 0.0)


def _format_hover(row: Row) -> str:
    between = f" ({row['kl_low']:.4g} to {row['kl_high']:.4g})" if math.isfinite(row["kl_low"]) else ""
    return (
        f"<b>{escaped(str(row['format']))}</b>, {escaped(str(row['method']))}<br>{row['size_bytes'] / MB:.2f} MB, "
        f"{row['bits_per_weight']:.2f} bits a quantized weight<br>KL {row['kl']:.4g} nats{between}"
        f"<br>the same first choice for {row['top1']:.1%} of the tokens"
    )


def _format_sentence(rows: list[Row]) -> str:
    """The smallest format that keeps nine of ten first choices, beside the smallest of all."""
    ordered = sorted(rows, key=lambda row: row["size_bytes"])
    good = next((row for row in ordered if row["top1"] >= 0.9), None)
    least = ordered[0]
    said = f"The smallest, {escaped(str(least['format']))}, keeps {least['top1']:.0%} of the first choices"
    if good is None or good is least:
        return said + below_title("bars: 95 %, from resampling the documents")
    return (
        f"{escaped(str(good['format']))} keeps {good['top1']:.0%} of the first choices at "
        f"{good['size_bytes'] / MB:.3g} MB;<br>{said[0].lower()}{said[1:]} at {least['size_bytes'] / MB:.3g} MB"
        f"{below_title('bars: 95 %, from resampling the documents')}"
    )


def sensitivity(frame: Sensitivity | pd.DataFrame, *, title: str | None = None) -> Chart:
    """What each matrix costs when it alone is quantized: layers downward, matrices across, KL in nats.

    frame: of `lk.quantization.sensitivity`, of whose formats the first is drawn. title: by default a sentence that names
    the worst. Returns a Chart, its figure plotly's. Raises BadInput for another frame.
    """
    import plotly.graph_objects as go

    check_columns(frame, SENSITIVITY_COLUMNS, "lk.quantization.sensitivity")
    table = as_table(frame)
    table = table[table["layer"].notna()]
    check_columns(table, SENSITIVITY_COLUMNS, "lk.quantization.sensitivity")
    if "format" in table:  # several formats: one picture shows the first
        table = table[table["format"] == table["format"].iloc[0]]
    layers = sorted(int(layer) for layer in table["layer"].unique())
    names = list(dict.fromkeys(table["matrix"]))
    cells: dict[tuple[int, str], Row] = {
        (int(row["layer"]), str(row["matrix"])): row for row in table.to_dict("records")
    }
    values = [[_kl(cells.get((layer, name))) for name in names] for layer in layers]
    top = max((value for row in values for value in row if value is not None), default=0.0) or 1.0
    figure = go.Figure(
        go.Heatmap(
            z=values,
            x=[escaped(name) for name in names],
            y=layers,
            colorscale="Cividis",
            zmin=0,
            zmax=top,
            xgap=1,
            ygap=1,
            text=[[_sensitivity_hover(cells.get((layer, name))) for name in names] for layer in layers],
            hovertemplate="%{text}<extra></extra>",
            hoverongaps=False,
            colorbar={"title": {"text": "KL, nats"}, "thickness": 12},
        )
    )
    figure.update_layout(
        template=template(),
        title=escaped(title) if title else _sensitivity_sentence(table, frame),
        height=170 + max(22, min(34, 600 // len(layers))) * len(layers),
        xaxis={"title": titled("matrix"), "showgrid": False},
        yaxis={
            "title": titled("layer"),
            "autorange": "reversed",
            "dtick": max(1, len(layers) // 15),
            "showgrid": False,
        },
    )
    return Chart(figure, as_table(frame))


def _kl(row: Row | None) -> float | None:
    return None if row is None or not math.isfinite(row["kl"]) else float(row["kl"])


def _sensitivity_hover(row: Row | None) -> str:
    if row is None:
        return ""
    between = ""
    if math.isfinite(row.get("kl_low", math.nan)):
        between = f" (95 %: {row['kl_low']:.3g} to {row['kl_high']:.3g})"
    return f"layer {int(row['layer'])}, {escaped(str(row['matrix']))}<br><b>{row['kl']:.3g}</b> nats{between}"


def _sensitivity_sentence(table: pd.DataFrame, frame: Sensitivity | pd.DataFrame) -> str:
    worst = table.loc[table["kl"].idxmax()]
    times = float(worst["kl"] / table["kl"].median()) if table["kl"].median() > 0 else math.nan
    name = f"{escaped(str(worst['matrix']))} of layer {int(worst['layer'])}"
    said = f"Quantized alone, {name} costs most: {worst['kl']:.2g} nats"
    if math.isfinite(times):
        said += f", {times:.1f} times the median"
    noise = getattr(frame, "noise", None)
    return said + (below_title(f"noise of running again: {noise:.1g} nats") if noise is not None else "")


def squeeze(frame: pd.DataFrame, *, title: str | None = None) -> Chart:
    """The damage of each format along a training: tokens seen across, loss added upward, a line for each format.

    frame: of `lk.quantization.recorded_squeeze()`, or rows of it. Bands: 95 %. What adds nothing that can be seen stands at
    the lower edge. Returns a Chart, its figure plotly's. Raises BadInput for another frame.
    """
    import plotly.graph_objects as go

    check_columns(frame, SQUEEZE_COLUMNS, "lk.quantization.recorded_squeeze")
    table = as_table(frame)
    table = table[table["tokens"] > 0]
    check_columns(table, SQUEEZE_COLUMNS, "lk.quantization.recorded_squeeze")
    models = list(dict.fromkeys(table["model"])) if "model" in table else [None]
    least = float(table.loc[table["loss_change"] > LEAST_CHANGE, "loss_change"].min()) / 2
    least = least if math.isfinite(least) else LEAST_CHANGE
    figure = go.Figure()
    for number, name in enumerate(dict.fromkeys(table["format"])):
        for place, model in enumerate(models):
            own = table[table["format"] == name]
            own = own if model is None else own[own["model"] == model]
            label = str(name) if len(models) == 1 else f"{name}, {model}"
            figure.add_traces(_along(own.sort_values("tokens"), label, number, place, least))
    figure.update_layout(
        template=template(),
        title=escaped(title) if title else _squeeze_sentence(table),
        height=450,
        margin={"t": THREE_LINES},
        xaxis={"title": titled("million tokens seen in training (logarithmic)"), "type": "log"},
        yaxis={
            "title": titled("loss added by quantizing, nats a token (logarithmic)"),
            "type": "log",
            "exponentformat": "none",
        },
    )
    return Chart(figure, as_table(frame))


def _along(own: pd.DataFrame, label: str, number: int, place: int, least: float) -> list[BaseTraceType]:
    import plotly.graph_objects as go

    def shown(values: pd.Series[float]) -> list[float]:
        return [max(float(value), least) for value in values]

    colour = OKABE_ITO[number % len(OKABE_ITO)]
    x = [tokens / MILLION for tokens in own["tokens"]]
    name = escaped(label)
    line = go.Scatter(
        x=x,
        y=shown(own["loss_change"]),
        mode="lines+markers",
        name=name,
        legendgroup=name,
        line={"color": colour, "width": 2, "dash": ("solid", "dash", "dot")[place % 3]},
        marker={"size": 7, "symbol": SYMBOLS[number % len(SYMBOLS)], "color": colour},
        customdata=[
            f"{name}, {row['tokens'] / MILLION:.3g} million tokens<br><b>{row['loss_change']:.4f}</b> nats added "
            f"({row['low']:.4f} to {row['high']:.4f})"
            for row in own.to_dict("records")
        ],
        hovertemplate="%{customdata}<extra></extra>",
    )
    return [band(x, shown(own["low"]), shown(own["high"]), colour, name), line]


def _squeeze_sentence(table: pd.DataFrame) -> str:
    """What becomes of the damage that changes most, from the first checkpoint to the last."""
    first, last = table["tokens"].min(), table["tokens"].max()
    model = table.loc[table["tokens"].idxmax()].get("model")
    own = table if model is None else table[table["model"] == model]
    ends = own[own["tokens"].isin([first, last])].pivot_table(index="format", columns="tokens", values="loss_change")
    if first not in ends or last not in ends or len(ends.dropna()) == 0:
        return "Loss added by quantizing, along the training"
    change = (ends[last] - ends[first]).dropna()
    name = change.abs().idxmax()
    return (
        f"What {escaped(str(name))} adds to the loss goes from {ends.loc[name, first]:.2f} to {ends.loc[name, last]:.2f} nats,"
        f"<br>from {first / MILLION:.2g} to {last / MILLION:.2g} million tokens of training"
        f"{below_title('bands: 95 %, over documents')}"
    )
