"""Decoding against transformers' own generate and against the logits computed in one pass."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from typing import Any

import fuzz
import pytest
import torch

import labkit as lk
from labkit.errors import BadInput, Unavailable
from labkit.generation.decode import likeliest

LONG = 24


def test_greedy_equals_transformers(tiny_lab: lk.Lab) -> None:
    gen = tiny_lab.generate("abc", chat=False, max_new_tokens=LONG)
    inputs = tiny_lab.tokenizer("abc", return_tensors="pt")
    expected = tiny_lab.model.generate(**inputs, max_new_tokens=LONG, do_sample=False)[0, inputs.input_ids.shape[1] :]
    assert gen.ids == expected.tolist()
    assert gen.prompt_ids == inputs.input_ids[0].tolist()
    assert gen.sampled_logprobs.tolist() == [0.0] * len(gen.ids)


def test_logprobs_are_the_models_own(tiny_lab: lk.Lab) -> None:
    """Against one pass over the whole text, in float64, whatever filters were on."""
    gen = tiny_lab.generate(
        "abc", chat=False, max_new_tokens=LONG, temperature=1.7, top_k=20, top_p=0.9, repetition_penalty=1.3, seed=3
    )
    own, _ = _one_pass(tiny_lab, gen)
    chosen = own[torch.arange(len(gen.ids)), torch.tensor(gen.ids)]
    assert torch.allclose(gen.logprobs.double(), chosen, atol=1e-5)
    assert torch.allclose(gen.entropies.double(), -(own.exp() * own).sum(-1), atol=1e-5)
    assert gen.ranks.tolist() == (own > chosen[:, None] + 1e-9).sum(-1).tolist()
    for position, alternatives in enumerate(gen.top(5)):
        best = own[position].topk(5)
        assert [a.id for a in alternatives] == best.indices.tolist()
        assert [a.logprob for a in alternatives] == pytest.approx(best.values.tolist(), abs=1e-5)


def test_sampled_logprobs_are_those_after_the_filters(tiny_lab: lk.Lab) -> None:
    """Written out by hand: temperature, top-k, then top-p, renormalised."""
    gen = tiny_lab.generate("abc", chat=False, max_new_tokens=LONG, temperature=0.6, top_k=12, top_p=0.8, seed=5)
    _, logits = _one_pass(tiny_lab, gen)
    for position, id_ in enumerate(gen.ids):
        scores = logits[position] / 0.6
        scores[scores < scores.topk(12).values[-1]] = -torch.inf
        p, order = scores.softmax(-1).sort(descending=True)
        kept = order[: int((p.cumsum(-1) < 0.8).sum()) + 1]
        allowed = torch.full_like(scores, -torch.inf)
        allowed[kept] = scores[kept]
        assert allowed.log_softmax(-1)[id_].item() == pytest.approx(gen.sampled_logprobs[position].item(), abs=1e-4)


def _one_pass(lab: lk.Lab, gen: lk.Generation) -> tuple[torch.Tensor, torch.Tensor]:
    """(log-probabilities, logits) at the generated positions, float64, from a single forward over the whole text."""
    model = fuzz.tiny_model().double().eval()
    with torch.no_grad():
        logits = model(torch.tensor([gen.prompt_ids + gen.ids])).logits[0, len(gen.prompt_ids) - 1 : -1]
    return logits.log_softmax(-1), logits


@pytest.mark.parametrize("width", [311, 5120, 49_152, 49_999])
@pytest.mark.parametrize("count", [1, 2, 20])
def test_the_likeliest_are_found_by_blocks(width: int, count: int) -> None:
    drawn = torch.randn(3, width, generator=torch.Generator().manual_seed(width + count))
    drawn[1] = drawn[1].sort().values  # the best ones beside each other, at the end
    drawn[2, 100:] = -torch.inf
    found, expected = likeliest(drawn, count), drawn.topk(count, dim=-1)
    assert torch.equal(found.logprobs, expected.values)
    assert torch.equal(found.ids, expected.indices)


def test_sampling_follows_the_distribution(tiny_lab: lk.Lab) -> None:
    """2,000 draws of one token against its exact probabilities (chi-squared, 99.9 % point)."""
    draws = [
        tiny_lab.generate(["abc"] * 500, chat=False, max_new_tokens=1, temperature=2.0, top_k=4, seed=s)
        for s in range(4)
    ]
    ids = [gen.ids[0] for batch in draws for gen in batch]
    logits = tiny_lab.next_logits("abc", chat=False)
    best = logits.topk(4)
    p = (best.values / 2.0).softmax(-1)
    counts = torch.tensor([ids.count(i) for i in best.indices.tolist()]).double()
    assert counts.sum() == len(ids)
    expected = p.double() * len(ids)
    assert ((counts - expected) ** 2 / expected).sum() < 16.27


def test_seeds_repeat_and_leave_the_random_state_alone(tiny_lab: lk.Lab) -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state()
    first = tiny_lab.generate("abc", chat=False, temperature=1.5, seed=7)
    assert torch.equal(torch.get_rng_state(), before)
    assert tiny_lab.generate("abc", chat=False, temperature=1.5, seed=7).ids == first.ids
    assert tiny_lab.generate("abc", chat=False, temperature=1.5, seed=8).ids != first.ids
    unseeded = tiny_lab.generate("abc", chat=False, temperature=1.5)
    assert tiny_lab.generate("abc", chat=False, temperature=1.5, seed=unseeded.sampling.seed).ids == unseeded.ids


def test_top_k_one_is_greedy(tiny_lab: lk.Lab) -> None:
    greedy = tiny_lab.generate("abc", chat=False)
    assert tiny_lab.generate("abc", chat=False, temperature=2.0, top_k=1, seed=0).ids == greedy.ids
    assert tiny_lab.generate("abc", chat=False, temperature=2.0, min_p=1.0, seed=0).ids == greedy.ids


def test_the_models_own_sampling_defaults_are_not_used(tiny_lab: lk.Lab) -> None:
    plain = tiny_lab.generate("abc", chat=False, temperature=1.5, seed=2)
    tiny_lab.model.generation_config.update(
        do_sample=True,
        temperature=0.01,
        top_k=1,
        min_p=0.9,
        repetition_penalty=9.0,
        suppress_tokens=plain.ids[:5],
        min_new_tokens=3,
        bad_words_ids=[[plain.ids[2]]],
        sequence_bias=[[[plain.ids[3]], -9.0]],
        guidance_scale=2.0,
        max_time=1e-9,
        stop_strings=["a"],
        cache_implementation="quantized",
    )
    defaults = tiny_lab.model.generation_config
    again = tiny_lab.generate("abc", chat=False, temperature=1.5, seed=2)
    assert again.ids == plain.ids
    assert torch.equal(again.logprobs, plain.logprobs)
    assert tiny_lab.model.generation_config is defaults


@pytest.mark.parametrize("penalty", [None, 1.5])
def test_a_list_comes_back_as_if_run_alone(tiny_lab: lk.Lab, penalty: float | None) -> None:
    texts = ["abc", "a", "hello there, a longer text", "zz"]
    # with the padding token a likely one, a penalty that counted padding as text would show
    tiny_lab.tokenizer.pad_token_id = tiny_lab.generate("abc", chat=False, max_new_tokens=1).ids[0]
    together = tiny_lab.generate(texts, chat=False, max_new_tokens=LONG, repetition_penalty=penalty)
    for text, gen in zip(texts, together, strict=True):
        alone = tiny_lab.generate(text, chat=False, max_new_tokens=LONG, repetition_penalty=penalty)
        assert gen.ids == alone.ids
        assert gen.prompt_ids == alone.prompt_ids
        assert torch.allclose(gen.logprobs, alone.logprobs, atol=1e-5)


def test_each_text_of_a_list_has_its_own_room(tiny_lab: lk.Lab) -> None:
    context = tiny_lab.context
    assert context is not None
    long = tiny_lab.tokenizer.decode(tiny_lab.tokenizer("a b " * context).input_ids[: context - 8])
    short, full = tiny_lab.generate(["abc", long], chat=False, max_new_tokens=20)
    assert (short.finish_reason, len(short.ids)) == ("length", 20)
    assert full.finish_reason == "context"
    assert len(full.prompt_ids) + len(full.ids) == context


def test_stopping_a_list_leaves_out_the_padding(tiny_lab: lk.Lab) -> None:
    end = _end_after(tiny_lab, 2)
    event = threading.Event()

    def on_token(gen: lk.Generation) -> None:
        assert gen.finish_reason in ("running", "end")
        if len(gen.ids) == 8:
            event.set()

    rows = tiny_lab.generate(["abc", "hello"], chat=False, max_new_tokens=LONG, on_token=on_token, stop_event=event)
    ended, stopped = rows
    assert (ended.finish_reason, ended.ids[-1]) == ("end", end)
    assert len(ended.ids) < 8
    assert (stopped.finish_reason, len(stopped.ids)) == ("stopped", 8)


def test_each_thread_gets_its_own_record(tiny_lab: lk.Lab) -> None:
    """While one run ends, another begins: what is returned is not what merely was the latest."""
    wrong = []

    def ask(text: str) -> None:
        for _ in range(15):
            gen = tiny_lab.generate(text, chat=False, max_new_tokens=2)
            if gen.prompt != text:
                wrong.append(gen.prompt)

    threads = [threading.Thread(target=ask, args=(text,)) for text in ("aaa", "bbb", "ccc")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def _end_after(lab: lk.Lab, steps: int) -> int:
    """Make the token that greedy decoding chooses at `steps` the model's end token; returns it."""
    end = lab.generate("abc", chat=False, max_new_tokens=LONG).ids[steps]
    lab.model.generation_config.eos_token_id = end
    return end


