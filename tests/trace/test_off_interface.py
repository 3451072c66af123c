"""Falcon, bloom and mpt compute attention in code of their own: checked against their queries and keys, by hand."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import fuzz
import pytest
import torch
from families import FAMILIES, Tokens, build

import labkit as lk
from labkit.models import loading

TEXT = [5, 17, 33, 8, 91, 42, 17, 33, 64, 23, 5, 77]
HEADS, SIZE = 4, 8


def _projected(model: Any, layer: int, name: str) -> torch.Tensor:
    """(T, features): what the fused projection of a layer's attention put out."""
    kept = []
    module = next(m for n, m in model.named_modules() if n.endswith(name) and f".{layer}." in n)
    handle = module.register_forward_hook(lambda _m, _a, output: kept.append(output[0]))
    try:
        with torch.no_grad():
            model(input_ids=torch.tensor([TEXT]), use_cache=False)
    finally:
        handle.remove()
    return kept[0].double()


def _alibi() -> torch.Tensor:
    """(heads, 1, T) added to the scores: -slope per token of distance, up to a constant in each row. Press et al. 2022."""
    slopes = torch.tensor([2.0 ** (-8 * (h + 1) / HEADS) for h in range(HEADS)], dtype=torch.float64)
    return slopes[:, None, None] * torch.arange(len(TEXT), dtype=torch.float64)


def _rotated(x: torch.Tensor) -> torch.Tensor:
    """(heads, T, size) turned by position, halves paired as falcon does. Su et al. 2021."""
    frequency = 10000.0 ** (-torch.arange(0, SIZE, 2, dtype=torch.float64) / SIZE)
    angle = torch.outer(torch.arange(len(TEXT), dtype=torch.float64), frequency)
    cos, sin = torch.cat([angle, angle], -1).cos(), torch.cat([angle, angle], -1).sin()
    one, two = x.chunk(2, -1)
    return x * cos + torch.cat([-two, one], -1) * sin


def _softmax(scores: torch.Tensor) -> torch.Tensor:
    future = torch.ones(len(TEXT), len(TEXT), dtype=torch.bool).triu(1)
    return scores.masked_fill(future, -math.inf).softmax(-1)


def _expected(name: str, model: Any, layer: int) -> torch.Tensor:
    if name == "mpt":
        query, key, _ = _projected(model, layer, "Wqkv").chunk(3, -1)
        query, key = (x.reshape(-1, HEADS, SIZE).transpose(0, 1) for x in (query, key))
        return _softmax(query @ key.mT / math.sqrt(SIZE) + _alibi())
    fused = _projected(model, layer, "query_key_value")
    if name == "bloom":
        query, key, _ = fused.reshape(-1, HEADS, 3, SIZE).permute(2, 1, 0, 3)
        return _softmax(query @ key.mT / math.sqrt(SIZE) + _alibi())
    if name == "falcon_multi_query":
        query = fused[:, : HEADS * SIZE].reshape(-1, HEADS, SIZE).transpose(0, 1)
        key = fused[:, HEADS * SIZE : (HEADS + 1) * SIZE][None].expand(HEADS, -1, -1)
    else:  # two groups: two queries, a key and a value each
        groups = fused.reshape(-1, 2, 4, SIZE)
        query = groups[:, :, :2].reshape(-1, HEADS, SIZE).transpose(0, 1)
        key = groups[:, :, 2].transpose(0, 1).repeat_interleave(2, 0)
    return _softmax(_rotated(query) @ _rotated(key).mT / math.sqrt(SIZE))


@pytest.mark.parametrize("name", ["falcon_multi_query", "falcon_grouped", "bloom", "mpt"])
def test_patterns_are_those_of_their_own_queries_and_keys(name: str) -> None:
    lab = lk.Lab(build(FAMILIES[name]), Tokens(), name=name)
    trace = lab.trace(TEXT)
    for layer in range(trace.layers):
        expected = _expected(name, lab.model, layer)
        assert torch.allclose(trace.attention(layer).double(), expected, atol=1e-5)
        assert expected.std() > 0.05, "even attention would agree with anything"


@pytest.mark.parametrize("name", ["falcon_multi_query", "falcon_grouped"])
def test_falcon_under_sdpa_is_refused_not_believed(name: str) -> None:
    """What sdpa hands out when asked for attentions is wrong, and asking changes the logits. Looking must do neither."""
    model = build(FAMILIES[name], implementation="sdpa")
    lab = lk.Lab(model, Tokens(), name=name)
    reason = lab.support()["attention"]
    assert reason is not None
    assert "attn_implementation='eager'" in reason
    with pytest.raises(lk.Unavailable, match="eager"):
        lab.trace(TEXT)
    with torch.no_grad():
        plain = model(input_ids=torch.tensor([TEXT]), use_cache=False).logits[0]
    assert torch.equal(lab.trace(TEXT, keep=("logits", "residual", "attention_output")).logits, plain)


@pytest.mark.parametrize("name", ["falcon_multi_query", "bloom", "mpt"])
def test_they_are_opened_eager(name: str, tmp_path: Path) -> None:
    build(FAMILIES[name], implementation="sdpa" if name.startswith("falcon") else None).save_pretrained(tmp_path)
    lab = lk.load(tmp_path, tokenizer=fuzz.tiny_tokenizer())
    assert FAMILIES[name].model_type in loading.EAGER_ONLY
    assert lab.model.config._attn_implementation == "eager"
    assert lab.support()["attention"] is None


def test_rwkvs_attentions_are_not_believed() -> None:
    model = build(FAMILIES["rwkv"])
    with torch.no_grad():
        assert model(input_ids=torch.tensor([TEXT]), output_attentions=True).attentions is not None, "the trap is gone"
    lab = lk.Lab(model, Tokens(), name="rwkv")
    assert "recurrent" in str(lab.support()["attention"])
    with pytest.raises(lk.Unavailable, match="recurrent"):
        lab.trace(TEXT)
