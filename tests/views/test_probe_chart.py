"""The chart of probes: each line is what was measured, what is missing is not drawn, and the title claims no more."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
import torch

import labkit as lk
from labkit.circuits import Probe
from labkit.circuits.probing import Baseline

LAYERS = [0, 1, 2]


def table(**more: list[float]) -> pd.DataFrame:
    columns = {"layer": LAYERS, "accuracy": [0.5, 0.75, 0.9], "low": [0.4, 0.65, 0.8], "high": [0.6, 0.85, 0.95]}
    return pd.DataFrame(columns | more)


def result(**more: list[float]) -> Probe:
    columns = {"control": [0.4, 0.45, 0.5], "selectivity": [0.1, 0.3, 0.4], "over_tokens": [-0.1, 0.15, 0.3]}
    columns |= {"over_tokens_low": [-0.2, 0.0, 0.2], "over_tokens_high": [0.0, 0.3, 0.4]}
    normals = {layer: torch.zeros(1, 4) for layer in LAYERS}
    return Probe(
        table=table(**(columns | more)),
        at="residual",
        position="last",
        classes=("true", "false <b>"),
        chance=0.5,
        token=Baseline(0.6, 0.5, 0.7),
        bag=Baseline(0.55, 0.45, 0.65),
        control_by="token",
        texts=80,
        groups=80,
        folds=5,
        seed=0,
        model="tiny",
        normals=normals,
        spans={layer: torch.zeros(1) for layer in LAYERS},
    )


def drawn(chart: Any) -> dict[str, list[float]]:
    return {trace.name: list(trace.y) for trace in chart.figure.data if trace.name}


def title(chart: Any) -> str:
    return str(chart.figure.layout.title.text)


def test_each_line_is_what_was_measured() -> None:
    chart = lk.views.probe(result())
    assert drawn(chart) == {
        "control task": [0.4, 0.45, 0.5],
        "token alone": [0.6] * 3,
        "bag of tokens": [0.55] * 3,
        "most frequent class": [0.5] * 3,
        "probe, 95 %": [0.5, 0.75, 0.9],
    }
    assert list(chart.figure.data[0].y) == [0.4, 0.65, 0.8, 0.95, 0.85, 0.6]
    assert title(chart).startswith("At 1 of 3 layers the model is read better than its tokens alone")
    assert "true or false &lt;b&gt;" in title(chart)
    assert chart.table.equals(result().table)


def test_what_is_missing_is_not_drawn() -> None:
    frame = pd.DataFrame({"layer": [2, 0, 1], "accuracy": [0.9, 0.5, float("nan")]})
    chart = lk.views.probe(frame)
    assert list(drawn(chart)) == ["probe"]
    assert drawn(chart)["probe"] == [0.5, None, 0.9]
    assert title(chart).startswith("Read best at layer 2, with 90% right; tokens alone were not tried")
    assert list(drawn(lk.views.probe(table(token_alone=[0.6, 0.6, 0.6])))) == ["token alone", "probe, 95 %"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (result(over_tokens_low=[-0.1, -0.1, 0.0]), "No layer is read better than the tokens alone"),
        (table(token_alone=[0.85, 0.85, 0.85]), "No layer is read better than the tokens alone"),
        (table(token_alone=[0.6, 0.6, 0.6]), "At 2 of 3 layers the model is read better"),
        (table(token_alone=[0.6, 0.6, 0.6])[2:], "At the layer the model is read better"),
    ],
)
def test_the_title_claims_no_more_than_the_intervals_do(given: Any, said: str) -> None:
    assert title(lk.views.probe(given)).startswith(said)


def test_another_frame_is_refused() -> None:
    with pytest.raises(lk.BadInput, match=r"lk\.circuits\.probe"):
        lk.views.probe(pd.DataFrame({"layer": [1]}))
