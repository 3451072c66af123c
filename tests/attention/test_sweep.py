"""Every measure and picture against loops over trace.attention in float64."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from traces import patterned, previous_token, random_patterns, random_trace

import labkit as lk
from labkit.attention import MEASURES, LayerSweep, measures, set_aside, sweep, uniform
from labkit.trace.record import LayerAttention, Trace

module = sys.modules["labkit.attention.sweep"]  # the package's `sweep` is the function
HEADS, KV_HEADS = 4, 2
KINDS = ("plain", "window", "additive", "alibi", "sink", "softcap", "stored", "window and sink", "unordered mask")


def made(ids: list[int], kind: str, *, layers: int = 2, seed: int = 0, broken: tuple[int, ...] = ()) -> Trace:
    """A trace of random queries and keys. broken: queries of layer 0, head 1 that hold NaN."""
    g = torch.Generator().manual_seed(seed)
    n = len(ids)
    causal = torch.ones(n, n, dtype=torch.bool).tril()
    attention = {}
    for layer in range(layers):
        query, key = torch.randn(HEADS, n, 6, generator=g) * 2, torch.randn(KV_HEADS, n, 6, generator=g)
        if layer == 0:
            query[1, list(broken)] = math.nan
        a = LayerAttention(query=query, key=key, scaling=0.5)
        if "window" in kind:
            a = replace(a, mask=causal.triu(-2))
        if kind == "additive":
            a = replace(a, mask=torch.where(causal, torch.randn(1, n, n, generator=g), torch.finfo(torch.float32).min))
        if kind == "alibi":
            slope = -torch.tensor([0.1, 0.2, 0.5, 1.0])[:, None, None] * (torch.arange(n)[:, None] - torch.arange(n))
            a = replace(a, mask=slope.masked_fill(~causal, -torch.inf))
        if kind == "unordered mask":  # sees ahead, and one row sees nothing
            mask = torch.rand(n, n, generator=g) < 0.6
            mask[n // 2] = False
            a = replace(a, mask=mask)
        if "sink" in kind:
            a = replace(a, sink=torch.randn(HEADS, generator=g))
        if kind == "softcap":
            a = replace(a, softcap=1.5)
        if kind == "stored":
            whole = (query @ key.repeat_interleave(2, 0).mT).masked_fill(~causal, -torch.inf).softmax(-1)
            a = LayerAttention(pattern=whole)
        attention[layer] = a
    trace = patterned([str(i) for i in ids], {0: torch.zeros(HEADS, n, n)}, layers=layers, kv_heads=KV_HEADS)
    return replace(trace, ids=list(ids), _attention=attention)


def naive_aside(p: np.ndarray) -> np.ndarray:
    out = np.zeros_like(p)
    for h in range(p.shape[0]):
        for i in range(p.shape[1]):
            left = p[h, i, 1:].sum()
            if np.isnan(p[h, i]).any():
                out[h, i] = math.nan
            elif left > 0:
                out[h, i, 1:] = p[h, i, 1:] / left
    return out


def shown(trace: Trace, layer: int, aside: bool) -> np.ndarray:
    """(heads, T, T) float64."""
    p = trace.attention(layer).double().numpy()
    return naive_aside(p) if aside else p


def naive(
    trace: Trace, layer: int, rows: list[int], *, aside: bool = False, against: Trace | None = None
) -> dict[str, list[float]]:
    """name -> one number a head."""
    ids, n = trace.ids, len(trace.ids)
    plain = trace.attention(layer).double().numpy()
    whole = shown(trace, layer, aside)
    other = None if against is None else shown(against, layer, aside)
    found: dict[str, list[float]] = {}
    for h in range(whole.shape[0]):
        values: dict[str, list[float]] = {name: [] for name in MEASURES}
        for i in rows:
            row = whole[h, i]
            if np.isnan(plain[h, i]).any():
                continue
            late = i >= 2 or n <= 2
            if late:
                values["first"].append(plain[h, i, 0])
            if aside and i == 0:
                continue
            if late:
                values["entropy"].append(-sum(w * math.log(w) for w in row if w > 0))
                values["distance"].append(sum(w * (i - j) for j, w in enumerate(row)))
                values["previous"].append(row[i - 1] if i else 0.0)
                values["own"].append(row[i])
            followed = [j for j in range(1, i) if ids[j - 1] == ids[i]]
            earlier = [j for j in range(i) if ids[j] == ids[i]]
            if followed:
                values["induction"].append(sum(row[j] for j in followed))
            if earlier:
                values["duplicate"].append(sum(row[j] for j in earlier))
            if other is not None and not np.isnan(other[h, i]).any():
                values["change"].append(0.5 * np.abs(row - other[h, i]).sum())
        for name, numbers in values.items():
            found.setdefault(name, []).append(float(np.mean(numbers)) if numbers else math.nan)
    if against is None:
        del found["change"]
    return found


def naive_highest(pattern: np.ndarray, side: int, rows: list[int]) -> np.ndarray:
    n = pattern.shape[1]
    p = math.ceil(n / side)
    cells = math.ceil(n / p)
    out = np.zeros((pattern.shape[0], cells, cells), np.float32)
    for h in range(len(pattern)):
        for a in range(cells):
            for b in range(cells):
                cell = [pattern[h, i, b * p : (b + 1) * p] for i in rows if i // p == a]
                out[h, a, b] = np.max(np.concatenate(cell))  # NaN wins
    return out


def same(got: dict[str, np.ndarray], expected: dict[str, list[float]], atol: float = 1e-5) -> None:
    assert list(got) == list(expected)
    for name in expected:
        np.testing.assert_allclose(got[name], expected[name], atol=atol, rtol=1e-5, err_msg=name)


@pytest.fixture
def block() -> Iterator[Any]:
    before = module.BLOCK, module.MOST_PAIRS, module.DENSE
    yield module
    module.BLOCK, module.MOST_PAIRS, module.DENSE = before


@given(
    ids=st.lists(st.integers(0, 4), min_size=1, max_size=13),
    kind=st.sampled_from(KINDS),
    aside=st.booleans(),
    compared=st.booleans(),
    size=st.sampled_from([1, 40, 150, 2**19]),
    dense=st.sampled_from([0, 1, 16, 10**9]),
    side=st.one_of(st.none(), st.integers(1, 15)),
    data=st.data(),
)
@settings(max_examples=150)
def test_every_measure_is_what_loops_say(
    ids: list[int], kind: str, aside: bool, compared: bool, size: int, dense: int, side: int | None, data: Any
) -> None:
    broken = tuple(data.draw(st.sets(st.integers(0, len(ids) - 1), max_size=2)))
    trace = made(ids, kind, broken=broken)
    against = made(ids, data.draw(st.sampled_from([kind, "plain"])), seed=1) if compared else None
    before = module.BLOCK, module.DENSE
    module.BLOCK, module.DENSE = size, dense
    try:
        layers = list(sweep(trace, aside=aside, against=against, side=side))
    finally:
        module.BLOCK, module.DENSE = before
    rows = list(range(len(ids)))
    assert [swept.layer for swept in layers] == [0, 1]
    for swept in layers:
        same(
            swept.measures, naive(trace, swept.layer, rows, aside=aside, against=against), atol=1e-4 if aside else 1e-5
        )
        pattern = trace.attention(swept.layer).numpy()
        assert swept.rows == len(ids)
        assert swept.broken_rows.tolist() == np.isnan(pattern).any(-1).sum(1).tolist()
        if side is None:
            assert swept.highest is None
            continue
        assert swept.highest is not None
        assert swept.highest.dtype == np.float32
        expected = naive_highest(shown(trace, swept.layer, aside), side, rows)
        np.testing.assert_allclose(swept.highest, expected, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tokens", [1, 2, 3])
def test_short_texts(tokens: int, kind: str) -> None:
    """Three tokens are the first text in which first, previous and own are three; before, all queries count."""
    trace = made([3, 3, 3][:tokens], kind)
    swept = next(sweep(trace, side=2))
    same(swept.measures, naive(trace, 0, list(range(tokens))))
    if kind == "plain" and tokens == 1:
        assert swept.measures["own"] == pytest.approx(np.ones(HEADS))
        assert np.isnan(swept.measures["induction"]).all()
        assert np.isnan(next(sweep(trace, aside=True)).measures["own"]).all()


def test_a_sampled_pass_measures_the_rows_it_says(block: Any) -> None:
    g = torch.Generator().manual_seed(5)
    ids = torch.randint(0, 7, (45,), generator=g).tolist()
    trace = made(ids, "window", broken=(44, 11))
    block.BLOCK = 300
    for side, most in ((None, 2 * 4 * 45 * 45 // 3), (10, 2 * 4 * 45 * 20), (10, 1), (3, 2 * 4 * 45 * 9), (None, 1)):
        rows = module._Plan.of(trace, [0, 1], side, most).rows.tolist()
        assert rows == sorted(set(rows))
        assert rows[-1] == 44
        assert len(rows) < 45
        assert max(np.diff(rows), default=0) <= 2 * math.ceil(45 / len(rows))
        for swept in sweep(trace, side=side, most_weights=most):
            assert swept.rows == len(rows)
            same(swept.measures, naive(trace, swept.layer, rows))
            if side is not None:
                assert swept.highest is not None
                expected = naive_highest(trace.attention(swept.layer).numpy(), side, rows)
                np.testing.assert_allclose(swept.highest, expected, atol=1e-6)
        assert measures(trace, most_weights=1).attrs["rows"] == 1
    some = module._Plan.of(trace, [0, 1], None, 2 * 4 * 45 * 45 // 3).rows
    assert 10 <= len(some) <= 15
    assert next(sweep(trace, most_weights=2 * 4 * 45 * 45)).rows == 45  # just enough
    assert next(sweep(trace, layers=[1], most_weights=4 * 45 * 45)).rows == 45


def test_all_rows_and_a_third_of_them_say_about_the_same() -> None:
    trace = random_trace(300, layers=1, heads=2)
    whole = next(sweep(trace)).measures
    some = next(sweep(trace, most_weights=2 * 300 * 100)).measures
    for name in ("entropy", "distance"):
        assert some[name] == pytest.approx(whole[name], rel=0.1)


def test_the_usual_induction_score_on_a_repeated_block() -> None:
    n = 8
    trace = made([*range(10, 10 + n)] * 2, "plain")
    pattern = trace.attention(0)
    usual = torch.stack([pattern[:, i, i - n + 1] for i in range(n, 2 * n)]).mean(0)
    assert next(sweep(trace)).measures["induction"] == pytest.approx(usual.numpy(), abs=1e-6)
    before = torch.stack([pattern[:, i, i - n] for i in range(n, 2 * n)]).mean(0)
    assert next(sweep(trace)).measures["duplicate"] == pytest.approx(before.numpy(), abs=1e-6)


def test_no_repeated_token_means_no_induction() -> None:
    found = next(sweep(made(list(range(9)), "plain"))).measures
    assert np.isnan(found["induction"]).all()
    assert np.isnan(found["duplicate"]).all()
    # a token right after itself: what followed its earlier place is its own
    found = next(sweep(made([1, 5, 5, 2], "plain"))).measures
    assert np.isnan(found["induction"]).all()
    assert not np.isnan(found["duplicate"]).any()


def test_matches_beyond_what_is_kept_are_made_in_passing(block: Any) -> None:
    trace = made([1, 2, 3, 1, 2, 3, 3, 2, 1, 1], "plain")
    expected = next(sweep(trace)).measures
    block.MOST_PAIRS, block.BLOCK = 3, 60
    same(next(sweep(trace)).measures, {name: list(values) for name, values in expected.items()})


def test_stored_patterns_stay_as_they_are() -> None:
    trace = made([1, 2, 3, 1], "stored")
    before = trace._attention[0].pattern
    assert before is not None
    copy = before.clone()
    list(sweep(trace, aside=True, side=2, against=trace))
    assert torch.equal(before, copy)


def test_low_precision_is_what_the_trace_says() -> None:
    trace = made([1, 2, 3, 1, 2, 3], "plain")
    half = {i: replace(a, query=a.query.bfloat16(), key=a.key.bfloat16()) for i, a in trace._attention.items()}  # type: ignore[union-attr]
    trace = replace(trace, _attention=half)
    same(next(sweep(trace)).measures, naive(trace, 0, list(range(6))))


def test_it_can_be_left_between_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    real = module.pattern

    def counted(a: Any, **options: Any) -> Any:
        seen.append(a)
        return real(a, **options)

    monkeypatch.setattr(module, "pattern", counted)
    for swept in sweep(made([1, 2, 3], "plain", layers=5)):
        assert isinstance(swept, LayerSweep)
        if swept.layer == 1:
            break
    assert len(seen) == 2
    assert torch.is_grad_enabled()


def test_layers_without_attention_are_passed_over() -> None:
    trace = patterned("abcd", random_patterns(4, layers=1), layers=3)
    trace = replace(trace, _attention={1: trace._attention[0]})
    assert [swept.layer for swept in sweep(trace)] == [1]
    assert measures(trace)["layer"].tolist() == [1] * 4
    with pytest.raises(lk.Unavailable, match="Layer 0 of this llama has no attention"):
        sweep(trace, layers=[0])


def test_the_frame_of_all_heads() -> None:
    ids = [1, 2, 3, 1, 2, 3, 1]
    trace = made(ids, "window", broken=(6,))
    frame = measures(trace)
    assert list(frame.columns) == ["layer", "head", "kv_head", *(name for name in MEASURES if name != "change")]
    assert frame["layer"].tolist() == [0] * 4 + [1] * 4
    assert frame["head"].tolist() == [0, 1, 2, 3] * 2
    assert frame["kv_head"].tolist() == [0, 0, 1, 1] * 2
    expected = naive(trace, 0, list(range(7)))
    assert frame["entropy"][:4].tolist() == pytest.approx(expected["entropy"], abs=1e-5)
    assert frame.attrs["rows"] == 7
    assert frame.attrs["broken_rows"] == 1
    assert measures(trace, layers=1)["layer"].tolist() == [1] * 4
    assert measures(trace, against=trace)["change"].tolist() == [0.0] * 8


@pytest.mark.parametrize("aside", [False, True])
@pytest.mark.parametrize("kind", ["plain", "window", "additive", "alibi", "stored"])
def test_uniform_is_what_even_attention_would_score(kind: str, aside: bool) -> None:
    ids = [1, 2, 3, 1, 2, 3, 1]
    trace = made(ids, kind)
    visible = torch.ones(7, 7).tril()
    visible = visible.triu(-2) if kind == "window" else visible
    even = patterned([str(i) for i in ids], {0: (visible / visible.sum(-1, keepdim=True))[None]})
    even = replace(even, ids=ids)
    expected = {name: values[0] for name, values in naive(even, 0, list(range(7)), aside=aside).items()}
    assert uniform(trace, aside=aside) == pytest.approx(expected, abs=1e-5)
    assert measures(trace, aside=aside).attrs["uniform"] == pytest.approx(expected, abs=1e-5)


def test_patterns_known_by_hand() -> None:
    trace = patterned([str(i) for i in range(12)], {0: torch.stack([previous_token(12, 0.9), torch.eye(12)])})
    found = next(sweep(trace)).measures
    assert found["previous"] == pytest.approx([0.9, 0])
    assert found["first"] == pytest.approx([0.1, 0])
    assert found["own"] == pytest.approx([0, 1])
    assert found["entropy"] == pytest.approx([-0.9 * math.log(0.9) - 0.1 * math.log(0.1), 0], abs=1e-6)
    assert found["distance"] == pytest.approx([0.9 + 0.1 * np.mean(range(2, 12)), 0], abs=1e-5)
    aside = next(sweep(trace, aside=True)).measures
    assert aside["previous"] == pytest.approx([1, 0], abs=1e-6)
    assert aside["first"] == pytest.approx([0.1, 0])
    assert aside["entropy"] == pytest.approx([0, 0], abs=1e-6)


def test_setting_aside_what_holds_nearly_all() -> None:
    """1 − w0 in float32 would be off by half here; the rest summed is not."""
    weights = torch.tensor([[[1.0, 0, 0], [1.0, 0, 0], [0.9999999, 0.75e-7, 0.25e-7]]])
    assert set_aside(weights.clone())[0, 2].tolist() == pytest.approx([0, 0.75, 0.25])
    assert set_aside(weights.clone())[0, :2].tolist() == [[0, 0, 0]] * 2
    with_sink = torch.tensor([[0.5, 0.25, 0.0]])  # a quarter went outside the text
    assert set_aside(with_sink)[0].tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"side": 0}, "side=0"),
        ({"side": True}, "side=True"),
        ({"most_weights": 0}, "most_weights=0"),
        ({"most_weights": 1.5}, "most_weights=1.5"),
        ({"layers": [2]}, "no layer 2"),
        ({"layers": "all"}, "layers='all'"),
        ({"layers": [0.5]}, "no layer 0.5"),
        ({"against": made([1, 2], "plain")}, "3 and 2 tokens"),
        ({"against": "x"}, "takes a Trace"),
        ({"against": made([1, 2, 3], "plain", layers=1)}, "does not have the same heads"),
    ],
)
def test_bad_input_is_said_before_the_first_layer(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(lk.BadInput, match=said):
        sweep(made([1, 2, 3], "plain"), **settings)


def test_a_trace_without_attention() -> None:
    with pytest.raises(lk.Unavailable, match="was not kept"):
        sweep(replace(random_trace(3), keep=("logits",)))
    with pytest.raises(lk.BadInput, match="takes a Trace"):
        measures("a text")  # type: ignore[arg-type]


def test_every_measure_says_what_it_is() -> None:
    for name, measure in MEASURES.items():
        assert name in LayerSweep.__doc__ or name in (sweep.__doc__ or "")
        assert measure.sentence.endswith(".")
        assert measure.title
        assert measure.unit in ("nats", "tokens", "share")
        assert measure.source
        assert measure.uniform
