"""Tokens as running text: what they say together, each one's piece of it, and whether one is no part of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import NamedTuple

from labkit.markup import clean, shorten
from labkit.models.tokens import ESCAPED_BYTE, REPLACEMENT, token_bytes

TEXT, OUTSIDE, CONTINUED = 0, 1, 2  # kinds of a piece
LABEL_CHARACTERS = 200
_MARKUP = re.compile(r"<[^<>\s]+>|\[[A-Z]+\]")


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


def joined(tokens: Sequence[str]) -> str:
    """Tokens as one text, characters that they split put together from their bytes."""
    return b"".join(map(token_bytes, tokens)).decode("utf-8", "replace")


def parted(one: Sequence[str], other: Sequence[str], ended: tuple[bool, bool]) -> int | None:
    """The first token in which two continuations of one prompt differ; None while they don't. ended: whether each has."""
    for i, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return i
    shorter = int(len(other) < len(one))  # one that has ended parts where the other goes on
    return min(len(one), len(other)) if len(one) != len(other) and ended[shorter] else None


def different(one: Sequence[str] | None, other: Sequence[str] | None) -> tuple[list[int], list[int]]:
    """In each of two texts the tokens that don't stand in the other when both are laid side by side; none without both."""
    if one is None or other is None:
        return [], []
    alone: tuple[list[int], list[int]] = ([], [])
    for kind, a, b, c, d in SequenceMatcher(None, one, other, autojunk=False).get_opcodes():
        if kind != "equal":
            alone[0].extend(range(a, b))
            alone[1].extend(range(c, d))
    return alone


class Piece(NamedTuple):
    """What one token adds to the running text.

    kind TEXT: its characters. CONTINUED: nothing more, its bytes finish a character that an earlier token began.
    OUTSIDE: it is no part of the text (a special token, a stop string), text is the token itself.
    """

    text: str
    kind: int


def pieces(tokens: Sequence[str], text: str) -> list[Piece]:
    """Split the generated text over its tokens; the TEXT pieces joined give the text.

    A character may take several tokens, written by their bytes (<0xF0>) or as U+FFFD: the first gets the character.
    Where text and tokens can't be brought together, the tokens' own texts are the pieces.
    """
    if "".join(tokens) == text:
        return [Piece(token, TEXT) for token in tokens]
    data = text.encode("utf-8", "surrogatepass")
    found: list[Piece] = []
    at = i = 0
    while i < len(tokens):
        token, end = tokens[i], i + 1
        whole = token.encode("utf-8", "surrogatepass")
        rest = data[at : at + len(whole)]
        dropped = token.lstrip().encode("utf-8", "surrogatepass") if at == 0 else b""
        if whole and rest == whole:
            found.append(Piece(token, TEXT))
            at += len(whole)
        elif _broken(token):
            while end < len(tokens) and _broken(tokens[end]):
                end += 1
            split, at = _characters(tokens[i:end], tokens[end:], data, at)
            found += split
        elif dropped and data.startswith(dropped):
            found.append(Piece(token.lstrip(), TEXT))  # a decoder that drops the first word's space
            at = len(dropped)
        elif rest and at + len(rest) == len(data) and whole.startswith(rest):
            found.append(Piece(rest.decode("utf-8", "surrogatepass"), TEXT))  # a stop string began inside this token
            at = len(data)
        else:
            found.append(Piece(token, OUTSIDE))
        i = end
    return found if at == len(data) else [Piece(token, TEXT) for token in tokens]


def _broken(token: str) -> bool:
    """Whether a token holds part of a character."""
    return REPLACEMENT in token or ESCAPED_BYTE.search(token) is not None


def _characters(run: Sequence[str], following: Sequence[str], data: bytes, at: int) -> tuple[list[Piece], int]:
    """The pieces of a run of broken tokens that starts at a byte of the text, and the byte where it ends."""
    parts = [token_bytes(token) for token in run]
    joined = b"".join(parts)
    if data.startswith(joined, at):
        shares = [bytearray() for _ in run]
        owner = [k for k, part in enumerate(parts) for _ in part]
        first = 0
        for k, byte in enumerate(joined):
            first = k if byte & 0xC0 != 0x80 else first  # a character belongs to the token with its first byte
            shares[owner[first]].append(byte)
        whole = [bytes(share).decode("utf-8", "replace") for share in shares]
        return [Piece(share, TEXT if share else CONTINUED) for share in whole], at + len(joined)
    text = data[at:].decode("utf-8", "surrogatepass")
    stop = _where(text, following, 0, sum(map(len, parts)))
    return _share(text[:stop], run), at + len(text[:stop].encode("utf-8", "surrogatepass"))


def _where(text: str, following: Sequence[str], at: int, width: int) -> int:
    """Where in the text the run of at most `width` characters that starts at `at` ends."""
    if not following:
        return min(len(text), at + width)
    found = text.find(following[0], at, at + width + len(following[0])) if following[0] else -1
    return found if found >= 0 else min(len(text), at + width)


def _share(characters: str, run: Sequence[str]) -> list[Piece]:
    """Give each character to the token of the run that begins it, assuming they take equally many tokens."""
    shares = [""] * len(run)
    for k, character in enumerate(characters):
        shares[k * len(run) // len(characters)] += character
    return [Piece(share, TEXT if share else CONTINUED) for share in shares]
