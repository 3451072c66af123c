"""What steering brings and what it costs, by strength: two plotly pictures of our template, one above the other."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable, Iterator
from itertools import pairwise
from numbers import Real
from typing import TYPE_CHECKING

from labkit.checks import as_number
from labkit.errors import BadInput
from labkit.results import as_table
from labkit.views.chart import Chart
from labkit.views.kit.plots import (
    GREY,
    INK,
    OKABE_ITO,
    Row,
    at_the_left,
    check_columns,
    escaped,
    hovers,
    intervals,
    missing,
    template,
    titled,
)

if TYPE_CHECKING:
    import pandas as pd
    import plotly.graph_objects as go

NUMBERS = ("strength", "share", "low", "high", "loss", "loss_low", "loss_high", "broken")
COLUMNS = ("direction", *NUMBERS, "example")
UNSTEERED = "cross"  # the symbol of strength 0
# As many symbols as share no divisor with the seven colours, so that it takes long until two directions look the same; none
# is a ring, which says "broke" and must go around any of them.
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "star", "triangle-down")
DASHES = ("solid", "dash", "dashdot", "longdash", "longdashdot")
BESIDE = "random"  # what is nobody's choice is drawn grey and dotted
SIZE, RING = 9, 17  # pixels
MOST_TICKS = 12  # strengths written out
LONGEST_NAME = 32  # characters of a direction or of the concept
LONGEST_EXAMPLE = 320  # characters
HOVER_COLUMNS, TITLE_COLUMNS, NOTE_COLUMNS = 64, 80, 92
SHARE, LOSS = 1, 2  # the rows of the picture
NBSP = "\u00a0"
JOINERS = "\u200c\u200d"  # invisible, and part of how some scripts and emoji are written


def doses(table: pd.DataFrame, *, concept: str = "the concept", title: str | None = None) -> Chart:
    """What steering brings (how often the concept comes) and what it costs (how implausible the text becomes), by strength.

    table: of `lk.sae.dose`, a row per direction and strength: share of the continuations that have the concept, low and
        high (its 95 % interval), loss (nats a token that the model without steering gives to what was written), loss_low,
        loss_high, broken (share that ended in a loop), example. Part of it (`table[table.strength >= 0]`) gives part of
        the picture.
    concept: what is counted, as a word or two, such as "whales".
    Points with a ring are strengths at which some continuations broke. Where all directions have the same numbers at
    strength 0, as without steering they must, they share one point, and a line carries its level across. Directions stand
    a little beside each other, so that no interval hides another. title: by default a sentence that says which direction
    brings most, at what price, and whether its interval overlaps that of the best other one.
    Returns a Chart, its figure plotly's. Raises BadInput for another table.
    """
    from plotly.subplots import make_subplots

    rows = _checked(table)
    if not isinstance(concept, str) or not concept.strip():
        raise BadInput(f"concept={concept!r} is no name; give a word or two, such as concept='whales'.")
    drawn = _Drawn(rows)
    figure = make_subplots(
        rows=2,
        cols=1,
        shared_xaxes=True,
        vertical_spacing=0.14,
        subplot_titles=[
            f"<b>What it brings</b>: continuations with {_text(concept)}",
            "<b>What it costs</b>: loss, in nats a token, that the unsteered model gives to the text",
        ],
    )
    for panel, column in ((SHARE, "share"), (LOSS, "loss")):
        for trace in _panel(drawn, column):
            figure.add_trace(trace, row=panel, col=1)
    figure.add_traces(list(_key(drawn)))
    _mark_best(figure, drawn)
    _set_axes(figure, drawn)
    at_the_left(figure, 2, size=13, color=INK)
    said = [title] if title else _sentence(rows, drawn.zero, concept)
    _set_heading(figure, said, _notes(rows, drawn.zero, table.attrs))
    return Chart(figure, as_table(table))


class _Drawn:
    """The rows, and where and how each direction is drawn."""

    def __init__(self, rows: list[Row]) -> None:
        self.rows, self.zero = rows, _unsteered(rows)
        self.names = list(dict.fromkeys(row["direction"] for row in rows))
        self.strengths = sorted({row["strength"] for row in rows} | ({0.0} if self.zero else set()))
        self.step, self.span = _apart(self.strengths, len(self.names))
        self.looks = _looks(self.names)
        self.ends = [self.strengths[0] - self.span, self.strengths[-1] + self.span]

    def beside(self, name: str) -> float:
        """How far a direction stands from its strength."""
        return (self.names.index(name) - (len(self.names) - 1) / 2) * self.step

    def own(self, name: str) -> list[Row]:
        """A direction's rows, without that which stands for all."""
        return [row for row in self.rows if row["direction"] == name and not (self.zero and row["strength"] == 0)]


