"""The chart of doses: what stands where, what its sentence says, and strange texts that must stay text."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from typing import Any

import pandas as pd
import pytest

import labkit as lk
from labkit.views.dose_chart import LONGEST_EXAMPLE, OKABE_ITO, doses

HOSTILE = "<img src=x onerror=alert(1)>"
SHARES = {"feature": (0, 0, 0.2, 0), "means": (0, 0, 0, 0.1), "random feature": (0, 0, 0, 0)}
LOSSES = {
    "feature": (1.3, 1.43, 2.07, 2.78),
    "means": (1.3, 1.67, 2.56, 4.08),
    "random feature": (1.3, 1.45, 2.14, 3.45),
}
INTERVALS = {0: (0.0, 0.28), 0.1: (0.02, 0.4), 0.2: (0.06, 0.51), 0.3: (0.1, 0.6), 1: (0.72, 1.0)}


def table(shares: dict[str, tuple[float, ...]] = SHARES, strengths: tuple[float, ...] = (0, 40, 80, 120)) -> Any:
    """As lk.sae.dose returns it; at 120 the feature's continuations break."""
    rows = [
        {
            "direction": name,
            "strength": float(strength),
            "share": share,
            "low": INTERVALS[share][0],
            "high": INTERVALS[share][1],
            "loss": loss,
            "loss_low": loss - 0.1,
            "loss_high": loss + 0.3,
            "broken": 0.3 if (name, strength) == ("feature", 120) else 0.0,
            "example": f"{name} said at {strength}",
        }
        for name, of in shares.items()
        for strength, share, loss in zip(strengths, of, LOSSES[name], strict=True)
    ]
    frame = pd.DataFrame(rows)
    frame.attrs = {"prompts": 10, "tokens": 16, "model": "m", "sae": "s"}
    return frame


def panel(figure: Any, row: int) -> list[Any]:
    return [t for t in figure.data if (t.yaxis or "y") == ("y" if row == 1 else "y2") and t.x[0] is not None]


def points(figure: Any, row: int) -> dict[str, Any]:
    return {t.name: t for t in panel(figure, row) if t.customdata is not None}


def lines(figure: Any, row: int) -> list[Any]:
    return [t for t in panel(figure, row) if t.mode == "lines" and t.legendgroup != "zero"]


def key(figure: Any) -> dict[str, Any]:
    return {t.name: t for t in figure.data if t.showlegend is None}


def said(figure: Any) -> list[str]:
    return figure.layout.title.text.split("<br>")


def drawn(figure: Any) -> str:
    return json.dumps(figure.to_plotly_json(), default=str, ensure_ascii=False)


def test_points_and_intervals_are_those_of_the_table() -> None:
    figure = doses(table())
    share, loss = points(figure, 1)["feature"], points(figure, 2)["feature"]
    assert list(share.y) == [0, 20, 0]
    assert list(share.error_y.array) == pytest.approx([28, 31, 28])
    assert list(share.error_y.arrayminus) == pytest.approx([0, 14, 0])
    assert list(loss.y) == [1.43, 2.07, 2.78]
    assert list(loss.error_y.array) == pytest.approx([0.3] * 3)
    assert list(loss.error_y.arrayminus) == pytest.approx([0.1] * 3)
    low, high = figure.layout.yaxis.range
    assert low <= 0 < 100 <= high, "shares stand on the whole scale"
    assert list(figure.layout.yaxis.ticktext) == [f"{n}\u00a0%" for n in (0, 25, 50, 75, 100)]
    assert figure.layout.xaxis.matches == "x2", "one axis of strengths"
    assert list(figure.layout.xaxis2.ticktext) == ["0", "40", "80", "120"]


def test_strength_zero_is_drawn_once_and_every_line_starts_there() -> None:
    figure = doses(table())
    for row, level in ((1, 0), (2, 1.3)):
        zero = points(figure, row)["without steering"]
        assert (list(zero.x), list(zero.y)) == ([0], [level])
        assert all(0 not in t.x for name, t in points(figure, row).items() if name != "without steering")
        assert len(lines(figure, row)) == 3
        assert all((t.x[0], t.y[0]) == (0, level) for t in lines(figure, row))
        across = next(t for t in panel(figure, row) if t.legendgroup == "zero" and t.mode == "lines")
        assert list(across.y) == [level, level]
        assert across.x[0] < 0 < 120 < across.x[1]


