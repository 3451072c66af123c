"""The attention view: bounded exact-enough bytes, one message per head, exact weights on request, text that stays text."""

from __future__ import annotations

import base64
import json
import re
import zlib
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets
import numpy as np
import pytest
import torch
from generations import HOSTILE, LONE_SURROGATES
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from traces import patterned, previous_token, random_patterns, random_trace

import labkit.views
from labkit.errors import BadInput, Unavailable
from labkit.markup import ranges
from labkit.trace.record import LayerAttention, Trace
from labkit.views.attention_view import AttentionView, attention
from labkit.views.attention_view.codes import MOST_CELLS, pack, pool_size
from labkit.views.attention_view.reading import clearest_head, read_cell, read_head
from labkit.views.kit.codes import LEVELS, NOT_A_NUMBER, quantize


def unpack(data: bytes) -> np.ndarray:
    """The packed half as a square, read here on its own."""
    n = int((8 * len(data) + 1) ** 0.5 - 1) // 2
    square = np.zeros((n, n), np.uint8)
    at = 0
    for row in range(n):
        square[row, : row + 1] = np.frombuffer(data[at : at + row + 1], np.uint8)
        at += row + 1
    return square


def dequantize(codes: np.ndarray) -> np.ndarray:
    """The weights that codes stand for, float64; NaN for what is no number."""
    return np.where(codes == NOT_A_NUMBER, np.nan, (codes.astype(np.float64) / LEVELS) ** 2)


def ask(view: AttentionView, question: str, **args: Any) -> dict[str, Any]:
    """What the view answers to a page's question."""
    answers: list[dict[str, Any]] = []
    view.send = lambda answer, buffers=None: answers.append(answer)  # type: ignore[method-assign]
    content = {"ask": question, "id": "a 1", "args": args}
    view._handle_msg({"content": {"data": {"method": "custom", "content": content}}, "buffers": []})
    (answer,) = answers
    assert json.loads(json.dumps(answer, allow_nan=False)) == answer
    assert answer["answer"] == "a 1"
    return answer


def exported(page: str) -> tuple[dict[str, Any], dict[str, bytes]]:
    state = json.loads(re.search(r'id="labkit-state">(.*?)</script>', page, re.DOTALL)[1])  # type: ignore[index]
    blobs = {name: base64.b64decode(text) for name, text in state["bytes"].items()}
    return state["values"], blobs | {name: zlib.decompress(base64.b64decode(v)) for name, v in state["packed"].items()}


# what is drawn ------------------------------------------------------------------------------------------------------


@given(arrays(np.float32, 50, elements=st.floats(0, 1, width=32)))
def test_codes_are_off_by_half_a_level_of_the_root(weights: np.ndarray) -> None:
    codes = quantize(weights)
    off = np.abs(np.sqrt(dequantize(codes)) - np.sqrt(weights.astype(np.float64)))
    assert (off <= np.where(codes == 1, 1, 0.5) / LEVELS + 1e-6).all()
    assert ((codes == 0) == (weights == 0)).all(), "only an exact zero may look like one"


def test_codes_of_the_ends_and_of_what_is_no_number() -> None:
    assert quantize(np.array([0, 1e-30, 1, 1.0000002, np.nan])).tolist() == [0, 1, 254, 254, NOT_A_NUMBER]
    assert np.isnan(dequantize(np.array([NOT_A_NUMBER], np.uint8))[0])


def test_payload_is_half_a_square_of_bytes_and_is_the_pattern() -> None:
    trace = random_trace(37)
    view = attention(trace, layer=1, head=2)
    assert len(view.cells) == 37 * 38 // 2
    shown = dequantize(unpack(view.cells))
    np.testing.assert_allclose(np.sqrt(shown), np.sqrt(trace.attention(1, 2).numpy()), atol=1 / LEVELS)
    assert len(json.dumps([view.summary, view.facts])) < 4_000


