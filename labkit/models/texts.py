"""The texts that come with labkit: passages of five plainly different kinds, held out when its models were trained."""

from __future__ import annotations

import json
from functools import cache
from typing import NamedTuple

from labkit import checks
from labkit.errors import BadInput, BadModelFile
from labkit.models.shipped import ASSETS

LEAST_CHARACTERS = 20  # of a passage
CHINESE = 18 / 35  # of the characters of other kinds: about as many tokens
KINDS = ("prose", "encyclopaedia", "python", "mathematics", "chinese")


class Passage(NamedTuple):
    """A passage of one document. title and source: which document, of what collection; licences: assets/texts/README.md."""

    title: str
    source: str
    text: str


@cache
def passages(kind: str) -> tuple[Passage, ...]:
    """All shipped passages of a kind, each of another document, held out from the training of labkit's own models.

    kind: "prose", "encyclopaedia", "python", "mathematics" or "chinese". Raises BadInput for another.
    """
    if kind not in KINDS:
        raise BadInput(f"There are no texts of kind {kind!r}{checks.near(kind, KINDS)}; there are {', '.join(KINDS)}.")
    path = ASSETS / "texts" / f"{kind}.json"
    try:
        entries = json.loads(path.read_text("utf-8"))
        return tuple(Passage(e["title"], e["source"], e["text"]) for e in entries)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadModelFile(f"{path.name}, which comes with labkit, can't be read; install labkit again.") from error


def texts(documents: int | None = None, *, skip: int = 0, characters: int | None = None) -> dict[str, list[str]]:
    """The text of the shipped passages, by kind: all, or `documents` of each kind after the first `skip`.

    So that what is ranked on some can be judged on others: `texts(15)` and `texts(15, skip=15)` share nothing.
    characters: no more than so many of each passage, its first, and of Chinese about half as many, which are as many tokens:
        the same number of tokens is then of more documents, and documents, not tokens, are what an interval rests on.
    Raises BadInput where a kind has no passage after the first `skip`, or fewer than `documents`.
    """
    most = None if characters is None else checks.whole("characters", characters, LEAST_CHARACTERS)
    asked = f"texts({'' if documents is None else f'{documents!r}, '}skip={skip!r})"
    wanted = 1 if documents is None else documents
    if (checks.as_whole(skip) is None or checks.as_whole(wanted) is None) or skip < 0 or wanted < 1:
        raise BadInput(f"{asked} asks for no text; give a whole number from 1, and skip from 0.")
    there = {kind: len(passages(kind)) for kind in KINDS}
    if skip + wanted > min(there.values()):
        held = ", ".join(f"{count} of {kind}" for kind, count in there.items())
        raise BadInput(
            f"{asked} asks for more texts than come with labkit: {held}; let documents and skip together be at most "
            f"{min(there.values())}, or take the passages of one kind: lk.moe.passages('python')."
        )
    stop = None if documents is None else skip + documents
    cut = {kind: most if most is None or kind != "chinese" else round(most * CHINESE) for kind in KINDS}
    return {kind: [p.text[: cut[kind]] for p in passages(kind)[skip:stop]] for kind in KINDS}
