"""A head's pattern as a picture, for where no script runs, and as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from labkit.markup import shorten, visible
from labkit.views.attention_view.codes import highest, unpack
from labkit.views.drawing.page import MARGIN, WIDTH, Page
from labkit.views.drawing.pixels import Indexed
from labkit.views.drawing.scene import INK, MUTED, Picture, Raster, Words, fitted
from labkit.views.kit.codes import LEVELS, NOT_A_NUMBER

if TYPE_CHECKING:
    import pandas as pd

    from labkit.trace.record import Trace

LABELLED = 40  # tokens, up to which each has its label
SIDE = 460.0
MOST_PIXELS = 320  # along a side, where there are more tokens than that


def numbers_of(trace: Trace, layer: int, head: int) -> pd.DataFrame:
    """A row for each query and each key it may look at: their positions and tokens, and the weight, float32."""
    import pandas as pd

    weights = trace.attention(layer, head).float().cpu().numpy()
    # what a query may not see has weight 0 and is left out; a model that looks both ways has nothing of the kind
    seen = np.ones_like(weights, bool) if np.triu(weights, 1).any() else np.tri(len(weights), dtype=bool)
    queries, keys = np.nonzero(seen)
    tokens = np.asarray(trace.tokens, dtype=object)
    return pd.DataFrame(
        {
            "layer": layer,
            "head": head,
            "query": queries,
            "query_token": tokens[queries],
            "key": keys,
            "key_token": tokens[keys],
            "weight": weights[queries, keys],
        }
    )


def pattern(codes: np.ndarray) -> Indexed:
    """(n, n) codes, a pixel a cell, max-pooled where they are more than MOST_PIXELS along a side. Code 0 is clear."""
    # a palette that holds on light and on dark paper: from a pale to a deep blue
    t = (np.arange(256) / LEVELS).clip(0, 1)[:, None]
    palette = np.rint((1 - t) * np.array([225, 236, 246]) + t * np.array([16, 58, 128])).astype(np.uint8)
    palette[NOT_A_NUMBER] = (213, 94, 0)
    return Indexed(highest(codes, -(-len(codes) // MOST_PIXELS)), palette, clear=0)


def picture(cells: bytes, tokens: Sequence[str], title: str, links: Sequence[tuple[str, str, str]]) -> Picture:
    """The pattern, a row for each query, with the tokens beside it where they have room, and its strongest links."""
    page = Page(description=title).heading(title)
    page.note("A row for each token, darker where it looks more at the token of that column; square-root scale.")
    page.drawing(_pattern(unpack(cells), tokens))
    said = "The strongest links, those to the first token and to itself aside"
    return page.table(links, ("token", "looks at", "weight"), caption=said, right=(2,)).picture()


def _pattern(codes: np.ndarray, tokens: Sequence[str]) -> Picture:
    n = len(codes)
    labelled = n <= LABELLED
    cell = min(24.0, SIDE / max(1, n))
    left, top = (150.0, 8.0) if labelled else (MARGIN, 8.0)
    side = cell * n
    drawn = Picture(WIDTH, top + side + (110 if labelled else 16))
    drawn.add(Raster(left, top, side, side, pattern(codes).rgba()))
    if labelled:
        for i, token in enumerate(tokens):
            text = visible(shorten(token, 24)).replace("\n", "↵")
            at = top + (i + 0.5) * cell + 4
            drawn.add(Words(left - 6, at, fitted(f"{i} {text}", 130, 11.0), 11.0, INK, "end"))
            below = fitted(f"{text} {i}", 100, 11.0)
            drawn.add(Words(left + (i + 0.5) * cell + 4, top + side + 6, below, 11.0, MUTED, "end", angle=-90))
    return drawn
