"""The tap at transformers' attention interface: each call is handed on unchanged, and seen on its way.

transformers routes attention through one registry of functions and one of masks, both keyed by the name in the
configuration. While a model is tapped, its configuration names our entry, which stands for its own implementation: the
masks are those of that implementation, and the call goes to the very function it would have gone to. Nothing is
recomputed and nothing is rounded, so the logits are those of the untapped model, bit for bit.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

PREFIX = "labkit_tap_"


@dataclass
class Call:
    """One call of an attention layer, before it is made. Tensors may be replaced.

    query: (batch, heads, T, d_head), after rotary embedding.  key, value: (batch, kv_heads, keys, d_head).
    mask: what the implementation was given: None, bool (True may look) or added to the scores.
    """

    module: torch.nn.Module
    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    mask: torch.Tensor | None
    options: dict[str, Any]


class Listener(Protocol):
    """What is told of each attention call of a tapped model."""

    def before(self, call: Call) -> None: ...

    def after(self, call: Call, output: torch.Tensor) -> torch.Tensor:
        """output: (batch, T, heads, d_value), before the output projection. Returns it, or another in its place."""
        ...


_LISTENERS: dict[int, list[Listener]] = {}  # by the id of the attention module, in the order they were put on


def _tap_for(implementation: str) -> Callable[..., Any]:
    def tap(
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        **options: Any,
    ) -> Any:
        if implementation == "eager":  # each modeling file has its own, with its softcap or its sinks
            original = sys.modules[type(module).__module__].eager_attention_forward
        else:  # a modeling file may override a function for itself
            original = sys.modules[type(module).__module__].ALL_ATTENTION_FUNCTIONS[implementation]
        listeners = _LISTENERS.get(id(module), ())
        if not listeners:
            return original(module, query, key, value, attention_mask, **options)
        call = Call(module, query, key, value, attention_mask, options)
        for listener in listeners:
            listener.before(call)
        output, weights = original(module, call.query, call.key, call.value, call.mask, **options)
        for listener in listeners:
            output = listener.after(call, output)
        return output, weights

    return tap


def _entry(implementation: str) -> str:
    """The name of our entry for an implementation, registered when it is first needed."""
    name = PREFIX + implementation
    if name not in ALL_ATTENTION_FUNCTIONS:
        ALL_ATTENTION_FUNCTIONS.register(name, _tap_for(implementation))
        ALL_MASK_ATTENTION_FUNCTIONS.register(name, ALL_MASK_ATTENTION_FUNCTIONS[implementation])
    return name


def on_interface(model: torch.nn.Module) -> bool:
    """Whether the model's architecture calls attention through the registry.

    Those that don't look at the implementation's name themselves: renamed, falcon would silently compute otherwise.
    """
    return hasattr(sys.modules[type(model).__module__], "ALL_ATTENTION_FUNCTIONS")


@contextlib.contextmanager
def tapped(model: Any, listener: Listener) -> Iterator[None]:
    """While inside, every attention call of the model that goes through the interface is shown to the listener.

    Taps nest: what an outer listener changes, an inner one sees changed.
    """
    configs = {
        id(m.config): m.config for m in model.modules() if hasattr(getattr(m, "config", None), "_attn_implementation")
    }
    before = {key: config._attn_implementation for key, config in configs.items()}
    modules = [id(module) for module in model.modules()]
    try:
        for key, config in configs.items():
            if before[key] is not None and not before[key].startswith(PREFIX):
                config._attn_implementation_internal = _entry(before[key])
        for module in modules:
            _LISTENERS.setdefault(module, []).append(listener)
        yield
    finally:
        for module in modules:
            listeners = _LISTENERS.get(module, [])
            if listener in listeners:
                listeners.remove(listener)
            if not listeners:
                _LISTENERS.pop(module, None)
        if not any(module in _LISTENERS for module in modules):  # taps may be taken off in any order
            for config in configs.values():
                name = config._attn_implementation
                config._attn_implementation_internal = name and name.removeprefix(PREFIX)
