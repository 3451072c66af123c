"""The routes of many documents of several kinds: what every measure of this room is computed from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from labkit import checks
from labkit.errors import BadInput, Unavailable
from labkit.trace import running
from labkit.trace.documents import documents_of
from labkit.trace.lab_like import check_lab

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch.utils.hooks import RemovableHandle

    from labkit.trace.lab_like import LabLike, TracingLab
    from labkit.trace.record import Routes, Trace
    from labkit.trace.routers import Router, Rule


@dataclass(frozen=True, repr=False, eq=False)
class Routing:
    """Routes of many documents of several kinds: N tokens, L routed layers, E experts, k chosen. Special tokens left out.

    ids: (N,) int64, a document's tokens in their order.  document: (N,) int64, the index of the token's document.
    kind_of: (documents,) int64, index into kinds.
    experts: (N, L, k) of the smallest unsigned type that holds E.  weights: (N, L, k) float32, as they multiply the
        experts' outputs.  loss: (N,) float32, nats; NaN where the first token of a document has none.
    untrained: (R, N, L, k) as experts: what R routers of random directions choose from the same router inputs, or None.
    layers: which layers of the model are routed.  tokens: the text of each id that occurs.
    notes: what a reader has to know about these counts, such as documents that were cut.
    """

    ids: np.ndarray
    document: np.ndarray
    kind_of: np.ndarray
    kinds: tuple[str, ...]
    experts: np.ndarray
    weights: np.ndarray
    loss: np.ndarray
    untrained: np.ndarray | None
    layers: tuple[int, ...]
    n_experts: int
    model: str
    tokens: Mapping[int, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def k(self) -> int:
        """How many experts are chosen for a token in each routed layer."""
        return int(self.experts.shape[2])

    @property
    def kind(self) -> np.ndarray:
        """(N,) int64: the kind of each token's document."""
        return np.asarray(self.kind_of[self.document])

    def __len__(self) -> int:
        return len(self.ids)

    def __repr__(self) -> str:
        untrained = f", {len(self.untrained)} untrained routers" if self.untrained is not None else ""
        return (
            f"Routing({self.model}: {len(self):,} tokens of {len(self.kind_of)} documents of {len(self.kinds)} kinds, "
            f"{len(self.layers)} routed layers, {self.k} of {self.n_experts} experts{untrained})"
            + "".join(f"\n  {note}" for note in self.notes)
        )


def collect(
    lab: TracingLab,
    texts: Mapping[str, Sequence[object]],
    *,
    untrained: int = 0,
    seed: int = 0,
    progress: bool = True,
    batch_tokens: int | None = None,
) -> Routing:
    """Run documents of several kinds through a mixture of experts and keep which experts each token was sent to.

    texts: kind of text -> its documents, each a text or token ids. Kinds and documents keep their order.
    untrained: how many routers of random directions, with rows as long as the trained ones', choose from the same router
        inputs, by the rule and with the biases of the trained ones: those of lk.moe.random_router(seed), (seed + 1) and so
        on. They are what a measure's `untrained` columns come from. Where labkit doesn't know the rule they choose the
        highest k of weight · hidden state, and a note says so. Memory: as many times that of the routes.
    batch_tokens: the most tokens of one pass, padding included; documents of like length share a pass.
    Special tokens of the tokenizer are seen by the model and not counted. A document longer than the model's context is
    cut to it, and a note says so. Inside `with lab.edit(...)` the routes are those of the edited model.
    Raises Unavailable for a dense model, BadInput for texts that can't be used and where layers choose different numbers
    of experts.
    """
    from tqdm.auto import tqdm

    from labkit.models.tokens import token_strings
    from labkit.trace.capture import take

    untrained, seed = checks.whole("untrained", untrained, 0), checks.seed(seed)
    if batch_tokens is not None:
        batch_tokens = checks.whole("batch_tokens", batch_tokens, 1)
    check_lab(lab)
    if (reason := lab.anatomy.support["routes"]) is not None:
        raise Unavailable(f"{lab.name} has no routes to collect: {reason}.")
    documents, kind_of, cut = documents_of(lab, texts)
    special = np.array(sorted(set(getattr(lab.tokenizer, "all_special_ids", None) or ())), dtype=np.int64)
    counted = [~np.isin(ids, special) for ids in documents]
    ends = np.cumsum([int(mask.sum()) for mask in counted])
    if ends[-1] == 0:
        raise BadInput("These documents hold nothing but special tokens; give texts.")
    model, anatomy = lab.model, lab.anatomy
    limit = batch_tokens or running.tokens_a_pass(model)
    found: _Found | None = None
    with (
        lab.turn(),
        _RouterInputs(lab, untrained, seed) as others,
        tqdm(total=len(documents), desc="routes", unit="document", disable=not progress) as bar,
    ):
        for group in running.groups(model, [len(ids) for ids in documents], tokens=limit):
            some = [documents[d].tolist() for d in group]
            traces = take(model, lab.tokenizer, anatomy, some, ("routes", "logits"), name=lab.name, tokens=limit)
            chosen = others.choices(traces[0].routes.experts.shape[-1], [len(documents[d]) for d in group])
            for row, (d, trace) in enumerate(zip(group, traces, strict=True)):
                routes, mask = trace.routes, counted[d]
                if found is None:
                    found = _Found(int(ends[-1]), untrained, routes)
                found.put(slice(ends[d] - mask.sum(), ends[d]), mask, trace, chosen[row] if untrained else None)
            bar.update(len(group))
    assert found is not None
    ids = np.concatenate([ids[mask] for ids, mask in zip(documents, counted, strict=True)])
    different = np.unique(ids).tolist()
    return Routing(
        ids=ids,
        document=np.repeat(np.arange(len(documents)), [int(mask.sum()) for mask in counted]),
        kind_of=kind_of,
        kinds=tuple(texts),
        experts=found.experts,
        weights=found.weights,
        loss=found.loss,
        untrained=found.untrained,
        layers=found.layers,
        n_experts=found.n_experts,
        model=lab.name,
        tokens=dict(zip(different, token_strings(lab.tokenizer, different), strict=True)),
        notes=(*cut, *others.notes),
    )


