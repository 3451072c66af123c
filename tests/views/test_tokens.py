"""The token view's payload, updates and fallbacks."""

from __future__ import annotations

import base64
import json
import re
from typing import Any

import ipywidgets
import numpy as np
import pytest
import torch
from generations import CHAT_PROMPT, HOSTILE, LONE_SURROGATES, STORY, generation, long, of_tokens, story
from hypothesis import given
from hypothesis import strategies as st
from pictured import words

import labkit.views
from labkit.errors import BadInput
from labkit.generation.record import Sampling
from labkit.views.base import clean
from labkit.views.drawing.scene import LINE, Path
from labkit.views.drawing.svg import svg
from labkit.views.kit.running_text import CONTINUED, OUTSIDE, TEXT, pieces
from labkit.views.tokens_view import TokensView, tokens
from labkit.views.tokens_view.payload import drawn, headline, payload, prompt_text


def state(run, alternatives=5):
    return payload(run, alternatives=alternatives, prompt=True, running=False)


def columns(packed: dict) -> dict[str, np.ndarray]:
    """What the browser reads out of a block, read here on its own."""
    n, k, block = packed["facts"]["n"], packed["facts"]["k"], packed["block"]
    whole = np.frombuffer(block[: 4 * n * (5 + 2 * k)], "<i4")
    real = np.frombuffer(block[4 * n * (5 + 2 * k) :], "<f4")
    assert len(real) == n * (3 + k)
    found = {name: whole[i * n : (i + 1) * n] for i, name in enumerate(["token", "piece", "kind", "rank", "id"])}
    found["top_token"], found["top_id"] = whole[5 * n :].reshape(2, n, k)
    found |= {name: real[i * n : (i + 1) * n] for i, name in enumerate(["logprob", "sampled", "entropy"])}
    found["top_logprob"] = real[3 * n :].reshape(n, k)
    return found


def test_block_holds_exactly_the_generation() -> None:
    run = story()
    packed = state(run)
    got, strings = columns(packed), packed["strings"]
    assert [strings[i] for i in got["token"]] == run.tokens
    assert got["id"].tolist() == run.ids
    assert got["rank"].tolist() == run.ranks.tolist()
    for name, tensor in (("logprob", run.logprobs), ("sampled", run.sampled_logprobs), ("entropy", run.entropies)):
        np.testing.assert_array_equal(got[name], tensor.numpy())
    np.testing.assert_array_equal(got["top_logprob"], run.top_logprobs.numpy())
    assert [[strings[i] for i in row] for row in got["top_token"]] == run.top_tokens
    assert got["top_id"].tolist() == run.top_ids.tolist()
    assert "".join(strings[i] for i, kind in zip(got["piece"], got["kind"], strict=True) if kind == TEXT) == run.text
    assert got["kind"].tolist()[-1] == OUTSIDE


def test_payload_stays_small() -> None:
    packed = state(long(2000))
    assert len(packed["block"]) == 2000 * 4 * (8 + 3 * 5)
    assert len(packed["strings"]) == len(set(packed["strings"])) < 50
    assert len(json.dumps(packed["facts"])) < 1000


def test_table_of_a_longer_run_continues_that_of_a_shorter_one() -> None:
    short, longer = state(generation(STORY[:5])), state(generation(STORY[:15]))
    assert longer["strings"][: len(short["strings"])] == short["strings"]


def test_fewer_alternatives_than_asked_for_are_shown_as_they_are() -> None:
    assert state(story(kept=2), alternatives=5)["facts"]["k"] == 2
    assert state(story(), alternatives=0)["facts"]["k"] == 0
    assert columns(state(story(), alternatives=3))["top_logprob"].shape == (26, 3)


@pytest.mark.parametrize("wrong", [-1, 2.5, "5", True])
def test_impossible_alternatives_are_refused(wrong: object) -> None:
    with pytest.raises(BadInput, match="give a whole number"):
        tokens(story(), alternatives=wrong)  # type: ignore[arg-type]


def test_bytes_that_make_one_character_together() -> None:
    run = ["Hi", " ", "\ufffd", "\ufffd", "\ufffd", " there"]
    assert [(p.text, p.kind) for p in pieces(run, "Hi 😀 there")] == [
        ("Hi", TEXT), (" ", TEXT), ("😀", TEXT), ("", CONTINUED), ("", CONTINUED), (" there", TEXT),
    ]  # fmt: skip
    two = pieces(["\ufffd"] * 6, "😀😁")
    assert [p.text for p in two] == ["😀", "", "", "😁", "", ""]


def test_special_tokens_and_stop_strings_are_outside_the_text() -> None:
    assert [p.kind for p in pieces(["<s>", "a", " b", "</s>"], "a b")] == [OUTSIDE, TEXT, TEXT, OUTSIDE]
    assert [tuple(p) for p in pieces(["a", " bSTO", "P"], "a b")] == [("a", TEXT), (" b", TEXT), ("P", OUTSIDE)]
    assert [tuple(p) for p in pieces([" Hello", " you"], "Hello you")] == [("Hello", TEXT), (" you", TEXT)]


