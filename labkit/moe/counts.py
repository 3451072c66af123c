"""Counting choices by document and by kind: what the measures of this room share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from labkit.errors import BadInput
from labkit.moe.routing import Routing
from labkit.trace.documents import few_notes

LEAST_DOCUMENTS, LEAST_TOKENS = 10, 200  # of a kind of text, before anything is said of it


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


def too_few(routing: Routing, least_documents: int, least_tokens: int) -> list[str]:
    """For each kind "" or why nothing is said of it."""
    tokens = np.bincount(routing.kind, minlength=len(routing.kinds))
    return few_notes(routing.kinds, documents_of_kind(routing), tokens, least_documents, least_tokens)


def documents_of_kind(routing: Routing) -> np.ndarray:
    """(kinds,) int64: documents with a counted token, since the others are no evidence."""
    return np.bincount(routing.kind_of[np.unique(routing.document)], minlength=len(routing.kinds))


def check_routing(routing: object) -> Routing:
    if not isinstance(routing, Routing):
        raise BadInput(
            f"This takes a Routing, from lk.moe.collect(lab, texts), and a {type(routing).__name__} is none."
        )
    if not len(routing):
        raise BadInput("This Routing holds no tokens; collect the routes of some texts.")
    return routing


def grid(**axes: Sequence[object]) -> dict[str, np.ndarray]:
    """Columns that run through every combination, the last fastest."""
    places = np.meshgrid(*(np.arange(len(a)) for a in axes.values()), indexing="ij")
    return {name: np.asarray(values)[place.ravel()] for (name, values), place in zip(axes.items(), places, strict=True)}
