"""The routes view: what it reads is what the trace holds, bounded bytes, chance by an independent count, text that stays text."""

from __future__ import annotations

import base64
import json
import re
import zlib
from math import comb
from pathlib import Path
from typing import Any

import anywidget
import numpy as np
import pandas as pd
import pytest
import torch
from families import FAMILIES, Tokens, build
from generations import HOSTILE, LONE_SURROGATES
from pictured import words as words_of
from routed import WORDS, random_routed, routed
from traces import random_trace

import labkit as lk
from labkit.errors import BadInput, Unavailable
from labkit.moe.measures import specialisation as measured
from labkit.moe.routing import collect
from labkit.trace.record import Routes, Trace
from labkit.views.drawing.scene import Raster, Words
from labkit.views.drawing.svg import svg
from labkit.views.routes_view import FILE_BYTES, RoutesView, routes
from labkit.views.routes_view.choices import MOST_BYTES, MOST_TOKENS, by_weight, chance, router
from labkit.views.routes_view.exported import COLOURS, OTHERS
from labkit.views.specialisation_chart import MOST_LAYERS, damage, specialisation


def decoded(view: RoutesView, which: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(layers, tokens, k) experts and weights as the browser gets them, read here on its own."""
    layers, wide = len(view.facts["layers"]), view.facts["bytes"]
    sizes = [layers * n * k for n, k in zip(view.facts["drawn"], view.facts["k"], strict=True)]
    begin = sum(sizes[:which])
    shape = (layers, view.facts["drawn"][which], view.facts["k"][which])
    experts = np.frombuffer(view.experts, np.uint8 if wide == 1 else "<u2")[begin : begin + sizes[which]].reshape(shape)
    codes = np.frombuffer(view.weights, np.uint8)[begin : begin + sizes[which]].reshape(shape).astype(float)
    return experts, (codes / 254) ** 2 * view.facts["tops"][which]


def ask(view: RoutesView, **args: Any) -> list[tuple[dict[str, Any], list[bytes]]]:
    """What the view answers to a front end's message."""
    answers: list[Any] = []
    view.send = lambda answer, buffers=None: answers.append((answer, buffers))  # type: ignore[method-assign]
    view._handle_msg(
        {"content": {"data": {"method": "custom", "content": {"ask": "token", "id": "x", "args": args}}}, "buffers": []}
    )
    return answers


def exported(path: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    state = json.loads(re.search(r'id="labkit-state">(.*?)</script>', path.read_text("utf-8"), re.DOTALL)[1])  # type: ignore[index]
    blobs = {name: base64.b64decode(text) for name, text in state["bytes"].items()}
    return state["values"], blobs | {name: zlib.decompress(base64.b64decode(v)) for name, v in state["packed"].items()}


# what is drawn ------------------------------------------------------------------------------------------------------


def test_experts_and_weights_are_the_traces_own_the_largest_first() -> None:
    trace = random_routed(30, layers=3, experts=16, k=3)
    experts, weights = decoded(routes(trace))
    for token in range(30):
        for layer in range(3):
            pairs = sorted(
                zip(
                    trace.routes.weights[token, layer].tolist(),
                    trace.routes.experts[token, layer].tolist(),
                    strict=True,
                ),
                reverse=True,
            )
            assert experts[layer, token].tolist() == [e for _, e in pairs]
            np.testing.assert_allclose(np.sqrt(weights[layer, token]), np.sqrt([w for w, _ in pairs]), atol=1 / 254)


def test_a_router_that_hands_over_in_another_order_is_put_in_order() -> None:
    experts, weights = by_weight(np.array([[[5, 2, 9]]]), np.array([[[0.1, 0.7, 0.2]]]))
    assert experts.tolist() == [[[2, 9, 5]]]
    assert weights.tolist() == [[[0.7, 0.2, 0.1]]]


def test_loads_count_every_choice_but_those_of_special_tokens() -> None:
    trace = random_routed(40, layers=2, experts=8, k=2)
    for special in ((), (0, 7)):
        view = routes(trace, special=special)
        load = np.frombuffer(view.load, "<u4").reshape(2, 8)
        kept = [i for i in range(40) if i not in special]
        for layer in range(2):
            for expert in range(8):
                assert load[layer, expert] == sum(expert in trace.routes.experts[i, layer].tolist() for i in kept)
        assert view.facts["counted"] == [len(kept)]
        assert view.facts["special"] == [list(special)]
    assert load.sum(1).tolist() == [76, 76]


def test_special_tokens_of_the_trace_are_not_counted_unless_asked() -> None:
    one = random_routed(40, layers=2, experts=8, k=2, special=(0, 7))
    other = random_routed(30, layers=2, experts=8, k=2, special=(3,))
    assert routes(one, other).facts["special"] == [[0, 7], [3]]
    assert routes(one, other).facts["counted"] == [38, 29]
    assert routes(one, special=()).facts["counted"] == [40]
    assert routes(one, special=[5]).facts["special"] == [[5]]
    start = routed(["<|start|>", "a", " b"], torch.randn(3, 2, 8), special=(0,))
    assert routes(start, take=words).typed == routes(start, take=words, special=()).typed == "a b"


@pytest.mark.parametrize(("tokens", "k", "experts"), [(1, 1, 4), (12, 4, 32), (50, 2, 8), (300, 8, 256)])
def test_the_band_holds_95_per_cent_of_a_random_choice(tokens: int, k: int, experts: int) -> None:
    low, high = chance(tokens, k, experts)  # type: ignore[misc]
    p = k / experts
    mass = [comb(tokens, x) * p**x * (1 - p) ** (tokens - x) for x in range(tokens + 1)]
    first, last = round(low * tokens * k), round(high * tokens * k)
    assert sum(mass[:first]) < 0.025 <= sum(mass[: first + 1]), "the 2.5 % quantile"
    assert sum(mass[:last]) < 0.975 <= sum(mass[: last + 1]), "the 97.5 % quantile"


def test_the_band_against_choices_drawn_at_random() -> None:
    rng = np.random.default_rng(0)
    tokens, k, experts = 60, 3, 12
    low, high = chance(tokens, k, experts)  # type: ignore[misc]
    drawn = np.array(
        [
            sum(0 in rng.permutation(experts)[:k] for _ in range(tokens)) / (tokens * k)
            for _ in range(400)
        ]
    )  # fmt: skip
    assert 0.93 <= ((drawn >= low) & (drawn <= high)).mean() <= 1


def test_the_band_at_its_ends() -> None:
    assert chance(0, 2, 8) is None
    assert chance(5, 4, 4) == (0.25, 0.25), "who is always chosen has no chance in it"
    low, high = chance(100_000, 8, 256)  # type: ignore[misc]
    assert 0.95 / 256 < low < 1 / 256 < high < 1.05 / 256


def test_bytes_are_bounded_and_known() -> None:
    view = routes(random_routed(1024, layers=61, experts=256, k=8))
    assert (len(view.experts), len(view.weights)) == (61 * 1024 * 8, 61 * 1024 * 8)
    assert len(view.experts) + len(view.weights) + len(view.load) == 1_061_888
    wide = routes(random_routed(9, layers=2, experts=300, k=2))
    assert wide.facts["bytes"] == 2
    assert decoded(wide)[0].max() > 255
    long = routes(random_routed(MOST_TOKENS + 50, layers=1, experts=4, k=1))
    assert (long.facts["drawn"], long.facts["tokens"]) == ([MOST_TOKENS], [MOST_TOKENS + 50])
    assert np.frombuffer(long.load, "<u4").sum() == MOST_TOKENS + 50, "loads are of all"
    deep = routes(random_routed(300, layers=61, experts=64, k=64))
    assert len(deep.experts) + len(deep.weights) <= MOST_BYTES


# router probabilities -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
@pytest.mark.parametrize("k", [1, 3])
def test_the_function_of_the_router_is_found_by_its_weights(kind: str, k: int) -> None:
    logits = torch.randn(20, 2, 8, generator=torch.Generator().manual_seed(1))
    trace = routed(["a"] * 20, logits, k=k, router=kind)
    if k == 1:  # then weights are not scaled, or say nothing
        p = logits.sigmoid() if kind == "sigmoid" else logits.softmax(-1)
        weights, experts = p.topk(1, dim=-1)
        trace = routed(["a"] * 20, logits, k=1, _routes=Routes(experts, weights, logits, (0, 1)))
    assert router(trace) == (kind, True)
    p = (logits.sigmoid() if kind == "sigmoid" else logits.softmax(-1))[4, 1]
    ((answer, (probabilities, weights_)),) = ask(routes(trace), version=0, trace=0, layer=1, token=4)
    assert answer == {"answer": "x", "value": None}
    np.testing.assert_allclose(np.frombuffer(probabilities, "<f4"), p.numpy(), rtol=1e-5)
    np.testing.assert_allclose(np.frombuffer(weights_, "<f4"), trace.routes.weights[4, 1].numpy(), rtol=1e-6)


def test_logits_that_are_probabilities_already_are_taken_as_they_are() -> None:
    p = torch.randn(20, 2, 8, generator=torch.Generator().manual_seed(1)).softmax(-1)
    weights, experts = p.topk(2, dim=-1)
    trace = routed(["a"] * 20, p, _routes=Routes(experts, weights / weights.sum(-1, keepdim=True), p, (0, 1)))
    assert router(trace)[0] == "given"


def test_a_choice_that_does_not_follow_the_logits_alone_is_told() -> None:
    logits = torch.randn(20, 2, 8, generator=torch.Generator().manual_seed(1))
    p = logits.sigmoid()
    bias = torch.tensor([3.0, 0, 0, 0, 0, 0, 0, 0])
    experts = (p + bias).topk(2, dim=-1).indices
    weights = p.gather(-1, experts)
    trace = routed(["a"] * 20, logits, _routes=Routes(experts, weights / weights.sum(-1, keepdim=True), logits, (0, 1)))
    assert router(trace) == ("sigmoid", False)
    assert routes(trace).facts["alone"] is False


@pytest.mark.parametrize("content", [
    {"layer": 9}, {"token": 12}, {"token": -1}, {"trace": 1}, {"version": 3}, {"layer": True}, {"layer": "0"}, {"kind": "x"},
])  # fmt: skip
def test_a_question_about_what_is_not_there_is_refused(content: dict[str, Any]) -> None:
    asked = {"version": 0, "trace": 0, "layer": 0, "token": 0}
    view = routes(random_routed(12))
    [(answer, buffers)] = ask(view, **asked)
    assert ("value" in answer, len(buffers)) == (True, 2)
    [(answer, buffers)] = ask(view, **(asked | content))
    assert ("refused" in answer, buffers) == (True, [])


# two traces ---------------------------------------------------------------------------------------------------------


def test_two_traces_of_one_text_count_what_changed() -> None:
    before = random_routed(50, layers=3, experts=8, k=2, seed=1)
    after_logits = before.routes.logits.clone()
    after_logits[4, 1] = -after_logits[4, 1]  # another set, another first
    after_logits[9, 1, int(before.routes.experts[9, 1, 1])] = -50.0  # another second
    first, second = before.routes.experts[20, 2].tolist()
    after_logits[20, 2, [first, second]] = after_logits[20, 2, [second, first]]  # the same two in another order
    after = routed(before.tokens, after_logits)
    view = routes(before, after)
    assert view.facts["same"] is True
    assert view.facts["changed"] == [0, 2, 0]
    assert view.facts["changed_first"] == [0, 1, 0]
    assert view.facts["names"] == ["before", "after"]
    assert decoded(view, 1)[0][1, 4, 0] == after.routes.experts[4, 1, 0]
    other = routes(before, random_routed(20, layers=3, experts=8, k=2), names=("one", "two"))
    assert (other.facts["same"], other.facts["changed"], other.facts["names"]) == (False, [], ["one", "two"])


def test_traces_of_two_models_are_refused() -> None:
    with pytest.raises(
        BadInput,
        match=r"2 routed layers of 8 experts can't stand in a view of 6 routed layers of 32 experts; give traces of one",
    ):
        routes(random_routed(5), random_routed(5, layers=2, experts=8, k=2))


@pytest.mark.parametrize("fewer", [1, 3])
def test_two_traces_of_one_model_may_choose_different_numbers(fewer: int) -> None:
    four = random_routed(50, layers=3, experts=8, k=4, seed=1)
    logits = four.routes.logits.clone()
    best, fifth = logits[7, 2].argmax(), logits[7, 2].argsort(descending=True)[4]
    logits[7, 2, fifth] = logits[7, 2, best] + 1  # now the first, and not among the four
    fewer_routed = routed(four.tokens, logits, k=fewer)
    for pair in ((four, fewer_routed), (fewer_routed, four)):
        view = routes(*pair, special=())
        assert view.facts["k"] == [trace.routes.chosen[0] for trace in pair]
        assert view.facts["changed"] == [0, 0, 1], "the rest of the fewer are among the four"
        assert view.facts["changed_first"] == [0, 0, 1]
        for which, trace in enumerate(pair):
            experts, _ = decoded(view, which)
            assert (
                experts == by_weight(trace.routes.experts.numpy(), trace.routes.weights.numpy())[0].swapaxes(0, 1)
            ).all()
            load = np.frombuffer(view.load, "<u4").reshape(2, 3, 8)[which]
            assert load.sum(1).tolist() == [50 * view.facts["k"][which]] * 3
        assert view.facts["bands"] == [list(chance(50, k, 8)) for k in view.facts["k"]]  # type: ignore[arg-type]


def test_a_trace_whose_layers_choose_different_numbers_says_so() -> None:
    lab = lk.Lab(build(FAMILIES["qwen3_moe"]), Tokens(), name="tiny")
    plain = lab.trace([5, 6, 7], keep="routes")
    with lab.edit(lk.moe.choose(1, layer=1)):
        trace = lab.trace([5, 6, 7], keep="routes")
    for given in ((trace,), (plain, trace)):
        with pytest.raises(BadInput, match=r"different numbers of experts, from 1 to 2, .*lk\.moe\.choose\(2\)"):
            routes(*given)
    with lab.edit(lk.moe.choose(1)):
        assert routes(plain, lab.trace([5, 6, 7], keep="routes")).facts["k"] == [2, 1]


# what can't be shown ------------------------------------------------------------------------------------------------


def test_what_has_no_routes_says_why() -> None:
    with pytest.raises(Unavailable, match=r"routes was not kept.*keep="):
        routes(random_trace(5))
    dense = Trace(**{**vars(random_trace(3)), "reasons": {"routes": "dense model: it has no router"}})
    with pytest.raises(Unavailable, match="dense model"):
        routes(dense)
    with pytest.raises(BadInput, match=r"traces\[0\]"):
        routes([random_routed(3)])  # type: ignore[arg-type]
    with pytest.raises(BadInput, match=r"lab\.trace"):
        routes("a text")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="take="):
        routes(random_routed(3), take="a text")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="names="):
        routes(random_routed(3), names=("one",))  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="special="):
        routes(random_routed(3), special=3)  # type: ignore[arg-type]


