"""Routers of mixtures of experts: where they are, what they decide, by which rule, and how that is changed.

As in anatomy.py nothing here is a table of architectures. A router is told by what passes through the model: a module
that is given, for each token, the chosen experts and their weights holds the experts; the module beside it that puts
out a score for each expert is the router. By which rule the choice follows from the scores is found by trying: the
router is given random hidden states, and the rule that reproduces its own choice and weights is its rule.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeGuard

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from labkit.errors import BadInput, Unavailable
from labkit.trace.probing import COARSEST, TOLERANCE, evaluating

TRIED = 64  # hidden states at each spread of the logits
# scores of far apart logits saturate, those of near ones are as good as equal: either way one rule looks like another
SPREADS = (3.0, 1.0, 0.3, 0.1, 0.03)

CORRECTION = "correction"  # in the name of a bias that is added to the scores for the choice alone

Args = tuple[object, ...]
Keywords = dict[str, object]
Output = Any  # of a router or an experts module: a tensor, or a tuple of things of many kinds

# what is given each pass: (logits, weights, experts) of (N, E), (N, k), (N, k); returns other (weights, experts), or None
Decide = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], "tuple[torch.Tensor, torch.Tensor] | None"]


@dataclass(frozen=True, eq=False)
class Router:
    """The router of one layer.

    module: its output holds the router logits; its forward pre-hook sees the router's input, (tokens, d) or
        (batch, tokens, d).  experts: the module that is given hidden states, chosen experts and their weights, or None.
    block: what holds both.  experts_count, top_k: how many experts there are, and are chosen for each token.
    reading: where choice and weights are seen: at the experts' input, in the router's output, or in the output of a
        router that has sorted its tokens by expert already.
    in_attention: whether the layer's attention is a mixture too, with a router of its own (JetMoE): not this one.
    """

    layer: int
    module: nn.Module
    experts: nn.Module | None
    block: nn.Module
    experts_count: int
    top_k: int
    reading: Literal["experts", "router", "sorted"]
    logits_at: int | None = None  # which item of the module's output; None where it is the whole
    in_attention: bool = False

    @property
    def weight(self) -> nn.Parameter:
        """(E, d): a direction of the router's input for each expert. Raises Unavailable where there is no such thing."""
        for parameter in self.module.parameters():
            if parameter.dim() == 2 and parameter.shape[0] == self.experts_count and parameter.is_floating_point():
                if parameter.device.type != "meta":
                    return parameter
                raise Unavailable(
                    f"The router's weights of layer {self.layer} are not in memory; load the model without device_map."
                )
        raise Unavailable(
            f"The router of layer {self.layer} ({type(self.module).__name__}) has no weights with a row for each expert; "
            "load the model without quantization."
        )


# finding --------------------------------------------------------------------------------------------------------------


@dataclass
class Sightings:
    """What in one layer looked like routing while a few tokens passed through."""

    tokens: int
    calls: list[tuple[nn.Module, _Given]] = field(default_factory=list)
    outputs: dict[nn.Module, tuple[Output, ...]] = field(default_factory=dict)

    def saw(self, module: nn.Module, args: Args, keywords: Keywords, output: object) -> None:
        given = _given(args, keywords)
        if given is not None and given.experts.shape[0] == self.tokens:
            self.calls.append((module, given))
        items = tuple(output) if isinstance(output, tuple | list) else (output,)
        if any(_is_table(item, self.tokens) for item in items):
            self.outputs[module] = items


