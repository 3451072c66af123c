"""Routers: found whatever the order of what they give, and read by the rule that the architecture has."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
from families import FAMILIES, Tokens, build
from torch import nn

import labkit as lk
from labkit.trace.edits import RouterEdit
from labkit.trace.routers import Rerouting, Router, Rule, logit_bias, random_weights, rerouted, routed, rule_of

TEXT = [5, 17, 33, 8, 91, 42, 17, 33, 64, 23, 5, 77, 12, 30, 9, 58, 71, 20, 11, 46]
PLAIN = ("softmax", False, 1.0, False, 1, 1, 1)
TO_ONE = ("softmax", True, 1.0, False, 1, 1, 1)
RULES = {
    "mixtral": TO_ONE,
    "qwen2_moe": PLAIN,
    "qwen3_moe": PLAIN,
    "qwen3_moe_sparse_step": TO_ONE,
    "olmoe": PLAIN,
    "deepseek_v2": PLAIN,
    "deepseek_v2_groups": ("softmax", False, 2.5, False, 4, 2, 1),
    "deepseek_v3": ("sigmoid", True, 2.5, True, 4, 2, 2),
    "gpt_oss": TO_ONE,
    "granitemoe": TO_ONE,
    "jetmoe": TO_ONE,
    "dbrx": TO_ONE,
}


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny products are quicker without threads, and the machine may be busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@cache
def lab_of(name: str) -> lk.Lab:
    return lk.Lab(build(FAMILIES[name]), Tokens(), name=name)


def router_of(lab: lk.Lab) -> Router:
    router = lab.anatomy.layers[1].router
    assert router is not None
    return router


def facts(rule: Rule) -> tuple[Any, ...]:
    return (
        *(rule.scores, rule.normalised, rule.scale, rule.bias is not None),
        *(rule.groups, rule.kept_groups, rule.counted),
    )


# rules ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", RULES)
def test_the_rule_is_the_architecture_s(family: str, dtype: torch.dtype) -> None:
    lab = lab_of(family) if dtype is torch.float32 else lk.Lab(build(FAMILIES[family]).to(dtype), Tokens(), name=family)
    rule = rule_of(router_of(lab))
    assert facts(rule) == RULES[family]
    assert rule.top_k == router_of(lab).top_k
    routes = lab.trace(TEXT, keep="routes").routes
    weights, experts = routed(rule, routes.logits[:, -1])
    if dtype is torch.float32:  # a coarse score may be another's equal, and either may be chosen
        assert torch.equal(experts.sort(-1).values, routes.experts[:, -1].sort(-1).values)
        in_order = [
            w.gather(-1, e.argsort(-1)) for w, e in ((weights, experts), (routes.weights[:, -1], routes.experts[:, -1]))
        ]
        torch.testing.assert_close(*in_order, atol=1e-5, rtol=1e-4)


def test_a_scale_that_nobody_names_is_measured() -> None:
    lab = lk.Lab(build(FAMILIES["mixtral"]), Tokens())
    router = router_of(lab)
    own = router.module.forward

    def scaled(hidden: torch.Tensor) -> Any:
        logits, weights, experts = own(hidden)
        return logits, weights * 1.7, experts

    router.module.forward = scaled  # type: ignore[method-assign]
    assert rule_of(router).scale == pytest.approx(1.7, rel=1e-5)


def test_saturated_scores_dont_hide_the_rule() -> None:
    """Router weights so large that the best expert has all of the softmax: normalised or not looks the same there."""
    for family in ("qwen3_moe", "mixtral", "deepseek_v3"):
        lab = lk.Lab(build(FAMILIES[family]), Tokens())
        router = router_of(lab)
        with torch.no_grad():
            router.weight.mul_(60)
        assert facts(rule_of(router)) == RULES[family]


@pytest.mark.parametrize("scale", [0.03, 0.3, 5, 60])
@pytest.mark.parametrize("family", ["deepseek_v3", "deepseek_v2_groups", "gpt_oss", "olmoe"])
def test_the_scale_of_a_router_s_weights_doesnt_hide_the_rule(family: str, scale: float) -> None:
    """Weights so small that biases settle the groups, and so large that scores saturate."""
    lab = lk.Lab(build(FAMILIES[family]), Tokens())
    router = router_of(lab)
    with torch.no_grad():
        router.weight.mul_(scale)
    assert facts(rule_of(router)) == RULES[family]


def test_a_router_without_any_weight_is_tried_without_a_fault() -> None:
    lab = lk.Lab(build(FAMILIES["mixtral"]), Tokens())
    router = router_of(lab)
    with torch.no_grad():
        router.weight.zero_()
    assert rule_of(router).scores == "softmax"


def test_what_is_added_to_the_logits_is_found() -> None:
    for family in ("gpt_oss", "deepseek_v3", "mixtral", "jetmoe"):
        router = router_of(lab_of(family))
        bias = logit_bias(router)
        own = router.module.bias if family == "gpt_oss" else None
        assert (bias is None) == (own is None)
        assert bias is None or torch.equal(bias, own)
    router = router_of(lk.Lab(build(FAMILIES["mixtral"]), Tokens()))
    own_forward = router.module.forward
    router.module.forward = lambda hidden: own_forward(hidden * 1.5)  # type: ignore[method-assign]
    with pytest.raises(lk.Unavailable, match=r"layer 1 \(MixtralTopKRouter\) makes its logits otherwise"):
        logit_bias(router)


def test_a_router_being_trained_is_tried_as_it_is_used() -> None:
    """One that explores in training: its rule is found without that, and training goes on."""
    lab = lk.Lab(build(FAMILIES["mixtral"]).train(), Tokens())
    router = router_of(lab)
    own = router.module.forward

    def exploring(hidden: torch.Tensor) -> Any:
        logits, weights, experts = own(hidden)
        return logits, weights, experts.roll(1, 0) if router.module.training else experts

    router.module.forward = exploring  # type: ignore[method-assign]
    assert facts(rule_of(router)) == TO_ONE
    assert all(module.training for module in lab.model.modules())


def test_a_rule_nobody_knows_is_not_guessed() -> None:
    lab = lk.Lab(build(FAMILIES["mixtral"]), Tokens())
    router = router_of(lab)

    def worst(hidden: torch.Tensor) -> Any:
        logits = nn.functional.linear(hidden, router.module.weight)
        weights, experts = (-logits).softmax(-1).topk(2, dim=-1)
        return logits, weights, experts

    router.module.forward = worst  # type: ignore[method-assign]
    with pytest.raises(lk.Unavailable, match=r"layer 1 \(MixtralTopKRouter\)"):
        rule_of(router)


# a rule at work -------------------------------------------------------------------------------------------------------


def test_routed_by_hand() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0, -1.0]])
    p = logits.softmax(-1)[0]
    weights, experts = routed(Rule("softmax", 2), logits)
    assert experts.tolist() == [[1, 2]]
    torch.testing.assert_close(weights[0], p[[1, 2]])
    weights, experts = routed(Rule("softmax", 2, normalised=True, scale=3.0), logits, forbidden=[1], forced=[3])
    assert experts.tolist() == [[3, 2]]
    torch.testing.assert_close(weights[0], 3 * p[[3, 2]] / p[[3, 2]].sum())
    bias = torch.tensor([0.0, -5.0, 0.0, 0.9])
    weights, experts = routed(Rule("sigmoid", 2, bias=bias), logits)
    assert experts.tolist() == [[3, 2]]
    torch.testing.assert_close(weights[0], logits[0, [3, 2]].sigmoid())
    assert routed(Rule("softmax", 2), logits, k=3)[1].tolist() == [[1, 2, 0]]
    assert routed(Rule("softmax", 2), logits.double())[0].dtype is torch.float64
    assert routed(Rule("softmax", 2), logits.bfloat16())[0].dtype is torch.float32


def test_groups_by_their_best_and_by_their_two_best() -> None:
    logits = torch.tensor([[3.0, -9.0, 2.0, 1.9, 0.0, 0.1]])  # pairs: the first has the best, the second the two best
    assert routed(Rule("sigmoid", 2, groups=3, kept_groups=1, counted=1), logits)[1].tolist() == [[0, 1]]
    assert routed(Rule("sigmoid", 2, groups=3, kept_groups=1, counted=2), logits)[1].tolist() == [[2, 3]]
    one = Rule("sigmoid", 2, groups=3, kept_groups=1, counted=2)
    assert routed(one, logits, forbidden=[2])[1].tolist() == [[3, 0]], (
        "the group's own first, then the best of all others"
    )
    assert routed(one, logits, k=4)[1].tolist() == [[2, 3, 0, 5]]
    assert routed(one, logits, forced=[4])[1].tolist() == [[4, 2]]


def test_weights_of_forced_experts_with_no_score_at_all_still_sum_to_one() -> None:
    logits = torch.tensor([[500.0, 0.0, -1.0, 2.0]])
    weights, experts = routed(Rule("softmax", 2, normalised=True), logits, forced=[1, 2])
    assert experts.tolist() == [[1, 2]]
    torch.testing.assert_close(weights, torch.tensor([[0.0, -1.0]]).softmax(-1))


def test_rerouted_keeps_what_it_need_not_change() -> None:
    logits = torch.tensor([[0.0, 2.0, 1.0, -1.0], [3.0, 0.0, 1.0, 2.0]])
    weights, experts = (
        torch.tensor([[0.61, 0.39], [0.55, 0.45]]),
        torch.tensor([[2, 1], [3, 0]]),
    )  # in an order of its own
    rule = Rule("softmax", 2)
    new, chosen = rerouted(Rerouting(forbidden=frozenset([1])), rule, logits, weights, experts)
    assert chosen.tolist() == [[2, 0], [3, 0]]
    assert torch.equal(new[1], weights[1])
    torch.testing.assert_close(new[0], logits.softmax(-1)[0, [2, 0]])
    assert torch.equal(weights, torch.tensor([[0.61, 0.39], [0.55, 0.45]])), "the model's own were written into"


def test_requests_add_up() -> None:
    first = Rerouting(frozenset([1]), ((2, None), (3, 0.5)), 2, frozenset([4]))
    later = Rerouting(frozenset([5]), ((3, None),), None, frozenset([6]))
    assert first + later == Rerouting(frozenset([1, 5]), ((2, None), (3, None)), 2, frozenset([4, 6]))
    assert (later + first).k == 2
    assert not Rerouting(dropped=frozenset([1])).chooses


# routers of other make ------------------------------------------------------------------------------------------------


class Reordered(nn.Module):
    """A router that gives (experts, weights, logits), as granitemoe's did."""

    def __init__(self, router: Any) -> None:
        super().__init__()
        self.weight, self.top_k = router.weight, router.top_k

    def forward(self, hidden: torch.Tensor) -> Any:
        logits = nn.functional.linear(hidden, self.weight)
        best, experts = logits.topk(self.top_k, dim=-1)
        return experts, best.softmax(-1), logits


