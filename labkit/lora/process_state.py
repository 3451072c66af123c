"""What peft and TRL do to a whole process, kept from its user: seeds, warnings, lines in the log, accelerate's states."""

from __future__ import annotations

import contextlib
import random
import threading
import warnings
from collections.abc import Iterator

import torch

from labkit.models.quiet import quiet_libraries


@contextlib.contextmanager
def kept_process_state() -> Iterator[None]:
    """Give the random states of Python, NumPy and torch back as they were, and let nothing be said of renamed arguments."""
    import numpy as np

    quiet_libraries()
    states = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=list(range(torch.cuda.device_count()))), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of names that peft and TRL use and transformers renamed
            warnings.filterwarnings("ignore", message="fan_in_fan_out")  # which peft sets right itself
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])


class AccelerateStates:
    """What accelerate knows of devices, precision and gradients, which it keeps once for a process: those of one trainer.

    A trainer's arguments clear them and set them anew, also for an Accelerator that its user made before.
    """

    def __init__(self) -> None:
        self._own: list[dict[str, object]] = [{}, {}, {}]

    @contextlib.contextmanager
    def put_in(self) -> Iterator[None]:
        """Let accelerate have these for a while in this thread; every other thread has those that are there."""
        from accelerate import state

        kinds: tuple[type, ...] = (state.AcceleratorState, state.PartialState, state.GradientState)
        theirs = [vars(kind)["_shared_state"] for kind in kinds]
        for kind, own, their in zip(kinds, self._own, theirs, strict=True):
            setattr(kind, "_shared_state", _OfThread(own, their))  # noqa: B010 # of several types
        try:
            yield
        finally:
            for kind, their in zip(kinds, theirs, strict=True):
                setattr(kind, "_shared_state", their)  # noqa: B010


class _OfThread:
    """In the place of the dict that accelerate's states share: one for the thread that made this, another for the rest.

    Such a state is made with the dict as its __dict__, so it stays with the one that its thread had then.
    """

    def __init__(self, own: dict[str, object], theirs: object) -> None:
        self._own, self._theirs, self._thread = own, theirs, threading.get_ident()

    def __get__(self, state: object, kind: type) -> object:
        if threading.get_ident() == self._thread:
            return self._own
        # a dict, or where torch_xla is there a descriptor such as this one
        return self._theirs.__get__(state, kind) if hasattr(self._theirs, "__get__") else self._theirs