class _Found:
    """The arrays of a Routing, filled document by document."""

    def __init__(self, n: int, routers: int, routes: Routes) -> None:
        if len(set(routes.chosen)) > 1:
            raise BadInput(
                f"The layers choose different numbers of experts, from {min(routes.chosen)} to {max(routes.chosen)}, and "
                "measures need one number; have all choose as many, such as with lk.moe.choose(2)."
            )
        _, layers, k = routes.experts.shape
        self.layers: tuple[int, ...] = tuple(routes.layers)
        self.n_experts = int(routes.logits.shape[-1])
        small = np.min_scalar_type(self.n_experts)
        self.experts = np.zeros((n, layers, k), small)
        self.weights = np.zeros((n, layers, k), np.float32)
        self.loss = np.zeros(n, np.float32)
        self.untrained = np.zeros((routers, n, layers, k), small) if routers else None

    def put(self, place: slice, mask: np.ndarray, trace: Trace, chosen: np.ndarray | None) -> None:
        self.experts[place] = trace.routes.experts.cpu().numpy()[mask]
        self.weights[place] = trace.routes.weights.cpu().numpy()[mask]
        self.loss[place] = trace.loss.cpu().numpy()[mask]
        if chosen is not None:
            assert self.untrained is not None
            self.untrained[:, place] = chosen[:, mask]


class _RouterInputs:
    """Sees what enters every router while a batch runs, and gives what random routers choose from it."""

    def __init__(self, lab: LabLike, routers: int, seed: int) -> None:
        import torch

        from labkit.trace.routers import random_weights

        self.routers = [layer.router for layer in lab.anatomy.layers if layer.router is not None] if routers else []
        # (R · E, d) for each layer
        self.weights = [torch.cat([random_weights(r, seed + i).float() for i in range(routers)]) for r in self.routers]
        self.ways = [_way(r) for r in self.routers]
        unknown = [str(r.layer) for r, way in zip(self.routers, self.ways, strict=True) if way is None]
        where = f"layer{'' if len(unknown) == 1 else 's'} {', '.join(unknown)}"
        self.notes = (
            (
                f"The rule by which {where} choose{'s' if len(unknown) == 1 else ''} is not known: the untrained routers "
                "choose the highest of weight · hidden state there, which may be another choice than "
                "lk.moe.random_router makes.",
            )
            if unknown
            else ()
        )
        self.count = routers
        self.seen: dict[int, torch.Tensor] = {}
        self.handles: list[RemovableHandle] = []

    def __enter__(self) -> _RouterInputs:
        for index, router in enumerate(self.routers):
            self.handles.append(router.module.register_forward_pre_hook(self._keep(index), with_kwargs=True))
        return self

    def __exit__(self, *details: object) -> None:
        for handle in self.handles:
            handle.remove()

    def _keep(self, index: int) -> Callable[[nn.Module, tuple[torch.Tensor, ...], dict[str, torch.Tensor]], None]:
        def hook(_module: nn.Module, args: tuple[torch.Tensor, ...], keywords: dict[str, torch.Tensor]) -> None:
            hidden = args[0] if args else next(iter(keywords.values()))
            self.seen[index] = hidden.detach().reshape(-1, hidden.shape[-1])

        return hook

    def choices(self, k: int, lengths: Sequence[int]) -> list[np.ndarray]:
        """(R, tokens, L, k) of each document of the batch that just ran, without its padding."""
        if not self.count:
            return []
        layers = []
        for index, (weights, way) in enumerate(zip(self.weights, self.ways, strict=True)):
            hidden = self.seen.pop(index).float()
            logits = (hidden @ weights.to(hidden.device).T).unflatten(-1, (self.count, -1))
            layers.append(_chosen(way, logits, k).cpu().numpy())
        every = np.stack(layers, axis=2)  # (batch · width, R, L, k)
        rows = every.reshape(len(lengths), -1, *every.shape[1:])
        return [row[:n].swapaxes(0, 1) for row, n in zip(rows, lengths, strict=True)]


def _way(router: Router) -> tuple[Rule, torch.Tensor | None] | None:
    """(rule, bias of the logits or None) of a router; None where what other weights would choose is not known."""
    from labkit.trace.routers import logit_bias, rule_of

    try:
        return rule_of(router), logit_bias(router)
    except Unavailable:
        return None


def _chosen(way: tuple[Rule, torch.Tensor | None] | None, logits: torch.Tensor, k: int) -> torch.Tensor:
    """(tokens, R, k): what R routers choose whose weights · hidden states, (tokens, R, E), these are."""
    import torch

    from labkit.trace.routers import routed

    rule, bias = way or (None, None)
    logits = logits if bias is None else logits + bias.to(logits)
    if rule is None or (rule.bias is None and rule.groups == 1):
        return logits.topk(k, dim=-1).indices  # scores rise with logits
    return torch.stack([routed(rule, of_one, k=k)[1] for of_one in logits.unbind(1)], 1)
