"""A generation as a picture and as numbers, for what the token views are exported to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from labkit.markup import shorten
from labkit.views.drawing.page import Page, Token
from labkit.views.drawing.scene import mixed
from labkit.views.kit.arrays import numbers
from labkit.views.kit.running_text import OUTSIDE, pieces
from labkit.views.tokens_view.marks import OVERRIDDEN, drafted_of, foot, forbidden_of
from labkit.views.tokens_view.payload import STROKES, stroke_of, why_empty

if TYPE_CHECKING:
    import pandas as pd

    from labkit.generation.record import Generation

SURE, UNSURE = "#aab2bb", "#d55e00"  # theme.css has the same for its pages
LEAST_SURE = 5


def numbers_of(generation: Generation) -> pd.DataFrame:
    """A row for each generated token; logarithms in nats, rank 0 for the token held most probable.

    forbidden: the share of the model's probability that a form forbade; drafted: whether a draft proposed the token; each
    where there was one.
    """
    import pandas as pd

    logprobs = numbers(generation.logprobs, "<f8")
    forbidden = forbidden_of(generation)
    drafted, rounds = drafted_of(generation)
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
            **({} if forbidden is None else {"forbidden": forbidden.astype("<f8")}),
            **({"drafted": np.isin(range(len(generation.ids)), drafted)} if rounds else {}),
        }
    )


def draw(page: Page, generation: Generation, head: str) -> Page:
    """Its head line, the text with its underlines, what they mean, and the least sure tokens."""
    page.note(head)
    if empty := why_empty(generation):
        page.paragraph(empty)
    sure = np.exp(numbers(generation.logprobs, "<f8"))
    split = pieces(generation.tokens, generation.text)
    forbidden = forbidden_of(generation)
    over = [False] * len(split) if forbidden is None else (forbidden > OVERRIDDEN).tolist()
    tokens = []
    for piece, probability, overridden in zip(split, sure.tolist(), over, strict=True):
        if piece.kind == OUTSIDE or not piece.text:
            continue
        stroke = stroke_of(probability)
        colour = mixed(SURE, UNSURE, stroke.deep)
        sign = "!" if overridden else ""
        tokens.append(Token(piece.text, line=stroke.line, line_colour=colour, note=sign, hover=f"{probability:.2%}"))
    if tokens:
        said = "Under each token: how probable the model held it. The thicker, the less sure: "
        page.tokens(tokens).note(said + ", ".join(each.label for each in STROKES))
        if any(over):
            page.note(f"! where the form forbade more than {OVERRIDDEN:.0%} of the model's probability")
    for sentence in foot(generation):
        page.note(sentence)
    least = [i for i in np.argsort(sure, kind="stable") if split[i].kind != OUTSIDE][:LEAST_SURE]
    return page.table(
        [(i, repr(shorten(generation.tokens[i], 40)), f"{sure[i]:.1%}") for i in least],
        ("token", "text", "probability"),
        caption="The least sure tokens",
        right=(0, 2),
        bars=[float(sure[i]) for i in least],
    )
