"""The chart of two models side by side: what it shows, says and refuses."""

from __future__ import annotations

import pandas as pd
import pytest

import labkit as lk


def table(**more: list[object]) -> pd.DataFrame:
    numbers = {
        "value": [1.0, 2.0],
        "other": [1.5, 2.1],
        "difference": [0.5, 0.1],
        "low": [0.2, -0.3],
        "high": [0.8, 0.5],
    }
    return pd.DataFrame({**more, **numbers, "documents": [9, 9]})


def test_it_shows_differences_and_which_leave_0_out() -> None:
    chart = lk.views.compare(table(kind=["prose", "<b>$x$"]))
    (points,) = chart.figure.data
    assert list(points.x) == [0.5, 0.1]
    assert list(points.marker.symbol) == ["circle", "circle-open"]
    assert list(points.error_x.array) == pytest.approx([0.3, 0.4])
    assert list(points.error_x.arrayminus) == pytest.approx([0.3, 0.4])
    assert chart.figure.layout.yaxis.ticktext == ("prose", "&lt;b&gt;&#36;x&#36;")
    assert "1 of 2 intervals leave 0 out" in chart.figure.layout.title.text


def test_a_result_names_its_models(tiny_lab: lk.Lab) -> None:
    found = lk.compare(tiny_lab, tiny_lab.edit(lk.ablate_head(0, 1)), "loss", [[5, 6, 7, 8]] * 6, draws=20)
    chart = lk.views.compare(found)
    assert chart.figure.layout.title.text.startswith("loss: tiny, changed beside tiny; ")
    assert chart.figure.layout.xaxis.title.text == "difference, nats a token"
    assert lk.views.compare(found, title="<i>").figure.layout.title.text == "&lt;i&gt;"


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(lk.BadInput, match=r"give what lk\.compare returned"):
        lk.views.compare(pd.DataFrame({"value": [1.0]}))
    with pytest.raises(lk.BadInput, match="at most"):
        lk.views.compare(pd.concat([table()] * 40))
