"""The layer strip as pixels, for where no script runs: a saved notebook, a page with scripts turned off, a picture."""

from __future__ import annotations

import numpy as np

from labkit.views.drawing import pixels

# the view's eight colours on light paper (`PALETTE` in logic.js), and the grey of all others
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#d8c700", "#4d4d4d")
OTHERS = "#c9ced4"
MOST_COLUMNS = 1_024


def data_address(slots: np.ndarray) -> str:
    """(layers, tokens) colour slots, -1 for all others, as the data: address of a PNG, a pixel a cell."""
    return pixels.data_address(pixels.png(_places(slots), _palette()))


def shades(slots: np.ndarray) -> np.ndarray:
    """The same as (layers, tokens, 4) uint8."""
    table = np.frombuffer(_palette(), np.uint8).reshape(-1, 3)[_places(slots)]
    return np.concatenate([table, np.full((*table.shape[:2], 1), 255, np.uint8)], axis=-1)


def _places(slots: np.ndarray) -> np.ndarray:
    slots = slots[:, :MOST_COLUMNS]
    return np.where(slots < 0, len(COLOURS), slots).astype(np.uint8)


def _palette() -> bytes:
    return b"".join(bytes.fromhex(colour[1:]) for colour in (*COLOURS, OTHERS))
