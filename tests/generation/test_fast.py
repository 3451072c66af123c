"""speed="fast": the plain path's tokens and records from a loop of our own; on CUDA with a step compiled once and kept."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from typing import Any

import fuzz
import pytest
import torch
from families import FAMILIES, Tokens, build

import labkit as lk
from labkit.errors import Unavailable
from labkit.generation import fast, loop
from labkit.trace import running

LONG = 20
TEXT = [5, 17, 33, 8, 91, 42, 17, 33, 64, 23, 11, 70]  # longer than the windows that are tried

WITHOUT = ("mamba", "rwkv")  # their state goes by another name than a cache


class Compiler:
    """Stands for torch.compile: counts what is compiled and each call of it."""

    def __init__(self) -> None:
        self.compiled = 0
        self.calls = 0

    def __call__(self, function: Callable[..., Any], **settings: Any) -> Callable[..., Any]:
        assert settings == {"fullgraph": True, "dynamic": False, "mode": "reduce-overhead"}
        self.compiled += 1

        def counted(*given: Any) -> Any:
            self.calls += 1
            return function(*given)

        return counted


@pytest.fixture
def compiler(monkeypatch: pytest.MonkeyPatch) -> Compiler:
    """As on CUDA: a static cache, and a step that is compiled."""
    stub = Compiler()
    monkeypatch.setattr(torch, "compile", stub)
    monkeypatch.setattr(fast, "compiles", lambda model: True)
    return stub


def same(one: lk.Generation, other: lk.Generation, tolerance: float = 1e-4) -> None:
    assert one.ids == other.ids
    assert one.finish_reason == other.finish_reason
    assert torch.allclose(one.logprobs, other.logprobs, atol=tolerance)
    assert torch.allclose(one.entropies, other.entropies, atol=tolerance)
    assert torch.equal(one.top_ids[:, 0], other.top_ids[:, 0])


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_writes_what_it_writes_plainly_or_is_refused(
    name: str, static: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast, "compiles", lambda model: static)
    monkeypatch.setattr(torch, "compile", lambda function, **settings: function)
    lab = lk.Lab(build(FAMILIES[name]), Tokens(), name=name)
    try:
        ours = lab.generate(TEXT, max_new_tokens=LONG, speed="fast")
    except Unavailable:
        ours = None
    if ours is None:
        assert static or name in WITHOUT
        with pytest.raises(Unavailable, match="speed='plain'"):
            lab.generate(TEXT, max_new_tokens=LONG, speed="fast")
        return
    same(ours, lab.generate(TEXT, max_new_tokens=LONG))


def test_a_seed_draws_the_same_tokens(tiny_lab: lk.Lab) -> None:
    settings: Any = {"chat": False, "max_new_tokens": LONG, "temperature": 1.3, "top_p": 0.9, "repetition_penalty": 1.2}
    ours = tiny_lab.generate("abc", seed=4, speed="fast", **settings)
    plain = tiny_lab.generate("abc", seed=4, **settings)
    same(ours, plain)
    assert torch.allclose(ours.sampled_logprobs, plain.sampled_logprobs, atol=1e-4)
    assert "".join(tiny_lab.stream("abc", seed=4, speed="fast", **settings)) == plain.text


def test_what_ran_is_told(tiny_lab: lk.Lab) -> None:
    assert tiny_lab.generate("abc", speed="fast").engine == "transformers (float32, labkit's loop)"
    assert tiny_lab.generate("abc").engine == "transformers (float32)"
    both = tiny_lab.generate(["abc", "cab ab"], chat=False, max_new_tokens=4, speed="fast")  # lists share a pass
    assert [gen.ids for gen in both] == [
        gen.ids for gen in tiny_lab.generate(["abc", "cab ab"], chat=False, max_new_tokens=4)
    ]


def test_stop_strings_the_context_and_a_stop_from_outside(tiny_lab: lk.Lab) -> None:
    plain = tiny_lab.generate("abc", chat=False, max_new_tokens=LONG)
    stop = plain.text[6:8]
    same(
        tiny_lab.generate("abc", chat=False, max_new_tokens=LONG, stop=stop, speed="fast"),
        tiny_lab.generate("abc", chat=False, max_new_tokens=LONG, stop=stop),
    )
    prompt = [5 + i % 40 for i in range(fuzz.CONTEXT - 5)]
    gen = tiny_lab.generate(prompt, max_new_tokens=50, speed="fast")
    assert (gen.finish_reason, len(gen.ids)) == ("context", 5)
    event = threading.Event()

    def third(gen: lk.Generation) -> None:
        if len(gen.ids) == 3:
            event.set()

    gen = tiny_lab.generate("abc", chat=False, max_new_tokens=LONG, on_token=third, stop_event=event, speed="fast")
    assert (len(gen.ids), gen.finish_reason) == (3, "stopped")


@pytest.mark.parametrize("static", [False, True])
def test_edits_hold(tiny_lab: lk.Lab, static: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    stub = Compiler()
    monkeypatch.setattr(torch, "compile", stub)
    monkeypatch.setattr(fast, "compiles", lambda model: static)
    free = tiny_lab.generate("abc", chat=False, max_new_tokens=LONG, speed="fast")
    before = stub.calls
    with tiny_lab.edit(lk.patch("residual[1] @ 1,-1", lambda x: x + torch.linspace(-3, 3, 32)), lk.ablate_head(0, 1)):
        plain = tiny_lab.generate("abc", chat=False, max_new_tokens=LONG)
        ours = tiny_lab.generate("abc", chat=False, max_new_tokens=LONG, speed="fast")
        assert stub.calls == before, "what was compiled sees no edit"
    same(ours, plain)
    assert ours.ids != free.ids
    same(tiny_lab.generate("abc", chat=False, max_new_tokens=LONG, speed="fast"), free)


def test_the_step_is_compiled_once_and_kept(tiny_lab: lk.Lab, compiler: Compiler) -> None:
    plain = tiny_lab.generate("abc", chat=False, max_new_tokens=LONG)
    first = tiny_lab.generate("abc", chat=False, max_new_tokens=LONG, speed="fast")
    same(first, plain)
    assert first.engine == "transformers (float32, compiled step)"
    assert (compiler.compiled, compiler.calls) == (1, LONG - 1)  # the first token is the prompt's own
    (kept,) = running._STEPPERS[tiny_lab.model].values()
    cache = kept._cache.layers[0].keys
    again = tiny_lab.generate("abc", chat=False, max_new_tokens=LONG, speed="fast")
    same(again, plain)
    same(
        tiny_lab.generate("cab", chat=False, max_new_tokens=7, speed="fast"),
        tiny_lab.generate("cab", chat=False, max_new_tokens=7),
    )
    assert compiler.compiled == 1
    assert kept._cache.layers[0].keys is cache, "the graph reads this very memory"
    tiny_lab.model.double()
    tiny_lab.generate("abc", chat=False, max_new_tokens=2, speed="fast")
    assert compiler.compiled == 2, "other numbers are another step"


def test_longer_texts_take_longer_caches_in_doubling_steps(
    tiny_lab: lk.Lab, compiler: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "SHORTEST_CACHE", 16)
    for new in (4, 9, 12, 24, 26, 90):
        tiny_lab.generate("abc", chat=False, max_new_tokens=new, speed="fast")
    assert [size for size, *_ in running._STEPPERS[tiny_lab.model]] == [16, 32, fuzz.CONTEXT]
    assert compiler.compiled == 3


def test_what_was_compiled_goes_with_the_lab(tiny_lab: lk.Lab, compiler: Compiler) -> None:
    tiny_lab.generate("abc", chat=False, max_new_tokens=3, speed="fast")
    (kept,) = running._STEPPERS[tiny_lab.model].values()
    found, model = weakref.ref(kept), weakref.ref(tiny_lab.model)
    del kept
    tiny_lab.close()
    gc.collect()
    assert found() is None
    assert model() is None


def test_a_hook_of_a_users_own_is_seen(tiny_lab: lk.Lab, compiler: Compiler) -> None:
    tiny_lab.generate("abc", chat=False, max_new_tokens=3, speed="fast")
    seen: list[int] = []
    handle = tiny_lab.model.model.layers[0].register_forward_hook(lambda *given: seen.append(1))
    tiny_lab.generate("abc", chat=False, max_new_tokens=3, speed="fast")
    handle.remove()
    assert len(seen) == 3


def test_torch_compiles_the_step_for_real(tiny_lab: lk.Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """On CUDA with inductor; here torch's own tracer alone, which takes the step as one graph and runs it."""
    monkeypatch.setattr(running, "COMPILED", {"backend": "eager"})
    monkeypatch.setattr(fast, "compiles", lambda model: True)
    plain = tiny_lab.generate("abc", chat=False, max_new_tokens=LONG)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    for _ in range(2):
        same(tiny_lab.generate("abc", chat=False, max_new_tokens=LONG, speed="fast"), plain)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


@pytest.mark.parametrize("settings", [{"speed": "fast"}, {"speculation": "prompt_lookup"}], ids=str)
def test_as_many_tokens_as_a_user_likes(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model without a limit may be allowed more tokens than memory has place for: place is made as they come."""
    lab = lk.Lab(build(FAMILIES["bloom"]), Tokens(), name="bloom")
    assert lab.context is None
    monkeypatch.setattr(loop, "BEGUN", 4)
    plain = lab.generate([5, 17, 33, 5, 17], max_new_tokens=20)
    stop = threading.Event()

    def enough(gen: lk.Generation) -> None:
        if len(gen) == 20:
            stop.set()

    gen = lab.generate(
        [5, 17, 33, 5, 17], max_new_tokens=10**15, on_token=enough, stop_event=stop, alternatives=2, **settings
    )
    assert gen.ids[:20] == plain.ids
    assert gen.finish_reason == "stopped"
