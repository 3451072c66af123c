"""Merges: in every method the logits of base and adapter, tested aloud each time; and no merge is lost without a word."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from adapted import FAMILY, METHODS, adapter_of, lab_of, logits, peft_of

import labkit as lk
from labkit.lora import merging


@pytest.mark.parametrize("method", [name for name in METHODS if name != "own bias"])
def test_merged(method: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    lab = lab_of(FAMILY.get(method, "llama3"))
    base = logits(lab.model)
    tuned = peft_of(lab, **METHODS[method])
    adapter = lk.lora.taken(tuned, lab, "mine")
    merged = adapter.merge()
    assert "tested: the logits are those of base and adapter" in capsys.readouterr().out
    assert isinstance(merged, lk.Lab)
    expected = logits(tuned)
    assert float((logits(merged.model) - expected).abs().max()) <= 1e-5 * float(expected.abs().max())
    assert torch.equal(logits(lab.model), base)
    assert not {p.data_ptr() for p in merged.model.parameters()} & {p.data_ptr() for p in lab.model.parameters()}
    merged.model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.equal(logits(again), logits(merged.model))


@pytest.mark.parametrize("part", ["lm_head", "embed_tokens"])
@pytest.mark.parametrize("saved", [False, True])
def test_a_tied_embedding_is_taken_apart(part: str, saved: bool, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    lab = lab_of("llama3", tie_word_embeddings=True)
    config: dict[str, Any] = {"modules_to_save": [part]} if saved else {"target_modules": [part, "q_proj"]}
    adapter = adapter_of(lab, **config)
    with adapter.on():
        expected = logits(lab.model)
    merged = adapter.merge(progress=False)
    assert lab.model.lm_head.weight is lab.model.get_input_embeddings().weight
    assert merged.model.lm_head.weight is not merged.model.get_input_embeddings().weight
    assert any("no longer share" in note for note in merged.notes)
    merged.model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert float((logits(again) - expected).abs().max()) <= 1e-5 * float(expected.abs().max())


def test_a_scale_is_merged_and_a_merge_is_no_base_again() -> None:
    lab = lab_of()
    adapter = adapter_of(lab)
    with adapter.on(-0.4):
        expected = logits(lab.model)
    merged = adapter.merge(scale=-0.4, progress=False)
    torch.testing.assert_close(logits(merged.model), expected, rtol=1e-5, atol=1e-5)
    with pytest.raises(lk.BadInput, match="trained on llama3"):
        adapter.for_lab(merged)


def test_a_lost_or_wrong_merge_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    lab = lab_of()
    adapter = adapter_of(lab)
    real = merging.add_to_weights
    monkeypatch.setattr(merging, "add_to_weights", lambda *_: [])
    with pytest.raises(lk.Unavailable, match="failed its test"):
        adapter.merge(progress=False)

    def twice(*arguments: Any) -> list[str]:
        real(*arguments)
        return real(*arguments)

    monkeypatch.setattr(merging, "add_to_weights", twice)
    with pytest.raises(lk.Unavailable, match="failed its test"):
        adapter.merge(progress=False)


def test_an_adapter_that_changes_nothing_is_told() -> None:
    lab = lab_of()
    with pytest.raises(lk.BadInput, match="changes nothing"):
        adapter_of(lab, size=0.0).merge(progress=False)
    with pytest.raises(lk.BadInput, match="changes nothing"):
        adapter_of(lab).merge(scale=0.0, progress=False)


def test_sixteen_bits_lose_small_updates_and_say_so() -> None:
    lab = lab_of()
    adapter = adapter_of(lab)
    small = adapter_of(lab, size=0.006)
    lab.model.to(torch.bfloat16)
    merged = adapter.merge(progress=False)
    assert merged.dtype == torch.bfloat16
    with pytest.raises(lk.Unavailable, match="failed its test"):
        small.merge(progress=False)


def test_a_bias_without_a_place() -> None:
    adapter = adapter_of(lab_of("llama3"), lora_bias=True)
    with pytest.raises(lk.Unavailable, match="no place"):
        adapter.merge(progress=False)
