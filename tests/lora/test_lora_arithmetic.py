"""Arithmetic with adapters is exact, stays in peft's format, and refuses what no low rank holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from adapted import METHODS, adapter_of, lab_of, logits

import labkit as lk


def dense(adapter: Any) -> dict[str, torch.Tensor]:
    return {name: low_rank.delta() for name, low_rank in adapter.low_ranks.items()}


def assert_is(adapter: Any, expected: dict[str, torch.Tensor]) -> None:
    found = dense(adapter)
    assert found.keys() == expected.keys()
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-5, atol=1e-7)


@pytest.fixture
def lab() -> lk.Lab:
    return lab_of()


def test_sums_differences_and_multiples(lab: lk.Lab) -> None:
    a = adapter_of(lab, "a", seed=1)
    b = adapter_of(lab, "b", seed=2, r=2, use_rslora=True, target_modules=["q_proj", "down_proj"])
    x, y = dense(a), dense(b)
    zero = {name: torch.zeros_like(value) for name, value in (x | y).items()}
    both = {name: x.get(name, zero[name]) + y.get(name, zero[name]) for name in zero}
    less = {name: x.get(name, zero[name]) - y.get(name, zero[name]) for name in zero}
    assert_is(a + b, both)
    assert_is(a - b, less)
    assert_is(2 * a, {name: 2 * value for name, value in x.items()})
    assert_is(a / 4, {name: value / 4 for name, value in x.items()})
    assert_is(-b, {name: -value for name, value in y.items()})
    assert_is((a + b) - 0.5 * (a - b), {name: both[name] - 0.5 * less[name] for name in zero})
    assert {each.rank for each in (a + b).low_ranks.values()} == {2, 4, 6}
    assert (a + b).name == "a + b"
    assert (2 * (a - b)).name == "2 * (a - b)"
    assert_is(a, x)


def test_a_sum_is_both_on_at_once(lab: lk.Lab) -> None:
    a, b = adapter_of(lab, seed=1, **METHODS["embedding"]), adapter_of(lab, seed=2, target_modules="all-linear")
    with (a - 0.5 * b).on():
        found = logits(lab.model)
    with a.on(), b.on(-0.5):
        torch.testing.assert_close(found, logits(lab.model), rtol=1e-4, atol=1e-5)
    with (a - a).on():
        torch.testing.assert_close(logits(lab.model), logits(lab_of().model), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", ["lora", "all linear", "embedding", "pissa"])
def test_a_sum_is_saved_in_peft_s_format(method: str, lab: lk.Lab, tmp_path: Path) -> None:
    import peft

    total = adapter_of(lab, seed=1, **METHODS[method]) + 0.7 * adapter_of(lab, seed=2, r=3)
    with total.on():
        expected = logits(lab.model)
    folder = total.save(tmp_path / "sum")
    with lk.lora.load(lab, folder).on():
        torch.testing.assert_close(logits(lab.model), expected, rtol=1e-5, atol=1e-5)
    theirs = peft.PeftModel.from_pretrained(lab_of().model, folder).eval()
    torch.testing.assert_close(logits(theirs), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("method", ["dora", "saved modules"])
def test_what_no_low_rank_holds_is_refused(method: str, lab: lk.Lab) -> None:
    odd, plain = adapter_of(lab, **METHODS[method]), adapter_of(lab)
    for make in (lambda: odd + plain, lambda: plain - odd, lambda: 2 * odd, lambda: -odd):
        with pytest.raises(lk.BadInput, match="no product of small matrices"):
            make()


def test_other_operands_are_refused(lab: lk.Lab) -> None:
    a, other = adapter_of(lab), adapter_of(lab_of(seed=4))
    with pytest.raises(lk.BadInput, match="different models"):
        _ = a + other
    for make in (lambda: a + 1, lambda: a * a, lambda: a * "2", lambda: a / a):
        with pytest.raises(TypeError):
            make()
    with pytest.raises(lk.BadInput, match="divided by 0"):
        _ = a / 0
