"""Charts that are not widgets: plotly figures of our template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from labkit.errors import BadInput
from labkit.views.template import INK, OKABE_ITO, template

if TYPE_CHECKING:
    from labkit.models.memory import Memory

GIB = 2**30


def memory(models: Sequence[Memory], *, free_bytes: int | None = None, title: str | None = None) -> Any:
    """Bytes of weights and KV cache of several models as bars; a line marks what is free here.

    models: as `lk.memory` and `lab.memory` give them. The axis is logarithmic when the largest is over 50 times the
    smallest, and says so; bars then can't be stacked by eye, so only the totals are drawn. Returns a plotly Figure.
    """
    import plotly.graph_objects as go

    if not models:
        raise BadInput("There is nothing to draw; give a list of what lk.memory(name) returns.")
    rows = sorted(models, key=lambda m: m.total_bytes)
    logarithmic = rows[-1].total_bytes > 50 * rows[0].total_bytes
    names = [f"{m.name} · {m.dtype}" for m in rows]
    hover = [_hover(m) for m in rows]
    figure = go.Figure()
    if logarithmic:
        bars = [("weights and KV cache", [m.total_bytes for m in rows], OKABE_ITO[0])]
    else:
        bars = [
            ("weights", [m.weight_bytes for m in rows], OKABE_ITO[0]),
            ("KV cache", [m.kv_cache_bytes or 0 for m in rows], OKABE_ITO[1]),
        ]
    for label, sizes, colour in bars:
        figure.add_bar(
            y=names,
            x=[size / GIB for size in sizes],
            name=label,
            orientation="h",
            marker_color=colour,
            customdata=hover,
            hovertemplate="%{customdata}<extra></extra>",
        )
    totals = [m.total_bytes / GIB for m in rows]
    figure.add_scatter(
        y=names,
        x=totals,
        mode="text",
        text=[f" {total:.3g} GiB" for total in totals],
        textposition="middle right",
        textfont={"color": INK},
        hoverinfo="skip",
        showlegend=False,
        cliponaxis=False,
    )
    if free_bytes is not None:
        figure.add_vline(
            x=free_bytes / GIB,
            line={"color": OKABE_ITO[5], "dash": "dash"},
            annotation_text="free here",
            annotation_font_color=INK,
        )
    tokens = sorted({m.tokens for m in rows})
    asked = f"{tokens[0]:,} tokens" if len(tokens) == 1 else "as asked for each"
    figure.update_layout(
        template=template(),
        barmode="stack",
        title=title or f"Weights and KV cache ({asked})",
        height=130 + 30 * len(rows),
        xaxis={
            "title": f"GiB{', logarithmic' if logarithmic else ''}",
            "type": "log" if logarithmic else "linear",
            "range": None if logarithmic else [0, 1.18 * max(*totals, (free_bytes or 0) / GIB)],
            "nticks": 8,
        },
        yaxis={"showgrid": False},
        showlegend=not logarithmic,
    )
    return figure


def _hover(m: Memory) -> str:
    cache = f"{m.kv_cache_bytes / GIB:.3g} GiB" if m.kv_cache_bytes is not None else "not known"
    name = m.name.replace("&", "&amp;").replace("<", "&lt;")  # plotly reads a little HTML in hover texts
    return (
        f"<b>{name}</b><br>{m.parameters:,} parameters<br>weights {m.weight_bytes / GIB:.3g} GiB in {m.dtype}"
        f"<br>KV cache {cache} for {m.tokens:,} tokens"
    )
