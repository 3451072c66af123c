"""A second model over the same weights: modules and parameters of its own, whose storage is the original's.

What peft and a trainer do to a model (freeze it, put modules in, patch its forward, change its configuration) happens to
the twin. The weights are there once, as long as nothing is written into them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import torch
from torch import nn

from labkit.quantization.layers import PackedWeight
from labkit.trace import running
from labkit.trace.copying import copied
from labkit.trace.lab_like import BuiltLab

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from labkit.trace.lab_like import LabLike

Made = TypeVar("Made", bound=BuiltLab)


def twin(lab: LabLike) -> PreTrainedModel:
    """A frozen model with the lab's weights as its storage. Nothing done to its modules reaches the lab's.

    Whoever writes to a weight in place writes into the lab's model: give a parameter new data instead.
    """
    with lab.turn():
        inner = running.language_model(lab.model)
        shared: dict[torch.Tensor, torch.Tensor] = {}
        for parameter in inner.parameters():
            plain = type(parameter) is nn.Parameter  # and no weight that bitsandbytes packed, which nobody changes
            shared[parameter] = nn.Parameter(parameter.detach(), requires_grad=False) if plain else parameter
        for module in inner.modules():
            if isinstance(module, PackedWeight):
                shared |= {buffer: buffer for buffer in module.buffers(recurse=False)}
        return _like(copied(inner, instead=shared), inner)


def whole_copy(lab: LabLike) -> PreTrainedModel:
    """A model with weights of its own, all of which may be trained."""
    with lab.turn():
        inner = running.language_model(lab.model)
        model = _like(copied(inner), inner)
    return model.requires_grad_(True)


def float32_copy(lab: Made) -> Made:
    """A lab of the same weights in float32, which hold those in 16 bits exactly."""
    with lab.turn():
        inner = running.language_model(lab.model)
        model = _like(copied(inner), inner)
    nn.Module.to(model, torch.float32)
    return type(lab)(model, lab.tokenizer, name=lab.name, licence=lab.licence, notes=lab.notes)


def _like(model: PreTrainedModel, of: PreTrainedModel) -> PreTrainedModel:
    running.take_over_answers(model, of)
    return model
