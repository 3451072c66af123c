"""The charts of quantization: what they show, say and refuse."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

import labkit as lk
from labkit.views.quantization_charts import label_sides

FORMATS = pd.DataFrame(
    [
        {
            "format": name,
            "method": method,
            "size_bytes": size,
            "bits_per_weight": 4.0,
            "kl": kl,
            "kl_low": kl * 0.8,
            "kl_high": kl * 1.2,
            "top1": top1,
        }
        for name, method, size, kl, top1 in (
            ("int8", "rtn", 8_000_000, 0.0, 1.0),
            ("int4", "rtn", 7_000_000, 0.01, 0.95),
            ("int4", "gptq", 7_000_000, 0.005, 0.96),
            ("int2<b>", "rtn", 6_000_000, 1.2, 0.4),
        )
    ]
)
SENSITIVITY = pd.DataFrame(
    [{"layer": layer, "matrix": m, "kl": 0.01 * layer + (m == "$v")} for layer in range(3) for m in ("q", "$v")]
)
SQUEEZE = pd.DataFrame(
    [
        {"model": model, "tokens": tokens, "format": name, "loss_change": x, "low": x * 0.9, "high": x * 1.1}
        for model in ("narrow", "wide")
        for name, base in (("int4", 0.0), ("int3", 0.1))
        for tokens, x in ((1e5, base), (1e6, 2 * base))
    ]
)
CHARTS = [(lk.views.formats, FORMATS), (lk.views.sensitivity, SENSITIVITY), (lk.views.squeeze, SQUEEZE)]


@pytest.mark.parametrize(("view", "frame"), CHARTS)
def test_they_are_written_in_every_form(view: object, frame: pd.DataFrame, tmp_path: Path) -> None:
    chart = view(frame)  # type: ignore[operator]
    chart.to_svg(tmp_path / "chart.svg")
    chart.to_html(tmp_path / "chart.html")
    chart.to_csv(tmp_path / "chart.csv")
    assert "<b>x" not in (tmp_path / "chart.svg").read_text("utf-8")
    assert len(pd.read_csv(tmp_path / "chart.csv")) == len(frame)
    pd.testing.assert_frame_equal(chart.table, frame)


@pytest.mark.parametrize(("view", "frame"), CHARTS)
@pytest.mark.parametrize("odd", ["empty", "another"])
def test_another_frame_is_refused(view: object, frame: pd.DataFrame, odd: str) -> None:
    with pytest.raises(lk.BadInput, match=r"give what lk\.quantization\."):
        view(frame[:0] if odd == "empty" else pd.DataFrame({"x": [1]}))  # type: ignore[operator]


def test_formats_stand_at_their_bytes_and_damage() -> None:
    chart = lk.views.formats(FORMATS)
    rtn, gptq = chart.figure.data
    assert list(rtn.x) == [6, 7, 8]
    assert list(gptq.y) == [0.005]
    assert rtn.y[2] < 0.005, "what costs nothing stands at the lower edge of a logarithmic axis"
    assert rtn.text[0] == " int2&lt;b&gt; "
    for said in ("4.00 bits a quantized weight", "KL 1.2 nats (0.96 to 1.44)", "for 40.0% of the tokens"):
        assert said in rtn.customdata[0]
    assert "int4 keeps 95% of the first choices at 7 MB" in chart.figure.layout.title.text
    assert "int2&lt;b&gt;, keeps 40%" in chart.figure.layout.title.text


def test_a_name_stands_where_it_covers_nothing() -> None:
    alone, crowded = (
        label_sides([(100, 100)], ["int8"]),
        label_sides([(100, 100), (100, 101), (101, 99)], ["a", "b", "c"]),
    )
    assert alone == ["middle right"]
    assert len(set(crowded)) == 3
    assert label_sides([(100, 100), (120, 100)], ["int4", "nf4"]) == ["middle left", "middle right"]


def test_the_worst_matrix_is_named() -> None:
    chart = lk.views.sensitivity(SENSITIVITY)
    assert "&#36;v of layer 2 costs most: 1 nats" in chart.figure.layout.title.text
    assert chart.figure.data[0].z[1][0] == pytest.approx(0.01)


def test_damage_along_a_training() -> None:
    chart = lk.views.squeeze(SQUEEZE)
    assert (
        "What int3 adds to the loss goes from 0.10 to 0.20 nats,<br>from 0.1 to 1 million tokens"
        in chart.figure.layout.title.text
    )
    assert [trace.name for trace in chart.figure.data if trace.name] == [
        "int4, narrow",
        "int4, wide",
        "int3, narrow",
        "int3, wide",
    ]
