"""Memory of this process, watched."""

from __future__ import annotations

import time

import torch

from labkit.models.resident import Growth, resident_bytes


def test_the_growth_of_the_process_is_measured_also_where_it_is_given_back() -> None:
    with Growth() as growth:
        held = bytearray(96 << 20)
        held[::4096] = b"x" * len(held[::4096])
        time.sleep(0.05)
        del held
    assert growth.most > 60 << 20
    assert growth.now < growth.most
    assert resident_bytes() > 20 << 20


MEGABYTES = 48 * 2**20


def test_growth_counts_memory_that_was_freed_before() -> None:
    size = 2**16  # small enough to come from the heap, which keeps what is freed
    for _ in range(2):
        before = [torch.ones(size // 4) for _ in range(MEGABYTES // size)]
        pin = torch.ones(size // 4)  # above them, so that the heap can't just be cut off
        del before
        with Growth() as grown:
            taken = [torch.ones(size // 4) for _ in range(MEGABYTES // size)]
        del taken, pin
        assert 0.9 * MEGABYTES <= grown.most <= 1.5 * MEGABYTES
