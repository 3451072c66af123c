"""A needle in a haystack: whether a model finds one sentence in a long text, by how long the text is and where it stands."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from labkit import checks
from labkit.context.long_texts import check_room, checked_lengths
from labkit.errors import BadInput
from labkit.models.texts import passages
from labkit.results import Result
from labkit.statistics import wilson
from labkit.trace import running
from labkit.trace.input import as_ids
from labkit.trace.lab_like import check_lab

if TYPE_CHECKING:
    from labkit.trace.lab_like import LabLike

NEEDLE = " The secret word of the old house is{}."
QUESTION = "\n The secret word of the old house is"
WORDS = (
    *(" water", " stone", " horse", " river", " paper", " light", " table", " green", " music", " winter"),
    *(" gold", " bread", " island", " glass", " garden", " silver", " fire", " summer", " road", " king"),
    *(" book", " door", " night", " money", " school", " heart", " field", " wall", " friend", " city"),
)
CANDIDATES = 10


@dataclass(frozen=True, eq=False, repr=False)
class Needles(Result):
    """How often a needle was found; `needles` tells the columns of the table.

    chance: what a guess among the candidates gets right.  without: the share that is right where the needle is left out,
    by the length of the text, which is what the model's taste for some words gets.
    """

    model: str
    chance: float
    without: dict[int, float]
    trials: int
    candidates: int
    seed: int

    def _title(self) -> str:
        return f"A needle in a haystack: {self.model}, {self.trials} trials each, one of {self.candidates} words"

    def _beneath(self) -> dict[str, dict[str, float]]:
        return {"chance": {"found": self.chance}} | {
            f"without the needle, {length:,} tokens": {"found": share} for length, share in self.without.items()
        }


def needles(
    lab: LabLike,
    lengths: Sequence[int] | int = (128, 256, 512),
    depths: Sequence[float] = (0.0, 0.25, 0.5, 0.75, 1.0),
    *,
    trials: int = 10,
    kind: str = "prose",
    seed: int = 0,
    progress: bool = True,
) -> Needles:
    """Whether a model finds a sentence in a long text: which of ten words is the secret one, by length and depth.

    lengths: tokens of the whole text, question included.  depths: where the needle stands, 0 the beginning, 1 right before
        the question.  trials: texts of each length and depth, of other words and other passages of a kind.
    A trial is right when the model finds the secret word more probable after the question than the nine others; all are one
    token long. So no skill in answering is asked for, and chance is one in ten. `chance` and `without` say what is right
    without the needle.
    Returns a row for each length and depth: length, depth, found (the share that is right; with low and high, 95 %, Wilson
    1927), rank (mean place of the secret word among the ten, 1 the best), trials.
    Raises BadInput where a needle does not fit, NotEnoughMemory before anything is run.
    """
    import pandas as pd

    check_lab(lab)
    checks.flag("progress", progress)
    trials, seed = checks.whole("trials", trials, 1), checks.seed(seed)
    sizes = checked_lengths("lengths", lengths)
    places = [checks.fraction("depths", depth) for depth in checks.series("depths", depths, "numbers from 0 to 1")]
    if not places:
        checks.refuse("depths", depths, "at least one number from 0 to 1")
    words = _told_apart(lab)
    question = _ids(lab, QUESTION)
    start = _start(lab)
    longest = max(len(_ids(lab, NEEDLE.format(word))) for word in words)
    if (least := len(start) + longest + len(question) + 1) > sizes[0]:
        raise BadInput(
            f"A needle and its question take {least} tokens, which do not fit into {sizes[0]}; give longer texts."
        )
    if (room := running.room(lab.model)) is not None and sizes[-1] > room:
        raise BadInput(
            f"The model's context holds {room:,} tokens, and {sizes[-1]:,} were asked for; give shorter lengths, or stretch its "
            "positions: lk.context.positions."
        )
    check_room(lab, sizes[-1])
    hay = [i for passage in passages(kind) for i in _ids(lab, passage.text)]
    rows: list[dict[str, object]] = []
    without: dict[int, float] = {}
    rng = np.random.default_rng(seed)
    drawn = [
        (int(rng.integers(0, len(hay))), [words[i] for i in rng.choice(len(words), CANDIDATES, replace=False)])
        for _ in range(trials)
    ]
    passes = len(sizes) * (len(places) + 1) * trials
    with running.Progress("needles", passes, "text", progress) as bar:
        for size in sizes:
            for depth in (*places, None):
                ranks = []
                for begin, chosen in drawn:
                    needle = _ids(lab, NEEDLE.format(chosen[0])) if depth is not None else []
                    fill = size - len(start) - len(needle) - len(question)
                    text = [hay[(begin + i) % len(hay)] for i in range(fill)]
                    at = round((depth or 0) * fill)
                    ids = [*start, *text[:at], *needle, *text[at:], *question]
                    ranks.append(_rank(lab, ids, [_ids(lab, word)[0] for word in chosen]))
                    bar.advance()
                right = sum(rank == 1 for rank in ranks)
                if depth is None:
                    without[size] = right / trials
                    continue
                low, high = wilson(right, trials)
                rows.append(
                    {
                        "length": size,
                        "depth": depth,
                        "found": right / trials,
                        "low": low,
                        "high": high,
                        "rank": float(np.mean(ranks)),
                        "trials": trials,
                    }
                )
    if bar.interrupted:
        raise KeyboardInterrupt
    return Needles(pd.DataFrame(rows), lab.name, 1 / CANDIDATES, without, trials, CANDIDATES, seed)


def _rank(lab: LabLike, ids: list[int], candidates: list[int]) -> int:
    """The place of the first candidate among all, 1 for the most probable; half a tie counts against it."""
    with lab.turn():
        logits = running.forward(lab.model, [ids], logits="last").all_logits[0]
    scores = [float(logits[candidate]) for candidate in candidates]
    return 1 + sum(other >= scores[0] for other in scores[1:])


def _ids(lab: LabLike, text: str) -> list[int]:
    """A text's ids without what the tokenizer puts before every text."""
    ids = as_ids(lab.tokenizer, text, chat=False, context=None)
    start = _start(lab)
    return ids[len(start) :] if start and ids[: len(start)] == start else ids


def _start(lab: LabLike) -> list[int]:
    """What the tokenizer puts before every text, or the token that stood before every document in training."""
    one, two = (as_ids(lab.tokenizer, text, chat=False, context=None) for text in ("a", "b"))
    common = [i for i, j in zip(one, two, strict=False) if i == j]
    return common[:1] if one[:1] == two[:1] else []


def _told_apart(lab: LabLike) -> list[str]:
    """Words of which each begins with another token."""
    found: dict[int, str] = {}
    for word in WORDS:
        found.setdefault(_ids(lab, word)[0], word)
    if len(found) < CANDIDATES:
        raise BadInput(
            f"Only {len(found)} of {len(WORDS)} words begin with tokens of their own for {lab.name}, and {CANDIDATES} are needed "
            "to tell a needle from the others; take a model with a larger vocabulary."
        )
    return list(found.values())
