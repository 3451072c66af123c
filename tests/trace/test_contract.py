"""The contract every family keeps: what the Trace shows is what the model computes, and looking changes nothing.

A family is a row in tests/support/families.py; docs/adding_a_family.md says what each check means.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
from families import FAMILIES, Family, Tokens, build
from mixtures import Blocks, chosen_and_there, mixture

import labkit as lk
from labkit.trace import interface
from labkit.trace.capture import observing
from labkit.trace.record import KEEP, LayerAttention, pattern

TEXT = [5, 17, 33, 8, 91, 42, 17, 33, 64, 23, 5, 77, 12, 30, 9, 58, 71, 20, 11, 46]
SHORT = TEXT[:11]
PATTERNS_AGREE = 1e-5


@cache
def lab_of(name: str) -> lk.Lab:
    return lk.Lab(build(FAMILIES[name]), Tokens(), name=name)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny products are quicker without threads, and the machine may be busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> Family:
    return FAMILIES[request.param]


@pytest.fixture
def lab(request: pytest.FixtureRequest, family: Family) -> lk.Lab:
    return lab_of(next(name for name, f in FAMILIES.items() if f is family))


def available(lab: lk.Lab) -> tuple[str, ...]:
    return tuple(name for name in KEEP if lab.support()[name] is None)


def needs(lab: lk.Lab, *what: str) -> None:
    for name in what:
        if (reason := lab.support()[name]) is not None:
            pytest.skip(reason)


def hooks(lab: lk.Lab) -> list[tuple[int, ...]]:
    """The hooks on each module. transformers leaves some of its own on a model that was asked for hidden states."""
    return [(*m._forward_hooks, -1, *m._forward_pre_hooks) for m in lab.model.modules()]


def eager_patterns(lab: lk.Lab, family: Family, **inputs: Any) -> list[torch.Tensor]:
    """What transformers itself hands out, from a second model of the same weights that computes eagerly."""
    other = build(family, implementation="eager")
    other.load_state_dict(lab.model.state_dict())
    with torch.no_grad():
        return other(**inputs, output_attentions=True).attentions


def test_every_reason_names_a_remedy(lab: lk.Lab) -> None:
    for name, reason in lab.support().items():
        if reason is not None:
            assert any(word in reason for word in ("look at", "load", "use ")), f"{name}: {reason}"
            with pytest.raises(lk.Unavailable):
                lab.trace(TEXT, keep=name if name in KEEP else "attention").queries(0)


def test_looking_leaves_the_logits_bit_for_bit(lab: lk.Lab) -> None:
    with torch.no_grad():
        plain = lab.model(input_ids=torch.tensor([TEXT]), use_cache=False).logits[0]
    trace = lab.trace(TEXT, keep=available(lab))
    assert torch.equal(trace.logits, plain.float())
    with torch.no_grad():
        assert torch.equal(lab.model(input_ids=torch.tensor([TEXT]), use_cache=False).logits[0], plain)


def test_looking_leaves_nothing_behind(lab: lk.Lab) -> None:
    before = hooks(lab)
    lab.trace(TEXT, keep=available(lab))
    assert not interface._LISTENERS
    assert not interface._REPLACED
    assert hooks(lab) == before


def test_the_tap_is_used_where_it_can_be(lab: lk.Lab, family: Family, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eager compared with eager would prove nothing: the trace of these families must not ask for attentions."""
    needs(lab, "attention")
    asked = []
    forward = lab.model.forward
    monkeypatch.setattr(
        lab.model, "forward", lambda *a, **k: (asked.append(k.get("output_attentions")), forward(*a, **k))[1]
    )
    trace = lab.trace(TEXT)
    assert bool(any(asked)) == family.eager
    assert (trace._attention[0].pattern is not None) == family.eager
    assert bool(trace.notes) == family.eager


def test_patterns_are_eagers(lab: lk.Lab, family: Family) -> None:
    needs(lab, "attention")
    trace = lab.trace(TEXT)
    expected = eager_patterns(lab, family, input_ids=torch.tensor([TEXT]), use_cache=False)
    for layer in range(trace.layers):
        assert torch.allclose(trace.attention(layer), expected[layer][0].float(), atol=PATTERNS_AGREE)
        for head in range(trace.heads):
            assert torch.equal(trace.attention(layer, head), trace.attention(layer)[head]) or torch.allclose(
                trace.attention(layer, head), trace.attention(layer)[head], atol=1e-6
            )
    assert trace.attention(0)[:, 5, 6:].abs().max() == 0, "a query saw the future"
    assert (trace.attention(0).max() - trace.attention(0)[:, -1].mean()).abs() > 0.05, (
        "the attention is even: it tests nothing"
    )


def test_rows_sum_to_one_or_less_with_a_sink(lab: lk.Lab) -> None:
    needs(lab, "attention")
    trace = lab.trace(TEXT)
    for layer in range(trace.layers):
        sums = trace.attention(layer).sum(-1)
        if lab.family == "gpt_oss":
            assert (sums <= 1 + 1e-6).all()
            assert (sums < 0.99).any()
        else:
            assert torch.allclose(sums, torch.ones_like(sums), atol=1e-5)


