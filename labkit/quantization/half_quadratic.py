"""HQQ: each group's offset moved to where the error of its weights is smallest, without any text.

Large errors count less than their square, |e|^p with p < 1, so that outliers don't pull the grid. Half-quadratic splitting
alternates between shrinking the errors and moving the offset; scales stay as they were fitted (Badri & Shaji 2023).
"""

from __future__ import annotations

import torch

from labkit.quantization.grids import Format, Packed, rounded_to
from labkit.quantization.integers import MinMax, ZeroPoint

POWER = 0.7
BETA, GROWTH = 10.0, 1.01
ROUNDS = 20


def half_quadratic(weight: torch.Tensor, format: Format) -> Packed:
    """A matrix on grids whose offsets were moved; groups in which that did not lower the error keep theirs.

    format: of integers with an offset. What is stored is a MinMax grid of as many bits, whose offset may be any number.
    """
    assert isinstance(format.grid, ZeroPoint | MinMax)
    grid = MinMax(format.grid.bits, format.grid.scale_dtype)
    format = Format(format.name, grid, format.group_size)
    blocks = format.blocks(weight)
    best = grid.fit(blocks)
    codes = grid.encode(blocks, best)
    least = _loss(blocks, grid.decode(codes, best))
    now, beta = dict(best), BETA
    for _ in range(ROUNDS):
        steps = grid.encode(blocks, now)
        error = blocks - grid.decode(steps, now)
        size = error.abs()
        shrunk = error.sign() * (size - size.clamp(min=1e-8) ** (POWER - 1) / beta).clamp(min=0)
        offset = (blocks - shrunk - steps.float() * now["scale"]).mean(1, keepdim=True)
        now = {"scale": now["scale"], "minimum": rounded_to(grid.scale_dtype, offset)}
        loss = _loss(blocks, grid.decode(grid.encode(blocks, now), now))
        better = loss < least
        best = {"scale": best["scale"], "minimum": torch.where(better, now["minimum"], best["minimum"])}
        least = torch.where(better, loss, least)
        beta *= GROWTH
    return format.packed(grid.encode(blocks, best), best, weight.shape)


def _loss(blocks: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """(groups, 1)."""
    return ((blocks - values).abs().clamp(min=1e-12) ** POWER).sum(1, keepdim=True)