def _panel(drawn: _Drawn, column: str) -> Iterator[go.Scatter]:
    """One of the two pictures: the level of strength 0, then each direction's line, points and rings."""
    import plotly.graph_objects as go

    zero = drawn.zero
    quiet = {"mode": "lines", "hoverinfo": "skip", "showlegend": False}
    if zero is not None and math.isfinite(zero[column]):
        level = _scaled(zero[column], column)
        line = {"color": INK, "width": 1}
        yield go.Scatter(x=drawn.ends, y=[level, level], line=line, legendgroup="zero", **quiet)
    for i, name in enumerate(drawn.names):
        colour, symbol, dash = drawn.looks[name]
        own, beside, group = drawn.own(name), drawn.beside(name), f"direction {i}"
        along = sorted([*own, zero] if zero else own, key=lambda row: row["strength"])
        yield go.Scatter(
            x=[row["strength"] if row is zero else row["strength"] + beside for row in along],
            y=[_scaled(row[column], column) for row in along],
            line={"color": colour, "width": 2, "dash": dash},
            legendgroup=group,
            **quiet,
        )
        yield _points(own, column, beside, colour, symbol, name=_text(name), group=group)
        if broke := [row for row in own if row["broken"] > 0]:
            yield _rings(broke, column, beside, group)
    if zero is not None:
        yield _points([zero], column, 0.0, INK, UNSTEERED, name="without steering", group="zero")


def _key(drawn: _Drawn) -> Iterator[go.Scatter]:
    """The key is drawn for itself: colour, symbol and dash of each direction."""
    import plotly.graph_objects as go

    def entry(name: str, group: str, marker: dict[str, object], line: dict[str, object] | None = None) -> go.Scatter:
        mode = "lines+markers" if line else "markers"
        return go.Scatter(x=[None], y=[None], mode=mode, name=name, legendgroup=group, line=line, marker=marker)

    for i, name in enumerate(drawn.names):
        colour, symbol, dash = drawn.looks[name]
        line = {"color": colour, "width": 2, "dash": dash}
        yield entry(_text(name), f"direction {i}", {"size": SIZE, "symbol": symbol, "color": colour}, line)
    if drawn.zero is not None:
        looks = {"size": SIZE, "symbol": UNSTEERED, "color": INK}
        yield entry("without steering", "zero", looks, {"color": INK, "width": 1})
    if any(row["broken"] > 0 for row in drawn.rows):
        ring = {"size": 14, "symbol": "circle-open", "color": INK, "line": {"width": 2}}
        yield entry("ringed: some continuations broke (looped)", "broken", ring)


def _mark_best(figure: go.Figure, drawn: _Drawn) -> None:
    best = _best(drawn.rows, drawn.zero)
    if best is None:
        return
    figure.add_annotation(
        x=best["strength"] + drawn.beside(best["direction"]),
        y=_scaled(max(best["share"], best["high"] if math.isfinite(best["high"]) else 0.0), "share"),
        text=f"<b>{_percent(best['share'])}</b>",
        showarrow=False,
        yanchor="bottom",
        yshift=3,
        font={"size": 15},
        row=SHARE,
        col=1,
    )


def _set_axes(figure: go.Figure, drawn: _Drawn) -> None:
    few = len(drawn.strengths) <= MOST_TICKS
    ticks = {"tickvals": drawn.strengths, "ticktext": [_plain(s) for s in drawn.strengths]} if few else {}
    figure.update_xaxes(range=drawn.ends, zeroline=False, showgrid=False, **ticks)
    figure.update_xaxes(title=titled("strength of the push along the direction"), row=LOSS, col=1)
    percents = [0, 25, 50, 75, 100]
    written = [_percent(each / 100) for each in percents]
    figure.update_yaxes(range=[-5, 105], tickvals=percents, ticktext=written, zeroline=False, row=SHARE, col=1)
    figure.update_yaxes(zeroline=False, row=LOSS, col=1)


