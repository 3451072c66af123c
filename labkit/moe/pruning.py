"""A mixture of experts with fewer experts: which to keep, and what it costs.

Each layer keeps as many experts as the others. By usage: those chosen most often (as in NAEE's frequency baseline, Lu et
al. 2024, "Not All Experts are Equal"). By effect: those without which, one at a time, the loss rises most. By chance:
what any ranking has to be better than.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import numpy as np
import torch

from labkit import checks
from labkit.errors import BadInput, Unavailable
from labkit.models.config import EXPERTS, first_number
from labkit.moe import routing
from labkit.moe.ablations import DRAWS, baseline_line, effects, routed, routers
from labkit.moe.counts import LEAST_DOCUMENTS, LEAST_TOKENS, choices_by_document
from labkit.moe.edits import forbid
from labkit.results import Result, as_table
from labkit.statistics import interval
from labkit.trace.building import check_room, empty_model, refuse_odd_weights
from labkit.trace.documents import Documents
from labkit.trace.edits import Edit
from labkit.trace.input import as_kinds
from labkit.trace.routers import rule_of

if TYPE_CHECKING:
    import pandas as pd

    from labkit.trace.lab_like import BuiltLab, LabLike, TracingLab

    class PrunedLab(BuiltLab, TracingLab, Protocol):
        """A lab that is traced, and of which a smaller one can be made."""


Made = TypeVar("Made", bound="PrunedLab")
BY = ("usage", "effect", "random")
VALUES = ("score", "loss_change", "load", "share")  # columns a table of scores may have, the first there counts
Scores = Mapping[int, np.ndarray]


@dataclass(frozen=True, eq=False)
class Pruning(Generic[Made]):
    """Which experts are kept in each layer.

    kept: layer -> their numbers, ascending.  by: "usage", "effect", "random" or "scores".  keep: how many in each layer.
    experts: how many there are.  scores: layer -> (experts,) what they were ranked by, the highest kept.
    `with lab.edit(pruning.edit)` forbids the others; `pruning.lab()` is a smaller model without them.
    """

    kept: Mapping[int, tuple[int, ...]]
    by: str
    keep: int
    experts: int
    model: str
    scores: Scores = field(repr=False)
    _lab: Made = field(repr=False)

    @property
    def forbidden(self) -> dict[int, tuple[int, ...]]:
        """Layer -> the experts that are not kept."""
        every = range(self.experts)
        return {layer: tuple(e for e in every if e not in kept) for layer, kept in self.kept.items()}

    @property
    def edit(self) -> Edit:
        """For `lab.edit`: the other experts can't be chosen."""
        return forbid(self.forbidden) if self.keep < self.experts else Edit((), None)

    def lab(self, *, renormalised: bool = False) -> Made:
        """A new Lab with the kept experts' weights alone, which computes what the edited model does (1e-5 in float32).

        renormalised: where the weights of the chosen experts are their shares among all experts and don't sum to 1 (OLMoE
            and Qwen1.5-MoE as published), a router of fewer experts can't give them: with True, each token's weights are
            the shares among the kept, and so larger than under the edit.
        Raises Unavailable for such models without it, for experts in groups, for quantized and spread models and for
        those whose experts' weights are not tensors with a row for each expert; NotEnoughMemory.
        """
        lab = self._lab
        refuse_odd_weights(lab, "made smaller")
        self._check_rules(renormalised)
        model, state = lab.model, lab.model.state_dict()
        config = copy.deepcopy(model.config)
        text = config.get_text_config()
        name = next((n for n in EXPERTS if first_number(text, n) == self.experts), None)
        if name is None:
            raise Unavailable(
                f"The configuration of {lab.name} does not say how many experts it has; use pruning.edit."
            )
        setattr(text, name, self.keep)
        rows = self._rows_of_experts(state)
        sizes = [t.nbytes * (self.keep / self.experts if name in rows else 1) for name, t in state.items()]
        check_room(lab, int(sum(sizes)), f"{lab.name} with {self.keep} experts", "use pruning.edit, which needs none")
        with lab.turn(), torch.no_grad():
            smaller = empty_model(config, model)
            held = smaller.state_dict()
            for key in sorted(set(held) ^ set(state)):
                raise Unavailable(
                    f"{lab.name} does not have the weights of a plain {lab.family} ({key}); merge its adapter, or use "
                    "pruning.edit."
                )
            for key, tensor in state.items():
                if held[key].shape != tensor.shape:
                    tensor = tensor[list(self.kept[rows[key]])] if key in rows else tensor
                if held[key].shape != tensor.shape:
                    raise Unavailable(
                        f"{key} of {lab.name} has no row for each expert, so it can't be made smaller; use pruning.edit."
                    )
                held[key].copy_(tensor)
        smaller.generation_config = copy.deepcopy(model.generation_config)
        return type(lab)(
            smaller.eval(),
            lab.tokenizer,
            name=f"{lab.name}, {self.keep} of {self.experts} experts",
            licence=lab.licence,
            notes=(*lab.notes, f"pruned by {self.by} to {self.keep} of {self.experts} experts in each layer"),
        )

    def _check_rules(self, renormalised: bool) -> None:
        for layer in self._lab.anatomy.layers:
            if layer.router is None:
                continue
            rule = rule_of(layer.router)
            if rule.groups > 1:
                raise Unavailable(
                    f"The experts of {self.model} are chosen in {rule.groups} groups of equal size, which fewer experts "
                    "would not form; use pruning.edit."
                )
            if rule.scores == "softmax" and not rule.normalised and self.keep < self.experts and not renormalised:
                raise Unavailable(
                    f"The weights of the chosen experts of {self.model} are their shares among all {self.experts} and don't "
                    "sum to 1, so a smaller model computes something else than the edit; use pruning.edit, or "
                    "lab(renormalised=True)."
                )

    def _rows_of_experts(self, state: Mapping[str, torch.Tensor]) -> dict[str, int]:
        """The weights with a row for each expert, by name, and the layer they are of."""
        names = {module: name for name, module in self._lab.model.named_modules()}
        there = routers(self._lab)
        prefixes = {f"{names[there[layer].block]}.": layer for layer in self.kept}
        return {
            name: layer
            for name, tensor in state.items()
            for prefix, layer in prefixes.items()
            if name.startswith(prefix) and tensor.dim() and tensor.shape[0] == self.experts
        }


