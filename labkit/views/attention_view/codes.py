"""Attention weights as the attention view's bytes."""

from __future__ import annotations

import numpy as np

MOST_CELLS = 1024
"""A longer text is pooled: each cell of the whole picture then stands for several tokens."""
LEVELS = 254
NOT_A_NUMBER = 255


def quantize(weights: np.ndarray) -> np.ndarray:
    """Weights of 0 to 1 as codes for the eye, uint8: 0 is exactly zero, 1 to 254 the square root, 255 not a number.

    A code c stands for (c / 254)². The root is off by at most half a level, below the first level by up to one.
    """
    with np.errstate(invalid="ignore"):
        codes = np.rint(np.sqrt(np.clip(weights, 0, 1)) * LEVELS)
        codes = np.where(weights > 0, np.maximum(codes, 1), codes)
    return np.where(np.isnan(weights), NOT_A_NUMBER, codes).astype(np.uint8)


def pool_size(tokens: int) -> int:
    """How many tokens a cell stands for in each direction, so that there are at most MOST_CELLS."""
    return max(1, -(-tokens // MOST_CELLS))


def pack(codes: np.ndarray) -> bytes:
    """(..., n, n) codes row by row, without the half that a causal model can't see: n (n + 1) / 2 bytes each."""
    return bytes(codes[..., np.tri(codes.shape[-1], dtype=bool)].tobytes())


def highest(weights: np.ndarray, pool: int) -> np.ndarray:
    """Max pooling of (rows, T) by pool × pool; NaN wins. A mean would wash out the thin lines heads are known by."""
    if pool == 1:
        return weights
    rows, length = weights.shape
    padded = np.zeros((-(-rows // pool) * pool, -(-length // pool) * pool), weights.dtype)
    padded[:rows, :length] = weights
    pooled: np.ndarray = padded.reshape(len(padded) // pool, pool, -1, pool).max((1, 3))
    return pooled
