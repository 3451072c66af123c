"""What trying a model out needs: its modules, no dropout, and how exact a comparison can be in each dtype."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-8, torch.float16: 1e-2, torch.bfloat16: 5e-2}
COARSEST = 5e-2


def modules_of(model: nn.Module) -> list[nn.Module]:
    """A model and every module below it, each once, in no order: each run asks several times, and `modules()` is slow to tell."""
    found, waiting = dict[nn.Module, None](), [model]
    while waiting:
        if (module := waiting.pop()) not in found:
            found[module] = None
            waiting += [child for child in module._modules.values() if child is not None]
    return list(found)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Without dropout: what is observed is what the model computes, not what training makes of it."""
    training = [module for module in modules_of(model) if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True
