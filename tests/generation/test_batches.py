"""Several prompts at once: as if each had been run alone, side by side in a stream, and when something goes wrong."""

from __future__ import annotations

import threading
from typing import Any

import fuzz
import pytest
import torch
from families import FAMILIES, Tokens, build

import labkit as lk
from labkit.generation import batches
from labkit.generation.margins import smallest_margin
from labkit.models.hardware import ran_out_of_memory
from labkit.trace.running import embedding_rows

TEXTS = ["abc", "a", "hello there, a longer text", "the cat sat"]
LONG = 16


# side by side ---------------------------------------------------------------------------------------------------------


def test_several_prompts_are_streamed_side_by_side(tiny_lab: lk.Lab) -> None:
    pieces = list(tiny_lab.stream(TEXTS, chat=False, max_new_tokens=LONG))
    made = tiny_lab.last_generation
    alone = [tiny_lab.generate(text, chat=False, max_new_tokens=LONG) for text in TEXTS]
    assert ["".join(piece for row, piece in pieces if row == i) for i in range(len(TEXTS))] == [g.text for g in alone]
    assert [g.ids for g in made] == [g.ids for g in alone]
    first = [row for row, _ in pieces][: 2 * len(TEXTS)]
    assert len(set(first)) > 1, "they come by turns, and not one text after the other"


def test_a_list_of_one_is_a_list(tiny_lab: lk.Lab) -> None:
    pieces = list(tiny_lab.stream(["abc"], chat=False, max_new_tokens=4))
    assert {row for row, _ in pieces} == {0}
    assert len(tiny_lab.last_generation) == 1


def test_a_family_that_is_not_padded_streams_with_the_right_places() -> None:
    lab = lk.Lab(build(FAMILIES["rwkv"]), Tokens(), name="rwkv")
    prompts = ["t5 t17 t33", "t8", "t91 t42"]
    pieces = list(lab.stream(prompts, max_new_tokens=4))
    alone = [lab.generate(prompt, max_new_tokens=4).text for prompt in prompts]
    assert ["".join(piece for row, piece in pieces if row == i) for i in range(3)] == alone


def test_a_stream_of_several_left_half_way_stops_them_all(tiny_lab: lk.Lab) -> None:
    stream = tiny_lab.stream(TEXTS, chat=False, max_new_tokens=200)
    next(stream)
    stream.close()  # type: ignore[attr-defined] # it is a generator
    assert {g.finish_reason for g in tiny_lab.last_generation} == {"stopped"}
    assert not [t for t in threading.enumerate() if t.name == "labkit-stream"]


def test_stop_strings_and_ends_of_each_row(tiny_lab: lk.Lab) -> None:
    full = [tiny_lab.generate(text, chat=False, max_new_tokens=LONG) for text in TEXTS]
    stop = full[0].text[4:6]
    pieces = list(tiny_lab.stream(TEXTS, chat=False, max_new_tokens=LONG, stop=stop))
    for row, gen in enumerate(tiny_lab.last_generation):
        assert "".join(piece for at, piece in pieces if at == row) == gen.text == full[row].text.split(stop)[0]


# bad input ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("texts", [["abc", ""], ["", "abc"], [[5, 6], []]])
def test_an_empty_prompt_among_others(tiny_lab: lk.Lab, texts: Any) -> None:
    for run in (tiny_lab.generate, lambda *a, **k: list(tiny_lab.stream(*a, **k))):
        with pytest.raises(lk.BadInput, match="empty"):
            run(texts, chat=False)
    assert tiny_lab.last_generation is None


@pytest.mark.parametrize(
    ("setting", "value"), [("temperature", -0.5), ("temperature", 1e9), ("top_p", 0), ("top_p", 1.5)]
)
def test_settings_out_of_range_for_a_list(tiny_lab: lk.Lab, setting: str, value: float) -> None:
    with pytest.raises(lk.BadInput, match=f"{setting}={value}"):
        tiny_lab.generate(TEXTS, chat=False, **{setting: value})  # type: ignore[call-overload] # one of several settings


# memory and interrupts ------------------------------------------------------------------------------------------------