def prune(
    lab: Made,
    keep: int = 16,
    by: str = "usage",
    texts: object = None,
    seed: int = 0,
    scores: object = None,
    *,
    progress: bool = True,
) -> Pruning[Made]:
    """Keep the best `keep` experts of each layer.

    by: "usage" (the share of tokens for which the expert is among those chosen), "effect" (the change of loss when it alone
        is forbidden) or "random" (by `seed`).
    texts: what the first two are measured on: documents by kind, as `collect` takes them, or a list of documents. Every
        kind counts the same, however long it is.
    scores: to rank by something else, the highest kept: {(layer, expert): number}, {layer: numbers}, or a DataFrame with
        layer, expert and a column score, loss_change, load or share, such as of `effects` or `load`; several rows of one
        expert are averaged. Experts that rank alike are kept in their order.
    Raises BadInput where fewer experts would be kept than are chosen for a token, or more than there are; Unavailable for
    a dense model. An interrupt while effects are measured is raised, since half a ranking is none.
    """
    seed = checks.seed(seed)
    there = routed(lab)
    count = _check_keep(lab, there, keep)
    if scores is not None:
        by, found = "scores", _given_scores(lab, there, scores)
    else:
        found = _scores(lab, there, by, texts, seed, progress, None)
    return _best(lab, count, int(keep), by, found)


def _best(lab: Made, experts: int, keep: int, by: str, scores: Scores) -> Pruning[Made]:
    kept = {
        layer: tuple(sorted(np.argsort(-values, kind="stable")[:keep].tolist())) for layer, values in scores.items()
    }
    return Pruning(MappingProxyType(kept), by, keep, experts, lab.name, MappingProxyType(dict(scores)), lab)


