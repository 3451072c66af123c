"""Merges from scratch: equal to mergekit's and peft's, whole models against single tensors, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from adapted import adapter_of, lab_of, logits

import labkit as lk
from labkit.lora.merges import METHODS, dare, slerp, ties, trimmed


def changes(count: int = 3, seed: int = 0) -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn(12, 20, generator=rng, dtype=torch.float64) for _ in range(count)]


@pytest.mark.parametrize("density", [0.2, 0.5, 1.0])
@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [0.5, 1.0, 2.0]])
def test_ties_is_mergekit_s(density: float, weights: list[float]) -> None:
    library = pytest.importorskip("mergekit.merge_methods.generalized_task_arithmetic")
    sparsify = pytest.importorskip("mergekit.sparsify")
    deltas = changes()
    mine = ties([trimmed(delta, density) for delta in deltas], weights)
    stack = torch.stack([w * sparsify.magnitude(d, density) for w, d in zip(weights, deltas, strict=True)])
    mask = library.get_mask(stack, method="sum")
    divisor = (torch.tensor(weights).view(-1, 1, 1) * mask).sum(0)
    divisor[divisor == 0] = 1
    torch.testing.assert_close(mine, (stack * mask).sum(0) / divisor)


def test_ties_and_dare_are_peft_s() -> None:
    from peft.utils import merge_utils

    deltas = [delta.float() for delta in changes()]
    ones = torch.ones(3)
    mine = ties([trimmed(delta, 0.5) for delta in deltas], [1.0, 1.0, 1.0])
    torch.testing.assert_close(mine, merge_utils.ties(deltas, ones, 0.5))
    torch.manual_seed(4)
    theirs = merge_utils.dare_linear(deltas, ones, 0.3)
    torch.manual_seed(4)
    torch.testing.assert_close(sum(dare(delta, 0.3) for delta in deltas), theirs)
    torch.manual_seed(4)
    theirs = merge_utils.dare_ties(deltas, ones, 0.3)
    torch.manual_seed(4)
    torch.testing.assert_close(ties([dare(delta, 0.3) for delta in deltas], [1.0, 1.0, 1.0]), theirs)


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_slerp_is_mergekit_s(t: float) -> None:
    library = pytest.importorskip("mergekit.merge_methods.slerp")
    a, b, _ = changes()
    for first, second in ((a, b), (a, -a), (a, a * 2), (a, torch.zeros_like(a)), (a, a + 1e-4 * b)):
        theirs = library.slerp(torch.tensor([t]), first[None], second[None])[0]
        torch.testing.assert_close(slerp(t, first, second), theirs, rtol=1e-9, atol=1e-6)


def test_dare_keeps_the_mean() -> None:
    delta = torch.ones(200_000)
    kept = dare(delta, 0.2, torch.Generator().manual_seed(0))
    assert float(kept.mean()) == pytest.approx(1, abs=0.02)
    assert set(kept.unique().tolist()) == {0.0, 5.0}


@pytest.mark.parametrize("method", METHODS)
def test_whole_models(method: Any) -> None:
    lab = lab_of()
    before = logits(lab.model)
    one = adapter_of(lab, "one", seed=1)
    other = adapter_of(lab, "other", seed=2, target_modules=["q_proj", "down_proj"]).merge(progress=False)
    found = lk.lora.merged(lab, {"one": one, "other": other}, method, density=0.6, t=0.25)
    assert torch.equal(logits(lab.model), before)
    base, second = lab.model.state_dict(), other.model.state_dict()
    first = one.merge(progress=False).model.state_dict()
    rng = torch.Generator().manual_seed(0)
    for name, value in found.model.state_dict().items():
        x, y, b = first[name].double(), second[name].double(), base[name].double()
        if torch.equal(x, b) and torch.equal(y, b):
            assert torch.equal(value, base[name])
            continue
        expected = {
            "linear": lambda: (x + y) / 2,  # noqa: B023  # called at once
            "task_arithmetic": lambda: x + y - b,  # noqa: B023
            "ties": lambda: b + ties([trimmed(x - b, 0.6), trimmed(y - b, 0.6)], [1, 1]),  # noqa: B023
            "dare": lambda: b + dare(x - b, 0.6, rng) + dare(y - b, 0.6, rng),  # noqa: B023
            "dare_ties": lambda: b + ties([dare(x - b, 0.6, rng), dare(y - b, 0.6, rng)], [1, 1]),  # noqa: B023
            "slerp": lambda: slerp(0.25, x, y),  # noqa: B023
        }[method]()
        torch.testing.assert_close(value, expected.float(), rtol=1e-5, atol=1e-6)
    assert any(f"merged by {method}" in note for note in found.notes)


def test_the_seed_decides_what_dare_drops() -> None:
    lab = lab_of()
    pair = [adapter_of(lab, "one", seed=1), adapter_of(lab, "other", seed=2)]
    one, same, other = (logits(lk.lora.merged(lab, pair, "dare", seed=seed).model) for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.allclose(one, other)


def test_task_arithmetic_of_adapters_is_their_sum() -> None:
    lab = lab_of()
    a, b = adapter_of(lab, "a", seed=1), adapter_of(lab, "b", seed=2)
    found = lk.lora.merged(lab, [a, b], "task_arithmetic", weights=[1, -0.5])
    with (a - 0.5 * b).on():
        torch.testing.assert_close(logits(found.model), logits(lab.model), rtol=1e-4, atol=1e-5)


def test_an_output_head_of_its_own_is_merged_too() -> None:
    lab = lab_of(tie_word_embeddings=True)
    head = adapter_of(lab, "head", seed=1, target_modules=["lm_head"])
    other = adapter_of(lab, "other", seed=2)
    found = lk.lora.merged(lab, [head.merge(progress=False), other], "task_arithmetic")
    with head.on(), other.on():
        torch.testing.assert_close(logits(found.model), logits(lab.model), rtol=1e-4, atol=1e-5)
    assert any("lm_head no longer shares" in note for note in found.notes)
    assert found.model.lm_head.weight is not found.model.model.embed_tokens.weight
    assert not found.config.tie_word_embeddings
    still = lk.lora.merged(lab, [other.merge(progress=False), other])
    assert still.model.lm_head.weight is still.model.model.embed_tokens.weight
    assert still.config.tie_word_embeddings


def test_what_cannot_be_merged() -> None:
    lab = lab_of()
    a = adapter_of(lab)
    with pytest.raises(lk.BadInput, match="two or more"):
        lk.lora.merged(lab, [a])
    with pytest.raises(lk.BadInput, match="merges two tunings"):
        lk.lora.merged(lab, [a, a, a], "slerp")
    with pytest.raises(lk.BadInput, match="did you mean 'ties'"):
        lk.lora.merged(lab, [a, a], "tie")  # type: ignore[arg-type]
    with pytest.raises(lk.BadInput, match="one for each"):
        lk.lora.merged(lab, [a, a], weights=[1])
    with pytest.raises(lk.BadInput, match="no tuning of"):
        lk.lora.merged(lab, {"a": a, "b": lab_of(num_hidden_layers=1)})
    with pytest.raises(lk.BadInput, match="add up to 0"):
        lk.lora.merged(lab, [a, a], weights=[1, -1])
    tied = lab_of(tie_word_embeddings=True)
    head = adapter_of(tied, target_modules=["lm_head"])
    with pytest.raises(lk.BadInput, match="shares a tensor"):
        lk.lora.merged(tied, [head, head])
    packed = lk.quantization.quantize(lab, "int8", progress=False)
    with pytest.raises(lk.Unavailable, match="quantized"):
        lk.lora.merged(packed, [a, a])
