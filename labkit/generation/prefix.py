"""A beginning that many prompts have in common, read once: `with lab.prefix(document): ...`."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from labkit.errors import Unavailable
from labkit.generation.decode import check_prompt
from labkit.models.memory import human_bytes
from labkit.trace import running
from labkit.trace.input import Encoded
from labkit.trace.past import Past, State, in_common, state_of
from labkit.trace.turns import steady

if TYPE_CHECKING:
    from labkit.trace.lab_like import LabLike


@dataclass(eq=False)
class Prefix:
    """Keys and values of a text's first tokens, for the runs of a lab that begin with the same ones.

    ids: of all its tokens. A prompt's ids are never changed: it shares as many of its first tokens as are the same, so where
        a tokenizer would join the end of the prefix with what follows, these last tokens are run with the prompt.
    seconds: that reading it took.  size_bytes: of its keys and values.
    """

    ids: list[int]
    seconds: float
    past: Past | None = field(repr=False)
    state: State = field(repr=False)

    @property
    def size_bytes(self) -> int:
        return 0 if self.past is None else self.past.size_bytes

    def past_of(self, row: list[int], state: State) -> Past | None:
        """What a prompt's ids may begin with; None where they begin otherwise, or the model is not what it was."""
        if self.past is None or not self.state.holds(state):
            return None
        same = in_common(self.ids, row)
        return self.past.first(same) if same else None

    def close(self) -> None:
        """Let go of the keys and values."""
        self.past = None

    def __repr__(self) -> str:
        held = human_bytes(self.size_bytes) if self.past is not None else "closed"
        return f"Prefix({len(self.ids):,} tokens, {held})"


def read(lab: LabLike, prompt: Encoded) -> Prefix:
    """Read a prompt once. The caller has the lab's turn.

    Raises Unavailable for a model whose keys and values can't be cut at a token, or that has an edit on; BadInput for what
    can't be run.
    """
    model = lab.model
    check_prompt(model, prompt)
    if not steady(state_of(model).changes):
        raise Unavailable(
            "While an edit is on nothing is shared, since it may hold for a run's newest token alone; begin the prefix outside "
            "of it."
        )
    way = running.way_to_generate(model, prompt.ids)
    sharing = running.Sharing(keep=True)
    began = time.perf_counter()
    running.next_scores(model, [prompt.ids], sharing)
    seconds = time.perf_counter() - began
    if not sharing.kept or not running.goes_on(model, beyond_pad=way.beyond_pad):
        why = sharing.why or "it does not go on from keys and values that were kept"
        raise Unavailable(f"{lab.name} can't share a prefix: {why}; give it the whole prompts.")
    return Prefix(list(prompt.ids), seconds, sharing.kept[0], state_of(model))
