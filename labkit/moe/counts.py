"""Counting choices, resampling documents and the quantities of information: what the measures of this room share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from labkit.errors import BadInput
from labkit.moe.routing import Routing

LEAST_DOCUMENTS, LEAST_TOKENS = 10, 200  # of a kind of text, before anything is said of it
LEVEL = (2.5, 97.5)  # percent: where the intervals of 95 % end


def choices_by_document(experts: np.ndarray, document: np.ndarray, documents: int, n_experts: int) -> np.ndarray:
    """(documents, L, E) int64: how many tokens of each document chose each expert.

    experts: (N, L, k).  document: (N,).
    """
    _, layers, k = experts.shape
    counts = np.empty((documents, layers, n_experts), np.int64)
    first = np.repeat(document * n_experts, k)
    for layer in range(layers):
        found = np.bincount(first + experts[:, layer].ravel(), minlength=documents * n_experts)
        counts[:, layer] = found.reshape(documents, n_experts)
    return counts


def tokens_by_document(routing: Routing) -> np.ndarray:
    """(documents,) int64."""
    return np.bincount(routing.document, minlength=len(routing.kind_of))


def resampled(kind_of: np.ndarray, draws: int, rng: np.random.Generator) -> np.ndarray:
    """(draws, documents) float64: how often each document is in a sample, drawn with replacement within its kind.

    The bootstrap of Efron 1979 over documents, because the tokens of one are no independent evidence.
    """
    weights = np.zeros((draws, len(kind_of)))
    for kind in np.unique(kind_of):
        members = np.flatnonzero(kind_of == kind)
        weights[:, members] = rng.multinomial(len(members), np.full(len(members), 1 / len(members)), size=draws)
    return weights


def too_few(routing: Routing, least_documents: int, least_tokens: int) -> list[str]:
    """For each kind "" or why nothing is said of it."""
    tokens = np.bincount(routing.kind, minlength=len(routing.kinds))
    return few_notes(routing.kinds, documents_of_kind(routing), tokens, least_documents, least_tokens)


def documents_of_kind(routing: Routing) -> np.ndarray:
    """(kinds,) int64: documents with a counted token, since the others are no evidence."""
    return np.bincount(routing.kind_of[np.unique(routing.document)], minlength=len(routing.kinds))


def few_notes(
    kinds: Sequence[str], documents: np.ndarray, tokens: np.ndarray, least_documents: int, least_tokens: int
) -> list[str]:
    """For each kind "" or why nothing is said of it. documents, tokens: (kinds,), how many there are."""
    notes = []
    for kind, d, t in zip(kinds, documents.tolist(), tokens.tolist(), strict=True):
        enough = d >= least_documents and t >= least_tokens
        held = f"{d} document{'s' * (d != 1)} with {t:,} token{'s' * (t != 1)} of {kind}"
        few = f"{held} {'is' if d == 1 else 'are'} too few; give {least_documents} with {least_tokens:,}"
        notes.append("" if enough else few)
    return notes


def centred_interval(observed: np.ndarray, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """95 % of a number that is never below 0, from its resamplings along axis 0, less what resampling adds on average."""
    low, high = observed + np.percentile(samples, LEVEL, axis=0) - np.mean(samples, axis=0)
    return np.maximum(low, 0.0), np.maximum(high, 0.0)


def xlogx(x: np.ndarray) -> np.ndarray:
    """x · ln x, 0 at 0."""
    return x * np.log(np.where(x > 0, x, 1.0))


def entropy(counts: np.ndarray) -> np.ndarray:
    """Bits, over the last axis of counts that need not sum to 1. NaN where there are none."""
    total = counts.sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.maximum(np.log2(total) - xlogx(counts).sum(-1) / (total * np.log(2)), 0.0)


def mutual_information(table: np.ndarray) -> np.ndarray:
    """Bits between rows and columns of tables of counts (..., rows, columns). The plug-in estimate; never below 0."""
    total = table.sum((-1, -2))
    joint = xlogx(table).sum((-1, -2))
    margins = xlogx(table.sum(-1)).sum(-1) + xlogx(table.sum(-2)).sum(-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.maximum((joint - margins + xlogx(total)) / (total * np.log(2)), 0.0)


def p_value(observed: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(1 + how many of the others, along axis 0, reach the observed) / (1 + how many there are).

    Uniform when the observed is one of them (North, Curtis and Sham 2002). Differences of rounding count as reaching. NaN
    where the observed is.
    """
    p = (1 + (others >= observed - 1e-12).sum(0)) / (1 + len(others))
    return np.where(np.isnan(observed), np.nan, p)


def check_routing(routing: Any) -> Routing:
    if not isinstance(routing, Routing):
        raise BadInput(
            f"This takes a Routing, from lk.moe.collect(lab, texts), and a {type(routing).__name__} is none."
        )
    if not len(routing):
        raise BadInput("This Routing holds no tokens; collect the routes of some texts.")
    return routing


def attributes(routing: Routing, **more: Any) -> dict[str, Any]:
    """What every result says of where it comes from."""
    return {
        "model": routing.model,
        "tokens": len(routing),
        "documents": len(routing.kind_of),
        "notes": routing.notes,
    } | more


def grid(**axes: Sequence[Any]) -> dict[str, np.ndarray]:
    """Columns that run through every combination, the last fastest."""
    places = np.meshgrid(*(np.arange(len(a)) for a in axes.values()), indexing="ij")
    return {name: np.asarray(values)[place.ravel()] for (name, values), place in zip(axes.items(), places, strict=True)}
