"""Lenses made by hand: no model, but readings as `lk.lens` gives them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

WORDS = (" the", " cat", " sat", "\n", " Paris", ",", " of", "ing", " 春", " and")


@dataclass(frozen=True)
class HandLens:
    """Layers 0 to `depth`; at each, chances of a fixed list of words that grow sharper with the layer."""

    tokens: Sequence[str]
    kind: str = "logit"
    depth: int = 6
    first: int = 0
    model: str = "tiny-model"
    words: Sequence[str] = WORDS
    seed: int = 0

    @property
    def layers(self) -> tuple[int, ...]:
        return tuple(range(self.first, self.depth + 1))

    def top(self, layer: int, position: int, k: int = 5) -> list[tuple[str, int, float]]:
        assert layer in self.layers
        draw = random.Random(f"{self.seed} {self.kind} {layer} {position}")
        ids = draw.sample(range(len(self.words)), len(self.words))
        ids.insert(0, ids.pop(ids.index(position % len(self.words)))) if layer > self.depth // 2 else None
        sharp = 0.1 + 0.88 * layer / self.depth
        return [(self.words[id], id, sharp * (1 - sharp) ** i) for i, id in enumerate(ids[:k])]
