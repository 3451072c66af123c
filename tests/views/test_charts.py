"""The memory chart: its numbers, its two scales, and names that are not HTML."""

from __future__ import annotations

from dataclasses import replace

import pytest

import labkit as lk

GIB = 2**30


def test_bars_hold_the_bytes() -> None:
    sizes = [lk.memory("smollm2-135m", tokens=1000), lk.memory("smollm2-360m", tokens=1000)]
    figure = lk.views.memory(sizes, free_bytes=600 * 2**20)
    weights, cache = figure.data[:2]
    assert list(weights.x) == [m.weight_bytes / GIB for m in sizes]
    assert list(cache.x) == [m.kv_cache_bytes / GIB for m in sizes if m.kv_cache_bytes]
    assert figure.layout.xaxis.type == "linear"
    assert "1 of these 2 fit" in figure.layout.title.text


def test_a_wide_range_is_drawn_as_dots_on_a_logarithmic_axis() -> None:
    from math import log10

    sizes = [lk.memory("llama-2-70b", tokens=10), lk.memory("smollm2-135m", tokens=10)]
    figure = lk.views.memory(sizes, free_bytes=8 * GIB)
    assert figure.layout.xaxis.type == "log"
    assert "logarithmic" in figure.layout.xaxis.title.text
    assert {trace.type for trace in figure.data} == {"scatter"}
    lowest, highest = figure.layout.xaxis.range
    assert lowest < log10(sizes[1].total_bytes / GIB)
    assert log10(sizes[0].total_bytes / GIB) < highest < 4
    (annotation,) = figure.layout.annotations
    assert annotation.x == pytest.approx(log10(8))


def test_names_are_text_and_an_empty_list_is_refused() -> None:
    hostile = replace(lk.memory("smollm2-135m", tokens=10), name="<img src=x onerror=alert(1)>")
    figure = lk.views.memory([hostile], title="<b>x</b>")
    assert "<img" not in figure.to_json()
    assert "<b>x" not in figure.layout.title.text
    with pytest.raises(lk.BadInput, match=r"lk\.memory"):
        lk.views.memory([])