def _set_heading(figure: go.Figure, said: list[str], notes: list[str]) -> None:
    """The sentence and the notes below it, in as many lines as they take, and the room for them."""
    if any(len(part) > TITLE_COLUMNS for part in said):
        said = [" ".join(said)]
    head = [line for part in said for line in _wrapped(part, TITLE_COLUMNS)]
    below = _packed(notes)
    above = 34 + 20 * len(head) + 18 * len(below)  # pixels: where the text ends
    figure.update_layout(
        template=template(),
        title={
            "text": "<br>".join(head) + f"<br><span style='font-size:12px'>{'<br>'.join(below)}</span>",
            "y": 1,
            "yref": "container",
            "yanchor": "top",
            "pad": {"t": 30},
        },
        height=above + 510,
        margin={"t": above + 38, "b": 100},
        legend={"yref": "container", "y": 0.0, "yanchor": "bottom"},
        hoverlabel={"align": "left"},
    )


def _checked(table: pd.DataFrame) -> list[Row]:
    """The rows, with plain numbers; what is no finite number is NaN."""
    check_columns(table, COLUMNS, "lk.sae.dose")
    rows: list[Row] = table[list(COLUMNS)].to_dict("records")
    for row in rows:
        row["direction"] = str(row["direction"])
        for name in NUMBERS:
            row[name] = _number(row[name], name)
        if not math.isfinite(row["strength"]):
            raise BadInput("A row of the table has no strength; give the DataFrame that lk.sae.dose returned.")
    if len({(row["direction"], row["strength"]) for row in rows}) < len(rows):
        raise BadInput("The table has several rows for one direction and strength; give what one lk.sae.dose returned.")
    return rows


def _number(value: object, column: str) -> float:
    if isinstance(value, bool) or not (missing(value) or isinstance(value, Real)):
        raise BadInput(f"The column {column} holds what is no number; give what lk.sae.dose returned.")
    found = as_number(value)
    return math.nan if found is None else found


def _unsteered(rows: list[Row]) -> Row | None:
    """The one row that stands for strength 0, where all directions that have it say the same."""
    found = [row for row in rows if row["strength"] == 0]
    same = {tuple(repr(row[name]) for name in NUMBERS[1:]) for row in found}
    return found[0] if len(same) == 1 else None


def _apart(strengths: list[float], directions: int) -> tuple[float, float]:
    """How far directions stand beside each other at one strength, and how far the axis goes on beyond the outermost."""
    if len(strengths) == 1:
        width = max(1.0, abs(strengths[0]))
        return 0.03 * width, 0.5 * width
    width = strengths[-1] - strengths[0]
    gap = min(b - a for a, b in pairwise(strengths))
    step = min(0.018 * width, 0.5 * gap / max(1, directions))
    return step, 0.05 * width + step * directions / 2


def _looks(names: list[str]) -> dict[str, tuple[str, str, str]]:
    """Colour, symbol and dash of each direction; the first that was drawn at random is grey and dotted."""
    chance = next((name for name in names if _by_chance(name)), None)
    looks, at = {}, 0
    for i, name in enumerate(names):
        symbol = SYMBOLS[i % len(SYMBOLS)]
        if name == chance:
            looks[name] = (GREY, symbol, "dot")
        else:
            looks[name] = (OKABE_ITO[at % len(OKABE_ITO)], symbol, DASHES[at % len(DASHES)])
            at += 1
    return looks


def _points(
    rows: list[Row], column: str, beside: float, colour: str, symbol: str, *, name: str, group: str
) -> go.Scatter:
    """Points with their intervals, and what is said of each."""
    at, low, high = (
        [_scaled(row[each], column) for row in rows]
        for each in ((column, "low", "high") if column == "share" else (column, "loss_low", "loss_high"))
    )
    marker = {"size": SIZE, "symbol": symbol, "color": colour}
    bars = {**intervals(low, at, high), "color": colour, "thickness": 1.5, "width": 0}
    said = hovers([_hover(row, name) for row in rows])
    return _marks(rows, column, beside, group, name=name, marker=marker, error_y=bars, **said)


def _rings(rows: list[Row], column: str, beside: float, group: str) -> go.Scatter:
    """Around the points of strengths at which continuations broke."""
    marker = {"size": RING, "symbol": "circle-open", "color": INK, "line": {"width": 2}}
    return _marks(rows, column, beside, group, name="broken", marker=marker, hoverinfo="skip")


