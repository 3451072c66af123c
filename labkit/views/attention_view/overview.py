"""The attention view's map: all heads as thumbnails with their measures, from one pass, sent a few layers at a time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from labkit.attention import MEASURES, LayerSweep, sweep
from labkit.views.attention_view.codes import pack
from labkit.views.kit.codes import quantize

if TYPE_CHECKING:
    from labkit.trace.record import Trace

PARTS = 8
MOST_BYTES = 100_000  # of thumbnails, up to about 4,700 heads; with more, each is still SMALLEST_SIDE cells wide
LARGEST_SIDE, SMALLEST_SIDE = 21, 6
_HEADER = 5  # int32: aside, side, rows computed, first layer (its place in the list), layers


def thumbnail_side(heads: int, tokens: int) -> int:
    """Cells along the side of a thumbnail: all heads within MOST_BYTES, but none smaller than SMALLEST_SIDE."""
    side = int((2 * MOST_BYTES / max(1, heads)) ** 0.5)
    return max(1, min(tokens, max(SMALLEST_SIDE, min(LARGEST_SIDE, side))))


def measure_names(*, compared: bool) -> list[str]:
    """The measures each part carries, in this order."""
    return [name for name in MEASURES if compared or name != "change"]


class Overview:
    """One pass over the layers, in as many steps as it takes. Not to be stepped by two threads at once."""

    def __init__(self, trace: Trace, layers: Sequence[int], *, aside: bool, against: Trace | None) -> None:
        self.aside = aside
        self._names = measure_names(compared=against is not None)
        self._groups = [list(g) for g in np.array_split(np.arange(len(layers)), min(PARTS, len(layers)))]
        side = thumbnail_side(len(layers) * trace.heads, len(trace.tokens))
        self._sweeps: Iterator[LayerSweep] = sweep(trace, layers=list(layers), side=side, aside=aside, against=against)
        self._done = 0
        self._swept: list[LayerSweep] = []  # of the part in progress
        self.broken = False
        """Whether the pass ended in an error: then it can't go on."""

    @property
    def finished(self) -> bool:
        return self._done == len(self._groups)

    def run(self, put: Callable[[int, bytes], object], stop: threading.Event | None = None) -> None:
        """Go on until it is finished or stopped, handing each part to put(number, bytes) when it is whole."""
        while not self.finished:
            group = self._groups[self._done]
            while len(self._swept) < len(group):
                if stop is not None and stop.is_set():
                    return
                self.broken = True  # where the next layer can't be had
                self._swept.append(next(self._sweeps))
                self.broken = False
            put(self._done, self._encode(int(group[0]), self._swept))
            self._done += 1
            self._swept = []

    def _encode(self, first: int, swept: list[LayerSweep]) -> bytes:
        """Header, measures (measures, layers, heads) float32, thumbnails (layers, heads, side (side + 1) / 2) codes."""
        thumbnails = np.stack([s.highest for s in swept if s.highest is not None])
        header = np.array([self.aside, thumbnails.shape[-1], swept[0].rows, first, len(swept)], "<i4")
        assert len(header) == _HEADER
        measured = np.stack([np.stack([s.measures[name] for s in swept]) for name in self._names])
        return header.tobytes() + measured.astype("<f4").tobytes() + pack(quantize(thumbnails))
