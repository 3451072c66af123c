"""Experts against kinds of text as heat maps, and what pruning costs as curves: plotly figures of our template."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from labkit.checks import as_number
from labkit.errors import BadInput
from labkit.results import as_table
from labkit.views.chart import Chart
from labkit.views.kit.plots import (
    DIVERGING,
    GREY,
    INK,
    OKABE_ITO,
    Row,
    at_the_left,
    band,
    below_title,
    check_columns,
    escaped,
    hovers,
    intervals,
    signed,
    template,
    ticks,
    titled,
)
from labkit.views.kit.plots import cells as cells_of

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from plotly.basedatatypes import BaseTraceType

    from labkit.moe import PruningDamage, Specialisation

SPECIALISATION_COLUMNS = ("layer", "kind", "expert", "share", "uniform", "low", "high")
DAMAGE_COLUMNS = ("by", "keep", "kind", "loss_change", "low", "high")
LEVELS = ("untrained_high", "untrained", "uniform")  # what a share is held against unless told, the first that is there
MOST_LAYERS = 12  # small multiples; beyond that every n-th layer is drawn, and the chart says so
MOST_HATCHED = 2_500  # cells with a mark of their own; beyond that they are faded only
WIDE_ENOUGH = 72  # experts, up to which a cell has room for a mark
FADED = 0.3
_BELOW = {"yref": "container", "y": 0.0, "yanchor": "bottom"}
NARROWEST, WIDEST = -3.0, 3.0  # of the colours: an eighth and eight times the uniform share
ROW = 21  # pixels
TOP, BOTTOM = 125, 80  # pixels above and below the maps: title, and axis with key
KEY = 40  # pixels from the maps down to the key, below the axis' own title
# The map has a light paper of its own: its scale runs through nearly white, and faded cells let the paper through, so on a
# dark one neither would mean the same. On it the writing can be darker than that of charts that suit any paper.
PAPER, DARK_INK = "#ffffff", "#3b3b3b"
ALL = "all"  # the mean over the kinds of text
BESIDE = ("random", "chance")  # what is nobody's choice is drawn grey


def specialisation(
    frame: Specialisation | pd.DataFrame, *, chance: str | None = None, title: str | None = None
) -> Chart:
    """How often each expert is chosen for each kind of text: experts across, kinds downward, a map for each layer.

    frame: of `lk.moe.specialisation`, a row for each layer, kind and expert: share of the kind's tokens for which the
        expert is chosen, low and high (its 95 % interval), uniform (what even routing gives), and where they were
        collected, untrained_low and untrained_high (or untrained, the upper one alone): between which 95 % of the shares
        of routers nobody trained lie. Part of it (`frame[frame.layer == 3]`) gives part of the picture.
    chance: the column a share has to exceed; left out, untrained_high, or where there is none, uniform. A cell counts as
        beyond it when its whole interval is; the others are faded and hatched.
    Colour is the share over the uniform share, its middle at 1, on a scale of doublings that ends at 8 and 1/8. Experts
    stand by the kind they are chosen for most, so that each layer has its own order. title: by default a sentence that
    counts. Returns a Chart, its figure plotly's. Raises BadInput for another frame or column.
    """
    from plotly.subplots import make_subplots

    check_columns(frame, SPECIALISATION_COLUMNS, "lk.moe.specialisation")
    columns = set(frame.columns)
    level = chance if chance is not None else next(n for n in LEVELS if n in columns and frame[n].notna().any())
    if level not in columns:
        there = ", ".join(name for name in (*LEVELS, "untrained_largest") if name in columns)
        raise BadInput(f"chance={chance!r} is no column of this frame; there are {there}.")
    every_layer = [int(layer) for layer in sorted(frame.layer.unique())]
    layers = every_layer[:: math.ceil(len(every_layer) / MOST_LAYERS)]
    kinds = list(dict.fromkeys(frame.kind))
    cells = frame.assign(beyond=_beyond(frame, level))
    if cells.duplicated(["layer", "kind", "expert"]).any():
        raise BadInput("The frame has several rows for one layer, kind and expert; give what one call returned.")
    maps = [_map(cells[cells.layer == layer], kinds) for layer in layers]
    reach = min(WIDEST, max(1.0, *(math.ceil(each.reach) for each in maps)))
    experts, block = int(frame.expert.nunique()), ROW * len(kinds) + 46
    hatched = experts <= WIDE_ENOUGH and len(layers) * len(kinds) * experts <= MOST_HATCHED
    figure = make_subplots(
        rows=len(layers),
        cols=1,
        subplot_titles=[f"layer {layer}" for layer in layers],
        vertical_spacing=min(0.5, 46 / block) / len(layers),
    )
    names = [escaped(str(kind)) for kind in kinds]
    figure.update_yaxes(autorange="reversed", **ticks(range(len(kinds)), names))
    figure.update_xaxes(tickfont={"size": 11}, tickangle=0)
    for row, each in enumerate(maps, 1):
        for trace in _traces(each, reach, level, hatched=hatched, showlegend=row == 1):
            figure.add_trace(trace, row=row, col=1)
        most = 40 if experts <= 100 else 24
        figure.update_xaxes(**ticks(range(len(each.experts)), each.experts, most=most), row=row, col=1)
    across = {**titled("expert, by the kind it is chosen for most"), "standoff": 6}
    figure.update_xaxes(title=across, row=len(layers), col=1)
    doublings = list(range(-int(reach), int(reach) + 1))
    height = TOP + BOTTOM - 10 + len(layers) * block
    by_chance = _by_chance(frame, level, every_layer)
    figure.update_layout(
        template=template(),
        title=escaped(title) if title else _specialisation_sentence(cells, by_chance, level, every_layer, layers),
        font={"color": DARK_INK},
        paper_bgcolor=PAPER,
        plot_bgcolor=PAPER,
        height=height,
        margin={"t": TOP, "b": BOTTOM},
        coloraxis={
            "colorscale": DIVERGING,
            "cmin": -reach,
            "cmax": reach,
            "colorbar": {
                "title": titled("share over<br>uniform"),
                "tickvals": doublings,
                "ticktext": [_times(each) for each in doublings],
                "thickness": 14,
                "outlinewidth": 0,
                "len": min(1.0, 260 / (len(layers) * block)),
                "y": 1,
                "yanchor": "top",
            },
        },
        legend={"y": -KEY / (height - TOP - BOTTOM), "yanchor": "top"},
    )
    at_the_left(figure, size=12, color=DARK_INK)
    return Chart(figure, as_table(frame))


class _Map(NamedTuple):
    """One layer. ratio, beyond, text: (kinds, experts), experts in the order they stand in."""

    ratio: np.ndarray
    beyond: np.ndarray
    text: np.ndarray
    experts: list[str]
    reach: float


def _map(part: pd.DataFrame, kinds: list[str]) -> _Map:
    import numpy as np

    share, uniform, beyond, text = (_table(part, name, kinds) for name in ("share", "uniform", "beyond", "hover"))
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.clip(np.log2(share.astype(float) / uniform.astype(float)), NARROWEST, WIDEST)
    order, numbers = _blocks(ratio), sorted(part.expert.unique())
    reach = float(np.nanmax(np.abs(ratio), initial=0.0))
    return _Map(ratio[:, order], beyond[:, order].astype(bool), text[:, order], [str(numbers[i]) for i in order], reach)


def _traces(drawn: _Map, reach: float, level: str, *, hatched: bool, showlegend: bool) -> Iterator[BaseTraceType]:
    """What is beyond the level, what is not and faded, and the hatching of that."""
    import numpy as np
    import plotly.graph_objects as go

    for cells, looks in (
        (drawn.beyond, {"coloraxis": "coloraxis", "colorscale": None, "opacity": 1.0}),
        (~drawn.beyond, {"opacity": FADED}),
    ):
        places = {"x": list(range(cells.shape[1])), "y": list(range(cells.shape[0]))}
        shown = np.where(cells, drawn.ratio, np.nan)
        yield cells_of(shown, drawn.text, reach=reach, showscale=False, **places, **looks)
    where = np.argwhere(~drawn.beyond & ~np.isnan(drawn.ratio)) if hatched else np.zeros((0, 2), int)
    yield go.Scatter(
        x=where[:, 1].tolist() or [None],
        y=where[:, 0].tolist() or [None],
        mode="markers",
        marker={"symbol": "line-ne", "size": 9, "line": {"width": 1, "color": DARK_INK}, "color": DARK_INK},
        hoverinfo="skip",
        name=_faded_name(level),
        legendgroup="faded",
        showlegend=showlegend,
    )


def damage(frame: PruningDamage | pd.DataFrame, *, title: str | None = None) -> Chart:
    """What a text's loss gains as experts are taken away: a line for each way of choosing whom to keep.

    frame: of `lk.moe.damage`, a row for each by (how the kept experts were chosen), keep (how many in each layer) and kind
        of text, "all" for their mean: loss_change (nats a token, pruned − whole), low and high (its 95 % interval). Several
        kinds have a picture each, on one scale. title: by default a sentence that compares the choices where they differ
        most.
    Returns a Chart, its figure plotly's. Raises BadInput for another frame.
    """
    from plotly.subplots import make_subplots

    check_columns(frame, DAMAGE_COLUMNS, "lk.moe.damage")
    ways = list(dict.fromkeys(frame.by))
    kinds = sorted(dict.fromkeys(frame.kind), key=lambda kind: kind != ALL)  # the mean over the kinds comes first
    across = min(3, len(kinds))
    down = math.ceil(len(kinds) / across)
    names = ["all kinds" if kind == ALL else escaped(str(kind)) for kind in kinds]
    figure = make_subplots(
        rows=down,
        cols=across,
        shared_yaxes="all",
        subplot_titles=names if len(kinds) > 1 else None,
        horizontal_spacing=0.04,
        vertical_spacing=0.22 / down if down > 1 else 0.0,
    )
    colours = _colours(ways)
    for at, kind in enumerate(kinds):
        place = {"row": at // across + 1, "col": at % across + 1}
        for i, way in enumerate(ways):
            line = frame[(frame.kind == kind) & (frame.by == way)].sort_values("keep")
            looks = {"colour": colours[way], "symbol": _SYMBOLS[i % len(_SYMBOLS)]}
            for trace in _line(line, kind, way, showlegend=at == 0, **looks):
                figure.add_trace(trace, **place)
        figure.update_xaxes(**ticks(sorted(int(k) for k in frame.keep.unique())), **place)
        figure.update_yaxes(zeroline=True, zerolinecolor=INK, **place)
        if place["row"] == down or at + across >= len(kinds):
            figure.update_xaxes(title=titled("experts kept in each layer"), **place)
        if place["col"] == 1:
            figure.update_yaxes(title=titled("change of the loss, nats a token"), **place)
    figure.update_layout(
        template=template(),
        title=escaped(title) if title else _damage_sentence(frame) + _bands_told(frame),
        height=210 + 290 * down,
        margin={"t": 140, "b": 100},
        legend={**_BELOW, "title": {"text": "kept by ", "font": {"size": 13}}},
    )
    return Chart(figure, as_table(frame))


def _line(
    line: pd.DataFrame, kind: object, way: object, *, colour: str, symbol: str, showlegend: bool
) -> Iterator[BaseTraceType]:
    """A way's line for one kind, and its intervals: a band, or a bar where one alone is known. Nothing without rows."""
    import plotly.graph_objects as go

    if line.empty:
        return
    keep = line.keep.tolist()
    change, low, high = (line[name].astype(float).tolist() for name in ("loss_change", "low", "high"))
    name = escaped(str(way))
    known = [i for i in range(len(keep)) if math.isfinite(low[i]) and math.isfinite(high[i])]
    if len(known) > 1:
        x, bottom, top = ([column[i] for i in known] for column in (keep, low, high))
        yield band(x, bottom, top, colour, name)
    yield go.Scatter(
        x=keep,
        y=change,
        error_y=None if len(known) > 1 else intervals(low, change, high),
        mode="lines+markers",
        name=name,
        legendgroup=name,
        showlegend=showlegend,
        line={"color": colour, "width": 2, "dash": "dot" if way in BESIDE else "solid"},
        marker={"size": 6, "symbol": symbol},
        **hovers(
            [
                f"{escaped(str(kind))}, {k} experts kept by {name}<br>{signed(c, 4)} nats a token "
                f"({signed(a, 4)} to {signed(b, 4)})"
                for k, c, a, b in zip(keep, change, low, high, strict=True)
            ]
        ),
    )


