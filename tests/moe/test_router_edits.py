"""Edits of routers: each layer's output is the mixture, made by hand, that the edit asks for; nothing is left behind."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from families import FAMILIES, Tokens, build
from mixtures import Blocks, mixture

import labkit as lk
from labkit.moe.edits import choose, drop, forbid, force, random_router
from labkit.trace.edits import RouterEdit
from labkit.trace.routers import _REROUTED

TEXT = [5, 17, 33, 8, 91, 42, 17, 33, 64, 23, 5, 77, 12, 30, 9, 58, 71, 20, 11, 46]
PROMPT = "t5 t17 t33 t8 t91"
BY_HAND = ("mixtral", "qwen3_moe", "gpt_oss", "deepseek_v2_groups", "deepseek_v3", "jetmoe", "dbrx")
MIXTURES = (*BY_HAND, "qwen2_moe", "olmoe", "deepseek_v2", "granitemoe", "qwen3_moe_sparse_step")
Edits = Sequence[lk.Edit]


@cache
def lab_of(name: str) -> lk.Lab:
    return lk.Lab(build(FAMILIES[name]), Tokens(), name=name)


def hooks(lab: lk.Lab) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in lab.model.modules())


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Tiny products are quicker without threads, and the machine may be busy."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=MIXTURES)
def lab(request: pytest.FixtureRequest) -> Iterator[lk.Lab]:
    """A mixture that must be left as it was: logits bit-equal, no hook, nothing asked of a router."""
    yield from untouched(request.param)


@pytest.fixture(params=BY_HAND)
def known(request: pytest.FixtureRequest) -> Iterator[lk.Lab]:
    """One whose rule is written down below."""
    yield from untouched(request.param)


@pytest.fixture
def mixtral() -> Iterator[lk.Lab]:
    yield from untouched("mixtral")


def untouched(name: str) -> Iterator[lk.Lab]:
    lab = lab_of(name)
    lab.anatomy  # noqa: B018 - its own hooks have come and gone
    logits, on, weights = lab.trace(TEXT).logits, hooks(lab), {n: p.clone() for n, p in lab.model.named_parameters()}
    parameters = dict(lab.model.named_parameters())
    yield lab
    assert torch.equal(lab.trace(TEXT).logits, logits)
    assert hooks(lab) == on
    assert not _REROUTED
    assert all(p is parameters[n] and torch.equal(p, weights[n]) for n, p in lab.model.named_parameters())


# the rules, written down once more ------------------------------------------------------------------------------------


def wanted(
    lab: lk.Lab, layer: int, logits: torch.Tensor, *, k: int, forbidden: Sequence[int] = (), forced: Sequence[int] = ()
) -> tuple[list[int], list[float]]:
    """(experts, weights) of one token, in plain numbers, as the paper of its architecture has it."""
    values = logits.double().tolist()
    largest = max(values)
    softmax = [math.exp(v - largest) / sum(math.exp(u - largest) for u in values) for v in values]
    everyone = range(len(values))
    scores, key, late = softmax, softmax, [0] * len(values)
    if lab.family == "deepseek_v3":
        scores = [1 / (1 + math.exp(-v)) for v in values]
        bias = lab.model.model.layers[layer].mlp.gate.e_score_correction_bias.tolist()
        key = [s + b for s, b in zip(scores, bias, strict=True)]
    if lab.name in ("deepseek_v3", "deepseek_v2_groups"):
        pairs = [(i, i + 1) for i in range(0, 8, 2)]
        worth = sum if lab.family == "deepseek_v3" else max
        best = sorted(pairs, key=lambda pair: -worth(key[e] for e in pair))[:2]
        late = [int(not any(e in pair for pair in best)) for e in everyone]
    order = sorted((e for e in everyone if e not in forbidden and e not in forced), key=lambda e: (late[e], -key[e]))
    chosen = [*forced, *order][:k]
    weights = [scores[e] for e in chosen]
    if lab.family in ("mixtral", "gpt_oss", "deepseek_v3", "jetmoe", "dbrx"):
        weights = [w / sum(weights) for w in weights]
    scale = 2.5 if lab.name in ("deepseek_v3", "deepseek_v2_groups") else 1.0
    return chosen, [scale * w for w in weights]


def check_layers(
    lab: lk.Lab, edits: Edits, expect: Callable[[int, torch.Tensor], tuple[list[int], list[float]]]
) -> None:
    """Under the edits, every layer's routes and output are those that `expect` gives from the token's logits."""
    with lab.edit(*edits), Blocks(lab) as blocks:
        routes = lab.trace(TEXT, keep="routes").routes
    for place, layer in enumerate(routes.layers):
        expected = [expect(layer, logits) for logits in routes.logits[:, place]]
        experts = torch.tensor([e for e, _ in expected])
        weights = torch.tensor([w for _, w in expected])
        own, order = routes.experts[:, place].sort(-1)
        assert torch.equal(own, experts.sort(-1).values)
        there = weights.gather(-1, experts.argsort(-1))
        torch.testing.assert_close(routes.weights[:, place].gather(-1, order), there, atol=1e-5, rtol=1e-4)
        block = lab.anatomy.layers[layer].router.block
        by_hand = mixture(lab, block, blocks[layer].hidden, experts, weights)
        assert torch.allclose(blocks[layer].output, by_hand, atol=1e-5 * float(by_hand.abs().max()))


def numbers(lab: lk.Lab) -> tuple[int, int, int]:
    """(first layer with a router, k, number of experts)."""
    router = next(layer.router for layer in lab.anatomy.layers if layer.router is not None)
    return router.layer, router.top_k, router.experts_count


# what each edit does --------------------------------------------------------------------------------------------------


def test_without_an_edit_the_rules_here_are_the_models(known: lk.Lab) -> None:
    _, k, _ = numbers(known)
    check_layers(known, [], lambda layer, logits: wanted(known, layer, logits, k=k))


def test_forbid_gives_the_next_best(known: lk.Lab) -> None:
    _, k, count = numbers(known)
    for gone in ([1], [0, 3], list(range(count - k))):
        check_layers(
            known, [forbid(gone)], lambda layer, logits, gone=gone: wanted(known, layer, logits, k=k, forbidden=gone)
        )


def test_force_puts_experts_first(known: lk.Lab) -> None:
    _, k, count = numbers(known)
    for there in ([2], [3, 0], list(range(count))[-k:]):
        check_layers(known, [force(there)], lambda layer, logits, f=there: wanted(known, layer, logits, k=k, forced=f))
        with known.edit(force(there)):
            routes = known.trace(TEXT, keep="routes").routes
        assert (routes.experts[..., : len(there)] == torch.tensor(there)).all()


def test_force_with_weights(known: lk.Lab) -> None:
    _, k, _ = numbers(known)

    def expect(layer: int, logits: torch.Tensor) -> tuple[list[int], list[float]]:
        experts, weights = wanted(known, layer, logits, k=k, forced=[3, 0])
        return experts, [0.7, -0.2, *weights[2:]]

    check_layers(known, [force([3, 0], weights=[0.7, -0.2])], expect)
    check_layers(
        known,
        [force([3, 0], weights=0.25)],
        lambda layer, logits: (expect(layer, logits)[0], [0.25, 0.25, *expect(layer, logits)[1][2:]]),
    )


def test_choose_another_number(known: lk.Lab) -> None:
    _, _, count = numbers(known)
    for k in (1, 3, count):
        check_layers(known, [choose(k)], lambda layer, logits, k=k: wanted(known, layer, logits, k=k))
        with known.edit(choose(k)):
            assert known.trace(TEXT, keep="routes").routes.experts.shape[-1] == k


def test_drop_takes_away_one_part_and_leaves_the_others(known: lk.Lab) -> None:
    _, k, _ = numbers(known)

    def expect(layer: int, logits: torch.Tensor) -> tuple[list[int], list[float]]:
        experts, weights = wanted(known, layer, logits, k=k)
        return experts, [0.0 if e in (0, 2) else w for e, w in zip(experts, weights, strict=True)]

    check_layers(known, [drop([0, 2])], expect)


def test_drop_leaves_the_choice_to_the_bit(lab: lk.Lab) -> None:
    first, _, _ = numbers(lab)
    free = lab.trace(TEXT, keep="routes").routes
    with lab.edit(drop(1, first)):
        routes = lab.trace(TEXT, keep="routes").routes
    gone = free.experts[:, 0] == 1
    assert gone.any()
    assert torch.equal(routes.experts[:, 0], free.experts[:, 0])
    assert torch.equal(routes.weights[:, 0], free.weights[:, 0].masked_fill(gone, 0))


def test_forbid_leaves_other_tokens_to_the_bit(lab: lk.Lab) -> None:
    first, k, _ = numbers(lab)
    free = lab.trace(TEXT, keep="routes").routes
    with lab.edit(forbid(1, first)):
        routes = lab.trace(TEXT, keep="routes").routes
    had = (free.experts[:, 0] == 1).any(-1)
    assert had.any()
    assert not had.all()
    assert torch.equal(routes.experts[~had, 0], free.experts[~had, 0])
    assert torch.equal(routes.weights[~had, 0], free.weights[~had, 0])
    assert not (routes.experts[:, 0] == 1).any()
    if k > 1:  # and those that had it keep the others
        kept = [
            set(a) - {1} <= set(b)
            for a, b in zip(free.experts[had, 0].tolist(), routes.experts[had, 0].tolist(), strict=True)
        ]
        assert all(kept)


def test_only_the_named_layers_are_edited() -> None:
    for lab in untouched("qwen3_moe_sparse_step"):
        free = lab.trace(TEXT, keep="routes").routes
        assert free.layers == (1, 3)
        for layer in (3, -1):
            with lab.edit(forbid(0, layer)):
                routes = lab.trace(TEXT, keep="routes").routes
            assert torch.equal(routes.experts[:, 0], free.experts[:, 0])
            assert not (routes.experts[:, 1] == 0).any()
        with lab.edit(forbid({1: 0, 3: [1, 2]})):
            routes = lab.trace(TEXT, keep="routes").routes
        assert set(routes.experts[:, 0].unique().tolist()) == {1, 2, 3}
        assert set(routes.experts[:, 1].unique().tolist()) == {0, 3}


def test_random_router(lab: lk.Lab) -> None:
    first, _, _ = numbers(lab)
    routers = [layer.router for layer in lab.anatomy.layers if layer.router is not None]
    trained = [router.weight.clone() for router in routers]
    free = lab.trace(TEXT, keep="routes").routes
    with lab.edit(random_router(seed=3)), Blocks(lab) as blocks:
        random = [router.weight.clone() for router in routers]
        routes = lab.trace(TEXT, keep="routes").routes
    for place, (router, before, now) in enumerate(zip(routers, trained, random, strict=True)):
        torch.testing.assert_close(now.norm(dim=-1), before.norm(dim=-1))
        assert torch.cosine_similarity(now, before, dim=-1).abs().max() < 0.8
        bias = getattr(router.module, "bias", None)
        logits = blocks[router.layer].hidden @ now.T + (0 if bias is None else bias)
        torch.testing.assert_close(routes.logits[:, place], logits, atol=1e-4, rtol=1e-4)
        assert not torch.equal(routes.experts[:, place].sort(-1).values, free.experts[:, place].sort(-1).values)
    if len(random) > 1:
        assert torch.cosine_similarity(random[0], random[1], dim=-1).abs().max() < 0.8
    with lab.edit(random_router(seed=3)):
        assert torch.equal(lab.trace(TEXT, keep="routes").routes.experts, routes.experts)
    with lab.edit(random_router(seed=4)):
        assert not torch.equal(lab.trace(TEXT, keep="routes").routes.logits, routes.logits)
    with lab.edit(random_router(seed=3, layer=first)):
        assert not torch.equal(routers[0].weight, trained[0])
        assert all(torch.equal(r.weight, t) for r, t in zip(routers[1:], trained[1:], strict=True))


def test_a_random_router_chooses_by_the_same_rule(known: lk.Lab) -> None:
    _, k, _ = numbers(known)
    check_layers(known, [random_router(1)], lambda layer, logits: wanted(known, layer, logits, k=k))
    check_layers(
        known,
        [random_router(1), forbid(1)],
        lambda layer, logits: wanted(known, layer, logits, k=k, forbidden=[1]),
    )


# together -------------------------------------------------------------------------------------------------------------


def test_edits_compose_in_one_with_and_nested(known: lk.Lab) -> None:
    _, _, count = numbers(known)

    def expect(layer: int, logits: torch.Tensor) -> tuple[list[int], list[float]]:
        experts, weights = wanted(known, layer, logits, k=3, forbidden=[1], forced=[2])
        return experts, [0.0 if e == 0 else w for e, w in zip(experts, weights, strict=True)]

    edits = [drop(0), forbid(1), choose(3), force(2)]
    for order in (edits, edits[::-1]):
        check_layers(known, order, expect)
        for split in (1, 2, 3):
            with known.edit(*order[:split]):
                check_layers(known, order[split:], expect)
    with known.edit(forbid(1)):
        with known.edit(forbid(3), choose(count - 2)):
            check_layers(known, [], lambda layer, x: wanted(known, layer, x, k=count - 2, forbidden=[1, 3]))
        _, k, _ = numbers(known)
        check_layers(known, [], lambda layer, logits: wanted(known, layer, logits, k=k, forbidden=[1]))


def test_the_later_number_and_weight_hold(mixtral: lk.Lab) -> None:
    with mixtral.edit(choose(1), choose(3)), mixtral.edit(force(2, weights=0.5)), mixtral.edit(force(2, weights=0.25)):
        routes = mixtral.trace(TEXT, keep="routes").routes
    assert routes.experts.shape[-1] == 3
    assert (routes.weights[..., 0] == 0.25).all()


def test_with_edits_of_other_places(mixtral: lk.Lab) -> None:
    with mixtral.edit(lk.patch("residual[0]", lambda x: x * 0.5), forbid(1), lk.ablate_head(0, 1)):
        trace = mixtral.trace(TEXT, keep=("routes", "head_output"))
    assert not (trace.routes.experts == 1).any()
    assert trace.head_output(0, 1).abs().max() == 0


@pytest.mark.parametrize("edits", [[forbid(1)], [force(3)], [choose(1)], [drop(0)], [random_router()]])
def test_undone_after_an_error(lab: lk.Lab, edits: Edits) -> None:
    block = lab.anatomy.layers[-1].router.block

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    handle = block.register_forward_hook(interrupt)
    with pytest.raises(KeyboardInterrupt), lab.edit(*edits):
        lab.trace(TEXT)
    handle.remove()


def test_a_refused_edit_leaves_nothing_of_the_others(mixtral: lk.Lab) -> None:
    with pytest.raises(lk.BadInput), mixtral.edit(drop(0), random_router(), forbid(40)):
        pytest.fail("entered")


def test_the_same_edit_twice(mixtral: lk.Lab) -> None:
    edit = drop(0)
    with mixtral.edit(edit):
        with mixtral.edit(edit):
            pass
        assert (mixtral.trace(TEXT, keep="routes").routes.weights == 0).any(), "the inner took the outer with it"


@pytest.mark.parametrize("edits", [[forbid(1)], [force(3)], [choose(1)], [drop([0, 2])], [random_router()]])
def test_generating_with_a_cache_is_generating_without(lab: lk.Lab, edits: Edits) -> None:
    free = lab.generate(PROMPT, chat=False, max_new_tokens=6)
    ids = lab.tokenizer(PROMPT).input_ids
    with lab.edit(*edits):
        cached = lab.generate(PROMPT, chat=False, max_new_tokens=6)
        by_hand, logprobs = list(ids), []
        for _ in cached.ids:  # fewer than six, where the end comes first
            best = lab.trace(by_hand, keep="logits").logits[-1].log_softmax(-1).max(-1)
            by_hand.append(int(best.indices))
            logprobs.append(float(best.values))
    assert cached.ids == by_hand[len(ids) :]
    torch.testing.assert_close(cached.logprobs, torch.tensor(logprobs), atol=1e-3, rtol=1e-3)
    both = min(len(cached.ids), len(free.ids))
    assert (cached.logprobs[:both] - free.logprobs[:both]).abs().max() > 1e-3, "the edit did nothing"


def test_a_padded_batch_is_each_text_alone(lab: lk.Lab) -> None:
    with lab.edit(forbid(1), choose(1)):
        batch = lab.trace([TEXT, TEXT[:7]], keep=("routes", "logits"))
        alone = lab.trace(TEXT[:7], keep=("routes", "logits"))
    assert torch.equal(batch[1].routes.experts, alone.routes.experts)
    assert torch.allclose(batch[1].logits, alone.logits, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("family", ["mixtral", "gpt_oss", "deepseek_v3", "dbrx", "jetmoe"])
def test_in_other_dtypes(family: str, dtype: torch.dtype) -> None:
    lab = lk.Lab(build(FAMILIES[family]).to(dtype), Tokens(), name=family)
    with lab.edit(forbid(1), drop(0)):
        routes = lab.trace(TEXT, keep=("routes", "logits")).routes
    assert not (routes.experts == 1).any()
    assert (routes.weights[routes.experts == 0] == 0).all()
    assert routes.weights.sum() > 0


# what can't be --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda: forbid(40), "There is no expert 40: layer 0 has experts 0 to 3"),
        (lambda: force(-1), "There is no expert -1: layer 0 has experts 0 to 3"),
        (lambda: drop([0, 7], 1), "There is no expert 7: layer 1 has experts 0 to 3"),
        (lambda: forbid(0, 9), "There is no layer 9: this mixtral has layers 0 to 1"),
        (lambda: random_router(layer=-3), "There is no layer -3"),
        (lambda: forbid([0, 1, 2, 3]), "All 4 experts of layer 0 would be forbidden; leave at least 2"),
        (lambda: forbid({1: range(3)}), "Layer 1 would have 1 of its 4 experts left, and 2 are chosen"),
        (lambda: force([0, 1, 2]), "3 experts are forced in layer 0, and 2 are chosen"),
        (lambda: choose(5), "5 experts can't be chosen in layer 0, which has 4"),
        (lambda: choose(0), "1 or more"),
        (lambda: choose(2.0), "1 or more"),
        (lambda: choose(True), "1 or more"),
        (lambda: forbid(1.5), "experts as whole numbers"),
        (lambda: forbid("all"), "experts as whole numbers"),
        (lambda: forbid([]), "nothing to forbid"),
        (lambda: drop({}), "nothing to drop"),
        (lambda: forbid([1, 1]), "expert 1 twice"),
        (lambda: forbid({0: 1}, layer=1), "leave one of them"),
        (lambda: drop(1, "first"), "a layer as a whole number"),
        (lambda: force([1, 2], weights=[0.5]), "2 experts and 1 weights"),
        (lambda: force(1, weights=math.nan), "finite numbers"),
        (lambda: force(1, weights="much"), "finite numbers"),
        (lambda: random_router("seed"), "whole number as seed"),
    ],
)
def test_mistakes_are_told_in_a_sentence(mixtral: lk.Lab, edit: Callable[[], RouterEdit], message: str) -> None:
    with pytest.raises(lk.BadInput, match=message), mixtral.edit(edit()):
        pytest.fail("entered")


def test_what_is_too_much_together_is_told_too(mixtral: lk.Lab) -> None:
    with mixtral.edit(forbid([0, 1])):
        with pytest.raises(lk.BadInput, match="1 of its 4 experts left"), mixtral.edit(forbid(2)):
            pytest.fail("entered")
        with pytest.raises(lk.BadInput, match="forced and forbidden"), mixtral.edit(force(1)):
            pytest.fail("entered")
        with pytest.raises(lk.BadInput, match="2 of its 4 experts left, and 3 are chosen"), mixtral.edit(choose(3)):
            pytest.fail("entered")
        with mixtral.edit(forbid(2), choose(1)):
            assert (mixtral.trace(TEXT, keep="routes").routes.experts == 3).all()


def test_a_dense_layer_and_a_dense_model() -> None:
    message = "Layer 0 of this deepseek_v3 has no router; layer 1 has one"
    with pytest.raises(lk.BadInput, match=message), lab_of("deepseek_v3").edit(forbid(0, 0)):
        pytest.fail("entered")
    sparse = lab_of("qwen3_moe_sparse_step")
    with pytest.raises(lk.BadInput, match="layers 1, 3 have one"), sparse.edit(random_router(layer=2)):
        pytest.fail("entered")
    message = r'dense model has no router.*lk.load\("labkit-moe"\)'
    for edit in (forbid(0), force(0), drop(0), choose(1), random_router()):
        with pytest.raises(lk.Unavailable, match=message), lab_of("llama2").edit(edit):
            pytest.fail("entered")


def test_a_rule_that_is_not_known() -> None:
    """phimoe's sparsemixer: no new choice, but an expert can be dropped, and a router be random."""
    for lab in untouched("phimoe"):
        for edit in (forbid(0), force(0), choose(1)):
            with pytest.raises(lk.Unavailable, match=r"PhimoeTopKRouter.*lk.moe.drop"), lab.edit(edit):
                pytest.fail("entered")
        free = lab.trace(TEXT, keep="routes").routes
        with lab.edit(drop(0)), Blocks(lab) as blocks:
            routes = lab.trace(TEXT, keep="routes").routes
        assert torch.equal(routes.experts[:, 0], free.experts[:, 0])
        assert (routes.weights[routes.experts == 0] == 0).all()
        for place, layer in enumerate(routes.layers):
            block = lab.anatomy.layers[layer].router.block
            by_hand = mixture(lab, block, blocks[layer].hidden, routes.experts[:, place], routes.weights[:, place])
            assert torch.allclose(blocks[layer].output, by_hand, atol=1e-5 * float(by_hand.abs().max()))
        with lab.edit(random_router()):
            assert not torch.equal(lab.trace(TEXT, keep="routes").routes.experts, free.experts)


def test_numbers_from_arrays_and_tensors_are_numbers(mixtral: lk.Lab) -> None:
    for experts in (
        np.int64(1),
        np.array([1]),
        torch.tensor(1),
        torch.tensor([1]),
        [torch.tensor(1)],
        {1},
        (1,),
        range(1, 2),
    ):
        with mixtral.edit(forbid(experts, np.int64(0))):  # type: ignore[arg-type]
            assert not (mixtral.trace(TEXT, keep="routes").routes.experts[:, 0] == 1).any()


def test_the_edits_are_lk_moe_s() -> None:
    for edit in (forbid, force, drop, choose, random_router):
        assert getattr(lk.moe, edit.__name__) is edit
