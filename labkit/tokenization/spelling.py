"""The bytes of a text that each of its tokens stands for.

Two ways. Where the tokens spell the text, their own bytes joined are the text's, and that is checked byte by byte. Where
they do not (a normalizer changed the text, white space or unknown words were lost), the tokenizer's own offsets say which
characters each token came from. A tokenizer that gives neither is refused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

from labkit.errors import BadInput, Unavailable
from labkit.models.tokens import byte_alphabet
from labkit.tokenization.pipelines import Pipeline

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Way = Literal["spelt", "offsets"]
_BYTE = re.compile("<0x([0-9A-Fa-f]{2})>")
SPACE = "▁"  # SentencePiece's


@dataclass(frozen=True)
class Spelling:
    """Which bytes of the text each token stands for.

    held: a token each; joined they are the text's.  own: what the token itself spells, whatever the text was.  added: which
    tokens the tokenizer put around the text.  prefix: what it put before the text's first word.  dropped: how many of each
    token's bytes are of characters that no token holds, white space above all: they stand with the token after them, at the
    end of the text with the last.
    """

    held: tuple[bytes, ...]
    own: tuple[bytes, ...]
    added: tuple[bool, ...]
    dropped: tuple[int, ...]
    prefix: bytes
    way: Way


def spelling(tokenizer: PreTrainedTokenizerBase, text: str, ids: Sequence[int], steps: Pipeline) -> Spelling:
    """The bytes of each of a text's ids. Raises Unavailable where they can't be told."""
    added, offsets = _encoded(tokenizer, text, ids, steps)
    names = _names(tokenizer)
    raw = [names.get(id_) or _raw(tokenizer, id_) for id_ in ids]
    data = text.encode()
    for way in _ways(steps):
        own = [
            b"" if around else piece.encode("utf-8", "replace") if id_ in names else way(piece)
            for id_, piece, around in zip(ids, raw, added, strict=True)
        ]
        joined = b"".join(own)
        prefix = b" " if joined == b" " + data and data != joined else b""
        if joined == prefix + data:
            held = list(own)
            if prefix:
                first = next(i for i, each in enumerate(held) if each)
                held[first] = held[first][1:]
            return Spelling(tuple(held), tuple(own), tuple(added), (0,) * len(own), prefix, "spelt")
    if offsets is None:
        raise Unavailable(
            f"{type(tokenizer).__name__} changes this text and does not say which characters its tokens came from; use a "
            "fast tokenizer (AutoTokenizer gives one where it can), or a text that it leaves as it is."
        )
    way = next(iter(_ways(steps)))
    own = [
        b"" if around else names[id_].encode("utf-8", "replace") if id_ in names else way(piece)
        for id_, piece, around in zip(ids, raw, added, strict=True)
    ]
    return _by_offsets(text, own, added, offsets)


def _encoded(
    tokenizer: PreTrainedTokenizerBase, text: str, ids: Sequence[int], steps: Pipeline
) -> tuple[list[bool], list[tuple[int, int]] | None]:
    """(which ids were put around the text, the characters each came from where that is told)."""
    wanted = list(ids)
    for around in (True, False):
        encoded = cast("Mapping[str, Sequence[object]]", tokenizer(
            text,
            add_special_tokens=around,
            verbose=False,
            **({"return_offsets_mapping": True, "return_special_tokens_mask": True} if steps.fast else {}),
        ))  # fmt: skip
        if list(encoded["input_ids"]) != wanted:
            continue
        if steps.fast:
            added = [bool(mark) for mark in encoded["special_tokens_mask"]]
            return added, [(int(a), int(b)) for a, b in cast("Sequence[tuple[int, int]]", encoded["offset_mapping"])]
        plain = cast("Mapping[str, Sequence[int]]", tokenizer(text, add_special_tokens=False, verbose=False))
        inner = list(plain["input_ids"])
        before = next((k for k in range(len(wanted) - len(inner) + 1) if wanted[k : k + len(inner)] == inner), 0)
        return [not before <= i < before + len(inner) for i in range(len(wanted))], None
    raise Unavailable(
        f"{type(tokenizer).__name__} gives other ids for this text each time; switch its dropout off, or its sampling."
    )


def _raw(tokenizer: PreTrainedTokenizerBase, id_: int) -> str:
    raw = tokenizer.convert_ids_to_tokens(id_)
    return raw.decode("utf-8", "replace") if isinstance(raw, bytes) else str(raw)


def _names(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """Tokens that were added to the vocabulary, which stand for their name as it is written."""
    added = getattr(tokenizer, "added_tokens_decoder", None) or {}
    return {int(id_): str(token) for id_, token in added.items()}


# what a piece of the vocabulary spells ----------------------------------------------------------------------------------


def _ways(steps: Pipeline) -> list[Callable[[str], bytes]]:
    """How a piece may spell bytes, the likeliest first; a slow tokenizer does not say."""
    if not steps.fast:
        return [_latin, _letters, _plain_pieces, _plain]
    if steps.byte_level:
        return [_letters]
    if steps.model == "WordPiece":
        return [lambda piece: piece.removeprefix(steps.prefix or "##").encode()]
    if steps.suffix:
        return [lambda piece: piece.removesuffix(steps.suffix).encode()]
    return [_plain_pieces, _plain]


def _letters(piece: str) -> bytes:
    """GPT-2's letters for bytes."""
    alphabet = byte_alphabet()
    if all(letter in alphabet for letter in piece):
        return bytes(alphabet[letter] for letter in piece)
    return piece.encode("utf-8", "replace")


