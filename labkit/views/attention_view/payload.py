"""A head's attention pattern as the attention view's bytes, and the few facts about it that are said in words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from labkit.errors import Unavailable
from labkit.views.base import clean, shorten

if TYPE_CHECKING:
    from labkit.trace.record import Trace

MOST_CELLS = 1024
"""A longer text is pooled: each cell then stands for several tokens."""
LEVELS = 254
NOT_A_NUMBER = 255
LINKS = 5
_LABEL_CHARACTERS = 80
_NUMBERS_AT_ONCE = 1 << 22
_ROWS_COMPARED = 48
_FULL_ROW = 0.999


@dataclass(frozen=True)
class Head:
    """One head, ready to be drawn. cells: `pack` of its n × n codes. summary: what is said about it, JSON alone."""

    cells: bytes
    summary: dict[str, Any]


def quantize(weights: np.ndarray) -> np.ndarray:
    """Weights of 0 to 1 as codes for the eye, uint8: 0 is exactly zero, 1 to 254 the square root, 255 not a number.

    A code c stands for (c / 254)². The root is off by at most half a level, below the first level by up to one.
    """
    with np.errstate(invalid="ignore"):
        codes = np.rint(np.sqrt(np.clip(weights, 0, 1)) * LEVELS)
        codes = np.where(weights > 0, np.maximum(codes, 1), codes)
    return np.where(np.isnan(weights), NOT_A_NUMBER, codes).astype(np.uint8)


def dequantize(codes: np.ndarray) -> np.ndarray:
    """The weights that codes stand for, float64; NaN for what is no number."""
    return np.where(codes == NOT_A_NUMBER, np.nan, (codes.astype(np.float64) / LEVELS) ** 2)


def pool_size(tokens: int) -> int:
    """How many tokens a cell stands for in each direction, so that there are at most MOST_CELLS."""
    return max(1, -(-tokens // MOST_CELLS))


def pack(codes: np.ndarray) -> bytes:
    """(n, n) codes row by row, without the half that a causal model can't see: n (n + 1) / 2 bytes."""
    return bytes(codes[np.tri(len(codes), dtype=bool)].tobytes())


def layers_with_attention(trace: Trace) -> list[int]:
    """The layers whose patterns can be had. Raises Unavailable, with the trace's own reason, when there are none."""
    found, refused = [], None
    for layer in range(trace.layers):
        try:
            trace.attention(layer, 0, rows=[0])
        except Unavailable as error:
            refused = error
        else:
            found.append(layer)
    if not found:
        raise refused or Unavailable("This trace has no layers; take one with lab.trace(text).")
    return found


def clearest_head(trace: Trace, layers: Sequence[int], heads: Iterable[int]) -> tuple[int, int]:
    """(layer, head) whose tokens look most firmly at one other: the mean, over tokens, of the largest weight on a
    token that is neither the first nor the token itself. At most 48 tokens of the text, evenly spread, are compared.
    """
    heads, length = list(heads), len(trace.tokens)
    rows = np.unique(np.linspace(2, length - 1, _ROWS_COMPARED).astype(int)) if length > 2 else np.arange(0)
    best, chosen = -1.0, (layers[0], heads[0])
    for layer in layers if len(rows) else ():
        weights = numpy(trace.attention(layer, rows=rows.tolist()))[heads].copy()
        weights[:, :, 0] = 0
        weights[:, np.arange(len(rows)), rows] = 0
        means = weights.max(-1).mean(-1)
        for head, mean in zip(heads, means.tolist(), strict=True):
            if mean > best:  # never for NaN
                best, chosen = mean, (layer, head)
    return chosen


