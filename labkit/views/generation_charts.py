"""How fast texts are written, as plotly figures of our template: what drafts brought, and what several texts at once bring."""

from __future__ import annotations

from typing import TYPE_CHECKING

from labkit.errors import BadInput
from labkit.results import as_table
from labkit.views.chart import Chart
from labkit.views.kit.plots import (
    GREY,
    INK,
    OKABE_ITO,
    Row,
    at_the_left,
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

    from labkit.generation.batches import Throughput
    from labkit.generation.record import Generation

ACCEPTED, OWN, REJECTED = OKABE_ITO[0], OKABE_ITO[4], GREY
VERIFYING, DRAFTING = OKABE_ITO[2], OKABE_ITO[1]
THROUGHPUT_COLUMNS = ("batch", "tokens_per_second", "relative", "first_token_seconds", "cache_bytes")
MOST_TICKS = 16
ROOM = 1.08  # of an axis, to the top of its highest bar


def drafts(generation: Generation, *, title: str | None = None) -> Chart:
    """What became of a text's drafts, round by round: tokens accepted, the model's own, those rejected; and the seconds.

    generation: written with speculation. A bar's whole height is the bound, what the pass would have brought had every token
    been accepted. Below it, seconds for verifying and for drafting. title: by default a sentence that says what a pass brought.
    Returns a Chart, its figure plotly's; its table is `generation.speculation.table` with the round. Raises BadInput where
    nothing was speculated.
    """
    from plotly.subplots import make_subplots

    made = generation.speculation
    if made is None or not made.rounds:
        raise BadInput("There is nothing to draw; give a text written with speculation=, of two tokens or more.")
    rounds = list(range(1, len(made.rounds) + 1))
    said = [_round_hover(number, one) for number, one in zip(rounds, made.table.to_dict("records"), strict=True)]
    taken = [min(one.accepted, one.kept) for one in made.rounds]
    own = [one.kept - count for one, count in zip(made.rounds, taken, strict=True)]
    parts = {
        "drafted and accepted": (ACCEPTED, taken),
        "the model's own": (OWN, own),
        "drafted in vain": (REJECTED, [len(one.proposed) - n for one, n in zip(made.rounds, taken, strict=True)]),
    }
    seconds = {
        "verifying": (VERIFYING, [one.verify_seconds for one in made.rounds]),
        "drafting": (DRAFTING, [one.draft_seconds for one in made.rounds]),
    }
    figure = make_subplots(
        rows=2, cols=1, shared_xaxes=True, vertical_spacing=0.14, subplot_titles=("tokens", "seconds")
    )
    at_the_left(figure, size=12)
    for row, these in ((1, parts), (2, seconds)):
        for name, (colour, heights) in these.items():
            figure.add_bar(x=rounds, y=heights, name=name, marker_color=colour, row=row, col=1, **hovers(said))
        highest = max(map(sum, zip(*(heights for _, heights in these.values()), strict=True)))
        figure.update_yaxes(range=[0, ROOM * highest], row=row, col=1)
    sentence = (
        f"A pass brought {made.tokens_per_pass:.2f} tokens, at most {made.perfect_tokens_per_pass:.2f}"
        + below_title(f"{made.accepted:,} of {made.proposed:,} tokens drafted by {escaped(made.draft)} were accepted")
    )
    figure.update_layout(
        template=template(),
        barmode="stack",
        height=460,
        title=escaped(title) if title else sentence,
        margin={"t": 90, "b": 96},
    )
    figure.update_layout(legend={"y": -0.16, "yanchor": "top"})  # below the name of the lower axis
    figure.update_xaxes(**ticks(rounds, most=MOST_TICKS))
    figure.update_xaxes(title=titled("round"), row=2, col=1)
    return Chart(figure, made.table.set_axis(rounds).rename_axis("round").reset_index())


def throughput(frame: Throughput | pd.DataFrame, *, title: str | None = None) -> Chart:
    """Tokens a second by how many texts are written at once, beside a line of what as many alone would be if none were slowed.

    frame: of `lab.throughput`. title: by default a sentence that says what the largest gain is.
    Returns a Chart, its figure plotly's. Raises BadInput for another frame.
    """
    import plotly.graph_objects as go

    check_columns(frame, THROUGHPUT_COLUMNS, "lab.throughput")
    rows: list[Row] = as_table(frame).to_dict("records")
    places, sizes = list(range(len(rows))), [int(row["batch"]) for row in rows]
    first, best = rows[0], max(rows, key=lambda row: row["tokens_per_second"])
    said = [
        f"{row['batch']:,} at once<br>{row['tokens_per_second']:,.1f} tokens a second, {row['relative']:.2f} times<br>first "
        f"token after {row['first_token_seconds']:.3g} s"
        for row in rows
    ]
    figure = go.Figure()
    figure.add_bar(
        x=places, y=[row["tokens_per_second"] for row in rows], name="measured", marker_color=ACCEPTED, **hovers(said)
    )
    top = 1.15 * best["tokens_per_second"]
    linear = [first["tokens_per_second"] * size / sizes[0] for size in sizes]
    shown = [(place, y) for place, y in zip(places, linear, strict=True) if y <= top] or [(0, linear[0])]
    figure.add_scatter(
        x=[place for place, _ in shown],
        y=[y for _, y in shown],
        name="if none slowed the others",
        mode="lines+markers",
        line={"color": INK, "dash": "dash"},
        hoverinfo="skip",
    )
    few = "one alone" if sizes[0] == 1 else f"{sizes[0]:,}"
    gain = f"{best['batch']:,} texts at once bring {best['relative']:.1f} times the tokens a second of {few}"
    if best is first:
        gain = f"More texts at once bring no more tokens a second than {few}"
    figure.update_layout(
        template=template(),
        height=360,
        title=escaped(title) if title else gain,
        xaxis=ticks(places, [f"{size:,}" for size in sizes]) | {"title": titled("texts at once")},
        yaxis={"title": titled("tokens a second, all texts"), "range": [0, top]},
    )
    return Chart(figure, as_table(frame))


def _round_hover(number: int, row: Row) -> str:
    return (
        f"round {number}<br>{row['proposed']} drafted, {row['accepted']} accepted, {row['kept']} kept<br>"
        f"{row['draft_seconds']:.3g} s drafting, {row['verify_seconds']:.3g} s verifying"
    )