def test_a_long_text_is_pooled_to_the_highest_of_each_block() -> None:
    length = 2500
    trace = random_trace(length, layers=1, heads=1)
    assert pool_size(length) == 3
    assert [pool_size(n) for n in (1, MOST_CELLS, MOST_CELLS + 1)] == [1, 1, 2]
    view = attention(trace)
    n = -(-length // 3)
    assert n <= MOST_CELLS
    assert len(view.cells) == n * (n + 1) // 2
    assert view.texts == [trace.tokens]
    got, whole = unpack(view.cells), trace.attention(0, 0).numpy()
    for row, column in [(0, 0), (1, 0), (500, 499), (n - 1, 0), (n - 1, n - 1), (400, 123)]:
        block = whole[3 * row : 3 * row + 3, 3 * column : 3 * column + 3]
        assert got[row, column] == quantize(block.max())
        query, key, weight = read_cell(trace, 0, 0, row, column, pool=3)
        assert weight == block.max() == whole[query, key]
    best = view.summary["links"][0]
    aside = whole.copy()
    aside[:, 0] = 0
    np.fill_diagonal(aside, 0)
    assert best["weight"] == aside.max() == whole[best["query"], best["key"]]


def test_strongest_links_are_the_strongest_but_for_first_and_self() -> None:
    trace = random_trace(60)
    whole = trace.attention(0, 1).numpy().copy()
    whole[:, 0] = 0
    np.fill_diagonal(whole, 0)
    links = read_head(trace, 0, 1).summary["links"]
    assert [link["weight"] for link in links] == np.sort(whole.ravel())[::-1][:5].tolist()
    assert all(whole[link["query"], link["key"]] == link["weight"] for link in links)
    assert all(link["query_text"] == trace.tokens[link["query"]] for link in links)


def test_shares_add_up() -> None:
    trace = random_trace(20)
    whole = trace.attention(1, 0).numpy()
    summary = read_head(trace, 1, 0).summary
    assert summary["first"] == pytest.approx(whole[1:, 0].mean())
    assert summary["self"] == pytest.approx(np.diagonal(whole)[1:].mean())
    assert summary["first"] + summary["self"] + summary["others"] == pytest.approx(1, abs=1e-6)
    assert summary["lowest_sum"] is None


def test_rows_that_sum_to_less_than_one_are_said() -> None:
    patterns = random_patterns(12)
    patterns[0][0, 7] *= 0.25
    summary = read_head(patterned(["t"] * 12, patterns), 0, 0).summary
    assert summary["lowest_sum"] == pytest.approx(0.25)
    assert not summary["ahead"]


def test_weights_on_later_tokens_are_said() -> None:
    trace = patterned(["t"] * 5, {0: torch.full((1, 5, 5), 0.2)})
    assert attention(trace).summary["ahead"]


def test_what_is_no_number_is_marked_and_counted() -> None:
    patterns = random_patterns(12)
    patterns[0][0, 7] = torch.nan
    view = attention(patterned(["t"] * 12, patterns), layer=0, head=0)
    codes = unpack(view.cells)
    assert (codes[7, :8] == NOT_A_NUMBER).all()
    assert (codes == NOT_A_NUMBER).sum() == 8
    assert view.summary["broken_rows"] == 1
    assert all(link["query"] != 7 for link in view.summary["links"])
    assert ask(view, "exact", trace=0, layer=0, head=0, aside=False, row=7, column=3, pool=1)["value"]["weight"] is None
    json.dumps(view.summary, allow_nan=False)
    everything = attention(patterned(["t"] * 12, {0: torch.full((2, 12, 12), torch.nan)}))
    json.dumps(everything.summary, allow_nan=False)
    assert everything.summary["links"] == []


# which head ---------------------------------------------------------------------------------------------------------


def test_first_head_is_the_one_that_looks_most_firmly_at_others() -> None:
    length = 200
    sink = torch.zeros(length, length)
    sink[:, 0] = 1
    even = torch.ones(length, length).tril()
    even /= even.sum(-1, keepdim=True)
    trace = patterned(
        ["t"] * length,
        {
            0: torch.stack([sink, torch.eye(length)]),
            1: torch.stack([even, previous_token(length)]),
            2: torch.stack([sink, even]),
        },
    )
    view = attention(trace)
    assert (view.layer, view.head) == (1, 1)
    assert view.facts["chosen"] == [1, 1]
    assert (attention(trace, layer=2).head, attention(trace, head=0).layer) == (1, 1)
    assert attention(trace, layer=2).facts["chosen"] is None
    assert clearest_head(trace, [0, 2], [0]) == (0, 0)


@pytest.mark.parametrize("length", [1, 2, 3])
def test_the_shortest_texts(length: int, tmp_path: Path) -> None:
    view = attention(random_trace(length))
    assert (view.layer, view.head) == (0, 0) or length == 3
    assert len(view.cells) == length * (length + 1) // 2
    view.to_html(tmp_path / "short.html")


def test_only_layers_with_attention_are_offered() -> None:
    patterns = random_patterns(6, layers=4)
    trace = patterned(["t"] * 6, {1: patterns[1], 3: patterns[3]}, layers=4)
    view = attention(trace)
    assert view.facts["layers"] == [1, 3]
    with pytest.raises(BadInput, match="layer 1, 3"):
        attention(trace, layer=2)


def test_a_head_that_is_not_there() -> None:
    trace = random_trace(6)
    for wrong in (4, -5, "1", 1.0, True):
        with pytest.raises(BadInput, match="head 0 to 3"):
            attention(trace, head=wrong)  # type: ignore[arg-type]
    assert attention(trace, layer=-1, head=-1).layer == 1
    view = attention(trace, layer=0, head=0)
    with pytest.raises(BadInput):
        view.head = 9
    assert view.head == 0
    with pytest.raises(BadInput):
        view.to_html("x.html", heads=[(0, 9)])
    with pytest.raises(BadInput, match="given as \\(layer, head\\)"):
        view.to_html("x.html", heads=[3])  # type: ignore[list-item]


def test_traces_that_can_not_be_shown() -> None:
    trace = random_trace(6)
    with pytest.raises(BadInput, match="traces\\[0\\]"):
        attention([trace])  # type: ignore[arg-type]
    facts = {
        n: getattr(trace, n) for n in ("tokens", "ids", "model", "family", "layers", "heads", "kv_heads", "reasons")
    }
    with pytest.raises(Unavailable, match="was not kept"):
        attention(Trace(**facts, keep=("logits",)))
    with pytest.raises(BadInput, match="no tokens"):
        attention(Trace(**{**facts, "tokens": [], "ids": []}, keep=("attention",)))


def test_a_real_trace_with_grouped_heads(tiny_lab: Any) -> None:
    trace = tiny_lab.trace("the cat sat on the mat because it was tired")
    view = labkit.views.attention(trace)
    assert view.facts["kv_heads"] == trace.kv_heads < trace.heads == view.facts["heads"]
    shown = dequantize(unpack(view.cells))
    exact = trace.attention(view.layer, view.head).numpy()
    np.testing.assert_allclose(np.sqrt(shown), np.sqrt(exact), atol=1 / LEVELS)
    assert view.texts == [trace.tokens]


# between kernel and front end ---------------------------------------------------------------------------------------


def sent(view: AttentionView) -> list[dict[str, Any]]:
    """The state of every update that is sent from now on."""
    messages: list[dict[str, Any]] = []
    view._send = lambda message, buffers=None: messages.append({**message, "buffers": len(buffers or [])})  # type: ignore[method-assign]
    return messages


new_ipywidgets = pytest.mark.skipif(
    ipywidgets.__version__.startswith("7."), reason="ipywidgets 7 sends nothing where there is no kernel"
)


@new_ipywidgets
def test_a_front_ends_choice_is_answered_with_one_message() -> None:
    trace = random_trace(9)
    view = attention(trace, layer=0, head=0)
    messages = sent(view)
    view._handle_msg({"content": {"data": {"method": "update", "state": {"layer": 1, "head": 3}}}, "buffers": []})
    updates = [m for m in messages if m["method"] == "update"]
    assert len(updates) == 1
    assert {"summary", "version"} <= set(updates[0]["state"])
    assert updates[0]["buffers"] == 1, "the pattern travels as bytes"
    assert (view.summary["layer"], view.summary["head"]) == (1, 3)
    np.testing.assert_array_equal(unpack(view.cells), quantize(trace.attention(1, 3).numpy()))


@new_ipywidgets
def test_show_is_one_message_and_the_same_head_none() -> None:
    view = attention(random_trace(9), layer=0, head=0)
    messages = sent(view)
    view.show(1, 2)
    assert len(messages) == 1
    assert set(messages[0]["state"]) == {"layer", "head", "summary", "version"}
    assert messages[0]["buffers"] == 1
    view.show(1, 2)
    assert len(messages) == 1


def test_setting_a_trait_shows_the_head() -> None:
    trace = random_trace(9)
    view = attention(trace, layer=0, head=0)
    before = view.version
    view.layer = 1
    view.head = -1
    assert (view.layer, view.head, view.version) == (1, 3, before + 2)
    np.testing.assert_array_equal(unpack(view.cells), quantize(trace.attention(1, 3).numpy()))


def test_exact_weights_are_answered() -> None:
    trace = random_trace(9)
    view = attention(trace, layer=0, head=0)
    answer = ask(view, "exact", trace=0, layer=1, head=2, aside=False, row=7, column=4, pool=1)["value"]
    assert answer["weight"] == float(trace.attention(1, 2)[7, 4])
    assert (answer["query"], answer["key"], answer["query_text"], answer["key_text"]) == (7, 4, " it", " the")


@pytest.mark.parametrize(
    "content",
    [
        {"layer": 5}, {"head": 4}, {"row": 9}, {"column": 8}, {"row": -1}, {"row": "7"}, {"row": True}, {"column": None},
        {"pool": 0}, {"pool": 2}, {"pool": None}, {"trace": 1}, {"trace": -1}, {"trace": 0.0}, {"trace": None}, {"trace": []},
        {"aside": None}, {"more": 1},
    ],
)  # fmt: skip
def test_questions_that_make_no_sense_are_refused(content: dict[str, Any]) -> None:
    asked = {"trace": 0, "layer": 1, "head": 2, "aside": False, "row": 7, "column": 4, "pool": 1}
    view = attention(random_trace(9))
    assert "value" in ask(view, "exact", **asked)
    answer = ask(view, "exact", **asked | content)
    assert set(answer) == {"answer", "refused"}
    assert answer["refused"].endswith(".")


def test_no_trait_hides_one_of_the_widgets() -> None:
    own = set(AttentionView.class_traits()) - set(anywidget.AnyWidget.class_traits())
    assert own == {
        "layer", "head", "cells", "summary", "version", "beside", "beside_cells", "beside_summary", "beside_version",
        "texts", "facts", "extra", "marked", "measure", "order", "scale", "aside", "effect",
        "effect_status", "map_status", "constants",
        *(f"map_{i}" for i in range(8)),
    }  # fmt: skip
    assert not [name for name in own if hasattr(anywidget.AnyWidget, name)]


# files and fallbacks ------------------------------------------------------------------------------------------------


def test_export_holds_every_head_of_a_short_text(tmp_path: Path) -> None:
    trace = random_trace(12)
    view = attention(trace, layer=1, head=1)
    before = view.version
    values, blobs = exported(view.to_html(tmp_path / "all.html").read_text("utf-8"))
    pairs = [(head["layer"], head["head"]) for head in values["embedded"]]
    assert pairs == [(layer, head) for layer in range(2) for head in range(4)]
    assert values["left_out"] == ""
    size = 12 * 13 // 2
    for i, pair in enumerate(pairs):
        np.testing.assert_array_equal(
            unpack(blobs["embedded_cells"][i * size : (i + 1) * size]), quantize(trace.attention(*pair).numpy())
        )
    assert view.version == before


def left_out(said: str, *, heads: int) -> set[tuple[int, int]]:
    """What "layers 0, 4; heads 1 to 3 of layer 2" names."""
    found = set()
    for part in said.split("; "):
        _, numbers, layer = re.fullmatch(r"(layers?|heads?) ([\d, to]+?)(?: of layer (\d+))?", part).groups()  # type: ignore[union-attr]
        named: list[int] = []
        for run in numbers.split(", "):
            first, _, last = run.partition(" to ")
            named += range(int(first), int(last or first) + 1)
        found |= {(int(layer), n) for n in named} if layer else {(n, head) for n in named for head in range(heads)}
    return found


def test_export_keeps_to_its_budget_and_names_what_is_left_out(tmp_path: Path) -> None:
    trace = random_trace(300, layers=5, heads=4)
    view = attention(trace, layer=2, head=1)
    page = view.to_html(tmp_path / "some.html", most_bytes=550_000)
    values, _ = exported(page.read_text("utf-8"))
    held = [(head["layer"], head["head"]) for head in values["embedded"]]
    assert 490_000 < page.stat().st_size <= 550_000, "one head more would be 50,000 bytes"
    assert {(2, head) for head in range(4)} <= set(held)
    assert {layer for layer, _ in held} <= {1, 2, 3}, "the nearest layers first"
    named = left_out(values["left_out"], heads=4)
    assert named == {(layer, head) for layer in range(5) for head in range(4)} - set(held)
    with pytest.raises(BadInput, match="most_bytes=") as refused:
        view.to_html(tmp_path / "small.html", most_bytes=1000)
    assert not (tmp_path / "small.html").exists()
    enough = int(re.search(r"most_bytes=([\d,]+)", str(refused.value))[1].replace(",", ""))  # type: ignore[index]
    values, _ = exported(view.to_html(tmp_path / "small.html", most_bytes=enough).read_text("utf-8"))
    assert [(head["layer"], head["head"]) for head in values["embedded"]] == [(2, 1)], "the shown head is always there"
    for wrong in (0, -5, True, "x"):
        with pytest.raises(BadInput, match="most_bytes"):
            view.to_html(tmp_path / "x.html", most_bytes=wrong)  # type: ignore[arg-type]
    whole, _ = exported(view.to_html(tmp_path / "whole.html", most_bytes=10**8).read_text("utf-8"))
    assert whole["left_out"] == ""


def test_export_is_within_three_megabytes(tmp_path: Path) -> None:
    page = attention(random_trace(1024, layers=2, heads=5), layer=0, head=4).to_html(tmp_path / "long.html")
    assert 1_500_000 < page.stat().st_size <= 3_000_000
    values, _ = exported(page.read_text("utf-8"))
    held = [(head["layer"], head["head"]) for head in values["embedded"]]
    assert held[:5] == [(0, head) for head in range(5)], "first the shown head's layer"
    assert "of layer 1" in values["left_out"]


def test_export_of_chosen_heads(tmp_path: Path) -> None:
    view = attention(random_trace(8), layer=0, head=0)
    values, _ = exported(view.to_html(tmp_path / "two.html", heads=[(1, 3), (-1, 3), (1, 0)]).read_text("utf-8"))
    assert [(head["layer"], head["head"]) for head in values["embedded"]] == [(0, 0), (1, 0), (1, 3)]
    assert values["left_out"] == "heads 1 to 3 of layer 0; heads 1, 2 of layer 1"


def test_ranges_in_words() -> None:
    assert ranges([3, 0, 1, 2, 7, 5, 8]) == "0 to 3, 5, 7, 8"
    assert ranges([]) == ""


def hostile() -> AttentionView:
    tokens = [*HOSTILE, *LONE_SURROGATES]
    return attention(patterned(tokens, {0: previous_token(len(tokens))[None]}))


def test_hostile_tokens_stay_text(tmp_path: Path) -> None:
    view = hostile()
    assert max(map(len, view.texts[0])) <= 80
    "".join(view.texts[0]).encode("utf-8")
    page = view.to_html(tmp_path / "hostile.html").read_text("utf-8")
    assert len(re.findall("<script", page)) == len(re.findall("</script", page)) == 2
    fallback = view._static_html()
    assert set(re.findall(r"<(\w+)", fallback)) == {"img"}
    assert len(view._repr_mimebundle_()[0]["text/plain"]) <= 2_000


def test_fallbacks_name_the_strongest_links() -> None:
    tokens = ["The", " cat", " sat", " <b>"]
    view = attention(patterned(tokens, {0: previous_token(4, 0.75)[None]}))
    data, _ = view._repr_mimebundle_()
    assert "' sat' (2) looks at ' cat' (1): 0.7500" in data["text/plain"]
    assert "tiny-model · 4 tokens · layer 0 · head 0" in data["text/html"]
    assert "&lt;b&gt;" in data["text/html"]
    assert "<b>" not in data["text/html"]


def test_repr_does_not_change_from_one_view_to_the_next() -> None:
    trace = random_trace(8)
    assert repr(attention(trace)) == repr(attention(trace))
    assert (
        repr(attention(trace, layer=0, head=1)) == "AttentionView('The cat sat on the mat because it', layer=0, head=1)"
    )


def test_a_long_text_is_computed_a_few_rows_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    length, most = 3000, 0
    generator = torch.Generator().manual_seed(0)
    layer = LayerAttention(
        query=torch.randn(1, length, 4, generator=generator), key=torch.randn(1, length, 4, generator=generator)
    )
    trace = Trace(["t"] * length, [0] * length, "m", "llama", 1, 1, 1, ("attention",), {}, _attention={0: layer})
    whole = Trace.attention

    def watched(self: Trace, *args: Any, **settings: Any) -> torch.Tensor:
        nonlocal most
        found = whole(self, *args, **settings)
        most = max(most, found.numel())
        return found

    monkeypatch.setattr(Trace, "attention", watched)
    got = unpack(read_head(trace, 0, 0).cells)
    assert most <= 1 << 22 < length * length
    exact = whole(trace, 0, 0).numpy()
    assert got[999, 500] == quantize(exact[2997:3000, 1500:1503].max())
    assert pack(got) == read_head(trace, 0, 0).cells