def test_a_list_is_traced_without_its_padding(lab: lk.Lab) -> None:
    alone = lab.trace(SHORT, keep=available(lab))
    long, short = lab.trace([TEXT, SHORT], keep=available(lab))
    assert (len(long), len(short)) == (len(TEXT), len(SHORT))
    assert short.ids == SHORT
    assert torch.allclose(short.logits, alone.logits, atol=1e-4)
    assert torch.allclose(short.residual(1), alone.residual(1), atol=1e-4)
    if "attention" in alone.keep:
        for layer in range(alone.layers):
            assert short.attention(layer).shape == alone.attention(layer).shape
            assert torch.allclose(short.attention(layer), alone.attention(layer), atol=PATTERNS_AGREE)
    if "routes" in alone.keep:
        assert torch.equal(short.routes.experts, alone.routes.experts)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padded_batches_at_the_tap(lab: lk.Lab, family: Family, side: str) -> None:
    """Below the Trace: a batch as anybody may run it. Query rows of padding mean nothing and are not compared."""
    needs(lab, "queries")
    pad = [0] * (len(TEXT) - len(SHORT))
    row = pad + SHORT if side == "left" else SHORT + pad
    real = slice(len(pad), None) if side == "left" else slice(0, len(SHORT))
    mask = [0] * len(pad) + [1] * len(SHORT) if side == "left" else [1] * len(SHORT) + [0] * len(pad)
    inputs = {
        "input_ids": torch.tensor([TEXT, row]),
        "attention_mask": torch.tensor([[1] * len(TEXT), mask]),
        "use_cache": False,
    }
    expected = eager_patterns(lab, family, **inputs)
    with observing(lab.model, lab.anatomy, ["attention"]) as captured, torch.no_grad():
        lab.model(**inputs)
    for layer, call in captured.attention.items():
        for item in range(2):
            seen = _pattern(call, item)
            rows = slice(None) if item == 0 else real
            assert torch.allclose(seen[:, rows], expected[layer][item][:, rows].float(), atol=PATTERNS_AGREE)


def test_with_a_cache_during_generation(lab: lk.Lab, family: Family) -> None:
    """The step that sees one new token and the whole cache: its row is the last of the pattern over the whole text."""
    needs(lab, "queries")
    with torch.no_grad():
        past = lab.model(input_ids=torch.tensor([TEXT[:-1]]), use_cache=True).past_key_values
        with observing(lab.model, lab.anatomy, ["attention"]) as captured:
            lab.model(input_ids=torch.tensor([TEXT[-1:]]), past_key_values=past, use_cache=True)
    whole = eager_patterns(lab, family, input_ids=torch.tensor([TEXT]), use_cache=False)
    for layer, call in captured.attention.items():
        row = _pattern(call, 0)[:, -1]
        expected = whole[layer][0][:, -1].float()
        assert torch.allclose(
            row, expected[:, -row.shape[-1] :], atol=PATTERNS_AGREE
        )  # a window's cache holds the window


def _pattern(call: Any, item: int) -> torch.Tensor:
    mask = call.mask
    if mask is not None:
        mask = mask[item if mask.shape[0] > 1 else 0]
        mask = mask[0] if mask.dtype is torch.bool else mask
    elif call.query.shape[2] == 1:
        mask = torch.ones(1, call.key.shape[2], dtype=torch.bool)
    scaling = call.options.get("scaling") or call.query.shape[-1] ** -0.5
    parts = LayerAttention(
        query=call.query[item],
        key=call.key[item],
        scaling=scaling,
        mask=mask,
        sink=call.options.get("s_aux"),
        softcap=call.options.get("softcap"),
    )
    return pattern(parts)


def test_the_residual_stream_adds_up(lab: lk.Lab) -> None:
    needs(lab, "attention_output", "mlp_output")
    trace = lab.trace(TEXT, keep=("residual", "attention_output", "mlp_output"))
    for i in range(trace.layers):
        total = trace.residual(i) + trace.attention_output(i) + trace.mlp_output(i)
        assert torch.allclose(total, trace.residual(i + 1), atol=1e-4, rtol=1e-4)
        assert trace.attention_output(i).norm() > 1e-3
        assert trace.mlp_output(i).norm() > 1e-3


def test_residuals_are_the_hidden_states(lab: lk.Lab) -> None:
    needs(lab, "attention_output")
    trace = lab.trace(TEXT, keep=("residual", "logits"))
    with torch.no_grad():
        hidden = lab.model(input_ids=torch.tensor([TEXT]), use_cache=False, output_hidden_states=True).hidden_states
    assert torch.allclose(trace.residual(0), hidden[0][0].float(), atol=1e-5)
    assert torch.allclose(trace.residual(1), hidden[1][0].float(), atol=1e-4)


