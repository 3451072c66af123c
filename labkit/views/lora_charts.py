"""What a tuning changed, layer by layer, and recorded tunings beside each other: plotly figures of our template."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from numbers import Real
from typing import TYPE_CHECKING

import numpy as np

from labkit import checks
from labkit.errors import BadInput
from labkit.results import as_table
from labkit.statistics import median_interval
from labkit.views.chart import Chart
from labkit.views.kit.plots import (
    GREY,
    OKABE_ITO,
    Row,
    at_the_left,
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

    from labkit.lora.weight_changes import Updates

UPDATE_COLUMNS = ("layer", "matrix", "rank", "norm", "relative", "effective_rank", "null_effective_rank")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "cross", "star")
MOST_PANELS = 12
LOGARITHMIC = 16  # times the smallest, from where values across are spaced by their ratio
ASIDE = 0.14  # of the distance of two places, between lines that stand at one place
PANEL = 250  # pixels
ABOVE = 96  # pixels, for a title, the line below it, and the names of the panels


def updates(frame: Updates | pd.DataFrame, *, title: str | None = None) -> Chart:
    """What a tuning changed: the size of ΔW beside W, and its effective rank, by layer, a line for each matrix.

    frame: of `lk.lora.updates`. Dashed and grey: the effective rank of random changes of the same shape and rank. Matrices
        outside the layers stand in the table alone.
    title: by default a sentence that names what moved most. Returns a Chart, its figure plotly's. Raises BadInput for another
    frame, and for one without a matrix in a layer.
    """
    from plotly.subplots import make_subplots

    check_columns(frame, UPDATE_COLUMNS, "lk.lora.updates")
    table = as_table(frame)
    inside = table[table["layer"].notna()].sort_values("layer", kind="stable")
    check_columns(inside, UPDATE_COLUMNS, "lk.lora.updates of matrices in the layers")
    figure = make_subplots(
        rows=2,
        cols=1,
        shared_xaxes=True,
        vertical_spacing=0.13,
        subplot_titles=["Size beside the weights, ‖ΔW‖ / ‖W‖", "Effective rank of ΔW, beside that of random changes"],
    )
    at_the_left(figure, size=13)
    for number, name in enumerate(dict.fromkeys(inside["matrix"])):
        own: list[Row] = inside[inside["matrix"] == name].to_dict("records")
        layers = [int(row["layer"]) for row in own]
        looks = {
            "x": layers,
            "mode": "lines+markers",
            "name": escaped(str(name)),
            "legendgroup": escaped(str(name)),
            "line": {"color": OKABE_ITO[number % len(OKABE_ITO)], "width": 2},
            "marker": {"size": 6, "symbol": SYMBOLS[number % len(SYMBOLS)]},
            **hovers([_update_hover(row) for row in own]),
        }
        figure.add_scatter(y=[100 * row["relative"] for row in own], row=1, col=1, **looks)
        figure.add_scatter(y=[row["effective_rank"] for row in own], row=2, col=1, showlegend=False, **looks)
        figure.add_scatter(
            x=layers,
            y=[row["null_effective_rank"] for row in own],
            row=2,
            col=1,
            mode="lines" if len(own) > 1 else "markers",
            name="random changes of the same rank",
            legendgroup="random",
            showlegend=number == 0,
            line={"color": GREY, "dash": "dash", "width": 1.5},
            marker={"size": 6, "color": GREY, "symbol": "x"},
            hoverinfo="skip",
        )
    count = int(inside["layer"].max() - inside["layer"].min()) + 1
    figure.update_layout(
        template=template(),
        title=escaped(title) if title else _update_sentence(table, inside, str(getattr(frame, "name", "The tuning"))),
        height=590,
        margin={"t": ABOVE},
    )
    figure.update_xaxes(title=titled("layer"), dtick=max(1, math.ceil(count / 15)), showgrid=False, row=2, col=1)
    figure.update_yaxes(title=titled("% of ‖W‖"), rangemode="tozero", row=1, col=1)
    figure.update_yaxes(title=titled("effective rank"), rangemode="tozero", row=2, col=1)
    return Chart(figure, table)


def _update_hover(row: Row) -> str:
    return (
        f"layer {int(row['layer'])}, {escaped(str(row['matrix']))}<br><b>{row['relative']:.3%}</b> of ‖W‖ "
        f"(‖ΔW‖ {row['norm']:.4g})<br>effective rank <b>{row['effective_rank']:.2f}</b> of {int(row['rank'])}; random changes "
        f"{row['null_effective_rank']:.2f}"
    )


def _update_sentence(table: pd.DataFrame, inside: pd.DataFrame, name: str) -> str:
    most = inside.loc[inside["relative"].idxmax()]
    where = f"{escaped(str(most['matrix']))} of layer {int(most['layer'])}"
    moved = f"{escaped(name)} moves {where} most: {most['relative']:.2%} of it"
    own, random = float(inside["effective_rank"].median()), float(inside["null_effective_rank"].median())
    ranks = f"median effective rank {own:.1f} of {int(inside['rank'].max())}; of random changes {random:.1f}"
    left = len(table) - len(inside)
    if left:
        ranks += f"; {left} matri{'x' if left == 1 else 'ces'} outside the layers not drawn"
    return moved + below_title(ranks)


# recorded tunings -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Point:
    """The values of several seeds at one place, and their median."""

    at: object
    values: np.ndarray
    median: float
    low: float
    high: float
    coverage: float


def runs(
    records: pd.DataFrame,
    *,
    x: str,
    y: str | Sequence[str],
    by: str | None = None,
    panel: str | None = None,
    seed: str = "seed",
    title: str | None = None,
) -> Chart:
    """Recorded tunings beside each other: a small chart for each measure, in each the median over seeds with its interval.

    records: a row for each tuning.  x: the column across, such as "rank" or "learning_rate"; numbers that span more than 16
        times are spaced by their ratio, texts stand in the order in which they come.
    y: the column of what was measured, or several, a chart each.  by: a column whose values are lines of their own.
    panel: a column whose values get charts of their own.  seed: the column that tells runs of one setting apart.

    The interval is that of the median by the ranks of the values, without any assumption on their distribution: 95 % where
    there are six seeds or more; of fewer it reaches from the lowest to the highest and holds the median less often, which is
    said. Of one seed there is none. Single runs are the small points.
    Returns a Chart, its figure plotly's, with the medians and their intervals as the table. Raises BadInput for columns that
    are not there or hold no numbers, two runs of one setting with one seed, and more than 12 charts.
    """
    from plotly.subplots import make_subplots

    table = as_table(records)
    measures = [y] if isinstance(y, str) else list(y)
    _check_records(table, [x, *measures, *([by] if by else []), *([panel] if panel else [])], measures)
    _check_seeds(table, [name for name in (x, by, panel) if name], seed)
    panels = list(dict.fromkeys(table[panel])) if panel else [None]
    if len(measures) * len(panels) > MOST_PANELS:
        raise BadInput(f"These would be {len(measures) * len(panels)} charts; give at most {MOST_PANELS}.")
    lines = list(dict.fromkeys(table[by])) if by else [None]
    places = _places(table[x])
    across = len(panels) if panel else min(len(measures), 2)
    down = math.ceil(len(measures) * len(panels) / across)
    names = [
        _words(measure) + ("" if value is None else f", {_words(value)}") for measure in measures for value in panels
    ]
    figure = make_subplots(
        rows=down,
        cols=across,
        subplot_titles=[escaped(name) for name in names],
        horizontal_spacing=0.1,
        vertical_spacing=0.16 / down + 0.06,
    )
    figure.update_annotations(font={"size": 13})
    found = []
    for number, (measure, value) in enumerate((measure, value) for measure in measures for value in panels):
        cell = {"row": number // across + 1, "col": number % across + 1}
        part = table if value is None else table[table[panel] == value]
        for k, line in enumerate(lines):
            points = _points(part if line is None else part[part[by] == line], x, measure)
            shift = (k - (len(lines) - 1) / 2) * ASIDE * _distance(places) / max(1, len(lines) - 1) if by else 0.0
            _draw(figure, cell, points, places, shift, k, line, measure, showlegend=number == 0 and by is not None)
            found += [
                {
                    "measure": measure,
                    **({} if panel is None else {panel: value}),
                    **({} if by is None else {by: line}),
                    x: point.at,
                    "seeds": len(point.values),
                    "median": point.median,
                    "low": point.low,
                    "high": point.high,
                    "coverage": point.coverage,
                }
                for point in points
            ]
        named = ticks(list(places.values()), [_words(at) for at in places], most=10)
        figure.update_xaxes(title=titled(escaped(_words(x))), **named, **cell)
    import pandas as pd

    medians = pd.DataFrame(found)
    figure.update_layout(
        template=template(),
        title=(escaped(title) if title else _runs_sentence(medians, x, measures[0], by)) + below_title(_bars(medians)),
        height=150 + PANEL * down,
        margin={"t": ABOVE},
    )
    return Chart(figure, medians)


def _check_records(table: object, columns: Sequence[str], measures: Sequence[str]) -> None:
    there = [str(name) for name in getattr(table, "columns", ())]
    if not there or not len(table):  # type: ignore[arg-type] # what has columns has rows
        raise BadInput("There is nothing to draw; give a DataFrame with a row for each tuning.")
    for name in columns:
        if name not in there:
            raise BadInput(
                f"The records have no column {name!r}{checks.near(name, there)}; they have {checks.listed(there)}."
            )
    for name in measures:
        if getattr(table, "dtypes")[name].kind not in "biuf":  # noqa: B009 - of a DataFrame alone
            raise BadInput(f"The column {name!r} holds no numbers, and y= is what was measured; give such a column.")


def _check_seeds(table: pd.DataFrame, setting: list[str], seed: str) -> None:
    """Two runs of one setting are two seeds; otherwise something that differs between them would pass for chance."""
    if seed not in table:
        if table.duplicated(setting).any():
            raise BadInput(f"Several records have one {checks.listed(setting)} and no column {seed!r}; name it: seed=.")
        return
    if table.duplicated([*setting, seed]).any():
        raise BadInput(
            f"Two records have one {checks.listed([*setting, seed])}, so they differ in something else; choose among the "
            "records, or draw it with by= or panel=."
        )


def _places(values: pd.Series) -> dict[object, float]:
    """Where each value of the axis stands, in its order."""
    there = list(dict.fromkeys(value for value in values if not missing(value)))
    if not all(isinstance(value, Real) and not isinstance(value, bool | np.bool_) for value in there):
        return {value: float(i) for i, value in enumerate(there)}
    there = sorted(there)
    if there[0] > 0 and there[-1] / there[0] >= LOGARITHMIC:
        return {value: math.log2(value) for value in there}
    return {value: float(value) for value in there}


def _distance(places: dict[object, float]) -> float:
    """The smallest between two places."""
    at = sorted(places.values())
    return min((b - a for a, b in pairwise(at)), default=1.0)


def _points(part: pd.DataFrame, x: str, measure: str) -> list[_Point]:
    found = []
    for at, rows in part.groupby(x, sort=False):
        values = rows[measure].to_numpy(np.float64, na_value=np.nan)
        values = values[np.isfinite(values)]
        if len(values):
            found.append(_Point(at, values, *median_interval(values)))
    return found


def _draw(
    figure: go.Figure,
    cell: dict[str, int],
    points: list[_Point],
    places: dict[object, float],
    shift: float,
    k: int,
    line: object,
    measure: str,
    *,
    showlegend: bool,
) -> None:
    if not points:
        return
    points = sorted(points, key=lambda point: places[point.at])
    colour, name = OKABE_ITO[k % len(OKABE_ITO)], escaped(_words(line))
    figure.add_scatter(
        x=[places[point.at] + shift for point in points for _ in point.values],
        y=[float(value) for point in points for value in point.values],
        mode="markers",
        marker={"size": 4, "color": colour},
        opacity=0.45,
        legendgroup=name,
        showlegend=False,
        hoverinfo="skip",
        **cell,
    )
    medians = [point.median for point in points]
    figure.add_scatter(
        x=[places[point.at] + shift for point in points],
        y=medians,
        error_y={
            **intervals([point.low for point in points], medians, [point.high for point in points]),
            "thickness": 1.4,
            "width": 4,
        },
        mode="lines+markers",
        name=name,
        legendgroup=name,
        showlegend=showlegend,
        line={"color": colour, "width": 2},
        marker={"size": 8, "color": colour, "symbol": SYMBOLS[k % len(SYMBOLS)]},
        **hovers([_run_hover(point, line, measure) for point in points]),
        **cell,
    )


def _run_hover(point: _Point, line: object, measure: str) -> str:
    what = escaped(", ".join(_words(each) for each in (line, point.at) if each is not None))
    seeds = f"{len(point.values)} seed{'' if len(point.values) == 1 else 's'}"
    between = ""
    if math.isfinite(point.low):
        between = f" ({point.low:.4g} to {point.high:.4g}, {point.coverage:.0%})"
    return f"{what}<br>{escaped(_words(measure))}, median of {seeds}: <b>{point.median:.4g}</b>{between}"


def _words(value: object) -> str:
    """A column's name or value as it is read."""
    if isinstance(value, Real) and not isinstance(value, bool | np.bool_):
        return f"{float(value):g}".replace("-", "−")
    return str(value).replace("_", " ")


