"""ALiBi (Press et al. 2021, 2108.12409): no positions at all, but a penalty on each score that grows with distance."""

from __future__ import annotations

import math

import torch

from labkit import checks
from labkit.errors import NotEnoughMemory
from labkit.models.hardware import free_bytes
from labkit.models.memory import human_bytes


def alibi_slopes(heads: int, *, order: str = "bloom", most: float = 8.0) -> torch.Tensor:
    """(heads,): by how much each head's scores fall a token of distance: 2^(−8/n), 2^(−16/n), ... for n heads.

    Where n is no power of two, n' below it gives the first n' slopes, and every second of 2n' those that are left ("bloom", as
    in the paper's code and in Falcon); MPT takes every second of the next power first ("mpt"). most: 8 in all of them.
    """
    n = checks.whole("heads", heads, 1)
    order = checks.one_of("order", order, ("bloom", "mpt"))

    def of(count: int) -> list[float]:
        return [2.0 ** (-most * (i + 1) / count) for i in range(count)]

    if order == "mpt":
        above = of(2 ** math.ceil(math.log2(n)))
        found = above if len(above) == n else (above[1::2] + above[::2])[:n]
    else:
        below = 2 ** math.floor(math.log2(n))
        found = of(below) + of(2 * below)[::2][: n - below]
    return torch.tensor(found, dtype=torch.float32)


def alibi_bias(heads: int, tokens: int, *, order: str = "bloom") -> torch.Tensor:
    """(heads, T, T), to be added to the scores: −slope · distance, −inf where a key comes after the query.

    Bloom, Falcon and MPT add the same but for a number that is equal along a row, which softmax takes no notice of.
    """
    tokens, slopes = checks.whole("tokens", tokens, 1), alibi_slopes(heads, order=order)
    if (needed := 4 * tokens**2 * (2 * len(slopes) + 4)) > (free := free_bytes()):
        raise NotEnoughMemory(
            f"A bias of {len(slopes)} heads for {tokens:,} tokens takes {human_bytes(needed)} to make, and "
            f"{human_bytes(free)} are free; give fewer tokens."
        )
    place = torch.arange(tokens)
    distance = (place[:, None] - place[None, :]).float()
    bias = -slopes[:, None, None] * distance
    return bias.masked_fill(distance < 0, float("-inf"))
