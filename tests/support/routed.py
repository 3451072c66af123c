"""Traces with routes chosen by hand or by chance, made without a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from labkit.trace.record import Routes, Trace

WORDS = ["The", " cat", " sat", " on", " the", " mat", " because", " it", " was", " tired", ".", "\n"]


def routed(
    tokens: Sequence[str],
    logits: torch.Tensor,
    *,
    k: int = 2,
    layers: Sequence[int] | None = None,
    router: str = "softmax",
    ids: Sequence[int] | None = None,
    **fields: Any,
) -> Trace:
    """A trace whose routers have these logits, (T, L, E); the k most probable experts are chosen, their weights scaled."""
    probabilities = logits.sigmoid() if router == "sigmoid" else logits.softmax(-1)
    weights, experts = probabilities.topk(k, dim=-1)
    routed_layers = tuple(range(logits.shape[1])) if layers is None else tuple(layers)
    given: dict[str, Any] = {
        "tokens": list(tokens),
        "ids": list(range(len(tokens))) if ids is None else list(ids),
        "model": "tiny-mixture",
        "family": "qwen3_moe",
        "layers": routed_layers[-1] + 1,
        "heads": 2,
        "kv_heads": 2,
        "keep": ("routes",),
        "reasons": {},
        "_routes": Routes(experts, weights / weights.sum(-1, keepdim=True), logits.float(), routed_layers),
    }
    return Trace(**(given | fields))


def random_routed(
    length: int, *, layers: int = 6, experts: int = 32, k: int = 4, seed: int = 0, spread: float = 2.0, **fields: Any
) -> Trace:
    """Words of a story whose routers follow the word more than chance, so that loads are uneven."""
    generator = torch.Generator().manual_seed(seed)
    words = torch.arange(length) % len(WORDS)
    taste = spread * torch.randn(len(WORDS), layers, experts, generator=generator)
    logits = taste[words] + torch.randn(length, layers, experts, generator=generator)
    return routed([WORDS[i] for i in words.tolist()], logits, k=k, **fields)
