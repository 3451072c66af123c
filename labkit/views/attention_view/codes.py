"""A head of any length, and only its seen half, as the attention view's bytes."""

from __future__ import annotations

import numpy as np

MOST_CELLS = 1024
"""A longer text is pooled: each cell of the whole picture then stands for several tokens."""


def pool_size(tokens: int) -> int:
    """How many tokens a cell stands for in each direction, so that there are at most MOST_CELLS."""
    return max(1, -(-tokens // MOST_CELLS))


def pack(codes: np.ndarray) -> bytes:
    """(..., n, n) codes row by row, without the half that a causal model can't see: n (n + 1) / 2 bytes each."""
    return bytes(codes[..., np.tri(codes.shape[-1], dtype=bool)].tobytes())


def unpack(cells: bytes) -> np.ndarray:
    """The packed half of a pattern as (n, n) codes."""
    n = int((8 * len(cells) + 1) ** 0.5 - 1) // 2
    square = np.zeros((n, n), np.uint8)
    square[np.tri(n, dtype=bool)] = np.frombuffer(cells, np.uint8)
    return square


def highest(weights: np.ndarray, pool: int) -> np.ndarray:
    """Max pooling of (rows, T) by pool × pool; NaN wins. A mean would wash out the thin lines heads are known by."""
    if pool == 1:
        return weights
    rows, length = weights.shape
    padded = np.zeros((-(-rows // pool) * pool, -(-length // pool) * pool), weights.dtype)
    padded[:rows, :length] = weights
    pooled: np.ndarray = padded.reshape(len(padded) // pool, pool, -1, pool).max((1, 3))
    return pooled
