"""What is added to a model's parts for the length of a `with`: terms beside a module's own output, other values of parameters.

No module is replaced, so what an anatomy says of a model holds while something is added. A term sees what its module was
given and what it computed by itself, before any edit or other term; terms add up, whoever put them on, in any order. A
parameter gets its own value plus what is added to it, as another tensor in its place; its own comes back untouched.
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from torch.utils.hooks import RemovableHandle

__all__ = ["Change", "Term", "adding", "is_added_to", "own_parameter", "own_parameters"]

Term = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Change:
    """What a parameter gets: its own value plus scale · (other − own); `other` itself with a scale of 1 and no other change."""

    other: torch.Tensor
    scale: float


@contextlib.contextmanager
def adding(
    model: nn.Module, terms: Mapping[nn.Module, Term], changes: Mapping[tuple[nn.Module, str], Change] | None = None
) -> Iterator[None]:
    """While inside, each module's output has a term added to it, and parameters of modules have other values.

    terms: given a module's first input and its own output, what is to be added to the output.
    changes: by module and the name of the parameter.  model: of which they are parts.
    The sum is rounded to the output's dtype once. Terms see no edit of the output; edits of it see them.
    """
    key = object()
    with contextlib.ExitStack() as stack:  # what undoes a step stands there before it is done
        stack.callback(_ADDED.setdefault(model, set()).discard, key)
        _ADDED[model].add(key)
        for module, term in terms.items():
            total = _SUMS.setdefault(module, _Sum())
            stack.callback(total.remove, key)
            total.add(key, module, term)
        for (module, name), change in (changes or {}).items():
            value = _value_at(module, name)
            stack.callback(value.remove, key)
            value.add(key, change)
        yield


def is_added_to(model: nn.Module) -> bool:
    """Whether something is added to parts of this model now."""
    return bool(_ADDED.get(model))


def own_parameter(module: nn.Module, name: str) -> nn.Parameter | None:
    """A module's own parameter, also while it has another value; None where it has none of that name."""
    value = _VALUES.get(module, {}).get(name)
    return value.own if value is not None and value.changes else module._parameters.get(name)


def own_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """As `named_parameters` of a model to which nothing is added, with each name of what is shared."""
    found = {}
    for prefix, module in model.named_modules(remove_duplicate=False):
        for name in module._parameters:
            if (value := own_parameter(module, name)) is not None:
                found[f"{prefix}.{name}" if prefix else name] = value
    return found


class _Sum:
    """The hook of one module, there as long as it has terms."""

    def __init__(self) -> None:
        self.terms: dict[object, Term] = {}
        self.handle: RemovableHandle | None = None

    def add(self, key: object, module: nn.Module, term: Term) -> None:
        self.terms[key] = term
        if self.handle is None:
            # first of all hooks: others, those of edits and traces, see the module's output with its terms
            self.handle = module.register_forward_hook(self, prepend=True, with_kwargs=True)

    def remove(self, key: object) -> None:
        self.terms.pop(key, None)
        if not self.terms and self.handle is not None:
            self.handle.remove()
            self.handle = None

    def __call__(
        self, _module: nn.Module, given: tuple[Any, ...], named: dict[str, Any], output: torch.Tensor
    ) -> torch.Tensor:
        first: torch.Tensor = given[0] if given else next(iter(named.values()))
        total = output
        for term in self.terms.values():
            total = total + term(first, output)
        return total.to(output.dtype)


@dataclass
class _Value:
    """A parameter that has another value for a while. own: the one that was there, put back as the object it is."""

    module: weakref.ref[nn.Module]
    name: str
    own: nn.Parameter
    changes: dict[object, Change] = field(default_factory=dict)

    def add(self, key: object, change: Change) -> None:
        self.changes[key] = change
        self._put()

    def remove(self, key: object) -> None:
        self.changes.pop(key, None)
        self._put()

    def _put(self) -> None:
        module = self.module()
        if module is not None:
            module._parameters[self.name] = self.own if not self.changes else self._changed()

    def _changed(self) -> nn.Parameter:
        own, there = self.own.detach(), list(self.changes.values())
        if len(there) == 1 and there[0].scale == 1:
            value = there[0].other.to(own.device, own.dtype)
        else:
            value = own.double()
            for change in there:
                value = value + change.scale * (change.other.to(own.device).double() - own.double())
            value = value.to(own.dtype)
        return nn.Parameter(value, requires_grad=False)


def _value_at(module: nn.Module, name: str) -> _Value:
    values = _VALUES.setdefault(module, {})
    if name not in values or not values[name].changes:
        own = module._parameters[name]
        assert own is not None
        values[name] = _Value(weakref.ref(module), name, own)
    return values[name]


_ADDED: weakref.WeakKeyDictionary[nn.Module, set[object]] = weakref.WeakKeyDictionary()
_SUMS: weakref.WeakKeyDictionary[nn.Module, _Sum] = weakref.WeakKeyDictionary()
_VALUES: weakref.WeakKeyDictionary[nn.Module, dict[str, _Value]] = weakref.WeakKeyDictionary()
