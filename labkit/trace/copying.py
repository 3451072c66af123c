"""A model of its own beside another: its modules, and its tensors or the very same ones, without the hooks that are on."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Protocol

import torch
from torch import nn

from labkit.errors import Unavailable
from labkit.models.resolve import say
from labkit.trace import running

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Held(Protocol):
    """Where a parameter is: its module, and its name there."""

    @property
    def module(self) -> nn.Module: ...
    @property
    def parameter(self) -> str: ...


def copied(
    model: PreTrainedModel,
    without: Iterable[Held] = (),
    instead: Mapping[nn.Module, nn.Module] | Mapping[torch.Tensor, torch.Tensor] | None = None,
) -> PreTrainedModel:
    """A model like this one with tensors of its own, and without those of some matrices, which stay on the meta device.

    instead: modules and tensors that the copy gets in the places of some.
    """
    inner = running.language_model(model)
    memo: dict[int, object] = {id(part): other for part, other in (instead or {}).items()}
    for matrix in without:
        parameter = matrix.module._parameters[matrix.parameter]
        assert parameter is not None
        memo[id(parameter)] = nn.Parameter(torch.empty_like(parameter, device="meta"), requires_grad=False)
    users = 0
    for module in inner.modules():  # hooks of edits that are on stay with the original, and so do a user's own
        for hook in [hook for hooks in _hook_tables(module) for hook in hooks.values() if not _is_the_models(hook)]:
            memo[id(hook)] = hook
            users += not _made_in(hook).startswith("labkit.")
    try:
        new: PreTrainedModel = copy.deepcopy(inner, dict(memo))
    except TypeError:  # a lock, a file, a socket: what can't be copied is shared
        for module in inner.modules():
            memo |= {id(value): value for value in vars(module).values() if not _is_copyable(value)}
        try:
            new = copy.deepcopy(inner, memo)
        except TypeError as error:
            raise Unavailable(
                f"This model holds something that can't be copied ({error}); take it off the model first."
            ) from error
    for module in new.modules():
        for hooks in _hook_tables(module):
            for key in [key for key, hook in hooks.items() if not _is_the_models(hook)]:
                del hooks[key]
    new.eval()
    if users:
        say(
            f"{users} hook{'s' if users > 1 else ''} of your own stay{'' if users > 1 else 's'} with the original; put them on "
            "the new model too if it is to have them."
        )
    return new


def _hook_tables(module: nn.Module) -> list[dict[int, object]]:
    return [vars(module)[name] for name in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")]


def _made_in(hook: object) -> str:
    """The module that a hook was written in."""
    return str(getattr(getattr(hook, "func", hook), "__module__", "") or "")


def _is_the_models(hook: object) -> bool:
    """Whether a hook belongs to the model, as those by which torch keeps weights normalized."""
    return _made_in(hook).partition(".")[0] in ("torch", "transformers", "accelerate")


def _is_copyable(value: object) -> bool:
    """Whether something that hangs on a module, and is no part of the model, can be copied."""
    if isinstance(value, dict | torch.Tensor | nn.Module):
        return True
    try:
        copy.deepcopy(value)
    except TypeError:
        return False
    return True
