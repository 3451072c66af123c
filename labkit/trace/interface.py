"""The tap at transformers' attention interface: each call is handed on unchanged, and seen on its way.

transformers routes attention through one registry of functions, keyed by the implementation's name. While a model is
tapped, our entry stands in the registry under that very name and hands each call to the function it would have gone to.
The configuration keeps its name, so masks and code that asks for the name are as ever; nothing is recomputed and nothing
is rounded, and the logits are those of the untapped model, bit for bit.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol, cast

import torch
from transformers.modeling_utils import AttentionInterface

from labkit.trace.patterns import SEEN
from labkit.trace.probing import modules_of

Attention = Callable[..., "tuple[torch.Tensor, torch.Tensor | None]"]


@dataclass
class Call:
    """One call of an attention layer, before it is made. Tensors may be replaced.

    query: (batch, heads, T, d_head), after rotary embedding.  key, value: (batch, kv_heads, keys, d_head).
    mask: what the implementation was given: None, bool (True may look) or added to the scores.
    options: the keywords of the call.  implementation: "sdpa" or "eager", which take None as mask otherwise.
    shared: what a listener leaves for those after it.
    """

    module: torch.nn.Module
    query: torch.Tensor
    key: torch.Tensor
    value: torch.Tensor
    mask: torch.Tensor | None
    options: dict[str, object]
    implementation: str = "sdpa"
    shared: dict[str, torch.Tensor] = field(default_factory=dict)

    def everything(self) -> torch.Tensor:
        """A mask through which each query sees each key, (1, 1, T, keys)."""
        shape = (1, 1, self.query.shape[2], self.key.shape[2])
        return torch.ones(shape, dtype=torch.bool, device=self.query.device)


class Listener(Protocol):
    """What is told of each attention call of a tapped model."""

    def before(self, call: Call) -> None: ...

    def after(self, call: Call, output: torch.Tensor) -> torch.Tensor:
        """output: (batch, T, heads, d_value), before the output projection. Returns it, or another in its place."""
        ...


_LISTENERS: dict[int, list[Listener]] = {}  # by the id of the attention module, in the order they were put on
_REPLACED: dict[str, Attention | None] = {}  # what stood in the registry before us; None where nothing did
_lock = threading.RLock()


def _eager_of(module: torch.nn.Module) -> Attention:
    """A modeling file's own eager attention, with its softcap or its sinks; a user's subclass uses its parent's."""
    for kind in type(module).__mro__:
        found = getattr(sys.modules.get(kind.__module__), "eager_attention_forward", None)
        if found is not None:
            return cast("Attention", found)
    raise LookupError(f"no eager attention beside {type(module).__name__}")


def _tap_for(implementation: str, original: Attention | None) -> Attention:
    def tap(
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        *rest: object,
        **options: object,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        computed_by = original if original is not None else _eager_of(module)
        listeners = _LISTENERS.get(id(module), ())
        if not listeners:
            return computed_by(module, query, key, value, attention_mask, *rest, **options)
        call = Call(module, query, key, value, attention_mask, options, implementation)
        for listener in listeners:
            listener.before(call)
        output, weights = computed_by(module, call.query, call.key, call.value, call.mask, *rest, **options)
        for listener in listeners:
            output = listener.after(call, output)
        return output, weights

    return tap


def _put_on() -> None:
    """Stand in the registry for each implementation, unless we do already."""
    registry = AttentionInterface._global_mapping
    for name in SEEN:
        if name not in _REPLACED:
            original = registry.get(name)
            _REPLACED[name] = original
            registry[name] = _tap_for(name, original)


def _take_off() -> None:
    registry = AttentionInterface._global_mapping
    for name, original in _REPLACED.items():
        if original is None:
            registry.pop(name, None)
        else:
            registry[name] = original
    _REPLACED.clear()


@contextlib.contextmanager
def tapped(model: torch.nn.Module, listener: Listener) -> Iterator[None]:
    """While inside, every attention call of the model that goes through the interface is shown to the listener.

    Taps nest, and may be taken off in any order: what an earlier listener changes, a later one sees changed.
    """
    modules = [id(module) for module in modules_of(model)]
    try:
        with _lock:
            _put_on()
            for module in modules:
                _LISTENERS.setdefault(module, []).append(listener)
        yield
    finally:
        with _lock:
            for module in modules:
                listeners = _LISTENERS.get(module, [])
                if listener in listeners:
                    listeners.remove(listener)
                if not listeners:
                    _LISTENERS.pop(module, None)
            if not _LISTENERS:
                _take_off()
