"""A head as a PNG, for where no script runs: a saved notebook, a page with scripts turned off."""

from __future__ import annotations

import numpy as np

from labkit.views.drawing import pixels
from labkit.views.kit.codes import LEVELS, NOT_A_NUMBER

MOST_PIXELS = 320  # along a side, where there are more tokens than that


def data_address(codes: np.ndarray) -> str:
    """`png` as a data: address."""
    return pixels.data_address(png(codes))


def png(codes: np.ndarray) -> bytes:
    """(n, n) codes as an indexed PNG, a pixel a cell; larger ones are max-pooled. Code 0 is clear."""
    return pixels.png(pooled(codes), _palette().tobytes(), clear=0)


def pooled(codes: np.ndarray) -> np.ndarray:
    """(n, n) codes, max-pooled where they are more than MOST_PIXELS along a side."""
    pool = -(-len(codes) // MOST_PIXELS)
    if pool == 1:
        return codes
    size = -(-len(codes) // pool)
    padded = np.zeros((size * pool, size * pool), np.uint8)
    padded[: len(codes), : len(codes)] = codes
    highest: np.ndarray = padded.reshape(size, pool, size, pool).max((1, 3))
    return highest


def shades(codes: np.ndarray) -> np.ndarray:
    """(n, n) codes as (n, n, 4) uint8; code 0 is clear."""
    return np.concatenate([_palette()[codes], np.where(codes[..., None] == 0, 0, 255).astype(np.uint8)], axis=-1)


def unpack(cells: bytes) -> np.ndarray:
    """The packed half of a pattern as (n, n) codes."""
    n = int((8 * len(cells) + 1) ** 0.5 - 1) // 2
    square = np.zeros((n, n), np.uint8)
    square[np.tri(n, dtype=bool)] = np.frombuffer(cells, np.uint8)
    return square


def _palette() -> np.ndarray:
    """(256, 3) uint8. One that holds on light and on dark paper: from a pale to a deep blue."""
    t = (np.arange(256) / LEVELS).clip(0, 1)[:, None]
    table: np.ndarray = np.rint((1 - t) * np.array([225, 236, 246]) + t * np.array([16, 58, 128])).astype(np.uint8)
    table[NOT_A_NUMBER] = (213, 94, 0)
    return table
