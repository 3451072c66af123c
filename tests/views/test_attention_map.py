"""The attention view's map, comparison, ablation, answers and files: decoded here on their own, against naive arithmetic."""

from __future__ import annotations

import base64
import dataclasses
import json
import math
import re
import struct
import threading
import time
import xml.etree.ElementTree
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ipywidgets
import numpy as np
import pandas as pd
import pytest
import torch
from generations import HOSTILE
from test_attention import exported, unpack
from traces import patterned, previous_token, random_patterns, random_trace

import labkit.views.attention_view.overview as overview_module
from labkit.attention import MEASURES, measures
from labkit.errors import BadInput
from labkit.trace.record import LayerAttention, Trace
from labkit.views.attention_view import AttentionView, attention
from labkit.views.attention_view.codes import pool_size
from labkit.views.attention_view.exported import pattern
from labkit.views.attention_view.reading import TILE, mean_pattern, read_line
from labkit.views.kit.codes import LEVELS, NOT_A_NUMBER, quantize

OWN = [name for name in MEASURES if name != "change"]


def queried(
    length: int, *, layers: int = 30, heads: int = 9, kv_heads: int = 3, seed: int = 0, mask: torch.Tensor | None = None
) -> Trace:
    """A trace of queries and keys of chance, as large as a real model's, whose patterns take no room."""
    generator = torch.Generator().manual_seed(seed)
    attentions = {
        layer: LayerAttention(
            query=torch.randn(heads, length, 16, generator=generator),
            key=torch.randn(kv_heads, length, 16, generator=generator),
            scaling=0.6,
            mask=mask,
        )
        for layer in range(layers)
    }
    words = ["The", " cat", " sat", " on", " the", " mat", " because", " it", " was", " tired"]
    return Trace(
        tokens=[words[i % 10] for i in range(length)],
        ids=torch.randint(0, 500, (length,), generator=generator).tolist(),
        model="SmolLM2-135M",
        family="llama",
        layers=layers,
        heads=heads,
        kv_heads=kv_heads,
        keep=("attention",),
        reasons={},
        _attention=attentions,
    )


def answer(view: AttentionView, question: str, **args: Any) -> tuple[dict[str, Any], list[bytes]]:
    """What the view answers to a page's question, with its buffers."""
    found: list[tuple[dict[str, Any], list[bytes]]] = []
    view.send = lambda answer, buffers=None: found.append((answer, [bytes(b) for b in buffers or []]))  # type: ignore[method-assign]
    content = {"ask": question, "id": "x", "args": args}
    view._handle_msg({"content": {"data": {"method": "custom", "content": content}}, "buffers": []})
    ((said, buffers),) = found
    json.dumps(said, allow_nan=False)
    assert said.pop("answer") == "x"
    return said, buffers


