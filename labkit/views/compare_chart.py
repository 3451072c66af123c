"""Two models side by side as a plotly picture of our template: a row a number, its difference and 95 % of it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from labkit.errors import BadInput
from labkit.results import Result, as_table
from labkit.views.chart import Chart
from labkit.views.kit.plots import (
    INK,
    OKABE_ITO,
    Row,
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

NUMBERS = ("value", "other", "difference", "low", "high", "documents")
MOST_ROWS = 60  # of which the names can still be read
ROW_HEIGHT, AROUND = 26, 150  # pixels
LONGEST = 40  # characters of a row's name


def compare(what: Result | pd.DataFrame, *, title: str | None = None) -> Chart:
    """What `lk.compare` returned, or rows of it: the difference between two models, a row for each number.

    Points are other − value, with 95 % where it is known; a filled point has an interval without 0. Both values are said where a
    row is pointed at. title: by default what was compared, and in how many rows the interval leaves 0 out.
    Returns a Chart, its figure plotly's. Raises BadInput for another table, and for more than 60 rows.
    """
    import plotly.graph_objects as go

    check_columns(what, NUMBERS, "lk.compare")
    table = as_table(what)
    if len(table) > MOST_ROWS:
        raise BadInput(
            f"{len(table)} rows can't be read in one chart; give {MOST_ROWS} of them at most, such as result[:60]."
        )
    rows: list[Row] = table.to_dict("records")
    names = [_name(row, number) for number, row in enumerate(rows)]
    apart = [bool(row["low"] > 0 or row["high"] < 0) for row in rows]
    at, low, high = ([float(row[name]) for row in rows] for name in ("difference", "low", "high"))
    unit = what.unit if isinstance(what, Result) else ""
    figure = go.Figure(
        go.Scatter(
            x=at,
            y=list(range(len(rows))),
            mode="markers",
            marker={
                "size": 10,
                "color": OKABE_ITO[0],
                "symbol": ["circle" if clear else "circle-open" for clear in apart],
                "line": {"width": 2, "color": OKABE_ITO[0]},
            },
            error_x={**intervals(low, at, high), "color": OKABE_ITO[0], "thickness": 1.5, "width": 0},
            showlegend=False,
            **hovers([_hover(name, row) for name, row in zip(names, rows, strict=True)]),
        )
    )
    figure.add_vline(x=0, line={"color": INK, "width": 1})
    figure.update_yaxes(
        tickvals=list(range(len(rows))), ticktext=names, range=[len(rows) - 0.5, -0.5], showgrid=False, zeroline=False
    )
    figure.update_xaxes(title=titled(f"difference{f', {escaped(unit)}' if unit else ''}"), zeroline=False)
    figure.update_layout(
        template=template(),
        title=escaped(title) if title else _sentence(what, apart),
        height=AROUND + ROW_HEIGHT * len(rows),
    )
    return Chart(figure, table)


def _name(row: Row, number: int) -> str:
    """A row by its own columns, escaped."""
    own = [str(value) for name, value in row.items() if name not in NUMBERS]
    text = ", ".join(own) if own else ("all" if number == 0 else str(number))
    return escaped(text if len(text) <= LONGEST else text[: LONGEST - 1] + "…")


def _hover(name: str, row: Row) -> str:
    known = math.isfinite(row["low"] + row["high"])
    between = f" ({signed(row['low'], 4)} to {signed(row['high'], 4)})" if known else ""
    return (
        f"<b>{name}</b><br>{row['value']:.4g} and {row['other']:.4g}<br>difference {signed(row['difference'], 4)}{between}"
        f"<br>{row['documents']} documents"
    )


def _sentence(what: object, apart: list[bool]) -> str:
    said = "Two models side by side"
    if isinstance(what, Result):  # of a bare table, `other` is a column
        said = f"{what.measure}: {what.attrs['other']} beside {what.model}"
    many = "the interval leaves 0 out" if len(apart) == 1 else f"{sum(apart)} of {len(apart)} intervals leave 0 out"
    if len(apart) == 1 and not apart[0]:
        many = "the interval holds 0, or is not known"
    return f"{escaped(said)}; {many}"
