"""What lenses read, as the view holds and sends it: a column for each token, a cell for each lens and layer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np

from labkit.errors import BadInput
from labkit.markup import clean, shorten

CHARACTERS = 80  # of a token


class Reading(Protocol):
    """What `lk.lens(lab, trace, kind)` returns. Besides `top`, it says of itself kind, layers, trace (or tokens) and model."""

    def top(self, layer: int, position: int, k: int, /) -> Sequence[tuple[str, int, float]]:
        """The k most probable tokens: (token, id, probability), the most probable first."""
        ...


class Cell(NamedTuple):
    """The most probable tokens at a layer and position. kl: nats from the model's own prediction there; NaN: not known."""

    tokens: tuple[str, ...]
    probabilities: tuple[float, ...]
    kl: float = math.nan


@dataclass(frozen=True)
class Column:
    """One token, and what is read after it. cells: by (lens, layer). written: whether the model wrote it itself."""

    token: str
    cells: Mapping[tuple[str, int], Cell] = field(default_factory=dict)
    written: bool = False


@dataclass(frozen=True)
class Cells:
    """All columns as arrays; the traits of `LensView` tell them."""

    texts: list[str]
    places: np.ndarray
    probabilities: np.ndarray
    divergences: np.ndarray

    @staticmethod
    def of(columns: Sequence[Column], kinds: Sequence[str], layers: Sequence[int], k: int) -> Cells:
        shape = (len(columns), len(kinds), len(layers))
        places, probabilities = np.full((*shape, k), -1, "<i4"), np.zeros((*shape, k), "<f4")
        divergences = np.full(shape, np.nan, "<f4")
        known: dict[str, int] = {}
        at = {(kind, layer): (i, j) for i, kind in enumerate(kinds) for j, layer in enumerate(layers)}
        for position, column in enumerate(columns):
            for key, cell in column.cells.items():
                i, j = at[key]
                numbered = [known.setdefault(token, len(known)) for token in cell.tokens[:k]]
                places[position, i, j, : len(numbered)] = numbered
                probabilities[position, i, j, : len(numbered)] = cell.probabilities[:k]
                divergences[position, i, j] = cell.kl
        return Cells([shorten(clean(token), CHARACTERS) for token in known], places, probabilities, divergences)


def tokens_of(reading: Any) -> list[str]:
    """The tokens of the text that a lens read."""
    tokens = getattr(reading, "tokens", None)
    tokens = getattr(getattr(reading, "trace", None), "tokens", None) if tokens is None else tokens
    if tokens is None:
        raise BadInput("This lens does not say which text it reads; give what lk.lens(lab, trace, kind) returned.")
    return list(tokens)


def layers_of(readings: Sequence[Any]) -> list[int]:
    """All layers that one of them reads at."""
    return sorted({layer for reading in readings for layer in _layers(reading)})


def _layers(reading: Any) -> list[int]:
    layers = getattr(reading, "layers", None)
    if layers is None:
        raise BadInput("This lens does not say which layers it reads; give what lk.lens(lab, trace, kind) returned.")
    return list(range(layers + 1)) if isinstance(layers, int) else [int(layer) for layer in layers]


def columns_of(readings: Mapping[str, Any], k: int) -> list[Column]:
    """What lenses of one text read, by their names."""
    tokens = tokens_of(next(iter(readings.values())))
    found: list[dict[tuple[str, int], Cell]] = [{} for _ in tokens]
    for name, reading in readings.items():
        for (layer, position), cell in _cells(reading, k, len(tokens)).items():
            found[position][name, layer] = cell
    return [Column(token, cells) for token, cells in zip(tokens, found, strict=True)]


def _cells(reading: Any, k: int, length: int) -> dict[tuple[int, int], Cell]:
    """By (layer, position): all at once where the lens gives its rows so, else cell by cell."""
    if callable(getattr(reading, "rows", None)):
        return {
            (int(row["layer"]), int(row["position"])): _of_row(row)
            for row in reading.rows(k=k).table.to_dict("records")
        }
    return {
        (layer, position): _of_top(reading.top(layer, position, k))
        for layer in _layers(reading)
        for position in range(length)
    }


def _of_row(row: Mapping[Any, Any]) -> Cell:
    """A row of `lk.logit_lens`: with one top token, several, or none where the logits are no numbers."""
    several, one = row.get("top_tokens"), row.get("top_token")
    if isinstance(several, tuple):
        return Cell(several, tuple(float(p) for p in row["top_probabilities"]), float(row["kl"]))
    return Cell((one,), (float(row["top_probability"]),), float(row["kl"])) if isinstance(one, str) else Cell((), ())


def _of_top(top: Sequence[tuple[str, int, float]]) -> Cell:
    return Cell(tuple(str(one[0]) for one in top), tuple(float(one[2]) for one in top))
