"""What an exercise is made of."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Difficulty = Literal["easy", "medium", "hard"]
IMPORTANCE = {1: "a curiosity", 2: "nice to know", 3: "useful", 4: "important", 5: "essential"}


@dataclass(frozen=True)
class Case:
    """One set of inputs, and what it shows in a few words ("one token", "two heads share a key")."""

    inputs: tuple[Any, ...]
    shows: str


@dataclass(frozen=True)
class Mistake:
    """A usual mistake: a wrong solution, and what is said to an answer that gives the same results on every case."""

    wrong: Callable[..., Any]
    says: str


@dataclass(frozen=True)
class Exercise:
    """An exercise of a notebook. Its id is "topic.name"; the learner's function is called name.

    task: what is wanted, with shapes; `code` between backticks, paragraphs apart by an empty line.
    importance: 1 to 5.  cases: makes the inputs; called anew for each check.
    reference: the solution; its source is what a learner is shown in the end, so the two can't differ.
    objection: what is wrong with an answer that passes all cases, in a sentence, or None.
    outputs: names of what is returned, where it is a tuple.  tolerance: largest difference taken for equal, relative
        to the larger of 1 and the expected number.
    """

    id: str
    title: str
    task: str
    minutes: int
    difficulty: Difficulty
    importance: int
    cases: Callable[[], Sequence[Case]]
    reference: Callable[..., Any]
    hints: tuple[str, ...]
    right: str
    mistakes: tuple[Mistake, ...]
    outputs: tuple[str, ...] = ()
    tolerance: float = 1e-5
    objection: Callable[[Callable[..., Any]], str | None] | None = None

    @property
    def topic(self) -> str:
        """The notebook it belongs to, as in its id."""
        return self.id.partition(".")[0]

    @property
    def name(self) -> str:
        """The name of the function that is asked for."""
        return self.id.partition(".")[2]

    @property
    def arguments(self) -> tuple[str, ...]:
        return tuple(inspect.signature(self.reference).parameters)

    @property
    def signature(self) -> str:
        """Such as "causal_mask(T)"."""
        return f"{self.name}({', '.join(self.arguments)})"

    @property
    def solution(self) -> str:
        """The source of the reference."""
        return textwrap.dedent(inspect.getsource(self.reference)).rstrip()