def _check_keep(lab: LabLike, there: Mapping[int, int], keep: object) -> int:
    """How many experts each layer has."""
    if len(set(there.values())) > 1:
        raise Unavailable(
            f"The layers of {lab.name} have different numbers of experts; use lk.moe.forbid for each layer."
        )
    experts = next(iter(there.values()))
    least = max(router.top_k for router in routers(lab).values())
    kept = checks.as_whole(keep)
    if kept is None or not least <= kept <= experts:
        raise BadInput(
            f"keep={keep!r} can't be used: {least} of {experts} experts are chosen for each token; keep {least} to {experts}."
        )
    return experts


# ranking --------------------------------------------------------------------------------------------------------------


def _scores(
    lab: PrunedLab,
    there: Mapping[int, int],
    by: str,
    texts: object,
    seed: int,
    progress: bool,
    stop: threading.Event | None,
) -> Scores:
    if by not in BY:
        raise BadInput(f'by={by!r} can\'t be used; give "usage", "effect" or "random", or scores of your own.')
    if by == "random":
        rng = np.random.default_rng([seed, 1])
        return {layer: rng.permutation(count).astype(np.float64) for layer, count in there.items()}
    if texts is None:
        raise BadInput(
            f"by={by!r} needs texts to measure on; give some, such as lk.moe.texts(15), or rank by chance (by='random')."
        )
    kinds = as_kinds(texts)
    if by == "usage":
        return usage(routing.collect(lab, kinds, progress=progress))
    frame = effects(lab, kinds, how="forbid", least_documents=1, least_tokens=1, draws=1, progress=progress, stop=stop)
    if not frame.complete:
        raise KeyboardInterrupt
    return _from_table(lab, there, frame)


def usage(found: routing.Routing) -> dict[int, np.ndarray]:
    """Layer -> (experts,): the share of tokens for which each is among those chosen, the mean over kinds of text."""
    counts = choices_by_document(found.experts, found.document, len(found.kind_of), found.n_experts)
    tokens = np.bincount(found.kind, minlength=len(found.kinds))
    shares = [counts[found.kind_of == kind].sum(0) / n for kind, n in enumerate(tokens) if n]
    return dict(zip(found.layers, np.mean(shares, axis=0), strict=True))


def _given_scores(lab: LabLike, there: Mapping[int, int], scores: object) -> Scores:
    if hasattr(scores, "columns"):
        return _from_table(lab, there, scores)
    if not isinstance(scores, Mapping):
        raise BadInput(
            "scores are {(layer, expert): number}, {layer: numbers} or a table with layer, expert and score."
        )
    pairs: dict[tuple[object, object], object] = {}
    for key, value in scores.items():
        if isinstance(key, tuple) and len(key) == 2:
            pairs[key] = value
        elif isinstance(value, Iterable) and not isinstance(value, str):
            pairs |= {(key, expert): one for expert, one in enumerate(value)}
        else:
            raise BadInput(f"scores[{key!r}] can't be used; give {{(layer, expert): number}} or {{layer: numbers}}.")
    return _complete(lab, there, pairs)


def _from_table(lab: LabLike, there: Mapping[int, int], scores: Result | pd.DataFrame) -> Scores:
    frame = as_table(scores)
    column = next((c for c in VALUES if c in frame.columns), None)
    if column is None or not {"layer", "expert"} <= set(frame.columns):
        raise BadInput(f"A table of scores has the columns layer, expert and one of {', '.join(VALUES)}.")
    means = frame.groupby(["layer", "expert"])[column].mean()  # without the kinds that have no numbers
    return _complete(lab, there, {(layer, expert): value for (layer, expert), value in means.items()})