def find(index: int, layer: nn.Module, attention: nn.Module | None, seen: Sightings) -> Router | None:
    """The router of a layer's MLP; None where none was seen. attention: what is left aside."""
    inside = set(attention.modules()) if attention is not None else set()
    names = {module: name for name, module in layer.named_modules()}
    outputs = {m: seen.outputs[m] for m in names if m in seen.outputs and m not in inside}  # outer modules first
    beside = any(_decision(o, seen.tokens) or _sorted_decision(o) for m, o in seen.outputs.items() if m in inside)
    calls = [(m, given) for m, given in seen.calls if m not in inside]
    if calls:
        experts, given = calls[-1]  # the outermost: hooks of inner modules come first
        block = layer.get_submodule(names[experts].rpartition(".")[0])
        within = {m: o for m, o in outputs.items() if m in set(block.modules()) - set(experts.modules()) - {block}}
        found = _scorer(within, names, experts, given, seen.tokens)
        if found is None:
            return None
        module, at, count = found
        return Router(index, module, experts, block, count, given.experts.shape[1], "experts", at, beside)
    for module, items in outputs.items():
        block = layer.get_submodule(names[module].rpartition(".")[0])
        if (decision := _decision(items, seen.tokens)) is not None:
            at, _, chosen = decision
            count, k = items[at].shape[1], items[chosen].shape[1]
            return Router(index, module, None, block, count, k, "router", at, beside)
        if (sizes := _sorted_decision(items)) is not None:
            at, count = next(i for i, item in enumerate(items) if _is_table(item, seen.tokens)), len(sizes)
            return Router(index, module, None, block, count, sum(sizes) // seen.tokens, "sorted", at, beside)
    return None


def _scorer(
    outputs: dict[nn.Module, tuple[Output, ...]],
    names: dict[nn.Module, str],
    experts: nn.Module,
    given: _Given,
    tokens: int,
) -> tuple[nn.Module, int | None, int] | None:
    """(module, item of its output, number of experts): what puts out a score for each expert."""
    count = getattr(experts, "num_experts", None)
    least = max(given.experts.shape[1], int(given.experts.max()) + 1)

    def scores(item: object) -> bool:
        if not _is_table(item, tokens) or item is given.weights:
            return False
        return item.shape[1] == count if isinstance(count, int) else item.shape[1] >= least

    found = [
        (module, None if len(items) == 1 else i, item.shape[1])
        for module, items in outputs.items()
        for i, item in enumerate(items)
        if scores(item)
    ]

    def likeliness(one: tuple[nn.Module, int | None, int]) -> int:
        name = names[one[0]].rpartition(".")[2].lower()
        return 0 if _decision(outputs[one[0]], tokens) else 1 if "rout" in name or name in ("gate", "gating") else 2

    return min(found, key=likeliness, default=None)  # the first of the likeliest, and so the outermost


@dataclass(frozen=True)
class _Given:
    """Chosen experts and their weights among what a module is called with, and where among it."""

    experts: torch.Tensor
    weights: torch.Tensor
    experts_at: int | str
    weights_at: int | str


def _given(args: Args, keywords: Keywords) -> _Given | None:
    every: list[tuple[int | str, Output]] = [*enumerate(args), *keywords.items()]
    for at, chosen in every:
        if _is_matrix(chosen) and not chosen.is_floating_point() and chosen.dtype is not torch.bool:
            for other, weights in reversed(every):  # hidden states come first, and may be as wide
                if _is_matrix(weights) and weights.is_floating_point() and weights.shape == chosen.shape:
                    return _Given(chosen, weights, at, other)
    return None


def _decision(items: tuple[Output, ...], tokens: int) -> tuple[int, int, int] | None:
    """Where a router's output has (logits, weights, chosen experts); None where it has not."""
    matrices = [i for i, item in enumerate(items) if _is_matrix(item) and item.shape[0] == tokens]
    for chosen in matrices:
        if items[chosen].is_floating_point() or items[chosen].dtype is torch.bool:
            continue
        weights = [i for i in matrices if items[i].shape == items[chosen].shape and items[i].is_floating_point()]
        logits = [i for i in matrices if items[i].shape[1] >= items[chosen].shape[1] and items[i].is_floating_point()]
        if weights and (others := [i for i in logits if i != weights[-1]]):
            return others[0], weights[-1], chosen
    return None


def _sorted_decision(items: tuple[Output, ...]) -> list[int] | None:
    """How many tokens go to each expert, where a router puts out its tokens sorted by expert (JetMoE); else None."""
    if len(items) != 5 or not isinstance(items[3], list) or not all(isinstance(i, int) for i in items[3]):
        return None
    rows, total = items[:3], sum(items[3])
    flat = all(isinstance(row, torch.Tensor) and row.shape == (total,) for row in rows)
    return items[3] if flat and _is_matrix(items[4]) and items[4].shape[1] == len(items[3]) else None


def _is_matrix(item: object) -> TypeGuard[torch.Tensor]:
    return isinstance(item, torch.Tensor) and item.dim() == 2


def _is_table(item: object, tokens: int) -> TypeGuard[torch.Tensor]:
    return _is_matrix(item) and item.is_floating_point() and item.shape[0] == tokens


# seeing and changing what is decided ----------------------------------------------------------------------------------


def watch(router: Router, decide: Decide) -> list[RemovableHandle]:
    """Call `decide` with each decision of a router, and put what it returns in its place; returns the hooks' handles."""
    if router.reading == "experts":
        assert router.experts is not None
        latest: list[torch.Tensor] = []

        def on_logits(_module: nn.Module, _args: object, output: Output) -> None:
            latest[:] = [output if router.logits_at is None else output[router.logits_at]]

        def on_choice(_module: nn.Module, args: Args, keywords: Keywords) -> tuple[Args, Keywords] | None:
            given = _given(args, keywords)
            if given is None or not latest:
                return None
            new = decide(latest.pop(), given.weights, given.experts)
            if new is None:
                return None
            values = {given.weights_at: new[0].to(given.weights.dtype), given.experts_at: new[1]}
            return (
                tuple(values.get(i, value) for i, value in enumerate(args)),
                {name: values.get(name, value) for name, value in keywords.items()},
            )

        return [
            router.module.register_forward_hook(on_logits),
            router.experts.register_forward_pre_hook(on_choice, with_kwargs=True),
        ]

    def on_output(_module: nn.Module, _args: object, output: Output) -> Output:
        logits, weights, experts = _read(router, output)
        new = decide(logits, weights, experts)
        if new is None:
            return None
        return _sorted_output(new, output) if router.reading == "sorted" else _with_choice(new, output)

    return [router.module.register_forward_hook(on_output)]


def _read(router: Router, output: Output) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(logits, weights, experts) of a router whose output has them all."""
    if router.reading == "router":
        at, weights_at, experts_at = _places(output)
        return output[at], output[weights_at], output[experts_at]
    order, _, gates, sizes, logits = output
    by_expert = torch.arange(len(sizes), device=order.device).repeat_interleave(
        torch.tensor(sizes, device=order.device)
    )
    chosen = torch.empty_like(by_expert).index_copy(0, order, by_expert)
    weights = torch.empty_like(gates).index_copy(0, order, gates)
    return logits, weights.reshape(len(logits), -1), chosen.reshape(len(logits), -1)


def _places(output: Output) -> tuple[int, int, int]:
    places = _decision(tuple(output), next(len(item) for item in output if _is_matrix(item)))
    assert places is not None
    return places


def _with_choice(new: tuple[torch.Tensor, torch.Tensor], output: Output) -> Output:
    _, weights, experts = _places(output)
    values = {weights: new[0].to(output[weights].dtype), experts: new[1]}
    return tuple(values.get(i, item) for i, item in enumerate(output))


def _sorted_output(new: tuple[torch.Tensor, torch.Tensor], output: Output) -> Output:
    """A choice as a sorting router puts it out: places sorted by expert, their tokens, weights, tokens an expert."""
    weights, experts = new
    flat = experts.flatten()
    order = flat.argsort(stable=True)
    sizes = flat.bincount(minlength=output[4].shape[1]).tolist()
    tokens = order.div(experts.shape[1], rounding_mode="trunc")
    return order, tokens, weights.to(output[2].dtype).flatten()[order], sizes, output[4]


# the rule -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Rule:
    """How a router's choice follows from its logits.

    scores: of all experts' logits.  top_k: how many are chosen, by score + bias.  bias: (E,), for the choice alone.
    groups, kept_groups: the experts lie in groups of equal size; only those of the kept groups can be chosen.
    counted: a group is as good as the sum of its best `counted` scores + bias.
    normalised: the weights of the chosen, their scores, are made to sum to 1.  scale: what they are multiplied with then.
    Top-k: Shazeer et al. 2017; groups by their best: DeepSeek-AI 2024 (V2); bias and groups by their two best:
    DeepSeek-AI 2024 (V3).
    """

    scores: Literal["softmax", "sigmoid"]
    top_k: int
    normalised: bool = False
    scale: float = 1.0
    bias: torch.Tensor | None = None
    groups: int = 1
    kept_groups: int = 1
    counted: int = 1


def routed(
    router_rule: Rule,
    logits: torch.Tensor,
    *,
    k: int | None = None,
    forbidden: Sequence[int] = (),
    forced: Sequence[int] = (),
) -> tuple[torch.Tensor, torch.Tensor]:
    """What a router of this rule decides: (weights, experts), both (N, k), float32 (float64 for float64) and int64.

    logits: (N, E), of any float dtype.  k: how many are chosen, the rule's own number when None.
    forbidden: experts not to be chosen; the next best of the groups that the token has are, and when those hold too few,
    the next best of all.  forced: experts that are chosen whatever their scores, in this order before the others.
    """
    logits = logits if logits.dtype is torch.float64 else logits.float()
    experts = _chosen(router_rule, logits, k or router_rule.top_k, forbidden, forced)
    return _weights(router_rule, logits, experts), experts


def _scores(rule: Rule, logits: torch.Tensor) -> torch.Tensor:
    return logits.softmax(-1) if rule.scores == "softmax" else logits.sigmoid()


def _chosen(rule: Rule, logits: torch.Tensor, k: int, forbidden: Sequence[int], forced: Sequence[int]) -> torch.Tensor:
    key = _scores(rule, logits)
    if rule.bias is not None:
        key = key + rule.bias.to(key)
    if rule.groups == 1 and not forbidden and not forced:
        return key.topk(k, dim=-1).indices
    last = torch.zeros_like(
        key, dtype=torch.uint8
    )  # 0: may be chosen; then those of other groups; never; 3: is already
    if rule.groups > 1:
        best = key.unflatten(-1, (rule.groups, -1)).topk(rule.counted, dim=-1).values.sum(-1)
        kept = torch.zeros_like(best, dtype=torch.bool)
        kept.scatter_(-1, best.topk(rule.kept_groups, dim=-1).indices, value=True)
        last += ~kept.repeat_interleave(key.shape[-1] // rule.groups, -1)
    last[:, list(forbidden)] = 2
    last[:, list(forced)] = 3
    order = key.argsort(dim=-1, descending=True, stable=True)
    order = order.gather(-1, last.gather(-1, order).argsort(dim=-1, stable=True))
    first = torch.tensor(list(forced), dtype=order.dtype, device=order.device).expand(len(order), -1)
    return torch.cat([first, order[:, : k - len(forced)]], -1)


def _weights(rule: Rule, logits: torch.Tensor, experts: torch.Tensor) -> torch.Tensor:
    """(N, k): what the chosen experts' outputs are multiplied with."""
    if rule.normalised and rule.scores == "softmax":  # the same as dividing by the sum, which may be too small to
        weights = logits.gather(-1, experts).softmax(-1)
    else:
        weights = _scores(rule, logits).gather(-1, experts)
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-20) if rule.normalised else weights
    return weights * rule.scale


