"""Tuning on a GPU: it learns, the adapter holds what was trained, and the random states are left alone."""

from __future__ import annotations

from typing import Any

import fuzz
import pytest
import torch

import labkit as lk
from labkit.lora.finetuning import finetune

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]
DATA = [{"prompt": f"the cat {w}", "completion": f"{w} ran"} for w in ("sat", "tree", "dog", "mat", "tired", "other")]
IDS = list(range(40, 60))


@pytest.mark.parametrize("method", ["lora", "pissa", "qlora", "full"])
def test_it_learns(method: str) -> None:
    lab = lk.Lab(fuzz.tiny_model().eval().cuda(), fuzz.tiny_tokenizer(), name="tiny")
    states = torch.get_rng_state(), torch.cuda.get_rng_state()
    options: dict[str, Any] = {"targets": "all-linear", "rank": 4, "learning_rate": 5e-3, "batch": 4, "steps": 6}
    run = finetune(lab, DATA, method=method, **options, general=["the other dog ran"], prompt=False, neftune=5.0).wait()
    assert run.steps[-1].loss < run.steps[1].loss
    assert torch.equal(torch.get_rng_state(), states[0])
    assert torch.equal(torch.cuda.get_rng_state(), states[1])
    if method == "full":
        assert run.lab.device.type == "cuda"
        return
    with run.adapter.on():
        found = lab.trace(IDS, keep="logits").logits
    if method != "qlora":
        trained = run._tuning.lab.trace(IDS, keep="logits").logits  # type: ignore[attr-defined]
        torch.testing.assert_close(found, trained, atol=1e-3, rtol=0)