def test_text_that_does_not_fit_its_tokens_leaves_the_tokens() -> None:
    assert [tuple(p) for p in pieces(["a", "b"], "something else")] == [("a", TEXT), ("b", TEXT)]


@given(st.text(max_size=30), st.integers(1, 5), st.booleans())
def test_pieces_give_the_text_however_it_is_cut_into_bytes(text: str, size: int, special: bool) -> None:
    raw = text.encode("utf-8")
    cut = [raw[i : i + size].decode("utf-8", "replace") for i in range(0, len(raw), size)]
    cut += ["<|end|>"] if special else []
    found = pieces(cut, text)
    assert len(found) == len(cut)
    joined = "".join(piece.text for piece in found if piece.kind == TEXT)
    assert joined in (text, "".join(cut))
    if "\ufffd" not in "".join(cut) and "<" not in text:
        assert joined == text


@given(st.lists(st.text(max_size=8), max_size=12))
def test_any_tokens_can_be_packed_and_written(strings: list[str]) -> None:
    view = tokens(of_tokens(strings))
    assert "".join(view.strings[i] for i in columns(state(of_tokens(strings)))["piece"]) == clean("".join(strings))
    view._page().encode("utf-8")
    view.close()


def test_lone_surrogates_and_hostile_tokens_export(tmp_path) -> None:
    run = of_tokens([*HOSTILE, *LONE_SURROGATES], prompt_tokens=LONE_SURROGATES, model="\ud800")
    view = tokens(run)
    page = view.to_html(tmp_path / "hostile.html").read_text("utf-8")
    assert page.count("<script") == 2
    assert "<img" not in page
    assert "<!--" not in page
    assert "\u202e" not in page
    json.dumps(view.get_state()["strings"], ensure_ascii=False).encode("utf-8")
    repr(view).encode("utf-8")
    json.dumps(view._repr_mimebundle_()[0], ensure_ascii=False).encode("utf-8")


def test_head_line_says_what_was_measured() -> None:
    assert headline(story()) == [
        "26 tokens", "18.4 tokens/s", "ended by itself",
        f"mean log-probability −{-float(story().logprobs.mean()):.2f} nats "
        f"(perplexity {float((-story().logprobs.mean()).exp()):.2f})",
        "temperature 0.8, seed 1",
    ]  # fmt: skip
    assert headline(generation([STORY[0]], finish_reason="stopped"))[0] == "1 token"
    assert "generating …" in headline(story(), running=True)


def test_how_tokens_were_drawn() -> None:
    assert drawn(Sampling()) == "greedy"
    assert drawn(Sampling(temperature=0.5, top_k=40, top_p=0.9, seed=123456)) == (
        "temperature 0.5, top-k 40, top-p 0.9, seed 123456"
    )
    assert drawn(Sampling(repetition_penalty=1.2)) == "greedy, repetition penalty 1.2"


@pytest.mark.parametrize("reason", ["end", "stop", "length", "context", "stopped", "interrupted"])
def test_empty_generation_says_why(reason: str) -> None:
    view = tokens(generation([], finish_reason=reason))
    assert view.facts["n"] == 0
    assert view.facts["empty"].startswith("No token was generated: ")
    assert view.facts["empty"] in view._static_text()
    assert view.facts["empty"] in " ".join(words(view._image()))


def test_text_of_special_tokens_only_is_called_empty() -> None:
    view = tokens(generation([("<|im_end|>", 0.9, {})], text="", finish_reason="end"))
    assert view.facts["empty"].startswith("The text is empty")


def test_numbers_json_cannot_hold_never_reach_it() -> None:
    run = story()
    run.logprobs[3] = -torch.inf
    run.entropies[3] = torch.nan
    view = tokens(run)
    json.dumps(view.facts, allow_nan=False)
    assert "mean" not in " ".join(view.facts["headline"])


def test_prompt_is_folded_to_its_end() -> None:
    assert prompt_text(story()) == ["", "".join(CHAT_PROMPT)]
    many = [f" w{i}" for i in range(100)]
    assert prompt_text(story(prompt_tokens=many)) == ["".join(many[:76]), "".join(many[76:])]
    assert tokens(story(), prompt=False).prompt_text == ["", ""]


def test_prompt_of_any_length_is_bounded() -> None:
    for given_words in (["word "] * 50_000, ["x" * 100_000]):
        rest, tail = prompt_text(story(prompt_tokens=given_words))
        assert 10_000 < len(rest) + len(tail) <= 20_010


