"""A model run from a layer on: what the layers before it gave is kept, so that a change further on runs the rest alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

if TYPE_CHECKING:
    from torch import nn

    from labkit.trace.documents import Documents
    from labkit.trace.lab_like import LabLike

STORED_BYTES = 2**28  # of what enters a layer, kept for all documents so that the layers before it run once


class Entering:
    """While inside, the layers before a layer hand back what they gave before, without computing it.

    number: which batch is on.
    """

    def __init__(self, modules: Sequence[nn.Module], outputs: Sequence[object]) -> None:
        self.modules, self.outputs, self.number = modules, outputs, 0
        self.held: list[tuple[nn.Module, object]] = []

    def __enter__(self) -> Entering:
        try:
            for module in self.modules:
                self.held.append((module, vars(module).get("forward")))
                vars(module)["forward"] = lambda *_args, **_keywords: _copied(self.outputs[self.number])
        except BaseException:  # an interrupt, after which __exit__ would not be called
            self.__exit__()
            raise
        return self

    def __exit__(self, *details: object) -> None:
        while self.held:
            module, before = self.held.pop()
            if before is None:
                vars(module).pop("forward", None)
            else:
                vars(module)["forward"] = before


def entering(documents: Documents, lab: LabLike, layer: int, baseline: np.ndarray) -> Entering | None:
    """What enters a layer, for all documents; None where it is too much, or replaying it gives other losses.

    layer: from 0; one beyond the last stands for what leaves that.  baseline: the losses without it.
    """
    weight = getattr(lab.model.get_input_embeddings(), "weight")  # noqa: B009 - modules don't say what they hold
    width = int(weight.shape[-1])
    elements = sum(wanted.numel() for _, wanted in documents.batches) * width
    if layer == 0 or elements * lab.dtype.itemsize > STORED_BYTES:
        return None
    modules = [one.module for one in lab.anatomy.layers[:layer]]
    outputs: list[object] = []
    handle = modules[-1].register_forward_hook(lambda _module, _args, output: outputs.append(_copied(output)))
    try:
        for number in range(len(documents.batches)):
            documents.run(lab, number, logits="none")
    finally:
        handle.remove()
    if len(outputs) != len(documents.batches):
        return None
    stored = Entering(modules, outputs)
    # a layer may hand on more than its output; then the model is run whole
    return stored if np.allclose(documents.losses(lab, stored), baseline, rtol=1e-4, atol=1e-4) else None


def _copied(output: object) -> object:
    """A layer's output that later layers can't write into."""
    if isinstance(output, torch.Tensor):
        return output.detach().clone()
    return type(output)(_copied(one) for one in output) if isinstance(output, tuple | list) else output