_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "x", "cross", "star")


def _beyond(frame: pd.DataFrame, level: str) -> np.ndarray:
    """Cells whose whole interval lies beyond the level, or below what untrained routers give at least."""
    above: np.ndarray = (frame.low > frame[level]).to_numpy(bool)
    if level.startswith("untrained") and "untrained_low" in frame:
        above = above | (frame.high < frame.untrained_low).to_numpy(bool)
    elif level == "uniform":
        above = above | (frame.high < frame[level]).to_numpy(bool)
    return above


def _table(part: pd.DataFrame, name: str, kinds: list[str]) -> np.ndarray:
    """(kinds, experts) of a column; of "hover", what is said of each cell."""
    if name == "hover":
        part = part.assign(hover=[_specialisation_hover(row) for row in part.to_dict("records")])
    table: np.ndarray = part.pivot(index="kind", columns="expert", values=name).reindex(kinds).to_numpy()
    return table


def _blocks(ratio: np.ndarray) -> list[int]:
    """Places of the experts by the kind each is strongest in, and within it by how strong."""
    import numpy as np

    known = np.where(np.isnan(ratio), -np.inf, ratio)
    strongest, strength = known.argmax(0), known.max(0)
    return [int(i) for i in np.lexsort((np.arange(len(strength)), -strength, strongest))]


