"""A mixture of experts out of adapters and models of one base, each tuned for a purpose.

The MLPs of each become an expert, and a router sends tokens to them by their hidden states: without any training of the
experts, from prompts of each purpose alone. Komatsuzaki et al. 2022 for the frame; Goddard et al. 2024, "Arcee's MergeKit", for
routers from prompts. Whether experts have roles after that is measured as of any other mixture, on prompts of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar, cast

import numpy as np
import torch
from torch import nn

from labkit import checks
from labkit.errors import BadInput
from labkit.lora.adapters import Adapter
from labkit.lora.merging import untie, untied_note
from labkit.lora.tuned_weights import TunedWeights, taken_apart, tuned_weights
from labkit.models.resolve import say
from labkit.moe.routing import Routing, collect
from labkit.moe.upcycling import MLP, ROUTER_STD, LayerParts, assembled, check_upcyclable
from labkit.results import Result
from labkit.statistics import ENDS, interval, resampled, split
from labkit.trace import running
from labkit.trace.building import refuse_adapters
from labkit.trace.input import as_ids
from labkit.trace.lab_like import BuiltLab, check_lab

if TYPE_CHECKING:
    import pandas as pd

    from labkit.trace.lab_like import TracingLab

__all__ = ["Mixture", "mixture"]

Made = TypeVar("Made", bound="BuiltLab")
Way = Literal["hidden", "trained", "random"]
WAYS: tuple[Way, ...] = ("hidden", "trained", "random")
LEAST_PROMPTS = 3  # of each purpose, so that one is left to measure on
HELD_OUT = 1 / 3
DRAWS = 1_000
PENALTY = 1e-3  # on the weights of a trained router, beside its loss a token


@dataclass(frozen=True, eq=False, repr=False)
class Mixture(Result, Generic[Made]):
    """A mixture out of tuned models, and whether its experts take the tokens they are for; `mixture` tells the columns.

    lab: the mixture, a Lab like any other.  purposes: in the order of the experts.
    routing: of the prompts that were kept apart, for `lk.moe.specialisation`, `information` and the rest.
    cosines: (purposes, purposes) DataFrame, of the directions of the routers' rows, the mean over layers.
    router: "hidden", "trained" or "random".  warnings: what stands against it.
    """

    lab: Made
    purposes: tuple[str, ...]
    routing: Routing
    cosines: pd.DataFrame
    router: str
    untrained: int
    draws: int
    seed: int
    warnings: tuple[str, ...]

    def _title(self) -> str:
        k, even = self.routing.k, float(self.table["even"].iloc[0])
        among = "go to" if k == 1 else f"have among their {k}"
        return (
            f"{self.lab.name}: {self.table['own'].mean():.0%} of the tokens of prompts kept apart {among} the expert of their "
            f"purpose ({even:.0%} by an even choice)"
        )

    def _remarks(self) -> Sequence[str]:
        return (
            f"untrained: the same of {self.untrained} routers of random directions (untrained_high: 97.5 %)",
            *self.warnings,
        )


def mixture(
    lab: Made,
    sources: Mapping[str, Adapter[Any] | BuiltLab | None],
    prompts: Mapping[str, Sequence[object]],
    *,
    held_out: Mapping[str, Sequence[object]] | None = None,
    router: Way = "hidden",
    top_k: int = 1,
    rest: Literal["base", "mean"] = "base",
    steps: int = 50,
    untrained: int = 16,
    draws: int = DRAWS,
    seed: int = 0,
) -> Mixture[Made]:
    """Join dense models or adapters of one base as the experts of a mixture, one for each purpose.

    lab: the base, dense, of the families that `lk.moe.upcycle` knows. It is not changed, and shares nothing with the mixture.
    sources: purpose -> an Adapter of this base, a Lab tuned from it, or None for the base itself. Their MLPs become the experts.
    prompts: purpose -> texts, messages or ids of it, three or more, from which the routers are made. Of each a third is kept
        apart to measure on, unless held_out has others.
    router: "hidden": each expert's row is the mean of what enters the layer's MLP at the tokens of its prompts, less the mean
        over all purposes. "trained": rows that tell those tokens apart best, by logistic regression, `steps` of L-BFGS.
        "random": normal, as in upcycling.
    top_k: how many experts a token gets, weighted by their scores.
    rest: attention, norms and embeddings: "base", or "mean" of the sources. What an adapter changes there is lost with "base";
        a note says so.
    The table has a row for each purpose, of the prompts kept apart: purpose, documents, tokens, own (share of the tokens that
    its own expert takes, the mean over the layers; with own_low and own_high, 95 %, drawing documents again), even (by an even
    choice), untrained and untrained_high (routers of random directions).
    Where experts are for nothing of their own, a warning is given: prompts that the hidden states don't tell apart.
    Raises BadInput for fewer than two purposes, the same prompts for two of them, and sources with the same MLPs (the experts
    would be one); Unavailable and NotEnoughMemory as `lk.moe.upcycle`.
    """
    import pandas as pd

    check_lab(lab)
    way = checks.one_of("router", router, WAYS)
    rest = checks.one_of("rest", rest, ("base", "mean"))
    top_k, steps = checks.whole("top_k", top_k, 1), checks.whole("steps", steps, 1)
    untrained, draws, seed = checks.whole("untrained", untrained, 1), checks.whole("draws", draws, 1), checks.seed(seed)
    purposes = _purposes(sources, prompts)
    check_upcyclable(lab)
    refuse_adapters(lab, "joined with others")
    parts = {purpose: tuned_weights(lab, purpose, sources[purpose]) for purpose in purposes}
    layers = lab.config.num_hidden_layers
    for one, other in combinations(purposes, 2):
        if all(_same(_mlp(parts[one], layer), _mlp(parts[other], layer)) for layer in range(layers)):
            raise BadInput(
                f"{one} and {other} have the same MLPs, so their experts would be one; give models or adapters that change the "
                "MLP (targets gate_proj, up_proj and down_proj) in different ways."
            )
    rng = np.random.default_rng(seed)
    learnt, kept = _apart(prompts, held_out, purposes, rng)
    inputs = _router_inputs(lab, {purpose: learnt[purpose] for purpose in purposes})
    generator = torch.Generator().manual_seed(seed)
    rows = [_rows(way, layer, steps, generator) for layer in inputs]

    def fill(layer: LayerParts) -> None:
        for expert, part in enumerate(parts.values()):
            gate_up, down = _mlp(part, layer.layer)
            layer.gate_up[expert].copy_(gate_up)
            layer.down[expert].copy_(down)
        layer.router.copy_(rows[layer.layer])

    joined = checks.listed(purposes)
    made = assembled(
        lab, len(purposes), top_k, fill, name=f"{lab.name}, experts for {joined}", note=f"joined as experts: {joined}"
    )
    untied = _average(made, list(parts.values())) if rest == "mean" else []
    outside = {purpose: sum(".mlp." not in name for name in part.changed()) for purpose, part in parts.items()}
    lost = {purpose: count for purpose, count in outside.items() if count and rest == "base"}
    notes = tuple(
        f"of {purpose}, {count} changed tensors outside of the MLPs are left out; rest='mean' takes their mean"
        for purpose, count in lost.items()
    )
    if untied:
        notes = (*notes, untied_note(untied))
    routing = collect(cast("TracingLab", made), kept, untrained=untrained, seed=seed, progress=False)
    table = _own_shares(routing, draws, rng)
    warnings = tuple(_warnings(table))
    made.notes = (*made.notes, *notes)
    for each in warnings:
        say(f"{made.name}: {each}")
    units = [nn.functional.normalize(each.double(), dim=1) for each in rows]
    cosines = torch.stack([each @ each.T for each in units]).mean(0).numpy()
    return Mixture(
        table,
        made,
        tuple(purposes),
        routing,
        pd.DataFrame(cosines, index=list(purposes), columns=list(purposes)),
        way,
        untrained,
        draws,
        seed,
        (*notes, *warnings),
    )


def _mlp(part: TunedWeights, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(2 · d_mlp, d_model), the gate's rows first, and (d_model, d_mlp)."""
    gate, up, down = (part.weight(f"model.layers.{layer}.mlp.{matrix}.weight") for matrix in MLP)
    return torch.cat([gate, up]), down


