"""Mixtures out of tuned models: experts that are theirs, routers from prompts, roles beside chance, and what is refused."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch
from adapted import adapter_of, lab_of, logits

import labkit as lk
from labkit.lora.mixtures import _rows

MLPS = ["gate_proj", "up_proj", "down_proj"]
LOW, HIGH = list(range(5, 30)), list(range(60, 85))


def texts(tokens: list[int], count: int, seed: int) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.choice(tokens, 10).tolist() for _ in range(count)]


PROMPTS = {"low": texts(LOW, 9, 0), "high": texts(HIGH, 9, 1)}


@pytest.fixture(scope="module")
def lab() -> lk.Lab:
    """Its attention adds little, so that a token's state is mostly its own, and tokens of a purpose have something in common."""
    lab = lab_of()
    with torch.no_grad():
        embedding = lab.model.model.embed_tokens.weight
        shared = torch.randn(32, generator=torch.Generator().manual_seed(0)) * embedding.std()
        embedding[LOW] += shared
        embedding[HIGH] -= shared
        for layer in lab.model.model.layers:
            layer.self_attn.o_proj.weight.mul_(0.1)
    return lab


@pytest.fixture(scope="module")
def adapters(lab: lk.Lab) -> dict[str, Any]:
    return {name: adapter_of(lab, name, seed=seed, target_modules=MLPS) for name, seed in (("low", 1), ("high", 2))}


@pytest.mark.parametrize("router", ["hidden", "trained"])
def test_experts_are_the_tuned_mlps_and_take_the_tokens_of_their_purpose(
    router: Any, lab: lk.Lab, adapters: dict[str, Any]
) -> None:
    before = logits(lab.model)
    made = lk.lora.mixture(lab, adapters, PROMPTS, router=router)
    assert made.lab.family == "mixtral"
    assert torch.equal(logits(lab.model), before)
    merged = {name: adapter.merge(progress=False) for name, adapter in adapters.items()}
    for expert, tuned in enumerate(merged.values()):
        with made.lab.edit(lk.moe.force([expert])):
            found = logits(made.lab.model)
        expected = logits(tuned.model)
        assert float((found - expected).abs().max()) <= 1e-5 * float(expected.abs().max())
    assert list(made["purpose"]) == ["low", "high"]
    assert (made["documents"] == 3).all()
    assert (made["own"] > 0.85).all(), made
    assert (made["own_low"] > made["untrained_high"]).all() or (made["untrained_high"] > 0.85).any()
    assert (made["untrained"] - 0.5).abs().max() < 0.25
    assert not made.warnings
    assert made.cosines.loc["low", "high"] < 0
    assert lk.moe.specialisation(made.routing).untrained == 16
    assert "by an even choice" in repr(made)


def test_shares_are_counted_from_the_routes(lab: lk.Lab, adapters: dict[str, Any]) -> None:
    held = {"low": texts(LOW, 2, 7), "high": texts(HIGH, 4, 8)}
    made = lk.lora.mixture(lab, adapters, PROMPTS, held_out=held)
    shares = []
    for text in held["high"]:
        routes = made.lab.trace(text, keep="routes").routes
        shares += (routes.experts[:, :, 0] == 1).float().mean(1).tolist()
    assert made["own"][1] == pytest.approx(np.mean(shares))
    assert made["tokens"].tolist() == [20, 40]


def test_models_and_the_base_are_joined_too(lab: lk.Lab, adapters: dict[str, Any]) -> None:
    whole = adapter_of(lab, "all", seed=5, target_modules="all-linear").merge(progress=False)
    sources = {"low": whole, "high": None}
    plain = lk.lora.mixture(lab, sources, PROMPTS)
    assert any("outside of the MLPs" in note for note in plain.lab.notes)
    with plain.lab.edit(lk.moe.force([1])):
        torch.testing.assert_close(logits(plain.lab.model), logits(lab.model), rtol=1e-5, atol=1e-5)
    mean = lk.lora.mixture(lab, sources, PROMPTS, rest="mean")
    name = "model.layers.0.self_attn.q_proj.weight"
    expected = (whole.model.state_dict()[name] + lab.model.state_dict()[name]) / 2
    torch.testing.assert_close(mean.lab.model.state_dict()[name], expected)
    assert not any("outside" in note for note in mean.lab.notes)
    both = lk.lora.mixture(lab, sources, PROMPTS, top_k=2, router="random")
    assert (both["own"] == 1).all()
    assert (both["even"] == 1).all()


