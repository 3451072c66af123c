"""Adapters on a GPU: what they are on the CPU."""

from __future__ import annotations

import pytest
import torch
from adapted import METHODS, adapter_of, lab_of

import labkit as lk

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here"),
]
IDS = [5, 17, 33, 8, 91, 42]


@pytest.mark.parametrize("method", ["lora", "dora", "embedding", "saved modules"])
def test_on_and_merged(method: str) -> None:
    lab = lab_of()
    adapter = adapter_of(lab, **METHODS[method])
    with adapter.on(0.7):
        expected = lab.trace(IDS, keep="logits").logits
    lab.model.cuda()
    with adapter.on(0.7):
        torch.testing.assert_close(lab.trace(IDS, keep="logits").logits.cpu(), expected, rtol=1e-3, atol=1e-4)
    merged = adapter.merge(scale=0.7, progress=False)
    assert merged.device.type == "cuda"
    torch.testing.assert_close(merged.trace(IDS, keep="logits").logits.cpu(), expected, rtol=1e-3, atol=1e-4)


def test_fast_decoding_sees_it() -> None:
    lab = lab_of()
    lab.model.cuda()
    adapter = adapter_of(lab, target_modules="all-linear")
    with adapter.on():
        plain = lab.generate(IDS, chat=False, max_new_tokens=12)
        fast = lab.generate(IDS, chat=False, max_new_tokens=12, speed="fast")
    assert fast.ids == plain.ids
    assert lab.generate(IDS, chat=False, max_new_tokens=12, speed="fast").ids != fast.ids


def test_interference_and_merges() -> None:
    lab = lab_of()
    lab.model.cuda()
    a, b = (adapter_of(lab, str(seed), seed=seed) for seed in (1, 2))
    for method in ("ties", "dare_ties", "slerp"):
        found = lk.lora.merged(lab, [a, b], method)  # type: ignore[arg-type]
        assert found.trace(IDS, keep="logits").logits.isfinite().all()
    assert len(lk.lora.updates(a)) == 4
