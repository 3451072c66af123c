"""The contract every family keeps: what the Trace shows is what the model computes, and looking changes nothing.

A family is a row in tests/support/families.py; docs/adding_a_family.md says what each check means.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
from by_hand import written_by_hand
from families import FAMILIES, PUBLISHED, UNUSUAL, Family, Tokens, build
from mixtures import Blocks, chosen_and_there, mixture

import labkit as lk
from labkit.trace import interface
from labkit.trace.capture import observing
from labkit.trace.instruments import INSTRUMENTS
from labkit.trace.patterns import visible
from labkit.trace.record import KEEP, LayerAttention, pattern

TEXT = [5, 17, 33, 8, 91, 42, 17, 33, 64, 23, 5, 77, 12, 30, 9, 58, 71, 20, 11, 46]
SHORT = TEXT[:11]
PATTERNS_AGREE = 1e-5
ALL = FAMILIES | UNUSUAL | PUBLISHED
BOTH_WAYS = ("llama_both_ways", "bert")


@cache
def lab_of(name: str) -> lk.Lab:
    return lk.Lab(build(ALL[name]), Tokens(), name=name)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny products are quicker without threads, and the machine may be busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=ALL)
def family(request: pytest.FixtureRequest) -> Family:
    return ALL[request.param]


@pytest.fixture
def lab(request: pytest.FixtureRequest, family: Family) -> lk.Lab:
    return lab_of(next(name for name, f in ALL.items() if f is family))


def available(lab: lk.Lab) -> tuple[str, ...]:
    return tuple(name for name in KEEP if lab.support()[name] is None)


def needs(lab: lk.Lab, *what: str) -> None:
    for name in what:
        if (reason := lab.support()[name]) is not None:
            pytest.skip(reason)


def tensors(trace: lk.Trace) -> list[tuple[str, int | None]]:
    """All that a trace kept and `tensor` gives, by instrument and layer, attention apart."""
    rows = [
        row for row in INSTRUMENTS if row.keep in trace.keep and row.put is not None and row.name not in trace.reasons
    ]
    return [(row.name, None if row.per == "pass" else layer) for row in rows for layer in trace.layers_with(row.name)]


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
    assert bool(trace.notes) == (family.eager or lab.name in BOTH_WAYS)


def test_patterns_are_eagers(lab: lk.Lab, family: Family) -> None:
    needs(lab, "attention")
    trace = lab.trace(TEXT)
    expected = eager_patterns(lab, family, input_ids=torch.tensor([TEXT]), use_cache=False)
    for layer in range(trace.layers):
        assert torch.allclose(trace.attention(layer), expected[layer][0].float(), atol=PATTERNS_AGREE)
        for head in range(trace.heads_of(layer)):
            assert torch.equal(trace.attention(layer, head), trace.attention(layer)[head]) or torch.allclose(
                trace.attention(layer, head), trace.attention(layer)[head], atol=1e-6
            )
    ahead = float(trace.attention(0)[:, 5, 6:].abs().max())
    assert (ahead > 1e-3) if lab.name in BOTH_WAYS else ahead == 0, "which way a query looks"
    assert lab.anatomy.causal == trace.causal == (lab.name not in BOTH_WAYS)
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
    for name, layer in tensors(alone):
        assert torch.allclose(short.tensor(name, layer), alone.tensor(name, layer), atol=1e-4), (name, layer)
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
    if lab.name in BOTH_WAYS or family.uses:
        pytest.skip("it looks ahead, or its uses of a layer write into one another's cache: there is no such step")
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
    elif (mask := visible(call)) is not None:
        mask = mask[0, 0]
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


def test_each_instrument_is_what_a_plain_hook_sees(lab: lk.Lab, family: Family) -> None:
    """Read by hand, from the modules' own names in transformers, with no help of the anatomy."""
    keep = available(lab)
    trace = lab.trace(TEXT, keep=keep)
    seen = written_by_hand(lab.model, TEXT)
    compared = []
    for name in ("residual", "mlp_neurons", "embedding", "head_output"):
        if name not in keep:
            continue
        for layer in trace.layers_with(name):
            if name == "head_output" and (name, layer) not in seen.tensors:
                continue  # jetmoe's experts each have an output projection
            whole = trace.tensor(name, None if name == "embedding" else layer)
            if name == "head_output":
                whole = whole.transpose(0, 1).flatten(1)
            expected = seen[name, layer].detach()
            assert whole.shape == expected.shape, (name, layer)
            assert torch.allclose(whole, expected, atol=1e-6), (name, layer)
            compared.append((name, layer))
    assert ("embedding", 0) in compared
    assert "residual" not in keep or len([n for n, _ in compared if n == "residual"]) == trace.layers + 1


def scalar(logits: torch.Tensor) -> torch.Tensor:
    """Of two tokens in two places, so that some gradients end early."""
    return logits[-1].log_softmax(-1)[7] - 0.5 * logits[4].log_softmax(-1)[11]


