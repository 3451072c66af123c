"""labkit.lora.forgotten: zero for an untouched model, and by hand for a tuned one."""

from __future__ import annotations

import copy
from typing import Any

import fuzz
import numpy as np
import pytest
import torch
from adapted import lab_of

import labkit as lk
from labkit.lora.finetuning import finetune

TASK = [{"prompt": f"the cat {w}", "completion": f"{w} ran"} for w in ("sat", "tree", "dog", "mat")]
GENERAL = ["the dog ran after the cat", "where the tree was, the other cat", "because it was tired"]


def tiny() -> lk.Lab:
    return lk.Lab(fuzz.tiny_model().eval(), fuzz.tiny_tokenizer(), name="tiny")


def test_an_untouched_model_has_forgotten_nothing() -> None:
    lab = tiny()
    copied = lk.Lab(copy.deepcopy(lab.model), lab.tokenizer, name="copy")
    found = lk.lora.forgotten(lab, copied, TASK, general=GENERAL)
    assert list(found["texts"]) == ["general", "task"]
    for column in ("change", "change_low", "change_high", "kl", "kl_low", "kl_high"):
        assert (found[column] == 0).all()
    assert (found["loss"] > 1).all()  # labels are shifted: a random model knows nothing
    assert found.noise < 1e-6


def test_an_adapter_is_measured_as_by_hand_and_is_off_afterwards() -> None:
    lab = tiny()
    run = finetune(
        lab, TASK, targets="all-linear", rank=4, learning_rate=2e-2, steps=8, batch=4, prompt=False, general=GENERAL
    ).wait()
    before = lab.next_logits("the")
    found = lk.lora.forgotten(lab, run.adapter, TASK, general=GENERAL)
    assert torch.equal(lab.next_logits("the"), before)
    general, task = (row for _, row in found.table.iterrows())
    assert general["change"] == pytest.approx(run.steps[-1].forgetting, abs=1e-6)
    assert task["change"] < -0.1
    assert (task["kl"], general["kl"]) > (found.noise, found.noise)
    assert general["change_low"] <= general["change"] <= general["change_high"]
    kls: list[float] = []
    for sample in lk.lora.mask(lab, TASK).samples:
        base = lab.trace(list(sample.ids), keep="logits").logits.double().log_softmax(-1)
        with run.adapter.on():
            tuned = lab.trace(list(sample.ids), keep="logits").logits.double().log_softmax(-1)
        kl = (base.exp() * (base - tuned)).sum(-1)[:-1]
        kls += kl[torch.tensor(sample.learns[1:])].tolist()
    assert task["kl"] == pytest.approx(np.mean(kls), rel=1e-4)
    assert task["tokens"] == len(kls)
    assert "nats a token on general text" in repr(found)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [({"general": False}, "general=False"), ({"draws": 0}, "draws=0"), ({"task": []}, "data")],
)
def test_what_cannot_be_measured_is_refused(arguments: dict[str, Any], sentence: str) -> None:
    lab = tiny()
    with pytest.raises(lk.BadInput, match=sentence):
        lk.lora.forgotten(lab, lab, **arguments)


def test_a_model_with_another_vocabulary_is_refused() -> None:
    with pytest.raises(lk.BadInput, match="different vocabularies"):
        lk.lora.forgotten(tiny(), lab_of(), TASK, general=GENERAL)
