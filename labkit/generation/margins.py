"""Where two generations of one prompt part, and how close the choice was in each."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from labkit.errors import BadInput

if TYPE_CHECKING:
    from labkit.generation.record import Generation


ONE_ALTERNATIVE = "A margin needs two alternatives; generate with alternatives=2 or more."


class Margin(NamedTuple):
    """The first position at which two generations differ.

    at: counted from 0, among the generated tokens.  one, other: the token each took there.
    one_margin, other_margin: nats by which each model held its likeliest token there above the next one. Where greedy texts
        part by rounding alone, both are small: about twice the rounding of a log-probability.
    disagreement: nats between the two records' log-probabilities of the tokens that both kept as alternatives there, the
        largest: how much the two computations differ. Rounding can part greedy texts where a margin is no more than twice that.
    """

    at: int
    one: str
    other: str
    one_margin: float
    other_margin: float
    disagreement: float

    @property
    def is_near_tie(self) -> bool:
        """Whether the two computations differ by enough to turn the order of the two likeliest tokens."""
        return min(self.one_margin, self.other_margin) <= 2 * self.disagreement


def first_difference(one: Generation, other: Generation) -> Margin | None:
    """The first position at which two generations of the same prompt differ; None where one begins with the other.

    Raises BadInput for generations of different prompts, and for records with a single alternative, which tell no margin.
    """
    if one.prompt_ids != other.prompt_ids:
        raise BadInput("These generations have different prompts; compare two of the same prompt.")
    at = next((i for i, (a, b) in enumerate(zip(one.ids, other.ids, strict=False)) if a != b), None)
    if at is None:
        return None
    if min(one.top_ids.shape[-1], other.top_ids.shape[-1]) < 2:
        raise BadInput(ONE_ALTERNATIVE)
    theirs = dict(zip(other.top_ids[at].tolist(), other.top_logprobs[at].tolist(), strict=True))
    ours = dict(zip(one.top_ids[at].tolist(), one.top_logprobs[at].tolist(), strict=True))
    apart = [abs(ours[id_] - theirs[id_]) for id_ in ours.keys() & theirs.keys()]
    return Margin(
        at,
        one.tokens[at],
        other.tokens[at],
        _margin(one, at),
        _margin(other, at),
        max(apart, default=float("inf")),
    )


def _margin(generation: Generation, at: int) -> float:
    first, second = generation.top_logprobs[at, :2].tolist()
    return float(first - second)


def smallest_margin(generation: Generation) -> float:
    """The least by which the model held its likeliest token above the next, at any step (nats); NaN of an empty text.

    Raises BadInput for a record with a single alternative.
    """
    if generation.top_logprobs.shape[-1] < 2:
        raise BadInput(ONE_ALTERNATIVE)
    best = generation.top_logprobs
    return float((best[:, 0] - best[:, 1]).min()) if len(best) else float("nan")
