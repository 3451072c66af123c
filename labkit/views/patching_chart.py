"""The heat map of activation patching: what each activation of the clean run brings back."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from labkit.checks import as_number
from labkit.errors import BadInput
from labkit.results import as_table
from labkit.views.chart import Chart
from labkit.views.kit.plots import Row, escaped, template, ticks, token_text
from labkit.views.kit.plots import cells as cells_of

if TYPE_CHECKING:
    import pandas as pd

    from labkit.trace.patching import Patching

WRITTEN_OUT = 60  # tokens along the axis; in a longer text every n-th
LONGEST = 24  # characters of a token
WHAT = {
    "residual": "the residual stream entering layer",
    "attention": "the attention output of layer",
    "mlp": "the MLP output of layer",
    "head": "the output of layer",
}
UNKNOWN = "layer"  # of rows out of a result, which don't say what it was


def patching(frame: Patching | pd.DataFrame, title: str | None = None) -> Chart:
    """Effects of activation patching: layers downward, tokens (or heads) across.

    frame: what `lk.patching` returned, or rows of it. Colour is the effect: 0 in the middle (the corrupted result), 1 the
    clean one, below 0 worse than corrupted. Runs that an interrupt left out stay empty.
    title: by default a sentence that names the largest effect. Returns a Chart, its figure plotly's. Raises BadInput for
    another frame.
    """
    import plotly.graph_objects as go

    there = set(getattr(frame, "columns", ()))
    across = "head" if "head" in there else "position"
    at = getattr(frame, "attrs", {}).get("at", across)
    needed = {"layer", across, "value", "effect"} | (set() if across == "head" else {"token", "corrupted_token"})
    if not needed <= there:
        raise BadInput("This is no result of lk.patching; give what it returned.")
    if frame.empty:
        raise BadInput("There is nothing to draw: no run was done; call lk.patching again.")
    rows = frame.to_dict("records")
    layers, columns = sorted({r["layer"] for r in rows}), sorted({r[across] for r in rows})
    cells = {(r["layer"], r[across]): r for r in rows}
    effects = [[as_number(cells.get((i, j), {}).get("effect")) for j in columns] for i in layers]
    largest = max((abs(e) for row in effects for e in row if e is not None), default=0.0) or 1.0
    names = {r[across]: _name(r, across) for r in rows}
    figure = go.Figure(
        cells_of(
            effects,
            [[_hover(cells.get((i, j)), at, names[j]) for j in columns] for i in layers],
            reach=largest,
            x=list(range(len(columns))),  # equally wide, whichever positions were patched
            y=layers,
            colorbar={"title": {"text": "effect<br>0 corrupted<br>1 clean"}, "thickness": 14, "outlinewidth": 0},
        )
    )
    figure.update_layout(
        template=template(),
        title=escaped(title) if title is not None else _sentence(rows, at, names, frame.attrs),
        width=min(1100, 230 + max(370, 34 * len(columns))),
        margin={"t": 80},
        height=min(900, 190 + max(230, 22 * len(layers))),
        xaxis={
            "title": "head" if across == "head" else "token",
            "tickangle": 0 if across == "head" else -60,
            **ticks(range(len(columns)), [names[j] for j in columns], most=WRITTEN_OUT),
        },
        yaxis={"title": "layer", "autorange": "reversed", **ticks(layers, most=40)},
    )
    return Chart(figure, as_table(frame))


def _name(row: Row, across: str) -> str:
    """How a column is called: 3 for a head, the two texts' tokens for a position."""
    if across == "head":
        return str(row["head"])
    clean, corrupted = token_text(row["token"]), token_text(row["corrupted_token"])
    return f"{row['position']} {clean}" if clean == corrupted else f"{row['position']} {clean} | {corrupted}"


def _hover(cell: Row | None, at: str, name: str) -> str:
    if cell is None:
        return ""
    kind = "head" if at == "head" else "token"
    return f"layer {cell['layer']}, {kind} {name}<br>effect {cell['effect']:.4f}<br>metric {cell['value']:.5g}"


def _sentence(rows: list[Row], at: str, names: dict[int, str], facts: Row) -> str:
    finite = [r for r in rows if math.isfinite(r["effect"])]
    note = f" (interrupted after {len(rows)} of {facts['runs']} runs)" if facts.get("interrupted") else ""
    if not finite:
        return f"The metric is no finite number in any patched run{note}"
    best = max(finite, key=lambda r: r["effect"])
    if best["effect"] <= 0:
        return f"No single patch brings the clean result back{note}"
    where = f", head {names[best['head']]}" if at == "head" else f" at token {names[best['position']]}"
    what = f"{WHAT.get(at, UNKNOWN)} {best['layer']}{where}"
    return f"Patching {what}<br>brings back {best['effect']:.0%} of the clean result{note}"
