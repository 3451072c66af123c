"""Byte-pair encoding step by step: which two pieces of a word are joined, and why those.

The algorithm of Sennrich, Haddow and Birch 2016, on a trained list of merges: of all neighbours that a merge joins, those of
the earliest merge are joined first, the leftmost of several. The result is compared with the tokenizer's own.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from labkit import checks
from labkit.errors import BadInput, Unavailable
from labkit.markup import counted
from labkit.results import Result
from labkit.tokenization.pipelines import Pipeline, backend, pipeline, tokenizer_of
from labkit.trace.input import check_characters

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["Merges", "merges"]

LONGEST = 2_000  # characters: each step goes through all pairs of a word


@dataclass(frozen=True, eq=False, repr=False)
class Merges(Result):
    """How the pieces of a text were joined.

    table: a row for each step: word (its number in the text), step (from 0, the pieces it begins with), left, right, made,
        rank (the merge's number, from 0; <NA> at step 0), pieces (all of the word after the step, as the vocabulary writes
        them, with spaces between).
    words: the text as it is split before any merge; no merge goes over their ends.  pieces: of each word, in the end.
    notes: words that are taken whole, without merging.
    """

    words: tuple[str, ...]
    pieces: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]

    def _title(self) -> str:
        done = len(self.table) - len(self.words)
        return f"{counted(len(self.words), 'word')}, {counted(done, 'merge')}, {sum(map(len, self.pieces))} tokens"

    def _remarks(self) -> Sequence[str]:
        return self.notes


def merges(lab_or_tokenizer: object, text: str) -> Merges:
    """The merges of a text, word by word and step by step. At most 2,000 characters.

    Raises Unavailable for a tokenizer that does not work by merges (Unigram chooses the likeliest pieces, WordPiece the
    longest), for one whose merges are not there, and where its own pieces are others than those found here.
    """
    import pandas as pd

    tokenizer, _, name = tokenizer_of(lab_or_tokenizer)
    if not isinstance(text, str) or not text or len(text) > LONGEST:
        raise BadInput(f"text={checks.shown(text)} can't be used; give a text of 1 to {LONGEST:,} characters.")
    check_characters(text)
    steps, beneath = pipeline(tokenizer), backend(tokenizer)
    if beneath is None or steps.model != "BPE" or not steps.merges:
        how = {
            "Unigram": "it chooses the pieces that are likeliest together; their scores are in lk.tokens",
            "WordPiece": "it takes the longest piece that fits, again and again",
            "WordLevel": "each word is a token",
            "BPE": "its file holds none",
        }.get(steps.model, "it is a slow one, which does not tell them")
        raise Unavailable(f"{name} has no merges: {how}. Give a tokenizer of byte pairs, such as the default model's.")
    if steps.dropout:
        raise Unavailable(f"{name} leaves out merges at random (dropout {steps.dropout:g}); set it to None first.")
    ranks = {pair: rank for rank, pair in reversed(list(enumerate(steps.merges)))}
    vocabulary = beneath.get_vocab(with_added_tokens=False)
    rows: list[dict[str, object]] = []
    words: list[str] = []
    ends: list[tuple[str, ...]] = []
    notes: list[str] = []
    has_added = False
    for number, (word, is_added) in enumerate(_words(beneath, text)):
        words.append(word)
        if is_added:
            has_added = True
            notes.append(f"{word!r} was added to the vocabulary and is taken whole, before any merge.")
            rows.append(_row(number, 0, "", "", None, [word]))
            ends.append((word,))
            continue
        whole = steps.ignore_merges and word in vocabulary
        parts = [word] if whole else _first_pieces(word, steps, vocabulary)
        if whole:
            notes.append(f"{word!r} is in the vocabulary and taken whole: this tokenizer asks for no merges then.")
        rows.append(_row(number, 0, "", "", None, parts))
        while (best := _best(parts, ranks)) is not None:
            rank, left, right = best
            parts = _joined(parts, left, right, steps.prefix)
            step = rows[-1]["step"]
            assert isinstance(step, int)
            rows.append(_row(number, step + 1, left, right, rank, parts, left + right.removeprefix(steps.prefix)))
        own = [token.value for token in beneath.model.tokenize(word)]
        if own != parts and steps.unknown not in own:
            raise Unavailable(f"{name} splits {word!r} into {own}, and its merges give {parts}: it works otherwise.")
        ends.append(tuple(own))
    own_pieces = beneath.encode(text, add_special_tokens=False).tokens
    if has_added and own_pieces != [piece for word in ends for piece in word]:
        raise Unavailable(
            f"{name} splits this text otherwise around the tokens that were added to it; give the parts alone."
        )
    table = pd.DataFrame(rows).astype({"rank": "Int64"})
    return Merges(table, tuple(words), tuple(ends), tuple(notes))


def _words(beneath: Tokenizer, text: str) -> list[tuple[str, bool]]:
    """The text as it is split before any merge, as the vocabulary writes it, and which parts are tokens added to it."""
    found: list[tuple[str, bool]] = []
    added = beneath.get_added_tokens_decoder()
    encoded = beneath.encode(text, add_special_tokens=False)
    at = 0
    for id_, token, (start, end) in zip(encoded.ids, encoded.tokens, encoded.offsets, strict=True):
        if id_ in added:
            found += [(word, False) for word in _split(beneath, text[at:start])]
            found.append((token, True))
            at = end
    return found + [(word, False) for word in _split(beneath, text[at:])]


def _split(beneath: Tokenizer, text: str) -> list[str]:
    if not text:
        return []
    changed = beneath.normalizer.normalize_str(text) if beneath.normalizer is not None else text
    if beneath.pre_tokenizer is None:
        return [changed]
    return [word for word, _ in beneath.pre_tokenizer.pre_tokenize_str(changed)]


def _first_pieces(word: str, steps: Pipeline, vocabulary: dict[str, int]) -> list[str]:
    """A piece for each character; for one that the vocabulary has not, its bytes, where it falls back on them."""
    found: list[str] = []
    for number, letter in enumerate(word):
        piece = (steps.prefix if number else "") + letter + (steps.suffix if number == len(word) - 1 else "")
        spelt = [f"<0x{byte:02X}>" for byte in letter.encode()]
        if piece not in vocabulary and steps.byte_fallback and all(byte in vocabulary for byte in spelt):
            found += spelt
        else:
            found.append(piece)
    return found


def _best(parts: Sequence[str], ranks: dict[tuple[str, str], int]) -> tuple[int, str, str] | None:
    """The earliest merge of two neighbours."""
    pairs = [(ranks[pair], *pair) for pair in itertools.pairwise(parts) if pair in ranks]
    return min(pairs) if pairs else None


def _joined(parts: Sequence[str], left: str, right: str, prefix: str) -> list[str]:
    """All neighbours of one pair joined, from the left."""
    found: list[str] = []
    i = 0
    while i < len(parts):
        if i + 1 < len(parts) and (parts[i], parts[i + 1]) == (left, right):
            found.append(left + right.removeprefix(prefix))
            i += 2
        else:
            found.append(parts[i])
            i += 1
    return found


def _row(
    word: int, step: int, left: str, right: str, rank: int | None, parts: Sequence[str], made: str = ""
) -> dict[str, object]:
    return {
        "word": word,
        "step": step,
        "left": left,
        "right": right,
        "made": made,
        "rank": rank,
        "pieces": " ".join(parts),
    }
