"""A PNG from pixels, in plain Python: for pictures inside a page, where no imaging library need be."""

from __future__ import annotations

import base64
import html
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Indexed:
    """A picture of few colours. places: (rows, columns) uint8 places in the palette; palette: (colours, 3) uint8; clear: the
    place that is see-through, or None."""

    places: np.ndarray
    palette: np.ndarray
    clear: int | None = None

    @classmethod
    def of(cls, places: np.ndarray, colours: Sequence[str]) -> Indexed:
        """colours: "#rrggbb" each."""
        palette = np.array([list(bytes.fromhex(colour[1:])) for colour in colours], np.uint8)
        return cls(places.astype(np.uint8), palette)

    def png(self) -> bytes:
        """A pixel a place."""
        return png(self.places, self.palette.tobytes(), clear=self.clear)

    def rgba(self) -> np.ndarray:
        """(rows, columns, 4) uint8."""
        opacity = np.where(self.places == (-1 if self.clear is None else self.clear), 0, 255).astype(np.uint8)
        return np.concatenate([self.palette[self.places], opacity[..., None]], axis=-1)

    def image(self, width: int, height: int, alt: str) -> str:
        """An HTML element that holds the picture and shows it this large, each place with sharp edges."""
        return (
            f'<img src="{data_address(self.png())}" width="{width}" height="{height}" style="image-rendering: pixelated" '
            f'alt="{html.escape(alt)}">'
        )


def png(pixels: np.ndarray, palette: bytes | None = None, *, clear: int | None = None) -> bytes:
    """pixels: (rows, columns, 4) uint8 of red, green, blue and opacity; or with a palette (3 bytes a colour), (rows, columns)
    uint8 of its places, of which `clear` is see-through (the places before it are not)."""
    rows, columns = pixels.shape[:2]
    lines = np.zeros((rows, columns * (1 if palette else 4) + 1), np.uint8)  # a line starts with its filter: none
    lines[:, 1:] = pixels.reshape(rows, -1)
    parts = [_chunk(b"IHDR", struct.pack(">IIBBBBB", columns, rows, 8, 3 if palette else 6, 0, 0, 0))]
    if palette:
        parts.append(_chunk(b"PLTE", palette))
        if clear is not None:
            parts.append(_chunk(b"tRNS", b"\xff" * clear + b"\x00"))
    return b"".join(
        [b"\x89PNG\r\n\x1a\n", *parts, _chunk(b"IDAT", zlib.compress(lines.tobytes(), 9)), _chunk(b"IEND", b"")]
    )


def data_address(image: bytes) -> str:
    """A PNG as a data: address."""
    return "data:image/png;base64," + base64.b64encode(image).decode("ascii")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
