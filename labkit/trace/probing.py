"""What trying a model out needs: no dropout, and how exact a comparison can be in each dtype."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8, torch.float16: 1e-2, torch.bfloat16: 5e-2}
COARSEST = 5e-2


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Without dropout: what is observed is what the model computes, not what training makes of it."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