def rule_of(router: Router) -> Rule:
    """The rule by which a router chooses, found by trying it on random hidden states.

    Raises Unavailable when no rule that labkit knows gives this router's choice and weights.
    """
    _, logits, weights, experts = _tried(router)
    exact = max(TOLERANCE.get(t.dtype, COARSEST) for t in (logits, weights))
    logits, weights = logits.double(), weights.double()
    k = experts.shape[1]
    biases, groupings = _biases(router), _groupings(router)
    kinds: tuple[Literal["softmax", "sigmoid"], ...] = ("softmax", "sigmoid")
    for scores, bias, (groups, kept, counted) in ((s, b, g) for s in kinds for b in biases for g in groupings):
        rule = Rule(scores, k, bias=bias, groups=groups, kept_groups=kept, counted=counted)
        key = _scores(rule, logits) + (0 if bias is None else bias.double())
        # equal scores may be chosen in any order, so the scores are compared and not the experts
        own, ours = (key.gather(-1, e).sort(-1).values for e in (experts, _chosen(rule, logits, k, (), ())))
        if not _close(own, ours, exact):
            continue
        for normalised in (False, True):
            plain = _weights(Rule(scores, k, normalised), logits, experts)
            scale = _scale(router, float(weights.sum() / plain.sum()), exact)
            if _close(weights, plain * scale, exact):
                return Rule(scores, k, normalised, scale, bias, groups, kept, counted)
    raise Unavailable(
        f"The router of layer {router.layer} ({type(router.module).__name__}) does not choose the best of softmax or "
        "sigmoid scores, so what it would choose instead can't be told; use lk.moe.drop, which needs no new choice."
    )


