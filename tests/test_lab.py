"""The face: what a lab is, how it shows itself, and what importing costs."""

from __future__ import annotations

import subprocess
import sys

import fuzz
import pytest
import torch

import labkit as lk


def test_a_lab_wraps_a_model_already_in_memory() -> None:
    model, tokenizer = fuzz.tiny_model(), fuzz.tiny_tokenizer()
    lab = lk.Lab(model, tokenizer)
    assert lab.model is model
    assert lab.tokenizer is tokenizer
    assert lab.config is model.config
    assert (lab.family, lab.device.type, lab.dtype) == ("llama", "cpu", torch.float32)
    with lab as same:
        assert same is lab
    assert lab.closed


@pytest.mark.parametrize("wrong", [torch.nn.Linear(2, 2), "gpt2", None])
def test_a_lab_needs_a_language_model(wrong: object) -> None:
    with pytest.raises(lk.BadInput, match="causal language model"):
        lk.Lab(wrong, fuzz.tiny_tokenizer())
    with pytest.raises(lk.BadInput, match="tokenizer"):
        lk.Lab(fuzz.tiny_model(), None)


def test_memory_counts_the_loaded_bytes(tiny_lab: lk.Lab) -> None:
    memory = tiny_lab.memory(tokens=10, batch=2)
    assert memory.weight_bytes == sum(p.numel() * 4 for p in tiny_lab.model.parameters())
    c = tiny_lab.config
    assert memory.kv_cache_bytes == 2 * c.num_hidden_layers * c.num_key_value_heads * c.head_dim * 4 * 10 * 2


def test_the_card_says_what_one_wants_to_know(tiny_lab: lk.Lab) -> None:
    lab = lk.Lab(tiny_lab.model, tiny_lab.tokenizer, name="<script>alert(1)</script>", licence="MIT", notes=("a & b",))
    c = lab.config
    text, page = repr(lab), lab._repr_html_()
    for fact in (
        "llama",
        f"{c.num_hidden_layers} layers",
        f"{c.num_attention_heads} query heads",
        "float32 on cpu",
        "MIT",
    ):
        assert fact in text
        assert fact in page
    assert f"sharing {c.num_key_value_heads} key-value head" in text
    assert "<script" not in page
    assert "a &amp; b" in page
    lab.close()
    assert "<script" not in lab._repr_html_()


def test_the_card_of_many_families() -> None:
    """Sizes are named differently in each configuration class; the card must find them."""
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {
        "gpt2": {"n_layer": 2, "n_embd": 16, "n_head": 4, "vocab_size": 50, "n_positions": 64},
        "bloom": {"n_layer": 2, "hidden_size": 16, "n_head": 4, "vocab_size": 50},
        "mamba": {"num_hidden_layers": 2, "hidden_size": 16, "vocab_size": 50, "state_size": 4},
        "mpt": {"n_layers": 2, "d_model": 16, "n_heads": 4, "vocab_size": 50, "max_seq_len": 64},
    }
    for family, fields in sizes.items():
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **fields))
        card = repr(lk.Lab(model, fuzz.tiny_tokenizer(), name=family))
        assert "2 layers" in card
        assert "16 d_model" in card
        assert ("4 query heads" in card) == (family != "mamba")
        assert ("does not grow" in card) == (family == "mamba")


def test_importing_is_light() -> None:
    """Nothing heavy comes with `import labkit`, nor with naming what is not used."""
    heavy = ("torch", "transformers", "numpy", "IPython")
    code = f"import sys, labkit; labkit.load; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == "[]"


def test_public_names_resolve_and_unknown_ones_do_not() -> None:
    for name in lk.__all__:
        assert getattr(lk, name) is not None
        assert name in dir(lk)
    with pytest.raises(AttributeError, match="nosuchname"):
        lk.nosuchname  # noqa: B018


def test_errors_are_one_sentence_in_a_notebook() -> None:
    from IPython.testing.globalipapp import get_ipython, start_ipython

    shell = start_ipython() or get_ipython()
    error = lk.BadInput("This was wrong; do that.")
    assert error._render_traceback_() == ["BadInput: This was wrong; do that."]
    assert shell is not None


def test_labkit_errors_are_one_family() -> None:
    for name in (
        "Unavailable",
        "NotEnoughMemory",
        "NotEnoughDisk",
        "ModelNotFound",
        "DownloadFailed",
        "BadModelFile",
        "BadInput",
    ):
        assert issubclass(getattr(lk, name), lk.LabError)
