"""Pieces of a stream against the whole text; stop strings against a search by hand and transformers' own criterion."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import fuzz
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from tokenizers_of_kinds import KINDS, PIECES

import labkit as lk
from labkit.generation.pieces import Pieces, text_of

FACE, FAMILY = "😀", "👨‍👩‍👧‍👦"
LOST = "\ufffd"


@functools.cache
def tokenizer_of(kind: str) -> Any:
    return KINDS[kind]()


def ids_of(kind: str, text: str) -> list[int]:
    return list(tokenizer_of(kind)(text, add_special_tokens=False).input_ids)


def decoded(kind: str, ids: Sequence[int]) -> str:
    return tokenizer_of(kind).decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def streamed(kind: str, ids: Sequence[int], stop: Sequence[str] = ()) -> tuple[list[str], Pieces]:
    pieces = Pieces(tokenizer_of(kind), stop)
    said = []
    for id_ in ids:
        said.append(pieces.add(id_))
        if pieces.stopped:
            break
    return [*said, pieces.end()], pieces


def some_ids(kind: str) -> st.SearchStrategy[list[int]]:
    """Any tokens in any order: most of them make no sense, and many bytes make no character."""
    size = len(tokenizer_of(kind))
    few = st.integers(0, min(size - 1, 12))
    return st.lists(st.one_of(st.integers(0, size - 1), few), max_size=90)


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=120)
@given(data=st.data())
def test_the_pieces_are_the_text_of_any_tokens(kind: str, data: st.DataObject) -> None:
    ids = data.draw(some_ids(kind))
    pieces, _ = streamed(kind, ids)
    text = text_of(tokenizer_of(kind), ids)
    assert "".join(pieces) == text
    whole = decoded(kind, ids)
    if LOST not in whole or kind not in ("llama", "gemma"):
        assert text == whole, "what the tokenizer makes of all the ids at once"


@pytest.mark.parametrize("kind", ["llama", "gemma", "byte_level"])
@settings(max_examples=150)
@given(data=st.binary(max_size=120))
@example((FACE * 30).encode())
@example(b"\xf0\x9f" * 40)
@example(FACE.encode() + b"\x80" + FACE.encode())
def test_random_bytes(kind: str, data: bytes) -> None:
    """Each whole character is whole, whatever stands beside it; each byte of none is a replacement sign."""
    if kind == "byte_level":
        from labkit.models.tokens import byte_alphabet

        letters = {byte: letter for letter, byte in byte_alphabet().items()}
        ids = [tokenizer_of(kind).convert_tokens_to_ids(letters[byte]) for byte in data]
        expected = data.decode("utf-8", "replace")
    else:
        ids = [tokenizer_of(kind).convert_tokens_to_ids(f"<0x{byte:02X}>") for byte in data]
        expected = data.decode("utf-8", "surrogateescape")
        expected = "".join(LOST if "\udc80" <= c <= "\udcff" else c for c in expected)
        expected = expected.removeprefix(" ") if kind == "llama" else expected
    pieces, _ = streamed(kind, ids)
    assert "".join(pieces) == text_of(tokenizer_of(kind), ids) == expected


@pytest.mark.parametrize("kind", ["llama", "gemma", "byte_level"])
@settings(max_examples=120)
@given(text=st.text(max_size=60), cut=st.integers(0, 400))
@example(FAMILY * 5, 400)
@example("天地玄黄宇宙洪荒" * 6, 400)
@example("  two spaces, \n a line", 400)
@example(LOST * 5 + "a", 400)
def test_texts_come_out_as_they_went_in_and_at_once(kind: str, text: str, cut: int) -> None:
    """Cut anywhere: every whole character before the cut comes out, as soon as it is whole."""
    ids = ids_of(kind, text)[:cut]
    assume(tokenizer_of(kind).unk_token_id not in ids)
    pieces = Pieces(tokenizer_of(kind))
    for n, id_ in enumerate(ids, 1):
        pieces.add(id_)
        so_far = text_of(tokenizer_of(kind), ids[:n])
        assert so_far.startswith(pieces.given)
        assert pieces.given.startswith(so_far.rstrip(LOST))
    pieces.end()
    assert text.startswith(pieces.given.rstrip(LOST))
    if cut >= len(ids_of(kind, text)):
        assert pieces.given == text


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_said_is_decoded_a_few_tokens_at_a_time(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A text of thousands of tokens costs no more for each than a short one."""
    tokenizer = KINDS[kind]()
    ids = [id_ for id_ in range(4, len(tokenizer)) if LOST not in tokenizer.decode([id_])][:8] * 300
    lengths = []
    plain = type(tokenizer).decode

    def decode(self: Any, ids: Any, **options: Any) -> Any:
        lengths.append(len(ids))
        return plain(self, ids, **options)

    monkeypatch.setattr(type(tokenizer), "decode", decode)
    pieces = Pieces(tokenizer)
    said = [pieces.add(id_) for id_ in ids]
    assert max(lengths) < 80
    monkeypatch.undo()
    assert "".join([*said, pieces.end()]) == text_of(tokenizer, ids) == decoded(kind, ids)


