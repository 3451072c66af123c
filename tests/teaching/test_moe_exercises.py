"""The solutions of notebook 06's exercises beside transformers' own mixture and beside other ways to count."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from families import FAMILIES, build

from labkit.teaching.exercises import find


def solution(name: str) -> Any:
    return find(f"moe.{name}").reference


def inputs(name: str) -> list[tuple[Any, ...]]:
    return [case.inputs for case in find(f"moe.{name}").cases()]


@pytest.fixture(scope="module")
def model() -> Any:
    return build(FAMILIES["qwen3_moe"])


@torch.no_grad()
def test_router_and_layer_are_those_of_a_real_mixture(model: Any) -> None:
    layer, k = model.model.layers[0].mlp, model.config.num_experts_per_tok
    layer.gate.norm_topk_prob = True
    x = torch.randn(7, model.config.hidden_size, generator=torch.Generator().manual_seed(0))
    _, weights, experts = layer.gate(x)
    chosen = solution("top_k_router")(x @ layer.gate.weight.T, k)
    assert torch.equal(chosen[0], experts)
    torch.testing.assert_close(chosen[1], weights)
    gate, up = layer.experts.gate_up_proj.chunk(2, dim=1)
    ours = solution("mixture_layer")(x, layer.gate.weight, gate, up, layer.experts.down_proj, k)
    theirs = layer(x[None])
    torch.testing.assert_close(ours, theirs[0], rtol=1e-4, atol=1e-5)


def test_parameters_are_those_of_a_real_mixture(model: Any) -> None:
    config = model.config
    of_experts = [p.numel() for name, p in model.named_parameters() if ".experts." in name]
    total = sum(p.numel() for p in model.parameters())
    counted = solution("active_parameters")(
        config.num_hidden_layers,
        config.hidden_size,
        config.moe_intermediate_size,
        config.num_experts,
        config.num_experts_per_tok,
        total - sum(of_experts),
    )
    resting = 1 - config.num_experts_per_tok / config.num_experts
    assert counted == (total, total - resting * sum(of_experts))


@pytest.mark.parametrize("shows", ["labkit", "Mixtral", "Qwen3"])
def test_the_models_in_the_cases_have_the_parameters_they_are_known_for(shows: str) -> None:
    (case,) = [case for case in find("moe.active_parameters").cases() if shows in case.shows]
    known = {
        "labkit": (9_354_048, 3_160_896),
        "Mixtral": (46_702_792_704, 12_879_925_248),
        "Qwen3": (30_532_122_624, 3_353_032_704),
    }
    assert solution("active_parameters")(*case.inputs) == known[shows]


def test_the_balancing_loss_is_a_kth_of_the_one_in_transformers() -> None:
    """transformers counts shares of tokens, which add up to k."""
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    generator = torch.Generator().manual_seed(0)
    for T, E, k in ((5, 4, 1), (9, 6, 2), (30, 8, 3)):
        logits = torch.randn(T, E, generator=generator)
        loss = solution("balancing_loss")(logits, logits.topk(k).indices)
        torch.testing.assert_close(k * loss, load_balancing_loss_func((logits,), E, k))


def test_the_balancing_loss_is_1_where_shares_or_probabilities_are_even() -> None:
    logits = torch.randn(12, 4, generator=torch.Generator().manual_seed(1))
    even = torch.arange(24).reshape(12, 2) % 4
    assert float(solution("balancing_loss")(logits, even)) == pytest.approx(1, abs=1e-6)
    assert float(solution("balancing_loss")(torch.zeros(12, 4), logits.topk(2).indices)) == pytest.approx(1, abs=1e-6)


def test_shares_of_a_kind_are_counts_over_its_tokens_and_add_up_to_k() -> None:
    for experts, kinds, n_experts, n_kinds in inputs("domain_share"):
        shares = solution("domain_share")(experts, kinds, n_experts, n_kinds)
        torch.testing.assert_close(shares.sum(1), torch.full((n_kinds,), float(experts.shape[1])))
        for kind in range(n_kinds):
            rows = [set(row) for row, of in zip(experts.tolist(), kinds.tolist(), strict=True) if of == kind]
            wanted = [sum(expert in row for row in rows) / len(rows) for expert in range(n_experts)]
            torch.testing.assert_close(shares[kind], torch.tensor(wanted))


def test_chosen_experts_differ_within_a_token() -> None:
    """An expert can't be chosen twice, in the cases no more than in a model."""
    for name in ("domain_share", "kept_experts", "balancing_loss"):
        for case in inputs(name):
            experts = case[1] if name == "balancing_loss" else case[0]
            assert all(len(set(row)) == len(row) for row in experts.tolist())


def entropy(counts: torch.Tensor) -> float:
    p = counts.double().flatten() / counts.sum()
    return float(-torch.xlogy(p, p).sum() / torch.log(torch.tensor(2.0, dtype=torch.float64)))


def test_information_is_what_the_entropies_say() -> None:
    for (table,) in inputs("mutual_information"):
        wanted = entropy(table.sum(0)) + entropy(table.sum(1)) - entropy(table)
        assert float(solution("mutual_information")(table)) == pytest.approx(wanted, abs=1e-6)
        assert float(solution("mutual_information")(table.T)) == pytest.approx(wanted, abs=1e-6)


def test_kept_experts_are_the_first_of_an_ordering_by_use_and_index() -> None:
    for experts, n_experts, keep in inputs("kept_experts"):
        used = experts.flatten().tolist()
        order = sorted(range(n_experts), key=lambda e: (-used.count(e), e))
        assert solution("kept_experts")(experts, n_experts, keep).tolist() == sorted(order[:keep])
