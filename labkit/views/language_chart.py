"""What each language pays in tokens for the same text, tokenizer beside tokenizer, as a plotly picture of our template."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from labkit.errors import BadInput
from labkit.results import Result, as_table
from labkit.views.chart import Chart
from labkit.views.kit.plots import (
    GREY,
    INK,
    OKABE_ITO,
    Row,
    check_columns,
    escaped,
    hovers,
    intervals,
    template,
    titled,
)

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("tokenizer", "language", "relative", "low", "high", "tokens", "bytes")
SYMBOLS = ("circle", "diamond", "square", "triangle-up", "x")
ROW_HEIGHT, AROUND = 18, 170  # pixels
MOST = 100  # languages of which the names can still be read


def languages(found: Result | pd.DataFrame, *, title: str | None = None) -> Chart:
    """What `lk.tokenization.language_tax` returned: a row for each language, a point with 95 % for each tokenizer.

    The scale is logarithmic, since these are ratios: 2 and a half are equally far from the reference, the line at 1. Plain bytes
    are a grey ring; characters are not drawn. The dearest language of the first tokenizer stands above.
    Returns a Chart, its figure plotly's. Raises BadInput for another result and for more than 100 languages.
    """
    import plotly.graph_objects as go

    check_columns(found, COLUMNS, "lk.tokenization.language_tax")
    table = as_table(found)
    kinds = [name for name in dict.fromkeys(table["tokenizer"]) if name != "characters"]
    own = [name for name in kinds if name != "bytes"]
    if not own or len(own) > len(SYMBOLS):
        raise BadInput(
            f"This chart shows 1 to {len(SYMBOLS)} tokenizers, and these are {len(own)}; choose rows of some."
        )
    first = table[table["tokenizer"] == own[0]].sort_values("relative", ascending=False)
    order = {name: place for place, name in enumerate(first["language"])}
    if len(order) > MOST:
        raise BadInput(f"{len(order)} languages can't be read in one chart; choose {MOST} of them.")
    figure = go.Figure()
    for kind in ["bytes", *own] if "bytes" in kinds else own:
        rows: list[Row] = [
            row for row in table[table["tokenizer"] == kind].to_dict("records") if row["language"] in order
        ]
        plain = kind == "bytes"
        colour = GREY if plain else OKABE_ITO[own.index(kind)]
        at, low, high = ([math.log2(float(row[name])) for row in rows] for name in ("relative", "low", "high"))
        figure.add_scatter(
            x=at,
            y=[order[row["language"]] for row in rows],
            name="plain bytes" if plain else escaped(kind),
            mode="markers",
            marker={
                "size": 8,
                "color": colour,
                "symbol": "circle-open" if plain else SYMBOLS[own.index(kind)],
                "line": {"width": 1.5, "color": colour},
            },
            **(
                {}
                if plain
                else {"error_x": {**intervals(low, at, high), "color": colour, "thickness": 1.2, "width": 0}}
            ),
            **hovers([_hover(row, plain) for row in rows]),
        )
    shown = table[table["tokenizer"] != "characters"]
    figure.add_vline(x=0, line={"color": INK, "width": 1})
    figure.update_yaxes(
        tickvals=list(order.values()),
        ticktext=[escaped(name) for name in order],
        range=[len(order) - 0.5, -0.5],
        showgrid=False,
        zeroline=False,
    )
    reference = str(found.attrs["reference"]) if isinstance(found, Result) else "the reference"
    figure.update_xaxes(
        tickvals=list(
            range(-2, 6)
        ),  # powers of two, drawn as such: an axis of plotly's own kind has no intervals in the SVG
        ticktext=[f"{2.0**power:g}×" for power in range(-2, 6)],
        range=[math.log2(float(shown["low"].min())) - 0.15, math.log2(float(shown["high"].max())) + 0.15],
        title=titled(f"tokens for the same text, relative to {escaped(reference)}"),
        zeroline=False,
    )
    dearest = first.iloc[0]
    said = f"{dearest['language']} takes {dearest['relative']:.1f} times the tokens of {reference} for the same text ({own[0]})"
    figure.update_layout(
        template=template(), title=escaped(title) if title else escaped(said), height=AROUND + ROW_HEIGHT * len(order)
    )
    return Chart(figure, table)


def _hover(row: Row, plain: bool) -> str:
    kind = "plain bytes" if plain else escaped(str(row["tokenizer"]))
    return (
        f"<b>{escaped(str(row['language']))}</b>, {kind}<br>{row['relative']:.2f} ({row['low']:.2f} to {row['high']:.2f})"
        f"<br>{int(row['tokens']):,} for {int(row['bytes']):,} bytes"
    )
