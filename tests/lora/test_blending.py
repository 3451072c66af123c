"""What the view of an adapter writes: others wait while it is written, also where no adapter is on."""

from __future__ import annotations

import threading

import pytest

import labkit as lk
from labkit.lora.blending import blended


@pytest.mark.parametrize("leave", [False, True])
def test_another_thread_waits_for_the_base_s_text_too(tiny_lab: lk.Lab, leave: bool) -> None:
    expected = tiny_lab.generate("the cat", max_new_tokens=6, chat=False)
    writer = blended(tiny_lab, [], tokens=6, chat=False)("the cat", [], threading.Event())
    next(writer)
    other = threading.Thread(target=lambda: tiny_lab.generate("where was the dog", max_new_tokens=2, chat=False))
    other.start()
    other.join(0.5)
    assert other.is_alive()
    if leave:
        writer.close()
    else:
        *_, last = writer
        assert last.done
        assert last.tokens == tuple(expected.tokens)
    other.join(10)
    assert not other.is_alive()
