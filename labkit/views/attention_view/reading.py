"""What the attention view reads from a trace when it is asked: a head, a tile of it, one token's line, one weight.

aside, wherever it stands: token 0 is set aside, the rest of each row renormalised (`labkit.attention.set_aside`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from labkit.attention import set_aside
from labkit.checks import as_number
from labkit.errors import Unavailable
from labkit.views.attention_view.codes import MOST_CELLS, highest, pack, pool_size
from labkit.views.base import clean, shorten
from labkit.views.kit.arrays import numbers
from labkit.views.kit.codes import quantize
from labkit.views.kit.traits import Content

if TYPE_CHECKING:
    from labkit.trace.record import Trace

TILE = 256  # cells along a side of a tile
LINKS = 5
LABEL_CHARACTERS = 80
_NUMBERS_AT_ONCE = 1 << 22
_ROWS_COMPARED, _FEWEST_COMPARED = 48, 12
_FULL_ROW = 0.999


@dataclass(frozen=True)
class Head:
    """One head, ready to be drawn.

    cells: `codes.pack` of its n × n codes.  summary: what is said about it, JSON alone.
    rest: (T,) float32, what each token has left for others than token 0, by which the rest of its row is divided when
        that is set aside; NaN where that is no number.
    """

    cells: bytes
    summary: Content
    rest: np.ndarray


def layers_with_attention(trace: Trace) -> list[int]:
    """The layers whose patterns can be had. Raises Unavailable, with the trace's own reason, when there are none."""
    found = trace.layers_with("attention")
    if not found:
        raise Unavailable("This trace has no layers; take one with lab.trace(text).")
    return found


