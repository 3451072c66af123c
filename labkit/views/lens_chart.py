"""The logit lens as a heat map, and direct logit attribution as bars: plotly figures of our template."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from labkit.checks import one_of, whole
from labkit.errors import BadInput
from labkit.results import as_table
from labkit.views.chart import Chart
from labkit.views.kit.plots import (
    INK,
    OKABE_ITO,
    Row,
    check_columns,
    escaped,
    missing,
    signed,
    template,
    ticks,
    token_text,
)
from labkit.views.kit.plots import cells as cells_of

if TYPE_CHECKING:
    import pandas as pd

    from labkit.trace.lens import LogitAttribution, LogitLens

FOR, AGAINST, REST = OKABE_ITO[0], OKABE_ITO[5], "#9a9a9a"
MOST_LABELLED = 40  # tokens; beyond that the cells are too narrow for a word, and the hover has it
CELL_WIDTH, CELL_HEIGHT = 74, 22  # pixels
LENS_COLUMNS = (
    "layer",
    "position",
    "token",
    "top_token",
    "top_id",
    "top_probability",
    "next_token",
    "rank",
    "logprob",
    "kl",
)
ATTRIBUTION_COLUMNS = ("component", "layer", "head", "contribution")


def lens(frame: LogitLens | pd.DataFrame, *, colour: Literal["top", "next"] = "top", title: str | None = None) -> Chart:
    """The logit lens: layers downward, tokens across, in each cell the token it would say.

    frame: of `logit_lens`; part of it (`frame[frame.position > 3]`) gives part of the picture. colour: the probability of
    the token in the cell ("top") or of the token that actually follows ("next"). Cells whose logits are no numbers are
    empty. title: by default a sentence that says after how many layers half of the final predictions can be read.
    Returns a Chart, its figure plotly's. Raises BadInput for another frame or colour.
    """
    import numpy as np
    import plotly.graph_objects as go

    check_columns(frame, LENS_COLUMNS, "logit_lens")
    one_of("colour", colour, ("top", "next"))
    layers, positions = sorted(frame.layer.unique()), sorted(frame.position.unique())
    cells = frame.set_index(["layer", "position"])
    if not cells.index.is_unique:
        raise BadInput("The frame has several rows for the same layer and position; give what one logit_lens returned.")
    shape = (len(layers), len(positions))
    cells = cells.reindex([(i, p) for i in layers for p in positions])
    probability = cells.top_probability if colour == "top" else np.exp(cells.logprob)
    texts = ["" if missing(token) else token_text(token) for token in cells.top_token]
    rows = cells.reset_index().to_dict("records")
    hover = [_lens_hover(row) for row in rows]
    labelled = len(positions) <= MOST_LABELLED
    tokens = frame.drop_duplicates("position").set_index("position").token
    last = frame.attrs.get("layers")
    names = {0: "0 (embedding)", last: f"{last} (output)"}
    figure = go.Figure(
        cells_of(
            np.asarray(probability, dtype=float).reshape(shape),
            np.asarray(hover, dtype=object).reshape(shape),
            x=list(range(len(positions))),
            y=list(range(len(layers))),
            text=np.asarray(texts, dtype=object).reshape(shape),
            texttemplate="%{text}" if labelled else None,
            textfont={"size": 11},
            colorscale="Cividis",
            zmin=0,
            zmax=1,
            colorbar={
                "title": {"text": "probability of<br>" + ("the token shown" if colour == "top" else "the next token")}
            },
        )
    )
    figure.update_layout(
        template=template(),
        title=escaped(title) if title else _lens_sentence(frame),
        height=190 + CELL_HEIGHT * len(layers),
        width=max(520, 230 + CELL_WIDTH * len(positions)) if labelled else None,
        xaxis={
            "title": "token (each column: what is said to follow it)",
            **ticks(range(len(positions)), [token_text(tokens[p]) for p in positions], most=2 * MOST_LABELLED),
        },
        yaxis={
            "title": "layers passed",
            "autorange": "reversed",
            **ticks(range(len(layers)), [names.get(i, str(i)) for i in layers]),
        },
    )
    return Chart(figure, as_table(frame))


def attribution(frame: LogitAttribution | pd.DataFrame, *, most: int = 30, title: str | None = None) -> Chart:
    """What speaks for a token and what against it: a bar for each part of the model, in the model's order.

    frame: of `logit_attribution`. most: how many bars; when there are more parts, those of the largest size are shown and
    the others are one bar together, so that the bars always sum to the logit. title: by default a sentence that names the
    strongest. Returns a Chart, its figure plotly's. Raises BadInput for another frame or most < 1.
    """
    import plotly.graph_objects as go

    check_columns(frame, ATTRIBUTION_COLUMNS, "logit_attribution")
    most = whole("most", most, 1, wanted="how many bars are drawn, from 1")
    size = frame.contribution.abs().sort_values(ascending=False, kind="stable")
    shown = frame.loc[sorted(size.index[:most])]
    rest = frame.drop(index=shown.index)
    names, values = [_part(row) for row in shown.to_dict("records")], list(shown.contribution)
    colours = [FOR if value >= 0 else AGAINST for value in values]
    if len(rest):
        names.append(f"the other {len(rest)} together")
        values.append(float(rest.contribution.sum()))
        colours.append(REST)
    figure = go.Figure(
        go.Bar(
            x=values,
            y=list(range(len(names))),
            orientation="h",
            marker_color=colours,
            customdata=names,
            text=[signed(value) for value in values],
            textposition="outside",
            textfont={"color": INK},
            cliponaxis=False,
            hovertemplate="%{customdata}: %{x:+.4f} logits<extra></extra>",
        )
    )
    reach = [min(0.0, *values), max(0.0, *values)]
    room = 0.18 * (reach[1] - reach[0]) or 1.0
    of = "difference of two logits" if frame.attrs.get("against_id") is not None else "logit"
    before = " before the softcap" if frame.attrs.get("softcap") else ""
    figure.update_layout(
        template=template(),
        title=escaped(title) if title else _attribution_sentence(frame),
        height=150 + 20 * len(names),
        xaxis={
            "title": f"contribution to the {of}{before}",
            "range": [reach[0] - room * (reach[0] < 0), reach[1] + room * (reach[1] > 0)],
            "zeroline": True,
            "zerolinecolor": INK,
        },
        yaxis={"autorange": "reversed", **ticks(range(len(names)), names)},
        showlegend=False,
    )
    return Chart(figure, as_table(frame))


def _lens_sentence(frame: LogitLens | pd.DataFrame) -> str:
    """From which layer on half of the last row's predictions stay what they are."""
    final = frame.layer.max()
    settled = []
    for _, column in frame.dropna(subset=["top_id"]).groupby("position"):
        by_layer = column.sort_values("layer", ascending=False)
        if by_layer.layer.iloc[0] != final:
            continue
        same = (by_layer.top_id == by_layer.top_id.iloc[0]).cummin()
        settled.append(int(by_layer.layer[same].min()))
    if not settled:
        return "No prediction of the last layer is a number"
    settled.sort()
    return f"Half of the final predictions can be read after {settled[(len(settled) - 1) // 2]} of {final} layers"