def _same(one: tuple[torch.Tensor, ...], other: tuple[torch.Tensor, ...]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(one, other, strict=True))


def _average(made: BuiltLab, parts: list[TunedWeights]) -> list[str]:
    """Give all that is no expert and no router the mean of the sources' values.

    Returns the modules that were tied and got a tensor of their own, since a source has them apart.
    """
    untied = taken_apart(parts)
    for name in untied:
        untie(running.language_model(made.model), name)
    names = dict(parts[0].base.named_parameters(remove_duplicate=False))
    with torch.no_grad():
        for name, value in made.model.named_parameters():
            if name in names and ".mlp." not in name:
                value.copy_(torch.stack([part.weight(name).double() for part in parts]).mean(0))
    return [name.rpartition(".")[0] for name in untied]


# prompts ----------------------------------------------------------------------------------------------------------------


def _purposes(sources: object, prompts: object) -> tuple[str, ...]:
    if not isinstance(sources, Mapping) or not isinstance(prompts, Mapping) or set(sources) != set(prompts):
        raise BadInput("mixture takes sources and prompts by purpose, both with the same purposes; give two dicts.")
    if len(sources) < 2:
        raise BadInput("A mixture needs two purposes or more; give another source with prompts of its own.")
    for purpose, given in prompts.items():
        if isinstance(given, str | bytes) or not isinstance(given, Sequence) or not len(given):
            raise BadInput(f"prompts for {purpose} are to be a list of texts, with one at least.")
    for one, other in combinations(prompts, 2):
        if sorted(map(repr, prompts[one])) == sorted(map(repr, prompts[other])):
            raise BadInput(
                f"{one} and {other} have the same prompts, so no router could tell them apart; give each prompts of its own."
            )
    return tuple(sources)