def test_the_end_token_ends_the_text_and_is_not_in_it(tiny_lab: lk.Lab) -> None:
    ids = tiny_lab.generate("abc", chat=False, max_new_tokens=LONG).ids
    end = _end_after(tiny_lab, 5)
    gen = tiny_lab.generate("abc", chat=False, max_new_tokens=LONG)
    assert gen.finish_reason == "end"
    assert gen.ids == ids[: ids.index(end) + 1]
    rows = tiny_lab.generate(["abc", "hello"], chat=False, max_new_tokens=LONG)
    assert rows[0].ids == gen.ids, "what follows the end of a row in a batch is padding"


def test_stop_strings_end_the_text_before_them(tiny_lab: lk.Lab) -> None:
    full = tiny_lab.generate("abc", chat=False, max_new_tokens=LONG)
    stop = full.text[6:9]
    gen = tiny_lab.generate("abc", chat=False, max_new_tokens=LONG, stop=stop)
    assert gen.finish_reason == "stop"
    assert gen.text == full.text[: full.text.index(stop)]
    assert full.ids[: len(gen.ids)] == gen.ids
    assert "".join(tiny_lab.stream("abc", chat=False, max_new_tokens=LONG, stop=stop)) == gen.text
    unstopped = tiny_lab.generate("abc", chat=False, max_new_tokens=LONG, stop=["never in there \x00"])
    assert unstopped.ids == full.ids


