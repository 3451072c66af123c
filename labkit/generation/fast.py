"""speed="fast": a loop of our own over the model itself, in the numbers it has.

On CUDA the step is compiled, replayed as a CUDA graph and kept, over a cache of fixed size. On a CPU nothing is compiled:
that took a minute and gained a fifth of a step, and a cache of fixed size costs more than it saves, as attention goes over
all of it. What is faster by other numbers (packed weights, llama.cpp) is asked for by its name, never taken in silence.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from labkit.trace import running
from labkit.trace.adding import is_added_to
from labkit.trace.edits import is_edited
from labkit.trace.probing import modules_of

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from labkit.generation.loop import Feed


@dataclass(frozen=True)
class Fast:
    """The engine of `speed="fast"` for texts of up to so many tokens."""

    model: PreTrainedModel
    tokens: int

    @property
    def description(self) -> str:
        return described(self.model, "compiled step" if compiles(self.model) else "labkit's loop")

    @contextlib.contextmanager
    def feed(self) -> Iterator[Feed]:
        static = compiles(self.model)
        stepper = running.stepper(self.model, self.tokens, static=static)
        with stepper.run(eagerly=static and is_hooked(self.model)):
            yield _Stepping(stepper, ahead=static)


class _Stepping:
    """A Stepper as the loop has it."""

    def __init__(self, stepper: running.Stepper, *, ahead: bool) -> None:
        self.stepper, self.ahead = stepper, ahead

    def start(self, ids: Sequence[int], room: int, *, stopped: Callable[[], bool]) -> torch.Tensor:
        return self.stepper.start(ids)

    def read(self, id_: torch.Tensor) -> Callable[[], torch.Tensor]:
        logits = self.stepper.read(id_)
        return lambda: logits


def described(model: PreTrainedModel, how: str = "") -> str:
    """What runs a model where no other engine is asked for: the type of its numbers, and how where otherwise than plainly."""
    return f"transformers ({', '.join(filter(None, (str(model.dtype).removeprefix('torch.'), how)))})"


def compiles(model: PreTrainedModel) -> bool:
    """Whether the step of a model is compiled, over a cache of fixed size."""
    return model.device.type == "cuda" and not running.is_compiled(model)


def is_hooked(model: PreTrainedModel) -> bool:
    """Whether something hangs on a model that a step compiled before would not see: edits, adapters, a user's hooks."""
    if is_edited(model) or is_added_to(running.language_model(model)):
        return True
    own = ("transformers.", "torch.")  # hooks that a model is built with: the compiled step has them
    hooks = (hook for m in modules_of(model) for hook in [*m._forward_hooks.values(), *m._forward_pre_hooks.values()])
    return any(not str(getattr(hook, "__module__", "")).startswith(own) for hook in hooks)
