"""Taps: where a tensor of the model is shown on its way, and may be replaced.

Seeing and changing are one thing here. A visit is given the tensor in the form a Trace has it, batch first, and returns
another to go on in its place, or None to leave it. Queries, keys, values and head outputs pass transformers' attention
interface; all else is reached by hooks on modules. In a model that uses one module as several layers, a visit is called
for the use it was put on, and for no other.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch
from torch import nn

from labkit.errors import Unavailable
from labkit.trace import running
from labkit.trace.interface import Call, tapped
from labkit.trace.passes import Pass
from labkit.trace.recurrences import Listener, listening
from labkit.trace.routers import Decide, Router, watch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from labkit.trace.anatomy import Anatomy

Visit = Callable[[torch.Tensor], "torch.Tensor | None"]
Operand = Literal["query", "key", "value", "output"]
Args = tuple[object, ...]
Keywords = dict[str, object]


def layer_input(args: Sequence[object], keywords: dict[str, object]) -> torch.Tensor:
    """The hidden states a layer is called with."""
    found = args[0] if args else keywords["hidden_states"]
    assert isinstance(found, torch.Tensor)
    return found


def first_tensor(output: object) -> torch.Tensor | None:
    """A module's main output: itself, or the first of a tuple."""
    if isinstance(output, tuple | list):
        output = output[0] if output else None
    return output if isinstance(output, torch.Tensor) else None


class _Uses:
    """Which layer is being computed. Modules used as several layers are told apart by the order in which layers run."""

    def __init__(self, anatomy: Anatomy) -> None:
        self.order = [layer.module for layer in anatomy.layers]
        self.counts = len(set(self.order)) < len(self.order) or anatomy.shares_parts
        self.owner = anatomy.stack_owner
        self.at = -1

    def put_on(self, stack: contextlib.ExitStack) -> None:
        if not self.counts:
            return
        if self.owner is not None:
            stack.callback(self.owner.register_forward_pre_hook(self._begin).remove)
        for module in dict.fromkeys(self.order):
            stack.callback(module.register_forward_pre_hook(self._enter).remove)

    def _begin(self, _module: nn.Module, _args: Args) -> None:
        self.at = -1

    def _enter(self, module: nn.Module, _args: Args) -> None:
        self.at = 0 if self.at + 1 >= len(self.order) else self.at + 1
        if self.order[self.at] is not module:
            raise Unavailable(
                "The layers of this model run in another order than when labkit first looked, so it can't be told which "
                "use of a shared layer this is; look at the logits alone, keep='logits'."
            )

    def now(self, layer: int | None) -> bool:
        """Whether this is the pass, and the use of a module, that a tap of a layer is for; None: once in a pass."""
        if running.trying():
            return False
        return layer is None or not self.counts or self.at == layer


class _AtAttention(NamedTuple):
    layer: int
    operand: Operand | Literal["call"]
    visit: Visit | Callable[[Call], None]


class _Interface:
    """Listens at the attention interface for all taps at once."""

    def __init__(self, uses: _Uses) -> None:
        self.uses = uses
        self.by_module: dict[int, list[_AtAttention]] = {}

    def before(self, call: Call) -> None:
        for layer, operand, visit in self.by_module.get(id(call.module), ()):
            if operand == "output" or not self.uses.now(layer):
                continue
            if operand == "call":
                visit(call)  # type: ignore[arg-type]
                continue
            new = visit(getattr(call, operand))
            if new is not None:
                setattr(call, operand, new)

    def after(self, call: Call, output: torch.Tensor) -> torch.Tensor:
        for layer, operand, visit in self.by_module.get(id(call.module), ()):
            if operand == "output" and self.uses.now(layer):
                new = visit(output.transpose(1, 2))  # type: ignore[arg-type]
                output = output if new is None else new.transpose(1, 2).contiguous()
        return output


