"""Charts of plans and the explorer: numbers as the plans have them, other choices planned, what can't be drawn refused."""

from __future__ import annotations

from pathlib import Path

import pytest

import labkit as lk
from labkit.views.explorer_view import ExplorerView


def test_the_bars_are_the_bytes_of_the_plans() -> None:
    plans = [lk.plan("llama-2-7b", hardware="T4", precision=p, tokens=1024) for p in ("bfloat16", "int4")]
    chart = lk.views.footprint(plans)
    bars = [trace for trace in chart.figure.data if trace.type == "bar"]
    for i, plan in enumerate(plans):
        assert sum(bar.x[i] for bar in bars) * 2**30 == pytest.approx(plan.total_bytes)
    lines = [trace for trace in chart.figure.data if trace.type == "scatter"]
    assert [line.x[0] * 2**30 for line in lines] == pytest.approx([plan.usable_bytes for plan in plans])
    assert chart.table.groupby("plan", sort=False)["bytes"].sum().tolist() == [plan.total_bytes for plan in plans]
    training = lk.plan("smollm2-135m", hardware="2xT4", use="training", precision="float16", batch=2, tokens=256)
    assert lk.views.footprint(training).table["usable_bytes"].iloc[0] == training.hardware.device.usable_bytes


def test_plans_are_named_by_what_tells_them_apart(tmp_path: Path) -> None:
    plans = [lk.plan("llama-2-13b", hardware="T4", precision=p, tokens=1024) for p in ("bfloat16", "int4")]
    chart = lk.views.footprint(plans)
    assert list(chart.layout.yaxis.ticktext) == ["bfloat16", "int4"]
    assert chart.layout.title.text.startswith("1 of 2 fit: int4<br>")
    assert "llama-2-13b, 1 text, 1,024 tokens, T4-16GB" in chart.layout.title.text
    written = chart.to_svg(tmp_path / "bytes.svg").read_text("utf-8")
    assert ">bfloat16<" in written, "a drawn chart has the names, too"
    batches = [lk.plan("llama-2-7b", hardware="A100-80GB", tokens=512, batch=batch) for batch in (1, 8)]
    marks = [trace for trace in lk.views.roofline(batches).data if trace.mode == "markers+text"]
    assert [trace.name for trace in marks] == ["1 text", "8 texts"]
    assert [text.strip() for text in marks[0].text] == ["prompt", "token"]
    same = lk.views.footprint([plans[1], plans[1]])
    assert list(same.layout.yaxis.ticktext) == ["1", "2"]


def test_points_lie_under_the_roof(tmp_path: Path) -> None:
    plans = [
        lk.plan("llama-2-7b", hardware=name, tokens=512, batch=4, split=split)
        for name, split in (("H100", "layers"), ("2xA100-80GB", "tensor"), ("M4Max-128GB", "layers"))
    ]
    chart = lk.views.roofline(plans)
    assert (chart.table["attained"] <= chart.table["ceiling"].fillna(float("inf"))).all()
    roofs = [trace for trace in chart.figure.data if trace.mode == "lines"]
    assert [max(roof.y) for roof in roofs[:2]] == [989.4, 312.0]
    assert roofs[0].x[1] == pytest.approx(989.4e12 / 3350e9)
    written = chart.to_svg(tmp_path / "roof.svg").read_text("utf-8")
    assert "roof of one H100-80GB" in written


def test_what_is_no_plan_is_refused() -> None:
    for wrong in (None, [], [1], "llama-2-7b"):
        with pytest.raises(lk.BadInput):
            lk.views.footprint(wrong)  # type: ignore[arg-type]
    training = lk.plan("smollm2-135m", hardware="H100", use="training", batch=1, tokens=64)
    with pytest.raises(lk.BadInput, match="inference"):
        lk.views.roofline(training)


def test_the_explorer_plans_what_is_chosen(tmp_path: Path) -> None:
    view = lk.views.explorer("llama-2-7b", hardware="T4", precision="int4", tokens=1000, batch=3)
    assert view.settings["tokens"] == 1024
    assert view.settings["batch"] in (2, 4)
    view.settings = {**view.settings, "model": "llama-2-13b", "count": 2, "batch": 1}
    assert view.wait(20)
    same = lk.plan("llama-2-13b", hardware="2xT4", precision="int4", tokens=1024, batch=1)
    assert view.plan.total_bytes == same.total_bytes
    assert view.shown["parts"] == [[p, b, w] for p, b, w in view.shown["parts"]]
    assert [part[1] for part in view.shown["parts"]] == same.table["bytes"].tolist()
    assert view.shown["usable"][0] == same.usable_bytes
    assert [point["bound"] for point in view.shown["points"]] == same.points["bound"].tolist()
    assert "llama-2-13b" in view.to_svg(tmp_path / "explorer.svg").read_text("utf-8")
    for name, wrong in (("model", "llama-9"), ("count", 3), ("device", "abacus"), ("tokens", 1000), ("split", "rows")):
        with pytest.raises(lk.BadInput, match=name):
            view.settings = {**view.settings, name: wrong}
    view.close()


def test_an_explorer_of_what_is_not_known_is_refused() -> None:
    with pytest.raises(lk.ModelNotFound):
        ExplorerView("llama-99", "T4", "int4", 1024, 1)
    with pytest.raises(lk.BadInput, match="A100"):
        lk.views.explorer(hardware="A1000")
    with pytest.raises(lk.BadInput, match="precision"):
        lk.views.explorer(precision="int7")