def test_the_stream_is_the_text(tiny_lab: lk.Lab) -> None:
    gen = tiny_lab.generate("abc", chat=False, max_new_tokens=LONG)
    pieces = list(tiny_lab.stream("abc", chat=False, max_new_tokens=LONG))
    assert "".join(pieces) == gen.text
    assert tiny_lab.last_generation.ids == gen.ids


@pytest.mark.real_model
def test_streamed_characters_are_whole(default_lab: lk.Lab) -> None:
    """Characters that take several tokens are handed out when they are whole, and nothing is lost at the end."""
    from labkit.generation.pieces import Pieces

    written = "世界 🌍🌊, naïve " * 20
    ids = default_lab.tokenizer(written).input_ids
    text = Pieces(default_lab.tokenizer, ())
    pieces = [text.add(id_) for id_ in ids]
    assert "" in pieces, "no character took several tokens: the test tests nothing"
    assert all("�" not in piece for piece in pieces)
    assert "".join([*pieces, text.end()]) == written


def test_streaming_keeps_the_spaces_of_decoders_that_drop_a_texts_first() -> None:
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    from labkit.generation.pieces import Pieces

    inner = Tokenizer(models.BPE({"▁": 0, "a": 1, "▁b": 2}, []))
    inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Strip(content=" ", left=1)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner)
    ids = [1, 0, 0, 0, 2] * 30
    text = Pieces(tokenizer, ())
    assert "".join([text.add(i) for i in ids] + [text.end()]) == tokenizer.decode(ids)


