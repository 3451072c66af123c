"""How far each weight of a matrix is off, in at most 128 × 128 cells: in each the weight that is furthest off."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

MOST_CELLS = 128  # along a side


@dataclass(frozen=True, eq=False)
class ErrorMap:
    """rows, columns: of the matrix, experts one below the other.  block: weights of a cell, down and across.

    places: (down, across), row · columns + column of the weight in each cell that is furthest off.  weights, values, errors:
    (down, across), what that weight was, what it became, and |value − weight|.
    """

    rows: int
    columns: int
    block: tuple[int, int]
    places: np.ndarray
    weights: np.ndarray
    values: np.ndarray
    errors: np.ndarray

    @property
    def down(self) -> int:
        return int(self.places.shape[0])

    @property
    def across(self) -> int:
        return int(self.places.shape[1])

    def packed(self) -> bytes:
        """(down, across) of uint32, float32, float32: place, weight, value."""
        cells = np.empty(self.places.shape, [("place", "<u4"), ("weight", "<f4"), ("value", "<f4")])
        cells["place"], cells["weight"], cells["value"] = self.places, self.weights, self.values
        return cells.tobytes()


def error_map(weight: np.ndarray, value: np.ndarray, most: int = MOST_CELLS) -> ErrorMap:
    """weight, value: (..., rows, columns), before and after."""
    columns = weight.shape[-1]
    before, after = weight.reshape(-1, columns), value.reshape(-1, columns)
    rows = len(before)
    block = (-(-rows // most), -(-columns // most))
    down, across = -(-rows // block[0]), -(-columns // block[1])
    errors = np.full((down * block[0], across * block[1]), -1.0, np.float32)  # what lies outside is never the largest
    errors[:rows, :columns] = np.abs(after - before)
    blocks = errors.reshape(down, block[0], across, block[1]).transpose(0, 2, 1, 3).reshape(down, across, -1)
    inside = blocks.argmax(-1)
    row = np.arange(down)[:, None] * block[0] + inside // block[1]
    column = np.arange(across)[None] * block[1] + inside % block[1]
    return ErrorMap(
        rows, columns, block, row * columns + column, before[row, column], after[row, column], blocks.max(-1)
    )