def logit_bias(router: Router) -> torch.Tensor | None:
    """(E,): what a router adds to weight · hidden state to make its logits, or None where it adds nothing.

    Raises Unavailable when its logits are made in another way.
    """
    hidden, logits, _, _ = _tried(router)
    exact = max(TOLERANCE.get(t.dtype, COARSEST) for t in (hidden, logits, router.weight))
    rest = logits.double() - hidden.double() @ router.weight.detach().double().T
    candidates = _biases(router)
    off = [float((rest if b is None else rest - b.double()).abs().max()) for b in candidates]
    bias = candidates[min(range(len(off)), key=off.__getitem__)]
    if not _close(logits.double(), logits.double() - rest + (0 if bias is None else bias.double()), exact):
        raise Unavailable(
            f"The router of layer {router.layer} ({type(router.module).__name__}) makes its logits otherwise than as "
            "weight · hidden state + bias, so what other weights would choose can't be computed; use lk.moe.random_router."
        )
    return bias


def _close(one: torch.Tensor, other: torch.Tensor, tolerance: float) -> bool:
    """Equal up to a part of the largest of each token."""
    largest = one.abs().amax(-1, keepdim=True)
    return bool(((one - other).abs() <= tolerance * largest).all())


def _scale(router: Router, measured: float, tolerance: float) -> float:
    """The factor as the model has it, where it names one near to the measured."""
    owners = (router.module, router.block)
    named = [1.0, *(value for owner in owners for value in vars(owner).values() if isinstance(value, float))]
    nearest = min(named, key=lambda value: abs(value - measured))
    return nearest if abs(nearest - measured) <= tolerance * abs(measured) else measured


