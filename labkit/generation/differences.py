"""Where two texts of one prompt part, and how close the choice was there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from labkit.errors import BadInput

if TYPE_CHECKING:
    from labkit.generation.record import Generation


@dataclass(frozen=True)
class Difference:
    """The first token at which two texts differ.

    at: which, counted from the first generated one.  token, other_token: the text of each.
    margin: by how much the first text's run held its token's logit above the other's; None where the other is not among the
        alternatives that were kept.  other_margin: by how much the other's run held the other's above the first.  Two near
        margins of opposite meaning are a near tie, which rounding decides; log-probabilities of one step differ as logits do.
    """

    at: int
    token: str
    other_token: str
    margin: float | None
    other_margin: float | None

    def __str__(self) -> str:
        said = [f"{margin:.2g}" if margin is not None else "not kept" for margin in (self.margin, self.other_margin)]
        return (
            f"token {self.at}: {self.token!r} and {self.other_token!r}; margins of the logits {said[0]} and {said[1]}, each in "
            "favour of its own"
        )


def first_difference(one: Generation, other: Generation) -> Difference | None:
    """Where two runs of one prompt part; None where one is the other, or the beginning of it.

    Raises BadInput for runs of two prompts.
    """
    if one.prompt_ids != other.prompt_ids:
        raise BadInput(
            "These are texts of two prompts, which differ from the first token on; compare two of one prompt."
        )
    parts = (i for i, (a, b) in enumerate(zip(one.ids, other.ids, strict=False)) if a != b)
    if (at := next(parts, None)) is None:
        return None
    return Difference(
        at, one.tokens[at], other.tokens[at], _margin(one, at, other.ids[at]), _margin(other, at, one.ids[at])
    )


def smallest_margin(generation: Generation) -> float:
    """The least by which the chosen token's logit stood above the next at any step; NaN of an empty text.

    Of a greedy text; with alternatives kept at least 2.
    """
    best = generation.top_logprobs[:, :2]
    if best.shape[-1] < 2:
        raise BadInput("A margin needs two alternatives a step; generate with alternatives=2 or more.")
    return float((best[:, 0] - best[:, 1]).min()) if len(best) else float("nan")


def _margin(generation: Generation, at: int, id_: int) -> float | None:
    kept = generation.top_ids[at].tolist()
    if id_ not in kept:
        return None
    return float(generation.logprobs[at] - generation.top_logprobs[at, kept.index(id_)])
