"""Charts that are not widgets: plotly figures of our template."""

from __future__ import annotations

from collections.abc import Sequence
from math import log10
from typing import TYPE_CHECKING

from labkit.errors import BadInput
from labkit.views.chart import Chart
from labkit.views.kit.plots import INK, OKABE_ITO, escaped, hovers, template

if TYPE_CHECKING:
    import pandas as pd

    from labkit.models.memory import Memory

GIB = 2**30
WEIGHTS, CACHE, FREE = OKABE_ITO[0], OKABE_ITO[1], OKABE_ITO[5]
ROOM = 1.25  # of the axis, to the right of the largest, for its number


def memory(models: Sequence[Memory] | Memory, *, free_bytes: int | None = None, title: str | None = None) -> Chart:
    """Bytes of weights and KV cache of several models; a line marks what is free here.

    models: as `lk.memory` and `lab.memory` give them. Stacked bars; where the largest is over 50 times the smallest, a dot
    each for the total on a logarithmic axis, since bars have no meaning there. title: by default a sentence that says
    how many fit. Returns a Chart, its figure plotly's. Raises BadInput for an empty list.
    """
    import plotly.graph_objects as go

    models = list(models) if isinstance(models, Sequence) else [models]
    if not models:
        raise BadInput("There is nothing to draw; give a list of what lk.memory(name) returns.")
    rows = sorted(models, key=lambda m: m.total_bytes)
    totals = [m.total_bytes / GIB for m in rows]
    logarithmic = totals[-1] > 50 * totals[0]
    names = _labels(rows)
    hover = hovers([_hover(m) for m in rows])
    figure = go.Figure()
    if logarithmic:
        figure.add_scatter(
            y=names, x=totals, mode="markers", marker={"size": 13, "color": WEIGHTS}, name="total", **hover
        )
    else:
        parts = {
            "weights": (WEIGHTS, [m.weight_bytes for m in rows]),
            "KV cache": (CACHE, [m.kv_cache_bytes or 0 for m in rows]),
        }
        for label, (colour, sizes) in parts.items():
            in_gib = [size / GIB for size in sizes]
            figure.add_bar(y=names, x=in_gib, name=label, orientation="h", marker_color=colour, **hover)
    figure.add_scatter(
        y=names,
        x=totals,
        mode="text",
        text=[f"   {total:.3g} GiB" for total in totals],
        textposition="middle right",
        textfont={"color": INK},
        hoverinfo="skip",
        showlegend=False,
        cliponaxis=False,
    )
    largest = max(totals[-1], (free_bytes or 0) / GIB)
    if logarithmic:
        lowest, highest = log10(totals[0]), log10(largest)
        span = highest - lowest
        axis = {"type": "log", "range": [lowest - 0.06 * span, highest + (ROOM - 1) * span], "dtick": 1}
    else:
        axis = {"type": "linear", "range": [0, ROOM * largest]}
    if free_bytes:
        place = free_bytes / GIB
        figure.add_vline(x=place, line={"color": FREE, "dash": "dash"})
        # an annotation's place on a logarithmic axis is given by its logarithm
        at = log10(place) if logarithmic else place
        text = f"free here: {place:.3g} GiB"
        figure.add_annotation(
            x=at, y=1, yref="paper", yanchor="bottom", text=text, showarrow=False, font={"color": FREE}
        )
    figure.update_layout(
        template=template(),
        barmode="stack",
        title=escaped(title) if title else _sentence(rows, free_bytes),
        height=150 + 30 * len(rows),
        xaxis={"title": f"GiB{' (logarithmic)' if logarithmic else ''}", **axis},
        yaxis={"showgrid": logarithmic},
        showlegend=not logarithmic,
    )
    return Chart(figure, _numbers(rows))


def _numbers(rows: Sequence[Memory]) -> pd.DataFrame:
    import pandas as pd

    facts = ("name", "dtype", "parameters", "tokens", "batch", "weight_bytes", "kv_cache_bytes", "total_bytes")
    return pd.DataFrame([{name: getattr(row, name) for name in facts} for row in rows])


def _labels(rows: Sequence[Memory]) -> list[str]:
    """A label each, with as much as is needed to tell them apart."""
    labels = [f"{m.name} · {m.dtype}" for m in rows]
    if len(set(labels)) < len(rows):
        labels = [f"{label} · {m.tokens:,} × {m.batch}" for label, m in zip(labels, rows, strict=True)]
    return [escaped(f"{label}{' ' * labels[:i].count(label)}") for i, label in enumerate(labels)]


def _sentence(rows: Sequence[Memory], free_bytes: int | None) -> str:
    tokens = {m.tokens for m in rows}
    what = f"Weights and KV cache for {next(iter(tokens)):,} tokens" if len(tokens) == 1 else "Weights and KV cache"
    if free_bytes is None:
        return what
    fit = sum(m.total_bytes <= free_bytes for m in rows)
    return f"{what}: {fit} of these {len(rows)} fit into the memory that is free here"


def _hover(m: Memory) -> str:
    cache = f"{m.kv_cache_bytes / GIB:.3g} GiB" if m.kv_cache_bytes is not None else "not known"
    return (
        f"<b>{escaped(m.name)}</b><br>{m.parameters:,} parameters<br>weights {m.weight_bytes / GIB:.3g} GiB in {m.dtype}"
        f"<br>KV cache {cache} for {m.tokens:,} tokens"
    )
