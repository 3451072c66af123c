"""What peft and TRL do to a whole process as they set things up, kept from its user: seeds, warnings, lines in the log."""

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