def test_a_layer_without_a_router_is_refused_and_named() -> None:
    trace = random_routed(5, layers=3)
    sparse = routed(trace.tokens, trace.routes.logits, k=4, layers=[1, 3, 5])
    view = routes(sparse)
    assert view.layer == 3, "the middle one"
    for layer in (0, 2, 6, -1, "x", True):
        with pytest.raises(BadInput, match="these layers have one: 1, 3, 5"):
            routes(sparse, layer=layer)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="layer 4"):
        view.layer = 4
    assert view.layer == 3
    view.layer = 5
    with pytest.raises(BadInput, match="order="):
        view.order = "size"
    for held in ([0], [0, 5], [1, 0], [0, True]):
        with pytest.raises(BadInput, match="held="):
            view.held = held


# typing -------------------------------------------------------------------------------------------------------------


def words(text: str) -> Trace:
    tokens = text.split()
    if "bad" in tokens:
        raise BadInput("This text can't be traced: <i>.")
    if "worse" in tokens:
        raise RuntimeError("a wall\nof lines")
    return random_routed(len(tokens), layers=2, experts=8, k=2)


def test_another_text_is_shown_when_it_is_typed() -> None:
    view = routes(random_routed(6, layers=2, experts=8, k=2), take=words)
    assert view.typed == "".join(WORDS[:6])
    view.held = [0, 5]
    view.typed = "one two three"
    assert view.wait(10)
    assert view.facts["tokens"] == [3]
    assert view.version == 1
    assert view.status == {"state": "done", "message": ""}
    assert view.held == [], "that token is gone"
    view.close()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("bad", "This text can't be traced: <i>."),
        ("worse", "The text can't be traced: RuntimeError: a wall of lines."),
    ],
)
def test_a_failure_is_a_sentence_in_its_place(text: str, said: str) -> None:
    view = routes(random_routed(6, layers=2, experts=8, k=2), take=words)
    before = view.experts
    view.typed = text
    assert view.wait(10)
    assert view.status == {"state": "failed", "message": said}
    assert (view.version, view.experts) == (0, before), "what was there stands"
    view.typed = "one two"
    assert view.wait(10)
    assert view.status["state"] == "done"
    view.close()