def _biases(router: Router) -> list[torch.Tensor | None]:
    """What may be added to the scores for the choice, the likeliest first."""
    found = _biases_by_name(router)
    likely = [tensor for name, tensor in found.items() if CORRECTION in name]
    return [*likely, None, *(tensor for name, tensor in found.items() if CORRECTION not in name)]


def _biases_by_name(router: Router) -> dict[str, torch.Tensor]:
    """What has a number for each expert."""
    named = [*router.module.named_parameters(), *router.module.named_buffers()]
    named += [*router.block.named_parameters(recurse=False), *router.block.named_buffers(recurse=False)]
    return {name: t.detach().flatten() for name, t in named if t.numel() == router.experts_count}


def _groupings(router: Router) -> list[tuple[int, int, int]]:
    """(groups, kept, counted) that a router's own fields allow, and no groups at all."""
    owners = (router.module, router.block, getattr(router.block, "config", None))

    def number(*names: str) -> int:
        values = (getattr(owner, name, None) for owner in owners for name in names)
        return next((v for v in values if isinstance(v, int) and not isinstance(v, bool)), 1)

    groups, kept = number("num_group", "n_group", "num_expert_group"), number("topk_group")
    if not 1 <= kept < groups or router.experts_count % groups:
        return [(1, 1, 1)]
    size = router.experts_count // groups
    # a large bias can settle the choice of groups by itself, and then both look alike: what comes with one is the likelier
    biased = any(CORRECTION in name for name in _biases_by_name(router))
    return [*((groups, kept, counted) for counted in ((2, 1) if biased else (1, 2)) if counted <= size), (1, 1, 1)]


class _SeenEnough(Exception):
    """Ends a try before the experts compute."""


