"""Where two generations part, by hand and on records that were bent."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

import labkit as lk
from labkit.errors import BadInput
from labkit.generation.margins import first_difference


def _bent(gen: lk.Generation, at: int, by: float) -> lk.Generation:
    """As if the second token had been taken there, its log-probability raised by so many nats."""
    ids, tokens, top = list(gen.ids), list(gen.tokens), gen.top_logprobs.clone()
    ids[at], tokens[at] = int(gen.top_ids[at, 1]), gen.top_tokens[at][1]
    top[at, 1] += by
    best = gen.top_ids.clone()
    if top[at, 1] > top[at, 0]:
        top[at, :2], best[at, :2] = top[at, :2].flip(0), best[at, :2].flip(0)
    return dataclasses.replace(gen, ids=ids, tokens=tokens, top_logprobs=top, top_ids=best)


def test_the_first_difference_and_its_margins(tiny_lab: lk.Lab) -> None:
    gen = tiny_lab.generate("abc", chat=False, max_new_tokens=8)
    assert first_difference(gen, gen) is None
    assert first_difference(gen, tiny_lab.generate("abc", chat=False, max_new_tokens=3)) is None
    gap = float(gen.top_logprobs[5, 0] - gen.top_logprobs[5, 1])
    found = first_difference(gen, _bent(gen, 5, gap + 0.02))
    assert found is not None
    assert (found.at, found.one, found.other) == (5, gen.tokens[5], gen.top_tokens[5][1])
    assert math.isclose(found.one_margin, gap, abs_tol=1e-6)
    assert math.isclose(found.other_margin, 0.02, abs_tol=1e-5)
    assert math.isclose(found.disagreement, gap + 0.02, abs_tol=1e-5)
    assert found.is_near_tie
    drawn = first_difference(gen, _bent(gen, 5, 0.0))  # taken against the model's order: no rounding does that
    assert drawn is not None
    assert drawn.disagreement == 0
    assert not drawn.is_near_tie


def test_what_tells_no_margin(tiny_lab: lk.Lab) -> None:
    gen = tiny_lab.generate("abc", chat=False, max_new_tokens=4)
    with pytest.raises(BadInput, match="different prompts"):
        first_difference(gen, tiny_lab.generate("cba", chat=False, max_new_tokens=4))
    one = dataclasses.replace(gen, top_ids=gen.top_ids[:, :1], top_logprobs=gen.top_logprobs[:, :1])
    other = dataclasses.replace(one, ids=[*one.ids[:-1], one.ids[-1] + 1])
    with pytest.raises(BadInput, match="alternatives=2"):
        first_difference(one, other)
    assert torch.equal(one.top_ids[:, 0], gen.top_ids[:, 0])
