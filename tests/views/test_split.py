"""The split view: tokens of one text or of several, as `lk.tokens` gave them."""

from __future__ import annotations

from pathlib import Path

import fuzz
import numpy as np
import pytest
import tokenizers_of_kinds
from generations import story

import labkit as lk
from labkit.views.split_view import ADDED, MOST_TOKENS, SPECIAL, SplitView
from labkit.views.tokens_view import TokensView

TEXT = "the é <|im_end|> 😀"


def test_tokens_takes_a_generation_and_tokens() -> None:
    assert isinstance(lk.views.tokens(story()), TokensView)
    found = lk.tokens(fuzz.tiny_tokenizer(), TEXT)
    assert isinstance(lk.views.tokens(found), SplitView)
    pair = lk.views.tokens([found, lk.tokens(tokenizers_of_kinds.wordpiece(), "hi there")])
    assert [text["count"] for text in pair.texts] == [len(found), 2]
    for bad in ([], [found] * 5, 3, [found, 3]):
        with pytest.raises(lk.BadInput, match=r"views\.tokens shows"):
            lk.views.tokens(bad)


def test_numbers_bytes_and_pieces_are_sent_as_they_are() -> None:
    found = lk.tokens(fuzz.tiny_tokenizer(), TEXT)
    view = lk.views.tokens(found)
    block = np.frombuffer(view.numbers, "<i4").reshape(-1, 5)
    assert block[:, 0].tolist() == found.ids
    assert block[:, 1].tolist() == [-1 if token.rank is None else token.rank for token in found]
    assert block[:, 3].tolist() == [len(token.bytes) for token in found]
    assert [bool(flags & SPECIAL) for flags in block[:, 2]] == [token.special for token in found]
    assert view.raw == TEXT.encode()
    (text,) = view.texts
    assert "".join(text["pieces"]["texts"]) == TEXT
    first = next(i for i, token in enumerate(found) if token.bytes == b"\xc3")
    assert text["pieces"]["texts"][first] == "é"
    assert first + 1 in text["pieces"]["continued"]
    assert [first, "<0xC3>"] in text["pieces"]["called"]
    assert view.colour == "order"


def test_losses_are_shown_where_a_model_was_asked(tiny_lab: lk.Lab) -> None:
    found = lk.tokens(tiny_lab, "the cat sat")
    view = lk.views.tokens(found)
    assert view.colour == "loss"
    losses = np.frombuffer(view.numbers, "<f4").reshape(-1, 5)[:, 4]
    assert np.allclose(losses, [token.loss for token in found], equal_nan=True, atol=1e-5)
    assert f"{found.bits_per_byte:.3f} bits per byte" in view.texts[0]["facts"]
    assert view.table["id"].tolist() == found.ids


def test_tokens_around_the_text_and_long_texts(tmp_path: Path) -> None:
    found = lk.tokens(tokenizers_of_kinds.llama(), "a" * (MOST_TOKENS + 50), name="<i>long</i>")
    view = lk.views.tokens(found)
    assert view.texts[0]["count"] == MOST_TOKENS
    assert "51 tokens more" in view.texts[0]["more"]
    assert len(view.table) == len(found)
    assert "<i>" not in view.to_svg(tmp_path / "long.svg").read_text("utf-8")
    from transformers import ByT5Tokenizer

    view = lk.views.tokens(lk.tokens(ByT5Tokenizer(), "é"))
    assert view.texts[0]["outside"] == [2]
    assert np.frombuffer(view.numbers, "<i4").reshape(-1, 5)[2, 2] == SPECIAL | ADDED
