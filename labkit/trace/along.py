"""Directions of a stream: what is given as one is checked, and taken at length 1."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from labkit.errors import BadInput

__all__ = ["check_width", "exact", "unit"]


def exact(x: Tensor) -> Tensor:
    """As it is computed with: float64 where it is that, and float32 otherwise."""
    return x if x.dtype is torch.float64 else x.float()


def unit(what: object, wanted: str) -> Tensor:
    """(d,) float32 on the CPU, of length 1; float64 of one in float64. wanted: the sentence that says what is taken.

    Raises BadInput.
    """
    if not isinstance(what, Tensor) or what.ndim != 1:
        raise BadInput(wanted)
    vector = exact(what.detach()).cpu()
    length = float(vector.norm())
    if not math.isfinite(length) or length == 0:
        raise BadInput("This direction has no length, or numbers that are none; give another.")
    return vector / length


def check_width(x: Tensor, direction: Tensor, remedy: str) -> None:
    """Raise BadInput where a stream, (..., d), has another width than a direction. remedy: the end of the sentence."""
    if x.shape[-1] != len(direction):
        raise BadInput(
            f"This direction has {len(direction)} numbers and the model's residual stream {x.shape[-1]}: they don't "
            f"belong together; {remedy}."
        )
