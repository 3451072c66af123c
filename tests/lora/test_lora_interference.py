"""What adapters do to each other: inner products against dense ones, their null against draws, losses by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from adapted import METHODS, adapter_of, peft_of

import labkit as lk
from labkit.lora.interfering import gram
from labkit.lora.low_rank import dense_weight

DATA = ["the cat sat on the mat", "the dog ran after the cat", "the other dog ran up the tree", "the cat was tired"]


@pytest.fixture
def lab(tiny_lab: lk.Lab) -> lk.Lab:
    return tiny_lab


def test_inner_products_are_those_of_the_dense_updates(lab: lk.Lab) -> None:
    adapters = [
        adapter_of(lab, seed=1),
        adapter_of(lab, seed=2, target_modules=["q_proj", "down_proj"], r=3),
        adapter_of(lab, seed=3, **METHODS["dora"]),
    ]
    products, _ = gram(adapters)
    for i, one in enumerate(adapters):
        for j, other in enumerate(adapters):
            expected = 0.0
            for name in set(one.low_ranks) & set(other.low_ranks):
                weight = dense_weight(lab.model.get_submodule(name)).double()
                expected += float((one.low_ranks[name].delta(weight) * other.low_ranks[name].delta(weight)).sum())
            assert products[i, j] == pytest.approx(expected, rel=1e-8, abs=1e-9)


def test_the_null_is_what_random_directions_give(lab: lk.Lab) -> None:
    a = adapter_of(lab, seed=1, target_modules=["q_proj", "down_proj"])
    found = []
    for seed in range(2, 202):
        b = adapter_of(lab, seed=1, target_modules=["q_proj", "down_proj"])
        generator = torch.Generator().manual_seed(seed)
        for key, value in b.tensors.items():  # the same singular values, rotated
            size = value.shape[1] if "lora_A" in key else value.shape[0]
            q, r = torch.linalg.qr(torch.randn(size, size, generator=generator))
            turn = q * r.diagonal().sign()  # uniform; QR alone prefers some signs
            value.copy_(value @ turn if "lora_A" in key else turn @ value)
        products, spread = gram([a, b])
        found.append(products[0, 1] / np.sqrt(spread[0, 1]))
    assert np.std(found) == pytest.approx(1, abs=0.15)
    assert abs(np.mean(found)) < 0.25


def test_losses_are_those_of_the_adapters_on(lab: lk.Lab) -> None:
    a, b = adapter_of(lab, "a", seed=1), adapter_of(lab, "b", seed=2)
    found = lk.lora.interference([a, b], [DATA[:2], DATA[2:]], draws=50)
    mask = lk.lora.mask(lab, DATA[:2])

    def loss() -> float:
        nats, tokens = 0.0, 0
        for sample in mask.samples:
            scores = lab.trace(list(sample.ids), keep="logits").logits.log_softmax(-1)
            for i in range(1, len(sample.ids)):
                if sample.learns[i]:
                    nats, tokens = nats - float(scores[i - 1, sample.ids[i]]), tokens + 1
        return nats / tokens

    row = found.table.iloc[0]
    assert row["loss_base"] == pytest.approx(loss(), rel=1e-5)
    with a.on():
        assert row["loss_alone"] == pytest.approx(loss(), rel=1e-5)
        with b.on():
            assert row["loss_together"] == pytest.approx(loss(), rel=1e-5)
    with b.on():
        assert row["loss_others"] == pytest.approx(loss(), rel=1e-5)
    with a.on(1 + row["along"]):
        assert row["loss_foretold"] == pytest.approx(loss(), rel=1e-5)
    assert row["harm"] == pytest.approx(row["loss_together"] - row["loss_alone"])
    assert row["harm_low"] <= row["harm"] <= row["harm_high"]
    assert "cosine of a and b" in repr(found)


def test_an_opposite_is_foretold_to_take_all_away(lab: lk.Lab) -> None:
    a = lk.lora.taken(peft_of(lab), lab, "a")
    found = lk.lora.interference({"a": a, "against": -a}, {"a": DATA[:2], "against": DATA[:2]}, draws=10)
    assert found.cosines.loc["a", "against"] == pytest.approx(-1)
    first = found.table.iloc[0]
    assert first["along"] == pytest.approx(-1)
    assert first["loss_foretold"] == pytest.approx(first["loss_base"], rel=1e-6)
    assert first["loss_together"] == pytest.approx(first["loss_base"], rel=1e-6)
    assert abs(found.cosines.loc["a", "against"]) > found.null.loc["a", "against"]


def test_what_cannot_be_compared(lab: lk.Lab) -> None:
    a = adapter_of(lab)
    with pytest.raises(lk.BadInput, match="two adapters"):
        lk.lora.interference([a], [DATA])
    with pytest.raises(lk.BadInput, match="samples for each"):
        lk.lora.interference({"a": a, "b": a}, {"a": DATA})
    with pytest.raises(lk.BadInput, match="changes nothing"):
        lk.lora.interference([a, a - a], [DATA, DATA])
    with pytest.raises(lk.BadInput, match="whole tensors"):
        lk.lora.interference([a, adapter_of(lab, **METHODS["saved modules"])], [DATA, DATA])
