"""How one token was chosen, as the view draws it: what each filter left of the model's distribution."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
import traitlets

from labkit.errors import BadInput
from labkit.markup import clean, counted, shorten
from labkit.views.kit.job import Job
from labkit.views.kit.wire import answers

if TYPE_CHECKING:
    from labkit.generation.record import Generation
    from labkit.views.base import View

BEST = 7  # tokens listed of the model's own distribution, and of what the last filter left
ROWS = BEST + 3  # of the chart for which room is kept
KEPT = 400  # steps that a page remembers
DELAY_SECONDS = 0.12  # a pointer under way crosses many tokens; the one it rests at is meant


class Stage(NamedTuple):
    """name: what was done, such as "top-p 0.9". logprobs: (vocab,), nats, what it left; -inf for what it cut."""

    name: str
    logprobs: np.ndarray


class Choosing(Protocol):
    """What the view is handed to look into a step, as a Lab has it."""

    def choices(self, generation: Generation, token: int, /) -> Sequence[Stage]:
        """Called in a worker: the stages of a generation's step, the model's own distribution first."""
        ...

    def token_text(self, id_: int, /) -> str:
        """The text of a token id."""
        ...


def choice_of(lab: Choosing, generation: Generation, token: int) -> dict[str, object]:
    """`drawn_choice` of a generation's step."""
    if not 0 <= token < len(generation.ids):
        raise BadInput(f"There is no token {token}: the text has {counted(len(generation.ids), 'token')}, from 0.")
    return drawn_choice(lab.choices(generation, token), int(generation.ids[token]), lab.token_text)


def drawn_choice(stages: Sequence[Stage], taken: int, text_of: Callable[[int], str]) -> dict[str, object]:
    """A step as tokens_view/logic.js reads it. taken: the id of the token that was chosen.

    Of the vocabulary the best of the first and of the last stage are listed, and the one taken, by the model's own chance.
    Raises BadInput when there is no stage, or they are not of one vocabulary.
    """
    if not stages or any(np.shape(each.logprobs) != np.shape(stages[0].logprobs) for each in stages):
        raise BadInput("How the token was chosen can't be drawn: give one row of log-probabilities for each stage.")
    logs = np.stack([np.asarray(each.logprobs, np.float64) for each in stages])
    shares = np.exp(logs)
    alive = np.isfinite(logs)
    first, last = shares[0], shares[-1]
    listed = {taken, *_best(first), *(i for i in _best(last) if last[i] > 0)}
    order = sorted(listed, key=lambda i: (-first[i], -last[i], i))
    others = np.ones(len(first), bool)
    others[order] = False
    lost = [0.0] + [float(shares[i - 1][alive[i - 1] & ~alive[i]].sum()) for i in range(1, len(stages))]
    return {
        "stages": [
            {
                "name": clean(shorten(stage.name, 60)),
                "kept": int(alive[i].sum()),
                "cut": lost[i],
                "entropy": float(-(shares[i][alive[i]] * logs[i][alive[i]]).sum()),
            }
            for i, stage in enumerate(stages)
        ],
        "tokens": [
            {
                "text": clean(shorten(text_of(int(i)), 200)),
                "id": int(i),
                "shares": shares[:, i].tolist(),
                "by": next((s for s in range(1, len(stages)) if not alive[s, i] and alive[s - 1, i]), -1),
                "taken": int(i) == taken,
            }
            for i in order
        ],
        "others": {"count": int(others.sum()), "shares": shares[:, others].sum(1).tolist()},
    }


def _best(shares: np.ndarray) -> list[int]:
    count = min(BEST, len(shares))
    return [int(i) for i in np.argpartition(-shares, count - 1)[:count]]


class ChoiceTraits(traitlets.HasTraits):
    """Steps of the generations on show that somebody has looked at, and the work that finds how they were chosen."""

    can_choose = traitlets.Bool(False).tag(sync=True)
    choices = traitlets.Dict().tag(sync=True)
    """By "text:token", `drawn_choice`; a file has those that were looked at."""
    choice_status = traitlets.Dict().tag(sync=True)

    def _choose_with(self, find: Callable[[int, int], Mapping[str, object]] | None) -> None:
        """To be called in `__init__`, before anything may be refused. find: called in a worker with the number of a text
        and of its token; None where steps can't be looked into."""
        view: View = self  # type: ignore[assignment]
        self._finding: Job[tuple[int, int], Mapping[str, object]] | None = None
        if find is None:
            return
        self._finding = Job(
            view,
            lambda asked, _run: find(*asked),
            self._found,
            status="choice_status",
            failed="How this token was chosen can't be found:",
            delay_seconds=DELAY_SECONDS,
        )
        self._finding.clear()

    def choose(self, token: int, text: int = 0) -> None:
        """Find how a token was chosen, as pointing at it does; `wait()` for it."""
        if self._finding is not None and f"{text}:{token}" not in self.choices:
            self._finding.ask((text, token))

    @answers
    def _answer_choose(self, text: int, token: int) -> None:
        self.choose(token, text)

    def _found(self, asked: tuple[int, int], found: Mapping[str, object]) -> str:
        kept = list(self.choices.items())[-KEPT + 1 :]
        self.choices = {**dict(kept), f"{asked[0]}:{asked[1]}": found}
        return ""