class Within(nn.Module):
    """A mixture without a module of experts: only its router's output tells the choice."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.gate, self.up, self.down = block.gate, block.experts.gate_up_proj, block.experts.down_proj

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        flat = hidden.reshape(-1, hidden.shape[-1])
        _, weights, experts = self.gate(flat)
        gate, up = torch.einsum("nd,nkfd->nkf", flat, self.up[experts]).chunk(2, -1)
        parts = torch.einsum("nkf,nkdf->nkd", nn.functional.silu(gate) * up, self.down[experts])
        return (parts * weights[..., None]).sum(1).reshape(hidden.shape)


def test_the_order_of_a_router_s_output_does_not_matter() -> None:
    model = build(FAMILIES["granitemoe"])
    plain = lk.Lab(model, Tokens()).trace(TEXT, keep=("routes", "logits"))
    for layer in model.model.layers:
        block = layer.block_sparse_moe
        block.router = Reordered(block.router)
        block.forward = _granite_before.__get__(block)
    lab = lk.Lab(model, Tokens())
    assert router_of(lab).logits_at == 2
    trace = lab.trace(TEXT, keep=("routes", "logits"))
    torch.testing.assert_close(trace.logits, plain.logits)
    assert torch.equal(trace.routes.experts, plain.routes.experts)
    torch.testing.assert_close(trace.routes.logits, plain.routes.logits)
    with lab.edit(RouterEdit(("routes",), {None: Rerouting(forbidden=frozenset([1]))})):
        assert not (lab.trace(TEXT, keep="routes").routes.experts == 1).any()


def _granite_before(self: Any, hidden: torch.Tensor) -> torch.Tensor:
    flat = hidden.reshape(-1, hidden.shape[-1])
    experts, weights, _ = self.router(flat)
    return self.experts(flat, top_k_index=experts, top_k_weights=weights).view(hidden.shape)


def test_a_mixture_with_its_experts_within_itself() -> None:
    model = build(FAMILIES["mixtral"])
    plain = lk.Lab(model, Tokens())
    asked = RouterEdit(("routes",), {None: Rerouting(frozenset([1]), dropped=frozenset([2]))})
    with plain.edit(asked):
        expected = plain.trace(TEXT, keep=("routes", "logits"))
    for layer in model.model.layers:
        layer.mlp = Within(layer.mlp)
    lab = lk.Lab(model, Tokens())
    assert router_of(lab).reading == "router"
    with lab.edit(asked):
        trace = lab.trace(TEXT, keep=("routes", "logits"))
    assert torch.equal(trace.routes.experts, expected.routes.experts)
    torch.testing.assert_close(trace.routes.weights, expected.routes.weights)
    torch.testing.assert_close(trace.logits, expected.logits, atol=1e-4, rtol=1e-4)
    for k in (1, 3):
        edit = RouterEdit(("routes",), {None: Rerouting(k=k)})
        with pytest.raises(lk.Unavailable, match="another number of experts than 2"), lab.edit(edit):
            pytest.fail("entered")


def test_random_weights() -> None:
    one, other = (layer.router for layer in lab_of("mixtral").anatomy.layers)
    drawn = random_weights(one, 5)
    torch.testing.assert_close(drawn.norm(dim=-1), one.weight.norm(dim=-1))
    assert torch.equal(drawn, random_weights(one, 5))
    for different in (random_weights(one, 6), random_weights(other, 5), one.weight):
        assert torch.cosine_similarity(drawn, different, dim=-1).abs().max() < 0.7
    assert random_weights(router_of(lk.Lab(build(FAMILIES["dbrx"]).bfloat16(), Tokens())), 0).dtype is torch.bfloat16


def test_a_dense_model_has_a_reason_and_a_remedy() -> None:
    lab = lab_of("llama3")
    assert all(layer.router is None for layer in lab.anatomy.layers)
    with pytest.raises(lk.Unavailable, match=r'dense model has no router.*lk.load\("labkit-moe"\)'):
        lab.trace(TEXT, keep="routes")


def test_layers_that_choose_different_numbers_are_filled_up() -> None:
    lab = lab_of("mixtral")
    plain = lab.trace(TEXT, keep="routes").routes
    assert plain.chosen == (2, 2)
    with lab.edit(RouterEdit(("routes",), {1: Rerouting(k=3)})):
        routes, short = (t.routes for t in lab.trace([TEXT, TEXT[:7]], keep="routes"))
    assert routes.chosen == short.chosen == (2, 3)
    assert routes.experts.shape == routes.weights.shape == (len(TEXT), 2, 3)
    assert routes.logits.shape == plain.logits.shape
    assert torch.equal(routes.experts[:, 0, :2], plain.experts[:, 0])
    assert (routes.experts[:, 0, 2] == -1).all()
    assert (routes.weights[:, 0, 2] == 0).all()
    assert (routes.experts[:, 1] >= 0).all()
    assert (routes.weights[:, 1] > 0).all()