def _plain_pieces(piece: str) -> bytes:
    """SentencePiece's: a sign for the space, and <0xE4> for a byte."""
    byte = _BYTE.fullmatch(piece)
    return bytes.fromhex(byte[1]) if byte else piece.replace(SPACE, " ").encode("utf-8", "replace")


def _latin(piece: str) -> bytes:
    """A letter of Latin-1 for each byte (ByT5)."""
    try:
        return piece.encode("latin-1")
    except UnicodeEncodeError:
        return piece.encode("utf-8", "replace")


def _plain(piece: str) -> bytes:
    return piece.encode("utf-8", "replace")


# by the characters each came from ----------------------------------------------------------------------------------------


def _by_offsets(text: str, own: Sequence[bytes], added: Sequence[bool], offsets: Sequence[tuple[int, int]]) -> Spelling:
    """Each token gets the characters it came from, and before them those that no token holds.

    Tokens that share a character get its bytes where their own are just these; otherwise the first gets them.
    """
    held = [b""] * len(own)
    dropped = [0] * len(own)
    at = 0
    groups: list[list[int]] = []
    for i, (start, end) in enumerate(offsets):
        if added[i]:
            continue
        if end > at or not groups:
            lead = text[at : max(start, at)].encode()
            end = max(end, at)
            held[i], dropped[i] = text[at:end].encode(), len(lead)
            at = end
            groups.append([i])
        else:
            groups[-1].append(i)
    for group in groups:
        lead, whole = held[group[0]][: dropped[group[0]]], held[group[0]][dropped[group[0]] :]
        spelt = [own[i] for i in group]
        if spelt[0].startswith(b" ") and b"".join(spelt) == b" " + whole:  # a space that was put there, or trimmed off
            spelt[0] = spelt[0][1:]
        if len(group) > 1 and b"".join(spelt) == whole:
            for i, part in zip(group, spelt, strict=True):
                held[i] = part
            held[group[0]] = lead + held[group[0]]
        elif len(group) > 1 and own[group[0]] == b" " != whole[:1]:  # a space that was put there, a token of its own
            held[group[0]], held[group[1]] = b"", lead + whole
            dropped[group[0]], dropped[group[1]] = 0, len(lead)
    if not groups:
        raise BadInput("The tokenizer makes no token of this text; give one with a word in it.")
    if rest := text[at:].encode():
        last = groups[-1][-1]
        held[last] += rest
        dropped[last] += len(rest)
    return Spelling(tuple(held), tuple(own), tuple(added), tuple(dropped), b"", "offsets")