def _apart(
    prompts: Mapping[str, Sequence[object]],
    held_out: Mapping[str, Sequence[object]] | None,
    purposes: Sequence[str],
    rng: np.random.Generator,
) -> tuple[dict[str, list[object]], dict[str, list[object]]]:
    """What routers are made from, and what is measured on; nothing is in both."""
    if held_out is not None:
        if set(held_out) != set(purposes):
            raise BadInput("held_out is to have prompts for each purpose, under the same names.")
        for purpose in purposes:
            if twice := {repr(each) for each in held_out[purpose]} & {
                repr(p) for all_ in prompts.values() for p in all_
            }:
                raise BadInput(f"held_out has a prompt that routers are made from: {checks.shown(next(iter(twice)))}.")
        return {p: list(prompts[p]) for p in purposes}, {p: list(held_out[p]) for p in purposes}
    kind_of = np.concatenate([np.full(len(prompts[purpose]), i) for i, purpose in enumerate(purposes)])
    if few := next((p for p in purposes if len(prompts[p]) < LEAST_PROMPTS), None):
        raise BadInput(
            f"{few} has {len(prompts[few])} prompts, and a third of each purpose's is kept apart to measure on; give "
            f"{LEAST_PROMPTS} or more, or held_out."
        )
    first, second = split(kind_of, HELD_OUT, rng)
    flat = [prompt for purpose in purposes for prompt in prompts[purpose]]
    learnt = {p: [flat[d] for d in first if kind_of[d] == i] for i, p in enumerate(purposes)}
    return learnt, {p: [flat[d] for d in second if kind_of[d] == i] for i, p in enumerate(purposes)}


