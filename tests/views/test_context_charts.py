"""The charts of long contexts say what their tables hold, and write themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from families import FAMILIES, Tokens, build

import labkit as lk
from labkit.context.haystacks import Needles
from labkit.context.long_losses import by_position

TEXT = [(7 * i + 3) % 100 for i in range(40)]


@pytest.fixture(scope="module")
def lab() -> lk.Lab:
    return lk.Lab(build(FAMILIES["llama3"]), Tokens(), name="<b>tiny")


def written(chart: object, folder: Path) -> str:
    path = folder / "chart.html"
    chart.to_html(path)  # type: ignore[attr-defined]
    return path.read_text("utf-8")


def test_loss_by_position(tmp_path: Path) -> None:
    nats = np.tile(np.linspace(3, 5, 15), (3, 1)) + np.arange(3)[:, None]
    found = by_position({"default": nats, "yarn": nats - 1}, nats + 3, model="m", trained=4, factor=4, bins=4)
    chart = lk.views.loss_by_position(found)
    assert "Loss at the end of 16 tokens, beside default: yarn −1.00 nats" in chart.layout.title.text
    assert "bars: 95 % of the difference" in chart.layout.title.text
    yarn = next(line for line in chart.data if line.name == "yarn")
    assert max(yarn.error_y.array) < 0.01, "each document differs by one nat: nothing is unsure about that"
    assert next(line for line in chart.data if line.name == "default").error_y.array is None
    assert [line.name for line in chart.data if line.mode == "lines+markers"] == ["default", "yarn"]
    assert chart.data[-1].name == "unigram"
    assert chart.layout.shapes[0].x0 == 4
    assert "nats" in written(chart, tmp_path)
    lk.views.loss_by_position(found.table)
    alone = lk.views.loss_by_position(found.table[found.table["kind"] == "default"])
    assert "bands: 95 % by documents" in alone.layout.title.text
    assert any(trace.fill == "toself" for trace in alone.data)
    far = lk.views.loss_by_position(found.table.assign(unigram=40.0))
    assert "unigram" not in [line.name for line in far.data], "it would press the others flat"
    assert "unigram: 40.00 nats, above this chart" in far.layout.title.text


def test_needles(tmp_path: Path) -> None:
    import pandas as pd

    rows = [
        {"length": n, "depth": d, "found": 0.5, "low": 0.2, "high": 0.8, "rank": 2.0, "trials": 4}
        for n in (64, 128)
        for d in (0.0, 1.0)
    ]
    found = Needles(pd.DataFrame(rows), "m", 0.1, {64: 0.0, 128: 0.25}, 4, 10, 0)
    assert "without the needle, 128 tokens" in repr(found)
    chart = lk.views.needles(found)
    assert chart.layout.title.text == "The needle is found in 50% of the trials; chance is 10%"
    assert chart.data[0].z[0][0] == 0.5
    assert chart.data[0].text[0][0] == "2 of 4"
    assert chart.data[0].texttemplate
    written(chart, tmp_path)


def test_attention_over_distance_and_rotation(lab: lk.Lab, tmp_path: Path) -> None:
    found = lk.context.attention_over_distance(lab.trace(TEXT, keep="attention"))
    chart = lk.views.attention_over_distance(found, layer=1)
    assert [line.name for line in chart.data] == ["head 0", "head 1", "head 2", "head 3", "looks evenly"]
    written(chart, tmp_path)
    assert len(lk.views.attention_over_distance(found).data) == 3
    with pytest.raises(lk.BadInput, match="no layer 7"):
        lk.views.attention_over_distance(found, layer=7)
    turned = lk.context.rotation(lab, TEXT)
    chart = lk.views.rotation(turned)
    assert torch.allclose(torch.tensor(chart.data[0].x), turned.frequencies.wavelengths)
    assert "<b>tiny" not in written(chart, tmp_path)
    drawn = chart.to_svg(tmp_path / "turned.svg").read_text("utf-8")
    assert ">0<" in drawn, "an axis that goes to zero does so where it is drawn without plotly, too"


def test_streaming(lab: lk.Lab, tmp_path: Path) -> None:
    found = lk.context.streaming(lab, [TEXT, TEXT[::-1]], window=8, sinks=2, tokens=40, progress=False)
    chart = lk.views.streaming(found)
    assert "With 25% of the cache" in chart.layout.title.text
    assert [str(name).split(",")[0] for name in chart.data[0].y] == ["all", "window", "window and sinks"]
    assert chart.data[0].y[0].endswith(lk.models.memory.human_bytes(int(found.table["cache_bytes"].iloc[0])))
    written(chart, tmp_path)


def test_other_tables_are_refused(lab: lk.Lab) -> None:
    found = lk.context.attention_over_distance(lab.trace(TEXT, keep="attention"))
    for draw in (lk.views.loss_by_position, lk.views.needles, lk.views.rotation, lk.views.streaming):
        with pytest.raises(lk.BadInput, match="nothing to draw"):
            draw(found)
