"""Memory of this process, watched."""

from __future__ import annotations

import time

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