def _tried(router: Router) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """(hidden states, logits, weights, experts) of random hidden states, without any edit that is on."""
    weight = router.weight
    largest = max(router.block.parameters(), key=lambda p: p.numel())
    dtype = largest.dtype if largest.is_floating_point() else weight.dtype
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(TRIED * len(SPREADS), weight.shape[1], generator=generator)
    hidden = hidden * torch.tensor(SPREADS).repeat_interleave(TRIED)[:, None]
    # as long as gives the logits these spreads, whatever the weights' scale
    row = float(weight.detach().double().norm(dim=-1).mean())
    most = torch.finfo(dtype).max ** 0.5  # squares of them, as a norm takes, are still numbers
    hidden = (hidden / row if row > 0 else hidden).clamp(-most, most).to(weight.device, dtype)
    with torch.no_grad(), evaluating(router.block):
        if router.reading != "experts":
            return hidden, *_read(router, router.module.forward(hidden))  # not its hooks
        assert router.experts is not None
        logits: list[torch.Tensor] = []
        found: list[_Given] = []

        def on_logits(_module: nn.Module, _args: object, output: Output) -> None:
            logits.append(output if router.logits_at is None else output[router.logits_at])

        def on_choice(_module: nn.Module, args: Args, keywords: Keywords) -> None:
            given = _given(args, keywords)
            found.extend([given] if given is not None else [])
            raise _SeenEnough

        handles = [
            router.module.register_forward_hook(on_logits),
            router.experts.register_forward_pre_hook(on_choice, with_kwargs=True, prepend=True),  # before any edit's
        ]
        try:
            with contextlib.suppress(_SeenEnough):
                router.block(hidden[None])
        except (TypeError, RuntimeError, ValueError) as error:
            raise Unavailable(
                f"The router of layer {router.layer} ({type(router.module).__name__}) can't be tried alone ({error}); "
                "use lk.moe.drop, which needs no new choice."
            ) from error
        finally:
            for handle in handles:
                handle.remove()
    return hidden, logits[0], found[0].weights, found[0].experts


def random_weights(router: Router, seed: int) -> torch.Tensor:
    """(E, d), of the weights' dtype and device: random directions with the trained rows' norms.

    Layers differ; the same seed gives the same weights. An untrained router to compare with: it sees the same hidden
    states and knows nothing about them. Raises Unavailable where the router has no such weights.
    """
    weight = router.weight.detach()
    generator = torch.Generator().manual_seed((seed * 1_000_003 + router.layer) % 2**63)
    directions = torch.randn(weight.shape, generator=generator, dtype=torch.float64)
    lengths = weight.double().norm(dim=-1, keepdim=True).cpu()
    found: torch.Tensor = directions / directions.norm(dim=-1, keepdim=True) * lengths
    return found.to(weight.device, weight.dtype)


# what is asked of a router --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Rerouting:
    """What is asked of one router, for every token.

    forbidden: experts never chosen.  forced: (expert, weight) always chosen, first and in this order; None as weight is
    what the rule gives.  k: how many are chosen; None the model's number.  dropped: experts whose weight becomes zero.
    """

    forbidden: frozenset[int] = frozenset()
    forced: tuple[tuple[int, float | None], ...] = ()
    k: int | None = None
    dropped: frozenset[int] = frozenset()

    def __add__(self, later: Rerouting) -> Rerouting:
        """Both at once; where they can't agree on a number or a weight, the later holds."""
        return Rerouting(
            self.forbidden | later.forbidden,
            tuple({**dict(self.forced), **dict(later.forced)}.items()),
            self.k if later.k is None else later.k,
            self.dropped | later.dropped,
        )

    @property
    def chooses(self) -> bool:
        """Whether the choice may become another, for which the rule must be known."""
        return bool(self.forbidden or self.forced) or self.k is not None


@dataclass(frozen=True)
class CheckedRerouting:
    """What is asked of a router, checked, with the rule for it where it takes one."""

    asked: Rerouting
    rule: Rule | None


def checked_rerouting(router: Router, asked: Rerouting) -> CheckedRerouting:
    """What is asked, checked by itself against a router.

    Raises BadInput for experts and numbers that are not there, Unavailable when a rule is needed and not known.
    """
    count, layer = router.experts_count, router.layer
    for expert in sorted(asked.forbidden | {e for e, _ in asked.forced} | asked.dropped):
        if not 0 <= expert < count:
            raise BadInput(f"There is no expert {expert}: layer {layer} has experts 0 to {count - 1}.")
    if asked.k is not None and not 1 <= asked.k <= count:
        raise BadInput(f"{asked.k} experts can't be chosen in layer {layer}, which has {count}; choose 1 to {count}.")
    if asked.k not in (None, router.top_k) and router.reading == "router":
        raise Unavailable(
            f"Layer {layer} can't take another number of experts than {router.top_k}: what {type(router.block).__name__} "
            "does with more or fewer can't be seen; use lk.moe.forbid or lk.moe.drop."
        )
    return CheckedRerouting(asked, rule_of(router) if asked.chooses else None)


