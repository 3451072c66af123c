"""What an exercise is made of."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import torch

Difficulty = Literal["easy", "medium", "hard"]
IMPORTANCE = {1: "a curiosity", 2: "nice to know", 3: "useful", 4: "important", 5: "essential"}


@dataclass(frozen=True)
class Case:
    """One set of inputs, and what it shows in a few words ("one token", "two heads share a key")."""

    inputs: tuple[object, ...]
    shows: str


@dataclass(frozen=True)
class Mistake:
    """A usual mistake: a wrong solution, and what is said to an answer that gives the same results on every case."""

    wrong: Callable[..., object]
    says: str


def mistakes(*pairs: tuple[Callable[..., object], str]) -> tuple[Mistake, ...]:
    """Wrong solutions, each with what is said to it."""
    return tuple(Mistake(wrong, says) for wrong, says in pairs)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    """Normal numbers for a case, the same each time."""
    import torch

    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True)
class Exercise:
    """An exercise of a notebook. Its id is "topic.name"; the learner's function is called name.

    task: what is wanted, with shapes; `code` between backticks, paragraphs apart by an empty line.
    importance: 1 to 5.  cases: makes the inputs; called anew for each check.
    reference: the solution, and the only place where it is written: what a learner is shown in the end, what stands in the
        solved notebook and, down to its docstring, the stub to begin with are this function's source. The docstring says
        in a line or a few what goes in and what comes out, with shapes.
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
    reference: Callable[..., object]
    hints: tuple[str, ...]
    right: str
    mistakes: tuple[Mistake, ...]
    outputs: tuple[str, ...] = ()
    tolerance: float = 1e-5
    objection: Callable[[Callable[..., object]], str | None] | None = None

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
        """The reference as a learner reads it: its source, the signature without types."""
        return "\n".join([f"def {self.signature}:", *self._body])

    @property
    def stub(self) -> str:
        """What a learner begins with: the reference's signature and docstring, and `...` to be replaced."""
        docstring = self._function.body[0]
        assert docstring.end_lineno is not None
        return "\n".join(
            [f"def {self.signature}:", *self._body[: docstring.end_lineno - docstring.lineno + 1], "    return ..."]
        )

    @property
    def _source(self) -> str:
        return textwrap.dedent(inspect.getsource(self.reference)).rstrip()

    @property
    def _function(self) -> ast.FunctionDef:
        (function,) = ast.parse(self._source).body
        assert isinstance(function, ast.FunctionDef)
        return function

    @property
    def _body(self) -> list[str]:
        """The lines below the signature, the docstring first."""
        return self._source.splitlines()[self._function.body[0].lineno - 1 :]