# stop strings ---------------------------------------------------------------------------------------------------------


def with_names(kind: str, ids: Sequence[int], lead: str = "") -> str:
    """The text with the special tokens' names in it, token by token. lead: put before the first that is no special."""
    tokenizer = tokenizer_of(kind)
    special = {tokenizer.convert_tokens_to_ids(t): t for t in tokenizer.all_special_tokens}
    text, kept = "", []
    for id_ in ids:
        if id_ in special:
            text += special[id_]
        else:
            before = text_of(tokenizer, kept)
            text += "" if kept else lead
            kept.append(id_)
            text += text_of(tokenizer, kept)[len(before) :]
    return text


def test_a_stop_string_goes_on_behind_a_special_token_with_and_without_the_space_taken_off() -> None:
    for stop in ("<s>h", "<s> h"):
        assert streamed("llama", [1, 260], [stop])[1].stopped


@pytest.mark.parametrize("kind", ["gemma", "llama", "byte_level", "words"])
@settings(max_examples=150)
@given(data=st.data())
def test_a_stop_string_stops_at_the_token_that_completes_it(kind: str, data: st.DataObject) -> None:
    """Against a search of the whole text at every length, with and without the special tokens' names."""
    tokenizer = tokenizer_of(kind)
    usable = [i for i in range(len(tokenizer)) if LOST not in tokenizer.decode([i])]
    ids = data.draw(st.lists(st.sampled_from([*usable[:12], *usable[-15:]]), min_size=1, max_size=40))
    named = with_names(kind, ids)
    assume(len(named) > 1)
    start = data.draw(st.integers(0, len(named) - 1))
    stops = [named[start : start + data.draw(st.integers(1, 12))], "never in there"]
    pieces, watched = streamed(kind, ids, stops)
    first_name = tokenizer.convert_ids_to_tokens(next((i for i in ids if i not in tokenizer.all_special_ids), 0))
    lead = " " if kind == "llama" and first_name.startswith("▁") else ""  # the space that its decoder takes off
    first = next(
        n
        for n in range(1, len(ids) + 1)
        if any(
            s in text_of(tokenizer, ids[:n]) or s in with_names(kind, ids[:n]) or s in with_names(kind, ids[:n], lead)
            for s in stops
        )
    )
    assert watched.stopped
    assert watched.length == first
    text = "".join(pieces)
    assert text_of(tokenizer, ids[:first]).startswith(text)
    assert not any(s in text for s in stops)


@pytest.mark.parametrize("kind", ["gemma", "byte_level"])
@pytest.mark.parametrize(
    "stops",
    [["<|im_end|>"], ["a<|im_end|>"], ["<|im_end|>b"], ["b<|im_end|>a"], ["never", "<|im_end|>"], ["ab", "ba<"]],
)
@settings(max_examples=25)
@given(letters=st.lists(st.sampled_from(["a", "b", "<|im_end|>", " "]), min_size=1, max_size=12))
def test_it_stops_where_transformers_stop_strings_stop(kind: str, stops: list[str], letters: list[str]) -> None:
    from transformers.generation.stopping_criteria import StopStringCriteria

    tokenizer = tokenizer_of(kind)
    ids = [id_ for letter in letters for id_ in ids_of(kind, letter)]
    criterion = StopStringCriteria(tokenizer=tokenizer, stop_strings=stops)
    theirs = [n for n in range(1, len(ids) + 1) if bool(criterion(torch.tensor([ids[:n]]), None)[0])]
    _, watched = streamed(kind, ids, stops)
    spans = any(s in text_of(tokenizer, ids) for s in stops)  # letters apart in the tokens, side by side in the text
    if theirs:
        assert watched.stopped
        assert watched.length == theirs[0] or (spans and watched.length < theirs[0])
    else:
        assert not watched.stopped or spans


# in a Lab -------------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def saying(lab: lk.Lab, ids: Sequence[int]) -> Iterator[None]:
    """While inside, the model says these ids one after the other, whatever it is given."""
    left = list(ids)

    def force(logits: torch.Tensor) -> torch.Tensor:
        forced = torch.full_like(logits, -30.0)
        forced[-1, left.pop(0) if len(left) > 1 else left[0]] = 30.0
        return forced

    with lab.edit(lk.patch("logits", force)):
        yield


def lab_of(kind: str) -> lk.Lab:
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = KINDS[kind]()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=256,
        eos_token_id=tokenizer.eos_token_id,
    )
    return lk.Lab(LlamaForCausalLM(config).eval(), tokenizer, name=kind)


@pytest.mark.parametrize("kind", ["llama", "gemma", "byte_level"])
def test_streams_records_and_running_records_agree(kind: str) -> None:
    lab = lab_of(kind)
    text = f"hi {FAMILY} 世界 {FACE * 12} there"
    ids = ids_of(kind, text)
    running: list[str] = []

    def note(gen: lk.Generation) -> None:
        if gen.finish_reason == "running":
            running.append(gen.text)

    for n in (len(ids), len(ids) - 7):  # whole, and ended inside of it
        with saying(lab, [*ids[:n], lab.tokenizer.eos_token_id]):
            gen = lab.generate([5], max_new_tokens=n, on_token=note)
        with saying(lab, [*ids[:n], lab.tokenizer.eos_token_id]):
            assert "".join(lab.stream([5], max_new_tokens=n)) == gen.text
        assert gen.text == text_of(lab.tokenizer, ids[:n])
        assert text.startswith(gen.text.rstrip(LOST))
        assert all(LOST not in so_far and text.startswith(so_far) for so_far in running)


