"""What a GGUF file says of its model is computed, told or refused: against transformers' model of the same settings."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from gguf_files import logits_of, model_of, write

import labkit as lk
from labkit.errors import BadModelFile, Unavailable

IDS = [1] + [3 + i * 37 % 250 for i in range(60)]
HALF = [1.0 + i for i in range(8)]  # a factor for each of the 8 frequencies of a head of 16


def rope(**parameters: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_theta": 10000.0, **parameters}}


LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 |= {"original_max_position_embeddings": 64}


def llama3_factors(size: int = 16) -> list[float]:
    """As llama.cpp's converter computes what each frequency is divided by."""
    found = []
    for i in range(size // 2):
        wavelength = 2 * math.pi * 10000.0 ** (2 * i / size)
        if wavelength < 64 / 4:
            found.append(1.0)
        elif wavelength > 64:
            found.append(8.0)
        else:
            smooth = (64 / wavelength - 1) / 3
            found.append(1 / ((1 - smooth) / 8 + smooth))
    return found


LINEAR = {"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}
YARN = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 64}
LONG = {"rope.scaling.type": "longrope", "rope.scaling.original_context_length": 32, "rope.scaling.attn_factor": 1.25}
FACTORS = {"rope_factors_long.weight": [2 * f for f in HALF], "rope_factors_short.weight": HALF}
YARN_ROPE = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
LONG_ROPE = {
    "rope_type": "longrope",
    "short_factor": HALF,
    "long_factor": [2 * f for f in HALF],
    "attention_factor": 1.25,
}
LONG_ROPE |= {"original_max_position_embeddings": 32}

# family, what its configuration has, the architecture in GGUF, what the file says, and its further tensors
HONOURED: dict[str, tuple[str, dict[str, Any], str, dict[str, Any], dict[str, Any]]] = {
    "plain": ("llama", rope(), "llama", {}, {}),
    "none": ("llama", rope(), "llama", {"rope.scaling.type": "none", "rope.scaling.factor": 4.0}, {}),
    "linear": ("llama", rope(rope_type="linear", factor=4.0), "llama", LINEAR, {}),
    "the older field": ("llama", rope(rope_type="linear", factor=4.0), "llama", {"rope.scale_linear": 4.0}, {}),
    "a factor alone": ("llama", rope(rope_type="linear", factor=4.0), "llama", {"rope.scaling.factor": 4.0}, {}),
    "yarn": ("llama", rope(**YARN_ROPE), "llama", YARN | {"rope.scaling.finetuned": True}, {}),
    "yarn's settings": (
        "llama",
        rope(**YARN_ROPE, beta_fast=16.0, beta_slow=2.0, attention_factor=0.5 * (0.1 * math.log(4) + 1)),
        "llama",
        YARN
        | {"rope.scaling.yarn_beta_fast": 16.0, "rope.scaling.yarn_beta_slow": 2.0, "rope.scaling.attn_factor": 0.5}
        | {"rope.scaling.yarn_ext_factor": 1.0},
        {},
    ),
    "llama 3": ("llama", rope(**LLAMA3), "llama", {}, {"rope_freqs.weight": llama3_factors()}),
    "factors of one": ("llama", rope(), "llama", {}, {"rope_freqs.weight": [1.0] * 8}),
    "longrope": ("phi3", rope(**LONG_ROPE) | {"original_max_position_embeddings": 32}, "phi3", LONG, FACTORS),
    "longrope of llama": ("llama", rope(**LONG_ROPE), "llama", LONG, FACTORS),
    "yarn of qwen2": ("qwen2", rope(**YARN_ROPE), "qwen2", YARN, {}),
    "linear of gemma 2": ("gemma2", rope(rope_type="linear", factor=4.0) | {"head_dim": 16}, "gemma2",
                          LINEAR | {"attention.key_length": 16, "attention.value_length": 16}, {}),
    "head size": ("qwen3", rope() | {"head_dim": 32}, "qwen3",
                  {"attention.key_length": 32, "attention.value_length": 32, "rope.dimension_count": 32}, {}),
    "part of a head": ("phi3", rope(partial_rotary_factor=0.5), "phi3", {"rope.dimension_count": 8}, {}),
    "part of a head, stablelm": ("stablelm", rope(partial_rotary_factor=0.5), "stablelm", {"rope.dimension_count": 8}, {}),
    "base": ("stablelm", {"rope_parameters": {"rope_theta": 500.0, "partial_rotary_factor": 0.25}}, "stablelm",
             {"rope.freq_base": 500.0, "rope.dimension_count": 4}, {}),
    "base of starcoder2": ("starcoder2", {"rope_parameters": {"rope_theta": 500.0, "rope_type": "default"}},
                           "starcoder2", {"rope.freq_base": 500.0}, {}),
    "softcaps": ("gemma2", rope() | {"head_dim": 16, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
                 "gemma2", {"attention.key_length": 16, "attention.value_length": 16, "attn_logit_softcapping": 2.0,
                            "final_logit_softcapping": 3.0}, {}),
    "window": ("phi3", rope() | {"sliding_window": 8}, "phi3", {"attention.sliding_window": 8}, {}),
    "no window": ("phi3", rope() | {"sliding_window": None}, "phi3", {"attention.sliding_window": 0}, {}),
}  # fmt: skip


def opened(tmp_path: Path, kind: str) -> tuple[Any, lk.Lab]:
    family, more, architecture, said, tensors = HONOURED[kind]
    model = model_of(family, **more)
    return model, lk.load(write(tmp_path / "model.gguf", model, architecture, said, tensors=tensors), fresh=True)


@pytest.mark.parametrize("kind", HONOURED)
def test_what_the_file_says_is_computed(tmp_path: Path, kind: str) -> None:
    model, lab = opened(tmp_path, kind)
    assert torch.allclose(lab.trace(IDS, keep="logits").logits, logits_of(model, IDS), atol=2e-4)
    assert not [note for note in lab.notes if "does not read" in note]


@pytest.mark.parametrize("kind", ["linear", "yarn's settings", "llama 3", "longrope", "part of a head"])
def test_it_stays_when_the_model_is_saved_and_opened_again(tmp_path: Path, kind: str) -> None:
    model, lab = opened(tmp_path, kind)
    lab.model.save_pretrained(tmp_path / "folder")
    lab.tokenizer.save_pretrained(tmp_path / "folder")
    again = lk.load(tmp_path / "folder", fresh=True)
    assert torch.allclose(again.trace(IDS, keep="logits").logits, logits_of(model, IDS), atol=2e-4)


def test_without_it_the_model_is_another(tmp_path: Path) -> None:
    plain = logits_of(model_of("llama", **rope()), IDS)
    for kind in ("linear", "yarn", "llama 3", "longrope of llama"):
        family, more, *_ = HONOURED[kind]
        assert (logits_of(model_of(family, **more), IDS) - plain).abs().max() > 0.1


@pytest.mark.parametrize(
    ("said", "tensors", "message"),
    [
        ({"rope.scaling.type": "dynamic", "rope.scaling.factor": 2.0}, {}, "the kind 'dynamic'"),
        (LINEAR | {"rope.scaling.factor": -2.0}, {}, "no number to scale by"),
        (YARN | {"rope.scaling.factor": float("nan")}, {}, "no number to scale by"),
        (LINEAR | {"rope.scaling.factor": float("inf")}, {}, "no number to scale by"),
        ({"rope.scaling.alpha": 2.0}, {}, "by alpha"),
        (YARN | {"rope.scaling.yarn_ext_factor": 0.5}, {}, "yarn_ext_factor"),
        (YARN | {"rope.scaling.yarn_log_multiplier": 0.1}, {}, "yarn_log_multiplier"),
        (YARN, {"rope_freqs.weight": llama3_factors()}, "at once"),
        (LONG, {}, "no rope_factors_long"),
        ({"rope.scaling.type": "longrope"}, FACTORS, "original context length"),
        (LINEAR | {"rope.scaling.attn_factor": 1.5}, {}, "scales attention by 1.5"),
        ({}, {"rope_freqs.weight": [1.0, 2.0]}, "8 positive factors"),
        ({}, {"rope_freqs.weight": [float("nan")] * 8}, "8 positive factors"),
        ({}, {"rope_freqs.weight": [0.0] * 8}, "8 positive factors"),
        ({"attention.causal": False}, {}, "both directions"),
        ({"expert_count": 4, "expert_used_count": 2}, {}, "mixture of 4 experts"),
    ],
)
def test_what_can_not_be_computed_is_refused(
    tmp_path: Path, said: dict[str, Any], tensors: dict[str, Any], message: str
) -> None:
    path = write(tmp_path / "model.gguf", model_of("llama", **rope()), "llama", said, tensors=tensors)
    with pytest.raises(Unavailable, match=message) as error:
        lk.load(path)
    assert "damaged" not in str(error.value)
    assert "fetch" not in str(error.value)


def test_what_is_not_read_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    said = {"logit_scale": 0.5, "residual_scale": 1.0, "attention.temperature_scale": 0.25, "swin_norm": False}
    lab = lk.load(write(tmp_path / "model.gguf", model_of("llama", **rope()), "llama", said))
    told = [note for note in lab.notes if "does not read" in note]
    assert [next(key for key in said if key in note) for note in told] == ["logit_scale", "attention.temperature_scale"]
    assert "llama.logit_scale = 0.5" in repr(lab)
    assert "llama.logit_scale = 0.5" in lab._repr_html_()
    assert "logit_scale" in caplog.text


def test_an_architecture_that_is_not_opened_from_gguf(tmp_path: Path) -> None:
    path = write(tmp_path / "model.gguf", model_of("llama", **rope()), "granite", {})
    with pytest.raises(Unavailable, match=r"'granite', which transformers .* folder of safetensors"):
        lk.load(path)


def test_damage_is_still_called_damage(tmp_path: Path) -> None:
    path = write(tmp_path / "model.gguf", model_of("llama", **rope()), "llama", {"rope.freq_base": -1.0})
    with pytest.raises(BadModelFile):
        lk.load(path)


@pytest.mark.parametrize("flag", [True, False])
def test_start_and_end_tokens_are_added_as_the_file_says(tmp_path: Path, flag: bool) -> None:
    told = {"ggml.add_bos_token": flag, "ggml.add_eos_token": flag}
    lab = lk.load(write(tmp_path / "model.gguf", model_of("llama", **rope()), "llama", tokenizer=told), fresh=True)
    ids = lab.tokenizer("a").input_ids
    assert (ids[0] == 1, ids[-1] == 2) == (flag, flag) or any("add_" in note for note in lab.notes)


def test_the_tokens_that_end_a_turn_end_the_text(tmp_path: Path) -> None:
    eot = model_of("llama", **rope()).config.vocab_size - 1
    told = {"ggml.eot_token_id": eot}
    lab = lk.load(write(tmp_path / "model.gguf", model_of("llama", **rope()), "llama", tokenizer=told), fresh=True)
    with lab.edit(
        lk.patch("logits", lambda x: torch.nn.functional.one_hot(torch.full(x.shape[:-1], eot), x.shape[-1]) * 9.0)
    ):
        gen = lab.generate([1, 5], max_new_tokens=5)
    assert (gen.finish_reason, gen.ids) == ("end", [eot])


def test_spaces_before_a_text_and_named_templates(tmp_path: Path) -> None:
    told = {"ggml.add_space_prefix": False, "chat_template": "{{ messages }}", "chat_template.tool_use": "{{ tools }}"}
    lab = lk.load(write(tmp_path / "model.gguf", model_of("llama", **rope()), "llama", tokenizer=told), fresh=True)
    ids = lab.tokenizer("a b", add_special_tokens=False).input_ids
    assert lab.tokenizer.convert_ids_to_tokens(ids) == ["a", "▁", "b"]
    assert lab.tokenizer.decode(ids) == "a b"
    assert lab.tokenizer.chat_template == {"default": "{{ messages }}", "tool_use": "{{ tools }}"}