def _router_inputs(lab: BuiltLab, prompts: Mapping[str, Sequence[object]]) -> list[list[torch.Tensor]]:
    """For each layer, for each purpose, (tokens, d_model): what enters the MLP. A text's first token is left out.

    It says nothing of the text, and in many models its state is far from all others' (an attention sink).
    """
    model = running.language_model(lab.model)
    found: list[list[list[torch.Tensor]]] = [[[] for _ in prompts] for _ in range(lab.config.num_hidden_layers)]
    seen: dict[int, torch.Tensor] = {}

    def keep(layer: int) -> Any:
        def hook(_module: nn.Module, given: tuple[torch.Tensor, ...]) -> None:
            seen[layer] = given[0].detach()

        return hook

    with lab.turn():
        handles = [
            model.get_submodule(f"model.layers.{layer}.mlp").register_forward_pre_hook(keep(layer))
            for layer in range(len(found))
        ]
        try:
            for number, texts in enumerate(prompts.values()):
                for text in texts:
                    ids = as_ids(lab.tokenizer, text, chat=False, context=lab.context)
                    running.forward(lab.model, [ids], logits="last")
                    for layer, of_layer in enumerate(found):
                        of_layer[number].append(seen[layer][0, 1:].double().cpu())
        finally:
            for handle in handles:
                handle.remove()
    inputs = [[torch.cat(purpose) for purpose in of_layer] for of_layer in found]
    if short := next((p for p, states in zip(prompts, inputs[0], strict=True) if not len(states)), None):
        raise BadInput(f"The prompts for {short} have no token but their first; give longer ones.")
    return inputs


# routers ----------------------------------------------------------------------------------------------------------------


def _rows(way: Way, states: list[torch.Tensor], steps: int, generator: torch.Generator) -> torch.Tensor:
    """(experts, d_model): a router for one layer. states: of each purpose (tokens, d_model)."""
    width = states[0].shape[1]
    if way == "random":
        return torch.randn(len(states), width, generator=generator) * ROUTER_STD
    means = torch.stack([each.mean(0) for each in states])
    rows = means - means.mean(0)
    together = torch.cat(states)
    rows = rows / (together @ rows.T).std().clamp_min(1e-30)  # scores with a standard deviation of 1
    return _trained(rows, states, steps) if way == "trained" else rows


def _trained(rows: torch.Tensor, states: list[torch.Tensor], steps: int) -> torch.Tensor:
    """Logistic regression from token states to purposes, each purpose with the same weight, begun at `rows`."""
    together = torch.cat(states)
    size = together.square().mean().sqrt()
    together = together / size
    right = torch.cat([torch.full((len(each),), i) for i, each in enumerate(states)])
    weights = torch.tensor([len(right) / (len(states) * len(each)) for each in states], dtype=torch.float64)
    found = (rows * size).clone().requires_grad_()
    optimizer = torch.optim.LBFGS([found], max_iter=steps, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        value = nn.functional.cross_entropy(together @ found.T, right, weights) + PENALTY * found.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    return found.detach() / size


# roles ------------------------------------------------------------------------------------------------------------------


def _own_shares(routing: Routing, draws: int, rng: np.random.Generator) -> pd.DataFrame:
    """How much of each purpose's tokens its own expert takes, beside an even choice and routers of random directions."""
    import pandas as pd

    kind, rows = routing.kind, []
    assert routing.untrained is not None
    for number, purpose in enumerate(routing.kinds):
        of_kind = kind == number
        hit = (routing.experts[of_kind] == number).any(2).mean(1)
        others = (routing.untrained[:, of_kind] == number).any(3).mean((1, 2))
        documents = np.unique(routing.document[of_kind])
        place = np.searchsorted(documents, routing.document[of_kind])
        hits, tokens = np.bincount(place, weights=hit), np.bincount(place)
        drawn = resampled(np.zeros(len(documents), dtype=np.int64), draws, rng)
        low, high = interval(drawn @ hits / (drawn @ tokens)) if len(documents) > 1 else (np.nan, np.nan)
        rows.append(
            {
                "purpose": purpose,
                "documents": len(documents),
                "tokens": int(of_kind.sum()),
                "own": float(hit.mean()),
                "own_low": float(low),
                "own_high": float(high),
                "even": routing.k / routing.n_experts,
                "untrained": float(others.mean()),
                "untrained_high": float(np.percentile(others, ENDS[1])),
            }
        )
    return pd.DataFrame(rows)


def _warnings(table: pd.DataFrame) -> list[str]:
    found = []
    for row in table.itertuples():
        least = row.own if np.isnan(row.own_low) else row.own_low
        if least <= row.even < 1:
            found.append(
                f"tokens of {row.purpose} go to its expert no more often than by an even choice ({row.own:.0%}; {row.even:.0%}): "
                "its prompts are not told apart from the others' by their hidden states; give prompts that differ more"
            )
    return found
