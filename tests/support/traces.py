"""Traces with patterns chosen by hand or by chance, made without a model."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from labkit.trace.record import LayerAttention, Trace


def patterned(
    tokens: Sequence[str], patterns: dict[int, torch.Tensor], *, layers: int | None = None, kv_heads: int | None = None
) -> Trace:
    """A trace whose layers have the given patterns, each (heads, T, T)."""
    heads = next(iter(patterns.values())).shape[0]
    return Trace(
        tokens=list(tokens),
        ids=list(range(len(tokens))),
        model="tiny-model",
        family="llama",
        layers=len(patterns) if layers is None else layers,
        heads=heads,
        kv_heads=heads if kv_heads is None else kv_heads,
        keep=("attention",),
        reasons={},
        _attention={layer: LayerAttention(pattern=pattern) for layer, pattern in patterns.items()},
    )


def random_patterns(
    length: int, *, layers: int = 2, heads: int = 4, seed: int = 0, spread: float = 3.0
) -> dict[int, torch.Tensor]:
    """Causal patterns of chance, rows summing to 1."""
    generator = torch.Generator().manual_seed(seed)
    scores = spread * torch.randn(layers, heads, length, length, generator=generator)
    scores = scores.masked_fill(~torch.ones(length, length, dtype=torch.bool).tril(), -torch.inf)
    return dict(enumerate(scores.softmax(-1)))


def random_trace(length: int, *, layers: int = 2, heads: int = 4, kv_heads: int | None = None, seed: int = 0) -> Trace:
    words = ["The", " cat", " sat", " on", " the", " mat", " because", " it", " was", " tired"]
    tokens = [words[i % len(words)] for i in range(length)]
    return patterned(tokens, random_patterns(length, layers=layers, heads=heads, seed=seed), kv_heads=kv_heads)


def previous_token(length: int, weight: float = 0.9) -> torch.Tensor:
    """(T, T): each token looks at the one before it, the rest goes to the first; the first at itself."""
    pattern = torch.zeros(length, length)
    pattern[:, 0] = 1 - weight
    pattern[range(1, length), range(length - 1)] += weight
    pattern[0, 0] = 1
    return pattern
