"""Directions of a stream, checked."""

from __future__ import annotations

import pytest
import torch

from labkit.errors import BadInput
from labkit.trace.along import check_width, unit


def test_a_direction_is_taken_at_length_one() -> None:
    given = torch.tensor([3.0, 0.0, 4.0], dtype=torch.float64, requires_grad=True)
    found = unit(given, "")
    torch.testing.assert_close(found, torch.tensor([0.6, 0.0, 0.8], dtype=torch.float64))
    assert unit(given.to(torch.bfloat16), "").dtype == torch.float32
    assert not found.requires_grad


@pytest.mark.parametrize("what", [[1.0, 2.0], torch.ones(2, 2), None])
def test_what_is_none_is_refused_in_the_callers_words(what: object) -> None:
    with pytest.raises(BadInput, match="this takes a direction"):
        unit(what, "this takes a direction")


@pytest.mark.parametrize("what", [torch.zeros(3), torch.tensor([1.0, float("nan")]), torch.tensor([float("inf")])])
def test_what_has_no_length_is_refused(what: torch.Tensor) -> None:
    with pytest.raises(BadInput, match="no length"):
        unit(what, "")


def test_a_stream_of_another_width_is_refused_with_the_remedy() -> None:
    check_width(torch.ones(4, 3), torch.ones(3), "")
    with pytest.raises(BadInput, match=r"has 3 numbers and the model's residual stream 5: .*; load another\."):
        check_width(torch.ones(4, 5), torch.ones(3), "load another")