def _specialisation_hover(row: Row) -> str:
    lines = [f"layer {row['layer']}, expert {row['expert']}, {escaped(str(row['kind']))}"]
    if row.get("note"):
        lines.append(escaped(str(row["note"])))
    if not math.isfinite(row["share"]):
        return "<br>".join(lines)
    lines.append(f"<b>{row['share']:.4f}</b> of its tokens (95 %: {row['low']:.4f} to {row['high']:.4f})")
    lines.append(f"uniform {row['uniform']:.4f}: {row['share'] / row['uniform']:.2f} times")
    low, high = as_number(row.get("untrained_low")), as_number(row.get("untrained_high", row.get("untrained")))
    if high is not None:
        lines.append(f"untrained routers: {'' if low is None else f'{low:.4f} '}to {high:.4f}")
    lines.append("beyond chance" if row["beyond"] else "within chance")
    return "<br>".join(lines)


def _specialisation_sentence(
    cells: pd.DataFrame, by_chance: str | None, level: str, every: list[int], shown: list[int]
) -> str:
    known = cells[cells.share.notna()]
    thinned = f"{len(shown)} of {len(every)} layers are drawn"
    drawn = "" if len(every) == len(shown) else below_title(thinned)
    if known.empty:
        return f"No kind of text here has enough tokens and documents to say anything{drawn}"
    experts = len(known[["layer", "expert"]].drop_duplicates())
    more = known[known.beyond & (known.share > known.uniform)]
    prefer = len(more[["layer", "expert"]].drop_duplicates())
    than = "untrained routers choose theirs" if level.startswith("untrained") else "even routing would"
    where = f" of layer {every[0]}" if len(every) == 1 else ""
    sentence = f"{prefer} of {experts} experts{where} are chosen for some kind of text<br>more often than {than}"
    if by_chance is not None:  # a level that one in forty exceeds is exceeded by chance too, and here are many
        sentence = (
            f"{prefer} of {experts} experts{where} stand out for some kind of text;<br>"
            f"of an untrained router's {by_chance} would"
        )
    if len(more):
        ratios: pd.Series[float] = more.share / more.uniform
        best = more.loc[ratios.idxmax()]
        place = f"expert {best.expert}" if len(every) == 1 else f"expert {best.expert} of layer {best.layer}"
        most = f"most of all {place}: {ratios.max():.1f} times its even share of {escaped(str(best.kind))}"
        return sentence + below_title(f"{most}; {thinned}" if drawn else most)
    return sentence + drawn