def _marks(rows: list[Row], column: str, beside: float, group: str, **looks: object) -> go.Scatter:
    import plotly.graph_objects as go

    x, y = [row["strength"] + beside for row in rows], [_scaled(row[column], column) for row in rows]
    return go.Scatter(x=x, y=y, mode="markers", legendgroup=group, showlegend=False, cliponaxis=False, **looks)


def _hover(row: Row, name: str) -> str:
    without = row["strength"] == 0
    lines = [f"<b>{name}</b>" + ("" if without else f", strength {_plain(row['strength'])}")]
    lines.append(f"concept in {_percent(row['share'])}{_between(row, 'low', 'high', _percent)}")
    unit = " nats a token" if math.isfinite(row["loss"]) else ""
    lines.append(f"loss {_nats(row['loss'], 4)}{unit}{_between(row, 'loss_low', 'loss_high', _nats)}")
    if row["broken"] > 0:
        lines.append(f"{_percent(row['broken'])} broke: they end in a loop")
    example = row["example"]
    if isinstance(example, str) and example.strip():
        lines += ["an example:", *_wrapped(f"“{_shown(example.strip(), LONGEST_EXAMPLE)}”", HOVER_COLUMNS)]
    return "<br>".join(lines)


def _best(rows: list[Row], zero: Row | None) -> Row | None:
    """The row in which steering brings most; of equals that which costs least. None where it brings no more than nothing."""
    steered = [row for row in rows if row["strength"] != 0 and math.isfinite(row["share"])]
    best = min(steered, key=_rank, default=None)
    least = zero["share"] if zero and math.isfinite(zero["share"]) else 0.0
    return best if best and best["share"] > least else None


def _rank(row: Row) -> tuple[float, float, float]:
    return (-row["share"], row["loss"] if math.isfinite(row["loss"]) else math.inf, abs(row["strength"]))


def _rival(rows: list[Row], best: Row) -> Row | None:
    """The best row of the other directions."""
    others = [r for r in rows if r["direction"] != best["direction"] and r["strength"] and math.isfinite(r["share"])]
    return min(others, key=_rank, default=None)


def _overlap(a: Row, b: Row) -> bool | None:
    """Whether the intervals of two shares overlap; None where one is not known."""
    if not all(math.isfinite(row[end]) for row in (a, b) for end in ("low", "high")):
        return None
    return bool(a["low"] <= b["high"] and b["low"] <= a["high"])


def _sentence(rows: list[Row], zero: Row | None, concept: str) -> list[str]:
    """Which direction brings most; below it, what that costs and whether it is more than the best of the others' (or than
    comes by itself). Not yet escaped."""
    steered = [row for row in rows if row["strength"] != 0]
    if not steered:
        return ["Nothing was steered here: the table has strength 0 alone"]
    if not any(math.isfinite(row["share"]) for row in steered):
        return ["No share of this table is a number"]
    best, what = _best(rows, zero), _shown(concept, LONGEST_NAME)
    if best is None:
        if zero and zero["share"] > 0:
            return [
                f"Steering brings {what} no more often than it comes without: {_percent(zero['share'])} of continuations"
            ]
        return [f"Steering brings {what} into no continuation, whatever the direction and strength"]
    rival = _rival(rows, best)
    most = "most often: " if rival else ""
    brings = (
        f"{_quoted(best['direction'])} at strength {_plain(best['strength'])} brings {what} {most}"
        f"into {_percent(best['share'])} of the texts;"
    )
    price = _price(best, _base(rows, zero, best))
    other = rival or zero
    overlap = _overlap(best, other) if other else None
    whose = f"that of {_quoted(rival['direction'])}" if rival else "that without steering"
    if rival and rival["share"] == best["share"]:
        price += f"; {_quoted(rival['direction'])} brings it as often"
    elif overlap is not None:
        price += f"; its interval {'overlaps' if overlap else 'lies above'} {whose}"
    return [brings, price]


