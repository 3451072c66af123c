"""A text's features as a picture and as numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from labkit.views.drawing.page import Page, Token
from labkit.views.drawing.scene import ACCENT, PAPER, mixed
from labkit.views.kit.arrays import numbers

if TYPE_CHECKING:
    import pandas as pd

    from labkit.sae import Features

TOKENS = 400  # in a picture


def numbers_of(found: Features) -> pd.DataFrame:
    """A row for each token and each feature that is active on it: the activation, and the share of the token's residual
    that its features leave unexplained."""
    import pandas as pd

    position, place = numbers((found.indices >= 0) & (found.values > 0)).nonzero()
    return pd.DataFrame(
        {
            "position": position,
            "token": [found.tokens[i] for i in position],
            "feature": numbers(found.indices)[position, place],
            "activation": numbers(found.values, "<f4")[position, place],
            "unexplained": numbers(found.unexplained, "<f4")[position],
        }
    )


def shaded(page: Page, texts: Sequence[str], values: Sequence[float], top: float, undefined: Sequence[int]) -> Page:
    """The text, each token shaded by an activation; the share of `top` is the share of the colour."""
    tokens = []
    for i, (text, value) in enumerate(list(zip(texts, values, strict=True))[:TOKENS]):
        if i in undefined:
            tokens.append(Token(text or "∅", colour="#8a929b"))
        else:
            fill = mixed(PAPER, ACCENT, 0.75 * min(1.0, value / (top or 1.0))) if value > 0 else None
            tokens.append(Token(text or "∅", fill=fill, hover=f"{value:.4g}" if value > 0 else ""))
    page.tokens(tokens)
    return page.note("Shaded by activation; grey: features are not defined there.")
