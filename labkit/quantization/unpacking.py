"""From a quantized model to one of floating-point tensors with the same values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn

from labkit.errors import Unavailable
from labkit.quantization.layers import PackedModule, PackedWeight
from labkit.quantization.torch_products import PackedProduct
from labkit.quantization.weights import is_conv1d
from labkit.trace import running
from labkit.trace.copying import copied

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["linear_weight", "unpacked"]


def linear_weight(module: nn.Module) -> torch.Tensor:
    """The values of a module's matrix as it computes with them, (outputs, inputs), unpacked whoever packed them.

    Of an embedding (tokens, width). Not to be written to.
    """
    own = module._parameters.get("weight")
    weight: torch.Tensor
    if own is None or isinstance(module, PackedModule | PackedProduct):
        weight = module.weight  # type: ignore[assignment]
    else:
        from peft.utils.integrations import dequantize_module_weight

        weight = dequantize_module_weight(module)
    weight = weight.detach()
    if not weight.is_floating_point():
        weight = weight.float()
    return weight.T if is_conv1d(module) else weight


def unpacked(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """A copy in which what labkit, bitsandbytes, torchao or torch packed stands as floating-point numbers; all in `dtype`.

    Raises Unavailable where another library packed something else than linear maps.
    """
    inner = running.language_model(model)
    instead: dict[nn.Module, nn.Module] = {}
    for name, module in inner.named_modules():
        if isinstance(module, PackedModule | PackedWeight) or not _is_packed(module):
            continue
        if not isinstance(getattr(module, "in_features", None), int):
            raise Unavailable(
                f"{name} is packed as a {type(module).__name__}, which labkit can't unpack; load it unquantized."
            )
        instead[module] = _plain(module, dtype)
    new = copied(model, instead=instead)
    done: dict[int, nn.Parameter] = {}  # what is tied stays so
    for module in new.modules():
        if isinstance(module, PackedModule):
            _take_out(module, dtype, done)
    for marks in (vars(new), vars(new.config)):
        for mark in ("labkit_quantization", "save_pretrained", "quantization_config", "hf_quantizer", "is_quantized"):
            marks.pop(mark, None)
        for mark in ("is_loaded_in_4bit", "is_loaded_in_8bit", "quantization_method"):
            marks.pop(mark, None)
    new.config.dtype = dtype
    nn.Module.to(new, dtype)
    return new


def _is_packed(module: nn.Module) -> bool:
    own = module._parameters.get("weight")
    if isinstance(module, PackedProduct):
        return True
    return own is not None and (not own.is_floating_point() or hasattr(own, "__tensor_flatten__"))


def _plain(module: nn.Module, dtype: torch.dtype) -> nn.Linear:
    weight, bias = linear_weight(module), module.bias
    outputs, inputs = weight.shape
    made = nn.Linear(inputs, outputs, bias=bias is not None, device="meta")
    made.weight = nn.Parameter(weight.to(dtype).clone(), requires_grad=False)
    if isinstance(bias, torch.Tensor):
        made.bias = nn.Parameter(bias.detach().to(dtype).clone(), requires_grad=False)
    return made.eval()


def _take_out(module: PackedModule, dtype: torch.dtype, done: dict[int, nn.Parameter]) -> None:
    """Have a module hold its weights as parameters again, in place."""
    weights = {name: module.packed_weight(name) for name in module.packed_parameters}
    module.__class__ = module.base_class  # type: ignore[assignment]
    for name, weight in weights.items():
        del module._modules[f"packed_{name}"]
        if id(weight) not in done:
            values = weight.unpacked().to(dtype).contiguous()
            done[id(weight)] = nn.Parameter(values, requires_grad=False)
        module._parameters[name] = done[id(weight)]
