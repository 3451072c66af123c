"""Features and dashboards chosen by hand or by chance, made without a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from labkit.sae.dashboards import Dashboard, Example
from labkit.sae.dictionary import SAE
from labkit.sae.reading import Features

WORDS = ["<s>", "The", " cat", " sat", " on", " the", " mat", " because", " it", " was", " tired", ".", "\n"]


def dictionary(features: int = 400, *, d_in: int = 8, name: str = "tiny-sae", **fields: Any) -> SAE:
    """An autoencoder that encodes nothing anybody looks at."""
    generator = torch.Generator().manual_seed(features)
    given: dict[str, Any] = {
        "name": name,
        "model": "tiny-model",
        "layer": 3,
        "architecture": "topk",
        "encoder": torch.randn(d_in, features, generator=generator),
        "encoder_bias": torch.zeros(features),
        "decoder": torch.randn(features, d_in, generator=generator),
        "decoder_bias": torch.zeros(d_in),
        "k": 8,
        "typical_norm": 10.0,
        "outlier": 6.0,
    }
    return SAE(**(given | fields))


def featured(
    tokens: Sequence[str],
    at_work: Sequence[Mapping[int, float]],
    *,
    sae: SAE | None = None,
    undefined: Sequence[int] = (0,),
) -> Features:
    """A text whose tokens have these features: feature -> activation, for each token; none where undefined."""
    rows = [{} if i in undefined else dict(row) for i, row in enumerate(at_work)]
    width = max([1, *map(len, rows)])
    indices = torch.full((len(tokens), width), -1)
    values = torch.zeros(len(tokens), width)
    for i, row in enumerate(rows):
        for j, (feature, value) in enumerate(sorted(row.items(), key=lambda item: -item[1])):
            indices[i, j], values[i, j] = feature, value
    defined = torch.tensor([i not in undefined for i in range(len(tokens))], dtype=torch.bool)
    return Features(
        tokens=list(tokens),
        ids=list(range(len(tokens))),
        indices=indices,
        values=values,
        defined=defined,
        unexplained=torch.linspace(0.1, 0.3, len(tokens)).masked_fill(~defined, float("nan")),
        sae=sae or dictionary(),
    )


def random_featured(
    length: int, *, k: int = 8, seed: int = 0, sae: SAE | None = None, undefined: Sequence[int] = (0,)
) -> Features:
    """Words of a story with k features each, drawn by chance; the activation falls from the first to the last."""
    sae = sae or dictionary()
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(length):
        chosen = torch.randperm(len(sae), generator=generator)[:k].tolist()
        heights = (8 * torch.rand(k, generator=generator)).sort(descending=True).values + 0.1
        rows.append(dict(zip(chosen, heights.tolist(), strict=True)))
    tokens = [WORDS[i % len(WORDS)] for i in range(length)]
    return featured(tokens, rows, sae=sae, undefined=undefined)


def example(tokens: Sequence[str], activations: Sequence[float], *, kind: str = "stories", top: bool = True) -> Example:
    heights = torch.tensor(activations, dtype=torch.float32)
    return Example(tuple(tokens), heights, int(heights.argmax()), kind, top)


def dashboard(sae: SAE, index: int, *, dead: bool = False, **fields: Any) -> Dashboard:
    """Whatever a dashboard holds, told apart by the feature's number."""
    draw = torch.Generator().manual_seed(index)
    text = [" a", " long", " way", " to", " the", " cat", " and", " home", "."]
    examples = []
    for i in range(5 if not dead else 0):
        heights = 9 * torch.rand(len(text), generator=draw) * (torch.rand(len(text), generator=draw) > 0.5)
        heights[5] = 12.5 - i
        examples.append(example(text, heights.tolist(), kind=("stories", "code")[i % 2], top=i < 3))
    given: dict[str, Any] = {
        "feature": sae[index],
        "density": 0.0 if dead else 0.00321,
        "largest": 0.0 if dead else 12.5,
        "examples": tuple(examples),
        "edges": (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0),
        "counts": (0,) * 6 if dead else (0, 4_210, 1_730, 950, 88, 1),
        "kinds": {} if dead else {"stories": (0.72, 0.4), "code": (0.2, 0.35), "encyclopedia": (0.08, 0.25)},
        "promoted": ((" cat", 0.412), (" dog", 0.3), (f" word{index}", 0.1)),
        "suppressed": ((" the", -0.22), ("\n", -0.18)),
        "nearest": (((index + 1) % len(sae), 0.61), ((index + 2) % len(sae), 0.4), ((index + 3) % len(sae), 0.12)),
        "chance_cosine": 0.31,
        "tokens": 6_531_000,
        "chance_promotion": float("nan"),
    }
    return Dashboard(**(given | fields))
