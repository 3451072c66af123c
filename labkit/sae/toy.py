"""Toy superposition: more features than dimensions, where the truth is known and recovery can be scored.

After Elhage et al. 2022 ("Toy models of superposition"): sparse features share a space too small for all of them at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from labkit.errors import BadInput

__all__ = ["Recovery", "World", "recovery", "world"]


@dataclass(frozen=True, repr=False)
class World:
    """directions: (features, d) of length 1: the truth.  probability: (features,) of each to be there, by itself."""

    directions: Tensor
    probability: Tensor
    seed: int

    def __repr__(self) -> str:
        features, d = self.directions.shape
        there = float(self.probability.sum())
        return (
            f"World of {features} features in {d} dimensions, {there:g} there at a time in the mean (seed {self.seed})"
        )

    def sample(self, rows: int, seed: int = 0) -> tuple[Tensor, Tensor]:
        """(x, amounts): (rows, d) and (rows, features); a feature that is there has an amount between 0.5 and 1.5."""
        draw = torch.Generator().manual_seed(1_000_003 * (self.seed + 1) + seed)
        there = torch.rand(rows, len(self.directions), generator=draw) < self.probability
        amounts = there * (0.5 + torch.rand(rows, len(self.directions), generator=draw))
        return amounts @ self.directions, amounts


def world(features: int = 64, d: int = 24, active: float = 2.0, *, seed: int = 0) -> World:
    """Random directions in a space of d dimensions, of which `active` at a time are there in the mean, rarer and rarer."""
    if features < 2 or d < 2 or not 0 < active < features / 2:
        raise BadInput("Give at least two features and dimensions, and active between 0 and half of the features.")
    draw = torch.Generator().manual_seed(seed)
    rows = torch.randn(features, d, generator=draw)
    weight = torch.linspace(1.5, 0.5, features)
    return World(rows / rows.norm(dim=-1, keepdim=True), active * weight / weight.sum(), seed)


@dataclass(frozen=True, repr=False)
class Recovery:
    """cosines: (true features,) of each with the dictionary row matched to it, one to one.  found: share above 0.9.

    chance: mean cosine of random rows matched in the same way.
    """

    cosines: Tensor
    chance: float

    def __repr__(self) -> str:
        return (
            f"{self.found:.0%} of {len(self.cosines)} true features found (cosine above 0.9); "
            f"mean cosine {self.mean:.2f}, by chance {self.chance:.2f}"
        )

    @property
    def mean(self) -> float:
        return float(self.cosines.mean())

    @property
    def found(self) -> float:
        return float((self.cosines > 0.9).float().mean())


def recovery(rows: Tensor, truth: Tensor, *, seed: int = 0) -> Recovery:
    """Match dictionary rows (n, d) to true directions (features, d), one to one, so that the cosines add up to the most.

    A true feature that no row is left for counts as 0. The matching is the Hungarian method (scipy's).
    """
    if rows.ndim != 2 or truth.ndim != 2 or rows.shape[1] != truth.shape[1]:
        raise BadInput(f"Rows {tuple(rows.shape)} and truth {tuple(truth.shape)} don't live in the same space.")
    draw = torch.Generator().manual_seed(2_000_003 * (seed + 1))  # far from the draw of a world of this seed
    chance = [_matched(torch.randn(rows.shape, generator=draw), truth).mean() for _ in range(5)]
    return Recovery(_matched(rows, truth), float(torch.stack(chance).mean()))


def _matched(rows: Tensor, truth: Tensor) -> Tensor:
    from scipy.optimize import linear_sum_assignment

    unit = rows.detach() / rows.detach().norm(dim=-1, keepdim=True).clamp(min=1e-12)
    cosines = truth / truth.norm(dim=-1, keepdim=True).clamp(min=1e-12) @ unit.T
    of, row = linear_sum_assignment(cosines.numpy(), maximize=True)
    found = torch.zeros(len(truth))
    found[of] = cosines[of, row]
    return found
