"""Exercises of notebook 06, mixtures of experts: from the router to what its choices say about a text."""

from __future__ import annotations

import torch
from torch.nn.functional import one_hot, silu

from labkit.teaching.exercises.definition import Case, Exercise, mistakes, random


def _choices(T: int, n_experts: int, k: int, seed: int) -> torch.Tensor:
    """(T, k): k different experts for each token, low numbers more often than high ones."""
    return (random(T, n_experts, seed=seed) - 0.4 * torch.arange(n_experts)).topk(k).indices


# ------------------------------------------------------------------------------------------------------- top-k router


def top_k_router(logits: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """logits: (T, experts). Returns experts (T, k), the best first, and weights (T, k)."""
    best, experts = logits.topk(k, dim=-1)  # both (T, k), the largest first
    return experts, torch.softmax(best, dim=-1)  # over the chosen alone: they add up to 1


def _router_cases() -> list[Case]:
    return [
        Case((torch.tensor([[0.5, 2.0, -1.0, 1.0]]), 1), "one token, one of four experts"),
        Case((torch.tensor([[0.5, 2.0, -1.0, 1.0], [3.0, -2.0, 0.0, 1.5]]), 2), "two tokens, two of four experts"),
        Case((random(5, 8, seed=1), 3), "five tokens, three of eight experts"),
        Case((random(4, 4, seed=2), 4), "all experts chosen"),
        Case((-5 - random(4, 6, seed=3).abs(), 2), "logits that are all negative"),
        Case((random(3, 6, seed=4) * 400, 2), "logits so large that exp overflows"),
        Case((random(1, 6, seed=5), 4), "a single token, four of six experts"),
    ]


def _router_over_all(logits: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    weights, experts = torch.softmax(logits, dim=-1).topk(k, dim=-1)
    return experts, weights


def _router_softmax_twice(logits: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    weights, experts = torch.softmax(logits, dim=-1).topk(k, dim=-1)
    return experts, torch.softmax(weights, dim=-1)


def _router_by_probability(logits: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    weights, experts = torch.softmax(logits, dim=-1).topk(k, dim=-1)
    return experts, weights / weights.sum(dim=-1, keepdim=True)


def _router_by_sorted_probability(logits: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """As above; of experts that tie at 0, others come first."""
    weights, experts = torch.softmax(logits, dim=-1).sort(dim=-1, descending=True)
    return experts[:, :k], weights[:, :k] / weights[:, :k].sum(dim=-1, keepdim=True)


def _router_without_exp(logits: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    best, experts = logits.topk(k, dim=-1)
    return experts, best / best.sum(dim=-1, keepdim=True)


def _router_ascending(logits: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    experts, weights = top_k_router(logits, k)
    return experts.flip(-1), weights.flip(-1)


def _router_by_index(logits: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    experts, weights = top_k_router(logits, k)
    experts, order = experts.sort(dim=-1)
    return experts, weights.gather(-1, order)


def _router_smallest(logits: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    experts = logits.argsort(dim=-1)[:, :k]
    return experts, torch.softmax(logits.gather(-1, experts), dim=-1)


def _router_wrong_axis(logits: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    best, experts = logits.topk(k, dim=-1)
    return experts, torch.softmax(best, dim=0)


def _router_exchanged(logits: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    experts, weights = top_k_router(logits, k)
    return weights, experts


def _router_over_tokens(logits: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    best, tokens = logits.topk(k, dim=0)
    return tokens, torch.softmax(best, dim=0)


# ------------------------------------------------------------------------------------------------------ mixture layer


def mixture_layer(
    x: torch.Tensor, router: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, down: torch.Tensor, k: int
) -> torch.Tensor:
    """x: (T, d); router: (experts, d).

    gate, up: (experts, width, d); down: (experts, d, width). Returns (T, d).
    """
    best, experts = (x @ router.T).topk(k, dim=-1)
    weights = torch.softmax(best, dim=-1)
    output = torch.zeros_like(x)
    for t in range(len(x)):
        for place in range(k):
            e = experts[t, place]
            inner = torch.nn.functional.silu(gate[e] @ x[t]) * (up[e] @ x[t])  # (width,)
            output[t] += weights[t, place] * (down[e] @ inner)
    return output


def _layer_cases() -> list[Case]:
    def case(T: int, d: int, E: int, width: int, k: int, shows: str, *, even: bool = False) -> Case:
        # scaled so that outputs are near 1 and rounding stays far below the tolerance
        seed = 1000 * T + 10 * E
        x, router = random(T, d, seed=seed), random(E, d, seed=seed + 1)
        gate, up = (random(E, width, d, seed=seed + i) / d**0.5 * 1.5 for i in (2, 3))
        down = random(E, d, width, seed=seed + 4) / width**0.5
        return Case((x, router * (0 if even else 1), gate, up, down, k), shows)

    return [
        case(1, 2, 2, 1, 1, "one token, one of two experts"),
        case(2, 3, 4, 2, 2, "two tokens, two of four experts"),
        case(4, 4, 3, 4, 3, "every expert chosen"),
        case(3, 4, 2, 3, 2, "a router of zeros and both experts chosen, so equal weights", even=True),
        case(6, 8, 8, 3, 3, "six tokens, three of eight experts"),
        case(5, 6, 6, 6, 1, "only one expert for each token"),
        case(2, 8, 5, 16, 4, "experts wider than the tokens"),
    ]


def _expert(x: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    """What every expert makes of every token: (T, E, d)."""
    inner = silu(torch.einsum("td,ewd->tew", x, gate)) * torch.einsum("td,ewd->tew", x, up)
    return torch.einsum("tew,edw->ted", inner, down)


def _weighted(outputs: torch.Tensor, experts: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Of outputs (T, E, d), the sum over the chosen ones, with weights (T, k)."""
    chosen = outputs[torch.arange(len(outputs))[:, None], experts]
    return (weights[..., None] * chosen).sum(1)


def _layer_dense(
    x: torch.Tensor, router: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, down: torch.Tensor, k: int
) -> torch.Tensor:
    weights = torch.softmax(x @ router.T, dim=-1)
    return (weights[..., None] * _expert(x, gate, up, down)).sum(1)


def _layer_over_all(
    x: torch.Tensor, router: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, down: torch.Tensor, k: int
) -> torch.Tensor:
    return _weighted(_expert(x, gate, up, down), *_router_over_all(x @ router.T, k))


def _layer_unweighted(
    x: torch.Tensor, router: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, down: torch.Tensor, k: int
) -> torch.Tensor:
    experts, weights = top_k_router(x @ router.T, k)
    return _weighted(_expert(x, gate, up, down), experts, torch.ones_like(weights))


def _layer_mean(
    x: torch.Tensor, router: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, down: torch.Tensor, k: int
) -> torch.Tensor:
    return _layer_unweighted(x, router, gate, up, down, k) / k


def _layer_silu_of_up(
    x: torch.Tensor, router: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, down: torch.Tensor, k: int
) -> torch.Tensor:
    return mixture_layer(x, router, up, gate, down, k)


def _layer_silu_of_product(
    x: torch.Tensor, router: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, down: torch.Tensor, k: int
) -> torch.Tensor:
    inner = silu(torch.einsum("td,ewd->tew", x, gate) * torch.einsum("td,ewd->tew", x, up))
    return _weighted(torch.einsum("tew,edw->ted", inner, down), *top_k_router(x @ router.T, k))


def _layer_sigmoid(
    x: torch.Tensor, router: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, down: torch.Tensor, k: int
) -> torch.Tensor:
    inner = torch.einsum("td,ewd->tew", x, gate).sigmoid() * torch.einsum("td,ewd->tew", x, up)
    return _weighted(torch.einsum("tew,edw->ted", inner, down), *top_k_router(x @ router.T, k))


def _layer_weights_the_input(
    x: torch.Tensor, router: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, down: torch.Tensor, k: int
) -> torch.Tensor:
    experts, weights = top_k_router(x @ router.T, k)
    output = torch.zeros_like(x)
    for t in range(len(x)):
        for e, weight in zip(experts[t], weights[t], strict=True):
            output[t] += _expert(x[t : t + 1] * weight, gate, up, down)[0, e]
    return output


def _layer_best_only(
    x: torch.Tensor, router: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, down: torch.Tensor, k: int
) -> torch.Tensor:
    return mixture_layer(x, router, gate, up, down, 1)


def _layer_last_only(
    x: torch.Tensor, router: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, down: torch.Tensor, k: int
) -> torch.Tensor:
    """output[t] = ... in place of +=."""
    experts, weights = top_k_router(x @ router.T, k)
    return _weighted(_expert(x, gate, up, down), experts[:, -1:], weights[:, -1:])


def _layer_weight_of_another(
    x: torch.Tensor, router: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, down: torch.Tensor, k: int
) -> torch.Tensor:
    experts, weights = top_k_router(x @ router.T, k)
    return _weighted(_expert(x, gate, up, down), experts, weights.flip(-1))


def _layer_weight_by_index(
    x: torch.Tensor, router: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, down: torch.Tensor, k: int
) -> torch.Tensor:
    """Going through the chosen experts by number, and through the weights by size."""
    experts, weights = top_k_router(x @ router.T, k)
    return _weighted(_expert(x, gate, up, down), experts.sort(dim=-1).values, weights)


# -------------------------------------------------------------------------------------------------- active parameters


def active_parameters(layers: int, d_model: int, width: int, experts: int, k: int, other: int) -> tuple[int, int]:
    """other: the parameters that every token passes. Returns (total, active)."""
    expert = 3 * d_model * width  # gate, up and down
    total = other + layers * experts * expert
    active = other + layers * k * expert
    return total, active


def _active_cases() -> list[Case]:
    return [
        Case((1, 4, 2, 3, 1, 10), "one layer, small enough to count on paper"),
        Case((6, 192, 64, 32, 4, 2_276_160), "the mixture that comes with labkit"),
        Case((32, 4096, 14336, 8, 2, 1_605_636_096), "Mixtral 8x7B"),
        Case((48, 2048, 768, 128, 8, 1_541_093_376), "Qwen3-30B-A3B"),
        Case((4, 64, 32, 8, 8, 5_000), "all experts chosen, so that all parameters are active"),
        Case((2, 16, 8, 4, 1, 0), "nothing but experts"),
    ]


def _active_two_matrices(layers: int, d_model: int, width: int, experts: int, k: int, other: int) -> tuple[int, int]:
    expert = 2 * d_model * width
    return other + layers * experts * expert, other + layers * k * expert


def _active_share_of_all(layers: int, d_model: int, width: int, experts: int, k: int, other: int) -> tuple[int, int]:
    total, _ = active_parameters(layers, d_model, width, experts, k, other)
    return total, total * k // experts


def _active_one_layer(layers: int, d_model: int, width: int, experts: int, k: int, other: int) -> tuple[int, int]:
    return active_parameters(1, d_model, width, experts, k, other)


def _active_experts_only(layers: int, d_model: int, width: int, experts: int, k: int, other: int) -> tuple[int, int]:
    return active_parameters(layers, d_model, width, experts, k, 0)


def _active_without_other(layers: int, d_model: int, width: int, experts: int, k: int, other: int) -> tuple[int, int]:
    total, active = active_parameters(layers, d_model, width, experts, k, other)
    return total, active - other


def _active_other_per_layer(layers: int, d_model: int, width: int, experts: int, k: int, other: int) -> tuple[int, int]:
    return active_parameters(layers, d_model, width, experts, k, layers * other)


def _active_exchanged(layers: int, d_model: int, width: int, experts: int, k: int, other: int) -> tuple[int, int]:
    total, active = active_parameters(layers, d_model, width, experts, k, other)
    return active, total


def _active_the_rest(layers: int, d_model: int, width: int, experts: int, k: int, other: int) -> tuple[int, int]:
    total, active = active_parameters(layers, d_model, width, experts, k, other)
    return total, total - active


# ----------------------------------------------------------------------------------------------------- balancing loss


def balancing_loss(logits: torch.Tensor, experts: torch.Tensor) -> torch.Tensor:
    """logits: (T, experts); experts: (T, k), those chosen. Returns one number."""
    E = logits.shape[-1]
    share = torch.bincount(experts.flatten(), minlength=E) / experts.numel()  # of all choices
    probability = torch.softmax(logits, dim=-1).mean(dim=0)  # each expert's mean
    return E * (share * probability).sum()


def _balance_cases() -> list[Case]:
    def routed(T: int, E: int, k: int, seed: int, shows: str) -> Case:
        logits = random(T, E, seed=seed) * 1.5
        return Case((logits, logits.topk(k, dim=-1).indices), shows)

    only_one = torch.tensor([[6.0, 0.0, 0.0, 1.0]]).repeat(5, 1)
    towards_few = random(8, 6, seed=5) - torch.tensor([0.0, 0.0, 1.0, 2.0, 40.0, 40.0])
    return [
        Case((torch.eye(4) * 3, torch.tensor([[0], [1], [2], [3]])), "four tokens, each at an expert of its own"),
        Case((only_one, torch.zeros(5, 1, dtype=torch.long)), "five tokens, all at the same expert"),
        routed(6, 5, 2, 1, "six tokens, two of five experts"),
        Case((torch.zeros(3, 4), torch.tensor([[0, 1], [0, 1], [0, 1]])), "probabilities that are even"),
        Case((towards_few, towards_few.topk(2, dim=-1).indices), "the last two experts never chosen"),
        routed(1, 6, 3, 2, "a single token"),
        routed(40, 8, 3, 3, "40 tokens, three of eight experts"),
    ]


def _parts(logits: torch.Tensor, experts: torch.Tensor) -> tuple[int, torch.Tensor, torch.Tensor]:
    E = logits.shape[-1]
    share = torch.bincount(experts.flatten(), minlength=E) / experts.numel()
    return E, share, torch.softmax(logits, dim=-1).mean(dim=0)


def _balance_without_factor(logits: torch.Tensor, experts: torch.Tensor) -> torch.Tensor:
    _, share, probability = _parts(logits, experts)
    return (share * probability).sum()


def _balance_of_counts(logits: torch.Tensor, experts: torch.Tensor) -> torch.Tensor:
    return balancing_loss(logits, experts) * experts.numel()


def _balance_share_of_tokens(logits: torch.Tensor, experts: torch.Tensor) -> torch.Tensor:
    return balancing_loss(logits, experts) * experts.shape[-1]


def _balance_shares_squared(logits: torch.Tensor, experts: torch.Tensor) -> torch.Tensor:
    E, share, _ = _parts(logits, experts)
    return E * (share * share).sum()


def _balance_probabilities_squared(logits: torch.Tensor, experts: torch.Tensor) -> torch.Tensor:
    E, _, probability = _parts(logits, experts)
    return E * (probability * probability).sum()


def _balance_mean_logit(logits: torch.Tensor, experts: torch.Tensor) -> torch.Tensor:
    E, share, _ = _parts(logits, experts)
    return E * (share * logits.mean(dim=0)).sum()


def _balance_softmax_of_mean(logits: torch.Tensor, experts: torch.Tensor) -> torch.Tensor:
    E, share, _ = _parts(logits, experts)
    return E * (share * torch.softmax(logits.mean(dim=0), dim=-1)).sum()


def _balance_wrong_axis(logits: torch.Tensor, experts: torch.Tensor) -> torch.Tensor:
    E, share, _ = _parts(logits, experts)
    return E * (share * torch.softmax(logits, dim=0).mean(dim=0)).sum()


def _balance_largest(logits: torch.Tensor, experts: torch.Tensor) -> torch.Tensor:
    E, share, probability = _parts(logits, experts)
    return E * (share * probability).max()


def _balance_largest_share(logits: torch.Tensor, experts: torch.Tensor) -> torch.Tensor:
    E, share, _ = _parts(logits, experts)
    return E * share.max()


def _balance_mean(logits: torch.Tensor, experts: torch.Tensor) -> torch.Tensor:
    _, share, probability = _parts(logits, experts)
    return (share * probability).mean()


def _balance_first_choice(logits: torch.Tensor, experts: torch.Tensor) -> torch.Tensor:
    return balancing_loss(logits, experts[:, :1])


def _balance_too_short(logits: torch.Tensor, experts: torch.Tensor) -> torch.Tensor:
    share = torch.bincount(experts.flatten()) / experts.numel()
    return logits.shape[-1] * (share * torch.softmax(logits, dim=-1).mean(dim=0)).sum()


# ------------------------------------------------------------------------------------------------------- domain share


def domain_share(experts: torch.Tensor, kinds: torch.Tensor, n_experts: int, n_kinds: int) -> torch.Tensor:
    """experts: (T, k); kinds: (T,), the kind of each token's text.

    Returns (n_kinds, n_experts): the share of a kind's tokens with the expert among their k.
    """
    chosen = torch.zeros(len(experts), n_experts)
    chosen.scatter_(1, experts, 1.0)  # a row for each token: 1 at its chosen experts
    return torch.stack([chosen[kinds == kind].mean(dim=0) for kind in range(n_kinds)])


def _domain_cases() -> list[Case]:
    def case(T: int, n_experts: int, n_kinds: int, k: int, seed: int, shows: str) -> Case:
        kinds = (torch.arange(T) % (n_kinds + 2)).clamp(max=n_kinds - 1)  # the last kind most often
        return Case((_choices(T, n_experts, k, seed), kinds, n_experts, n_kinds), shows)

    few = torch.tensor([[0, 2], [2, 0], [1, 2], [0, 1], [2, 1]])
    return [
        Case((torch.tensor([[0], [1], [1], [0], [0]]), torch.tensor([0, 0, 0, 1, 1]), 2, 2), "one expert for a token"),
        Case((few, torch.tensor([0, 0, 1, 0, 1]), 3, 2), "five tokens, two of three experts, two kinds"),
        Case((few, torch.tensor([1, 0, 1, 1, 0]), 5, 2), "the last two experts never chosen"),
        Case((few, torch.tensor([0, 0, 0, 0, 0]), 4, 1), "a single kind"),
        case(12, 3, 3, 3, 1, "all experts chosen for every token"),
        case(40, 6, 4, 2, 2, "40 tokens, two of six experts, four kinds"),
        case(60, 8, 5, 3, 3, "60 tokens, three of eight experts, five kinds"),
    ]


def _counts(experts: torch.Tensor, kinds: torch.Tensor, n_experts: int, n_kinds: int) -> torch.Tensor:
    """(n_kinds, n_experts) float: tokens of the kind that chose the expert."""
    return one_hot(kinds, n_kinds).float().T @ one_hot(experts, n_experts).sum(1).float()


def _domain_of_expert(experts: torch.Tensor, kinds: torch.Tensor, n_experts: int, n_kinds: int) -> torch.Tensor:
    counts = _counts(experts, kinds, n_experts, n_kinds)
    return counts / counts.sum(dim=0)


def _domain_of_expert_without_nan(
    experts: torch.Tensor, kinds: torch.Tensor, n_experts: int, n_kinds: int
) -> torch.Tensor:
    return _domain_of_expert(experts, kinds, n_experts, n_kinds).nan_to_num(0.0)


def _domain_of_choices(experts: torch.Tensor, kinds: torch.Tensor, n_experts: int, n_kinds: int) -> torch.Tensor:
    return domain_share(experts, kinds, n_experts, n_kinds) / experts.shape[1]


def _domain_counts(experts: torch.Tensor, kinds: torch.Tensor, n_experts: int, n_kinds: int) -> torch.Tensor:
    return _counts(experts, kinds, n_experts, n_kinds)


def _domain_whole_counts(experts: torch.Tensor, kinds: torch.Tensor, n_experts: int, n_kinds: int) -> torch.Tensor:
    return _counts(experts, kinds, n_experts, n_kinds).long()


def _domain_of_all_tokens(experts: torch.Tensor, kinds: torch.Tensor, n_experts: int, n_kinds: int) -> torch.Tensor:
    return _counts(experts, kinds, n_experts, n_kinds) / len(experts)


def _domain_first_choice(experts: torch.Tensor, kinds: torch.Tensor, n_experts: int, n_kinds: int) -> torch.Tensor:
    return domain_share(experts[:, :1], kinds, n_experts, n_kinds)


def _domain_turned(experts: torch.Tensor, kinds: torch.Tensor, n_experts: int, n_kinds: int) -> torch.Tensor:
    return domain_share(experts, kinds, n_experts, n_kinds).T


def _domain_added_once(experts: torch.Tensor, kinds: torch.Tensor, n_experts: int, n_kinds: int) -> torch.Tensor:
    counts = torch.zeros(n_kinds, n_experts)
    counts[kinds[:, None], experts] += 1
    return counts / torch.bincount(kinds, minlength=n_kinds)[:, None]


# ------------------------------------------------------------------------------------------------- mutual information


def mutual_information(table: torch.Tensor) -> torch.Tensor:
    """table: (kinds, experts), how often they occurred together. Returns bits."""
    joint = table / table.sum()  # p(kind, expert)
    apart = joint.sum(dim=1, keepdim=True) * joint.sum(dim=0, keepdim=True)  # p(kind) p(expert)
    filled = joint > 0  # an empty cell contributes nothing
    return (joint[filled] * torch.log2(joint[filled] / apart[filled])).sum()


def _information_cases() -> list[Case]:
    return [
        Case((torch.tensor([[3, 1], [1, 3]]),), "two kinds, each with an expert it prefers"),
        Case((torch.tensor([[2, 4, 6], [1, 2, 3]]),), "kinds that choose alike: 0 bits"),
        Case((torch.tensor([[4, 0], [0, 4]]),), "an expert for each of two kinds, the other cells empty: 1 bit"),
        Case((torch.tensor([[30, 2, 8], [1, 5, 4], [0, 0, 50]]),), "three kinds, unequally often"),
        Case((torch.tensor([[5, 0, 3, 1], [2, 0, 2, 6]]),), "an expert never chosen"),
        Case((torch.tensor([[5, 3, 2]]),), "a single kind, which nothing can tell apart"),
        Case((torch.tensor([[7, 0, 0, 0], [0, 7, 0, 0], [0, 0, 7, 0], [0, 0, 0, 7]]),), "four kinds: 2 bits"),
    ]


def _filled_sum(weights: torch.Tensor, ratios: torch.Tensor) -> torch.Tensor:
    filled = weights > 0
    return (weights[filled] * torch.log2(ratios[filled])).sum()


def _information_in_nats(table: torch.Tensor) -> torch.Tensor:
    return mutual_information(table) * torch.log(torch.tensor(2.0))


def _information_with_nan(table: torch.Tensor) -> torch.Tensor:
    joint = table / table.sum()
    return (joint * torch.log2(joint / (joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)))).sum()


def _information_of_counts(table: torch.Tensor) -> torch.Tensor:
    counts = table.float()
    return _filled_sum(counts, counts / (counts.sum(1, keepdim=True) * counts.sum(0, keepdim=True)))


def _information_weighted_by_counts(table: torch.Tensor) -> torch.Tensor:
    return mutual_information(table) * table.sum()


def _information_joint_entropy(table: torch.Tensor) -> torch.Tensor:
    joint = table / table.sum()
    return -_filled_sum(joint, joint)


def _information_from_uniform(table: torch.Tensor) -> torch.Tensor:
    joint = table / table.sum()
    return _filled_sum(joint, joint * joint.numel())


def _information_one_margin(table: torch.Tensor) -> torch.Tensor:
    joint = table / table.sum()
    return _filled_sum(joint, joint / joint.sum(1, keepdim=True))


def _information_unweighted_kinds(table: torch.Tensor) -> torch.Tensor:
    joint = table / table.sum()
    rows = joint / joint.sum(1, keepdim=True)
    return _filled_sum(rows, rows / joint.sum(0, keepdim=True))


def _information_unweighted_cells(table: torch.Tensor) -> torch.Tensor:
    joint = table / table.sum()
    apart = joint.sum(1, keepdim=True) * joint.sum(0, keepdim=True)
    return torch.log2(joint[joint > 0] / apart[joint > 0]).sum()


def _information_sign_turned(table: torch.Tensor) -> torch.Tensor:
    return -mutual_information(table)


# ------------------------------------------------------------------------------------------------------- kept experts


def kept_experts(experts: torch.Tensor, n_experts: int, keep: int) -> torch.Tensor:
    """experts: (T, k), the chosen of a layer. Returns the `keep` most used, ascending."""
    uses = torch.bincount(experts.flatten(), minlength=n_experts)
    order = uses.argsort(descending=True, stable=True)  # equals stay in order, the lower first
    return order[:keep].sort().values


def _kept_cases() -> list[Case]:
    often_second = torch.tensor([[0, 3], [1, 3], [0, 2], [1, 3], [0, 2], [3, 1]])
    second_differs = torch.cat([_choices(60, 7, 1, 2), 9 - _choices(60, 3, 1, 4)], dim=1)
    return [
        Case((torch.tensor([[0], [2], [2], [1], [2], [1]]), 3, 2), "one expert for a token, two of three kept"),
        Case((often_second, 4, 1), "an expert that is often second"),
        Case((torch.tensor([[4, 1], [2, 3], [5, 0], [4, 3]]), 6, 3), "experts used equally often"),
        Case((torch.tensor([[4, 5], [5, 4], [4, 5]]), 6, 3), "more kept than were ever used"),
        Case((torch.tensor([[1, 0], [1, 2]]), 5, 5), "all kept"),
        Case((7 - _choices(40, 8, 2, 1), 8, 3), "40 tokens, three of eight experts kept"),
        Case((second_differs, 10, 5), "60 tokens, five of ten experts kept"),
    ]


def _order_of_use(experts: torch.Tensor, n_experts: int) -> torch.Tensor:
    return torch.bincount(experts.flatten(), minlength=n_experts).argsort(descending=True, stable=True)


def _kept_least_used(experts: torch.Tensor, n_experts: int, keep: int) -> torch.Tensor:
    uses = torch.bincount(experts.flatten(), minlength=n_experts)
    return uses.argsort(stable=True)[:keep].sort().values


def _kept_unsorted(experts: torch.Tensor, n_experts: int, keep: int) -> torch.Tensor:
    return _order_of_use(experts, n_experts)[:keep]


def _kept_first_choice(experts: torch.Tensor, n_experts: int, keep: int) -> torch.Tensor:
    return kept_experts(experts[:, :1], n_experts, keep)


def _kept_counts(experts: torch.Tensor, n_experts: int, keep: int) -> torch.Tensor:
    return torch.bincount(experts.flatten(), minlength=n_experts)[kept_experts(experts, n_experts, keep)]


def _kept_sorted_counts(experts: torch.Tensor, n_experts: int, keep: int) -> torch.Tensor:
    return torch.bincount(experts.flatten(), minlength=n_experts).sort(descending=True).values[:keep]


def _kept_higher_index(experts: torch.Tensor, n_experts: int, keep: int) -> torch.Tensor:
    uses = torch.bincount(experts.flatten(), minlength=n_experts)
    return uses.argsort(stable=True)[-keep:].sort().values


def _kept_mask(experts: torch.Tensor, n_experts: int, keep: int) -> torch.Tensor:
    mask = torch.zeros(n_experts, dtype=torch.bool)
    mask[kept_experts(experts, n_experts, keep)] = True
    return mask


def _kept_only_seen(experts: torch.Tensor, n_experts: int, keep: int) -> torch.Tensor:
    uses = torch.bincount(experts.flatten())
    return uses.argsort(descending=True, stable=True)[:keep].sort().values


def _kept_removed(experts: torch.Tensor, n_experts: int, keep: int) -> torch.Tensor:
    return _order_of_use(experts, n_experts)[keep:].sort().values


EXERCISES = (
    Exercise(
        id="moe.top_k_router",
        title="Choose the experts",
        task="Write the router's last step: from its logits to the experts chosen for each token, and their weights.\n\n"
        "`logits` has shape `(T, E)`, a row for each token, a column for each expert; `k` experts are chosen for each token. "
        "Return two things: the experts with the `k` largest logits, `(T, k)`, as indices, the largest first; and their "
        "weights, `(T, k)`, in the same order: a softmax over the chosen logits only, so that each token's weights add up "
        "to 1.",
        minutes=4,
        difficulty="easy",
        importance=5,
        cases=_router_cases,
        reference=top_k_router,
        hints=(
            "Choose first, then take the softmax of what was chosen. `torch.topk` gives the largest numbers and their "
            "places, the largest first.",
            "`best, experts = logits.topk(k, dim=-1)` looks along each token's row. The weights are "
            "`torch.softmax(best, dim=-1)`; return the experts first.",
        ),
        right="That is a router: one matrix product, and these two lines.",
        mistakes=mistakes(
            (
                _router_over_all,
                "The softmax is taken over all experts, so that the chosen weights add up to less than 1. Choose first, "
                "then take the softmax of the chosen logits.",
            ),
            (
                _router_softmax_twice,
                "There are two softmaxes here, one over all experts and one over the chosen probabilities, and that makes "
                "the weights too even. One, over the chosen logits, is enough.",
            ),
            (
                _router_by_probability,
                "Probabilities that far apart become 0 and tie: choose by the logits, then take the softmax of the chosen.",
            ),
            (
                _router_by_sorted_probability,
                "Probabilities that far apart become 0 and tie, and their order says nothing: choose by the logits, then take "
                "the softmax of the chosen.",
            ),
            (
                _router_without_exp,
                "The chosen logits are divided by their sum. Logits may be negative: take their softmax.",
            ),
            (
                _router_ascending,
                "The right experts with the right weights, but the smallest first. The largest comes first "
                "(`descending=True`, or `topk`, which does it so).",
            ),
            (
                _router_by_index,
                "The right experts with the right weights, but in the order of their numbers. The one with the largest "
                "logit comes first.",
            ),
            (_router_smallest, "These are the experts with the smallest logits. The largest are wanted."),
            (
                _router_wrong_axis,
                "The softmax runs down the columns, over the tokens. Each token's weights must add up to 1: `dim=-1`.",
            ),
            (_router_exchanged, "Experts and weights are exchanged: the experts come first."),
            (
                _router_over_tokens,
                "This chooses tokens for each expert. Choose experts for each token, along the last dimension: `dim=-1`.",
            ),
        ),
        outputs=("experts", "weights"),
    ),
    Exercise(
        id="moe.mixture_layer",
        title="A mixture of experts by hand",
        task="Write the whole layer: choose, let the chosen experts work, add up.\n\n"
        "`x` has shape `(T, d)`, a row for each token. `router` has `(E, d)`; an expert's logit is its row times the token. "
        "`gate` and `up` have `(E, width, d)`, `down` has `(E, d, width)`: expert `e` makes "
        "`down[e] @ (silu(gate[e] @ token) * (up[e] @ token))` of a token. Each token goes to the `k` experts with the "
        "largest logits. Return `(T, d)`: for each token the sum of what its chosen experts make of it, times their "
        "weights, which are the softmax over the chosen logits.\n\n"
        "`torch.nn.functional.silu` is there to be used; a loop over tokens and experts is welcome.",
        minutes=9,
        difficulty="medium",
        importance=5,
        cases=_layer_cases,
        reference=mixture_layer,
        hints=(
            "The router's logits of all tokens are `x @ router.T`. Your `top_k_router` makes experts and weights of them. "
            "Begin with an output of zeros, shaped like `x`, and add to it.",
            "Two loops: `for t in range(len(x))`, and in it `for e, weight in zip(experts[t], weights[t])`. Inside, "
            "`inner = silu(gate[e] @ x[t]) * (up[e] @ x[t])`, and `output[t] += weight * (down[e] @ inner)`.",
        ),
        right="The experts that were not chosen did no work at all: that is the saving.",
        mistakes=mistakes(
            (
                _layer_dense,
                "All experts work on every token here, each with its weight. Use only the `k` chosen, with a softmax over "
                "their logits alone.",
            ),
            (
                _layer_over_all,
                "The right experts, but their weights add up to less than 1: the softmax is over all experts. Take it over "
                "the chosen logits.",
            ),
            (
                _layer_unweighted,
                "The chosen experts are added up as they are. Multiply what each makes by its weight.",
            ),
            (
                _layer_mean,
                "This is the plain mean of the chosen experts. Each has a weight of its own, from the softmax.",
            ),
            (
                _layer_silu_of_up,
                "`silu` is applied to `up`'s side. It belongs to `gate`'s: `silu(gate @ token) * (up @ token)`.",
            ),
            (
                _layer_silu_of_product,
                "`silu` is applied to the product of both sides. It belongs to `gate`'s side alone, before they are "
                "multiplied.",
            ),
            (_layer_sigmoid, "The gate goes through a sigmoid. `silu(z)` is `z * sigmoid(z)`."),
            (
                _layer_weights_the_input,
                "The weight is multiplied into the token before the expert sees it, and an expert does not make twice as "
                "much of twice a token. Multiply what comes out.",
            ),
            (
                _layer_best_only,
                "Only the best expert of each token works here. All `k` chosen ones do, each with its weight.",
            ),
            (
                _layer_last_only,
                "Only the last chosen expert is left in the output: each overwrites the one before. Add with `+=`.",
            ),
            (
                _layer_weight_of_another,
                "The chosen experts get one another's weights, in reverse order. Number i of the weights belongs to "
                "number i of the experts.",
            ),
            (
                _layer_weight_by_index,
                "The chosen experts are gone through by their numbers, the weights from large to small, and so they don't "
                "fit together. Keep both in the order of `topk`.",
            ),
        ),
    ),
    Exercise(
        id="moe.active_parameters",
        title="How many parameters, and how many active?",
        task="A model is said to have 30 billion parameters, 3 billion of them active. Count both.\n\n"
        "Each of `layers` layers has `experts` experts, of which `k` are chosen for a token. An expert is three matrices of "
        "`d_model` times `width` numbers. `other` is everything that every token passes, in the whole model: embedding, "
        "attention, norms, routers. All are whole numbers. Return two: the model's parameters, and those active on one "
        "token.",
        minutes=3,
        difficulty="easy",
        importance=5,
        cases=_active_cases,
        reference=active_parameters,
        hints=(
            "Count one expert first. The two results differ only in how many experts of a layer are counted.",
            "An expert has `3 * d_model * width` parameters. Both results are `other + layers * n * expert`, with n all "
            "the experts for the first, and the chosen ones for the second.",
        ),
        right="All of them have to be in memory; only the active ones cost time. More experts make it larger, and hardly slower.",
        mistakes=mistakes(
            (_active_two_matrices, "An expert has three matrices, `gate`, `up` and `down`; here there are two."),
            (
                _active_share_of_all,
                "The active ones are taken as `k / experts` of the whole model. Only the experts are shared out like that: "
                "every token passes all of `other`.",
            ),
            (_active_one_layer, "These are the experts of one layer. Each of the `layers` has experts of its own."),
            (_active_experts_only, "These are the experts alone. Add `other` to both numbers."),
            (
                _active_without_other,
                "The total is right. `other` is missing from the active ones: every token passes it too.",
            ),
            (
                _active_other_per_layer,
                "`other` is counted once for each layer. It is of the whole model already: add it once.",
            ),
            (_active_exchanged, "The two are exchanged: the total comes first, the active ones second."),
            (
                _active_the_rest,
                "The total is right. The second number is what rests while a token passes; the active parameters are wanted.",
            ),
        ),
        outputs=("total", "active"),
    ),
    Exercise(
        id="moe.balancing_loss",
        title="Keep all experts busy",
        task="Left alone, a router soon sends all tokens to a few experts. Training adds a small loss against that (Fedus et al. "
        "2021).\n\n"
        "`logits` has shape `(T, E)`, the router's; `experts` has `(T, k)`, the indices of the chosen experts. For each "
        "expert take two numbers: its share of all T times k choices, and the mean over the tokens of the probability it was "
        "given, by a softmax over all E logits. Multiply the two, sum over the experts, and multiply by E. Return that "
        "number. It is 1 where all experts have an equal share.",
        minutes=6,
        difficulty="medium",
        importance=4,
        cases=_balance_cases,
        reference=balancing_loss,
        hints=(
            "Make two lists of E numbers, each adding up to 1: one by counting in `experts`, one by averaging the softmax of "
            "`logits` over the tokens.",
            "`torch.bincount(experts.flatten(), minlength=E)` counts; divide by `experts.numel()`. The other list is "
            "`torch.softmax(logits, dim=-1).mean(dim=0)`. Then `E * (share * probability).sum()`.",
        ),
        right="Counts have no gradient, probabilities do: through them the loss takes from experts that have too much.",
        mistakes=mistakes(
            (
                _balance_without_factor,
                "It is E times too small: multiply the sum over the experts (not their mean) by their number.",
            ),
            (
                _balance_of_counts,
                "Each expert's choices are counted, but not made a share. Divide by the number of all choices, T times k.",
            ),
            (
                _balance_share_of_tokens,
                "This is k times too large: the choices are divided by the number of tokens. Divide by that of all "
                "choices, T times k, so that the shares add up to 1.",
            ),
            (
                _balance_shares_squared,
                "The shares are multiplied by themselves. The second number is the mean probability, from `logits`.",
            ),
            (
                _balance_probabilities_squared,
                "The probabilities are multiplied by themselves. The first number is the share of the choices, from "
                "`experts`.",
            ),
            (_balance_mean_logit, "The logits themselves are averaged. Take their softmax first."),
            (
                _balance_softmax_of_mean,
                "The softmax is taken of the mean logits. Each token has probabilities of its own: the softmax first, "
                "then the mean over the tokens.",
            ),
            (
                _balance_wrong_axis,
                "The softmax runs down the columns, over the tokens. Each token's probabilities add up to 1: `dim=-1`.",
            ),
            (_balance_largest, "Only the largest product is taken. Sum over all experts."),
            (
                _balance_largest_share,
                "This looks at the busiest expert alone. Multiply share and probability for each expert, and sum.",
            ),
            (_balance_mean, "The products are averaged over the experts. Sum them, and multiply by E."),
            (
                _balance_first_choice,
                "Only each token's first choice is counted. All k of them count: `experts.flatten()`.",
            ),
            (
                _balance_too_short,
                "All is right but where the last experts are never chosen: `bincount` then stops too early. Give it "
                "`minlength`.",
            ),
        ),
    ),
    Exercise(
        id="moe.domain_share",
        title="Which kind of text goes where?",
        task="Do experts have roles? A first look: how often does each kind of text go to each expert (domain specialization, "
        "Muennighoff et al. 2024)?\n\n"
        "`experts` has shape `(T, k)`, the chosen experts' indices, all different within a row; `kinds` has `(T,)`, the kind of "
        "text each token is from, a whole number from 0. Every one of the `n_kinds` kinds has tokens; some of the "
        "`n_experts` experts may never be chosen. Return floats of shape `(n_kinds, n_experts)`: of the tokens of a kind, "
        "the share for which the expert is among the k chosen. So each row adds up to k.",
        minutes=6,
        difficulty="medium",
        importance=5,
        cases=_domain_cases,
        reference=domain_share,
        hints=(
            "Make a table with a row for each token and a 1 at each of its chosen experts. What is wanted is a mean of some "
            "of its rows.",
            "`chosen = torch.zeros(len(experts), n_experts)`, then `chosen.scatter_(1, experts, 1.0)`. For each kind, "
            "`chosen[kinds == kind].mean(dim=0)` is its row; `torch.stack` puts the rows together.",
        ),
        right="A router without preferences would show k / n_experts everywhere: that is what to compare with.",
        mistakes=mistakes(
            (
                _domain_of_expert,
                "The columns are made shares: of the expert's tokens, how many are of the kind. Asked is the other way "
                "round: of the kind's tokens, how many go to the expert.",
            ),
            (
                _domain_of_expert_without_nan,
                "The columns add up to 1 here, that is, each expert's tokens are shared out over the kinds. Divide by the "
                "tokens of the kind instead.",
            ),
            (
                _domain_of_choices,
                "This is k times too small: it is divided by all choices of the kind. Divide by its tokens; each row adds up "
                "to k.",
            ),
            (_domain_counts, "These are counts. Divide each row by the number of tokens of its kind."),
            (_domain_whole_counts, "These are whole counts. Divide each row by the number of tokens of its kind."),
            (
                _domain_of_all_tokens,
                "It is divided by the number of all tokens. Divide by those of the kind, or kinds with little text look "
                "small everywhere.",
            ),
            (
                _domain_first_choice,
                "Only the first choice of each token is counted. An expert counts wherever it is among the k chosen.",
            ),
            (_domain_turned, "It is transposed: a row for each kind, a column for each expert."),
            (
                _domain_added_once,
                "`+=` with lists of indices adds only once to each place, however often it is listed. Use "
                "`index_put_(..., accumulate=True)`, `scatter_`, or a loop.",
            ),
        ),
    ),
    Exercise(
        id="moe.mutual_information",
        title="What does an expert tell about the text?",
        task="You see only which expert was chosen, not the text. How many bits does that tell you about the kind of text?\n\n"
        "`table` has shape `(kinds, experts)`: how often each expert was chosen in each kind. Divide by the total for "
        "p(kind, expert). Its sums along rows and columns are p(kind) and p(expert). Return the mutual information in bits, a "
        "number: the sum over all cells of `p(kind, expert) * log2(p(kind, expert) / (p(kind) * p(expert)))`. An empty "
        "cell contributes nothing.",
        minutes=6,
        difficulty="medium",
        importance=4,
        cases=_information_cases,
        reference=mutual_information,
        hints=(
            "`p(kind) * p(expert)` is what the cell would hold if kinds and experts had nothing to do with each other. "
            "`sum(dim=1, keepdim=True)` times `sum(dim=0, keepdim=True)` makes the whole table of it.",
            "The logarithm of 0 is minus infinity, and 0 times that is NaN. Use only the filled cells: with "
            "`filled = joint > 0`, sum `joint[filled] * torch.log2(joint[filled] / apart[filled])`.",
        ),
        right="It is 0 only where kinds choose alike. In few tokens chance makes it larger: shuffle the kinds and compare.",
        mistakes=mistakes(
            (_information_in_nats, "That is the information in nats (`log`). Use `torch.log2` for bits."),
            (
                _information_with_nan,
                "All is right but where a cell is empty: 0 times minus infinity is NaN. Leave the empty cells out of the "
                "sum.",
            ),
            (
                _information_of_counts,
                "These are counts in place of probabilities. Divide the table by its sum first.",
            ),
            (
                _information_weighted_by_counts,
                "The logarithms are right, but they are multiplied by the counts. Multiply by p(kind, expert), the counts "
                "divided by the total.",
            ),
            (
                _information_joint_entropy,
                "That is the entropy of the table: how mixed it is. Compare each cell with p(kind) p(expert) instead.",
            ),
            (
                _information_from_uniform,
                "Each cell is compared with an even table. Compare it with p(kind) p(expert): a kind with much text, or an "
                "expert that is often chosen, is no information by itself.",
            ),
            (
                _information_one_margin,
                "It is divided by p(kind) alone. Inside the logarithm, divide by p(kind) times p(expert).",
            ),
            (
                _information_unweighted_kinds,
                "Every kind counts the same here, however rare. Multiply each logarithm by p(kind, expert), not by the "
                "share within the kind.",
            ),
            (
                _information_unweighted_cells,
                "The logarithms are added up as they are. Multiply each by p(kind, expert) first.",
            ),
            (
                _information_sign_turned,
                "The sign is turned: `log2` of p(kind, expert) over p(kind) p(expert), not the other way round.",
            ),
        ),
    ),
    Exercise(
        id="moe.kept_experts",
        title="Which experts to keep?",
        task="A mixture is too large for its machine, and some experts have to go. Keep those that are used most.\n\n"
        "`experts` has shape `(T, k)`, the indices of the chosen experts; there are `n_experts` in all, and `keep` of them "
        "stay. An expert is used wherever it is among the k chosen. Return the indices of the `keep` most used ones, "
        "`(keep,)`, in ascending order. Of experts used equally often, the lower index stays first.",
        minutes=4,
        difficulty="easy",
        importance=3,
        cases=_kept_cases,
        reference=kept_experts,
        hints=(
            "Count how often each expert occurs (`torch.bincount`), sort by that, take the first `keep`. Some experts may "
            "never occur, and count 0.",
            "`uses = torch.bincount(experts.flatten(), minlength=n_experts)`, then "
            "`uses.argsort(descending=True, stable=True)[:keep]`: stable leaves equals in their order. At the end, "
            "`.sort().values` for ascending indices.",
        ),
        right="Most used on these texts, that is: other texts may need the very experts that went.",
        mistakes=mistakes(
            (_kept_least_used, "These are the least used ones. Sort with `descending=True`."),
            (
                _kept_unsorted,
                "The right experts, but the most used first. The indices themselves are to be in ascending order.",
            ),
            (
                _kept_first_choice,
                "Only the first choice of each token is counted. An expert is used wherever it is among the k chosen.",
            ),
            (_kept_counts, "These are the counts of the experts that stay. Their indices are wanted."),
            (
                _kept_sorted_counts,
                "These are the largest counts. The indices of the experts that have them are wanted.",
            ),
            (
                _kept_higher_index,
                "Of experts used equally often, the higher index stays here. The lower is wanted: a stable sort, "
                "`descending=True, stable=True`, leaves it first.",
            ),
            (_kept_mask, "These are True and False for every expert. The indices of those that stay are wanted."),
            (
                _kept_only_seen,
                "`bincount` stops at the last expert that occurs. Give it `minlength=n_experts`, so that those after it "
                "can stay too.",
            ),
            (_kept_removed, "These are the experts that go. Those that stay are wanted."),
        ),
    ),
)
