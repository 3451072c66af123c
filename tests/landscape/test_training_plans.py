"""Training by formula: against a step that was made, against accelerate's estimate, and against the papers' own cases."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from accelerate.commands.estimate import estimate_training_usage
from accelerate.utils import calculate_maximum_sizes
from transformers import AutoConfig, AutoModelForCausalLM

import labkit as lk
from labkit.landscape import Training
from labkit.landscape.machines import hardware
from labkit.landscape.structures import structure
from labkit.landscape.training import activation_bytes, usage
from labkit.lora.costs import saved_bytes
from labkit.models.memory import named_config, skeleton

SMALL = {
    "vocab_size": 500,
    "hidden_size": 128,
    "intermediate_size": 344,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GPT2 = {"vocab_size": 500, "n_embd": 128, "n_layer": 4, "n_head": 8, "bos_token_id": 1, "eos_token_id": 2}
NO_DROPOUT = {"resid_pdrop": 0.0, "attn_pdrop": 0.0, "embd_pdrop": 0.0}


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize(
    ("family", "fields"),
    [("llama", SMALL), ("qwen3", SMALL | {"head_dim": 16}), ("phi3", SMALL), ("gpt2", GPT2 | NO_DROPOUT)],
)
def test_a_real_step_of_full_tuning_takes_what_was_planned(family: str, fields: dict[str, Any], precision: str) -> None:
    config = AutoConfig.for_model(family, **fields)
    model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, precision), attn_implementation="sdpa")
    batch, tokens = 2, 64
    described = structure(config)[1]
    found = usage(described, hardware("H100"), precision, tokens, batch, Training(master=False)).parts

    kept = saved_bytes(model, batch, tokens)[1]
    assert batch * tokens * activation_bytes(described, precision) == pytest.approx(kept, rel=0.12)
    assert found["activations"] == batch * tokens * activation_bytes(described, precision)

    optimizer = torch.optim.AdamW(model.parameters())
    ids = torch.randint(0, 500, (batch, tokens), generator=torch.Generator().manual_seed(0))
    model(ids, labels=ids).loss.backward()
    optimizer.step()
    size = sum(p.numel() * p.element_size() for p in model.parameters())
    assert found["weights"] == found["gradients"] == size
    assert sum(p.grad.numel() * p.grad.element_size() for p in model.parameters() if p.grad is not None) == size
    states = [t for state in optimizer.state.values() for t in state.values()]
    held = sum(t.numel() * t.element_size() for t in states)
    if precision == "float32":
        assert found["optimizer"] == held
    else:  # torch keeps moments as wide as the weights; the plan has them in float32, as mixed precision does
        counters = 4 * len(list(model.parameters()))
        assert found["optimizer"] - counters == 2 * (held - counters)


@pytest.mark.parametrize("name", ["llama-2-7b", "gpt2", "mixtral-8x7b"])
def test_model_state_is_accelerates_estimate_in_float32(name: str) -> None:
    """accelerate counts 16 bytes a parameter for float32. For 16 bits its largest part, 8, is not the sum of its parts, 18
    (4 of weights, 6 of gradients, 8 of moments): the plan has 2 + 2 + 4 + 8. It counts neither activations nor logits, and the
    frequencies of rotary embedding as weights (a few hundred bytes)."""
    _, described = structure(name)
    total, _ = calculate_maximum_sizes(skeleton(named_config(name)[1]).to(torch.float32))
    theirs = estimate_training_usage(total, "float32")
    ours = usage(described, hardware("H100"), "float32", 128, 1, Training()).parts
    counters = 4 * sum(not w.kept for w in described.weights)
    extra = theirs["model"] - ours["weights"]
    assert 0 <= extra <= 1024
    assert ours["gradients"] == theirs["gradients"] - extra
    assert ours["optimizer"] - counters == theirs["optimizer"] - 2 * extra
    assert ours["weights"] + ours["gradients"] + ours["optimizer"] - counters == theirs["step"] - 4 * extra
    mixed = usage(described, hardware("H100"), "bfloat16", 128, 1, Training()).parts
    assert sum(mixed[part] for part in ("weights", "gradients", "optimizer")) - counters == theirs["step"] - 4 * extra
    assert max(estimate_training_usage(total, "bfloat16").values()) == theirs["step"] // 2


def test_zeros_stages_divide_as_the_paper_says() -> None:
    """Rajbhandari et al. 2020, figure 1: 7.5 billion parameters on 64 cards take 120, 31.4, 16.6 and 1.9 GB."""
    described = structure("llama-2-7b")[1]
    scale = 7.5e9 / described.parameters
    for stage, gigabytes in enumerate((120, 31.4, 16.6, 1.9)):
        parts = usage(described, hardware("64xH100"), "bfloat16", 16, 64, Training(zero=stage)).parts
        state = sum(parts[part] for part in ("weights", "gradients", "optimizer"))
        assert scale * state / 1e9 == pytest.approx(gigabytes, rel=0.02)


def test_time_is_six_for_each_parameter_and_token_and_the_attention_on_top() -> None:
    described = structure("llama-2-7b")[1]
    tokens, batch = 2048, 8
    found = usage(described, hardware("8xA100"), "bfloat16", tokens, batch, Training(zero=3, dataset_tokens=1e9))
    embedding, norms = 32_000 * 4096, 65 * 4096
    products = 6 * (described.parameters - embedding - norms) * tokens * batch
    attention = 3 * 32 * 4 * 4096 * batch * tokens * (tokens + 1) // 2
    assert found.flops == products + attention
    assert found.seconds == pytest.approx(found.flops / (8 * 312e12 * 0.4))
    assert found.hours == pytest.approx(found.seconds * 1e9 / (tokens * batch) / 3600)
    again = usage(described, hardware("8xA100"), "bfloat16", tokens, batch, Training(zero=3, checkpointing=True))
    assert again.flops * 3 == found.flops * 4


def test_what_is_divided_becomes_smaller_and_a_pipeline_waits() -> None:
    described = structure("llama-2-7b")[1]

    def of(cards: int, batch: int, **how: Any) -> Any:
        return usage(described, hardware(f"{cards}xH100"), "bfloat16", 1024, batch, Training(**how))

    one = of(1, 8)
    tensor = of(8, 8, tensor=8)
    assert tensor.parts["weights"] == pytest.approx(one.parts["weights"] / 8, rel=0.01)
    assert tensor.parts["activations"] > one.parts["activations"] / 8
    assert of(8, 8, tensor=8, sequence=True).parts["activations"] == pytest.approx(
        one.parts["activations"] / 8, rel=0.02
    )
    piped = of(8, 8, pipeline=8)
    assert piped.compute == pytest.approx(one.compute / 8 * (1 + 7 / 8))
    assert piped.parts["weights"] < one.parts["weights"] / 6
    saved = of(1, 8, checkpointing=True)
    inputs = 8 * 1024 * 32 * 4096 * 2
    assert inputs < saved.parts["activations"] < inputs + one.parts["activations"] / 16
    assert of(8, 8, zero=3).exchange == pytest.approx(1.5 * of(8, 8, zero=2).exchange)
    assert of(8, 64).parts["activations"] == 8 * of(8, 64, micro=1).parts["activations"]


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("llama-2-7b", {"hardware": "4xA100-80GB", "batch": 4, "tokens": 2048}),
        ("llama-2-7b", {"hardware": "A100-80GB", "batch": 4, "tokens": 2048}),
        ("llama-2-70b", {"hardware": "8xH100", "batch": 8, "tokens": 4096}),
        ("smollm2-135m", {"hardware": "T4", "batch": 64, "tokens": 2048, "precision": "float16"}),
    ],
)
def test_the_change_advised_makes_the_training_fit(name: str, asked: dict[str, Any]) -> None:
    plan = lk.plan(name, use="training", **asked)
    assert not plan.fits
    assert plan.bottleneck == "memory"
    assert plan.step_seconds is None
    assert plan.change
    after = lk.plan(name, use="training", **{**asked, **plan.change})
    assert after.fits
    assert after.step_seconds is not None


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        ({"training": Training(tensor=3)}, "tensor"),
        ({"batch": 3}, "batch=3"),
        ({"precision": "int8"}, "precision"),
        ({"training": "zero"}, "training"),
        ({"use": "inference", "training": Training()}, 'use="training"'),
        ({"training": Training(pipeline=4, tensor=1), "batch": 0}, "batch=0"),
    ],
)
def test_what_can_not_be_trained_so_is_refused(asked: dict[str, Any], match: str) -> None:
    with pytest.raises(lk.BadInput, match=match):
        lk.plan("gpt2", **{"hardware": "4xH100", "use": "training", "batch": 4, **asked})
    for wrong in ({"zero": 4}, {"optimizer": "lion"}, {"micro": 0}, {"utilisation": 0}, {"checkpointing": 1}):
        with pytest.raises(lk.BadInput):
            Training(**wrong)


def test_the_articles_table_stands_beside_the_computed_one() -> None:
    found = lk.landscape.selection()
    assert found["stated"].tolist() == [4, 16, 8, 8]
    assert (found["bits_16"] >= found["bits_8"]).all()
    assert (found["bits_8"] >= found["bits_4"]).all()
    row = found.set_index("model").loc["llama-2-70b"]
    assert lk.plan("llama-2-70b", hardware=f"{row['bits_16']}xA100-80GB").fits
    assert not lk.plan("llama-2-70b", hardware=f"{row['bits_16'] - 1 or 1}xA100-80GB").fits
    how = Training(zero=3, checkpointing=True)
    asked: dict[str, Any] = {"use": "training", "tokens": 4096, "training": how}
    cards = int(row["training"])
    assert lk.plan("llama-2-70b", hardware=f"{cards}xA100-80GB", batch=cards, **asked).fits
    assert not lk.plan("llama-2-70b", hardware=f"{cards - 1}xA100-80GB", batch=cards - 1, **asked).fits
