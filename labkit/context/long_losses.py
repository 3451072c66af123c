"""Loss by position: how well a model predicts early and late in long texts, with its positions as they are and stretched."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from labkit import checks
from labkit.context.long_texts import CHUNK, as_documents, check_room, read_losses
from labkit.context.stretching import Scaling, positions, scaling
from labkit.errors import Unavailable
from labkit.models.texts import texts as shipped_texts
from labkit.results import Result
from labkit.statistics import interval, resampled
from labkit.trace import running
from labkit.trace.input import as_ids
from labkit.trace.lab_like import check_lab

if TYPE_CHECKING:
    import pandas as pd

    from labkit.trace.lab_like import LabLike

DRAWS = 1_000
LEAST = 2  # documents for an interval
SMOOTHING = 0.1  # of a count, added to each token of the vocabulary


@dataclass(frozen=True, eq=False, repr=False)
class LossByPosition(Result):
    """Loss by position in long texts; `loss_by_position` tells the columns of the table.

    trained: positions the model was trained with.  factor: how many times that texts were read for.
    """

    model: str
    trained: int
    factor: float
    documents: int
    draws: int
    seed: int
    notes: tuple[str, ...] = ()

    def _title(self) -> str:
        return (
            f"Loss of {self.model} by position, trained with {self.trained:,}: {self.documents} documents of "
            f"{int(self.trained * self.factor):,} tokens"
        )

    def _remarks(self) -> Sequence[str]:
        return self.notes


def loss_by_position(
    lab: LabLike,
    texts: object = None,
    *,
    kinds: Sequence[str] = ("default", "linear", "ntk", "yarn"),
    factor: float = 4.0,
    trained: int | None = None,
    documents: int = 5,
    bins: int = 8,
    draws: int = DRAWS,
    seed: int = 0,
    progress: bool = True,
) -> LossByPosition:
    """The loss of each stretch of long texts, with a model's positions as they are and stretched in several ways.

    texts: a list of texts or token ids, each of factor · trained tokens; None joins shipped passages (`long_documents`).
    kinds: ways of `positions`; "default" leaves them as they are.  factor: how many times the trained length is read.
    trained: that length, where it is not the configuration's limit.  documents: how many shipped ones.
    bins: stretches of equal length; those up to the trained length and those beyond are never mixed where factor · trained
        is a multiple.  draws, seed: documents drawn again for the intervals.
    Returns a row for each way and stretch: kind, position_from, position_to (the first is 0; of the predicted token), loss
    (nats a token; with low and high, 95 %, NaN from one document), change (from "default", with change_low and change_high,
    of the same documents; NaN without it), unigram (the loss of predicting each token by its share of the shipped passages
    that are in no document), tokens, documents.
    Texts are read a chunk at a time with a cache. Raises NotEnoughMemory before it reads what would not fit, Unavailable for a
    model without rotary positions, BadInput.
    """
    check_lab(lab)
    checks.flag("progress", progress)
    ways = _ways(lab, kinds, factor, trained)
    trained = trained or lab.context
    if trained is None:
        raise Unavailable(f"{lab.name} names no number of positions; give trained=, the length it was trained with.")
    tokens = int(trained * checks.number("factor", factor, 1.0))
    check_room(lab, tokens)
    ids = as_documents(lab, texts, tokens, checks.whole("documents", documents, 1))
    bins, draws, seed = checks.whole("bins", bins, 1, tokens - 1), checks.whole("draws", draws, 1), checks.seed(seed)
    shares = unigram(lab, ids)
    with running.Progress("loss by position", len(ids) * len(ways), "text", progress) as bar:
        sums: dict[str, list[np.ndarray]] = {way.kind: [] for way in ways}
        for document in ids:  # all ways of one document, so that an interrupt leaves whole documents
            for way in ways:
                sums[way.kind].append(losses_with(lab, document, way))
                bar.advance()
    done = min(len(of) for of in sums.values())
    return by_position(
        {kind: np.stack(of[:done]) for kind, of in sums.items()},
        np.stack([shares[document[1:]] for document in ids[:done]]),
        model=lab.name,
        trained=trained,
        factor=factor,
        bins=bins,
        draws=draws,
        seed=seed,
        notes=("interrupted: some documents are missing",) if bar.interrupted else (),
    )


def _ways(lab: LabLike, kinds: object, factor: float, trained: int | None) -> list[Scaling]:
    names = [kinds] if isinstance(kinds, str) else checks.series("kinds", kinds, 'names such as ("default", "yarn")')
    if not names or len(set(map(str, names))) < len(names):
        checks.refuse("kinds", kinds, "each way once, and one at least")
    ways = [scaling(str(name), factor, trained) for name in names]
    for way in ways:
        way.config(lab.config)
    return ways


def losses_with(lab: LabLike, ids: Sequence[int], way: Scaling) -> np.ndarray:
    """(T − 1,) nats of each token but the first with positions stretched so."""
    edit = positions(way.kind, way.factor, trained=way.trained, **way.more)
    with lab.edit(edit), lab.turn():
        return read_losses(lab, ids, chunk=CHUNK, cached=way.kind != "dynamic")


def unigram(lab: LabLike, documents: Sequence[Sequence[int]]) -> np.ndarray:
    """(vocabulary,) nats of each token by its share in the shipped passages, those that are in the documents left out."""
    counts = np.full(running.embedding_rows(lab.model), SMOOTHING)
    whole = [",".join(map(str, ids)) for ids in documents]
    for of_kind in shipped_texts().values():
        for text in of_kind:
            ids = as_ids(lab.tokenizer, text, chat=False, context=None)
            middle = ",".join(map(str, ids[5:25]))  # ends are cut, and may be tokenized otherwise
            if not any(middle in document for document in whole):
                np.add.at(counts, ids, 1.0)
    return np.asarray(-np.log(counts / counts.sum()))


def by_position(
    nats: Mapping[str, np.ndarray],
    unigrams: np.ndarray,
    *,
    model: str,
    trained: int,
    factor: float,
    bins: int,
    draws: int = DRAWS,
    seed: int = 0,
    notes: tuple[str, ...] = (),
) -> LossByPosition:
    """The result from nats (documents, T − 1) of each way and of the unigram model."""
    import pandas as pd

    count, width = unigrams.shape
    edges = np.linspace(0, width + 1, bins + 1).round().astype(int)
    weights = resampled(np.zeros(count, np.int64), draws, np.random.default_rng(seed)) / max(count, 1)
    rows: list[dict[str, object]] = []
    for kind, values in nats.items():
        for start, end in itertools.pairwise(edges):
            inside = slice(max(start - 1, 0), end - 1)  # nats[i] is of the token at position i + 1
            own = values[:, inside].mean(1)
            change = own - nats["default"][:, inside].mean(1) if "default" in nats else np.full(count, np.nan)
            low, high = _ends(own, weights)
            change_low, change_high = _ends(change, weights)
            rows.append(
                {
                    "kind": kind,
                    "position_from": int(start),
                    "position_to": int(end - 1),
                    "loss": float(own.mean()),
                    "low": low,
                    "high": high,
                    "change": float(change.mean()),
                    "change_low": change_low,
                    "change_high": change_high,
                    "unigram": float(unigrams[:, inside].mean()),
                    "tokens": int(values[:, inside].size),
                    "documents": count,
                }
            )
    table: pd.DataFrame = pd.DataFrame(rows)
    return LossByPosition(table, model, trained, factor, count, draws, seed, notes)


def _ends(values: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    if len(values) < LEAST or not np.isfinite(values).all():
        return float("nan"), float("nan")
    low, high = interval(weights @ values)
    return float(low), float(high)
