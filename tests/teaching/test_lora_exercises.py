"""The solutions of notebook 05's exercises beside peft's layers, torch's own loss, and other ways to count."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

import labkit as lk
from labkit.teaching.exercises import find


def solution(name: str) -> Any:
    return find(f"lora.{name}").reference


def inputs(name: str) -> list[tuple[Any, ...]]:
    return [case.inputs for case in find(f"lora.{name}").cases()]


def tuned_layer(d_in: int = 12, d_out: int = 8, rank: int = 3, alpha: int = 6) -> Any:
    """peft's own layer around a linear one, its adapter filled with numbers."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(d_in, d_out, bias=False))
    layer = get_peft_model(model, LoraConfig(r=rank, lora_alpha=alpha, target_modules=["0"])).base_model.model[0]
    nn.init.normal_(layer.lora_B["default"].weight)
    return layer


def test_the_layer_by_hand_is_pefts() -> None:
    layer = tuned_layer()
    x = torch.randn(5, 12)
    weight, a, b = (layer.base_layer.weight, layer.lora_A["default"].weight, layer.lora_B["default"].weight)
    with torch.no_grad():
        before = layer(x)
        torch.testing.assert_close(solution("adapted")(x, weight, a, b, 6.0), before, atol=1e-6, rtol=0)
        by_hand = solution("merged")(weight, a, b, 6.0)
        layer.merge()
        torch.testing.assert_close(by_hand, layer.base_layer.weight, atol=1e-6, rtol=0)
        torch.testing.assert_close(x @ by_hand.T, before, atol=1e-5, rtol=0)


def test_the_loss_is_torchs_with_the_labels_shifted() -> None:
    for logits, labels in inputs("tuning_loss"):
        wanted = nn.functional.cross_entropy(logits[:-1], labels[1:])
        torch.testing.assert_close(solution("tuning_loss")(logits, labels), wanted)


def test_the_loss_is_what_the_model_itself_trains_on(tiny_lab: lk.Lab) -> None:
    labels = solution("labels")([5, 6, 7, 8], [9, 10, 11], 2)
    ids = torch.tensor([[5, 6, 7, 8, 9, 10, 11, 2]])
    with torch.no_grad():
        out = tiny_lab.model(input_ids=ids, labels=labels[None])
    torch.testing.assert_close(solution("tuning_loss")(out.logits[0].float(), labels), out.loss, atol=1e-5, rtol=1e-5)


def test_trained_numbers_are_as_peft_counts_them() -> None:
    shapes = [(8, 12), (5, 12)]
    model = nn.Sequential(
        *[nn.ModuleDict({f"m{i}": nn.Linear(s[1], s[0]) for i, s in enumerate(shapes)}) for _ in "ab"]
    )
    tuned = get_peft_model(model, LoraConfig(r=4, target_modules=["m0", "m1"]))
    assert solution("trainable")(shapes, 2, 4) == tuned.get_nb_trainable_parameters()[0]
    assert solution("trainable")([(4096, 4096)] * 2, 32, 16) == 8_388_608


def test_a_blend_is_exact_in_float64() -> None:
    for a1, b1, a2, b2, share in inputs("blended"):
        a, b = (part.double() for part in solution("blended")(a1, b1, a2, b2, share))
        wanted = (1 - share) * b1.double() @ a1.double() + share * b2.double() @ a2.double()
        torch.testing.assert_close(b @ a, wanted, atol=1e-6, rtol=0)


@pytest.mark.parametrize("rank", [1, 3, 7])
def test_the_effective_rank_of_equal_directions_is_their_number(rank: int) -> None:
    basis = torch.linalg.qr(torch.randn(16, rank, generator=torch.Generator().manual_seed(rank)))[0]
    assert float(solution("effective_rank")(basis @ basis.T)) == pytest.approx(rank, abs=0.01)


def test_the_largest_rank_fits_and_the_next_does_not() -> None:
    for per_rank, budget in inputs("largest_rank"):
        rank = solution("largest_rank")(per_rank, budget)
        assert 16 * per_rank * rank <= budget < 16 * per_rank * (rank + 1)