def test_take_with_two_traces() -> None:
    one = random_routed(6, layers=2, experts=8, k=2)
    view = routes(one, random_routed(4, layers=2, experts=8, k=2, seed=5), take=words)
    view.typed = "one two three"
    assert view.wait(10)
    assert view.facts["tokens"] == [3, 4], "one trace replaces the first"
    view._take = lambda text: (words(text), words(text))
    view.typed = "one two"
    assert view.wait(10)
    assert view.facts["tokens"] == [2, 2]
    assert view.facts["same"]
    view._take = lambda text: [words(text)] * 3
    view.typed = "one"
    assert view.wait(10)
    assert "3 traces" in view.status["message"]
    view._take = lambda text: random_routed(3)
    view.typed = "two"
    assert view.wait(10)
    assert "give traces of one model" in view.status["message"]
    view.close()


def test_a_start_token_is_not_offered_as_text() -> None:
    trace = routed(["<|start|>", "a", " b"], torch.randn(3, 2, 8))
    assert routes(trace, take=words).typed == "a b"
    assert routes(trace, take=words, special=[0]).typed == "a b"
    assert routes(routed(["a", "<br>"], torch.randn(2, 2, 8)), take=words).typed == "a<br>"


# a model ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["qwen3_moe", "mixtral", "olmoe"])
def test_a_tiny_mixture_from_end_to_end(family: str) -> None:
    lab = lk.Lab(build(FAMILIES[family]), Tokens(), name="tiny")
    trace = lab.trace([5, 6, 7, 8, 9], keep="routes")
    view = routes(trace)
    assert (view.facts["router"], view.facts["alone"]) == ("softmax", True)
    experts, weights = decoded(view)
    chosen = trace.routes.logits.softmax(-1).topk(2, dim=-1)
    assert (experts == chosen.indices.numpy().swapaxes(0, 1)).all()
    expected = trace.routes.weights.numpy().swapaxes(0, 1)
    np.testing.assert_allclose(np.sqrt(weights), np.sqrt(expected), atol=1 / 254)
    with lab.edit(lk.ablate_head(0, 0)):
        edited = lab.trace([5, 6, 7, 8, 9], keep="routes")
    both = routes(trace, edited)
    assert both.facts["same"]
    sets = [set(map(int, e)) for e in trace.routes.experts[:, 1]]
    assert both.facts["changed"][1] == sum(
        a != set(map(int, e)) for a, e in zip(sets, edited.routes.experts[:, 1], strict=True)
    )


