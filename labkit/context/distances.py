"""How far back heads look: the attention a token gives to those at each distance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from labkit import checks
from labkit.errors import BadInput
from labkit.results import Result

if TYPE_CHECKING:
    import torch

    from labkit.trace.record import Trace


@dataclass(frozen=True, eq=False, repr=False)
class AttentionOverDistance(Result):
    """Attention by distance; `attention_over_distance` tells the columns of the table. first_apart: token 0 stands by itself."""

    model: str
    tokens: int
    first_apart: bool

    def _title(self) -> str:
        return f"Attention of {self.model} over distance, {self.tokens:,} tokens"

    def _remarks(self) -> Sequence[str]:
        return ("the first token is left out: it stands in a row of its own",) if self.first_apart else ()


def attention_over_distance(
    trace: Trace, layers: Sequence[int] | None = None, *, first_apart: bool = True
) -> AttentionOverDistance:
    """The mean attention of each head by distance, beside that of a head which looks evenly at all it may see.

    trace: with its attention kept.  layers: None for all.
    first_apart: leave token 0 out, whose attention as a sink says nothing of distance; its share is a row of its own, with
        distance_from and distance_to −1.
    Distances (0: the token itself) are put together by powers of two. Returns a row for each head and range: layer, head,
    distance_from, distance_to (both included), attention (mean of the pairs at that distance), share (of a token's attention
    that goes there, mean over tokens), even (what `share` would be of an even head).
    Raises Unavailable where the trace has no patterns, BadInput for layers that are not there or a text of one token.
    """
    import pandas as pd
    import torch

    checks.flag("first_apart", first_apart)
    count = len(trace)
    if count < 2:
        raise BadInput("Attention over distance needs two tokens at least; give a longer text.")
    wanted = trace.layers_with("attention") if layers is None else [trace.layer_number(layer) for layer in layers]
    place = torch.arange(count)
    distance = place[:, None] - place[None, :]
    even = (distance >= 0).float() / (place[:, None] + 1)
    ranges: list[tuple[int, int]] = [(0, 0)]
    while ranges[-1][1] < count - 1:
        start = ranges[-1][1] + 1
        ranges.append((start, min(2 * start - 1, count - 1)))
    masks = [(distance >= start) & (distance <= end) for start, end in ranges]
    first = torch.zeros_like(masks[0])
    first[:, 0] = True
    if first_apart:
        masks = [mask & ~first for mask in masks] + [first]
        ranges.append((-1, -1))
    pairs = np.array([int(mask.sum()) for mask in masks])
    evenly = [float((even * mask).sum()) / count for mask in masks]
    rows: list[dict[str, object]] = []
    for layer in wanted:
        for head in range(trace.heads_of(layer)):
            pattern = trace.attention(layer, head)
            for (start, end), mask, n, level in zip(ranges, masks, pairs, evenly, strict=True):
                if n:
                    total = float(_sum(pattern, mask))
                    rows.append(
                        {
                            "layer": layer,
                            "head": head,
                            "distance_from": start,
                            "distance_to": end,
                            "attention": total / n,
                            "share": total / count,
                            "even": level,
                        }
                    )
    return AttentionOverDistance(pd.DataFrame(rows), trace.model, count, first_apart)


def _sum(pattern: torch.Tensor, mask: torch.Tensor) -> float:
    return float(pattern.double().masked_fill(~mask, 0.0).sum())
