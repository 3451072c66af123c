"""What the view of an adapter writes: others wait while it is written, also where no adapter is on."""

from __future__ import annotations

import contextlib
import threading
from types import SimpleNamespace

import pytest
import torch

import labkit as lk
from labkit.lora import blending
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


def test_a_token_that_can_never_come_adds_nothing_to_the_kl(tiny_lab: lk.Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its logit is -inf with and without the adapter."""
    monkeypatch.setattr(
        blending, "_logits", lambda _lab, made: torch.tensor([0.0, 1.0, -torch.inf]).expand(len(made.ids), 3)
    )
    adapter = SimpleNamespace(name="none", on=lambda _scale: contextlib.nullcontext())
    *_, last = blended(tiny_lab, [adapter], tokens=3, chat=False)("the cat", [1.0], threading.Event())
    assert last.kl == (0.0,) * len(last.tokens)
    assert last.tokens
