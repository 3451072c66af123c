"""A head as pixels, for where no script runs: a saved notebook, a page with scripts turned off, a picture."""

from __future__ import annotations

import numpy as np

from labkit.views.attention_view.codes import highest
from labkit.views.drawing.pixels import Indexed
from labkit.views.kit.codes import LEVELS, NOT_A_NUMBER

MOST_PIXELS = 320  # along a side, where there are more tokens than that


def pattern(codes: np.ndarray) -> Indexed:
    """(n, n) codes, a pixel a cell, max-pooled where they are more than MOST_PIXELS along a side. Code 0 is clear."""
    return Indexed(highest(codes, -(-len(codes) // MOST_PIXELS)), _palette(), clear=0)


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