def test_a_stream_left_half_way_stops_the_run(tiny_lab: lk.Lab) -> None:
    stream = tiny_lab.stream("abc", chat=False, max_new_tokens=200)
    next(stream)
    next(stream)
    stream.close()
    assert tiny_lab.last_generation.finish_reason == "stopped"
    assert 2 <= len(tiny_lab.last_generation.ids) < 200
    assert not [t for t in threading.enumerate() if t.name == "labkit-stream"]
    assert tiny_lab.generate("abc", chat=False, max_new_tokens=2).ids


def test_an_error_in_the_stream_reaches_the_reader(tiny_lab: lk.Lab) -> None:
    with torch.no_grad():
        tiny_lab.model.lm_head.weight.fill_(float("nan"))
    with pytest.raises(Unavailable, match="NaN at token 1"):
        list(tiny_lab.stream("abc", chat=False))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_nan_scores_are_said(tiny_lab: lk.Lab, temperature: float) -> None:
    with torch.no_grad():
        tiny_lab.model.lm_head.weight[3].fill_(float("nan"))
    with pytest.raises(Unavailable, match=r"NaN.*dtype='float32'"):
        tiny_lab.generate("abc", chat=False, temperature=temperature)


def test_an_interrupt_keeps_what_was_generated(tiny_lab: lk.Lab, capsys: pytest.CaptureFixture[str]) -> None:
    full = tiny_lab.generate("abc", chat=False, max_new_tokens=LONG)
    interrupt = _interrupt_at(4)
    with pytest.raises(KeyboardInterrupt):
        tiny_lab.generate("abc", chat=False, max_new_tokens=LONG, on_token=interrupt)
    kept = tiny_lab.last_generation
    assert kept.finish_reason == "interrupted"
    assert kept.ids == full.ids[:4]
    shown = tiny_lab.generate("abc", chat=False, max_new_tokens=LONG, show=True, on_token=_interrupt_at(4))
    assert shown.ids == full.ids[:4]
    assert "interrupted" in capsys.readouterr().out
    assert tiny_lab.generate("abc", chat=False, max_new_tokens=LONG).ids == full.ids, "the lab stays usable"


def _interrupt_at(tokens: int) -> Callable[[Any], None]:
    def on_token(gen: lk.Generation) -> None:
        if len(gen.ids) == tokens:
            raise KeyboardInterrupt

    return on_token


def test_a_stop_event_ends_the_run(tiny_lab: lk.Lab) -> None:
    event = threading.Event()
    gen = tiny_lab.generate(
        "abc",
        chat=False,
        max_new_tokens=LONG,
        on_token=lambda g: event.set() if len(g.ids) == 3 else None,
        stop_event=event,
    )
    assert (gen.finish_reason, len(gen.ids)) == ("stopped", 3)