def test_directions_that_differ_at_strength_zero_keep_their_points() -> None:
    frame = table()
    frame.loc[0, "loss"] = 1.9
    figure = doses(frame)
    assert "without steering" not in points(figure, 1)
    assert list(points(figure, 2)["feature"].y) == [1.9, 1.43, 2.07, 2.78]
    assert said(figure)[1].startswith("it costs 0.17 nats a token"), "against the direction's own strength 0"


def test_directions_stand_beside_each_other_by_less_than_the_strengths_do() -> None:
    for frame in (table(), table(strengths=(0, 79, 80, 81)), table()[lambda t: t.strength == 80]):
        figure = doses(frame)
        xs = [list(t.x) for name, t in points(figure, 1).items() if name != "without steering"]
        for at in zip(*xs, strict=True):
            assert len(set(at)) == 3
            assert list(at) == sorted(at)
        places = [x for at in zip(*xs, strict=True) for x in at]
        assert places == sorted(places), "no point stands among those of another strength"
        low, high = figure.layout.xaxis.range
        assert low < min(places)
        assert max(places) < high
        rings = [t for t in panel(figure, 1) if t.name == "broken"]
        assert all(x in xs[0] for t in rings for x in t.x)


def test_each_direction_has_a_look_of_its_own_and_chance_is_grey() -> None:
    names = ["feature", *(f"direction {i}" for i in range(12)), "random direction"]
    frame = pd.concat([table()[lambda t: t.direction == "feature"].assign(direction=name) for name in names])
    looks = {}
    for name, entry in key(doses(frame)).items():
        if name in names:
            looks[name] = (entry.line.color, entry.marker.symbol, entry.line.dash)
    assert list(looks) == names
    assert len({look[:2] for look in looks.values()}) == len(names), "colour and symbol alone tell them apart"
    colours, symbols, dashes = zip(*(looks[name] for name in names[:5]), strict=True)
    assert all(len(set(each)) == 5 for each in (colours, symbols, dashes))
    assert looks["random direction"][0] not in OKABE_ITO
    assert looks["random direction"][2] == "dot"
    figure = doses(table())
    for name, entry in key(figure).items():
        if name in SHARES:
            for row in (1, 2):
                dots = points(figure, row)[name]
                assert dots.marker.color == dots.error_y.color == entry.line.color
                assert (dots.marker.symbol, dots.legendgroup) == (entry.marker.symbol, entry.legendgroup)
                (line,) = (t for t in lines(figure, row) if t.legendgroup == entry.legendgroup)
                assert (line.line.color, line.line.dash) == (entry.line.color, entry.line.dash)


def test_what_broke_has_a_ring_and_says_so() -> None:
    figure = doses(table())
    for row, level in ((1, 0), (2, 2.78)):
        (ring,) = (t for t in panel(figure, row) if t.name == "broken")
        assert list(ring.y) == [level]
        assert ring.x[0] == points(figure, row)["feature"].x[-1]
        assert ring.marker.symbol == "circle-open"
        assert ring.legendgroup == key(figure)["feature"].legendgroup, "it goes when its direction does"
    assert any("broke" in name for name in key(figure))
    texts = points(figure, 2)["feature"].customdata
    assert "30\u00a0% broke" in texts[2]
    assert "broke" not in texts[0] + texts[1]
    whole = doses(table().assign(broken=0.0))
    assert not any("broke" in name for name in key(whole))
    assert not any(t.name == "broken" for t in whole.data)


def test_the_hover_has_the_numbers_and_the_example() -> None:
    text = points(doses(table()), 2)["feature"].customdata[1]
    assert text.split("<br>") == [
        "<b>feature</b>, strength 80",
        "concept in 20\u00a0% (6 to 51\u00a0%)",
        "loss 2.0700 nats a token (1.97 to 2.37)",
        "an example:",
        "“feature said at 80”",
    ]


