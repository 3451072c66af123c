"""The card of an exercise: what is wanted, hints that unfold one by one, the solution after the last."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from dataclasses import dataclass

import traitlets
from traitlets.utils.bunch import Bunch

from labkit.teaching import progress
from labkit.teaching.exercises import Exercise, find
from labkit.teaching.exercises.definition import IMPORTANCE
from labkit.views.base import View, module, style


def exercise(id: str) -> ExerciseCard:
    """Show an exercise's card. Raises BadInput, with the nearest ids, where there is none of that id."""
    return ExerciseCard(find(id))


@dataclass(frozen=True, repr=False)
class Note:
    """A hint or a solution, as `.hint()` and `.solution()` return it."""

    title: str
    text: str
    is_code: bool = False

    def __repr__(self) -> str:
        return f"{self.title}\n\n{self.text}" if self.is_code else f"{self.title}: {self.text.replace('`', '')}"

    def _repr_html_(self) -> str:
        title = f'<p style="margin:.2em 0"><strong>{html.escape(self.title)}</strong></p>'
        return title + (f"<pre><code>{html.escape(self.text)}</code></pre>" if self.is_code else paragraphs(self.text))


class ExerciseCard(View):
    """An exercise's card. `hint()` and `solution()` do what its buttons do.

    opened: how many hints are unfolded.  solution_shown: whether the solution is.
    state: "new", "tried", "solved"; it follows `lk.check` in the same kernel.
    """

    _title = "Exercise"
    _esm = module("../teaching/card/card.js")
    _css = style("../teaching/card/card.css")

    card = traitlets.Dict().tag(sync=True)
    """id, title, task, signature, minutes, difficulty, importance, importance_word."""
    hints = traitlets.List(traitlets.Unicode()).tag(sync=True)
    answer = traitlets.Unicode("").tag(sync=True)
    """The solution's source. It is here from the start, so that a busy kernel keeps nobody waiting."""
    state: traitlets.Dict[str, object] = traitlets.Dict().tag(sync=True)
    """tried (a count), solved, unaided, solution_seen."""
    opened = traitlets.Int(0).tag(sync=True)
    solution_shown = traitlets.Bool(False).tag(sync=True)

    def __init__(self, exercise: Exercise) -> None:
        self.id = exercise.id
        self._exercise = exercise
        super().__init__(
            card={
                "id": exercise.id,
                "title": exercise.title,
                "task": exercise.task,
                "signature": exercise.signature,
                "minutes": exercise.minutes,
                "difficulty": exercise.difficulty,
                "importance": exercise.importance,
                "importance_word": IMPORTANCE[exercise.importance],
            },
            hints=list(exercise.hints),
            answer=exercise.solution,
            state=progress.exercise_record(exercise.id),
        )
        self.observe(self._on_solution, names="solution_shown")
        progress.watch(self)

    @traitlets.validate("opened")
    def _valid_opened(self, proposal: Bunch) -> int:
        return min(max(int(proposal["value"]), 0), len(self._exercise.hints))

    def refresh(self) -> None:
        """Take the state from the progress file."""
        if self.comm is not None:
            self.state = dict(progress.exercise_record(self.id))

    def hint(self) -> Note:
        """Unfold the next hint and return it; after the last, say where the solution is."""
        if self.opened >= len(self.hints):
            return Note("No more hints", f"that was the last of {len(self.hints)}; `.solution()` shows the solution.")
        self.opened += 1
        return Note(f"Hint {self.opened} of {len(self.hints)}", self.hints[self.opened - 1])

    def solution(self) -> Note:
        """Show the solution; it is noted as seen."""
        self.solution_shown = True
        return Note("Solution", self.answer, is_code=True)

    def _on_solution(self, change: Bunch) -> None:
        if change["new"]:
            progress.solution_seen(self.id)

    def _describe(self) -> str:
        return repr(self.id)

    def _facts(self) -> str:
        e = self._exercise
        return (
            f"{e.difficulty} · {IMPORTANCE[e.importance]} ({e.importance} of 5) · "
            f"about {e.minutes} minute{'s' if e.minutes != 1 else ''} · {said(self.state)}"
        )

    def _static_text(self) -> str:
        return f"Exercise: {self._exercise.title}\n{self._facts()}\n\n{self._exercise.task}\n\n{self._ask()}"

    def _ask(self) -> str:
        return f'Write {self._exercise.signature}, then check it with lk.check("{self.id}", {self._exercise.name}).'

    def _static_html(self) -> str:
        # Neither hints nor solution: what stays in a saved notebook is in everybody's sight.
        return (
            f"<div><p><strong>Exercise: {html.escape(self._exercise.title)}</strong><br>"
            f"{html.escape(self._facts())}</p>{paragraphs(self._exercise.task)}<p>{html.escape(self._ask())} "
            "Run this cell for the hints.</p></div>"
        )


def said(state: Mapping[str, object]) -> str:
    """An exercise's state in words; card/logic.js says the same."""
    if state["solved"]:
        return "solved" if state["unaided"] else "solved, with the solution seen"
    if state["solution_seen"]:
        return "solution seen"
    return "tried, not solved yet" if state["tried"] else "not tried yet"


def paragraphs(text: str) -> str:
    """Paragraphs of HTML, escaped; `code` between backticks."""
    return "".join(f"<p>{_coded(part)}</p>" for part in text.split("\n\n"))


def _coded(text: str) -> str:
    return re.sub(r"`([^`]+)`", lambda m: f"<code>{m[1]}</code>", html.escape(text))
