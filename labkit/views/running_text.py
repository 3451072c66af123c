"""Tokens as running text: what they say together, each one's piece of it, and whether one is no part of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from labkit.markup import clean, shorten
from labkit.models.tokens import ESCAPED_BYTE
from labkit.views.tokens_view.payload import CONTINUED, joined, pieces

LABEL_CHARACTERS = 200
_MARKUP = re.compile(r"<[^<>\s]+>|\[[A-Z]+\]")

__all__ = ["Pieces", "is_markup", "joined", "label", "split"]


@dataclass(frozen=True)
class Pieces:
    """Tokens as running text, as kit/token_list.js draws it.

    texts: each token's piece of the text. continued: tokens whose bytes finish a character that an earlier one began.
    names: by number, the names of those tokens whose piece does not show what they are.
    """

    texts: list[str]
    continued: list[int]
    names: dict[int, str]

    def sent(self) -> dict[str, object]:
        """As values that JSON takes."""
        return {"texts": self.texts, **self.marks()}

    def marks(self) -> dict[str, object]:
        """The same without the texts."""
        return {"continued": self.continued, "called": [[i, name] for i, name in self.names.items()]}


def split(tokens: Sequence[str]) -> Pieces:
    """The tokens as pieces of the text that they are together."""
    found = pieces(tokens, joined(tokens))
    return Pieces(
        texts=[label(piece.text) for piece in found],
        continued=[i for i, piece in enumerate(found) if piece.kind == CONTINUED],
        names={
            i: label(token) for i, (token, piece) in enumerate(zip(tokens, found, strict=True)) if piece.text != token
        },
    )


def label(text: str) -> str:
    """A token's text as it is sent: valid Unicode, cut where it is very long."""
    return clean(shorten(text, LABEL_CHARACTERS))


def is_markup(token: str) -> bool:
    """Whether a token looks like a sign of the tokenizer's, such as <s> or [CLS]; a byte, such as <0xE4>, is text."""
    return _MARKUP.fullmatch(token) is not None and ESCAPED_BYTE.fullmatch(token) is None