def _bars(medians: pd.DataFrame) -> str:
    """What the bars are."""
    known = medians[medians["coverage"].notna()]
    if known.empty:
        return "one seed each: no interval"
    least, most = float(known["coverage"].min()), int(medians["seeds"].max())
    seeds = f"{int(medians['seeds'].min())} to {most} seeds" if medians["seeds"].nunique() > 1 else f"{most} seeds"
    if least >= 0.95:
        return f"median of {seeds}; bars: 95 % of it"
    return f"median of {seeds}; bars: lowest to highest, which hold it in {least:.0%} of such draws"


def _runs_sentence(medians: pd.DataFrame, x: str, measure: str, by: str | None) -> str:
    """Between which values the first measure's median goes, and where."""
    own = medians[medians["measure"] == measure]
    if own.empty:
        return f"{escaped(_words(measure))}: nothing was measured"

    def where(row: pd.Series) -> str:
        of = f", {escaped(_words(row[by]))}" if by else ""
        return f"{escaped(_words(x))} {escaped(_words(row[x]))}{of}"

    low, high = own.loc[own["median"].idxmin()], own.loc[own["median"].idxmax()]
    said = f"{escaped(_words(measure)).capitalize()} goes from {low['median']:.3g} ({where(low)})"
    return f"{said} to {high['median']:.3g} ({where(high)})"