def clearest_head(trace: Trace, layers: Sequence[int], heads: Iterable[int]) -> tuple[int, int]:
    """(layer, head) whose tokens look most firmly at one other: the mean, over tokens, of the largest weight on a
    token that is neither the first nor the token itself. At most 48 tokens of the text, evenly spread, are compared.
    """
    heads, length = list(heads), len(trace.tokens)
    count = min(_ROWS_COMPARED, max(_FEWEST_COMPARED, _ROWS_COMPARED * MOST_CELLS // length))  # a long text has fewer
    rows = np.unique(np.linspace(2, length - 1, count).astype(int)) if length > 2 else np.arange(0)
    best, chosen = -1.0, (layers[0], heads[0])
    for layer in layers if len(rows) else ():
        weights = numbers(trace.attention(layer, rows=rows.tolist()))[heads].copy()
        weights[:, :, 0] = 0
        weights[:, np.arange(len(rows)), rows] = 0
        means = weights.max(-1).mean(-1)
        for head, mean in zip(heads, means.tolist(), strict=True):
            if mean > best:  # never for NaN
                best, chosen = mean, (layer, head)
    return chosen


def read_head(trace: Trace, layer: int, head: int, *, aside: bool = False) -> Head:
    """Compute one head's pattern, a few rows at a time, and what is to be said about it."""
    length = len(trace.tokens)
    pool = pool_size(length)
    pooled, links, sums, rests, firsts, selves, broken, ahead = [], [], [], [], [], [], 0, False
    for start, weights in _blocks(trace, layer, head, range(length), pool=pool):
        sums.append(weights.sum(-1))
        rests.append(weights[:, 1:].sum(-1))
        firsts.append(weights[:, 0].copy())
        selves.append(np.diagonal(weights, offset=start).copy())
        broken += int(np.isnan(sums[-1]).sum())
        ahead = ahead or bool((np.triu(weights[:, start:], 1) > 0).any())
        shown = numbers(_aside(torch.from_numpy(weights), aside))
        pooled.append(quantize(highest(shown, pool)))
        links += _strongest(shown, start)
    codes = np.concatenate(pooled)
    links.sort(key=lambda link: -link[2])
    whole = np.concatenate(sums)
    sound = whole[~np.isnan(whole)]
    lowest = float(sound.min()) if len(sound) else 1.0
    first, own, rest = _mean(np.concatenate(firsts)[1:]), _mean(np.concatenate(selves)[1:]), _mean(whole[1:])
    return Head(
        cells=pack(codes),
        summary={
            "layer": layer,
            "head": head,
            "aside": aside,
            "links": [as_link(trace, *link) for link in links[:LINKS]],
            "first": first,
            "self": own,
            "others": None if rest is None or first is None or own is None else max(0.0, rest - first - own),
            "lowest_sum": lowest if lowest < _FULL_ROW else None,
            "broken_rows": broken,
            "ahead": ahead,
            "window": trace.window(layer),
        },
        rest=np.concatenate(rests).astype(np.float32),
    )


def read_cell(
    trace: Trace, layer: int, head: int, row: int, column: int, *, pool: int = 1, aside: bool = False
) -> tuple[int, int, float]:
    """(query, key, weight) behind a cell, exactly; the strongest pair where the cell stands for pool × pool tokens.

    row, column: the cell's place, counted in cells.
    """
    length = len(trace.tokens)
    rows = range(row * pool, min(length, (row + 1) * pool))
    whole = trace.attention(layer, head, rows=rows)
    weights = numbers(_aside(whole, aside))[:, column * pool : (column + 1) * pool]
    query, key = np.unravel_index(np.argmax(weights), weights.shape)  # a NaN counts as the highest
    return row * pool + int(query), column * pool + int(key), float(weights[query, key])


def read_band(trace: Trace, layer: int, head: int, pool: int, row: int, *, aside: bool = False) -> np.ndarray:
    """(256, cells) codes of a row of tiles, at pool × pool tokens a cell; fewer rows where the text ends.

    A tile is 256 columns of it.
    """
    rows = range(row * TILE * pool, min(len(trace.tokens), (row + 1) * TILE * pool))
    blocks = _blocks(trace, layer, head, rows, pool=pool, aside=aside)
    return quantize(np.concatenate([highest(weights, pool) for _, weights in blocks]))


def mean_pattern(trace: Trace, heads: Sequence[tuple[int, int]], *, aside: bool = False) -> np.ndarray:
    """(T, T) float32: the mean of the patterns of some heads."""
    total = sum(_aside(trace.attention(layer, head), aside) for layer, head in heads)
    assert isinstance(total, torch.Tensor)
    return numbers(total / len(heads))


def read_line(
    trace: Trace, heads: Sequence[tuple[int, int]], token: int, *, into: bool, aside: bool = False
) -> np.ndarray:
    """(T,) float32, the mean over some heads: what a token looks at, or (into) how much each token looks at it."""
    length = len(trace.tokens)
    total = np.zeros(length, np.float32)
    for layer, head in heads:
        if not into:
            total += numbers(_aside(trace.attention(layer, head, rows=[token]), aside))[0]
            continue
        for start, weights in _blocks(trace, layer, head, range(token, length), aside=aside):  # none before it sees it
            total[start : start + len(weights)] += weights[:, token]
    return total / len(heads)


def as_link(trace: Trace, query: int, key: int, weight: float) -> Content:
    """A weight and its two tokens, as JSON takes them."""
    texts = {"query_text": label(trace, query), "key_text": label(trace, key)}
    return {"query": query, "key": key, **texts, "weight": as_number(weight)}  # JSON has no NaN


def label(trace: Trace, token: int) -> str:
    """A token's text, bounded."""
    return shorten(clean(shorten(trace.tokens[token], LABEL_CHARACTERS)), LABEL_CHARACTERS)


def _aside(weights: torch.Tensor, aside: bool) -> torch.Tensor:
    return set_aside(weights.clone()) if aside else weights


def _blocks(
    trace: Trace, layer: int, head: int, rows: range, *, pool: int = 1, aside: bool = False
) -> Iterator[tuple[int, np.ndarray]]:
    """A few rows at a time, whole cells of `pool` where they end within the text: the first one's number, (rows, T)."""
    step = max(1, _NUMBERS_AT_ONCE // (len(trace.tokens) * pool)) * pool
    for start in range(rows.start, rows.stop, step):
        weights = trace.attention(layer, head, rows=slice(start, min(rows.stop, start + step)))
        yield start, numbers(_aside(weights, aside))


def _strongest(weights: np.ndarray, start: int) -> list[tuple[int, int, float]]:
    """The strongest links of these rows (query, key, weight), those to the first token and to the token itself aside;
    a text too short to have others gives those."""
    length = weights.shape[1]
    others = np.nan_to_num(weights, nan=0.0)
    if length > 2:
        others[:, 0] = 0
        others[np.arange(len(others)), start + np.arange(len(others))] = 0
    peaks = others.max(-1)
    rows = np.argsort(-peaks, kind="stable")[:LINKS]  # the strongest links are among the rows with the highest maxima
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
