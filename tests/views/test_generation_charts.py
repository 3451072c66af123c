"""Charts of drafts and of batches: their bars are the record's numbers."""

from __future__ import annotations

import pandas as pd
import pytest
from generations import speculated, story, throughput_table

import labkit as lk


def test_bars_of_drafts_reach_the_bound() -> None:
    gen = speculated()
    chart = lk.views.drafts(gen)
    by_name = {trace.name: list(trace.y) for trace in chart.figure.data}
    assert by_name["drafted and accepted"] == [3, 0, 2]
    assert by_name["the model's own"] == [1, 1, 0]
    assert by_name["drafted in vain"] == [1, 2, 1]
    tokens = [by_name[name] for name in ("drafted and accepted", "the model's own", "drafted in vain")]
    assert [sum(heights) for heights in zip(*tokens, strict=True)][:2] == [5, 3], "proposed and one"
    assert by_name["verifying"] == [0.0625, 0.03125, 0.03125]
    assert chart.figure.layout.yaxis.range[1] > 5, "the bars are within the picture"
    assert chart.figure.layout.yaxis2.range[1] > 0.5625
    assert by_name["drafting"] == [0.5, 0.25, 0.25]
    assert "A pass brought 2.33 tokens, at most 4.00" in chart.figure.layout.title.text
    assert "5 of 9 tokens drafted by a &lt;small&gt; model were accepted" in chart.figure.layout.title.text
    assert chart.table["round"].tolist() == [1, 2, 3]
    assert lk.views.drafts(gen, title="<b>").figure.layout.title.text == "&lt;b&gt;"


def test_without_drafts_there_is_nothing_to_draw() -> None:
    with pytest.raises(lk.BadInput, match="speculation="):
        lk.views.drafts(story())


def test_bars_of_batches_stand_beside_what_none_slowed_would_be() -> None:
    chart = lk.views.throughput(throughput_table())
    measured, linear = chart.figure.data
    assert list(measured.y) == [24.0, 40.0, 96.5]
    assert list(linear.y) == [24.0, 48.0], "beyond the picture it is not drawn"
    assert chart.figure.layout.title.text == "8 texts at once bring 4.0 times the tokens a second of one alone"
    with pytest.raises(lk.BadInput, match=r"lab\.throughput"):
        lk.views.throughput(pd.DataFrame({"batch": [1]}))
