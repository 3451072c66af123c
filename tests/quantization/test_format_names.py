"""Formats by their names, and what is said of names and settings that don't go together."""

from __future__ import annotations

import pytest
import torch

import labkit as lk
from labkit.errors import BadInput
from labkit.quantization import formats
from labkit.quantization.integers import Absmax, ZeroPoint


def test_every_name_makes_a_format_of_that_name() -> None:
    for name in formats.NAMES:
        format = formats.of(name)
        assert format.name == name
        assert formats.of(format) is format
    assert lk.quantization.formats is formats


def test_integers_take_group_symmetry_and_the_precision_of_scales() -> None:
    assert formats.of("int4") == lk.quantization.Format("int4", Absmax(4, torch.float16), 64)
    assert formats.of("int8") == lk.quantization.Format("int8", Absmax(8, torch.float32), "channel")
    assert formats.of("int3", group_size=32, symmetric=False).grid == ZeroPoint(3, torch.float16)
    assert formats.of("int4", group_size="tensor").grid == Absmax(4, torch.float32)
    assert formats.of("int4", scale_dtype=torch.bfloat16).grid == Absmax(4, torch.bfloat16)


@pytest.mark.parametrize("group_size", [16, "channel", "tensor"])
def test_a_group_has_the_size_it_was_given(group_size: int | str) -> None:
    weight = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    stored = formats.of("int4", group_size=group_size).pack(weight).stored
    assert len(stored["scale"]) == {16: 16, "channel": 4, "tensor": 1}[group_size]


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"name": "int44"}, r"did you mean 'int4'\?"),
        ({"name": "q4_k_m"}, r"did you mean 'q4_k'\?"),
        ({"name": 4}, "format=4 can't be used"),
        ({"name": "int4", "group_size": 1}, 'give a whole number from 2, "channel" or "tensor"'),
        ({"name": "int4", "group_size": "row"}, "group_size='row' can't be used"),
        ({"name": "int4", "group_size": 64.5}, "group_size=64.5 can't be used"),
        ({"name": "q4_0", "group_size": 64}, "q4_0 always has groups of 32"),
        ({"name": "q6_k", "group_size": 32}, "q6_k always has groups of 256"),
        ({"name": "nf4", "symmetric": False}, "symmetric=False can't be used"),
        ({"name": "mxfp4", "scale_dtype": torch.float32}, "with int8 to int2 alone"),
        ({"name": "int4", "scale_dtype": torch.int8}, "a floating-point dtype"),
        ({"name": "int4", "symmetric": "yes"}, "symmetric='yes' can't be used; give True or False"),
        ({"name": formats.of("int4"), "group_size": 32}, "int4 is a finished Format"),
    ],
)
def test_what_does_not_go_together_is_refused_in_a_sentence(arguments: dict, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        formats.of(**arguments)


def test_the_usual_group_may_be_named() -> None:
    assert formats.of("q4_0", group_size=32) == formats.of("q4_0")
