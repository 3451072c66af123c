"""The machine at hand: its memory, and bandwidth and operations as measured in under a second or two."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache

import torch

from labkit.landscape.machines import USABLE, Device, Hardware
from labkit.models.hardware import describe_device, free_bytes, pick_device

SECONDS = 0.2  # for each measure, after one run to warm up
READ_BYTES = {"cpu": 2**26, "cuda": 2**30, "mps": 2**28}  # many times what caches hold of it
WIDTH = {"cpu": 768, "cuda": 8192, "mps": 2048}
HOST_BYTES = 2**27
FREE = 0.9  # of the memory that is free: other programs want some too

__all__ = ["this_machine"]


@lru_cache(maxsize=1)
def this_machine() -> Hardware:
    """The device labkit would load on, measured once in a process.

    Memory is what is free when it is first asked for. Bandwidth: a sum over a tensor larger than the caches, each byte read
    once. Operations: square matrix products. Each is the best of the runs that fit in 0.2 s, since whatever else runs only
    slows them.
    """
    device = pick_device()
    kind = torch.device(device).type
    count = torch.cuda.device_count() if kind == "cuda" else 1
    rates = {}
    precisions = ("float32", "bfloat16") if kind == "cpu" else ("float32", "bfloat16", "float16")
    for precision in precisions:
        rate = _products(device, kind, getattr(torch, precision))
        if rate is not None:
            rates[precision] = rate
    memory = free_bytes(device)
    found = Device(
        name="this",
        vendor="",
        kind="measured here",
        memory_bytes=memory,
        bandwidth=_reading(device, kind),
        operations=rates,
        link=_between_cards() if count > 1 else None,
        link_name="measured copy" if count > 1 else "",
        host=_from_host() if kind == "cuda" else None,
        usable=USABLE if kind == "cuda" else FREE,
        released="",
        source=f"measured on {describe_device(device)}",
        taken=time.strftime("%Y-%m-%d"),
        confirmed=True,
        note="What is free now, and the speed of this moment: other programs change both.",
    )
    return Hardware(found, count)


def _best(run: Callable[[], object], device: str) -> float:
    """The shortest of as many runs as fit in SECONDS, in seconds."""
    wait = _waiting(device)
    run()
    wait()
    best, until = float("inf"), time.perf_counter() + SECONDS
    while True:
        start = time.perf_counter()
        run()
        wait()
        now = time.perf_counter()
        best = min(best, now - start)
        if now >= until:
            return best


def _waiting(device: str) -> Callable[[], object]:
    kind = torch.device(device).type
    if kind == "cuda":
        return torch.cuda.synchronize
    return torch.mps.synchronize if kind == "mps" else lambda: None


def _reading(device: str, kind: str) -> float:
    room = torch.ones(READ_BYTES[kind] // 4, dtype=torch.float32, device=device)
    return READ_BYTES[kind] / _best(room.sum, device)


def _products(device: str, kind: str, dtype: torch.dtype) -> float | None:
    width = WIDTH[kind] if dtype is not torch.float32 or kind != "cuda" else WIDTH[kind] // 2
    try:
        left = torch.ones((width, width), dtype=dtype, device=device)
        return 2 * width**3 / _best(lambda: left @ left, device)
    except RuntimeError:  # a precision this device can't multiply in
        return None


def _from_host() -> float:
    there = torch.empty(HOST_BYTES, dtype=torch.uint8, device="cuda")
    here = torch.empty(HOST_BYTES, dtype=torch.uint8, pin_memory=True)
    return HOST_BYTES / _best(lambda: there.copy_(here, non_blocking=True), "cuda")


def _between_cards() -> float:
    there = torch.empty(HOST_BYTES, dtype=torch.uint8, device="cuda:1")
    here = torch.empty(HOST_BYTES, dtype=torch.uint8, device="cuda:0")
    return HOST_BYTES / _best(lambda: there.copy_(here, non_blocking=True), "cuda")
