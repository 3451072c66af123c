"""Routes as a picture and as numbers, and the view's colours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from labkit.views.drawing.page import Page, Token
from labkit.views.drawing.pixels import Indexed
from labkit.views.drawing.scene import Picture
from labkit.views.routes_view.choices import Drawn, choices_of

if TYPE_CHECKING:
    import pandas as pd

    from labkit.trace.record import Trace

PALETTE = (
    ("#0072b2", "#3f9bd8"),
    ("#e69f00", "#f0b030"),
    ("#009e73", "#1fbd8d"),
    ("#cc79a7", "#dd92bb"),
    ("#56b4e9", "#a5dcfb"),
    ("#d55e00", "#f0803c"),
    ("#d8c700", "#f5ea5a"),
    ("#4d4d4d", "#dcdcdc"),
)
"""On light paper and on dark: Okabe and Ito's colours, the yellow darker where white would swallow it. As many experts of
each layer have a colour of their own."""
OTHER = ("#dde2e7", "#323941")
COLOURS, OTHERS = tuple(light for light, _ in PALETTE), OTHER[0]
TOKENS, COLUMNS = 400, 1_024  # in a picture: of the text and of the strip


def numbers_of(traces: Sequence[Trace]) -> pd.DataFrame:
    """A row for each trace, layer, token and chosen expert, the largest weight first: its number and weight, float32."""
    import pandas as pd

    frames = []
    for number, trace in enumerate(traces):
        experts, weights = choices_of(trace)
        position, layer, rank = (each.ravel() for each in np.indices(experts.shape))
        frames.append(
            pd.DataFrame(
                {
                    "trace": number,
                    "layer": np.asarray(trace.routes.layers)[layer],
                    "position": position,
                    "token": np.asarray(trace.tokens, dtype=object)[position],
                    "rank": rank,
                    "expert": experts.ravel(),
                    "weight": weights.ravel(),
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def picture(
    first: Drawn,
    layer: int,
    slots: np.ndarray,
    chosen: Sequence[int],
    *,
    head: str,
    chance: str,
    loads: Sequence[tuple[int, int, float]],
) -> Picture:
    """The text coloured by the expert each token goes to first, all layers as a strip, the most chosen experts.

    layer: the place of the one on show. slots: (layers, tokens) places in COLOURS. chosen: whose colours they are there.
    """
    page = Page(description=head).heading(head)
    page.note("Each token is coloured by the expert it goes to first, whose number stands after it.")
    experts = first.experts[layer, :, 0].astype(int).tolist()
    tokens = []
    for piece, slot, expert in list(zip(first.pieces.texts, slots[layer].tolist(), experts, strict=False))[:TOKENS]:
        tokens.append(Token(piece or "∅", fill=COLOURS[slot] if slot >= 0 else OTHERS, note=str(expert)))
    page.tokens(tokens)
    if (left := len(first.pieces.texts) - TOKENS) > 0:
        page.note(f"({left} more tokens)")
    page.key([*((COLOURS[i], f"expert {e}") for i, e in enumerate(chosen)), (OTHERS, "others")])
    rows, columns = slots.shape
    if columns:
        page.note("All layers, from above to below, a cell for each token:")
        cells = np.where(slots < 0, len(COLOURS), slots)[:, :COLUMNS]
        page.pixels(
            Indexed.of(cells, (*COLOURS, OTHERS)).rgba(),
            width=min(680.0, 20.0 * columns),
            height=min(480.0, 16.0 * rows),
        )
    return page.table(
        [(e, tokens_, f"{share:.1%}") for e, tokens_, share in loads],
        ("expert", "tokens", "share of the choices"),
        caption=f"The most chosen experts ({chance})",
        right=(0, 1, 2),
        bars=[share for _, _, share in loads],
        colours=[COLOURS[chosen.index(e)] if e in chosen else OTHERS for e, _, _ in loads],
    ).picture()