def test_the_sentence_names_the_best_its_price_and_its_rival() -> None:
    first, second, *notes = said(doses(table(), concept="a whale"))
    assert first == "“feature” at strength 80 brings a whale most often: into 20\u00a0% of the texts;"
    assert second == "it costs 0.77 nats a token; its interval overlaps that of “means”"
    note = " ".join(notes)
    assert notes[0].endswith("20\u00a0% (6 to 51\u00a0%), without steering 0\u00a0% (0 to 28\u00a0%)"), (
        "whole notes in a line"
    )
    assert "best other: “means” at 120, 10\u00a0% (2 to 40\u00a0%)" in note
    assert "“random feature” at 80 costs 0.84, brings 0\u00a0%" in note
    assert "bars: 95 %, 10 prompts" in note
    figure = doses(table())
    mark = figure.layout.annotations[-1]
    assert mark.text == "<b>20\u00a0%</b>"
    assert mark.x == points(figure, 1)["feature"].x[1]
    assert mark.y == 51, "above the interval"


@pytest.mark.parametrize(
    ("shares", "first", "second"),
    [
        ({"feature": (0, 0, 1, 0), "means": (0, 0, 0, 0.1)}, "most often: into 100\u00a0%", "lies above that of “means”"),
        ({"feature": (0, 0.2, 0.2, 0), "means": (0, 0, 0.2, 0)}, "“feature” at strength 40", "“means” brings it as often"),
        ({"means": (0, 0, 0.2, 0), "feature": (0, 0, 0.2, 0)}, "“feature” at strength 80", "“means” brings it as often"),
        ({"means": (0, 0, 0, 0.1), "feature": (0, 0, 0, 0)}, "“means” at strength 120", "it costs 2.78 nats a token"),
        ({"feature": (0, 0, 0.2, 0)}, "brings the concept into 20\u00a0%", "its interval overlaps that without steering"),
        ({"feature": (0, 1, 0, 0)}, "brings the concept into 100\u00a0%", "its interval lies above that without steering"),
    ],
)  # fmt: skip
def test_the_sentence_of_other_results(shares: dict[str, tuple[float, ...]], first: str, second: str) -> None:
    found = said(doses(table(shares)))
    assert first in found[0]
    assert second in found[1]


def test_a_long_sentence_is_broken_evenly() -> None:
    frame = table()
    frame["direction"] = frame.direction.replace({"feature": "a feature with a long name", "means": "another"})
    found = said(doses(frame, concept="something about whales"))[:3]
    assert " ".join(found).startswith(
        "“a feature with a long name” at strength 80 brings something about whales most often: into 20\u00a0% of the texts; "
        "it costs 0.77 nats a token; its interval overlaps that of “another”"
    )
    assert max(map(len, found)) <= 80
    assert min(map(len, found)) > 40, "evenly, with no word alone"


def test_the_sentence_where_steering_brings_nothing() -> None:
    figure = doses(table({"feature": (0, 0, 0, 0), "means": (0, 0, 0, 0)}))
    assert " ".join(said(figure)).startswith("Steering brings the concept into no continuation")
    assert len(figure.layout.annotations) == 2, "nothing is marked as the best"
    same = doses(table({"feature": (0.3, 0.1, 0.3, 0), "means": (0.3, 0, 0, 0)}))
    assert "no more often than it comes without: 30\u00a0% of continuations" in " ".join(said(same))
    alone = doses(table()[lambda t: t.strength == 0])
    assert "strength 0 alone" in said(alone)[0]


def test_a_lower_loss_is_no_price_and_a_broken_winner_is_told() -> None:
    frame = table()
    frame.loc[2, ["loss", "broken"]] = 1.0, 0.4
    found = said(doses(frame))
    assert found[1].startswith("the loss falls by 0.30 nats a token;")
    assert "40\u00a0% of these continuations broke" in " ".join(found[2:])
    frame.loc[2, "loss"] = 1.3
    assert said(doses(frame))[1].startswith("it costs nothing;")


def test_without_strength_zero() -> None:
    figure = doses(table()[lambda t: t.strength > 0])
    assert "without steering" not in points(figure, 1)
    assert "without steering" not in key(figure)
    assert not [t for t in figure.data if t.legendgroup == "zero"]
    assert said(figure)[1].startswith("the loss is 2.07 nats a token; ")
    assert list(figure.layout.xaxis.tickvals) == [40, 80, 120]


def test_negative_strengths_run_through_zero() -> None:
    frame = table({"feature": (0, 0.2, 0, 0)}, strengths=(0, -40, 40, 80))
    figure = doses(frame)
    (line,) = lines(figure, 1)
    assert list(line.x) == [-40, 0, 40, 80]
    assert list(line.y) == [20, 0, 0, 0]
    assert "at strength −40" in said(figure)[0]