# files and fallbacks ------------------------------------------------------------------------------------------------


def test_a_file_holds_probabilities_to_two_digits(tmp_path: Path) -> None:
    trace = random_routed(12, layers=3, experts=16, k=2)
    values, blobs = exported(routes(trace, take=words_of_none).to_html(tmp_path / "file.html"))
    assert values["facts"]["with_probabilities"] == [12]
    codes = np.frombuffer(blobs["probabilities"], np.uint8).reshape(12, 3, 16).astype(float)
    exact = trace.routes.logits.softmax(-1).numpy()
    np.testing.assert_allclose(codes / 254, np.sqrt(exact), atol=1 / 254)
    assert (values["typed"], values["status"]) == ("", {})


def words_of_none(text: str) -> Trace:
    raise AssertionError("nobody typed")


def test_a_file_of_a_large_mixture_leaves_probabilities_out(tmp_path: Path) -> None:
    view = routes(random_routed(400, layers=20, experts=256, k=8))
    path = view.to_html(tmp_path / "file.html")
    values, blobs = exported(path)
    (held,) = values["facts"]["with_probabilities"]
    assert held == FILE_BYTES // (20 * 256) < 400
    assert len(blobs["probabilities"]) == held * 20 * 256 <= FILE_BYTES
    assert path.stat().st_size < 2_500_000