def test_a_head_of_its_own_is_in_the_mean() -> None:
    lab = lab_of(tie_word_embeddings=True)
    low = adapter_of(lab, "low", seed=5, target_modules=[*MLPS, "lm_head"]).merge(progress=False)
    made = lk.lora.mixture(lab, {"low": low, "high": None}, PROMPTS, rest="mean").lab
    expected = (low.model.lm_head.weight + lab.model.lm_head.weight) / 2
    torch.testing.assert_close(made.model.lm_head.weight, expected)
    assert torch.equal(made.model.model.embed_tokens.weight, lab.model.model.embed_tokens.weight)
    assert any("lm_head no longer shares" in note for note in made.notes)


def test_a_trained_router_is_logistic_regression() -> None:
    rng = torch.Generator().manual_seed(0)
    states = [torch.randn(40, 6, generator=rng, dtype=torch.float64) + shift for shift in (0.0, 0.8)]
    rows = _rows("trained", states, 200, rng)
    hidden = _rows("hidden", states, 200, rng)
    right = torch.cat([torch.zeros(40), torch.ones(40)]).long()
    scores = torch.cat(states) @ rows.T
    assert torch.nn.functional.cross_entropy(scores, right) < torch.nn.functional.cross_entropy(
        torch.cat(states) @ hidden.T, right
    )
    assert (torch.cat(states) @ hidden.T).std() == pytest.approx(1)


def test_purposes_that_are_one_are_refused_and_near_ones_warned_about(lab: lk.Lab, adapters: dict[str, Any]) -> None:
    with pytest.raises(lk.BadInput, match="same prompts"):
        lk.lora.mixture(lab, adapters, {"low": PROMPTS["low"], "high": PROMPTS["low"][::-1]})
    with pytest.raises(lk.BadInput, match="same MLPs"):
        lk.lora.mixture(lab, {"low": adapters["low"], "high": adapters["low"]}, PROMPTS)
    attention = {name: adapter_of(lab, name, seed=i) for i, name in enumerate(PROMPTS)}
    with pytest.raises(lk.BadInput, match="same MLPs"):
        lk.lora.mixture(lab, attention, PROMPTS)
    near = lk.lora.mixture(lab, adapters, {"low": texts(LOW, 30, 0), "high": texts(LOW, 30, 9)})
    assert any("not told apart" in warning for warning in near.warnings)


def test_what_cannot_be_joined(lab: lk.Lab, adapters: dict[str, Any]) -> None:
    with pytest.raises(lk.BadInput, match="two purposes"):
        lk.lora.mixture(lab, {"low": None}, {"low": PROMPTS["low"]})
    with pytest.raises(lk.BadInput, match="same purposes"):
        lk.lora.mixture(lab, adapters, {"low": PROMPTS["low"]})
    with pytest.raises(lk.BadInput, match="3 or more"):
        lk.lora.mixture(lab, adapters, {"low": PROMPTS["low"], "high": PROMPTS["high"][:2]})
    with pytest.raises(lk.BadInput, match="routers are made from"):
        lk.lora.mixture(lab, adapters, PROMPTS, held_out=PROMPTS)
    with pytest.raises(lk.BadInput, match="no tuning of"):
        lk.lora.mixture(lab, adapters | {"low": lab_of(num_hidden_layers=1)}, PROMPTS)
    with pytest.raises(lk.BadInput, match="top_k"):
        lk.lora.mixture(lab, adapters, PROMPTS, top_k=3)
    with pytest.raises(lk.Unavailable, match="llama"):
        lk.lora.mixture(lab_of("gpt2"), adapters, PROMPTS)


def test_mergekit_refuses_and_warns_less(caplog: pytest.LogCaptureFixture) -> None:
    """The same three cases there: prompts equal for all refused, for two of three not; near ones only warned about."""
    config = pytest.importorskip("mergekit.moe.config")
    router = pytest.importorskip("mergekit.moe.router")

    def made(prompts: list[list[str]], models: list[str]) -> Any:
        experts = [{"source_model": m, "positive_prompts": p} for m, p in zip(models, prompts, strict=True)]
        return config.MoEMergeConfig(base_model="a/base", experts=experts)

    assert config.is_bad_config(made([["x"], ["x"]], ["a/one", "a/two"]))
    assert not config.is_bad_config(made([["x"], ["x"], ["y"]], ["a/one", "a/two", "a/three"]))
    assert config.is_bad_config(made([["x"], ["y"]], ["a/one", "a/one"]))
    assert not config.is_bad_config(made([["x"], ["x "]], ["a/one", "a/two"]))
    row = torch.randn(1, 1, 16)
    with caplog.at_level(logging.WARNING):
        router.warn_degenerate_gates(torch.cat([row, row + 1e-3 * torch.randn(1, 1, 16)], 1))
    assert "degenerate" in caplog.text
