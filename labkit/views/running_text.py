"""Tokens as running text: what they say together, each one's piece of it, and whether one is no part of it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from labkit.models.tokens import ESCAPED_BYTE
from labkit.views.base import clean, shorten
from labkit.views.tokens_view.payload import joined, pieces

LABEL_CHARACTERS = 200
_MARKUP = re.compile(r"<[^<>\s]+>|\[[A-Z]+\]")

__all__ = ["is_markup", "joined", "label", "split"]


def split(tokens: Sequence[str]) -> tuple[list[str], list[int], dict[int, str]]:
    """Each token's piece of the running text, what it is (`tokens_view.payload.Piece`), and by number the names of those
    tokens whose piece does not show what they are."""
    found = pieces(tokens, joined(tokens))
    names = {i: label(token) for i, (token, piece) in enumerate(zip(tokens, found, strict=True)) if piece.text != token}
    return [label(piece.text) for piece in found], [piece.kind for piece in found], names


def label(text: str) -> str:
    """A token's text as it is sent: valid Unicode, cut where it is very long."""
    return clean(shorten(text, LABEL_CHARACTERS))


def is_markup(token: str) -> bool:
    """Whether a token looks like a sign of the tokenizer's, such as <s> or [CLS]; a byte, such as <0xE4>, is text."""
    return _MARKUP.fullmatch(token) is not None and ESCAPED_BYTE.fullmatch(token) is None
