"""Whether weights lie on a grid: told from the numbers of values, on models made to."""

from __future__ import annotations

import fuzz
import pytest
import torch

import labkit as lk
from labkit.quantization import matrices, on_grid, quantize
from labkit.quantization.fingerprints import distinct


def test_distinct_values_are_counted_by_group() -> None:
    weight = torch.tensor([[1.0, 1.0, 2.0, 3.0, 9.0], [0.0, -0.0, 0.0, 0.0, 9.0]])
    assert distinct(weight, 2).tolist() == [1, 2, 1, 1]  # the fifth column fills no group
    assert distinct(weight[None], 4).tolist() == [3, 1]
    assert distinct(weight, 2, most=2).tolist() == [1, 1]  # the first and the last


def test_a_model_out_of_four_bits_is_on_the_grid_and_a_trained_one_is_not(tiny_lab: lk.Lab) -> None:
    plain = on_grid(tiny_lab)
    assert not plain.on_grid
    assert plain.largest == 32
    assert plain.share == plain.null_share == 0.0
    assert len(plain) == sum(each.part == "layer" for each in matrices(tiny_lab).values())
    small = quantize(tiny_lab, "q4_0", progress=False)
    found = on_grid(small)
    assert found.on_grid
    assert found.share == 1.0
    assert found.largest <= 16
    assert "already" in repr(found)
    eight = on_grid(quantize(tiny_lab, "q8_0", progress=False))
    assert not eight.on_grid
    assert eight.share < 0.01
    assert len(on_grid(tiny_lab, head=True)) > len(plain)


def test_the_default_model_is_on_a_grid_of_four_bits(default_lab: lk.Lab) -> None:
    found = on_grid(default_lab, groups=500)
    assert found.on_grid
    assert found.largest <= 16
    assert found.null_share == 0.0


def test_what_has_no_such_group_is_refused(tiny_lab: lk.Lab) -> None:
    with pytest.raises(lk.BadInput, match="smaller group"):
        on_grid(tiny_lab, group=4096)
    with pytest.raises(lk.BadInput, match="group=8"):
        on_grid(tiny_lab, group=8)
    assert fuzz.WIDTH == 32
