"""A text as it is written with adapters on at chosen scales, and how far each of its tokens is from the base: for a view."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch

from labkit import checks
from labkit.errors import BadInput
from labkit.generation.generating_lab import GeneratingLab
from labkit.quantization.comparing import divergence
from labkit.trace.lab_like import check_lab
from labkit.trace.turns import Turns

if TYPE_CHECKING:
    from labkit.generation.record import Generation

__all__ = ["Blended", "Switched", "blended"]


class Switched(Protocol):
    """What can be put on a model for a while: an Adapter."""

    @property
    def name(self) -> str: ...
    def on(self, scale: float = ..., /) -> AbstractContextManager[object]: ...


@dataclass(frozen=True)
class Blended:
    """A text under way.

    tokens: n so far, each token's text, without the prompt; while it is being written a character that is several tokens comes
    as one.  kl: (n,) nats, KL(base || with the adapters) of what may stand at each token; None while it is not known.
    done: nothing more comes.
    """

    tokens: tuple[str, ...] = ()
    kl: tuple[float, ...] | None = None
    done: bool = False


Writer = Callable[[str, Sequence[float], threading.Event], Iterator[Blended]]


def blended(lab: GeneratingLab, adapters: Sequence[Switched], *, tokens: int = 60, chat: bool | None = None) -> Writer:
    """What `lk.views.adapter` runs: (prompt, a scale for each adapter, stop) -> the text as it is written, greedily.

    With all scales at 0 it is the base's own text. The base is run with no adapter on; what other edits are on is not touched.
    Raises BadInput for what is no lab and no adapter of it.
    """
    check_lab(lab)
    tokens = checks.whole("tokens", tokens, 1)
    for each in adapters:
        if not (callable(getattr(each, "on", None)) and hasattr(each, "name")):
            kind = type(each).__name__
            raise BadInput(f"A {kind} is no adapter; give what run.adapter or lk.lora.load(lab, folder) returned.")
        if getattr(each, "lab", lab) is not lab:
            raise BadInput(
                f"The adapter {each.name} is of another lab; give {each.name}.for_lab(lab), if it is of the same base."
            )

    def run(prompt: str, scales: Sequence[float], stop: threading.Event) -> Iterator[Blended]:
        pieces: list[str] = []
        with Turns.of(lab.model).stretch(), _on(adapters, scales):  # others wait, also where no adapter is on
            for piece in lab.stream(prompt, max_new_tokens=tokens, chat=chat, alternatives=1):
                if stop.is_set():
                    return
                pieces.append(piece)
                yield Blended(tuple(pieces))
            made = lab.last_generation  # still inside: afterwards the model may be somebody else's
            if made is None or isinstance(made, list):
                return
            yield Blended(tuple(made.tokens))
            after = _logits(lab, made) if any(scales) else None
        kl = (0.0,) * len(made.ids)
        if after is not None:
            kl = tuple(divergence(_logits(lab, made), after).tolist())
        yield Blended(tuple(made.tokens), kl, True)

    return run


@contextlib.contextmanager
def _on(adapters: Sequence[Switched], scales: Sequence[float]) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        for adapter, scale in zip(adapters, scales, strict=True):
            if scale:
                stack.enter_context(adapter.on(scale))
        yield


def _logits(lab: GeneratingLab, made: Generation) -> torch.Tensor:
    """(n, vocabulary): what the model gives to whatever may stand at each generated token."""
    if not made.ids:
        return torch.empty(0, 1)
    ids = [*made.prompt_ids, *made.ids]
    return lab.trace(ids, keep="logits").logits[len(made.prompt_ids) - 1 : -1]
