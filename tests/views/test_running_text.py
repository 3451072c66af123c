"""Tokens as running text: pieces of it, names, and what is no part of it."""

from __future__ import annotations

import pytest

from labkit.views.kit.running_text import LABEL_CHARACTERS, is_markup, label, split


@pytest.mark.parametrize("token", ["<s>", "<|im_start|>", "[CLS]", "<bos>"])
def test_signs_of_tokenizers_are_told(token: str) -> None:
    assert is_markup(token)


@pytest.mark.parametrize("token", ["The", "<", "< s>", "[1]", "<0xF0>", "", " <s>", "a<s>"])
def test_text_is_no_markup_nor_is_a_byte_of_a_character(token: str) -> None:
    assert not is_markup(token)


def test_a_character_of_several_tokens_is_the_first_ones_and_each_has_its_name() -> None:
    found = split(["a", "<0xC3>", "<0xA4>", " b"])
    assert (found.texts, found.continued) == (["a", "ä", "", " b"], [2])
    assert found.names == {1: "<0xC3>", 2: "<0xA4>"}
    assert found.sent() == {"texts": found.texts, "continued": [2], "called": [[1, "<0xC3>"], [2, "<0xA4>"]]}


def test_labels_are_short_and_valid() -> None:
    assert label("x" * 1_000) == "x" * (LABEL_CHARACTERS - 1) + "…"
    assert label("a\ud800") == "a\ufffd"