def test_threads_take_turns(tiny_lab: lk.Lab) -> None:
    expected = {seed: tiny_lab.generate("abc", chat=False, temperature=1.0, seed=seed).ids for seed in range(4)}
    found: dict[int, list[int]] = {}
    threads = [
        threading.Thread(
            target=lambda s=seed: found.update({s: tiny_lab.generate("abc", chat=False, temperature=1.0, seed=s).ids})
        )
        for seed in expected
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected


# bad input -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prompt", ["", [], [{"role": "user", "content": ""}], [{"role": "user", "content": None}]])
def test_an_empty_prompt(tiny_lab: lk.Lab, prompt: Any) -> None:
    with pytest.raises(BadInput, match="empty"):
        tiny_lab.generate(prompt)


def test_a_prompt_longer_than_the_context(tiny_lab: lk.Lab) -> None:
    context = tiny_lab.context
    assert context is not None
    with pytest.raises(BadInput, match=rf"{context:,}.*shorten the prompt to {context - 1:,}"):
        tiny_lab.generate("a b " * context, chat=False)
    with pytest.raises(BadInput, match="shorten"):
        tiny_lab.stream("a b " * context, chat=False)
    assert tiny_lab.generate("abc", chat=False, max_new_tokens=2).ids


def test_a_full_context_ends_the_text(tiny_lab: lk.Lab) -> None:
    context = tiny_lab.context
    assert context is not None
    ids = tiny_lab.tokenizer("a b " * context).input_ids[: context - 3]
    prompt = tiny_lab.tokenizer.decode(ids)
    room = context - len(tiny_lab.tokenizer(prompt).input_ids)
    gen = tiny_lab.generate(prompt, chat=False, max_new_tokens=50)
    assert (gen.finish_reason, len(gen.ids)) == ("context", room)


@pytest.mark.parametrize(
    "setting",
    [
        {"max_new_tokens": 0},
        {"max_new_tokens": 2.5},
        {"temperature": -1},
        {"temperature": 1e-38},
        {"temperature": 1e9},
        {"chat": "yes"},
        {"stop": 3},
        {"temperature": float("nan")},
        {"top_k": 0},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"min_p": -0.1},
        {"repetition_penalty": 0},
        {"seed": -1},
        {"stop": [""]},
        {"alternatives": 0},
        {"speed": "warp"},
    ],
)
def test_settings_out_of_range_are_named(tiny_lab: lk.Lab, setting: dict[str, Any]) -> None:
    name, value = next(iter(setting.items()))
    said = name if name == "chat" else rf"{name}={re.escape(repr(value))} can't be used.*; give "
    with pytest.raises(BadInput, match=said):
        tiny_lab.generate("abc", **({"chat": False} | setting))


@pytest.mark.parametrize("prompt", [3, None, ["a", 1], [1.5, 2], [True], b"a", {"role": "user", "content": "a"}])
def test_what_is_no_prompt(tiny_lab: lk.Lab, prompt: Any) -> None:
    with pytest.raises(BadInput, match="text or a list of messages"):
        tiny_lab.generate(prompt)


def test_numbers_of_numpy_are_numbers(tiny_lab: lk.Lab) -> None:
    import numpy as np

    gen = tiny_lab.generate("abc", chat=False, temperature=np.float32(1.0), seed=np.int64(3), top_k=np.int32(5))
    assert gen.ids == tiny_lab.generate("abc", chat=False, temperature=1.0, seed=3, top_k=5).ids


def test_more_alternatives_than_were_kept(tiny_lab: lk.Lab) -> None:
    gen = tiny_lab.generate("abc", chat=False, max_new_tokens=2, alternatives=3)
    assert len(gen.top(3)[0]) == 3
    with pytest.raises(BadInput, match="alternatives=4"):
        gen.top(4)
    with pytest.raises(BadInput, match="k=True can't be used; give a whole number from 1"):
        gen.top(True)


# chat ----------------------------------------------------------------------------------------------------------------

TEMPLATE = (
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if add_generation_prompt %}[bot]{% endif %}"
)


def test_the_chat_template_is_used_where_there_is_one(tiny_lab: lk.Lab) -> None:
    tiny_lab.tokenizer.chat_template = None
    with pytest.raises(Unavailable, match="chat=False"):
        tiny_lab.generate("abc", chat=True)
    with pytest.raises(Unavailable, match="chat template"):
        tiny_lab.generate([{"role": "user", "content": "abc"}])
    tiny_lab.tokenizer.chat_template = TEMPLATE
    text = tiny_lab.generate("abc", max_new_tokens=1)
    assert "".join(text.prompt_tokens).endswith("[user]abc[bot]")
    messages = [{"role": "system", "content": "be kind"}, {"role": "user", "content": "abc"}]
    chat = tiny_lab.generate(messages, max_new_tokens=1)
    assert "".join(chat.prompt_tokens).endswith("[system]be kind[user]abc[bot]")
    assert tiny_lab.generate([messages, messages], max_new_tokens=1)[1].prompt_ids == chat.prompt_ids
    assert "[user]" not in "".join(tiny_lab.generate("abc", chat=False, max_new_tokens=1).prompt_tokens)
    with pytest.raises(BadInput, match="'role' and 'content'"):
        tiny_lab.generate([{"text": "abc"}])


@pytest.mark.real_model
def test_the_default_model_answers(default_lab: lk.Lab) -> None:
    gen = default_lab.generate("What is the capital of France? Answer in one word.", max_new_tokens=8)
    assert "Paris" in gen.text
    assert gen.tokens_per_second > 0
