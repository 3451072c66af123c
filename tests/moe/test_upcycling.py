"""Upcycled models compute what the dense ones do, in every family, also after saving, and otherwise say why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES, Family, Tokens, build

import labkit as lk
from labkit.models import hardware
from labkit.moe import upcycling
from labkit.moe.upcycling import upcycle
from labkit.trace import building

IDS = torch.arange(3, 33)[None] % 100
SCALED = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10_000.0}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
CASES = {
    "llama": ("llama2", {}),
    "llama tied": ("llama3", {"tie_word_embeddings": True}),
    "llama scaled": ("llama3", {"rope_parameters": LLAMA3}),
    "llama wide heads": ("llama3", {"head_dim": 16}),
    "mistral window": ("mistral", {}),
    "mistral no window": ("mistral", {"sliding_window": None}),
    "qwen2": ("qwen2", {}),
    "qwen2 tied": ("qwen2", {"tie_word_embeddings": True, "hidden_act": "gelu"}),
    "qwen2 window": ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}),
    "qwen3": ("qwen3", {"rope_parameters": SCALED}),
    "qwen3 biased": ("qwen3", {"attention_bias": True}),
    "qwen3 window": ("qwen3", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0}),
}
BECOMES = {"llama": "mixtral", "mistral": "mixtral", "qwen2": "qwen2_moe", "qwen3": "qwen3_moe"}


def dense(name: str, **fields: Any) -> lk.Lab:
    family = FAMILIES[name]
    model = build(Family(family.model_type, family.fields | fields))
    with torch.no_grad():  # vectors too, so that a bias or a norm that is lost is noticed
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return lk.Lab(model, Tokens(), name=name)


def logits(model: Any, ids: torch.Tensor = IDS) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=ids, use_cache=False).logits


def assert_same(one: torch.Tensor, other: torch.Tensor) -> None:
    torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5 * float(one.abs().max()))


@pytest.mark.parametrize("case", CASES)
def test_the_mixture_computes_what_the_dense_model_does(case: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    name, fields = CASES[case]
    lab = dense(name, **fields)
    before = {k: v.clone() for k, v in lab.model.state_dict().items()}
    new = upcycle(lab, experts=6, top_k=3)
    assert isinstance(new, lk.Lab)
    assert new.family == BECOMES[lab.family]
    assert not new.model.training
    assert_same(logits(lab.model), logits(new.model))
    assert all(torch.equal(v, before[k]) for k, v in lab.model.state_dict().items())
    mine = {p.data_ptr() for p in lab.model.parameters()}
    assert not mine & {p.data_ptr() for p in new.model.parameters()}
    greedy = {"max_new_tokens": 12, "do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    assert torch.equal(lab.model.generate(IDS, **greedy), new.model.generate(IDS, **greedy))
    routes = new.trace(IDS[0].tolist(), keep="routes").routes
    assert routes.experts.shape == (30, 2, 3)
    assert routes.experts.unique().numel() > 3  # random routers that differ between tokens
    torch.testing.assert_close(routes.weights.sum(-1), torch.ones(30, 2))
    tied = lab.model.config.tie_word_embeddings
    assert (new.model.lm_head.weight is new.model.get_input_embeddings().weight) == bool(tied)
    new.model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.equal(logits(again), logits(new.model))


def test_long_texts_see_what_rotary_scaling_and_windows_do() -> None:
    """The cases above would not notice a lost window or scaling if these made no difference."""
    ids = IDS
    for name, fields in (
        ("mistral", {}),
        ("llama3", {"rope_parameters": LLAMA3}),
        ("qwen3", {"rope_parameters": SCALED}),
    ):
        plain = {"sliding_window": None} if name == "mistral" else {"rope_parameters": None}
        one, other = dense(name, **fields), dense(name, **plain)
        assert float((logits(one.model, ids) - logits(other.model, ids)).abs().max()) > 0.01


def test_what_belongs_to_the_lab_is_kept() -> None:
    lab = dense("qwen3")
    lab.licence = "MIT"
    lab.model.generation_config.temperature = 0.7
    lab.model.generation_config.eos_token_id = 5
    new = upcycle(lab, experts=2, top_k=1)
    assert new.tokenizer is lab.tokenizer
    assert new.licence == "MIT"
    assert new.name == "qwen3, 2 experts"
    assert new.model.generation_config.temperature == 0.7
    assert new.model.generation_config.eos_token_id == 5
    assert new.model.generation_config is not lab.model.generation_config
    assert new.config.max_position_embeddings == lab.config.max_position_embeddings
    assert new.config.bos_token_id == lab.config.bos_token_id
    assert new.dtype == lab.dtype


def test_seed_and_noise() -> None:
    lab = dense("llama2")
    one, same, other = upcycle(lab, 4, 2), upcycle(lab, 4, 2), upcycle(lab, 4, 2, seed=1)
    gate = "model.layers.0.mlp.gate.weight"
    states = [x.model.state_dict() for x in (one, same, other)]
    assert torch.equal(states[0][gate], states[1][gate])
    assert not torch.equal(states[0][gate], states[2][gate])
    assert not torch.equal(states[0][gate], states[0][gate.replace("layers.0", "layers.1")])
    experts = states[0]["model.layers.0.mlp.experts.down_proj"]
    assert bool((experts == experts[0]).all())
    noisy = upcycle(lab, 4, 2, noise=0.5).model.state_dict()["model.layers.0.mlp.experts.down_proj"]
    difference = noisy - experts
    assert float(difference.std() / experts.std()) == pytest.approx(0.5, rel=0.1)
    assert not torch.equal(difference[0], difference[1])
    assert float((logits(upcycle(lab, 4, 2, noise=0.5).model) - logits(lab.model)).abs().max()) > 0.01


def test_a_shared_expert_stays_silent_in_training() -> None:
    new = upcycle(dense("qwen2"), 2, 1)
    new.model(input_ids=IDS, labels=IDS).loss.backward()
    for name, parameter in new.model.named_parameters():
        if "shared_expert" in name:
            assert parameter.grad is not None
            assert not parameter.grad.any()
        elif ".experts." in name:
            assert parameter.grad.any()


def test_sixteen_bits() -> None:
    lab = dense("llama3")
    lab.model.to(torch.bfloat16)
    new = upcycle(lab, 4, 2)
    assert new.dtype == torch.bfloat16
    assert {p.dtype for p in new.model.parameters()} == {torch.bfloat16}


@pytest.mark.parametrize("name", ["mixtral", "qwen3_moe", "deepseek_v3"])
def test_a_mixture_is_refused(name: str) -> None:
    with pytest.raises(lk.Unavailable, match="mixture of experts already"):
        upcycle(dense(name))


@pytest.mark.parametrize("name", ["gpt2", "gemma3", "phi3"])
def test_other_families_are_told_which_work(name: str) -> None:
    with pytest.raises(lk.Unavailable, match="llama, mistral, qwen2 or qwen3"):
        upcycle(dense(name))


def test_what_the_mixture_has_no_place_for() -> None:
    with pytest.raises(lk.Unavailable, match="mlp_bias"):
        upcycle(dense("llama2", mlp_bias=True))
    with pytest.raises(lk.Unavailable, match="attention_bias"):
        upcycle(dense("llama2", attention_bias=True))
    with pytest.raises(lk.Unavailable, match="window"):
        upcycle(dense("qwen3", use_sliding_window=True, sliding_window=8, max_window_layers=1))
    lab = dense("llama2")
    lab.model.model.layers[0].self_attn.q_proj.register_parameter("lora", torch.nn.Parameter(torch.zeros(2)))
    with pytest.raises(lk.Unavailable, match="adapter"):
        upcycle(lab)


@pytest.mark.parametrize(
    "arguments",
    [
        {"experts": 0},
        {"experts": 2.0},
        {"top_k": 0},
        {"top_k": 9},
        {"noise": -1.0},
        {"noise": float("nan")},
        {"experts": True},
    ],
)
def test_numbers_that_cannot_be_used(arguments: dict[str, Any]) -> None:
    with pytest.raises(lk.BadInput):
        upcycle(dense("llama2"), **arguments)


def test_memory_is_checked_before_anything_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = dense("llama2")
    needed = sum(p.numel() for p in upcycle(lab, 8, 2).model.parameters()) * 4

    def fail(*_: Any) -> None:
        raise AssertionError("a model was made")

    monkeypatch.setattr(building, "free_bytes", lambda _: needed)
    monkeypatch.setattr(upcycling, "empty_model", fail)
    with pytest.raises(lk.NotEnoughMemory, match="fewer experts"):
        upcycle(lab, 8, 2)
    monkeypatch.setattr(building, "free_bytes", lambda _: int(needed * 1.2))
    with pytest.raises(AssertionError, match="a model was made"):
        upcycle(lab, 8, 2)
    assert hardware.free_bytes("cpu") > 0