def _complete(lab: LabLike, there: Mapping[int, int], pairs: Mapping[tuple[object, object], object]) -> Scores:
    every = [(layer, expert) for layer, count in there.items() for expert in range(count)]
    if strange := [pair for pair in pairs if pair not in set(every)]:
        raise BadInput(
            f"There is no (layer, expert) {strange[0]} in {lab.name}; layers {', '.join(map(str, there))} have experts 0 to "
            f"{next(iter(there.values())) - 1}."
        )
    for pair in every:
        value = pairs.get(pair)
        if checks.as_number(value) is None and value not in (np.inf, -np.inf):
            raise BadInput(
                f"Expert {pair[1]} of layer {pair[0]} has no score ({value}); give a number for every expert."
            )
    return {
        layer: np.array([pairs[layer, e] for e in range(count)], dtype=np.float64) for layer, count in there.items()
    }


# what it costs --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class PruningDamage(Result):
    """The loss of a model pruned to fewer and fewer experts; `damage` tells the columns of its table.

    baseline: kind -> its loss with all experts, nats a token.  complete: False after an interrupt.  experts: how many there
    are in a layer.  draws: random choices behind "random".  seed: of these.  model: its name.  notes: what a reader has to
    know about the documents.
    """

    baseline: Mapping[str, float]
    complete: bool
    experts: int
    draws: int
    seed: int
    model: str
    notes: tuple[str, ...]

    def _title(self) -> str:
        cut = "" if self.complete else ", interrupted"
        return f"{self.model} pruned, of {self.experts} experts in each layer{cut}"

    def _remarks(self) -> Sequence[str]:
        return (baseline_line(self.baseline), *self.notes)


def damage(
    lab: PrunedLab,
    texts: object,
    keeps: Sequence[int] | None = None,
    by: Sequence[str] = BY,
    rank_on: object = None,
    *,
    scores: Mapping[str, object] | None = None,
    draws: int = 5,
    least_documents: int = LEAST_DOCUMENTS,
    least_tokens: int = LEAST_TOKENS,
    resamples: int = DRAWS,
    seed: int = 0,
    progress: bool = True,
    stop: threading.Event | None = None,
) -> PruningDamage:
    """The loss of a model pruned to fewer and fewer experts, by each way of choosing them.

    texts: what the loss is measured on.  rank_on: other documents, on which usage and effects are measured; both as in
        `prune`. A document that is in both is refused: the experts it needs would be known before it is read.
    keeps: how many experts each layer keeps; when None all, then three quarters, a half, three eighths, a quarter and an
        eighth of them, down to as many as are chosen for a token.
    by: of "usage", "effect" and "random".  draws: how many random choices stand behind "random".
    scores: further ways by a name of one's own, each with scores as in `prune`. Whether they were taken on other documents
        is for the caller to see to.
    Returns a row each: by, keep, kind, loss_change (nats a token, pruned − whole; for "random" the mean over draws), low and
    high (95 %, resampling documents within their kinds; for "random" each resampling takes one of the draws, so that the
    interval is where a single random choice may fall), note. kind is each kind of text, and "all": the mean over those
    kinds that have numbers, each counting the same. Beside the table stands the loss of each kind with all experts
    (`baseline`). An interrupt returns what is done, with complete False.
    Raises BadInput for documents in both, Unavailable for a dense model.
    """
    import pandas as pd
    from tqdm.auto import tqdm

    there = routed(lab)
    sizes = _keeps(lab, there, keeps)
    given = {name: _given_scores(lab, there, value) for name, value in (scores or {}).items()}
    if known := set(given) & set(BY):
        raise BadInput(f"scores can't be named {sorted(known)[0]!r}, which labkit measures itself; give another name.")
    ways = [*(_ways(by) if by or not given else []), *given]
    draws, resamples = checks.whole("draws", draws, 1), checks.whole("resamples", resamples, 1)
    seed = checks.seed(seed)
    documents = Documents(lab, texts)
    if set(ways) & {"usage", "effect"}:
        _refuse_overlap(lab, documents, rank_on)
    notes = documents.notes(least_documents, least_tokens)
    rows: list[dict[str, object]] = []
    complete = False
    baseline = None
    try:
        with lab.turn():
            baseline = documents.losses(lab)
            for way in ways:
                rankings = (
                    [given[way]]
                    if way in given
                    else [
                        _scores(lab, there, way, rank_on, seed + draw, progress, stop)
                        for draw in range(draws if way == "random" else 1)
                    ]
                )
                for keep in tqdm(sizes, desc=f"pruning by {way}", unit="size", disable=not progress):
                    sums = []
                    for ranking in rankings:
                        if stop is not None and stop.is_set():
                            raise KeyboardInterrupt
                        with lab.edit(_best(lab, next(iter(there.values())), keep, way, ranking).edit):
                            sums.append(documents.losses(lab) - baseline)
                    rows += _rows(documents, way, keep, np.array(sums), notes, resamples, seed)
        complete = True
    except KeyboardInterrupt:
        if baseline is None:
            raise
    frame = pd.DataFrame(rows, columns=["by", "keep", "kind", "loss_change", "low", "high", "note"])
    return PruningDamage(
        frame,
        baseline=documents.baseline(baseline),
        complete=complete,
        experts=next(iter(there.values())),
        draws=draws,
        seed=seed,
        model=lab.name,
        notes=documents.cut,
    )


