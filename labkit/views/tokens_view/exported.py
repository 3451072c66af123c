"""A generation as a picture and as numbers, for what the token views are exported to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from labkit.markup import shorten
from labkit.views.drawing.page import Page, Token
from labkit.views.drawing.scene import ACCENT
from labkit.views.tokens_view.payload import OUTSIDE, numbers, pieces, why_empty

if TYPE_CHECKING:
    import pandas as pd

    from labkit.generation.record import Generation

# thickness of the line under a token, by its probability from so much on; the view's own strokes (tokens_view/logic.js)
STROKES = ((0.9, 0.6), (0.5, 1.4), (0.2, 2.4), (0.05, 3.6), (0.0, 5.0))
WORDS = ("over 90 %", "50–90 %", "20–50 %", "5–20 %", "under 5 %")
UNSURE = "#d55e00"
LEAST_SURE = 5


def numbers_of(generation: Generation) -> pd.DataFrame:
    """A row for each generated token; logarithms in nats, rank 0 for the token held most probable."""
    import pandas as pd

    logprobs = numbers(generation.logprobs, "<f8")
    return pd.DataFrame(
        {
            "position": range(len(generation.ids)),
            "token": generation.tokens,
            "id": generation.ids,
            "probability": np.exp(logprobs),
            "logprob": logprobs,
            "sampled_logprob": numbers(generation.sampled_logprobs, "<f8"),
            "rank": numbers(generation.ranks, "<i8"),
            "entropy": numbers(generation.entropies, "<f8"),
        }
    )


def draw(page: Page, generation: Generation, head: str) -> Page:
    """Its head line, the text with its underlines, what they mean, and the least sure tokens."""
    page.note(head)
    if empty := why_empty(generation):
        page.paragraph(empty)
    sure = np.exp(numbers(generation.logprobs, "<f8"))
    split = pieces(generation.tokens, generation.text)
    tokens = []
    for piece, probability in zip(split, sure.tolist(), strict=True):
        if piece.kind == OUTSIDE or not piece.text:
            continue
        line = next((thick for least, thick in STROKES if probability >= least), STROKES[-1][1])
        colour = UNSURE if not probability >= 0.2 else ACCENT
        tokens.append(Token(piece.text, line=line, line_colour=colour, hover=f"{probability:.2%}"))
    if tokens:
        said = "Under each token: how probable the model held it. The thicker, the less sure: "
        page.tokens(tokens).note(said + ", ".join(WORDS))
    least = [i for i in np.argsort(sure, kind="stable") if split[i].kind != OUTSIDE][:LEAST_SURE]
    return page.table(
        [(i, repr(shorten(generation.tokens[i], 40)), f"{sure[i]:.1%}") for i in least],
        ("token", "text", "probability"),
        caption="The least sure tokens",
        right=(0, 2),
        bars=[float(sure[i]) for i in least],
    )
