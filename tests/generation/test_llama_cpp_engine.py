"""llama.cpp as the engine of a lab: the same public face, the tokens of the plain path, and what it refuses."""

from __future__ import annotations

import gc
import threading
from pathlib import Path
from typing import Any

import fuzz
import pytest
import torch

import labkit as lk
from labkit.errors import BadInput, Unavailable
from labkit.generation import engines, llama_cpp, loop
from labkit.models import store
from labkit.quantization import contents, quantize, write_gguf

pytest.importorskip("xllamacpp", reason="llama.cpp needs: pip install xllamacpp")

LONG = 24
ENGINE: Any = {"engine": "llama.cpp"}


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama in float32, written as a GGUF file."""
    path = tmp_path_factory.mktemp("engine") / "tiny.gguf"
    write_gguf(lk.Lab(_model(), fuzz.tiny_tokenizer(), name="tiny"), path)
    return path


def _model() -> Any:
    model = fuzz.tiny_model().eval()
    with torch.random.fork_rng():
        torch.manual_seed(1)
        for name, weight in model.named_parameters():  # wide, so that no two tokens are nearly equal
            torch.nn.init.normal_(weight, float("norm" in name), 0.3)
    return model


@pytest.fixture(scope="module")
def lab(file: Path) -> Any:
    lab = lk.load(file, fresh=True)
    yield lab
    lab.close()


def test_greedy_tokens_and_records_are_those_of_the_plain_path(lab: lk.Lab) -> None:
    plain = lab.generate("the cat", chat=False, max_new_tokens=LONG)
    ours = lab.generate("the cat", chat=False, max_new_tokens=LONG, **ENGINE)
    assert ours.ids == plain.ids
    assert ours.prompt_ids == plain.prompt_ids
    assert ours.text == plain.text
    assert ours.finish_reason == plain.finish_reason
    assert torch.allclose(ours.logprobs, plain.logprobs, atol=1e-4)
    assert torch.allclose(ours.entropies, plain.entropies, atol=1e-4)
    assert torch.equal(ours.ranks, plain.ranks)
    assert torch.allclose(ours.top_logprobs, plain.top_logprobs, atol=1e-4)
    assert [[a.id for a in row] for row in ours.top(1)] == [[a.id for a in row] for row in plain.top(1)]
    assert ours.engine == "llama.cpp (tiny.gguf, F32, cache F32)"
    assert plain.engine == "transformers (float32)"
    assert ours.prefill_seconds > 0
    assert ours.tokens_per_second > 0


def test_messages_get_the_template_of_the_lab(lab: lk.Lab) -> None:
    messages = [{"role": "user", "content": "the dog"}]
    plain, ours = (lab.generate(messages, max_new_tokens=4, **how) for how in ({}, ENGINE))
    assert ours.prompt_ids == plain.prompt_ids
    assert ours.ids == plain.ids


@pytest.mark.parametrize(
    "filters",
    [{"top_k": 20}, {"top_p": 0.8}, {"min_p": 0.05}, {"repetition_penalty": 1.4}, {"temperature": 2.5, "top_k": 9}],
)
def test_a_seed_draws_the_tokens_of_the_plain_path(lab: lk.Lab, filters: dict[str, Any]) -> None:
    settings: Any = {"chat": False, "max_new_tokens": LONG, "temperature": 1.0, "seed": 5, **filters}
    before = torch.get_rng_state()
    ours = lab.generate("the cat", **settings, **ENGINE)
    assert torch.equal(torch.get_rng_state(), before)
    plain = lab.generate("the cat", **settings)
    assert ours.ids == plain.ids
    assert torch.allclose(ours.sampled_logprobs, plain.sampled_logprobs, atol=1e-3)
    assert lab.generate("the cat", **settings, **ENGINE).ids == ours.ids
    assert lab.generate("the cat", **{**settings, "seed": 6}, **ENGINE).ids != ours.ids


def test_pieces_join_to_the_text_and_leaving_stops_the_run(lab: lk.Lab) -> None:
    pieces = list(lab.stream("the cat", chat=False, max_new_tokens=LONG, **ENGINE))
    assert len(pieces) > 3
    assert "".join(pieces) == lab.last_generation.text
    for _ in lab.stream("the cat", chat=False, max_new_tokens=100, **ENGINE):
        break
    assert lab.last_generation.finish_reason == "stopped"
    assert len(lab.last_generation.ids) < 100


def test_a_stop_string_across_tokens(lab: lk.Lab) -> None:
    plain = lab.generate("the cat", chat=False, max_new_tokens=LONG)
    whole = next(i for i in range(4, LONG) if len(plain.tokens[i]) and len(plain.tokens[i + 1]))
    stop = plain.tokens[whole][-1:] + plain.tokens[whole + 1][:1]
    ours = lab.generate("the cat", chat=False, max_new_tokens=LONG, stop=stop, **ENGINE)
    assert ours.finish_reason == "stop"
    assert ours.text == plain.text[: plain.text.index(stop)]
    assert "".join(lab.stream("the cat", chat=False, max_new_tokens=LONG, stop=stop, **ENGINE)) == ours.text


def test_a_list_is_written_one_after_the_other(lab: lk.Lab) -> None:
    prompts = ["the cat", "a dog ran up the tree", "where"]
    alone = [lab.generate(p, chat=False, max_new_tokens=6, **ENGINE) for p in prompts]
    together = lab.generate(prompts, chat=False, max_new_tokens=6, **ENGINE)
    assert [gen.ids for gen in together] == [gen.ids for gen in alone]


def test_a_form_holds(lab: lk.Lab) -> None:
    plain, ours = (lab.generate("the cat", chat=False, form="[a-f]{4,9}!", **how) for how in ({}, ENGINE))
    assert ours.text == plain.text
    assert ours.form_complete
    assert ours.forbidden is not None
    assert plain.forbidden is not None
    assert torch.allclose(ours.forbidden, plain.forbidden, atol=1e-4)


def test_what_was_read_before_does_not_count(lab: lk.Lab) -> None:
    first = lab.generate("the cat", chat=False, max_new_tokens=6, **ENGINE)
    lab.generate("where the dog ran", chat=False, max_new_tokens=6, **ENGINE)
    again = lab.generate("the cat", chat=False, max_new_tokens=6, **ENGINE)
    assert torch.equal(again.logprobs, first.logprobs)


def test_the_context_ends_the_text(lab: lk.Lab) -> None:
    prompt = [5 + i % 40 for i in range(fuzz.CONTEXT - 5)]
    plain, ours = (lab.generate(prompt, max_new_tokens=50, **how) for how in ({}, ENGINE))
    assert (ours.finish_reason, len(ours.ids)) == (plain.finish_reason, len(plain.ids)) == ("context", 5)
    with pytest.raises(BadInput, match="context"):
        lab.generate([5] * (fuzz.CONTEXT + 1), **ENGINE)
    with pytest.raises(BadInput, match="no token"):
        lab.generate([10**6], **ENGINE)


def test_a_stop_event_and_an_interrupt_keep_what_was_written(lab: lk.Lab) -> None:
    stop = threading.Event()

    def third(gen: lk.Generation) -> None:
        if len(gen.ids) == 3:
            stop.set()

    gen = lab.generate("the cat", chat=False, max_new_tokens=LONG, on_token=third, stop_event=stop, **ENGINE)
    assert (len(gen.ids), gen.finish_reason) == (3, "stopped")
    before_the_first = lab.generate("the cat", chat=False, max_new_tokens=LONG, stop_event=stop, **ENGINE)
    assert (before_the_first.ids, before_the_first.finish_reason) == ([], "stopped")

    def interrupted(gen: lk.Generation) -> None:
        if len(gen.ids) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        lab.generate("the cat", chat=False, max_new_tokens=LONG, on_token=interrupted, **ENGINE)
    assert (len(lab.last_generation.ids), lab.last_generation.finish_reason) == (2, "interrupted")
    assert lab.generate("the cat", chat=False, max_new_tokens=3, **ENGINE).ids == gen.ids


def test_the_engine_is_kept_and_closed_with_the_lab(file: Path) -> None:
    lab, other = lk.load(file, fresh=True), lk.load(file, fresh=True)
    lab.generate("the cat", chat=False, max_new_tokens=2, **ENGINE)
    other.generate("the cat", chat=False, max_new_tokens=2, **ENGINE)
    kept = engines._SERVED[lab.model].llama
    lab.generate("the dog", chat=False, max_new_tokens=2, **ENGINE)
    assert engines._SERVED[lab.model].llama is kept
    beside = engines._SERVED[other.model].llama
    assert beside is not kept
    lab.close()
    with pytest.raises(Unavailable, match="closed"):
        kept.read([1])
    assert other.generate("the cat", chat=False, max_new_tokens=2, **ENGINE).ids
    del other
    gc.collect()
    with pytest.raises(Unavailable, match="closed"):  # also where a lab is merely let go of
        beside.read([1])


def test_threads_share_an_engine(lab: lk.Lab) -> None:
    expected = lab.generate("the cat", chat=False, max_new_tokens=LONG, **ENGINE).ids
    found: list[list[int]] = []

    def work() -> None:
        found.append(lab.generate("the cat", chat=False, max_new_tokens=LONG, **ENGINE).ids)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 3


def test_a_lab_without_a_file_gets_one_once(cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lab = lk.Lab(_model(), fuzz.tiny_tokenizer(), name="mine")
    plain = lab.generate("the cat", chat=False, max_new_tokens=LONG)
    ours = lab.generate("the cat", chat=False, max_new_tokens=LONG, **ENGINE)
    assert ours.ids == plain.ids
    assert ours.engine == "llama.cpp (model.gguf, F32, cache F32)"
    assert "Writing mine as a GGUF file" in capsys.readouterr().err
    again = lk.Lab(_model(), fuzz.tiny_tokenizer(), name="mine")
    assert again.generate("the cat", chat=False, max_new_tokens=LONG, **ENGINE).ids == plain.ids
    assert "Writing" not in capsys.readouterr().err
    with torch.no_grad():
        again.model.lm_head.weight.mul_(-1)  # another model now: a file of its own, and the old one goes
    changed = again.generate("the cat", chat=False, max_new_tokens=LONG)
    assert again.generate("the cat", chat=False, max_new_tokens=LONG, **ENGINE).ids == changed.ids != plain.ids
    assert len(list(store.models_dir().glob("gguf-*"))) == 1
    half = lk.Lab(_model().half(), fuzz.tiny_tokenizer(), name="half")
    assert (
        half.generate("the cat", chat=False, max_new_tokens=2, **ENGINE).engine
        == "llama.cpp (model.gguf, F16, cache F16)"
    )


def test_a_changed_model_does_not_answer_from_its_old_file(file: Path, cache: Path) -> None:
    lab = lk.load(file, fresh=True)
    with torch.no_grad():
        lab.model.lm_head.weight.mul_(-1)
    plain = lab.generate("the cat", chat=False, max_new_tokens=LONG)
    ours = lab.generate("the cat", chat=False, max_new_tokens=LONG, **ENGINE)
    assert ours.ids == plain.ids
    assert ours.engine.startswith("llama.cpp (model.gguf")


def test_a_lab_that_labkit_packed_runs_in_its_blocks(cache: Path) -> None:
    small = quantize(lk.Lab(_model(), fuzz.tiny_tokenizer(), name="mine"), "q8_0", progress=False)
    ours = small.generate("the cat", chat=False, max_new_tokens=4, **ENGINE)
    types = set(contents(engines._SERVED[small.model].llama.path).table["type"])
    assert types == {"Q8_0", "F32"}
    assert torch.allclose(
        ours.logprobs, small.generate("the cat", chat=False, max_new_tokens=4).logprobs, atol=0.2
    )  # its activations go to 8 bits


def test_what_would_run_another_model_is_refused(lab: lk.Lab) -> None:
    with lab.edit(lk.ablate_head(0, 1)):
        with pytest.raises(Unavailable, match="edit"):
            lab.generate("the cat", chat=False, **ENGINE)
        with pytest.raises(Unavailable, match="edit"):
            list(lab.stream("the cat", chat=False, **ENGINE))
    with pytest.raises(BadInput, match="speed"):
        lab.generate("the cat", chat=False, speed="fast", **ENGINE)
    with pytest.raises(BadInput, match="engine"):
        lab.generate("the cat", chat=False, engine="vllm")  # type: ignore[call-overload]


def test_a_family_without_gguf_is_refused() -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = fuzz.tiny_tokenizer()
    model = GPT2LMHeadModel(GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=1, n_head=2, n_positions=32))
    with pytest.raises(Unavailable, match=r"gpt2 .* engine='transformers'"):
        lk.Lab(model.eval(), tokenizer, name="gpt").generate("the cat", chat=False, **ENGINE)


def test_an_engine_that_is_not_installed(lab: lk.Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_cpp, "is_there", lambda: False)
    with pytest.raises(Unavailable, match="pip install xllamacpp"):
        lab.generate("the cat", chat=False, **ENGINE)


def test_a_file_that_llama_cpp_does_not_open(tmp_path: Path) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF" + bytes(60))
    with pytest.raises(Unavailable, match=r"does not open bad\.gguf"):
        llama_cpp.LlamaCpp(bad)


def test_settings_of_another_version_are_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:
        def __getattr__(self, name: str) -> Any:
            if name == "llama_context_default_params":
                return llama_cpp._Settings
            return getattr(real, name)

    real = llama_cpp._library()
    monkeypatch.setattr(llama_cpp, "_library", Other)
    with pytest.raises(Unavailable, match="constraints"):
        llama_cpp.LlamaCpp(file)


def test_the_loop_counts_what_it_wrote() -> None:
    class Feed:
        ahead = False

        def start(self, ids: Any, room: int, *, stopped: Any) -> torch.Tensor:
            return torch.tensor([0.0, 1.0, 0.0])

        def read(self, id_: torch.Tensor) -> Any:
            logits = [0.0, 0.0, 1.0] if id_ == 1 else [1.0, 0.0, 0.0]
            return lambda: torch.tensor(logits)

    seen: list[list[int]] = []

    def recorded(ids: torch.Tensor) -> bool:
        seen.append(ids[0].tolist())
        return len(seen) == 3

    from transformers import LogitsProcessorList

    for ahead in (False, True):
        seen.clear()
        Feed.ahead = ahead
        written = loop.write(
            Feed(), [7], 9, sampled=False, processors=LogitsProcessorList(), recorded=recorded, stopped=lambda: False
        )
        assert written == 3
        assert seen == [[7, 1], [7, 1, 2], [7, 1, 2, 0]]
