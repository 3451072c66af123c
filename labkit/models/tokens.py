"""Tokens as text: what each id stands for, so that the pieces joined give the text."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

REPLACEMENT = "�"
ESCAPED_BYTE = re.compile("<0x([0-9A-F]{2})>")


def token_strings(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], *, memo: dict[int, str] | None = None
) -> list[str]:
    """The text of each token id, leading spaces kept, special tokens by name.

    memo: filled with what was looked up; None for one that is kept with the tokenizer, until tokens are added to it.

    A token that is only part of a character (byte-level vocabularies split some) is shown by its bytes, as <0xE4>.
    """
    memo = _memo_of(tokenizer) if memo is None else memo
    for id_ in ids:
        if id_ not in memo:
            memo[id_] = _token_string(tokenizer, int(id_))
    return [memo[id_] for id_ in ids]


_MEMOS: WeakKeyDictionary[PreTrainedTokenizerBase, tuple[int, dict[int, str]]] = WeakKeyDictionary()


def _memo_of(tokenizer: PreTrainedTokenizerBase) -> dict[int, str]:
    """What has been looked up of a tokenizer: asking it for one token after the other takes longer than a small model's pass."""
    try:
        size, memo = _MEMOS.get(tokenizer, (-1, {}))
        if size != len(tokenizer):
            _MEMOS[tokenizer] = len(tokenizer), (memo := {})
    except TypeError:  # one that can't be a key, or has no length
        return {}
    return memo


def token_bytes(text: str) -> bytes:
    """The bytes a token's text stands for, where a token that is part of a character is written <0xE4>."""
    parts = ESCAPED_BYTE.split(text)  # plain text and the two digits of a byte by turns
    return b"".join(bytes.fromhex(p) if i % 2 else p.encode("utf-8", "surrogatepass") for i, p in enumerate(parts))


def _token_string(tokenizer: PreTrainedTokenizerBase, id_: int) -> str:
    raw = tokenizer.convert_ids_to_tokens(id_)
    if raw is None:  # an id past the vocabulary: models pad their embeddings to round sizes
        return f"<id {id_}>"
    raw = raw.decode("utf-8", "replace") if isinstance(raw, bytes) else str(raw)
    if raw.startswith("▁"):  # SentencePiece: decoders drop a sequence's first space, so the piece is read off directly
        return raw.replace("▁", " ")
    text = tokenizer.decode([id_], skip_special_tokens=False, clean_up_tokenization_spaces=False)
    text = text if isinstance(text, str) else "".join(text)
    if REPLACEMENT in text and REPLACEMENT not in raw:
        return _as_bytes(raw) or text
    return text


def _as_bytes(raw: str) -> str | None:
    """The bytes a byte-level token stands for, as <0x..> each; None when it is not written in that alphabet."""
    alphabet = byte_alphabet()
    if not all(character in alphabet for character in raw):
        return None
    data = bytes(alphabet[character] for character in raw)
    return "".join(chr(b) if 0x20 <= b < 0x7F else f"<0x{b:02X}>" for b in data)


@cache
def byte_alphabet() -> dict[str, int]:
    """GPT-2's printable stand-ins for the 256 bytes (Radford et al. 2019): printable ones stand for themselves."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    stand_ins = {chr(b): b for b in printable}
    others = [b for b in range(256) if b not in set(printable)]
    return stand_ins | {chr(256 + i): b for i, b in enumerate(others)}