class Taps:
    """The taps of one `with`; made by `tapping`, which takes them all off again."""

    def __init__(self, model: PreTrainedModel, anatomy: Anatomy, stack: contextlib.ExitStack) -> None:
        self.model, self.anatomy, self.now = model, anatomy, Pass(model)
        self._stack, self._uses = stack, _Uses(anatomy)
        self._interface = _Interface(self._uses)

    def entering(self, layer: int, visit: Visit) -> None:
        """What enters a layer; for one more than there are, what leaves the last."""
        if layer == len(self.anatomy.layers):
            self.leaving(layer - 1, self.anatomy.layers[-1].module, visit)
            return

        def hook(_module: nn.Module, args: Args, keywords: Keywords) -> tuple[Args, Keywords] | None:
            if not self._uses.now(layer):
                return None
            whole = layer_input(args, keywords)
            new = visit(self.now.split(whole))
            if new is None:
                return None
            new = new.reshape(whole.shape)
            return ((new, *args[1:]), keywords) if args else (args, {**keywords, "hidden_states": new})

        module = self.anatomy.layers[layer].module
        self._stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)

    def leaving(self, layer: int | None, module: nn.Module, visit: Visit, factor: float = 1.0) -> None:
        """A module's output, times what the model multiplies it with before adding it. layer: None where it is in none."""

        def hook(_module: nn.Module, _args: Args, output: object) -> object:
            if not self._uses.now(layer):
                return None
            tensor = first_tensor(output)
            assert tensor is not None
            whole = self.now.split(tensor)
            shown = whole if factor == 1.0 else whole * factor
            new = visit(shown)
            if new is None:
                return None
            if factor != 1.0:
                new = _divided(new, shown, whole, factor)
            return _with_first(output, new.reshape(tensor.shape))

        self._stack.callback(module.register_forward_hook(hook).remove)

    def given(self, layer: int, module: nn.Module, visit: Visit, heads: int | None = None) -> None:
        """What a projection is given. heads: it holds the outputs of so many, side by side."""

        def hook(_module: nn.Module, args: Args) -> Args | None:
            if not self._uses.now(layer):
                return None
            flat = args[0]
            assert isinstance(flat, torch.Tensor)
            whole = self.now.split(flat)
            if heads is None:
                new = visit(whole)
            else:
                new = visit(whole.reshape(*whole.shape[:-1], heads, -1).transpose(1, 2))
                new = None if new is None else new.transpose(1, 2)
            return None if new is None else (new.reshape(flat.shape), *args[1:])

        self._stack.callback(module.register_forward_pre_hook(hook).remove)

    def at_attention(self, layer: int, operand: Operand, visit: Visit) -> None:
        """A layer's queries, keys or values as attention is called with them, or its heads' outputs."""
        module = self.anatomy.layers[layer].attention_module
        self._interface.by_module.setdefault(id(module), []).append(_AtAttention(layer, operand, visit))

    def calls(self, layer: int, visit: Callable[[Call], None]) -> None:
        """A layer's whole call of attention, only to be looked at."""
        module = self.anatomy.layers[layer].attention_module
        self._interface.by_module.setdefault(id(module), []).append(_AtAttention(layer, "call", visit))

    def outputs(self, layer: int, module: nn.Module, visit: Callable[[object], None]) -> None:
        """All that a module puts out, only to be looked at."""

        def hook(_module: nn.Module, _args: Args, output: object) -> None:
            if self._uses.now(layer):
                visit(output)

        self._stack.callback(module.register_forward_hook(hook).remove)

    def states(self, layer: int, visit: Visit) -> None:
        """The state of a recurrent layer after each token of the pass, one after the other: (batch, 1, d), laid out flat."""
        recurrence = self.anatomy.layers[layer].recurrence
        assert recurrence is not None

        def each(token: int, tokens: int, state: torch.Tensor) -> torch.Tensor | None:
            if not self._uses.now(layer):
                return None
            self.now.token = (token, tokens)
            new = visit(state.flatten(1)[:, None])
            return None if new is None else new.reshape(state.shape).to(state.dtype)

        self._stack.enter_context(listening([recurrence.module], Listener(visit=each)))

    def decisions(self, router: Router, layer: int, decide: Decide) -> None:
        """What a layer's router decides."""

        def now(
            logits: torch.Tensor, weights: torch.Tensor, experts: torch.Tensor
        ) -> tuple[torch.Tensor, torch.Tensor] | None:
            return decide(logits, weights, experts) if self._uses.now(layer) else None

        for handle in watch(router, now):
            self._stack.callback(handle.remove)

    def logits(self, visit: Visit) -> None:
        """The model's own output, after softcaps and scalings; also of the model that a wrapper has generate by itself."""

        def hook(module: nn.Module, _args: Args, output: object) -> object:
            if not self._uses.now(None) or module is not self.now.entered:
                return None
            logits = getattr(output, "logits", None)
            named = isinstance(logits, torch.Tensor)
            if not named:
                logits = first_tensor(output)
            assert isinstance(logits, torch.Tensor)
            new = visit(logits)
            if new is None:
                return None
            if not named:
                return _with_first(output, new)
            output.logits = new  # type: ignore[attr-defined]
            return output

        for module in self.now.whole_models:
            self._stack.callback(module.register_forward_hook(hook).remove)

    def begin(self) -> None:
        """Before any tap is put on: follow the passes."""
        for entrance in self.now.entrances:
            self._stack.callback(entrance.register_forward_pre_hook(self.now.begin, with_kwargs=True).remove)
        self._uses.put_on(self._stack)

    def end(self) -> None:
        """After all taps are on."""
        for entrance in self.now.entrances:  # after the logits' own hook
            self._stack.callback(entrance.register_forward_hook(self.now.end, always_call=True).remove)
        if self._interface.by_module:
            self._stack.enter_context(tapped(self.model, self._interface))


@contextlib.contextmanager
def tapping(model: PreTrainedModel, anatomy: Anatomy, put_on: Callable[[Taps], None]) -> Iterator[None]:
    """While inside, the taps that `put_on` puts on are on; afterwards nothing is left of them, whatever happens."""
    with contextlib.ExitStack() as stack:
        taps = Taps(model, anatomy, stack)
        taps.begin()
        put_on(taps)
        taps.end()
        yield


def _divided(new: torch.Tensor, shown: torch.Tensor, whole: torch.Tensor, factor: float) -> torch.Tensor:
    """What the model must be given so that, times the factor, it is `new`; what was left alone stays to the bit."""
    value = torch.where(new == shown, whole, new / factor)
    if not (torch.is_grad_enabled() and new.requires_grad):
        return value
    return (
        value.detach() + (new - new.detach()) / factor
    )  # the same number, and all of its derivative goes through `new`


def _with_first(output: object, new: torch.Tensor) -> object:
    if isinstance(output, tuple):
        return (new, *output[1:])
    return [new, *output[1:]] if isinstance(output, list) else new
