"""Charts of tunings: what moved by layer beside random changes, and recorded runs with the interval of their median."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import binom

import labkit as lk
from labkit.statistics import median_interval


def updates_table(**more: Any) -> pd.DataFrame:
    rows = [
        {
            "layer": layer,
            "matrix": name,
            "rank": 8,
            "norm": 1.0,
            "relative": 0.01 * (layer + i + 1),
            "effective_rank": 3.0 + i,
        }
        for layer in range(4)
        for i, name in enumerate(("q_proj", "v_proj"))
    ]
    return pd.DataFrame(rows).assign(null_effective_rank=7.25, **more)


def records(seeds: int = 3, ranks: tuple[int, ...] = (1, 4, 16, 64)) -> pd.DataFrame:
    rows = [
        {"rank": rank, "method": method, "seed": seed, "accuracy": 0.1 * i + 0.01 * seed + 0.5 * (method == "dora")}
        for method in ("lora", "dora")
        for i, rank in enumerate(ranks)
        for seed in range(seeds)
    ]
    return pd.DataFrame(rows)


def traces(chart: Any, name: str) -> list[Any]:
    return [trace for trace in chart.data if trace.name == name]


def test_each_matrix_is_a_line_beside_random_changes() -> None:
    chart = lk.views.updates(updates_table())
    size, rank = traces(chart, "q_proj")
    assert list(size.x) == [0, 1, 2, 3]
    assert list(size.y) == pytest.approx([1.0, 2.0, 3.0, 4.0])
    assert list(rank.y) == [3.0] * 4
    random = traces(chart, "random changes of the same rank")
    assert [list(trace.y) for trace in random] == [[7.25] * 4] * 2
    assert [trace.showlegend for trace in random] == [True, False]
    title = chart.layout.title.text
    assert "moves v_proj of layer 3 most: 5.00% of it" in title
    assert "median effective rank 3.5 of 8; of random changes 7.2" in title


def test_a_matrix_outside_the_layers_is_told_and_in_the_table() -> None:
    frame = updates_table()
    frame = pd.concat([frame, frame.tail(1).assign(layer=None, matrix="lm_head")])
    chart = lk.views.updates(frame)
    assert "1 matrix outside the layers not drawn" in chart.layout.title.text
    assert len(chart.table) == len(frame)
    with pytest.raises(lk.BadInput, match=r"lk\.lora\.updates"):
        lk.views.updates(frame[frame["layer"].isna()])
    with pytest.raises(lk.BadInput, match=r"lk\.lora\.updates"):
        lk.views.updates(frame.drop(columns="relative"))


def test_medians_and_their_intervals_are_drawn() -> None:
    chart = lk.views.runs(records(), x="rank", y="accuracy", by="method")
    (line,) = (trace for trace in traces(chart, "lora") if trace.mode == "lines+markers")
    assert list(line.y) == pytest.approx([0.01, 0.11, 0.21, 0.31])
    assert list(line.error_y.array) == pytest.approx([0.01] * 4)
    assert list(line.error_y.arrayminus) == pytest.approx([0.01] * 4)
    assert np.diff(line.x) == pytest.approx([2.0] * 3), "ranks are spaced by their ratio"
    table = chart.table
    assert table["coverage"].tolist() == pytest.approx([0.75] * 8)
    assert "hold it in 75% of such draws" in chart.layout.title.text
    assert "Accuracy goes from 0.01 (rank 1, lora) to 0.81 (rank 64, dora)" in chart.layout.title.text
    points = [trace for trace in chart.data if trace.mode == "markers"]
    assert sum(len(trace.y) for trace in points) == len(records()), "each run is a point"


def test_panels_and_measures_are_small_multiples() -> None:
    frame = pd.concat([records().assign(task="dates"), records().assign(task="roman")]).assign(forgetting=0.5)
    chart = lk.views.runs(frame, x="rank", y=["accuracy", "forgetting"], by="method", panel="task")
    titles = [annotation.text for annotation in chart.layout.annotations]
    assert titles == ["accuracy, dates", "accuracy, roman", "forgetting, dates", "forgetting, roman"]
    assert len(chart.table) == 2 * 2 * 2 * 4
    with pytest.raises(lk.BadInput, match="at most 12"):
        lk.views.runs(frame, x="rank", y=["accuracy"] * 7, panel="task", by="method")


def test_settings_that_are_texts_stand_in_their_order() -> None:
    frame = pd.DataFrame({"schedule": ["linear", "cosine", "schedule_free"], "loss": [1.0, 0.75, float("nan")]})
    chart = lk.views.runs(frame, x="schedule", y="loss")
    assert list(chart.layout.xaxis.ticktext) == ["linear", "cosine", "schedule free"]
    assert chart.table["schedule"].tolist() == ["linear", "cosine"]
    assert "one seed each: no interval" in chart.layout.title.text


def test_runs_that_differ_in_something_unsaid_are_refused() -> None:
    with pytest.raises(lk.BadInput, match="differ in something else"):
        lk.views.runs(records(), x="rank", y="accuracy")
    with pytest.raises(lk.BadInput, match="seed="):
        lk.views.runs(records().drop(columns="seed"), x="rank", y="accuracy", by="method")
    with pytest.raises(lk.BadInput, match="accuracy"):
        lk.views.runs(records(), x="rank", y="acuracy")
    with pytest.raises(lk.BadInput, match="no numbers"):
        lk.views.runs(records(), x="rank", y="method")
    with pytest.raises(lk.BadInput, match="nothing to draw"):
        lk.views.runs(records().head(0), x="rank", y="accuracy")


@pytest.mark.parametrize("n", [2, 5, 6, 9, 20])
def test_the_median_lies_between_as_often_as_is_said(n: int) -> None:
    rng = np.random.default_rng(n)
    drawn = rng.exponential(size=(4_000, n))
    found = np.array([median_interval(row) for row in drawn])
    inside = (found[:, 1] <= np.log(2)) & (found[:, 2] >= np.log(2))
    coverage = found[0, 3]
    assert inside.mean() == pytest.approx(coverage, abs=0.02)
    assert coverage >= 0.95 or n < 6
    if n >= 6:  # one rank further in would cover less than 95 %
        k = int(np.searchsorted(np.sort(drawn[0]), found[0, 1]))
        assert 1 - 2 * binom.cdf(k + 1, n, 0.5) < 0.95


def test_a_single_value_has_no_interval() -> None:
    median, *rest = median_interval(np.array([2.0]))
    assert median == 2.0
    assert np.isnan(rest).all()
