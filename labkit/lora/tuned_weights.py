"""The weights of a model as an adapter or another lab has them, one tensor at a time, by the names that the base has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from labkit.errors import BadInput
from labkit.lora.adapters import Adapter
from labkit.quantization.comparing import check_same_tokens
from labkit.quantization.weights import is_conv1d
from labkit.trace import running
from labkit.trace.building import refuse_adapters, refuse_odd_weights
from labkit.trace.lab_like import BuiltLab, check_lab

if TYPE_CHECKING:
    from transformers import PreTrainedModel

__all__ = ["TunedWeights", "taken_apart", "tuned_weights"]


@dataclass(frozen=True)
class TunedWeights:
    """A tuning's weights: of an adapter on the base, of a tuned model, or with neither the base's own."""

    base: PreTrainedModel
    own: Mapping[str, torch.Tensor]
    adapter: Adapter[Any] | None = None
    tuned: Mapping[str, torch.Tensor] | None = None

    def weight(self, name: str) -> torch.Tensor:
        """A parameter or buffer by its name, in the base's dtype. Not to be written to."""
        if self.tuned is not None:
            return self.tuned[name]
        own = self.own[name]
        if self.adapter is None:
            return own
        found = self.adapter.replaced.get(name, own).to(own)
        low_rank = self.adapter.low_ranks.get(name.removesuffix(".weight"))
        if low_rank is None or not name.endswith(".weight"):
            return found
        module = self.base.get_submodule(name.removesuffix(".weight"))
        turned = is_conv1d(module) or isinstance(module, nn.Embedding)
        delta = low_rank.delta(own.T if turned else own).to(own.device)
        return (found.double() + (delta.T if turned else delta)).to(own.dtype)

    def changed(self) -> list[str]:
        """The names of all that is not as the base has it."""
        if self.adapter is not None:
            return [*(f"{name}.weight" for name in self.adapter.low_ranks), *self.adapter.replaced]
        return [name for name, value in (self.tuned or {}).items() if not torch.equal(value, self.own[name])]


def tuned_weights(lab: BuiltLab, name: str, given: Adapter[Any] | BuiltLab | None) -> TunedWeights:
    """The weights of a source by that name: an Adapter of the lab, a Lab tuned from it, or None for the lab itself.

    Raises BadInput for what is no tuning of the lab; Unavailable for quantized labs and labs with an adapter on.
    """
    base = running.language_model(lab.model)
    own = _state(base)
    if given is None:
        return TunedWeights(base, own)
    if isinstance(given, Adapter):
        adapter = given if given.lab.model is lab.model else given.for_lab(lab)
        if any(low_rank.bias is not None for low_rank in adapter.low_ranks.values()):
            raise BadInput(
                f"{name}: {adapter.name} has biases of its low-rank updates; merge it first, and give the merged lab."
            )
        if tied := _tied(base, adapter):
            raise BadInput(
                f"{name}: {adapter.name} changes {tied}, which shares a tensor; merge it first, and give that lab."
            )
        return TunedWeights(base, own, adapter)
    check_lab(given)
    check_same_tokens(lab, given)
    refuse_adapters(given, "joined with others")
    refuse_odd_weights(given, "joined with others")
    tuned = _state(running.language_model(given.model))
    if {each: value.shape for each, value in tuned.items()} != {each: value.shape for each, value in own.items()}:
        raise BadInput(f"{name}: {given.name} is no tuning of {lab.name}, it has weights of other names or shapes.")
    return TunedWeights(base, own, None, tuned)


def taken_apart(parts: Sequence[TunedWeights]) -> list[str]:
    """Parameters that share a tensor with an earlier one in the base, and differ from it in one of the tunings.

    Such as "lm_head.weight", where a tuning took apart the ends that the base ties.
    """
    first: dict[int, str] = {}
    found = []
    for name, value in parts[0].base.named_parameters(remove_duplicate=False):
        other = first.setdefault(id(value), name)
        if other != name and any(not torch.equal(part.weight(name), part.weight(other)) for part in parts):
            found.append(name)
    return found


def _state(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name: value.detach() for name, value in model.state_dict().items()}


def _tied(model: PreTrainedModel, adapter: Adapter[Any]) -> str | None:
    """A module that an adapter changes and whose tensor another module has too, or None."""
    counts: dict[int, int] = {}
    for _, value in model.named_parameters(remove_duplicate=False):
        counts[id(value)] = counts.get(id(value), 0) + 1
    for name in TunedWeights(model, {}, adapter).changed():
        module, _, parameter = name.rpartition(".")
        if counts.get(id(model.get_submodule(module)._parameters[parameter]), 1) > 1:
            return module
    return None