def test_prompt_gets_its_split_characters_back() -> None:
    run = story(prompt_tokens=["<s>", "Say", " ", "\ufffd", "\ufffd", "!", "</s>"], prompt="Say 😀!")
    assert prompt_text(run) == ["", "<s>Say 😀!</s>"]
    messages = [{"role": "user", "content": "né?"}]
    assert prompt_text(story(prompt_tokens=["<u>n", "\ufffd", "\ufffd", "?"], prompt=messages)) == ["", "<u>né?"]


def sent(view: TokensView) -> list[dict]:
    """Record the states sent to the front end from here on."""
    messages: list[dict] = []
    view._send = lambda message, buffers=None: messages.append(message)  # type: ignore[method-assign]
    return messages


@pytest.mark.skipif(
    ipywidgets.__version__.startswith("7."), reason="ipywidgets 7 sends nothing where there is no kernel"
)
def test_update_replaces_everything_in_one_message() -> None:
    view = tokens(generation(STORY[:5]))
    messages = sent(view)
    view.update(generation(STORY[:9]), running=True)
    assert len(messages) == 1
    assert {"strings", "facts", "version"} <= set(messages[0]["state"])
    assert messages[0]["buffer_paths"] == [["block"]]
    assert "prompt_text" not in messages[0]["state"], "what has not changed is not sent again"
    assert (view.version, view.facts["n"], view.facts["running"]) == (1, 9, True)
    assert repr(view) == "TokensView('The sky looks blue because sunlight is scattered by', 9 tokens)"


def test_update_keeps_the_held_token_only_while_the_text_is_the_same() -> None:
    view = tokens(generation(STORY[:5]))
    view.held = 3
    view.update(generation(STORY[:9]))
    assert view.held == 3
    view.update(generation(STORY[1:9]))
    assert view.held == -1


def test_the_picture_is_bounded_and_has_its_words_beside_it() -> None:
    view = tokens(of_tokens(["<script>alert(1)</script>", "x" * 100_000], probability=0.4))
    kept = view._static_html()
    assert len(kept) < 25_000
    assert re.fullmatch(r'<img src="data:image/svg\+xml;base64,[\w+/=]+" alt="[^"<>]*" style="max-width:100%">', kept)
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in kept
    source = base64.b64decode(re.findall(r"base64,([^\"]+)", kept)[0]).decode()
    assert source == svg(view._image())
    assert "<script" not in source
    assert "…" in words(view._image()), "cut here"


def test_the_thinner_the_surer_in_the_picture_as_in_the_page() -> None:
    run = generation([(f" t{i}", p, {" other": 0.001}) for i, p in enumerate([0.95, 0.7, 0.3, 0.1, 0.03])])
    view = tokens(run)
    lines = [shape for shape in view._image().shapes if isinstance(shape, Path) and shape.stroke != LINE]
    assert sorted(line.width for line in lines) == [stroke["line"] for stroke in view.constants["strokes"]]
    widths = {line.points[0][0]: line.width for line in lines}
    assert [widths[x] for x in sorted(widths)] == sorted(widths.values()), "in the order of the text"


def test_text_of_a_view_is_the_text_of_its_generation() -> None:
    data, _ = tokens(story())._repr_mimebundle_()
    assert story().text.splitlines()[0] in data["text/plain"]
    assert data["text/plain"].startswith("tiny-model · 26 tokens")


def test_repr_does_not_change_from_one_view_to_the_next() -> None:
    assert repr(labkit.views.tokens(story())) == repr(labkit.views.tokens(story()))
    assert "0x" not in repr(tokens(story()))


@pytest.mark.real_model
@pytest.mark.parametrize("text", ["Hello 😀 there", "世界 and naïve", "a 🌍🌊 b", "é", "世é🌍界x"])
def test_a_real_tokenizer_that_splits_characters(default_lab: Any, text: str) -> None:
    """The tokens of a byte-level vocabulary, as labkit names them, put together to the text again."""
    from labkit.models.tokens import token_bytes, token_strings

    end = default_lab.tokenizer.eos_token_id
    ids = [*default_lab.tokenizer(text).input_ids, end]
    split = pieces(token_strings(default_lab.tokenizer, ids), text)
    assert "".join(piece.text for piece in split if piece.kind != OUTSIDE) == text
    assert split[-1].kind == OUTSIDE, "the end token is no part of the text"
    expected = []
    at = 0
    for token in token_strings(default_lab.tokenizer, ids[:-1]):  # a character is its first byte's token's
        end = at + len(token_bytes(token))
        expected.append("".join(c for i, c in enumerate(text) if at <= len(text[:i].encode()) < end))
        at = end
    assert [piece.text for piece in split[:-1]] == expected
    assert len(split) == len(ids)
    run = story(prompt_tokens=token_strings(default_lab.tokenizer, ids[:-1]), prompt=text)
    assert prompt_text(run) == ["", text]


def test_what_is_no_generation_is_refused() -> None:
    with pytest.raises(BadInput, match="show one of the list"):
        tokens([story()])  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="this is a str"):
        tokens("text")  # type: ignore[arg-type]
