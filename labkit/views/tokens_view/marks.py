"""What a form and a draft left on a generation: the strip under the text, the signs in it, and the line at its foot."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from labkit.markup import counted
from labkit.views.kit.arrays import numbers

if TYPE_CHECKING:
    from labkit.generation.record import Generation

OVERRIDDEN = (
    0.5  # of the model's probability: where a form forbade more, the choice was the form's rather than the model's
)


def forbidden_of(generation: Generation) -> np.ndarray | None:
    """(n,) float32, 0 to 1: the share of the model's own probability that the form forbade; None without a form."""
    return None if generation.forbidden is None else numbers(generation.forbidden, "<f4").reshape(-1)


def marks(generation: Generation, k: int) -> dict[str, object]:
    """The traits: forbidden, (n,) float32; allowed, (n, k) uint8, whether the form allowed each of the alternatives. Both
    are empty without a form."""
    forbidden = forbidden_of(generation)
    allowed = generation.top_allowed
    n = len(generation.ids)
    return {
        "forbidden": b"" if forbidden is None else forbidden.tobytes(),
        "allowed": b"" if allowed is None or not n else numbers(allowed, "u1").reshape(n, -1)[:, :k].tobytes(),
    }


def drafted_of(generation: Generation) -> tuple[list[int], list[int]]:
    """The tokens that a draft proposed and the model took, and those at which a pass of the model over a draft began; empty
    without speculation."""
    speculation = generation.speculation
    if speculation is None:
        return [], []
    n = len(generation.ids)
    drafted = [i for i, yes in enumerate(speculation.drafted[:n]) if yes]
    starts = np.cumsum([1, *(one.kept for one in speculation.rounds)])[:-1]
    return drafted, [int(at) for at in starts if at < n]


def foot(generation: Generation) -> list[str]:
    """What the form and the drafts did, in sentences; none without them."""
    return [*_of_form(generation), *_of_drafts(generation)]


def _of_drafts(generation: Generation) -> list[str]:
    made = generation.speculation
    if made is None:
        return []
    if not made.proposed:
        return [f"Drafted by {made.draft}: nothing was proposed."]
    return [
        f"Drafted by {made.draft}: {made.accepted:,} of {counted(made.proposed, 'proposed token')} accepted "
        f"({made.acceptance:.0%}) in {counted(len(made.rounds), 'round')}: {made.tokens_per_pass:.2f} tokens a pass of the "
        f"model; had all been accepted, {made.perfect_tokens_per_pass:.2f}.",
        f"Drafting took {made.draft_seconds:.2f} s, verifying {made.verify_seconds:.2f} s.",
    ]


def _of_form(generation: Generation) -> list[str]:
    forbidden = forbidden_of(generation)
    if forbidden is None or not len(forbidden):
        return []
    over = int((forbidden > OVERRIDDEN).sum())
    said = [
        f"The form forbade {float(forbidden.mean()):.1%} of the model's probability on average, and more than half of it "
        f"at {over} of {counted(len(forbidden), 'token')}."
    ]
    complete = generation.form_complete
    if complete is not None and generation.finish_reason != "running":
        said.append(
            "The text satisfies the form." if complete else "The text is the beginning of one that satisfies it."
        )
    return said
