"""Two texts side by side: which of their tokens the other does not have, and where they part."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import SequenceMatcher


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
