"""What probes read, layer by layer, beside what is read without the model: control tasks, tokens alone, the commonest class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from labkit.checks import as_number
from labkit.results import as_table
from labkit.views.chart import Chart
from labkit.views.kit.plots import (
    GREY,
    OKABE_ITO,
    Row,
    band,
    below_title,
    check_columns,
    escaped,
    hovers,
    template,
    ticks,
    titled,
)

if TYPE_CHECKING:
    import pandas as pd

    from labkit.circuits import Probe

COLUMNS = ("layer", "accuracy")
PROBE, CONTROL, TOKEN, BAG = OKABE_ITO[0], OKABE_ITO[5], OKABE_ITO[2], OKABE_ITO[3]
MOST_TICKS = 20
NAMES = {
    "residual": "the residual stream",
    "attention_output": "the attention output",
    "mlp_output": "the MLP output",
    "mlp_neurons": "the MLP neurons",
    "head_output": "the heads' outputs",
}


class _Line(NamedTuple):
    """What is drawn beside the probe. level: one value for all layers, or one for each, None where there is none."""

    name: str
    colour: str
    dash: str
    values: list[float | None]


def probe(found: Probe | pd.DataFrame, *, title: str | None = None) -> Chart:
    """Accuracy of probes by layer with its 95 % interval, beside control tasks, tokens alone, and the most frequent class.

    found: of `lk.circuits.probe`, or a table with columns layer and accuracy, and where they are known low and high, control,
    token_alone, bag and chance; what is missing is not drawn.
    title: by default a sentence that says at how many layers the model is read better than its tokens alone.
    Returns a Chart, its figure plotly's. Raises BadInput for another result.
    """
    import plotly.graph_objects as go

    check_columns(found, COLUMNS, "lk.circuits.probe")
    rows: list[Row] = as_table(found).sort_values("layer").to_dict("records")
    layers = [int(row["layer"]) for row in rows]
    result = found if hasattr(found, "table") else None  # of a frame, an attribute might be pandas' or a column
    lines = [line for line in _beside(result, rows) if any(value is not None for value in line.values)]
    accuracy = [as_number(row["accuracy"]) for row in rows]
    low, high = ([as_number(row.get(end)) for row in rows] for end in ("low", "high"))
    figure = go.Figure()
    known = [(x, a, b) for x, a, b in zip(layers, low, high, strict=True) if a is not None and b is not None]
    if len(known) > 1:
        figure.add_trace(
            band([x for x, _, _ in known], [a for _, a, _ in known], [b for *_, b in known], PROBE, "probe")
        )
    for line in lines:
        figure.add_scatter(
            x=layers,
            y=line.values,
            name=escaped(line.name),
            mode="lines" if len(layers) > 1 else "markers",
            line={"color": line.colour, "dash": line.dash, "width": 2},
            marker={"color": line.colour},
            **hovers([_said(line.name, x, y) for x, y in zip(layers, line.values, strict=True)]),
        )
    figure.add_scatter(
        x=layers,
        y=accuracy,
        name="probe, 95 %" if known else "probe",
        legendgroup="probe",
        mode="lines+markers",
        line={"color": PROBE, "width": 2.5},
        marker={"color": PROBE, "size": 7},
        **hovers([_hover(row) for row in rows]),
    )
    values = [v for line in lines for v in line.values] + accuracy + low + high
    there = [value for value in values if value is not None]
    sentence, facts = _sentence(result, rows, lines)
    figure.update_layout(
        template=template(),
        height=400,
        title=escaped(title) if title else sentence + (below_title(facts) if facts else ""),
        margin={"t": 80, "b": 96},
        xaxis={"title": titled("layer"), **ticks(layers, most=MOST_TICKS)},
        yaxis={
            "title": titled("held-out accuracy"),
            "range": [max(0.0, min(there, default=0.0) - 0.06), min(1.02, max(there, default=1.0) + 0.04)],
            "tickformat": ".0%",
        },
        legend={"y": -0.2},
    )
    return Chart(figure, as_table(found))


def _beside(found: Any, rows: list[Row]) -> list[_Line]:
    def by_layer(column: str) -> list[float | None]:
        return [as_number(row.get(column)) for row in rows]

    def level(field: str, column: str) -> list[float | None]:
        """A field of the result, the same at each layer; else a column of the table."""
        value = getattr(found, field, None)
        one = as_number(getattr(value, "accuracy", value))
        return by_layer(column) if one is None else [one] * len(rows)

    alone = "tokens alone" if getattr(found, "position", "last") == "mean" else "token alone"
    return [
        _Line("control task", CONTROL, "dash", by_layer("control")),
        _Line(alone, TOKEN, "dot", level("token", "token_alone")),
        _Line("bag of tokens", BAG, "dashdot", level("bag", "bag")),
        _Line("most frequent class", GREY, "solid", level("chance", "chance")),
    ]


def _sentence(found: Any, rows: list[Row], lines: list[_Line]) -> tuple[str, str]:
    """What is to be seen, and what it was measured on."""
    alone = [line.values for line in lines if line.colour in (TOKEN, BAG)]
    below = ""
    if found is not None:
        classes = " or ".join(map(str, found.classes))
        below = escaped(
            f"{classes}; read at {NAMES.get(found.at, str(found.at))} of {found.model}; {found.texts:,} texts"
        )
    if "over_tokens_low" in rows[0]:
        ahead = sum((as_number(row["over_tokens_low"]) or 0.0) > 0 for row in rows)
    elif alone:
        better = [max((values[i] or 0.0) for values in alone) for i in range(len(rows))]
        ahead = sum((as_number(row.get("low")) or 0.0) > level for row, level in zip(rows, better, strict=True))
    else:
        best = max(rows, key=lambda row: as_number(row["accuracy"]) or 0.0)
        return (
            f"Read best at layer {best['layer']}, with {best['accuracy']:.0%} right; tokens alone were not tried",
            below,
        )
    if ahead == 0:
        return "No layer is read better than the tokens alone", below
    of = "the layer" if len(rows) == 1 else f"{ahead} of {len(rows)} layers"
    return f"At {of} the model is read better than its tokens alone", below


def _said(name: str, layer: int, value: float | None) -> str:
    return "" if value is None else f"layer {layer}, {escaped(name)}: {value:.3f}"


def _hover(row: Row) -> str:
    lines = [f"layer {row['layer']}: {row['accuracy']:.3f} right"]
    low, high = as_number(row.get("low")), as_number(row.get("high"))
    if low is not None and high is not None:
        lines.append(f"95 % from {low:.3f} to {high:.3f}")
    for name, words in (("selectivity", "above the control task"), ("over_tokens", "above tokens alone")):
        value = as_number(row.get(name))
        if value is not None:
            lines.append(f"{value:+.3f} {words}".replace("-", "−"))
    return "<br>".join(lines)