@pytest.mark.parametrize("kind", ["llama", "byte_level"])
@pytest.mark.parametrize("stop", ["<|im_end|>", ["never", "b<|im_end|>"], ["<|im_end|>b"]])
def test_special_stop_strings_in_records_and_streams(kind: str, stop: str | list[str]) -> None:
    lab = lab_of(kind)
    lab.model.config.eos_token_id = lab.model.generation_config.eos_token_id = None
    said = lab.tokenizer.convert_tokens_to_ids(["a", "b", "<|im_end|>", "b", "a"])
    text = "a" if stop == ["never", "b<|im_end|>"] else "ab"
    with saying(lab, said):
        gen = lab.generate([5], max_new_tokens=9, stop=stop)
    assert (gen.finish_reason, gen.text) == ("stop", text)
    assert gen.ids == said[: 4 if stop == ["<|im_end|>b"] else 3]
    with saying(lab, said):
        assert "".join(lab.stream([5], max_new_tokens=9, stop=stop)) == text


def test_rows_of_a_list_stop_by_themselves() -> None:
    """A letter that several rows come to is made a special token, and the stop string."""
    lab = lab_of("byte_level")
    lab.model.config.eos_token_id = lab.model.generation_config.eos_token_id = None
    prompts = [[5 + row] for row in range(12)]
    free = lab.generate(prompts, max_new_tokens=12)
    said = {id_: lab.tokenizer.decode([id_]) for gen in free for id_ in gen.ids[2:]}
    letter, stop = next((id_, text) for id_, text in said.items() if text.isalpha() and text.isascii())
    lab.tokenizer.add_special_tokens({"additional_special_tokens": [stop]})
    rows = lab.generate(prompts, max_new_tokens=12, stop=["never", stop])
    assert {row.finish_reason for row in rows} == {"stop", "length"}
    for row, whole in zip(rows, free, strict=True):
        alone = lab.generate(row.prompt_ids, max_new_tokens=12, stop=["never", stop])
        assert (row.ids, row.text, row.finish_reason) == (alone.ids, alone.text, alone.finish_reason)
        met = letter in whole.ids
        assert row.ids == (whole.ids[: whole.ids.index(letter) + 1] if met else whole.ids)
        assert row.finish_reason == ("stop" if met else "length")


def test_the_end_token_may_be_the_stop_string() -> None:
    lab = lab_of("byte_level")
    name = lab.tokenizer.eos_token
    said = [*ids_of("byte_level", "ab"), lab.tokenizer.eos_token_id]
    for stop, reason in ((name, "stop"), (f"b{name}", "stop"), (None, "end"), ("never", "end")):
        with saying(lab, said):
            gen = lab.generate([5], max_new_tokens=9, stop=stop)
        assert (gen.finish_reason, gen.text) == (reason, "a" if stop == f"b{name}" else "ab")


def test_an_end_token_that_is_no_special_one_is_no_part_of_the_text() -> None:
    lab = lab_of("byte_level")
    letter = ids_of("byte_level", "b")[0]
    lab.model.generation_config.eos_token_id = letter
    said = [*ids_of("byte_level", "a"), letter]
    with saying(lab, said):
        gen = lab.generate([5], max_new_tokens=9)
    assert (gen.finish_reason, gen.ids, gen.text) == ("end", said, "a")
    with saying(lab, said):
        assert "".join(lab.stream([5], max_new_tokens=9)) == "a"


def test_stop_strings_see_the_space_a_decoder_takes_off() -> None:
    lab = lab_of("llama")
    ids = [lab.tokenizer.convert_tokens_to_ids(piece) for piece in ("▁hi", "!", "▁there", "a")]
    for stop, text, n in ((" hi", "", 1), ("hi!", "", 2), (" there", "hi!", 3)):
        with saying(lab, ids):
            gen = lab.generate([5], max_new_tokens=4, stop=stop)
        assert (gen.finish_reason, gen.text, len(gen.ids)) == ("stop", text, n)
    assert PIECES[0] == "▁hi"


@pytest.mark.real_model
def test_the_default_models_tokenizer(default_lab: lk.Lab) -> None:
    tokenizer = default_lab.tokenizer
    written = f"天地玄黄 {FAMILY}{FACE}, naïve <|im_end|> {LOST} end"
    ids = tokenizer(written).input_ids
    pieces = Pieces(tokenizer)
    assert "".join([*(pieces.add(id_) for id_ in ids), pieces.end()]) == tokenizer.decode(ids, skip_special_tokens=True)
    assert fuzz.SPECIAL_TOKENS[2] in tokenizer.all_special_tokens