OUT_OF_MEMORY = (
    MemoryError(),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
)


@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("speculation", [None, "prompt_lookup"])
def test_what_was_generated_is_kept_when_memory_runs_out(
    tiny_lab: lk.Lab, error: BaseException, speculation: str | None
) -> None:
    """At the sixth pass, deep in the model."""
    options: Any = {"chat": False, "max_new_tokens": LONG, "speculation": speculation}
    full = tiny_lab.generate("abc", **options)
    passes = 0

    def fail(*_details: object) -> None:
        nonlocal passes
        passes += 1
        if passes > 5:
            raise error

    hook = tiny_lab.model.model.layers[1].register_forward_pre_hook(fail)
    try:
        with pytest.raises(lk.NotEnoughMemory, match=r"after \d+ tokens of 1 text at once.*last_generation") as caught:
            tiny_lab.generate("abc", **options)
    finally:
        hook.remove()
    assert caught.value.__cause__ is error
    kept = tiny_lab.last_generation
    assert kept.finish_reason == "stopped"
    assert 5 <= len(kept.ids) < LONG
    assert kept.ids == full.ids[: len(kept.ids)]
    assert tiny_lab.generate("abc", **options).ids == full.ids, "the lab stays usable"


def test_what_torch_says_when_memory_runs_out_is_known() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55)
    assert ran_out_of_memory(caught.value)
    assert not ran_out_of_memory(RuntimeError("shapes cannot be multiplied"))


def test_memory_that_runs_out_on_a_batch_keeps_all_rows(tiny_lab: lk.Lab) -> None:
    full = tiny_lab.generate(TEXTS, chat=False, max_new_tokens=LONG)

    def fail(gen: lk.Generation) -> None:
        if len(gen.ids) == 4:
            raise MemoryError

    with pytest.raises(lk.NotEnoughMemory, match="after 4 tokens of 4 texts at once"):
        tiny_lab.generate(TEXTS, chat=False, max_new_tokens=LONG, on_token=fail)
    assert [g.ids for g in tiny_lab.last_generation] == [g.ids[:4] for g in full]


def test_other_errors_are_themselves(tiny_lab: lk.Lab) -> None:
    def fail(_gen: lk.Generation) -> None:
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match="something else"):
        tiny_lab.generate("abc", chat=False, on_token=fail)


def test_an_interrupt_keeps_what_each_row_has(tiny_lab: lk.Lab) -> None:
    full = tiny_lab.generate(TEXTS, chat=False, max_new_tokens=LONG)

    def interrupt(gen: lk.Generation) -> None:
        if len(gen.ids) == 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tiny_lab.generate(TEXTS, chat=False, max_new_tokens=LONG, on_token=interrupt)
    kept = tiny_lab.last_generation
    assert {g.finish_reason for g in kept} == {"interrupted"}
    assert [g.ids for g in kept] == [g.ids[:6] for g in full]
    assert fuzz.CONTEXT > LONG


# how fast -------------------------------------------------------------------------------------------------------------


def test_throughput_has_a_row_a_batch(tiny_lab: lk.Lab) -> None:
    found = tiny_lab.throughput("abc", batches=[1, 3], max_new_tokens=4, rounds=2)
    table = found.table
    assert table["batch"].tolist() == [1, 3]
    assert bool((table[["tokens_per_second", "first_token_seconds", "seconds"]] > 0).all().all())
    assert table["relative"].iloc[0] == 1.0
    assert (found.prompt_tokens, found.new_tokens, found.rounds) == (len(tiny_lab.tokenizer("abc").input_ids), 4, 2)
    tokens = found.prompt_tokens + 4
    assert table["cache_bytes"].tolist() == [tiny_lab.memory(tokens=tokens, batch=b).kv_cache_bytes for b in (1, 3)]
    assert found.ended == "no more than 3 texts at once were asked for"


