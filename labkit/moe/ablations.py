"""What a mixture of experts loses without one of its experts, and whether that is where the expert is used.

Losses are sums over the counted tokens of a document, so that an interval can resample documents.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from labkit import checks
from labkit.errors import BadInput, Unavailable
from labkit.moe.counts import LEAST_DOCUMENTS, LEAST_TOKENS
from labkit.results import Result, as_table
from labkit.statistics import p_value, permuted_within, ranks
from labkit.trace import running
from labkit.trace.documents import Documents
from labkit.trace.lab_like import check_lab
from labkit.trace.resuming import entering

if TYPE_CHECKING:
    import pandas as pd

    from labkit.trace.edits import RouterEdit
    from labkit.trace.lab_like import LabLike, TracingLab
    from labkit.trace.routers import Router

DRAWS = 1_000
HOW = ("drop", "forbid")

Expert = tuple[int, int]


# one expert at a time -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class ExpertEffects(Result):
    """What taking one expert at a time away does to the loss of each kind of text; `effects` tells the columns.

    baseline: kind -> its loss with all experts, nats a token.  complete: False after an interrupt, when the table holds the
    experts that were done.  experts: how many there were to be.  how: "drop" or "forbid".  model: its name.
    draws: resamplings.  seed: of these.  notes: what a reader has to know about the documents.
    """

    baseline: Mapping[str, float]
    complete: bool
    experts: int
    how: str
    model: str
    draws: int
    seed: int
    notes: tuple[str, ...]

    def _title(self) -> str:
        cut = "" if self.complete else ", interrupted"
        return f"One expert of {self.model} at a time taken away ({self.how}), of {self.experts} in all{cut}"

    def _remarks(self) -> Sequence[str]:
        return (baseline_line(self.baseline), *self.notes)


def baseline_line(baseline: Mapping[str, float]) -> str:
    """The losses that changes are changes of, as one line."""
    return "loss with all experts: " + ", ".join(f"{kind} {loss:.3f}" for kind, loss in baseline.items())


def effects(
    lab: TracingLab,
    texts: object,
    experts: Iterable[Expert] | None = None,
    how: str = "drop",
    *,
    least_documents: int = LEAST_DOCUMENTS,
    least_tokens: int = LEAST_TOKENS,
    draws: int = DRAWS,
    seed: int = 0,
    progress: bool = True,
    stop: threading.Event | None = None,
) -> ExpertEffects:
    """Take one expert at a time away and measure the loss of each kind of text.

    texts: kind of text -> its documents, as `collect` takes them, or a list of documents.
    experts: (layer, expert) pairs; all when None.
    how: "drop" leaves out what the expert adds where it is chosen; "forbid" lets the router choose the next one instead.
    stop: set it, from another thread, to end early.
    Returns a row for each expert and kind: layer, expert, kind, loss_change (nats a token, without − with the expert, mean
    over the kind's tokens), low and high (95 %, resampling the kind's documents), tokens, documents, note: why there are
    no numbers, for a kind with fewer than least_documents or least_tokens. Special tokens and the first of a document are
    not counted. Beside the table stands the loss of each kind with all experts (`baseline`). An interrupt returns the experts
    that were done, with complete False.
    Raises Unavailable for a dense model, BadInput for an expert that is not there and texts that can't be used.
    """
    import pandas as pd

    how = checks.one_of("how", how, HOW)
    draws, seed = checks.whole("draws", draws, 1), checks.seed(seed)
    chosen = _experts(lab, experts)
    documents = Documents(lab, texts)
    found: list[np.ndarray] = []
    with lab.turn():
        baseline = documents.losses(lab)
        with running.Progress("experts", len(chosen), "expert", progress) as bar:
            stored, at = None, None
            for layer, expert in chosen:
                if stop is not None and stop.is_set():
                    break
                if layer != at:
                    stored, at = entering(documents, lab, layer, baseline), layer
                with lab.edit(_without(how, layer, expert)):
                    found.append(documents.losses(lab, stored))
                bar.advance()
    done = chosen[: len(found)]
    changes = np.array(found).reshape(len(found), len(baseline)) - baseline
    enough = documents.notes(least_documents, least_tokens)
    mean, low, high = documents.means(changes, enough, draws, seed)
    pairs = np.array(done, dtype=np.int64).reshape(-1, 2).repeat(len(documents.kinds), axis=0)
    frame = pd.DataFrame(
        {
            "layer": pairs[:, 0],
            "expert": pairs[:, 1],
            "kind": np.tile(np.array(documents.kinds, dtype=object), len(done)),
            "loss_change": mean.ravel(),
            "low": low.ravel(),
            "high": high.ravel(),
            "tokens": np.tile(documents.tokens_of_kind, len(done)),
            "documents": np.tile(documents.documents_of_kind, len(done)),
            "note": np.tile(np.array(enough, dtype=object), len(done)),
        }
    )
    return ExpertEffects(
        frame,
        baseline=documents.baseline(baseline),
        complete=len(done) == len(chosen),
        experts=len(chosen),
        how=how,
        model=lab.name,
        draws=draws,
        seed=seed,
        notes=documents.cut,
    )


def _without(how: str, layer: int, expert: int) -> RouterEdit:
    from labkit.moe.edits import drop, forbid

    return drop(expert, layer) if how == "drop" else forbid(expert, layer)


def _experts(lab: LabLike, experts: Iterable[Expert] | None) -> list[Expert]:
    """(layer, expert) pairs that are there, layer by layer, each once."""
    there = routed(lab)
    if experts is None:
        return [(layer, expert) for layer, count in there.items() for expert in range(count)]
    if isinstance(experts, str | bytes | Mapping) or not isinstance(experts, Iterable):
        raise BadInput(
            f"Experts are given as (layer, expert) pairs, such as [(2, 5)], and {experts!r} is no list of them."
        )
    pairs = []
    for pair in experts:
        layer, expert = checks.pair("expert", pair)
        if layer not in there:
            raise BadInput(f"Layer {layer} of {lab.name} has no experts; these have: {', '.join(map(str, there))}.")
        if not 0 <= expert < there[layer]:
            raise BadInput(
                f"There is no expert {expert} in layer {layer} of {lab.name}; there are 0 to {there[layer] - 1}."
            )
        pairs.append((layer, expert))
    return sorted(dict.fromkeys(pairs))


def routed(lab: LabLike) -> dict[int, int]:
    """The routed layers of a lab and how many experts each has. Raises Unavailable for a dense model."""
    check_lab(lab)
    if (reason := lab.anatomy.support["routes"]) is not None:
        raise Unavailable(f"{lab.name} has no experts to take away: {reason}.")
    return {layer: router.experts_count for layer, router in routers(lab).items()}


def routers(lab: LabLike) -> dict[int, Router]:
    """The routers of a lab, by layer."""
    return {i: layer.router for i, layer in enumerate(lab.anatomy.layers) if layer.router is not None}


# is it where the expert is used? --------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False, repr=False)
class OwnDomain(Result):
    """Whether taking an expert away hurts the kind of text it is used for most.

    agreement: the share of experts whose kind of highest specialisation is the kind that loses most without them; chance:
        1/kinds; agreement_permuted: the mean agreement when the experts of each layer swap their specialisations, which is
        the better chance level where one kind is hurt most by whatever is taken away; agreement_p: the share of these
        permutations that agree as much.
    correlation: Spearman's, over experts and kinds, of loss change with specialisation, both centred within each kind;
        p: the share of permutations that correlate as much. An expert used much by all kinds raises it too.
    correlation_within: the same with both centred within each expert as well, so that only which kinds counts and not
        how much the expert is used; p_within.
    table: an expert a row: layer, expert, kind (of highest specialisation), hurt (the kind that loses most), agree;
        `experts` is the same.
    left_out: experts whose absence changes nothing at all, in no column.
    """

    agreement: float
    chance: float
    agreement_permuted: float
    agreement_p: float
    correlation: float
    p: float
    correlation_within: float
    p_within: float
    kinds: tuple[str, ...]
    left_out: int
    permutations: int

    @property
    def experts(self) -> pd.DataFrame:
        """The table of the experts."""
        return self.table

    def _title(self) -> str:
        left_out = f"; {self.left_out} experts whose absence changes nothing are left out" if self.left_out else ""
        return (
            f"own domain hurt most: {self.agreement:.1%} of {len(self.experts)} experts (chance {self.chance:.1%}, "
            f"permuted {self.agreement_permuted:.1%}, p = {self.agreement_p:.3g}{left_out})\n"
            f"loss change with specialisation: Spearman {self.correlation:.2f} (p = {self.p:.3g}), "
            f"within experts {self.correlation_within:.2f} (p = {self.p_within:.3g})"
        )


def own_domain(
    effects: Result | pd.DataFrame, specialisation: Result | pd.DataFrame, *, permutations: int = 999, seed: int = 0
) -> OwnDomain:
    """Does dropping an expert hurt its own domain most?

    effects: of `effects`.  specialisation: of `specialisation`, best on other documents than the effects, since an
    expert can't hurt a text in which it is never chosen. Kinds without numbers in either are left out.
    Permutations exchange experts within their layer: what would be if their specialisation said nothing. A correlation
    with what is the same for all experts is NaN, and so is its p.
    Raises BadInput where fewer than two kinds or three experts are in both.
    """
    import pandas as pd

    permutations, seed = checks.whole("permutations", permutations, 1), checks.seed(seed)
    change, share = _matrix(effects, "loss_change"), _matrix(specialisation, "share")
    kinds = [k for k in change.columns if k in share.columns]
    pairs = change.index.intersection(share.index)
    change, share = change.loc[pairs, kinds], share.loc[pairs, kinds]
    kinds = [k for k in kinds if not change[k].isna().any() and not share[k].isna().any()]
    c, s = change[kinds].to_numpy(np.float64), share[kinds].to_numpy(np.float64)
    some = (c != 0).any(1) if len(kinds) else np.zeros(len(c), bool)
    c, s, left = c[some], s[some], [pair for pair, keep in zip(pairs, some, strict=True) if keep]
    if len(kinds) < 2 or len(left) < 3:
        raise BadInput(
            f"{len(left)} experts and {len(kinds)} kinds of text have numbers both as effects and as specialisation; "
            "give three experts and two kinds at least, with enough documents."
        )
    layer = np.array([pair[0] for pair in left])
    rng = np.random.default_rng(seed)
    orders = np.stack([np.arange(len(s)), *(permuted_within(layer, rng) for _ in range(permutations))])
    hurt = c.argmax(1)
    agree = (s.argmax(1)[orders] == hurt).mean(1)
    of_kind = _correlations(c - c.mean(0), s - s.mean(0), orders)
    within = _correlations(_centred(c), _centred(s), orders)
    names = np.array(kinds, dtype=object)
    table = pd.DataFrame(
        {"layer": layer, "expert": [p[1] for p in left], "kind": names[s.argmax(1)], "hurt": names[hurt]}
    )
    table["agree"] = table["kind"] == table["hurt"]
    return OwnDomain(
        table,
        agreement=float(agree[0]),
        chance=1 / len(kinds),
        agreement_permuted=float(agree[1:].mean()),
        agreement_p=float(p_value(agree[0], agree[1:])),
        correlation=float(of_kind[0]),
        p=float(p_value(of_kind[0], of_kind[1:])),
        correlation_within=float(within[0]),
        p_within=float(p_value(within[0], within[1:])),
        kinds=tuple(kinds),
        left_out=int((~some).sum()),
        permutations=permutations,
    )


def _matrix(given: Result | pd.DataFrame, value: str) -> pd.DataFrame:
    """Rows (layer, expert), columns kinds in their order."""
    frame = as_table(given)
    missing = {"layer", "expert", "kind", value} - set(getattr(frame, "columns", ()))
    if missing:
        raise BadInput(
            f"own_domain takes the tables of lk.moe.effects and lk.moe.specialisation; one has no {min(missing)!r}."
        )
    wide = frame.pivot(index=["layer", "expert"], columns="kind", values=value)
    return wide[list(dict.fromkeys(frame["kind"]))]


def _centred(x: np.ndarray) -> np.ndarray:
    """(experts, kinds) less the mean of each expert and each kind."""
    x = x - x.mean(0)
    return np.asarray(x - x.mean(1, keepdims=True))


def _correlations(c: np.ndarray, s: np.ndarray, orders: np.ndarray) -> np.ndarray:
    """Spearman's correlation of c (experts, kinds) with s, its experts put in each of the orders (orders, experts)."""
    of_both = [ranks(x) for x in (c, s)]
    spread = [float(np.sqrt((r**2).sum())) for r in of_both]
    if not all(spread):
        return np.full(len(orders), np.nan)
    return np.array([(of_both[0] * of_both[1][order]).sum() for order in orders]) / (spread[0] * spread[1])