def test_numbers_that_are_not_known_leave_gaps() -> None:
    frame = table()
    frame.loc[2, ["loss", "loss_low", "loss_high"]] = math.nan
    frame.loc[3, "loss"] = math.inf
    figure = doses(frame)
    loss = points(figure, 2)["feature"]
    assert loss.y[0] == 1.43
    assert all(math.isnan(y) for y in loss.y[1:])
    assert list(loss.error_y.array)[1:] == [0, 0]
    assert "loss not known nats" not in loss.customdata[1]
    assert "loss not known" in loss.customdata[1]
    assert said(figure)[1].startswith("what it costs is not known; its interval overlaps")
    assert list(points(figure, 1)["feature"].y) == [0, 20, 0]
    figure = doses(table().assign(low=math.nan, high=math.nan, loss_low=math.nan, loss_high=math.nan))
    assert said(figure)[1] == "it costs 0.77 nats a token"
    assert "interval" not in figure.layout.title.text
    assert "bars" not in figure.layout.title.text
    assert "No share" in said(doses(table().assign(share=math.nan)))[0]
    assert doses(table().assign(loss=None)).to_json()


def test_strange_texts_stay_text() -> None:
    frame = table()
    frame["direction"] = frame.direction.replace({"feature": HOSTILE, "means": "$x^2$\n\u202eevil"})
    strange = (HOSTILE, "a\nb\r\nc\td", "long " * 1000, "w" * 5000, "0", "\ud800\x00\u2028", "$x$ &lt;", *[None] * 5)
    frame["example"] = pd.Series(strange, dtype=object)
    figure = doses(frame, concept="<b>whale</b>\n$x$")
    shown = drawn(figure)
    for raw in ("<img", "<b>whale", "$", "\u202e", "\ud800", "\x00", "\u2028", "\t"):
        assert raw not in shown.replace("\\t", "\t"), repr(raw)
    assert "&lt;img src=x onerror=alert(1)&gt;" in points(figure, 2)["without steering"].customdata[0]
    first = next(iter(points(figure, 2).values())).customdata
    assert "“a ↵ b ↵ c ⇥ d”" in first[0]
    for text in first:
        assert len(text.split("<br>")) < 12
        assert max(map(len, text.split("<br>"))) < 100
        assert len(text) < LONGEST_EXAMPLE + 250
    assert "…" in first[1]
    assert "&amp;lt;" in shown
    figure.to_json().encode("utf-8")
    titled = doses(frame, title=f"{HOSTILE} mine")
    assert said(titled)[0] == "&lt;img src=x onerror=alert(1)&gt; mine"


def test_long_names_are_cut_and_texts_of_joined_letters_are_not() -> None:
    family = "👩\u200d👩\u200d👧"
    frame = table()
    frame["direction"] = frame.direction.replace({"feature": "x" * 500, "means": "x" * 499})
    figure = doses(frame.assign(example=family), concept="c" * 500)
    assert max(len(name) for name in key(figure)) < 60
    assert max(map(len, said(figure))) < 150
    assert family in points(figure, 1)["without steering"].customdata[0]
    assert len({t.legendgroup for t in lines(figure, 1)}) == 3, "names that look the same are not one"


@pytest.mark.parametrize(
    "wrong",
    [
        None,
        {"direction": []},
        table().drop(columns="loss"),
        table().iloc[:0],
        pd.concat([table(), table()]),
        table().assign(strength=math.nan),
        table().assign(share="many"),
    ],
)
def test_another_table_is_refused(wrong: Any) -> None:
    with pytest.raises(lk.BadInput, match=r"lk\.sae\.dose returned"):
        doses(wrong)


def test_a_concept_needs_a_name() -> None:
    for wrong in ("", " \n", 3):
        with pytest.raises(lk.BadInput, match="concept="):
            doses(table(), concept=wrong)  # type: ignore[arg-type]


def test_the_table_is_left_as_it_was() -> None:
    frame = table()
    doses(frame)
    pd.testing.assert_frame_equal(frame, table())


def test_it_is_among_the_views_and_brings_no_widgets_with_it() -> None:
    assert "doses" in lk.views.__all__
    assert lk.views.doses is doses
    code = (
        "import sys, labkit.views\n"
        "labkit.views.doses\n"
        "assert not {'anywidget', 'torch', 'labkit.sae'} & set(sys.modules), 'a chart needs none of them'\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
