"""All that is known of one feature: where it is at work, what it promotes, its neighbours."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from labkit.sae.dictionary import Feature

__all__ = ["Dashboard", "Example"]


@dataclass(frozen=True)
class Example:
    """A stretch of text where a feature is at work.

    tokens, activations: (n,) the stretch, and how active the feature is on each token.  peak: the token it is most active
    on.  kind: of text.  top: among the
    strongest in the corpus; the others are drawn over the feature's whole range.
    """

    tokens: tuple[str, ...]
    activations: Tensor
    peak: int
    kind: str
    top: bool

    @property
    def activation(self) -> float:
        return float(self.activations[self.peak])


@dataclass(frozen=True)
class Dashboard:
    """What is known of one feature.

    density: the share of the corpus's tokens it is at work on.  largest: its highest activation there.  histogram: how
    many tokens had an activation in each of len(edges) - 1 bins.  kinds: of its activity, the share in each kind of text,
    beside the share that kind has of the corpus.  promoted, suppressed: tokens and how far one unit of the feature moves
    their logit, past the final norm as it is at the residual stream's typical length (direct effect only).  nearest:
    features whose directions are closest, with the cosine; chance_cosine: the largest cosine between random directions
    of this number and width, which a neighbour has to pass to mean anything.
    tokens: in the corpus.
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
