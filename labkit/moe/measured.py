"""Results of measures of a Routing: the table, and what it was measured on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

from labkit.moe.routing import Routing
from labkit.results import Result


@dataclass(frozen=True, eq=False, repr=False)
class Measured(Result):
    """A table measured on the routes of documents.

    model: its name.  tokens, documents: how many were counted.  notes: what a reader has to know about them.
    draws: resamplings, or permutations.  seed: of these.
    """

    model: str
    tokens: int
    documents: int
    notes: tuple[str, ...]
    draws: int
    seed: int

    def _what(self) -> str:
        """The beginning of the line above the table."""
        return type(self).__name__

    def _title(self) -> str:
        return f"{self._what()} of {self.model}: {self.tokens:,} tokens of {self.documents:,} documents"

    def _remarks(self) -> Sequence[str]:
        return self.notes


class Origin(TypedDict):
    """The fields that every Measured has beside its table."""

    model: str
    tokens: int
    documents: int
    notes: tuple[str, ...]
    draws: int
    seed: int


def origin(routing: Routing, draws: int, seed: int) -> Origin:
    """What a result says of where it comes from."""
    return {
        "model": routing.model,
        "tokens": len(routing),
        "documents": len(routing.kind_of),
        "notes": routing.notes,
        "draws": draws,
        "seed": seed,
    }
