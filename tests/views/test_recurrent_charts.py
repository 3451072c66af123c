"""Charts of recall and of what length costs."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

import labkit as lk
from labkit.recurrent import LengthCosts, recorded_recall
from labkit.recurrent.recalling import Recall, RecallTask

COSTS = pd.DataFrame(
    {
        "model": ["attention"] * 2 + ["<b>space</b>"] * 2,
        "family": ["llama"] * 2 + ["mamba2"] * 2,
        "parameters": [10] * 4,
        "tokens": [64, 1024] * 2,
        "state_bytes": [64_000, 1_024_000, 9_000, 9_000],
        "computed_bytes": pd.array([64_000, 1_024_000, 9_000, None], dtype="Int64"),
        "read_seconds": [0.1, 1.7, 0.2, 3.2],
        "step_seconds": [0.001, 0.004, 0.002, 0.002],
    }
)


def test_recall_by_bytes_of_state(tmp_path: Path) -> None:
    record = recorded_recall()
    chart = lk.views.recall(record)
    points = {trace.name: trace for trace in chart.data if trace.mode == "markers"}
    assert set(points) == {"attention", "state space", "hybrid"}
    own = record.table[(record.table["kind"] == "state space") & (record.table["pairs"] == 16)].sort_values(
        "state_bytes"
    )
    assert list(points["state space"].x) == own["state_bytes"].tolist()
    assert list(points["state space"].y) == own["accuracy"].tolist()
    assert "of 16 pairs" in repr(chart)
    assert "; attention 99% to 100%" in repr(chart)
    dashed = next(trace for trace in chart.data if trace.name == "any value it has read")
    assert list(dashed.y) == pytest.approx([record.task.among_read(16)] * len(dashed.y), abs=1e-5)
    for name, write in (("c.html", chart.to_html), ("c.svg", chart.to_svg)):
        write(tmp_path / name)
        assert "state space" in (tmp_path / name).read_text("utf-8")
    few = lk.views.recall(record, pairs=4)
    assert set(few._table()["pairs"]) == {4}


def test_recall_by_pairs() -> None:
    table = recorded_recall().table
    one = table[(table["d_state"].fillna(16) == 16) & (table["d_model"] == 64) & (table["seed"] == 0)]
    chart = lk.views.recall(Recall(one, RecallTask(), 256, 10, {}, {}))
    line = next(t for t in chart.data if t.mode == "lines" and t.legendgroup == "hybrid")
    assert list(line.x) == [2, 4, 8, 16]
    assert "16 pairs recalled" in repr(chart)
    assert "state space 14% to 98% by its size" in repr(lk.views.recall(recorded_recall(), by="pairs"))
    with pytest.raises(lk.BadInput, match="2, 4, 8 or 16"):
        lk.views.recall(table, pairs=5)
    with pytest.raises(lk.BadInput, match="by="):
        lk.views.recall(table, by="bytes")  # type: ignore[arg-type]
    with pytest.raises(lk.BadInput, match=r"lk\.recurrent\.recall"):
        lk.views.recall(COSTS)


@pytest.mark.parametrize(
    ("measure", "times"),
    [
        ("bytes", "attention 16 times as many, &lt;b&gt;space&lt;/b&gt; the same"),
        ("step", "4 times"),
        ("read", "17 times"),
    ],
)
def test_what_length_costs(measure: str, times: str) -> None:
    chart = lk.views.lengths(LengthCosts(COSTS, 3, 8, 1), measure=measure)  # type: ignore[arg-type]
    assert times in chart.layout.title.text
    assert "<b>space" not in json.loads(chart.figure.to_json())["layout"]["title"]["text"]
    names = [trace.name for trace in chart.data]
    assert ("computed by lk.memory" in names) == (measure == "bytes")
    if measure == "bytes":
        short = [trace for trace in chart.data if trace.name == "computed by lk.memory"][1]
        assert list(short.x) == [64], "what is not known is not drawn"
    with pytest.raises(lk.BadInput, match="measure="):
        lk.views.lengths(COSTS, measure="watts")  # type: ignore[arg-type]
