"""A contract over families and methods: what finetune taught is what peft computes of it, on, merged and read again."""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path
from typing import Any

import families
import fuzz
import pytest
import torch
from adapted import logits

import labkit as lk
from labkit.lora.finetuning import finetune
from labkit.lora.forgetting import TextRows, row_losses
from labkit.lora.methods import METHODS
from labkit.lora.runs import Run

DATA = [{"prompt": f"the cat {w}", "completion": f"{w} ran"} for w in ("sat", "tree", "dog", "mat")]
NO_DROPOUT = ("attn_pdrop", "embd_pdrop", "resid_pdrop", "dropout", "attention_dropout", "hidden_dropout")


def tuned(lab: lk.Lab, **options: Any) -> Run[lk.Lab]:
    given = {
        "steps": 2,
        "rank": 4,
        "targets": "all-linear",
        "dropout": 0.0,
        "learning_rate": 1e-2,
        "batch": 4,
        **options,
    }
    return finetune(lab, DATA, **given, prompt=False, general=False).wait()


def lab_of(family: str) -> lk.Lab:
    tokenizer = fuzz.tiny_tokenizer()
    own = (families.FAMILIES | families.UNUSUAL)[family]
    sizes = {"vocab_size": len(tokenizer), "bos_token_id": 1, "eos_token_id": 2} | dict.fromkeys(NO_DROPOUT, 0.0)
    if "vocab_size_per_layer_input" in own.fields:
        sizes["vocab_size_per_layer_input"] = len(tokenizer)
    model = families.build(families.Family(own.model_type, own.fields | sizes, own.eager, own.uses))
    return lk.Lab(model, tokenizer, name=f"tiny {family}")


def own_loss(lab: lk.Lab) -> float:
    """Nats a token that carries loss, by the model's own logits."""
    rows = lk.lora.mask(lab, DATA).samples
    nats, tokens = row_losses(TextRows(lab.model, [row.ids for row in rows], [row.learns for row in rows]), lab.model)
    return float(nats.sum() / tokens.sum())


def close(found: torch.Tensor, right: torch.Tensor) -> bool:
    """To 1e-5 of the largest logit, as the test of a merge has it."""
    return float((found - right).abs().max()) <= 1e-5 * float(right.abs().max())


@pytest.mark.parametrize("family", [*families.FAMILIES, "gemma3n", "gemma4", "llama_used_twice", "gpt2_in_turns"])
def test_families(family: str, tmp_path: Path) -> None:
    import peft

    lab = lab_of(family)
    before = logits(lab.model)
    fresh = copy.deepcopy(lab.model)
    run = tuned(lab)
    assert torch.equal(logits(lab.model), before)
    if run._tuning._own_draws is None:  # else, as in PhiMoE's router, training is otherwise than use
        assert run.steps[1].loss == pytest.approx(own_loss(lab), abs=1e-5), "TRL has an output head of its own"
    adapter = run.adapter
    theirs = logits(peft.PeftModel.from_pretrained(fresh, str(adapter.save(tmp_path / "adapter"))).eval())
    assert not close(theirs, before), "what was learnt is seen"
    with adapter.on():
        on = logits(lab.model)
    assert close(on, theirs)
    assert torch.equal(logits(lab.model), before)
    merged = adapter.merge(progress=False)
    assert close(logits(merged.model), on)
    again = lk.lora.load(lab, tmp_path / "adapter")
    with again.on():
        assert torch.equal(logits(lab.model), on)


@pytest.mark.parametrize("method", [name for name in METHODS if name != "full"])
def test_methods(method: str, tmp_path: Path) -> None:
    if method == "qlora" and importlib.util.find_spec("bitsandbytes") is None:
        pytest.skip("needs bitsandbytes")
    original = lab_of("llama3")
    run = tuned(original, method=method)
    in_training = logits(run._tuning.lab.model)
    folder = run.adapter.save(tmp_path / "adapter")
    lab = original
    if method == "qlora":  # it belongs to the packed weights it was trained beside
        lab = lk.quantization.quantize(original, "nf4", backend="bitsandbytes", progress=False)
    before = logits(lab.model)
    again = lk.lora.load(lab, folder)
    with again.on():
        on = logits(lab.model)
    assert close(on, in_training)
    assert not close(on, before)
    assert torch.equal(logits(lab.model), before)
    merged = again.merge(progress=False, dtype="float32" if method == "qlora" else None)
    assert close(logits(merged.model), on)
    assert torch.equal(logits(lab.model), before)


def test_full_tuning_is_read_again_as_it_was(tmp_path: Path) -> None:
    lab = lab_of("llama3")
    before = logits(lab.model)
    run = tuned(lab, method="full", learning_rate=1e-3)
    found = logits(run.lab.model)
    assert not close(found, before)
    run.lab.model.save_pretrained(tmp_path)
    lab.tokenizer.save_pretrained(tmp_path)
    assert torch.equal(logits(lk.load(tmp_path, fresh=True).model), found)
    assert torch.equal(logits(lab.model), before)