def _notes(rows: list[Row], zero: Row | None, attrs: Row) -> list[str]:
    """The numbers behind the sentence, and what the bars are; not yet escaped."""
    notes = []
    best = _best(rows, zero)
    if best is not None:
        notes.append(f"{_percent(best['share'])}{_between(best, 'low', 'high', _percent)}")
        if zero:
            notes[0] += f", without steering {_percent(zero['share'])}{_between(zero, 'low', 'high', _percent)}"
        if rival := _rival(rows, best):
            where = f"{_quoted(rival['direction'])} at {_plain(rival['strength'])}"
            notes.append(f"best other: {where}, {_percent(rival['share'])}{_between(rival, 'low', 'high', _percent)}")
        chance = next((r for r in rows if _by_chance(r["direction"]) and r["strength"] == best["strength"]), None)
        if chance and chance is not best and (base := _base(rows, zero, chance)):
            brought, cost = _percent(chance["share"]), _nats(chance["loss"] - base["loss"])
            notes.append(
                f"{_quoted(chance['direction'])} at {_plain(chance['strength'])} costs {cost}, brings {brought}"
            )
        if best["broken"] > 0:
            notes.append(f"{_percent(best['broken'])} of these continuations broke")
    if any(
        math.isfinite(row[low] + row[high])
        for row in rows
        for low, high in (("low", "high"), ("loss_low", "loss_high"))
    ):
        prompts = attrs.get("prompts")
        notes.append("bars: 95 %" + (f", {prompts} prompts" if isinstance(prompts, int) else ""))
    return notes


def _base(rows: list[Row], zero: Row | None, row: Row) -> Row | None:
    """What the loss of a row is held against: strength 0."""
    return zero or next((r for r in rows if r["direction"] == row["direction"] and r["strength"] == 0), None)


def _price(row: Row, base: Row | None) -> str:
    if not math.isfinite(row["loss"]):
        return "what it costs is not known"
    if base is None or not math.isfinite(base["loss"]):
        return f"the loss is {_nats(row['loss'])} nats a token"
    cost = row["loss"] - base["loss"]
    if abs(cost) < 0.005:
        return "it costs nothing"
    return f"it costs {_nats(cost)} nats a token" if cost > 0 else f"the loss falls by {_nats(-cost)} nats a token"


def _by_chance(name: str) -> bool:
    return name.lower().startswith(BESIDE)


def _scaled(value: float, column: str) -> float:
    return 100 * value if column == "share" else value


def _between(row: Row, low: str, high: str, written: Callable[[float], str]) -> str:
    if not math.isfinite(row[low] + row[high]):
        return ""
    return f" ({written(row[low]).removesuffix(NBSP + '%')} to {written(row[high])})"


def _percent(share: float) -> str:
    if not math.isfinite(share):
        return "not known"
    if 0 < share < 0.005:
        return f"under 1{NBSP}%"
    return f"over 99{NBSP}%" if 0.995 < share < 1 else f"{100 * share:.0f}{NBSP}%"


def _nats(value: float, digits: int = 2) -> str:
    return f"{value:.{digits}f}".replace("-", "−") if math.isfinite(value) else "not known"


def _plain(strength: float) -> str:
    return f"{strength:g}".replace("-", "−")


def _quoted(name: str) -> str:
    return f"“{_shown(name, LONGEST_NAME)}”"


def _text(name: str) -> str:
    return escaped(_shown(name, LONGEST_NAME))


def _shown(text: str, longest: int) -> str:
    """Text in which line breaks can be seen, cut where it is long, without what would turn or hide the text around it."""
    text = text if len(text) <= longest else text[: longest - 1] + "…"
    text = text.replace("\r\n", "\n")
    signs = {"\n": " ↵ ", "\r": " ↵ ", "\t": " ⇥ "}
    text = "".join(signs.get(c, " " if c.isspace() else c) for c in text)
    return "".join(c if c.isprintable() or c in JOINERS else "�" for c in text)


def _wrapped(text: str, columns: int) -> list[str]:
    """Escaped lines of at most so many characters, about equally long, so that no word stands alone."""
    lines = textwrap.wrap(text, columns, break_on_hyphens=False)
    fewest = len(lines)
    narrow = math.ceil(len(text) / max(1, fewest))
    for width in range(narrow, columns):
        if len(evenly := textwrap.wrap(text, width, break_on_hyphens=False)) == fewest:
            lines = evenly
            break
    return [escaped(line) for line in lines]


def _packed(notes: list[str]) -> list[str]:
    """Escaped lines, each of as many whole notes as it has room for."""
    lines: list[str] = []
    for note in notes:
        if lines and len(lines[-1]) + len(note) + 3 <= NOTE_COLUMNS:
            lines[-1] += f" · {note}"
        else:
            lines.append(note)
    return [part for line in lines for part in _wrapped(line, NOTE_COLUMNS)]