def test_head_outputs_are_pattern_times_values(lab: lk.Lab) -> None:
    needs(lab, "head_output", "values")
    trace = lab.trace(TEXT, keep=("attention", "values", "head_output"))
    for layer in range(trace.layers):
        values = trace.values(layer).repeat_interleave(trace.heads // trace.kv_heads, 0)
        assert torch.allclose(trace.attention(layer) @ values.float(), trace.head_output(layer).float(), atol=1e-4)


ROUTED_LAYERS = {"deepseek_v2": (1,), "deepseek_v2_groups": (1,), "deepseek_v3": (1,), "qwen3_moe_sparse_step": (1, 3)}


def test_routes_are_the_routers_choice(lab: lk.Lab) -> None:
    """What the trace shows is what the layers computed: with it, their outputs come out, expert by expert."""
    needs(lab, "routes")
    with Blocks(lab) as blocks:
        routes = lab.trace(TEXT, keep="routes").routes
    routers = {i: layer.router for i, layer in enumerate(lab.anatomy.layers) if layer.router is not None}
    assert routes.layers == tuple(routers) == ROUTED_LAYERS.get(lab.name, (0, 1))
    for place, (layer, router) in enumerate(routers.items()):
        seen = blocks[layer]
        k, count = chosen_and_there(lab)
        assert (router.top_k, router.experts_count) == (k, count)
        assert routes.experts.shape == routes.weights.shape == (len(TEXT), len(routers), k)
        assert routes.logits.shape == (len(TEXT), len(routers), count)
        assert routes.experts.dtype is torch.long
        assert (routes.experts[:, place].sort(-1).values.diff(dim=-1) > 0).all(), "an expert twice"
        bias = getattr(router.module, "bias", None)
        logits = seen.hidden @ router.weight.T + (0 if bias is None else bias)
        assert torch.allclose(routes.logits[:, place], logits, atol=1e-4)
        by_hand = mixture(lab, router.block, seen.hidden, routes.experts[:, place], routes.weights[:, place])
        assert torch.allclose(seen.output, by_hand, atol=1e-5 * float(by_hand.abs().max()))
        wrong = (routes.experts[:, place] + 1) % count, routes.weights[:, place]
        assert not torch.allclose(seen.output, mixture(lab, router.block, seen.hidden, *wrong), atol=1e-3)


def test_routes_of_a_batch_are_those_of_each_text_alone(lab: lk.Lab) -> None:
    needs(lab, "routes")
    other = [3, 9, 27, 81, 43, 29, 87, 61]
    batch = lab.trace([SHORT, TEXT, other], keep="routes")
    for ids, trace in zip((SHORT, TEXT, other), batch, strict=True):
        alone = lab.trace(ids, keep="routes").routes
        assert trace.routes.experts.shape[0] == len(ids)
        assert torch.equal(trace.routes.experts, alone.experts)
        assert torch.allclose(trace.routes.weights, alone.weights, atol=1e-4)
        assert torch.allclose(trace.routes.logits, alone.logits, atol=1e-3)


def test_jetmoe_says_that_its_attention_is_a_mixture_too() -> None:
    assert any("attention" in note for note in lab_of("jetmoe").trace(TEXT, keep="routes").notes)
    assert not lab_of("mixtral").trace(TEXT, keep="routes").notes


def test_routes_that_cant_be_read_have_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """A router that only says its scores, and experts within the block: nobody outside sees the choice."""

    def forward(router: Any, hidden: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.linear(hidden.reshape(-1, hidden.shape[-1]), router.weight)

    model = build(FAMILIES["mixtral"])
    block, router, experts = (
        type(m) for m in (model.model.layers[0].mlp, model.model.layers[0].mlp.gate, model.model.layers[0].mlp.experts)
    )
    monkeypatch.setattr(router, "forward", forward)

    def whole(block: Any, hidden: torch.Tensor) -> torch.Tensor:
        weights, chosen = block.gate(hidden).softmax(-1).topk(2, dim=-1)
        return experts.forward(block.experts, hidden.reshape(-1, hidden.shape[-1]), chosen, weights).view(hidden.shape)

    monkeypatch.setattr(block, "forward", whole)
    lab = lk.Lab(model, Tokens())
    assert "MixtralTopKRouter" in lab.support()["routes"]
    with pytest.raises(lk.Unavailable, match="look at `mlp_output`"):
        lab.trace(TEXT, keep="routes")


KINDS = [
    "residual[1]",
    "attention_output[1]",
    "mlp_output[0]",
    "head_output[1, 2]",
    "queries[0, 1]",
    "keys[0, 0]",
    "values[1, 1]",
    "logits",
]


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_edit_moves_the_logits_and_leaves_nothing(lab: lk.Lab, kind: str) -> None:
    needs(lab, kind.split("[")[0])
    before = lab.trace(TEXT).logits if "attention" in available(lab) else lab.trace(TEXT, keep="logits").logits
    put_on = hooks(lab)
    with lab.edit(lk.patch(kind, lambda value: value * 0.5 + 0.3)):
        edited = lab.trace(TEXT, keep="logits").logits
    assert (edited - before).abs().max() > 1e-4
    assert torch.equal(lab.trace(TEXT, keep="logits").logits, before)
    assert not interface._LISTENERS
    assert hooks(lab) == put_on
