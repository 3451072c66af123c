"""The layer strip as a PNG, for where no script runs: a saved notebook, a page with scripts turned off."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np

# the view's eight colours on light paper (`PALETTE` in logic.js), and the grey of all others
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#d8c700", "#4d4d4d")
OTHERS = "#c9ced4"
MOST_COLUMNS = 1_024


def data_address(slots: np.ndarray) -> str:
    """(layers, tokens) colour slots, -1 for all others, as the data: address of a PNG, a pixel a cell."""
    slots = slots[:, :MOST_COLUMNS]
    rows, columns = slots.shape
    lines = np.zeros((rows, columns + 1), np.uint8)  # a line starts with its filter: none
    lines[:, 1:] = np.where(slots < 0, len(COLOURS), slots)
    palette = b"".join(bytes.fromhex(colour[1:]) for colour in (*COLOURS, OTHERS))
    png = b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            _chunk(b"IHDR", struct.pack(">IIBBBBB", columns, rows, 8, 3, 0, 0, 0)),
            _chunk(b"PLTE", palette),
            _chunk(b"IDAT", zlib.compress(lines.tobytes(), 9)),
            _chunk(b"IEND", b""),
        ]
    )
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
