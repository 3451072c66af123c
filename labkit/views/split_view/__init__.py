"""The split view: a text as its tokens, with bytes, ids, merge order, signs and the loss of each byte; several side by side."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import traitlets

from labkit.errors import BadInput
from labkit.markup import clean, counted, shorten
from labkit.views.base import View, module, style, visible
from labkit.views.drawing.page import Page
from labkit.views.drawing.page import Token as Drawn
from labkit.views.drawing.scene import mixed
from labkit.views.kit.running_text import label
from labkit.views.kit.traits import OneOf, sent

if TYPE_CHECKING:
    import pandas as pd

    from labkit.tokenization import Token, Tokens
    from labkit.views.drawing.scene import Picture

MOST_TEXTS = 4
MOST_TOKENS = 4_000  # of a text that are drawn: nobody reads on, and the table has them all
TOP = 12.0  # bits per byte, where the shade is deepest
SPECIAL, ADDED, UNKNOWN, CHANGED = 1, 2, 4, 8
COLOURS = {"loss": "loss of each byte", "order": "merge order", "borders": "borders alone"}
PALE, DEEP, OTHER = "#ffffff", "#6fa8d0", "#eef2f5"


class SplitView(View):
    """Texts as their tokens. `colour`: "loss", "order" or "borders"."""

    _title = "A text as its tokens"
    _esm = module("split_view/split.js")
    _css = style("split_view/split.css")

    constants = sent(
        top=TOP,
        colours=COLOURS,
        flags={"special": SPECIAL, "added": ADDED, "unknown": UNKNOWN, "changed": CHANGED},
    )
    texts = traitlets.List(traitlets.Dict()).tag(sync=True)
    """Of each text: title, facts, notes, merges, losses (whether any), pieces, outside, names (in the vocabulary), more."""
    numbers = traitlets.Bytes(b"").tag(sync=True)
    """(tokens, 5) of all texts in turn, little-endian: int32 id, rank (−1: none), flags, bytes; float32 loss (nats)."""
    raw = traitlets.Bytes(b"").tag(sync=True)
    """The bytes of all tokens in turn."""
    colour = OneOf(tuple(COLOURS), "borders")

    def __init__(self, found: Sequence[Tokens]) -> None:
        self._found = tuple(found)
        if not 1 <= len(self._found) <= MOST_TEXTS:
            raise BadInput(
                f"views.tokens shows 1 to {MOST_TEXTS} texts side by side, and these are {len(self._found)}."
            )
        shown = [each.items[:MOST_TOKENS] for each in self._found]
        items = [token for some in shown for token in some]
        block = np.zeros((len(items), 5), "<i4")
        for i, token in enumerate(items):
            block[i, :4] = (token.id, -1 if token.rank is None else token.rank, _flags(token), len(token.bytes))
        block[:, 4] = np.array([token.loss for token in items], "<f4").view("<i4")
        some_loss = any(each.bits_per_byte is not None for each in self._found)
        super().__init__(
            texts=[_sent(each, some) for each, some in zip(self._found, shown, strict=True)],
            numbers=block.tobytes(),
            raw=b"".join(token.bytes for token in items),
            colour="loss" if some_loss else "order" if any(each.merges for each in self._found) else "borders",
        )

    def _describe(self) -> str:
        return "; ".join(f"{each.name}: {counted(len(each), 'token')}" for each in self._found)

    def _static_text(self) -> str:
        return "\n".join(
            f"{visible(each.name)}: {_facts(each)}\n" + "|".join(visible(token.text) for token in each.items)
            for each in self._found
        )

    def _table(self) -> pd.DataFrame:
        import pandas as pd

        return pd.concat(
            [each.table.assign(text=number, tokenizer=each.name) for number, each in enumerate(self._found)],
            ignore_index=True,
        )

    def _image(self) -> Picture:
        page = Page(description=self._title).heading(self._title)
        for each in self._found:
            page.paragraph(visible(each.name), bold=True).note(_facts(each))
            drawn = []
            for number, (token, text) in enumerate(zip(each.items, _pieces(each.items), strict=True)):
                cost = token.bits_per_byte
                shade = OTHER if number % 2 else "#dbe4ea"
                if not math.isnan(cost):
                    shade = mixed(PALE, DEEP, min(1.0, cost / TOP))
                said = f"{cost:.2f} bits per byte" if not math.isnan(cost) else f"id {token.id}"
                shown = text or (token.text if token.added else "+" if token.bytes else "∅")
                drawn.append(Drawn(shown, fill=shade, line=1.5, hover=said))
            page.tokens(drawn)
            for note in each.notes:
                page.note(note)
        return page.picture()


def _flags(token: Token) -> int:
    return (
        SPECIAL * token.special
        + ADDED * token.added
        + UNKNOWN * token.unknown
        + CHANGED * (token.changed or bool(token.dropped))
    )


def _sent(found: Tokens, items: Sequence[Token]) -> dict[str, object]:
    pieces = _pieces(items)
    outside = [i for i, token in enumerate(items) if token.added]
    called = [
        [i, label(token.text or token.piece)]
        for i, (token, piece) in enumerate(zip(items, pieces, strict=True))
        if piece != token.text or not piece or token.added
    ]
    more = len(found.items) - len(items)
    return {
        "title": clean(shorten(found.name, 80)),
        "facts": _facts(found),
        "notes": [clean(note) for note in found.notes],
        "merges": found.merges,
        "losses": found.bits_per_byte is not None,
        "count": len(items),
        "pieces": {
            "texts": [label(piece) for piece in pieces],
            "continued": [i for i, piece in enumerate(pieces) if not piece and items[i].bytes],
            "called": called,
        },
        "outside": outside,
        "names": [label(token.piece) for token in items],
        "more": f"{counted(more, 'token')} more are in the table." if more else "",
    }


def _pieces(items: Sequence[Token]) -> list[str]:
    """The characters that begin in each token."""
    owner = [i for i, token in enumerate(items) for _ in token.bytes]
    found = [""] * len(items)
    at = 0
    for character in b"".join(token.bytes for token in items).decode("utf-8", "replace"):
        if at >= len(owner):  # a character cut where no more is drawn
            break
        found[owner[at]] += character
        at += len(character.encode())
    return found


def _facts(found: Tokens) -> str:
    size, letters, count = len(found.text.encode()), len(found.text), sum(not token.added for token in found.items)
    parts = [
        counted(count, "token"),
        counted(letters, "character"),
        counted(size, "byte"),
        f"{size / max(1, count):.2f} bytes a token",
        f"{count / letters:.2f} tokens a character",
    ]
    if found.bits_per_byte is not None:
        parts.append(f"{found.bits_per_byte:.3f} bits per byte")
    return " · ".join(parts)