def test_derivatives_are_autograds_by_hand(lab: lk.Lab) -> None:
    """Autograd through plain hooks, where the test knows the module; by differences of edits, for all else."""
    keep = available(lab)
    parameters = {name: (p.requires_grad, p.grad) for name, p in lab.model.named_parameters()}
    trace = lab.trace(TEXT, keep=keep, gradients=scalar)
    assert {name: (p.requires_grad, p.grad) for name, p in lab.model.named_parameters()} == parameters
    seen = written_by_hand(lab.model, TEXT, grad=True)
    expected_scalar = scalar(seen.logits)
    assert trace.scalar == pytest.approx(float(expected_scalar), abs=1e-4)
    wanted = [
        (name, layer)
        for name in ("residual", "mlp_neurons", "embedding", "head_output", "logits")
        if name in keep
        for layer in trace.layers_with(name)
        if name == "logits" or (name, layer) in seen.tensors
    ]
    by_hand = seen.gradients(expected_scalar, wanted)
    for (name, layer), expected in zip(wanted, by_hand, strict=True):
        got = trace.gradient(name, None if name in ("embedding", "logits") else layer)
        if name == "head_output":
            got = got.transpose(0, 1).flatten(1)
        scale = float(expected.abs().max()) + 1e-6
        assert torch.allclose(got, expected, atol=2e-5 * scale, rtol=1e-4), (name, layer)


def test_derivatives_say_what_a_small_edit_does(lab: lk.Lab) -> None:
    """Central differences for every instrument there is: no way in common with autograd's.

    Along the gradient and a direction of chance at once, so that a wrong length and a wrong direction would both show.
    """
    keep = tuple(name for name in available(lab) if name != "routes")
    trace = lab.trace(SHORT, keep=keep, gradients=scalar)
    generator = torch.Generator().manual_seed(0)
    for name, layer in dict(
        tensors(trace)
    ).items():  # the last layer of each, where a scalar depends on it most directly
        gradient = trace.gradient(name, layer)
        if not bool(gradient.any()):
            continue
        chance = torch.randn(gradient.shape, generator=generator)
        direction = gradient / gradient.norm() + chance / chance.norm()
        place = name if layer is None else f"{name}[{layer}]"
        step = min(1e-2, 0.004 / float(gradient.norm()))
        values = []
        for sign in (1, -1):
            move = sign * step * direction
            edits = [lk.patch(place, lambda x, move=move: x + move)]
            if name == "state":  # comes token by token
                edits = [lk.patch(f"{place} @ {t}", lambda x, part=part: x + part) for t, part in enumerate(move)]
            with lab.edit(*edits):
                values.append(float(scalar(lab.trace(SHORT, keep="logits").logits)))
        slope = (values[0] - values[1]) / (2 * step)
        assert float((gradient * direction).sum()) == pytest.approx(slope, rel=2e-2, abs=2e-3), place


def test_derivatives_of_a_list_and_under_an_edit(lab: lk.Lab) -> None:
    keep = tuple(name for name in available(lab) if name != "routes")
    for text, one in zip((TEXT, SHORT), lab.trace([TEXT, SHORT], keep=keep, gradients=scalar), strict=True):
        alone = lab.trace(text, keep=keep, gradients=scalar)
        assert one.scalar == pytest.approx(alone.scalar, abs=1e-4)
        for name, layer in tensors(alone):
            expected = alone.gradient(name, layer)
            scale = float(expected.abs().max()) + 1e-6
            assert torch.allclose(one.gradient(name, layer), expected, atol=1e-4 * scale), (name, layer)
    if "residual" in keep:
        with lab.edit(lk.patch("residual[1] @ 2", 0.0)):
            edited = lab.trace(TEXT, keep="residual", gradients=scalar)
        assert not edited.gradient("residual", 0)[2:3].equal(alone.gradient("residual", 0)[2:3])
        direct = lab.trace(TEXT, keep="residual", gradients=scalar)
        assert edited.residual(1)[2].abs().max() == 0
        assert edited.gradient("residual", 1)[2].abs().max() > 0, "by the value after the edit"
        assert not torch.allclose(edited.gradient("residual", 0), direct.gradient("residual", 0))


def test_head_outputs_are_pattern_times_values(lab: lk.Lab) -> None:
    needs(lab, "head_output", "values")
    trace = lab.trace(TEXT, keep=("attention", "values", "head_output"))
    for layer in range(trace.layers):
        values = trace.values(layer).repeat_interleave(trace.heads_of(layer) // trace.kv_heads_of(layer), 0)
        assert torch.allclose(trace.attention(layer) @ values.float(), trace.head_output(layer).float(), atol=1e-4)


ROUTED_LAYERS = {
    "glm-4.5": (1,),
    "kimi-k2": (1,),
    "deepseek_v2": (1,),
    "deepseek_v2_groups": (1,),
    "deepseek_v3": (1,),
    "qwen3_moe_sparse_step": (1, 3),
}


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
    "mlp_neurons[0]",
    "embedding",
    "residual[1]",
    "attention_output[1]",
    "mlp_output[0]",
    "head_output[1, 2]",
    "queries[0, 1]",
    "keys[0, 0]",
    "values[1, 0]",
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