def without_first(weights: torch.Tensor) -> np.ndarray:
    """(rows, T): each row's weights but the first, divided by their sum; float64."""
    whole = weights.double().numpy().copy()
    left = whole[:, 1:].sum(1, keepdims=True)
    whole[:, 0] = np.where(np.isnan(whole[:, 0]), np.nan, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(left > 0, whole / left, np.where(np.isnan(left), np.nan, 0))


def close_codes(codes: np.ndarray, weights: np.ndarray) -> None:
    """Codes are those of the weights, or beside them where rounding fell the other way."""
    expected = quantize(weights)
    assert ((codes == NOT_A_NUMBER) == np.isnan(weights)).all()
    assert (np.abs(codes.astype(int) - expected.astype(int)) <= 1).all()
    assert (codes != expected).mean() < 0.01


# the map ------------------------------------------------------------------------------------------------------------


class Part:
    """A part of the map, decoded as the docstrings say and by no code of the view's."""

    def __init__(self, data: bytes, heads: int, names: list[str]) -> None:
        self.aside, self.side, self.rows, self.first, self.layers = struct.unpack("<5i", data[:20])
        count = self.layers * heads
        numbers = np.frombuffer(data, "<f4", len(names) * count, 20).reshape(len(names), self.layers, heads)
        self.measures = dict(zip(names, numbers, strict=True))
        size = self.side * (self.side + 1) // 2
        codes = np.frombuffer(data, np.uint8, offset=20 + 4 * len(names) * count)
        assert len(codes) == count * size, "nothing is left over"
        self.thumbnails = codes.reshape(self.layers, heads, size)


def parts(view: AttentionView, names: list[str] | None = None) -> list[Part]:
    found = [getattr(view, f"map_{i}") for i in range(8)]
    names = names or OWN
    return [Part(data, view.facts["heads"], names) for data in found if data]


def pooled(codes: np.ndarray, side: int) -> np.ndarray:
    """The highest of each block of cells, block by block."""
    n = len(codes)
    block = -(-n // side)
    count = -(-n // block)
    small = np.zeros((count, count), np.uint8)
    for row in range(count):
        for column in range(count):
            small[row, column] = codes[row * block : (row + 1) * block, column * block : (column + 1) * block].max()
    return small


@pytest.mark.parametrize(
    ("length", "layers", "heads"), [(1, 1, 1), (2, 3, 2), (9, 8, 4), (50, 9, 3), (64, 12, 9), (100, 9, 5), (33, 2, 71)]
)
def test_map_holds_every_heads_thumbnail_and_measures(length: int, layers: int, heads: int) -> None:
    trace = queried(length, layers=layers, heads=heads, kv_heads=1)
    view = attention(trace, layer=0, head=0)
    assert view.wait(60)
    found = parts(view)
    assert len(found) == min(8, layers)
    assert [p.first for p in found] == [sum(q.layers for q in found[:i]) for i in range(len(found))]
    assert sum(p.layers for p in found) == layers
    table = measures(trace).set_index(["layer", "head"])
    for part in found:
        assert (part.aside, part.rows) == (0, length)
        assert part.side <= 21
        for place in range(part.layers):
            for head in sorted({0, heads // 2, heads - 1}):
                layer = part.first + place
                whole = quantize(trace.attention(layer, head).numpy())
                got = unpack(part.thumbnails[place, head].tobytes()).astype(int)
                expected = np.tril(pooled(whole, part.side)).astype(int)
                assert got.shape == expected.shape
                assert np.abs(got - expected).max() <= 1, "a level, where a weight lies between two"
                for name in OWN:
                    assert part.measures[name][place, head] == pytest.approx(
                        table.loc[(layer, head), name], rel=1e-6, nan_ok=True
                    )
    assert len(b"".join(getattr(view, f"map_{i}") for i in range(8))) < 120_000 + 4 * len(OWN) * layers * heads


def test_layers_without_attention_are_no_part_of_the_map() -> None:
    patterns = random_patterns(6, layers=4)
    view = attention(patterned(["t"] * 6, {1: patterns[1], 3: patterns[3]}, layers=4))
    found = parts(view)
    assert [(p.first, p.layers) for p in found] == [(0, 1), (1, 1)]
    np.testing.assert_array_equal(unpack(found[1].thumbnails[0, 2].tobytes()), quantize(patterns[3][2].numpy()))


def test_what_is_no_number_reaches_the_map() -> None:
    patterns = random_patterns(12)
    patterns[0][0, 7] = torch.nan
    found = parts(attention(patterned(["t"] * 12, patterns), layer=1, head=1))
    assert (unpack(found[0].thumbnails[0, 0].tobytes())[7, :8] == NOT_A_NUMBER).all()
    assert np.isfinite(found[0].measures["entropy"]).all(), "the other rows have a mean"
    assert NOT_A_NUMBER not in found[0].thumbnails[0, 1:]


@pytest.fixture
def slowly(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """The map is computed behind the view, one layer each time the returned function is called."""
    steps = threading.Semaphore(0)
    whole = overview_module.sweep

    def stepped(*args: Any, **settings: Any) -> Iterator[Any]:
        for swept in whole(*args, **settings):
            steps.acquire(timeout=20)
            yield swept

    monkeypatch.setattr(overview_module, "sweep", stepped)
    monkeypatch.setattr("labkit.views.attention_view.AT_ONCE", 1)
    yield steps.release
    for _ in range(1000):
        steps.release()


def until(condition: Callable[[], bool]) -> None:
    for _ in range(500):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it never came")


def filled(view: AttentionView) -> int:
    return sum(bool(getattr(view, f"map_{i}")) for i in range(8))


def test_map_comes_a_part_at_a_time_each_once_behind_the_head(slowly: Callable[[], None]) -> None:
    view = attention(queried(20, layers=16), layer=0, head=0)
    assert view.cells, "the head is there before the map"
    set_: list[str] = []
    view.observe(lambda change: set_.append(change["name"]), [f"map_{i}" for i in range(8)])
    assert filled(view) == 0
    answer(view, "start")
    slowly()
    slowly()
    until(lambda: filled(view) == 1)
    assert not view.wait(0.15), "it says that it is not complete"
    slowly()
    threading.Event().wait(0.05)
    assert filled(view) == 1, "half a part is not sent"
    for _ in range(13):
        slowly()
    assert view.wait(20)
    assert set_ == [f"map_{i}" for i in range(8)]
    answer(view, "start")
    assert view.wait(20)
    assert len(set_) == 8, "a second front end costs nothing"


def test_setting_the_first_token_aside_begins_the_map_anew(slowly: Callable[[], None]) -> None:
    trace = queried(20, layers=16)
    view = attention(trace, layer=0, head=0)
    answer(view, "start")
    for _ in range(4):
        slowly()
    until(lambda: filled(view) == 2)
    view.aside = True
    for _ in range(30):
        slowly()
    assert view.wait(20)
    found = parts(view)
    assert [p.aside for p in found] == [1] * 8
    expected = without_first(trace.attention(3, 4))
    close_codes(unpack(found[1].thumbnails[1, 4].tobytes()), expected)
    table = measures(trace, aside=True)
    assert found[7].measures["entropy"][1, 8] == pytest.approx(table["entropy"].iloc[-1], rel=1e-6)
    assert found[7].measures["first"][1, 8] == pytest.approx(table["first"].iloc[-1], rel=1e-6)


def test_stopped_within_a_part_nothing_is_computed_twice(
    slowly: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[int] = []
    monkeypatch.setattr(AttentionView, "_new_overview", counted(AttentionView._new_overview, begun))
    view = attention(queried(20, layers=16), layer=0, head=0)
    answer(view, "start")
    for _ in range(3):
        slowly()
    until(lambda: filled(view) == 1)
    view._map_job.stop()
    slowly()  # it was waiting for this one
    assert view._map_job.wait(20)
    assert filled(view) in (1, 2)
    for _ in range(12):
        slowly()
    assert view.wait(20), "sixteen layers in all"
    assert filled(view) == 8
    assert len(begun) == 1


def counted(function: Callable[..., Any], calls: list[int]) -> Callable[..., Any]:
    def called(*args: Any, **settings: Any) -> Any:
        calls.append(1)
        return function(*args, **settings)

    return called


def test_a_map_that_can_not_be_computed_says_why_and_can_be_tried_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    whole = overview_module.sweep

    def broken(*args: Any, **settings: Any) -> Iterator[Any]:
        yield next(whole(*args, **settings))
        raise MemoryError("no room left")

    monkeypatch.setattr(overview_module, "sweep", broken)
    view = attention(random_trace(9), layer=0, head=0)
    why = {"state": "failed", "message": "The map could not be computed: MemoryError: no room left."}
    assert view.map_status == why
    assert view.cells, "the head is there all the same"
    view.wait(5)
    assert view.map_status == why
    values, _ = exported(view.to_html(tmp_path / "t.html").read_text("utf-8"))
    assert values["map_status"] == why
    monkeypatch.setattr(overview_module, "sweep", whole)
    assert view.wait(5)
    assert view.map_status["state"] == "done"
    assert sum(p.layers for p in parts(view)) == 2


def test_where_rows_are_sampled_the_part_says_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = overview_module.sweep
    monkeypatch.setattr(overview_module, "sweep", lambda *a, **s: whole(*a, **s, most_weights=2 * 4 * 100 * 30))
    found = parts(attention(random_trace(100), layer=0, head=0))
    assert {p.rows for p in found} == {20}, "one of each row of cells"


def test_closing_stops_the_map(slowly: Callable[[], None]) -> None:
    view = attention(queried(20, layers=16), layer=0, head=0)
    answer(view, "start")
    slowly()
    view.close()
    slowly()
    assert view._map_job.wait(20)
    assert filled(view) == 0


# bytes --------------------------------------------------------------------------------------------------------------


class Wire:
    """A comm that counts what goes over it."""

    count = 0

    def __init__(self, *, data: Any = None, buffers: Any = None, comm_id: str | None = None, **_: Any) -> None:
        self.comm_id = comm_id or "0" * 32
        self.send(data, buffers=buffers)

    def send(self, data: Any = None, metadata: Any = None, buffers: Any = None) -> None:
        Wire.count += len(json.dumps(data).encode("utf-8")) + sum(memoryview(b).nbytes for b in buffers or [])

    def on_msg(self, _callback: Any) -> None: ...

    def on_close(self, _callback: Any) -> None: ...

    def close(self, *_: Any, **__: Any) -> None: ...


@pytest.mark.skipif(ipywidgets.__version__.startswith("7."), reason="ipywidgets 7 sends nothing without a kernel")
@pytest.mark.parametrize(("length", "most"), [(64, 300_000), (256, 1_500_000), (1024, 2_000_000)])
def test_bytes_to_the_first_paint_of_the_default_models_shape(
    length: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of them: the widgets' open states with their code, every update and buffer, what is displayed."""
    import comm

    monkeypatch.setattr(comm, "create_comm", Wire)
    Wire.count = 0
    trace = queried(length)
    view = attention(trace, layer=3, head=4)
    bundle = view._repr_mimebundle_()
    if length < 1024:
        assert view.wait(120)
    else:
        view._map_job.close()  # the whole map is measured below: computing it takes seconds
        view._map_job.wait(60)
        heads = trace.layers * trace.heads
        Wire.count += 100_000 + heads * 4 * len(OWN) + 8 * 400
    total = Wire.count + len(json.dumps(bundle).encode("utf-8"))
    assert len(str(view._esm)) + len(str(view._css)) + len(view.cells) < total <= most, f"{total:,} bytes"
    before = Wire.count
    view.show(7, 2)
    assert length * (length + 1) // 2 < Wire.count - before <= 1_100_000, "a head opened"


# tiles, lines, exact weights ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def long_trace() -> Trace:
    """2,200 tokens: cells of 3 tokens, tiles that end short."""
    return queried(2200, layers=2, heads=2, kv_heads=1)


@pytest.fixture(scope="module")
def long_view(long_trace: Trace) -> AttentionView:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("labkit.views.attention_view.AT_ONCE", 1)
        return attention(long_trace, layer=0, head=0)


@pytest.mark.parametrize("aside", [False, True])
@pytest.mark.parametrize("pool", [1, 2, 3])
def test_every_tile_is_its_part_of_the_pattern(
    long_trace: Trace, long_view: AttentionView, pool: int, aside: bool
) -> None:
    view = long_view
    assert pool_size(2200) == 3
    weights = long_trace.attention(1, 1)
    whole = without_first(weights) if aside else weights.double().numpy()
    cells = -(-2200 // pool)
    padded = np.zeros((cells * pool, cells * pool))
    padded[:2200, :2200] = whole
    codes = padded.reshape(cells, pool, cells, pool).max((1, 3))
    count = -(-cells // TILE)
    for row in range(count):
        for column in range(row + 1):
            said, (data,) = answer(
                view, "tile", trace=0, layer=1, head=1, pool=pool, row=row, column=column, aside=aside
            )
            expected = codes[row * TILE : (row + 1) * TILE, column * TILE : (column + 1) * TILE]
            assert said == {"value": list(expected.shape)}
            close_codes(np.frombuffer(data, np.uint8).reshape(expected.shape), expected)


@pytest.mark.parametrize(
    "content",
    [
        {"row": 9}, {"row": -1}, {"column": 3}, {"column": -1}, {"pool": 0}, {"pool": 4}, {"pool": 1.0}, {"row": True},
        {"layer": 2}, {"head": -1}, {"trace": 1}, {"trace": None}, {"layer": "1"},
    ],
)  # fmt: skip
def test_tiles_that_are_not_there_are_refused(long_view: AttentionView, content: dict[str, Any]) -> None:
    view = long_view
    whole = {"trace": 0, "layer": 1, "head": 1, "aside": False, "pool": 1, "row": 2, "column": 1}
    assert "value" in answer(view, "tile", **whole)[0]
    assert set(answer(view, "tile", **{**whole, **content})[0]) == {"refused"}


@pytest.mark.parametrize("aside", [False, True])
def test_exact_weights_of_pooled_cells(long_trace: Trace, long_view: AttentionView, aside: bool) -> None:
    view = long_view
    weights = long_trace.attention(1, 0)
    whole = without_first(weights) if aside else weights.double().numpy()
    for pool in (1, 2, 3):
        for row, column in [(0, 0), (3, 1), (700, 699), (-(-2200 // pool) - 1, 0)]:
            said, _ = answer(view, "exact", trace=0, layer=1, head=0, row=row, column=column, pool=pool, aside=aside)
            found = said["value"]
            block = whole[row * pool : (row + 1) * pool, column * pool : (column + 1) * pool]
            assert found["weight"] == pytest.approx(block.max(), rel=1e-5)
            assert found["query"] // pool == row
            assert found["key"] // pool == column
            assert whole[found["query"], found["key"]] == pytest.approx(block.max(), rel=1e-5)


@pytest.fixture(scope="module")
def lined() -> list[tuple[Trace, AttentionView]]:
    """One that is pooled and one that is not."""
    traces = [queried(length, layers=2, heads=2, kv_heads=1) for length in (40, 1100)]
    return [(trace, attention(trace, layer=0, head=0)) for trace in traces]


@pytest.mark.parametrize("aside", [False, True])
@pytest.mark.parametrize("into", [False, True])
@pytest.mark.parametrize("heads", [[[0, 1]], [[1, 0], [1, 1]], [[0, 0], [1, 1], [0, 1]]])
def test_lines_are_rows_or_columns_of_the_mean(
    lined: list[tuple[Trace, AttentionView]], heads: list[list[int]], into: bool, aside: bool
) -> None:
    for trace, view in lined:
        each = [trace.attention(layer, head) for layer, head in heads]
        mean = np.mean([without_first(w) if aside else w.double().numpy() for w in each], 0)
        for token in (0, 7, len(trace) - 1):
            said, (data,) = answer(view, "line", trace=0, heads=heads, token=token, into=into, aside=aside)
            assert said == {"value": None}
            codes = np.frombuffer(data, np.uint8)
            expected = mean[:, token] if into else mean[token]
            assert len(codes) == len(trace)
            assert np.abs(codes.astype(int) - quantize(expected).astype(int)).max() <= 1


@pytest.mark.parametrize(
    "content",
    [
        {"token": 9}, {"token": -1}, {"token": None}, {"heads": []}, {"heads": [[0, 4]]}, {"heads": [3]}, {"heads": None},
        {"heads": [[0]]}, {"heads": "ab"}, {"trace": 1}, {"trace": 0.0}, {"trace": True}, {"trace": [0]}, {"token": 1.0},
    ],
)  # fmt: skip
def test_lines_that_make_no_sense_are_refused(content: dict[str, Any]) -> None:
    view = attention(random_trace(9), layer=0, head=0)
    whole = {"trace": 0, "heads": [[0, 1]], "token": 3, "into": False, "aside": False}
    assert "value" in answer(view, "line", **whole)[0]
    assert set(answer(view, "line", **{**whole, **content})[0]) == {"refused"}


def test_means_of_patterns_are_those_of_float64() -> None:
    trace = queried(60, layers=2, heads=4, kv_heads=2)
    heads = [(0, 1), (1, 3), (1, 0)]
    exact = np.mean([trace.attention(*pair).double().numpy() for pair in heads], 0)
    np.testing.assert_allclose(mean_pattern(trace, heads), exact, atol=5e-7)
    np.testing.assert_allclose(read_line(trace, heads, 30, into=True), exact[:, 30], atol=5e-7)
    np.testing.assert_allclose(read_line(trace, heads, 30, into=False), exact[30], atol=5e-7)
    aside = np.mean([without_first(trace.attention(*pair)) for pair in heads], 0)
    np.testing.assert_allclose(mean_pattern(trace, heads, aside=True), aside, atol=2e-6)
    whole = trace.attention(1, 2).clone()
    attention(trace, layer=1, head=2, aside=True)
    assert torch.equal(trace.attention(1, 2), whole), "the trace is not written to"
    stored = random_trace(20)
    before = stored.attention(0).clone()
    attention(stored, layer=0, head=0, aside=True)
    mean_pattern(stored, [(0, 0), (0, 1)], aside=True)
    assert torch.equal(stored.attention(0), before)


# comparing ----------------------------------------------------------------------------------------------------------


def test_another_head_beside() -> None:
    trace = random_trace(9)
    view = attention(trace, layer=0, head=0, compare=(1, -1))
    assert view.beside == [0, 1, 3]
    np.testing.assert_array_equal(unpack(view.beside_cells), quantize(trace.attention(1, 3).numpy()))
    assert (view.beside_summary["layer"], view.beside_summary["head"], view.beside_summary["trace"]) == (1, 3, 0)
    assert len(view.texts) == 1
    before = view.beside_version
    view.beside = [0, 0, 2]
    assert view.beside_version == before + 1
    np.testing.assert_array_equal(unpack(view.beside_cells), quantize(trace.attention(0, 2).numpy()))
    view.beside = []
    assert view.beside_version == before + 1


@pytest.mark.parametrize("wrong", [[1, 0, 0], [0, 2, 0], [0, 0, 4], [0, 0], [True, 0, 0], ["0", 0, 0], [0, 0, 0.5]])
def test_nothing_that_is_not_there_is_put_beside(wrong: list[Any]) -> None:
    view = attention(random_trace(9), layer=0, head=0)
    with pytest.raises(BadInput):
        view.beside = wrong
    assert view.beside == []


def test_another_trace_beside_and_how_much_each_head_changed() -> None:
    trace, other = random_trace(9, seed=1), random_trace(9, seed=2)
    view = attention(trace, layer=1, head=2, compare=other, names=("plain", "edited"))
    assert view.beside == [1, 1, 2]
    assert view.facts["names"] == ["plain", "edited"]
    assert view.facts["same_text"]
    assert view.measure == "change"
    np.testing.assert_array_equal(unpack(view.beside_cells), quantize(other.attention(1, 2).numpy()))
    found = parts(view, [*OWN, "change"])
    for layer in range(2):
        for head in range(4):
            both = trace.attention(layer, head).double(), other.attention(layer, head).double()
            moved = float(((both[0] - both[1]).abs().sum(-1) / 2).mean())
            assert found[layer].measures["change"][0, head] == pytest.approx(moved, rel=1e-5)
    said, _ = answer(view, "exact", trace=1, layer=0, head=1, aside=False, row=7, column=2, pool=1)
    assert said["value"]["weight"] == float(other.attention(0, 1)[7, 2])
    view.aside = True
    close_codes(unpack(view.beside_cells), without_first(other.attention(1, 2)))
    assert view.beside_summary["aside"]


def test_a_trace_of_another_text_beside() -> None:
    trace, other = random_trace(9), patterned([f" w{i}" for i in range(14)], random_patterns(14))
    view = attention(trace, layer=0, head=0, compare=other)
    assert view.facts["tokens"] == [9, 14]
    assert view.texts[1][13] == " w13"
    assert not view.facts["same_text"]
    assert "change" not in [m["name"] for m in view.facts["measures"]]
    assert view.measure == "previous"
    assert len(unpack(view.beside_cells)) == 14


def test_what_can_not_be_compared() -> None:
    trace = random_trace(6)
    with pytest.raises(BadInput, match="same model"):
        attention(trace, compare=random_trace(6, heads=2))
    with pytest.raises(BadInput, match="same model"):
        attention(trace, compare=random_trace(6, layers=3))
    with pytest.raises(BadInput, match="same model"):
        attention(trace, compare=patterned(["t"] * 6, {0: random_patterns(6)[0]}, layers=2))
    for wrong in ("other", 3, (1, 2, 3), [trace]):
        with pytest.raises(BadInput, match="another trace, or a"):
            attention(trace, compare=wrong)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="layer 0, 1"):
        attention(trace, compare=(7, 0))


def test_marks_are_heads_that_are_there_each_once() -> None:
    view = attention(random_trace(6), layer=0, head=0)
    view.marked = [[1, -1], [0, 2], [1, 3]]
    assert view.marked == [[1, 3], [0, 2]]
    for wrong in ([[0, 4]], [[2, 0]], [["0", 1]], [[0, True]]):
        with pytest.raises(BadInput):
            view.marked = wrong
    assert view.marked == [[1, 3], [0, 2]]


def test_words_that_are_not_known() -> None:
    trace = random_trace(6)
    with pytest.raises(BadInput, match="sqrt, linear, log"):
        attention(trace, scale="cubic")
    with pytest.raises(BadInput, match="layers, highest"):
        attention(trace, order="lowest")
    with pytest.raises(BadInput, match="no measure 'entropie'; there are entropy, "):
        attention(trace, measure="entropie")
    with pytest.raises(BadInput, match="no measure 'change'"):
        attention(trace, measure="change")  # nothing to compare with
    assert attention(trace, measure="entropy", order="highest", scale="log").measure == "entropy"


# measures handed in -------------------------------------------------------------------------------------------------


def test_measures_handed_in_are_put_at_their_heads() -> None:
    trace = random_trace(6)
    rows = [{"layer": layer, "head": head, "kv_head": 0, "effect": 10 * layer + head, "note": "x"}
            for layer in (1, 0) for head in (3, 1, 0)]  # fmt: skip
    frame = pd.DataFrame([*rows, {"layer": 7, "head": 0, "effect": 99}])
    frame["entropy"] = math.nan
    frame.attrs["uniform"] = {"entropy": 0.7}
    view = attention(trace, layer=0, head=0, measures=frame, measure="given:effect")
    given = [m for m in view.facts["measures"] if m["name"].startswith("given:")]
    assert [m["name"] for m in given] == ["given:effect", "given:entropy"], "what is no number is left out"
    assert given[1]["title"] == "entropy (given)"
    assert given[1]["unit"] == "nats"
    assert [m["uniform"] for m in given] == [None, 0.7]
    values = np.frombuffer(view.extra, "<f4").reshape(2, 2, 4)
    np.testing.assert_array_equal(values[0], [[0, 1, np.nan, 3], [10, 11, np.nan, 13]])
    assert np.isnan(values[1]).all()
    json.dumps(view.facts, allow_nan=False)


def test_measures_that_can_not_be_used() -> None:
    for wrong in (pd.DataFrame({"layer": [0]}), {"layer": [0], "head": [0]}, 3):
        with pytest.raises(BadInput, match="columns layer and head"):
            attention(random_trace(6), measures=wrong)  # type: ignore[arg-type]


def test_measures_of_a_real_table() -> None:
    trace = random_trace(30)
    view = attention(trace, layer=0, head=0, measures=measures(trace))
    values = np.frombuffer(view.extra, "<f4").reshape(-1, 2, 4)
    assert len(values) == len(OWN)
    np.testing.assert_allclose(values[0], measures(trace)["entropy"].to_numpy().reshape(2, 4), rtol=1e-6)


# ablating -----------------------------------------------------------------------------------------------------------


def effect(**changes: Any) -> SimpleNamespace:
    said = (("\ud800</script>" + "y" * 500, 0.75, 0.25), (" b", 0.1, float("nan")))
    return SimpleNamespace(**{"loss_before": 2.0, "loss_after": 2.5, "next": said} | changes)


def test_ablation_runs_behind_the_view_and_tells_what_became_of_the_text() -> None:
    asked: list[Any] = []
    may = threading.Event()

    def ablate(heads: Any) -> Any:
        asked.append(heads)
        may.wait(10)
        return effect()

    view = attention(random_trace(6), layer=1, head=2, ablate=ablate)
    assert view.facts["can_ablate"]
    assert view.effect == {}
    view.ablate()
    for _ in range(200):
        if view.effect_status["state"] == "running":
            break
        time.sleep(0.01)
    assert view.effect_status == {"state": "running", "message": "", "heads": [[1, 2]]}
    assert not view.wait(0.05)
    may.set()
    assert view.wait(10)
    assert asked == [[(1, 2)]]
    assert view.effect_status == {"state": "done", "message": "", "heads": [[1, 2]]}
    assert (view.effect["loss_before"], view.effect["loss_after"]) == (2.0, 2.5)
    first, second = view.effect["next"]
    assert (first["before"], first["after"], second["after"]) == (0.75, 0.25, None)
    assert len(first["text"]) <= 80
    json.dumps(view.effect, allow_nan=False, ensure_ascii=False).encode("utf-8")
    view.marked = [[0, 0], [1, 1]]
    view.ablate()
    view.ablate([(0, -1)])
    assert view.wait(10)
    assert asked[-1] == [(0, 3)]
    answer(view, "ablate", heads=[[0, 1], [1, 0]])
    assert view.wait(10)
    assert asked[-1] == [(0, 1), (1, 0)]
    assert view.effect["heads"] == [[0, 1], [1, 0]]


@pytest.mark.parametrize("result", [None, effect(next=[("a", 1)]), SimpleNamespace()])
def test_an_ablation_that_gives_something_else_is_told(result: Any) -> None:
    view = attention(random_trace(6), layer=0, head=0, ablate=lambda heads: result)
    view.ablate()
    assert view.wait(10)
    assert view.effect_status["state"] == "failed"
    assert "Error" in view.effect_status["message"]
    assert view.effect == {}, "nothing was done"


def test_an_ablation_that_fails_is_told() -> None:
    def refused(_heads: Any) -> Any:
        raise BadInput("Heads of this model can't be switched off.")

    def broken(_heads: Any) -> Any:
        raise RuntimeError("x" * 2000 + "\u202e")

    view = attention(random_trace(6), layer=0, head=0, ablate=refused)
    view.ablate()
    assert view.wait(10)
    assert view.effect_status == {
        "state": "failed", "heads": [[0, 0]], "message": "Heads of this model can't be switched off.",
    }  # fmt: skip
    view = attention(random_trace(6), layer=0, head=0, ablate=broken)
    view.ablate()
    assert view.wait(10)
    assert view.effect_status["message"].startswith("It could not be computed: RuntimeError: xxx")
    assert len(view.effect_status["message"]) <= 400


def test_ablation_without_a_way_to_do_it() -> None:
    view = attention(random_trace(6), layer=0, head=0)
    with pytest.raises(BadInput, match=r"ablate=lk\.attention\.ablation"):
        view.ablate()
    assert "refused" in answer(view, "ablate", heads=[[0, 0]])[0]
    assert view.effect_status == {"state": "idle"}
    able = attention(random_trace(6), layer=0, head=0, ablate=lambda heads: effect())
    for wrong in ([(0, 9)], []):
        with pytest.raises(BadInput):
            able.ablate(wrong)
    for wrong in ([[0, 9]], [3], "ab", None, []):
        assert "refused" in answer(able, "ablate", heads=wrong)[0]
    assert able.effect_status == {"state": "idle"}


# files --------------------------------------------------------------------------------------------------------------


def test_a_file_of_two_traces_holds_both(tmp_path: Path) -> None:
    trace, other = random_trace(9, seed=1), random_trace(9, seed=2)
    view = attention(trace, layer=1, head=2, compare=other)
    values, blobs = exported(view.to_html(tmp_path / "all.html").read_text("utf-8"))
    held = [(h["trace"], h["layer"], h["head"]) for h in values["embedded"]]
    assert held == [(which, layer, head) for which in (0, 1) for layer in (0, 1) for head in range(4)]
    size = 9 * 10 // 2
    for i, (which, layer, head) in enumerate(held):
        cells = blobs["embedded_cells"][i * size : (i + 1) * size]
        np.testing.assert_array_equal(unpack(cells), quantize((trace, other)[which].attention(layer, head).numpy()))
    assert values["beside"] == [1, 1, 2]
    chosen, _ = exported(view.to_html(tmp_path / "one.html", heads=[(0, 0)]).read_text("utf-8"))
    assert [(h["trace"], h["layer"], h["head"]) for h in chosen["embedded"]] == [
        (0, 0, 0), (0, 1, 2), (1, 0, 0), (1, 1, 2),
    ]  # fmt: skip


def test_a_file_can_set_the_first_token_aside(tmp_path: Path) -> None:
    """From codes of two digits: off by half a level of the root, and half a level that the division stretched."""
    query = torch.randn(2, 30, 8, generator=torch.Generator().manual_seed(0))
    with_sink = dataclasses.replace(
        queried(30, layers=1, heads=2),
        _attention={0: LayerAttention(query=query, key=query, sink=torch.tensor([1.0, 3.0]))},
    )
    for trace in (random_trace(30, layers=1, heads=2), with_sink):
        view = attention(trace, layer=0, head=0, aside=True)
        _, blobs = exported(view.to_html(tmp_path / "aside.html").read_text("utf-8"))
        size = 30 * 31 // 2
        rest = np.frombuffer(blobs["embedded_rest"], "<f4").reshape(2, 30)
        for head in range(2):
            weights = trace.attention(0, head)
            codes = unpack(blobs["embedded_cells"][head * size : (head + 1) * size])
            np.testing.assert_allclose(rest[head], weights[:, 1:].double().sum(1), atol=1e-6)
            with np.errstate(divide="ignore", invalid="ignore"):
                rebuilt = np.nan_to_num(np.sqrt((codes / LEVELS) ** 2 / rest[head][:, None]))
                off = np.abs(rebuilt - np.sqrt(without_first(weights)))[1:, 1:]
                assert (off <= 1.0 / LEVELS / np.sqrt(rest[head][1:, None])).all()
        # the view itself, with a kernel, says the same
        close_codes(unpack(view.cells), without_first(trace.attention(0, 0)))
        assert all(part.aside == 0 for part in file_parts(blobs, trace.heads)), "a file's map counts the first token"
        assert len(file_parts(blobs, trace.heads)) == 1


def test_aside_is_exact_where_the_first_token_holds_nearly_all() -> None:
    """From scores in float64; 1 − w0 in float32 is off by half here."""
    query = torch.randn(1, 40, 8, generator=torch.Generator().manual_seed(1))
    key = query.clone()
    key[:, 0] = 0
    query[..., 0], key[:, 0, 0] = 6.0, 8.0  # every query looks at token 0: a score of about 17 above the others
    layer = LayerAttention(query=query, key=key, scaling=8**-0.5)
    trace = dataclasses.replace(queried(40, layers=1, heads=1), _attention={0: layer})
    assert trace.attention(0, 0)[1:, 0].min() > 0.999
    scores = (query[0].double() @ key[0].double().T * 8**-0.5)[:, 1:]
    scores = scores.masked_fill(torch.ones(40, 39).triu(0).bool(), -torch.inf)
    truth = np.zeros((40, 40))
    truth[1:, 1:] = scores[1:].softmax(-1).numpy()
    view = attention(trace, layer=0, head=0, aside=True)
    close_codes(unpack(view.cells), truth)
    said, _ = answer(view, "exact", trace=0, layer=0, head=0, aside=True, row=30, column=17, pool=1)
    assert said["value"]["weight"] == pytest.approx(truth[30, 17], rel=1e-4)
    assert view.summary["links"][0]["weight"] <= 1


def file_parts(blobs: dict[str, bytes], heads: int) -> list[Part]:
    return [Part(blobs[f"map_{i}"], heads, OWN) for i in range(8) if blobs[f"map_{i}"]]


def test_rows_without_numbers_have_no_rest(tmp_path: Path) -> None:
    patterns = random_patterns(12)
    patterns[0][0, 7] = torch.nan
    _, blobs = exported(
        attention(patterned(["t"] * 12, patterns), layer=0, head=0).to_html(tmp_path / "n.html").read_text("utf-8")
    )
    rest = np.frombuffer(blobs["embedded_rest"], "<f4").reshape(-1, 12)
    assert np.isnan(rest).sum() == 1
    assert np.isnan(rest[0, 7])


def test_a_file_holds_the_whole_map_also_of_a_view_that_was_never_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("labkit.views.attention_view.AT_ONCE", 1)
    view = attention(queried(30, layers=10), layer=0, head=0)
    assert filled(view) == 0
    _, blobs = exported(view.to_html(tmp_path / "m.html", heads=[]).read_text("utf-8"))
    assert sum(part.layers for part in file_parts(blobs, 9)) == 10


# a picture for where no script runs ---------------------------------------------------------------------------------


def chunks(data: bytes) -> dict[bytes, bytes]:
    """The chunks of a PNG, read by the format's own rules."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    found: dict[bytes, bytes] = {}
    at = 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        assert struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0] == zlib.crc32(kind + body)
        found[kind] = found.get(kind, b"") + body
        at += 12 + length
    assert next(iter(found)) == b"IHDR"
    assert list(found)[-1] == b"IEND"
    return found


def lines(found: dict[bytes, bytes], *, kind: int, bytes_each: int) -> np.ndarray:
    """The bytes of a PNG of 8 bits, a row of pixels each. kind: of its colours, 3 for a palette, 6 for RGBA."""
    width, height, depth, colour, compression, filter_, interlace = struct.unpack(">IIBBBBB", found[b"IHDR"])
    assert (depth, colour, compression, filter_, interlace) == (8, kind, 0, 0, 0)
    rows = np.frombuffer(zlib.decompress(found[b"IDAT"]), np.uint8).reshape(height, bytes_each * width + 1)
    assert not rows[:, 0].any()
    return rows[:, 1:]


def pixels(data: bytes) -> tuple[np.ndarray, np.ndarray, bytes]:
    """(pixels, palette, transparency) of an indexed PNG."""
    found = chunks(data)
    return lines(found, kind=3, bytes_each=1), np.frombuffer(found[b"PLTE"], np.uint8).reshape(-1, 3), found[b"tRNS"]


@pytest.mark.parametrize("n", [1, 2, 12, 320])
def test_the_png_is_the_pattern(n: int) -> None:
    codes = np.tril(np.random.default_rng(0).integers(0, 256, (n, n)).astype(np.uint8))
    found, palette, clear = pixels(pattern(codes).png())
    np.testing.assert_array_equal(found, codes)
    assert clear == b"\x00"
    assert len(palette) == 256
    steps = palette[1:255].astype(int).sum(1)
    assert (np.diff(steps) <= 0).all(), "more is darker"
    assert palette[NOT_A_NUMBER].tolist() == [213, 94, 0]


def test_the_png_of_a_long_text_is_pooled() -> None:
    codes = np.tril(np.random.default_rng(0).integers(0, 256, (700, 700)).astype(np.uint8))
    found, _, _ = pixels(pattern(codes).png())
    assert found.shape == (234, 234)
    assert found[100, 50] == codes[300:303, 150:153].max()
    assert found[233, 0] == codes[699:, :3].max()


def test_a_saved_notebook_has_the_picture_and_nothing_that_acts() -> None:
    trace = patterned(HOSTILE, {0: previous_token(len(HOSTILE))[None]})
    view = attention(trace)
    page = view._repr_mimebundle_()[0]["text/html"]
    assert re.sub(r'"[^"]*"', '""', page) == '<img src="" alt="" style="">', "what tokens say stands within quotes"
    source = re.search(r'src="data:image/svg\+xml;base64,([A-Za-z0-9+/=]+)"', page)
    assert source is not None
    drawn = base64.b64decode(source[1]).decode("utf-8")
    elements = list(xml.etree.ElementTree.fromstring(drawn).iter())
    assert {each.tag.rpartition("}")[2] for each in elements} <= {
        "svg",
        "title",
        "rect",
        "path",
        "text",
        "tspan",
        "image",
        "g",
    }
    assert not [name for each in elements for name in each.attrib if name.startswith("on")]
    raster = re.search(r'href="data:image/png;base64,([A-Za-z0-9+/=]+)"', drawn)
    assert raster is not None
    found = lines(chunks(base64.b64decode(raster[1])), kind=6, bytes_each=4)
    codes = quantize(trace.attention(0, 0).numpy())
    np.testing.assert_array_equal(found.reshape(*codes.shape, 4), pattern(codes).rgba())
    assert len(page) < 60_000


def test_a_refused_value_leaves_the_old_one() -> None:
    """Also when it comes from a front end, or two are set at once."""
    view = attention(random_trace(6), layer=1, head=2)
    for change in (
        lambda: view.show(99, 0),
        lambda: view.set_state({"marked": [[99, 1]]}),
        lambda: view.set_state({"marked": [5]}),
        lambda: view.set_state({"beside": [5, 5, 5]}),
        lambda: view.set_state({"scale": "boo"}),
        lambda: view.set_state({"layer": 1, "head": 77}),
    ):
        with pytest.raises(BadInput):
            change()
    assert (view.layer, view.head, view.marked, view.beside, view.scale) == (1, 2, [], [], "sqrt")
    assert view.summary["head"] == 2


def test_a_stopped_ablation_is_said_to_be() -> None:
    began = threading.Event()

    def ablate(heads: Any, *, stop: threading.Event) -> Any:
        began.set()
        stop.wait(10)

    view = attention(random_trace(6), layer=0, head=0, ablate=ablate)
    view.ablate()
    assert began.wait(10)
    view._ablation_job.stop()
    assert view.wait(10)
    assert view.effect_status["state"] == "stopped"


def test_what_can_not_be_used_is_refused_in_words() -> None:
    trace = random_trace(6)
    for wrong in ({"names": 5}, {"names": ("a",)}, {"order": 3}, {"scale": None}, {"measure": 3}, {"ablate": 5}):
        with pytest.raises(BadInput):
            attention(trace, **wrong)
    with pytest.raises(BadInput):
        attention(trace).to_html("x.html", heads=5)  # type: ignore[arg-type]