def test_the_picture_where_no_script_runs() -> None:
    trace = random_routed(12)
    view = routes(trace, layer=3)
    data, _ = view._repr_mimebundle_()
    assert "layer 3 of 6 routed layers, 4 of 32 experts" in data["text/plain"]
    load = np.frombuffer(view.load, "<u4").reshape(6, 32)[3].astype(int)
    best = int(load.argmax())
    assert f"expert {best}: {load[best] / 48:.1%} ({load[best]} tokens)" in data["text/plain"]
    kept = base64.b64decode(re.search(r"data:image/svg\+xml;base64,([^\"]+)", data["text/html"])[1])  # type: ignore[index]
    picture = view._image()
    assert kept.decode() == svg(picture)
    first = trace.routes.experts[:, 3, 0].tolist()
    notes = [shape.text for shape in picture.shapes if isinstance(shape, Words) and shape.size == 9]
    assert notes == [str(e) for e in first], "after each token the number of its first expert"
    (strip,) = (shape.pixels for shape in picture.shapes if isinstance(shape, Raster))
    assert strip.shape == (6, 12, 4)
    firsts = np.bincount(first, minlength=32) + load / 100  # those chosen first have the colours
    most = np.argsort(-firsts, kind="stable")[:8].tolist()
    colours = [COLOURS[most.index(e)] if e in most else OTHERS for e in first]
    assert [f"#{bytes(cell[:3]).hex()}" for cell in strip[3]] == colours
    assert f"{load[best] / 48:.1%}" in words_of(picture)