def check_choice(router: Router, asked: Rerouting) -> None:
    """Raise BadInput where all that is asked of a router leaves it too few experts, or too many."""
    count, layer = router.experts_count, router.layer
    k = router.top_k if asked.k is None else asked.k
    left = count - len(asked.forbidden)
    forced = [expert for expert, _ in asked.forced]
    if left == 0:
        raise BadInput(f"All {count} experts of layer {layer} would be forbidden; leave at least {k}.")
    if left < k:
        raise BadInput(
            f"Layer {layer} would have {left} of its {count} experts left, and {k} are chosen for each token; leave at "
            f"least {k}, or choose fewer with lk.moe.choose({left})."
        )
    if len(forced) > k:
        raise BadInput(
            f"{len(forced)} experts are forced in layer {layer}, and {k} are chosen for each token; force at most {k}, or "
            f"choose more with lk.moe.choose({len(forced)})."
        )
    if clash := sorted(asked.forbidden & set(forced)):
        raise BadInput(f"Expert {clash[0]} of layer {layer} would be forced and forbidden at once; leave one of them.")


def rerouted(
    asked: Rerouting, rule: Rule | None, logits: torch.Tensor, weights: torch.Tensor, experts: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """(weights, experts) as asked, from a router's own decision: logits (N, E); weights, experts (N, k)."""
    if asked.chooses:
        assert rule is not None
        forced = [expert for expert, _ in asked.forced]
        k = experts.shape[1] if asked.k is None else asked.k
        own_weights, own = weights, experts
        weights, experts = routed(rule, logits, k=k, forbidden=sorted(asked.forbidden), forced=forced)
        weights = weights.to(own_weights.dtype)
        if not forced and k == own.shape[1]:  # a token that had nothing forbidden keeps its own, to the bit
            kept = ~_among(own, asked.forbidden).any(-1, keepdim=True)
            weights, experts = torch.where(kept, own_weights, weights), torch.where(kept, own, experts)
        given = [(i, weight) for i, (_, weight) in enumerate(asked.forced) if weight is not None]
        for i, weight in given:
            weights = weights.index_fill(-1, torch.tensor([i], device=weights.device), weight)
    if asked.dropped:
        weights = weights.masked_fill(_among(experts, asked.dropped), 0.0)
    return weights, experts


def _among(experts: torch.Tensor, which: frozenset[int]) -> torch.Tensor:
    return torch.isin(experts, torch.tensor(sorted(which), dtype=experts.dtype, device=experts.device))


class _Rerouted:
    """A router with all that is asked of it; its hooks are on as long as there is anything."""

    def __init__(self, router: Router) -> None:
        self.asked: list[CheckedRerouting] = []
        self.total = Rerouting()
        self.rule: Rule | None = None
        self.handles = watch(router, self._decide)

    def set(self, asked: list[CheckedRerouting]) -> None:
        self.asked = asked
        self.total = sum((one.asked for one in asked), Rerouting())
        self.rule = next((one.rule for one in reversed(asked) if one.rule is not None), None)

    def _decide(
        self, logits: torch.Tensor, weights: torch.Tensor, experts: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return rerouted(self.total, self.rule, logits, weights, experts)


_REROUTED: dict[int, _Rerouted] = {}  # by the id of the router's module
_lock = threading.RLock()


def asked_of(router: Router) -> Rerouting:
    """All that is asked of a router by the edits that are on."""
    with _lock:
        there = _REROUTED.get(id(router.module))
        return there.total if there is not None else Rerouting()


@contextlib.contextmanager
def rerouting(router: Router, asked: CheckedRerouting) -> Iterator[None]:
    """While inside, the router decides as asked, together with all that is asked of it already."""
    key = id(router.module)
    with _lock:
        there = _REROUTED.get(key) or _Rerouted(router)
        _REROUTED[key] = there
        there.set([*there.asked, asked])
    try:
        yield
    finally:
        with _lock:
            there.set([one for one in there.asked if one is not asked])
            if not there.asked:
                for handle in there.handles:
                    handle.remove()
                _REROUTED.pop(key, None)


@contextlib.contextmanager
def weighing(router: Router, weights: torch.Tensor) -> Iterator[None]:
    """While inside, the router has other weights, (E, d); the parameter itself stays the same object."""
    parameter = router.weight
    trained = parameter.data
    try:
        parameter.data = weights.to(trained.device, trained.dtype)
        yield
    finally:
        parameter.data = trained