def _attribution_sentence(frame: LogitAttribution | pd.DataFrame) -> str:
    token, against = frame.attrs.get("token"), frame.attrs.get("against")
    what = "the token" if token is None else f"“{token_text(token)}”"
    over = "" if against is None else f" over “{token_text(against)}”"
    rows = sorted(frame.to_dict("records"), key=lambda row: row["contribution"])
    if not rows:
        return "No part of the model was given"
    best, worst = rows[-1], rows[0]
    sentence = f"Most for {what}{over}: {_part(best)} ({signed(best['contribution'])})"
    if worst["contribution"] < 0:
        sentence += f"; most against: {_part(worst)} ({signed(worst['contribution'])})"
    return sentence


def _part(row: Row) -> str:
    names = {
        "mlp": "MLP",
        "attention_bias": "attention bias",
        "norm_bias": "final norm's bias",
        "unembedding_bias": "unembedding's bias",
    }
    name = escaped(names.get(row["component"], str(row["component"])))
    if missing(row["layer"]):
        return name
    if missing(row["head"]):
        return f"layer {row['layer']}" if name == "layer" else f"layer {row['layer']} {name}"
    return f"layer {row['layer']} head {row['head']}"


def _lens_hover(row: Row) -> str:
    if missing(row["token"]):
        return ""
    lines = [f"position {row['position']}, after “{token_text(row['token'])}”, {row['layer']} layers passed"]
    if missing(row["top_token"]):
        return "<br>".join([*lines, "its logits are no numbers"])
    several = not missing(row.get("top_tokens"))
    tokens = row["top_tokens"] if several else (row["top_token"],)
    probabilities = row["top_probabilities"] if several else (row["top_probability"],)
    lines += [f"<b>{token_text(t)}</b> {p:.4f}" for t, p in zip(tokens, probabilities, strict=True)]
    if not missing(row["next_token"]) and not missing(row["rank"]):
        lines.append(f"really next: “{token_text(row['next_token'])}”, rank {row['rank']}, {row['logprob']:.3f} nats")
    return "<br>".join([*lines, f"KL from the output {row['kl']:.3f} nats"])
