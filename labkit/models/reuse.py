"""One copy of a model: what was loaded before is found again, as long as it is what was loaded."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Hashable
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    import torch


class Holding(Protocol):
    """What holds a loaded model, until it is closed."""

    @property
    def model(self) -> torch.nn.Module: ...

    @property
    def closed(self) -> bool: ...


Holder = TypeVar("Holder", bound=Holding)

SAMPLED = 16  # values looked at in each weight


class Bench(Generic[Holder]):
    """The holders of loaded models, kept weakly, each with what was asked for and the state its model came in."""

    def __init__(self) -> None:
        self.lock = threading.RLock()  # held over a whole load, so that two threads don't load the same model twice
        self._known: weakref.WeakKeyDictionary[Holder, tuple[Hashable, int]] = weakref.WeakKeyDictionary()

    def find(self, request: Hashable) -> Holder | None:
        """A holder that came from an equal request and whose model has not changed since."""
        for holder, (asked, state) in list(self._known.items()):
            if asked == request and not holder.closed and state_of(holder.model) == state:
                return holder
        return None

    def remember(self, holder: Holder, request: Hashable) -> None:
        self._known[holder] = (request, state_of(holder.model))

    def forget(self, holder: Holder) -> None:
        self._known.pop(holder, None)


def state_of(model: torch.nn.Module) -> int:
    """A number that changes when a model is written to, converted, moved, extended, hooked or set to train.

    A few values of each weight are read, since writing through `.data` leaves no other mark: a change of single values
    made that way may be missed.
    """
    marks: list[object] = []
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        marks.append((name, id(tensor), tensor.dtype, str(tensor.device), tensor._version, _sample(tensor)))
    for module in model.modules():
        hooks = [*module._forward_hooks.values(), *module._forward_pre_hooks.values()]
        # transformers leaves hooks of its own on a model that was asked for hidden states; ours are those of an edit
        known = ("transformers.", "labkit.")
        foreign = sum(not str(getattr(hook, "__module__", "")).startswith(known) for hook in hooks)
        marks.append((type(module), module.training, foreign))
    return hash(tuple(marks))


def _sample(tensor: torch.Tensor) -> tuple[float, ...] | None:
    if tensor.device.type == "meta" or not tensor.is_contiguous():
        return None
    flat = tensor.detach().view(-1)
    return tuple(flat[:: max(1, flat.numel() // SAMPLED)][: SAMPLED + 1].tolist())
