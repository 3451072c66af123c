"""A head as a PNG, for where no script runs: a saved notebook, a page with scripts turned off."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np

from labkit.views.codes import LEVELS, NOT_A_NUMBER

MOST_PIXELS = 320  # along a side, where there are more tokens than that


def data_address(codes: np.ndarray) -> str:
    """`png` as a data: address."""
    return "data:image/png;base64," + base64.b64encode(png(codes)).decode("ascii")


def png(codes: np.ndarray) -> bytes:
    """(n, n) codes as an indexed PNG, a pixel a cell; larger ones are max-pooled. Code 0 is clear."""
    pool = -(-len(codes) // MOST_PIXELS)
    if pool > 1:
        size = -(-len(codes) // pool)
        padded = np.zeros((size * pool, size * pool), np.uint8)
        padded[: len(codes), : len(codes)] = codes
        codes = padded.reshape(size, pool, size, pool).max((1, 3))
    n = len(codes)
    rows = np.zeros((n, n + 1), np.uint8)  # a row starts with its filter: none
    rows[:, 1:] = codes
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            _chunk(b"IHDR", struct.pack(">IIBBBBB", n, n, 8, 3, 0, 0, 0)),
            _chunk(b"PLTE", _palette().tobytes()),
            _chunk(b"tRNS", b"\x00"),
            _chunk(b"IDAT", zlib.compress(rows.tobytes(), 9)),
            _chunk(b"IEND", b""),
        ]
    )


def unpack(cells: bytes) -> np.ndarray:
    """The packed half of a pattern as (n, n) codes."""
    n = int((8 * len(cells) + 1) ** 0.5 - 1) // 2
    square = np.zeros((n, n), np.uint8)
    square[np.tri(n, dtype=bool)] = np.frombuffer(cells, np.uint8)
    return square


def _palette() -> np.ndarray:
    """(256, 3) bytes. One that holds on light and on dark paper: from a pale to a deep blue."""
    t = (np.arange(256) / LEVELS).clip(0, 1)[:, None]
    table = np.rint((1 - t) * np.array([225, 236, 246]) + t * np.array([16, 58, 128])).astype(np.uint8)
    table[NOT_A_NUMBER] = (213, 94, 0)
    return table


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
