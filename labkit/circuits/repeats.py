"""Texts that occur twice: the same evidence twice, which would make intervals too narrow, so each counts once."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from labkit.errors import BadInput
from labkit.trace.input import as_ids

if TYPE_CHECKING:
    from labkit.trace.lab_like import LabLike

__all__ = ["kinds_without_repeats", "without_repeats"]


def without_repeats(
    rows: Sequence[Sequence[int]], beside: Sequence[Hashable] | None = None, *, noun: str = "text"
) -> tuple[list[int], tuple[str, ...]]:
    """The places of texts that are the first of their token ids, and a note where others are left out.

    beside: what else makes a text another one, such as a metric of its own. Ids are compared, so that texts that differ in a
    space are two.  noun: what they are called in the note.
    """
    first: dict[Hashable, int] = {}
    for place, row in enumerate(rows):
        first.setdefault((tuple(row), None if beside is None else beside[place]), place)
    kept = sorted(first.values())
    left = len(rows) - len(kept)
    if not left:
        return kept, ()
    return kept, (f"{left} {noun}{'s' * (left != 1)} stood there before and {'were' if left != 1 else 'was'} left out",)


def kinds_without_repeats(
    lab: LabLike, kinds: Mapping[str, Sequence[object]]
) -> tuple[dict[str, list[object]], tuple[str, ...]]:
    """Kinds of texts, each text in the first kind it stands in, and a note where others are left out.

    Raises BadInput where that leaves a kind without texts.
    """
    flat = [text for of in kinds.values() for text in of]
    kept, notes = without_repeats([_ids(lab, text) for text in flat])
    place_of = np.repeat(np.arange(len(kinds)), [len(of) for of in kinds.values()])
    found = {kind: [flat[place] for place in kept if place_of[place] == number] for number, kind in enumerate(kinds)}
    for kind, of in found.items():
        if kinds[kind] and not of:
            raise BadInput(f"All texts of kind {kind!r} stand in an earlier kind, too; leave the kind out.")
    return found, notes


def _ids(lab: LabLike, text: object) -> Sequence[int]:
    """Of a text that can't be read nothing is said here: whoever runs it says what is wrong with it."""
    try:
        return as_ids(lab.tokenizer, text, chat=False, context=None)
    except BadInput:
        return [id(text)]