def _rows(
    documents: Documents, way: str, keep: int, sums: np.ndarray, notes: Sequence[str], resamples: int, seed: int
) -> list[dict[str, object]]:
    """The rows of one pruning; sums: (draws, documents)."""
    mean, samples = documents.samples(sums, notes, resamples, seed)
    taken = np.random.default_rng([seed, 2]).integers(len(sums), size=resamples)
    chosen = samples[taken, np.arange(resamples)]  # (resamples, kinds): one draw each
    some = np.array([not note for note in notes])
    rows = []
    for number, kind in enumerate((*documents.kinds, "all")):
        last = number == len(documents.kinds)
        which = np.flatnonzero(some) if last else np.array([number])
        note = ("" if some.any() else "no kind has enough documents") if last else notes[number]
        change, low, high = np.nan, np.nan, np.nan
        if not note:
            change = float(mean[:, which].mean())
            low, high = map(float, interval(chosen[:, which].mean(1)))
        rows.append(
            {"by": way, "keep": keep, "kind": kind, "loss_change": change, "low": low, "high": high, "note": note}
        )
    return rows


def _keeps(lab: LabLike, there: Mapping[int, int], keeps: Sequence[int] | None) -> list[int]:
    experts = _check_keep(lab, there, next(iter(there.values())))
    if keeps is None:
        least = max(router.top_k for router in routers(lab).values())
        wanted = {max(least, experts * eighths // 8) for eighths in (8, 6, 4, 3, 2, 1)}
        return sorted(wanted, reverse=True)
    if isinstance(keeps, str) or not isinstance(keeps, Iterable):
        raise BadInput(f"keeps={keeps!r} can't be used; give a list of numbers, such as [16, 8].")
    found = list(keeps)
    for keep in found:
        _check_keep(lab, there, keep)
    if not found:
        raise BadInput("keeps is empty; give a list of numbers, such as [16, 8].")
    return [int(keep) for keep in dict.fromkeys(found)]


def _ways(by: str | Iterable[str]) -> list[str]:
    ways = [by] if isinstance(by, str) else list(by)
    for way in ways:
        if way not in BY:
            raise BadInput(f'by={way!r} can\'t be used; give "usage", "effect" or "random", or several.')
    if not ways:
        raise BadInput('by is empty; give "usage", "effect" or "random", or several.')
    return list(dict.fromkeys(ways))


def _refuse_overlap(lab: LabLike, documents: Documents, rank_on: object) -> None:
    if rank_on is None:
        raise BadInput(
            "To rank by usage or effect, damage needs rank_on: other documents than those the loss is measured on, such as "
            "lk.moe.texts(15) beside lk.moe.texts(15, skip=15)."
        )
    both = documents.also_in(lab, rank_on)
    if both:
        raise BadInput(
            f"{len(both)} of the documents that the loss is measured on ({checks.some(both)}) stand also in those to rank on, "
            "which would flatter the ranking; give others, such as lk.moe.texts(15) and lk.moe.texts(15, skip=15)."
        )