def test_a_layout_and_the_colours_are_the_widget_s() -> None:
    view = RoutesView(random_routed(3), layout={"width": "60%"})
    assert view.layout.width == "60%"
    assert [light for light, _ in view.constants["palette"]] == list(COLOURS)
    with pytest.raises(BadInput, match="order='best' is not known; give one of number, most"):
        view.order = "best"
    assert view.order == "number"


def test_repr_is_stable_and_names_no_address() -> None:
    view = routes(random_routed(3), layer=0)
    assert repr(view) == "RoutesView('The cat sat', 3 tokens, layer=0)"
    assert "3 and 4 tokens" in repr(routes(random_routed(3), random_routed(4)))


def test_hostile_tokens_stay_text(tmp_path: Path) -> None:
    tokens = [*HOSTILE, *LONE_SURROGATES]
    view = routes(routed(tokens, torch.randn(len(tokens), 2, 8), model="<script>x"))
    data, _ = view._repr_mimebundle_()
    json.dumps(data, ensure_ascii=False).encode("utf-8")
    assert "<script" not in data["text/html"]
    assert "<img src=x" not in data["text/html"]
    assert view.to_html(tmp_path / "h.html").read_text("utf-8").count("<script") == 2
    assert max(map(len, view.texts[0])) <= 200


def test_characters_over_several_tokens_are_put_together() -> None:
    trace = routed(["<0xE4>", "<0xB8><0xAD>", "!"], torch.randn(3, 2, 8))
    view = routes(trace)
    assert view.texts == [["中", "", "!"]]
    assert view.facts["marks"] == [{"continued": [1], "called": [[0, "<0xE4>"], [1, "<0xB8><0xAD>"]]}]


def test_numbers_that_are_none_are_no_crash() -> None:
    logits = torch.randn(4, 2, 8)
    logits[1] = torch.nan
    trace = routed(["a", "b", "c", "d"], logits)
    view = routes(trace)
    assert np.isfinite(view.facts["tops"][0])
    ((_, (probabilities, _w)),) = ask(view, version=0, trace=0, layer=0, token=1)
    assert np.isnan(np.frombuffer(probabilities, "<f4")).all()
    json.dumps(view.facts, allow_nan=False)


