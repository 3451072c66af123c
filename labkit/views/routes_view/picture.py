"""The view's colours, and the layer strip as pixels for where no script runs: a saved notebook, a picture."""

from __future__ import annotations

import numpy as np

from labkit.views.drawing.pixels import Indexed

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
MOST_COLUMNS = 1_024


def strip(slots: np.ndarray) -> Indexed:
    """(layers, tokens) colour slots, -1 for all others, a pixel a cell."""
    shown = slots[:, :MOST_COLUMNS]
    return Indexed.of(np.where(shown < 0, len(COLOURS), shown), (*COLOURS, OTHERS))
