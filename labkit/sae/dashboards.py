"""All that is known of one feature: where it is active, what it promotes, its neighbours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from labkit.errors import Unavailable
from labkit.models.tokens import token_strings
from labkit.sae.dictionary import Feature, checked_feature
from labkit.sae.indexing import EDGES, TOP, Index, given, tensor

if TYPE_CHECKING:
    from labkit.trace.lab_like import LabLike

__all__ = ["Dashboard", "Example", "dashboard", "nearest", "promoted"]

RANDOM_DIRECTIONS = 20  # that say what chance promotes
LARGE = 64.0  # beside any norm's epsilon, small enough for float16


@dataclass(frozen=True)
class Example:
    """A stretch of text where a feature is active.

    tokens, activations: (n,) the stretch, and how active the feature is on each token (to a 255th of the peak).  peak: the
    token it is most active on.  kind: of text.  top: among the strongest in the corpus; the others are drawn over the rest
    of the feature's range, which the strongest alone would hide.
    """

    tokens: tuple[str, ...]
    activations: Tensor
    peak: int
    kind: str
    top: bool

    @property
    def activation(self) -> float:
        return float(self.activations[self.peak])


@dataclass(frozen=True, repr=False)
class Dashboard:
    """What is known of one feature.

    density: the share of the corpus's tokens it is active on.  largest: its highest activation there.  counts: how many
    tokens had an activation in each of len(edges) - 1 bins; what lies beyond is in the outer ones.  kinds: kind of text ->
    (the share of the feature's activity that is there, the share of the corpus that kind is).  promoted, suppressed:
    tokens whose logit its direction raises or lowers most, in standard deviations over the vocabulary, and what the
    strongest token of a random direction reaches, chance_promotion; the direct way to the logits only, past the layers
    between.  nearest: features whose directions are closest, with the cosine, beside the closest of as many random
    directions, chance_cosine.  tokens: of the corpus, where features are defined.
    Where the way to the logits is not found, nothing is promoted and chance_promotion is NaN.
    """

    feature: Feature
    density: float
    largest: float
    examples: tuple[Example, ...]
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    kinds: dict[str, tuple[float, float]]
    promoted: tuple[tuple[str, float], ...]
    suppressed: tuple[tuple[str, float], ...]
    nearest: tuple[tuple[int, float], ...]
    chance_cosine: float
    tokens: int
    chance_promotion: float

    @property
    def dead(self) -> bool:
        """Active nowhere in the corpus."""
        return self.largest == 0

    def __repr__(self) -> str:
        head = f"Feature {self.feature.index} of {self.feature.sae.name}"
        if self.dead:
            lines = [head, f"active on none of {self.tokens:,} tokens"]
        else:
            lines = [
                head,
                f"active on {self.density:.3%} of {self.tokens:,} tokens; highest activation {self.largest:.1f}",
                "kinds of text: " + ", ".join(f"{k} {a:.0%} (corpus {c:.0%})" for k, (a, c) in self.kinds.items()),
                "strongest examples and others, each with its peak in brackets:",
                *(f"  {each.activation:6.1f}  {each.kind:8}  {_marked(each)}" for each in self.examples),
            ]
        for name, tokens in (("promotes", self.promoted), ("suppresses", self.suppressed)):
            if tokens:
                listed = ", ".join(f"{token!r} {deviations:.1f}" for token, deviations in tokens)
                lines.append(f"{name}, in standard deviations: {listed}")
        if self.promoted:
            lines.append(f"  the strongest token of a random direction: {self.chance_promotion:.1f}")
        if self.nearest:
            near = ", ".join(f"{i} ({cosine:.2f})" for i, cosine in self.nearest)
            lines.append(f"nearest features (cosine): {near}")
            lines.append(f"  the closest of as many random directions: {self.chance_cosine:.2f}")
        return "\n".join(lines)


def _marked(example: Example) -> str:
    words = list(example.tokens)
    words[example.peak] = f"[{words[example.peak]}]"
    return repr("".join(words))[1:-1]  # line breaks as \\n: an example is one line


def dashboard(lab: LabLike, feature: Feature, *, of: Index | None = None, k: int = 8) -> Dashboard:
    """What is known of a feature. of: an index; None for the one that came with the autoencoder. k: tokens and neighbours."""
    sae = checked_feature(feature).sae
    found = given(lab, sae, of)
    i = feature.index
    total = float(found.kind_sums[i].sum())
    try:
        up, down, chance = promoted(lab, feature, k)
    except Unavailable:  # the rest of the dashboard stands
        up, down, chance = (), (), math.nan
    return Dashboard(
        feature=feature,
        density=float(found.density[i]),
        largest=float(found.largest[i]),
        examples=tuple(_examples(lab, found, i)),
        edges=EDGES,
        counts=tuple(int(n) for n in found.histogram[i]),
        kinds={
            kind: (
                float(found.kind_sums[i, number]) / total if total else 0.0,
                found.kind_tokens[number] / found.tokens,
            )
            for number, kind in enumerate(found.kinds)
        },
        promoted=up,
        suppressed=down,
        nearest=nearest(feature, k),
        chance_cosine=_chance_cosine(len(sae), sae.d_in),
        tokens=found.tokens,
        chance_promotion=chance,
    )


def _examples(lab: LabLike, found: Index, i: int) -> list[Example]:
    examples = []
    for slot in np.flatnonzero(found.values[i] > 0):
        ids = found.ids[i, slot]
        ids = ids[ids != found.nothing]
        heights = tensor(found.activations[i, slot, : len(ids)]) * float(found.values[i, slot]) / 255
        kind = found.kinds[found.of_kind[i, slot]]
        words = tuple(token_strings(lab.tokenizer, ids.tolist()))
        examples.append(Example(words, heights, int(found.peaks[i, slot]), kind, bool(slot < TOP)))
    return examples


def promoted(
    lab: LabLike, feature: Feature, k: int = 8
) -> tuple[tuple[tuple[str, float], ...], tuple[tuple[str, float], ...], float]:
    """Tokens whose logit a feature's direction raises most, those it lowers most, and what chance reaches.

    In standard deviations over the vocabulary, by the direct way through the final norm's weights and the unembedding.
    Raises Unavailable where the way to the logits is not found.
    """
    checked_feature(feature).sae.belongs(lab)
    moved = _moved(lab, feature.direction[None])[0]
    order = moved.argsort(descending=True)
    generator = torch.Generator().manual_seed(0)
    chance = _moved(lab, torch.randn(RANDOM_DIRECTIONS, feature.sae.d_in, generator=generator)).amax(-1).mean()

    def named(ids: Sequence[int]) -> tuple[tuple[str, float], ...]:
        return tuple(zip(token_strings(lab.tokenizer, ids), moved[list(ids)].tolist(), strict=True))

    return named(order[:k].tolist()), named(order.flip(0)[:k].tolist()), float(chance)


@torch.no_grad()
def _moved(lab: LabLike, directions: Tensor) -> Tensor:
    """(n, vocabulary) float32: how far each direction moves each logit, in standard deviations over the vocabulary."""
    norm, unembedding = lab.anatomy.final_norm, lab.anatomy.unembedding
    if norm is None or unembedding is None:
        raise Unavailable(f"The way from the residual stream to the logits of {lab.name} is not found.")
    with lab.turn():
        unit = directions / directions.norm(dim=-1, keepdim=True).clamp(min=1e-12)
        x = (LARGE * unit).to(device=lab.device, dtype=lab.dtype)
        none = torch.zeros_like(x)
        moved = (unembedding(norm(x) - norm(none)) - unembedding(none)).float().cpu()
    moved -= moved.mean(-1, keepdim=True)
    deviations: Tensor = moved / moved.std(-1, keepdim=True).clamp(min=1e-12)
    return deviations


def nearest(feature: Feature, k: int = 8) -> tuple[tuple[int, float], ...]:
    """The k features whose directions are closest to this one's, with the cosine."""
    decoder = checked_feature(feature).sae.decoder
    rows = decoder / decoder.norm(dim=-1, keepdim=True).clamp(min=1e-12)
    cosines = rows @ rows[feature.index]
    cosines[feature.index] = -torch.inf
    best = cosines.topk(min(k, len(rows) - 1))
    return tuple(zip(best.indices.tolist(), best.values.tolist(), strict=True))


@lru_cache(maxsize=8)
def _chance_cosine(features: int, d_in: int) -> float:
    """The largest cosine of a direction with features - 1 random ones, in the mean of ten draws."""
    draw = torch.Generator().manual_seed(0)
    largest = []
    for _ in range(10):
        rows = torch.randn(features - 1, d_in, generator=draw)
        largest.append(float((rows[:, 0] / rows.norm(dim=-1)).max()))
    return sum(largest) / len(largest)
