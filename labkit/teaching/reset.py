"""A clean bench between exercises."""

from __future__ import annotations

import gc
import random
import sys


def reset(seed: int = 0) -> None:
    """Stop a tuning, end edits that are still on, close all labs, free their memory, and seed Python, NumPy and torch.

    Says in one line what it did. Progress and predictions are not touched. What views and live panels compute is told to
    stop; another run under way in another thread is waited for, so stop it first if it is a long one.
    """
    import numpy as np
    import torch

    from labkit.lab import close_all
    from labkit.views.kit.latest import stop_all

    stop_all()
    runs = sys.modules.get("labkit.lora.runs")  # where it was never imported, nothing is being tuned
    tunings = int(runs is not None and runs.stop_all())
    edits, labs = close_all()
    gc.collect()
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    done = [
        f"{count} {name}{'s' if count != 1 else ''} {verb}"
        for count, name, verb in ((tunings, "tuning", "stopped"), (edits, "edit", "ended"), (labs, "lab", "closed"))
        if count
    ]
    print(f"Reset: {', '.join([*done, f'seeds set to {seed}'])}.")
