"""Which tokens an expert takes, whatever text they stand in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from labkit import checks
from labkit.errors import BadInput
from labkit.moe.counts import check_routing
from labkit.moe.measures import even_counts
from labkit.moe.routing import Routing
from labkit.results import Result
from labkit.statistics import ENDS, centred_interval, p_value, resampled

if TYPE_CHECKING:
    import pandas as pd

EVEN_DRAWS = 20  # each is a mean over all tokens, and hardly varies


@dataclass(frozen=True, eq=False, repr=False)
class Vocabulary(Result):
    """The tokens that go to each expert most surely; `vocabulary` tells the columns of both tables.

    table: a row for each layer, expert and rank; `tokens` is the same.  layers: a row a layer, with the levels of chance.
    model: its name.  documents: how many were counted.  notes: what a reader has to know about them.  draws: resamplings.
    seed: of these.  least, least_documents: occurrences, and documents with one, that a token had to have.
    """

    layers: pd.DataFrame
    model: str
    documents: int
    notes: tuple[str, ...]
    draws: int
    seed: int
    least: int
    least_documents: int

    @property
    def tokens(self) -> pd.DataFrame:
        """The table of tokens."""
        return self.table

    def _title(self) -> str:
        return f"Vocabulary of {self.layers['types'].max()} different tokens, {self.model}"

    def __repr__(self) -> str:
        return f"{self.layers}\n{super().__repr__()}"

    def _repr_html_(self) -> str | None:
        layers, tokens = self.layers._repr_html_(), super()._repr_html_()
        return None if layers is None or tokens is None else layers + tokens

    def _remarks(self) -> Sequence[str]:
        return self.notes


def vocabulary(
    routing: Routing,
    *,
    top: int = 10,
    least: int = 20,
    least_documents: int = 3,
    draws: int = 100,
    seed: int = 0,
) -> Vocabulary:
    """The tokens that go to each expert most surely, and how surely tokens go anywhere.

    Vocabulary specialisation of OLMoE (Muennighoff et al. 2024): of a token's occurrences, the share for which the expert
    is among the k chosen. Only tokens with `least` occurrences in `least_documents` documents are looked at.
    tokens: layer, expert, rank (from 0), token, id, share, occurrences, documents (it occurs in), uniform (k/E).
    layers: layer; specialisation (for each different token the share of the expert that takes it most often, mean over the
    different tokens); low and high (95 % of this estimate, resampling documents within their kinds); even (the same for a
    choice at random, which is above k/E because the largest of several shares is taken, as it is for the model); untrained
    and untrained_high (mean and 97.5 % of the untrained routers); p_untrained; types (how many different tokens).
    Raises BadInput when no token is frequent enough.
    """
    import pandas as pd

    check_routing(routing)
    top, least = checks.whole("top", top, 1), checks.whole("least", least, 1)
    least_documents = checks.whole("least_documents", least_documents, 1)
    draws, seed = checks.whole("draws", draws, 1), checks.seed(seed)
    ids, place, occurrences = np.unique(routing.ids, return_inverse=True, return_counts=True)
    pairs = np.unique(place * len(routing.kind_of) + routing.document)
    documents = np.bincount(pairs // len(routing.kind_of), minlength=len(ids))
    kept = np.flatnonzero((occurrences >= least) & (documents >= least_documents))
    if not len(kept):
        raise BadInput(
            f"No token occurs {least} times in {least_documents} documents here; collect more text, or lower `least`."
        )
    number = np.full(len(ids), -1)
    number[kept] = np.arange(len(kept))
    number = number[place]
    where = np.flatnonzero(number >= 0)
    number, n, experts = number[where], occurrences[kept], routing.n_experts
    rng = np.random.default_rng(seed)
    weights = resampled(routing.kind_of, draws, rng)[:, routing.document[where]]
    even = [even_counts(n, experts, routing.k, len(n), rng).max(-1) / n for _ in range(EVEN_DRAWS)]
    rows, summary = [], []
    for index, layer in enumerate(routing.layers):

        def counts(chosen: np.ndarray, weight: np.ndarray | None = None, index: int = index) -> np.ndarray:
            key = number[:, None] * experts + chosen[where, index]
            every = None if weight is None else np.repeat(weight, routing.k)
            return np.bincount(key.ravel(), weights=every, minlength=len(n) * experts).reshape(-1, experts)

        found = counts(routing.experts)
        shares = found / n[:, None]
        order = np.lexsort((np.broadcast_to(-n[:, None], shares.shape), -shares), axis=0)[:top]
        for rank, expert in np.ndindex(order.shape):
            token = order[rank, expert]
            if found[token, expert]:
                rows.append((layer, expert, rank, int(ids[kept[token]]), shares[token, expert], token))
        level = shares.max(1).mean()
        samples = [_level(counts(routing.experts, w), np.bincount(number, w, minlength=len(n))) for w in weights]
        low, high = centred_interval(level, np.array(samples))
        others = np.array([_level(counts(o), n) for o in (() if routing.untrained is None else routing.untrained)])
        summary.append(
            {
                "layer": layer,
                "specialisation": level,
                "low": low,
                "high": min(high, 1.0),
                "even": np.mean(even),
                "untrained": others.mean() if len(others) else np.nan,
                "untrained_high": np.percentile(others, ENDS[1]) if len(others) else np.nan,
                "p_untrained": p_value(level, others) if len(others) else np.nan,
                "types": len(n),
            }
        )
    tokens = pd.DataFrame(rows, columns=["layer", "expert", "rank", "id", "share", "number"])
    of = tokens.pop("number").to_numpy(np.int64)
    tokens.insert(3, "token", [routing.tokens.get(i, f"<id {i}>") for i in tokens["id"]])
    tokens["occurrences"], tokens["documents"] = n[of], documents[kept][of]
    tokens["uniform"] = routing.k / experts
    tokens = tokens.sort_values(["layer", "expert", "rank"], ignore_index=True)
    return Vocabulary(
        tokens,
        layers=pd.DataFrame(summary),
        model=routing.model,
        documents=len(routing.kind_of),
        notes=routing.notes,
        draws=draws,
        seed=seed,
        least=least,
        least_documents=least_documents,
    )


def _level(counts: np.ndarray, n: np.ndarray) -> float:
    """counts: (tokens, E), n: (tokens,); a token that a sample does not hold is left out."""
    held = n > 0
    return float((counts[held].max(1) / n[held]).mean())