def _by_chance(frame: Specialisation | pd.DataFrame, level: str, layers: list[int]) -> str | None:
    """How many experts of an untrained router would stand out by the same rule, where the result says so."""
    by_layer = getattr(frame, "attrs", {}).get("stand_out_by_layer", {})
    counts = [as_number(by_layer.get(layer, {}).get(level, {}).get("by_chance")) for layer in layers]
    known = [count for count in counts if count is not None]
    if not counts or len(known) < len(counts):
        return None
    return f"about {n}" if (n := round(sum(known))) else "hardly any"


def _faded_name(level: str) -> str:
    if level == "uniform":
        return "faded: can't be told from the uniform share"
    if level.startswith("untrained"):
        return "faded: no more than untrained routers show"
    return f"faded: not beyond {escaped(level)}"


def _damage_sentence(frame: PruningDamage | pd.DataFrame) -> str:
    """All choices, the cheapest first, at the number of experts where they differ most; means over the kinds."""
    experts = frame.attrs.get("experts")
    rows = frame[frame.kind == ALL] if (frame.kind == ALL).any() else frame
    mean = rows.groupby(["keep", "by"], sort=False).loss_change.mean().unstack("by")
    if mean.shape[1] < 2:
        way = mean.columns[0]
        fewest = int(mean.index.min())
        change = float(mean[way].loc[fewest])
        return f"Keeping {fewest} experts by {escaped(str(way))} changes the loss by {signed(change)} nats a token"
    apart = mean.max(axis=1) - mean.min(axis=1)
    if not apart.notna().any():
        return "What experts are kept for makes no difference that could be measured"
    keep = apart.idxmax()
    row = mean.loc[keep].dropna()
    if experts == 2 * keep:
        gone = "Half the experts gone"
    else:
        gone = f"{int(keep)} of {experts} experts kept" if experts else f"{int(keep)} experts kept"
    best, *others = (
        f"{signed(float(change))} nats a token when chosen {_chosen_by(way)}"
        if i == 0
        else f"{signed(float(change))} {_chosen_by(way)}"
        for i, (way, change) in enumerate(row.sort_values(kind="stable").items())
    )
    return f"{gone}: {best},<br>{', '.join(others)}"


def _chosen_by(way: object) -> str:
    if way in BESIDE:
        return "at random"
    return "by measured loss" if way == "measured" else f"by {escaped(str(way))}"


def _bands_told(frame: pd.DataFrame) -> str:
    """What the bands or bars are; nothing where no interval is known."""
    if not (frame.low.notna() & frame.high.notna()).any():
        return ""
    draws = "; for random, where a single draw may fall" if frame.by.isin(BESIDE).any() else ""
    return below_title(f"bands: 95 %, from resampling the documents{draws}")


def _colours(ways: list[str]) -> dict[str, str]:
    free = iter(OKABE_ITO * (1 + len(ways) // len(OKABE_ITO)))
    return {way: GREY if way in BESIDE else next(free) for way in ways}


def _times(doublings: int) -> str:
    if doublings == 0:
        return "1 ×"
    return f"{2**doublings} ×" if doublings > 0 else f"1/{2**-doublings} ×"
