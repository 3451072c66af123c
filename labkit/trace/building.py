"""A model made of another: an empty one like it, whether its weights allow that, and whether there is room for both."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from labkit.errors import NotEnoughMemory, Unavailable
from labkit.models.hardware import free_bytes
from labkit.models.memory import human_bytes
from labkit.trace.adding import is_added_to
from labkit.trace.running import language_model

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel

    from labkit.trace.lab_like import BuiltLab, LabLike

HEADROOM = 0.1  # room for activations beside the weights, as a share of them, as when a model is loaded


def empty_model(config: PreTrainedConfig, like: PreTrainedModel) -> PreTrainedModel:
    """A model of this configuration on the device and in the dtype of another, its weights not yet filled."""
    from transformers import AutoModelForCausalLM
    from transformers.initialization import no_init_weights

    with no_init_weights(), torch.device(like.device):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            config, dtype=like.dtype, attn_implementation=like.config._attn_implementation
        )
    model.tie_weights()  # left out with the initialization
    return model


def refuse_odd_weights(lab: LabLike, what: str) -> None:
    """Raise Unavailable where a model's weights are not plain tensors on one device. what: such as "upcycled"."""
    tensors = list(lab.model.parameters())
    refuse_added(lab, what)
    if is_quantized(lab.model):
        raise Unavailable(f"{lab.name} is quantized and can't be {what}; load it without a quantization.")
    if len({t.device for t in tensors}) > 1 or any(t.device.type == "meta" for t in tensors):
        raise Unavailable(f"{lab.name} is spread over several devices and can't be {what}; load it with device='cpu'.")


def is_quantized(model: nn.Module) -> bool:
    """Whether weights of a model are stored in another form than as plain floating-point tensors."""
    if getattr(model, "is_quantized", False) or any(hasattr(module, "packed_weight") for module in model.modules()):
        return True
    return any(not t.is_floating_point() or hasattr(t, "__tensor_flatten__") for t in model.parameters())


def refuse_added(lab: LabLike, what: str) -> None:
    """Raise Unavailable where an adapter is on, which a model made of the weights would lack. what: such as "quantized"."""
    if is_added_to(language_model(lab.model)):
        raise Unavailable(
            f"{lab.name} has an adapter on and can't be {what} with it; leave the `with` block, or use adapter.merge()."
        )


def has_peft_layers(model: nn.Module) -> bool:
    """Whether peft has put layers of its own into a model."""
    return any(type(module).__module__.startswith("peft.") for module in model.modules())


def refuse_adapters(lab: LabLike, what: str) -> None:
    """Raise Unavailable where an adapter is on, or one of peft's is in a model. what: such as "quantized"."""
    refuse_added(lab, what)
    if has_peft_layers(lab.model):
        raise Unavailable(
            f"{lab.name} has an adapter and can't be {what} with it; merge it (merge_and_unload) or take it off (unload)."
        )


def check_room(lab: LabLike, needed: int, what: str, remedy: str) -> None:
    """Raise NotEnoughMemory where `needed` bytes of weights, and room to run them, are not free on the lab's device."""
    wanted, free = int(needed * (1 + HEADROOM)), free_bytes(str(lab.device))
    if wanted > free:
        raise NotEnoughMemory(
            f"{what} needs {human_bytes(wanted)} beside the model that is there, and {human_bytes(free)} are free on "
            f"{lab.device}; {remedy}."
        )


def untrained_lab(lab: BuiltLab, seed: int) -> BuiltLab:
    """A lab around a model of the same configuration with the random weights its own class begins with: nothing learnt.

    Raises Unavailable for a quantized model and one spread over devices, NotEnoughMemory where both do not fit.
    """
    model = language_model(lab.model)
    refuse_odd_weights(lab, "built anew untrained")
    check_room(
        lab, sum(t.numel() * t.element_size() for t in model.parameters()), "An untrained model", "leave it away"
    )
    with torch.random.fork_rng(), torch.device(model.device):
        torch.manual_seed(seed)
        made = type(model)._from_config(
            model.config, dtype=model.dtype, attn_implementation=model.config._attn_implementation
        )
    return type(lab)(made.eval(), lab.tokenizer, name=f"untrained, like {lab.name}")
