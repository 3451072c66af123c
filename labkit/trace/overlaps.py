"""Whether documents share text with others: what a model was calibrated or chosen on is no text to judge it by.

Text is compared without spaces, case and ways of writing the same character (NFKC), as hashes of whole documents and of all
their passages of 32 characters. Different documents of one collection share boilerplate, which is no overlap: in the texts
that come with labkit, two of Python's modules share two fifths of their passages, and 270 characters in a row.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from labkit.trace.input import as_ids, as_kinds

if TYPE_CHECKING:
    from labkit.trace.input import Ids
    from labkit.trace.lab_like import LabLike

PASSAGE = 32  # characters of a passage
SHARE = 0.5  # of a document's passages, from which on it is the same text
RUN = 400  # characters in a row that are shared, from which on it is, however long the document
_BASE = np.uint64(0x100000001B3)


@dataclass(frozen=True, eq=False)
class Seen:
    """Hashes of some documents, from which the text can't be read.

    documents: of each whole one.  passages: (passages,) uint64, rising, of every 32 characters in a row.
    """

    documents: frozenset[bytes] = field(repr=False)
    passages: np.ndarray = field(repr=False)

    @classmethod
    def of(cls, lab: LabLike, texts: object) -> Seen:
        """texts: by kind, or a list; each whole, whatever the model's context."""
        documents = (document for some in as_kinds(texts).values() for document in some)
        return cls.of_ids(lab, [as_ids(lab.tokenizer, document, chat=False, context=None) for document in documents])

    @classmethod
    def of_ids(cls, lab: LabLike, documents: Iterable[Ids]) -> Seen:
        """documents: the token ids of each."""
        texts = [_plain(lab, ids) for ids in documents]
        passages = [_passages(text) for text in texts]
        whole = np.concatenate(passages) if passages else np.zeros(0, np.uint64)
        return cls(frozenset(map(_hash, texts)), np.unique(whole))

    def among(self, lab: LabLike, documents: Sequence[Ids]) -> list[int]:
        """Which of some documents, as token ids, share their text with these: the same as a whole, or in more than half of
        their passages, or in 400 characters in a row."""
        found = []
        for number, ids in enumerate(documents):
            text = _plain(lab, ids)
            here = np.isin(_passages(text), self.passages)
            if _hash(text) in self.documents or (len(here) and (here.mean() > SHARE or _longest(here) > RUN - PASSAGE)):
                found.append(number)
        return found


def _plain(lab: LabLike, ids: Ids) -> str:
    """The text of token ids, without what does not tell texts apart; the ids where there is no text in them."""
    listed = [int(each) for each in ids]
    text = str(lab.tokenizer.decode(listed, skip_special_tokens=True))
    plain = "".join(unicodedata.normalize("NFKC", text).casefold().split())
    return plain or " ".join(map(str, listed))


def _longest(flags: np.ndarray) -> int:
    """How many in a row are set, at most."""
    ends = np.flatnonzero(~np.concatenate([[False], flags, [False]]))
    return int(np.diff(ends).max()) - 1


def _hash(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=16).digest()


def _passages(text: str) -> np.ndarray:
    """(passages,) uint64: a hash of every 32 characters in a row (Karp and Rabin 1987), none of a shorter text."""
    codes = np.array([ord(each) for each in text], dtype=np.uint64)
    count = len(codes) - PASSAGE + 1
    found = np.zeros(max(count, 0), np.uint64)
    if count > 0:
        for place in range(PASSAGE):
            found = found * _BASE + codes[place : count + place]
    return found
