"""How one token was chosen, as the view draws it: what each filter left of the model's distribution."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np
import traitlets

from labkit.errors import BadInput
from labkit.markup import clean, counted, shorten
from labkit.views.kit.job import Job
from labkit.views.kit.wire import answers

if TYPE_CHECKING:
    import pandas as pd

    from labkit.generation.record import Generation, Sampling
    from labkit.views.base import View

BEST = 7  # tokens listed of the model's own distribution, and of what the last filter left
ROWS = BEST + 3  # of the chart for which room is kept
KEPT = 400  # steps that a page remembers
DELAY_SECONDS = 0.12  # a pointer under way crosses many tokens; the one it rests at is meant
MODEL = "model"  # the stage before all others


class Chosen(Protocol):
    """A step as `Generation.distribution` gives it."""

    @property
    def table(self) -> pd.DataFrame:
        """A row for each token listed: token, id, logprob (the model's own, nats), a column for each later stage with the
        log-probability after it, cut_by, taken."""
        ...

    @property
    def stages(self) -> pd.DataFrame:
        """A row for each stage: stage, tokens (left after it), entropy (nats, after it), cut (the probability it took away)."""
        ...

    @property
    def note(self) -> str: ...


Choose = Callable[["Generation", int], Chosen]
"""How a generation's step was chosen; called in a worker."""


def own_distribution(generation: Generation, token: int) -> Chosen:
    """What the generation's own lab says of a step."""
    return generation.distribution(token, BEST)


def choice_of(choose: Choose, generation: Generation, token: int) -> dict[str, object]:
    """A step as tokens_view/logic.js reads it. Raises BadInput when there is no such token."""
    if not 0 <= token < len(generation.ids):
        raise BadInput(f"There is no token {token}: the text has {counted(len(generation.ids), 'token')}, from 0.")
    return drawn_choice(choose(generation, token), generation.sampling)


def drawn_choice(chosen: Chosen, sampling: Sampling) -> dict[str, object]:
    """The listed tokens with their share after each stage, what all others have together, and what each stage did."""
    table = chosen.table
    names = [str(name) for name in chosen.stages["stage"]]
    columns = ["logprob" if name == MODEL else name for name in names]
    shares = np.exp(table[columns].to_numpy(np.float64))
    left = 1 - shares.sum(0)
    cut_by = [names.index(name) if name else -1 for name in table["cut_by"]]
    return {
        "stages": [
            {"name": _title(name, sampling), "kept": int(kept), "cut": float(cut), "entropy": float(spread)}
            for name, kept, cut, spread in zip(
                names, *(chosen.stages[name] for name in ("tokens", "cut", "entropy")), strict=True
            )
        ],
        "tokens": [
            {
                "text": clean(shorten(str(text), 200)),
                "id": int(id_),
                "shares": row.tolist(),
                "by": by,
                "taken": bool(taken),
            }
            for text, id_, row, by, taken in zip(
                table["token"], table["id"], shares, cut_by, table["taken"], strict=True
            )
        ],
        # float32 sums leave a rest of about 1e-7 where nothing is left
        "others": {
            "count": max(0, int(chosen.stages["tokens"].iloc[0]) - len(table)),
            "shares": np.where(left > 1e-6, left, 0.0).tolist(),
        },
        "note": clean(chosen.note),
    }


def _title(stage: str, sampling: Sampling) -> str:
    """A stage as a reader knows it, with its setting."""
    if stage == MODEL:
        return "the model alone"
    value = getattr(sampling, stage, None)
    name = {"top_k": "top-k", "top_p": "top-p", "min_p": "min-p", "repetition_penalty": "repetition penalty"}
    return name.get(stage, stage) + (f" {value:g}" if value is not None else "")


class ChoiceTraits(traitlets.HasTraits):
    """Steps of the generations on show that somebody has looked at, and the work that finds how they were chosen."""

    can_choose = traitlets.Bool(False).tag(sync=True)
    choices = traitlets.Dict().tag(sync=True)
    """By "text:token", `drawn_choice`; a file has those that were looked at."""
    choice_status = traitlets.Dict().tag(sync=True)

    def _choose_with(self, choose: Choose | None, text: Callable[[int], Generation]) -> None:
        """To be called in `__init__`, before anything may be refused. choose: None for the generations' own; text: that of a
        number."""
        self._chooser = choose
        self._finding: Job[tuple[int, int], Mapping[str, object]] = Job(
            cast("View", self),
            lambda asked, _run: choice_of(choose or own_distribution, text(asked[0]), asked[1]),
            self._found,
            status="choice_status",
            failed="How this token was chosen can't be found:",
            delay_seconds=DELAY_SECONDS,
        )
        self._finding.clear()

    def _tell_choosing(self, generation: Generation) -> None:
        """Whether steps of the generation on show can be looked into: its lab is there, or another way was given."""
        source = generation.source
        self.can_choose = self._chooser is not None or (source is not None and source.lab() is not None)

    def choose(self, token: int, text: int = 0) -> None:
        """Find how a token was chosen, as pointing at it does; `wait()` for it."""
        if self.can_choose and f"{text}:{token}" not in self.choices:
            self._finding.ask((text, token))

    @answers
    def _answer_choose(self, text: int, token: int) -> None:
        self.choose(token, text)

    def _found(self, asked: tuple[int, int], found: Mapping[str, object]) -> str:
        kept = list(self.choices.items())[-KEPT + 1 :]
        self.choices = {**dict(kept), f"{asked[0]}:{asked[1]}": found}
        return ""
