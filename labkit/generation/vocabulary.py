"""A tokenizer as llguidance needs it: the bytes that each token adds to the text, and which tokens are no text.

The bytes are read off the tokens and not taken from a library's reading of the tokenizer's file, so that whatever opened
the tokenizer (a folder, a GGUF file, a SentencePiece model) is served, and so that the text of a run is what the form saw.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast
from weakref import WeakKeyDictionary

from labkit.errors import Unavailable
from labkit.models.tokens import ESCAPED_BYTE, token_bytes, token_strings

if TYPE_CHECKING:
    import llguidance
    from transformers import PreTrainedTokenizerBase

PROBED = 200  # tokens that are decoded in a row, to see that they are the text they spell


@dataclass
class Vocabulary:
    """A tokenizer's tokens by their bytes.

    tokens: the bytes of each id; none for a special token, an id without a token, and one that ends the text.
    stripped: ids of tokens of which the decoder takes off the first space where they begin a text.
    compiled: matchers at their beginning, by grammar; `forms` keeps them here as they hold for this tokenizer alone.
    """

    tokens: list[bytes]
    stripped: list[int]
    guidance: llguidance.LLTokenizer
    compiled: dict[str, llguidance.LLMatcher] = field(default_factory=dict)


_KEPT: WeakKeyDictionary[PreTrainedTokenizerBase, dict[tuple[int, tuple[int, ...]], Vocabulary]] = WeakKeyDictionary()


def vocabulary(tokenizer: PreTrainedTokenizerBase, ends: Sequence[int]) -> Vocabulary:
    """The vocabulary of a tokenizer, made once and kept until tokens are added to it. ends: ids at which a text ends.

    Raises Unavailable for a tokenizer whose tokens don't spell the text byte by byte, such as one of words.
    """
    ends = tuple(sorted({*ends}))
    try:
        kept = _KEPT.setdefault(tokenizer, {})
    except TypeError:  # one that can't be a key
        kept = {}
    if (key := (len(tokenizer), ends)) not in kept:
        kept.clear()
        kept[key] = _made(tokenizer, ends)
    return kept[key]


def _made(tokenizer: PreTrainedTokenizerBase, ends: tuple[int, ...]) -> Vocabulary:
    from llguidance import LLTokenizer

    known = sorted(set(tokenizer.get_vocab().values()))
    size = max(known, default=-1) + 1
    spelt: list[bytes] = [b""] * size
    for id_, text in zip(known, token_strings(tokenizer, known), strict=True):
        byte = ESCAPED_BYTE.fullmatch(str(tokenizer.convert_ids_to_tokens(id_)))
        # decoders take a space off the beginning, and so off the byte that is one
        spelt[id_] = bytes.fromhex(byte[1]) if byte and text != byte[0] else token_bytes(text)
    special = _special(tokenizer)
    _check(tokenizer, [b"" if id_ in special else own for id_, own in enumerate(spelt)])
    special |= set(ends)
    tokens = [b"" if id_ in special else own for id_, own in enumerate(spelt)]
    guidance = LLTokenizer(
        cast(
            "Any", _Spelling(tokenizer, tokens, [id_ for id_ in special if id_ < size], ends)
        ),  # it asks for these names
        n_vocab=size,
        eos_token=list(ends) or None,
    )
    return Vocabulary(tokens, _stripped(tokenizer, tokens), guidance)


class _Spelling:
    """The tokenizer as llguidance reads one that is not a file. It is referred to weakly, as it is the key that keeps this."""

    is_tokenizer_wrapper = True
    bos_token_id = None

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, tokens: list[bytes], special: list[int], ends: tuple[int, ...]
    ) -> None:
        self._tokenizer = weakref.ref(tokenizer)
        self.eos_token_id = ends[0] if ends else None
        self.tokens = list(tokens)
        self.special_token_ids = special

    def __call__(self, text: str | bytes) -> list[int]:
        tokenizer = self._tokenizer()
        text = text.decode("utf-8", "replace") if isinstance(text, bytes) else text
        return [] if tokenizer is None else list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _special(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """Ids that are left out of a text."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return {*tokenizer.all_special_ids, *(id_ for id_, token in added.items() if getattr(token, "special", False))}


def _check(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[bytes]) -> None:
    """Raise Unavailable unless tokens, joined, are the text that the tokenizer makes of them."""
    whole = [id_ for id_, own in enumerate(tokens) if own and _is_text(own)]
    sample = whole[:: max(1, len(whole) // PROBED)]
    text = str(tokenizer.decode(sample, skip_special_tokens=True, clean_up_tokenization_spaces=False))
    joined = b"".join(tokens[id_] for id_ in sample).decode()
    if not sample or joined not in (text, " " + text):
        name = tokenizer.name_or_path or type(tokenizer).__name__
        raise Unavailable(
            f"form= needs a tokenizer whose tokens spell the text byte by byte, and those of {name} do not: decoding "
            "puts spaces between them or changes them. Generate without form, or use a model with a "
            "byte-level or SentencePiece tokenizer."
        )


def _is_text(data: bytes) -> bool:
    try:
        return data.decode().isprintable()
    except UnicodeDecodeError:
        return False


def _stripped(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[bytes]) -> list[int]:
    """Ids of tokens that begin with a space, where the decoder takes it off the beginning of a text."""
    spaced = [id_ for id_, own in enumerate(tokens) if own.startswith(b" ")]
    if not spaced:
        return []
    first = tokenizer.decode(spaced[:1], skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return [] if str(first).encode() == tokens[spaced[0]] else spaced