def test_traits_never_hide_an_attribute_of_widgets() -> None:
    own = set(RoutesView.class_traits(sync=True)) - set(anywidget.AnyWidget.class_traits())
    assert not {name for name in own if hasattr(anywidget.AnyWidget, name)}
    source = RoutesView.__dict__["_esm"] + RoutesView.__dict__["_css"]
    assert not re.search(r"https?://|url\(|@import|fetch\(|innerHTML|insertAdjacentHTML", source)


# charts -------------------------------------------------------------------------------------------------------------


def shares(layers: int = 2, **columns: Any) -> pd.DataFrame:
    """Four experts, two kinds: of each layer experts 1 and 3 are chosen for "b" and 0 for "a", 2 for both alike."""
    share = {"a": [0.9, 0.1, 0.5, 0.52], "b": [0.2, 0.8, 0.5, 0.98]}
    rows = [
        {"layer": layer, "kind": kind, "expert": e, "share": s, "low": s - 0.05, "high": s + 0.05, "uniform": 0.5}
        for layer in range(layers)
        for kind, all_ in share.items()
        for e, s in enumerate(all_)
    ]
    return pd.DataFrame(rows).assign(**columns)


def drawn_in(figure: Any, layer: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Of a layer's map: the cells beyond chance, those within (NaN elsewhere), and the experts' names in their order."""
    maps = [trace for trace in figure.data if trace.type == "heatmap"]
    axis = figure.layout["xaxis" if layer == 0 else f"xaxis{layer + 1}"]
    return np.array(maps[2 * layer].z, float), np.array(maps[2 * layer + 1].z, float), list(axis.ticktext)


def test_cells_are_the_logarithm_of_the_share_over_the_uniform_one_in_blocks() -> None:
    frame = shares(untrained_low=0.3, untrained_high=0.7)
    figure = specialisation(frame)
    beyond, within, names = drawn_in(figure, 0)
    assert names == ["0", "2", "3", "1"], "by the kind each is strongest in, then by how strong"
    together = np.where(np.isnan(beyond), within, beyond)
    table = frame[frame.layer == 0].pivot(index="kind", columns="expert", values="share")
    np.testing.assert_allclose(together, np.log2(table[[0, 2, 3, 1]].to_numpy() / 0.5))
    assert (figure.layout.coloraxis.cmin, figure.layout.coloraxis.cmax) == (-3, 3)
    assert figure.layout.coloraxis.colorbar.ticktext[3] == "1 ×"
    # a: 0.9 above; 0.1 below. b: 0.2 below, 0.8 and 0.98 above. The hatch marks all others.
    assert np.argwhere(~np.isnan(beyond)).tolist() == [[0, 0], [0, 3], [1, 0], [1, 2], [1, 3]]
    hatch = next(trace for trace in figure.data if trace.type == "scatter")
    assert sorted(zip(hatch.y, hatch.x, strict=True)) == [(0, 1), (0, 2), (1, 1)]
    assert "no more than untrained routers show" in hatch.name
    assert figure.layout.title.text.startswith(
        "6 of 8 experts are chosen for some kind of text<br>more often than untrained routers choose theirs"
    )


def test_the_whole_interval_has_to_lie_beyond_chance() -> None:
    for high, count in ((0.74, 3), (0.76, 2), (0.94, 0)):
        beyond, _, _ = drawn_in(specialisation(shares(1, untrained_high=high)), 0)
        assert (~np.isnan(beyond)).sum() == count, high
    told = specialisation(shares(1, untrained_high=0.5, untrained_largest=0.86), chance="untrained_largest")
    assert (~np.isnan(drawn_in(told, 0)[0])).sum() == 1
    even = specialisation(shares(1))
    assert "can't be told from the uniform share" in next(t for t in even.data if t.type == "scatter").name


def test_a_kind_with_too_little_text_is_an_empty_row() -> None:
    frame = shares(1)
    frame.loc[frame.kind == "b", ["share", "low", "high"]] = np.nan
    figure = specialisation(frame.assign(note=["" if k == "a" else "too few <documents>" for k in frame.kind]))
    beyond, within, _ = drawn_in(figure, 0)
    assert np.isnan(beyond[1]).all()
    assert np.isnan(within[1]).all()
    frame[["share", "low", "high"]] = np.nan
    assert "enough tokens" in specialisation(frame).layout.title.text


def test_many_layers_are_thinned_and_it_is_said() -> None:
    figure = specialisation(shares(30))
    drawn = [a.text for a in figure.layout.annotations]
    assert drawn == [f"layer {i}" for i in range(0, 30, 3)]
    assert len(drawn) <= MOST_LAYERS
    assert "10 of 30 layers are drawn" in figure.layout.title.text


def test_charts_refuse_other_frames_and_escape_names() -> None:
    for chart, frame in ((specialisation, shares()), (damage, costs())):
        with pytest.raises(BadInput, match=r"give what lk\.moe"):
            chart(frame.drop(columns="low"))
        with pytest.raises(BadInput, match="nothing to draw"):
            chart(frame.iloc[:0])
        hostile = (
            chart(frame.assign(kind="<img src=x>$a$"))
            if chart is damage
            else chart(frame[frame.kind == "a"].assign(kind="<img src=x>"))
        )
        assert "<img" not in hostile.to_json()
    with pytest.raises(BadInput, match="chance='nothing' is no column"):
        specialisation(shares(), chance="nothing")
    with pytest.raises(BadInput, match="several rows"):
        specialisation(pd.concat([shares(), shares()]))


def costs() -> pd.DataFrame:
    rows = [
        {"by": by, "keep": keep, "kind": kind, "loss_change": (8 - keep) * slope}
        for by, slope in (("usage", 0.1), ("random", 0.5))
        for keep in (8, 4, 2)
        for kind in ("a", "b", "all")
    ]
    frame = pd.DataFrame(rows)
    return frame.assign(low=frame.loss_change - 0.1, high=frame.loss_change + 0.2)


def test_the_pruning_curves() -> None:
    figure = damage(costs())
    lines = [t for t in figure.data if t.mode == "lines+markers"]
    bands = [t for t in figure.data if t.fill == "toself"]
    assert len(lines) == len(bands) == 6
    assert [a.text for a in figure.layout.annotations] == ["all kinds", "a", "b"]
    usage = lines[0]
    assert (usage.name, list(usage.x)) == ("usage", [2, 4, 8])
    np.testing.assert_allclose(usage.y, [0.6, 0.4, 0.0])
    np.testing.assert_allclose(bands[0].y, [0.5, 0.3, -0.1, 0.2, 0.6, 0.8])
    assert lines[1].line.dash == "dot", "random is drawn as what it is"
    assert "+0.6000 nats a token (+0.5000 to +0.8000)" in usage.customdata[0]
    assert figure.layout.title.text.startswith(
        "2 experts kept: +0.60 nats a token when chosen by usage,<br>+3.00 at random<br>"
    )
    assert "bands: 95 %" in figure.layout.title.text
    half = costs()
    half.attrs["experts"] = 4
    half.by = half.by.replace("usage", "measured")
    assert damage(half[half.keep == 2]).layout.title.text.startswith(
        "Half the experts gone: +0.60 nats a token when chosen by measured loss,<br>+3.00 at random"
    )
    one = costs()
    one = one[(one.by == "usage") & (one.kind == "a")]
    assert damage(one).layout.title.text.startswith(
        "Keeping 2 experts by usage changes the loss by +0.60 nats a token<br>"
    )
    alone = damage(one.assign(low=np.nan)).layout.title.text
    assert alone == "Keeping 2 experts by usage changes the loss by +0.60 nats a token", "no bands, and none explained"


def test_charts_take_what_the_room_returns() -> None:
    lab = lk.Lab(build(FAMILIES["qwen3_moe"]), Tokens(), name="tiny")
    rng = np.random.default_rng(0)
    texts = {kind: [rng.integers(3, 100, 40).tolist() for _ in range(4)] for kind in ("a", "b")}
    routing = collect(lab, texts, untrained=3, progress=False)
    frame = measured(routing, least_documents=2, least_tokens=10, draws=20)
    figure = specialisation(frame)
    assert "untrained" in figure.layout.title.text
    beyond, within, names = drawn_in(figure, 0)
    assert sorted(names) == ["0", "1", "2", "3"]
    assert not np.isnan(np.where(np.isnan(beyond), within, beyond)).any()