def test_throughput_ends_at_the_limit_of_memory(tiny_lab: lk.Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    tokens = len(tiny_lab.tokenizer("abc").input_ids) + 2
    one = (tiny_lab.memory(tokens=tokens, batch=1).kv_cache_bytes or 0) + 4 * 4 * embedding_rows(tiny_lab.model)
    monkeypatch.setattr(batches, "free_bytes", lambda _device: int(2.5 * one / batches.SPARED))
    found = tiny_lab.throughput("abc", max_new_tokens=2, rounds=1)
    assert found.table["batch"].tolist() == [1, 2]
    assert found.ended.startswith("4 texts at once need")
    monkeypatch.setattr(batches, "free_bytes", lambda _device: 0)
    with pytest.raises(lk.NotEnoughMemory, match="Nothing was measured: 1 text at once needs"):
        tiny_lab.throughput("abc", max_new_tokens=2)


def test_throughput_ends_where_memory_ran_out(tiny_lab: lk.Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_module: Any, args: Any, keywords: Any) -> None:
        if keywords["input_ids"].shape[0] > 2:
            raise MemoryError

    tiny_lab.model.register_forward_pre_hook(fail, with_kwargs=True)
    found = tiny_lab.throughput("abc", batches=[1, 2, 4, 8], max_new_tokens=2, rounds=2)
    assert found.table["batch"].tolist() == [1, 2]
    assert found.ended == "memory ran out at 4 texts at once"


@pytest.mark.parametrize("sizes", [[], [2, 1], [1, 1], [0], 3, "12"])
def test_batches_are_rising_whole_numbers(tiny_lab: lk.Lab, sizes: Any) -> None:
    with pytest.raises(lk.BadInput, match="batches="):
        tiny_lab.throughput("abc", batches=sizes)


# the same text --------------------------------------------------------------------------------------------------------


def test_greedy_text_is_one_in_float32(tiny_lab: lk.Lab) -> None:
    found = batches.repeats(tiny_lab, "abc", TEXTS[1:], max_new_tokens=LONG, chat=False)
    assert (found.answers, found.dtype) == (1, "float32")
    assert found.table["run"].tolist() == [
        *("alone", "alone again"),
        *["2 at once"] * 2,
        *["4 at once"] * 4,
        *("beside 1 other", "beside 2 others", "beside 3 others"),
    ]
    assert found.table["at"].isna().all()
    assert found.smallest_margin > 0


def test_what_differs_is_told_with_its_margin(tiny_lab: lk.Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that rounds otherwise in batches: a nudge to its second choice at the fourth token."""
    alone = tiny_lab.generate("abc", chat=False, max_new_tokens=LONG)
    best, second = alone.top(2)[3]
    gap = best.logprob - second.logprob
    width = len(alone.prompt_ids)

    def nudge(_module: Any, _args: Any, keywords: Any, output: Any) -> Any:
        several = keywords["input_ids"].shape[0] > 1
        cache = keywords.get("past_key_values")
        if several and cache is not None and cache.get_seq_length() == width + 3:
            output.logits[:, -1, second.id] += gap + 0.25
        return output

    hook = tiny_lab.model.register_forward_hook(nudge, with_kwargs=True)
    found = batches.repeats(tiny_lab, "abc", ["a"], max_new_tokens=6, chat=False)
    hook.remove()
    assert found.answers >= 2
    row = found.table[found.table["run"] == "2 at once"].iloc[0]
    assert (row["answer"], row["at"], row["token"], row["other_token"]) == (1, 3, best.token, second.token)
    assert row["margin"] == pytest.approx(gap, abs=1e-4)
    assert row["other_margin"] == pytest.approx(0.25, abs=1e-4)
    assert row["disagreement"] > 0.1


def test_the_closest_choice_and_no_others(tiny_lab: lk.Lab) -> None:
    one = tiny_lab.generate("abc", chat=False, max_new_tokens=8)
    expected = min(row[0].logprob - row[1].logprob for row in one.top(2))
    assert smallest_margin(one) == pytest.approx(expected, abs=1e-6)
    with pytest.raises(lk.BadInput, match="alternatives=2"):
        smallest_margin(tiny_lab.generate("abc", chat=False, max_new_tokens=2, alternatives=1))
    with pytest.raises(lk.BadInput, match="beside is empty"):
        batches.repeats(tiny_lab, "abc", [])