def read_head(trace: Trace, layer: int, head: int) -> Head:
    """Compute one head's pattern, a few rows at a time, and what is to be said about it."""
    length = len(trace.tokens)
    pool = pool_size(length)
    pooled, links, sums, firsts, selves, broken, ahead = [], [], [], [], [], 0, False
    for start, weights in _rows_of(trace, layer, head, length, pool):
        pooled.append(_highest(weights, pool))
        links += _strongest(weights, start)
        sums.append(weights.sum(-1))
        firsts.append(weights[:, 0])
        selves.append(np.diagonal(weights, offset=start))
        broken += int(np.isnan(sums[-1]).sum())
        ahead = ahead or bool((np.triu(weights[:, start:], 1) > 0).any())
    codes = quantize(np.concatenate(pooled))
    links.sort(key=lambda link: -link[2])
    sound = np.concatenate(sums)
    sound = sound[~np.isnan(sound)]
    lowest = float(sound.min()) if len(sound) else 1.0
    first, own = _mean(np.concatenate(firsts)[1:]), _mean(np.concatenate(selves)[1:])
    rest = _mean(np.concatenate(sums)[1:])
    return Head(
        cells=pack(codes),
        summary={
            "layer": layer,
            "head": head,
            "links": [
                {"query": i, "key": j, "query_text": label(trace, i), "key_text": label(trace, j), "weight": weight}
                for i, j, weight in links[:LINKS]
            ],
            "first": first,
            "self": own,
            "others": None if rest is None or first is None or own is None else max(0.0, rest - first - own),
            "lowest_sum": lowest if lowest < _FULL_ROW else None,
            "broken_rows": broken,
            "ahead": ahead,
        },
    )


def read_cell(trace: Trace, layer: int, head: int, row: int, column: int) -> tuple[int, int, float]:
    """(query, key, weight) behind a cell, exactly; the strongest pair where the cell stands for several tokens."""
    length = len(trace.tokens)
    pool = pool_size(length)
    rows = range(row * pool, min(length, (row + 1) * pool))
    weights = numpy(trace.attention(layer, head, rows=rows))[:, column * pool : (column + 1) * pool]
    query, key = np.unravel_index(np.argmax(weights), weights.shape)  # a NaN counts as the highest
    return row * pool + int(query), column * pool + int(key), float(weights[query, key])


def cell_labels(trace: Trace) -> list[str]:
    """The text behind each row and column: a token, or the tokens that share a cell."""
    tokens, pool = trace.tokens, pool_size(len(trace.tokens))
    return [
        shorten(clean("".join(shorten(token, _LABEL_CHARACTERS) for token in tokens[i : i + pool])), _LABEL_CHARACTERS)
        for i in range(0, len(tokens), pool)
    ]


def label(trace: Trace, token: int) -> str:
    """A token's text, bounded."""
    return shorten(clean(shorten(trace.tokens[token], _LABEL_CHARACTERS)), _LABEL_CHARACTERS)


def numpy(tensor: Any) -> np.ndarray:
    array: np.ndarray = tensor.detach().cpu().numpy()
    return array


def ranges(numbers: Iterable[int]) -> str:
    """Whole numbers in words: 0 to 3, 5, 7 to 9."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}{',' if b == a + 1 else ' to'} {b}" for a, b in runs)


def _rows_of(trace: Trace, layer: int, head: int, length: int, pool: int) -> Iterator[tuple[int, np.ndarray]]:
    step = max(1, _NUMBERS_AT_ONCE // (length * pool)) * pool
    for start in range(0, length, step):
        yield start, numpy(trace.attention(layer, head, rows=slice(start, min(length, start + step))))


def _highest(weights: np.ndarray, pool: int) -> np.ndarray:
    """Max pooling (rows, T) by pool × pool; NaN wins. A mean would wash out the thin lines that heads are known by."""
    if pool == 1:
        return weights
    rows, length = weights.shape
    padded = np.zeros((-(-rows // pool) * pool, -(-length // pool) * pool), weights.dtype)
    padded[:rows, :length] = weights
    highest: np.ndarray = padded.reshape(len(padded) // pool, pool, -1, pool).max((1, 3))
    return highest


def _strongest(weights: np.ndarray, start: int) -> list[tuple[int, int, float]]:
    """The strongest links of these rows (query, key, weight), those to the first token and to the token itself aside;
    a text too short to have others gives those."""
    length = weights.shape[1]
    others = np.nan_to_num(weights, nan=0.0)
    if length > 2:
        others[:, 0] = 0
        others[np.arange(len(others)), start + np.arange(len(others))] = 0
    highest = others.max(-1)
    rows = np.argsort(-highest, kind="stable")[:LINKS]  # the strongest links are among the rows with the highest maxima
    found = others[rows]
    top = np.argsort(-found, axis=None, kind="stable")[:LINKS]
    return [
        (start + int(rows[k // length]), int(k % length), float(found.flat[k]))
        for k in top.tolist()
        if found.flat[k] > 0
    ]


def _mean(values: np.ndarray) -> float | None:
    values = values[~np.isnan(values)]
    return float(values.mean()) if len(values) else None
