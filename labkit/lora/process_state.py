"""What peft and TRL do to a whole process, kept from its user: seeds, warnings, lines in the log, accelerate's states."""

from __future__ import annotations

import contextlib
import random
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
        """Let accelerate have these for a while, and those that were there afterwards."""
        from accelerate import state

        kinds = (state.AcceleratorState, state.PartialState, state.GradientState)
        theirs = [kind._shared_state for kind in kinds]
        for kind, own in zip(kinds, self._own, strict=True):
            kind._shared_state = own
        try:
            yield
        finally:
            for kind, their in zip(kinds, theirs, strict=True):
                kind._shared_state = their
