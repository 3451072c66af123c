"""Tokens as text: joined, the pieces give the text back."""

from __future__ import annotations

import copy

import fuzz
import pytest

import labkit as lk
from labkit.models.tokens import token_strings


@pytest.mark.real_model
@pytest.mark.parametrize("text", ["  two  spaces, a\ttab\nand a line", "naïve café", "x = {'a': [1, 2]}"])
def test_pieces_join_to_the_text(default_lab: lk.Lab, text: str) -> None:
    ids = default_lab.tokenizer(text).input_ids
    assert "".join(token_strings(default_lab.tokenizer, ids)) == text


@pytest.mark.real_model
def test_parts_of_a_character_are_shown_as_bytes(default_lab: lk.Lab) -> None:
    ids = default_lab.tokenizer("世").input_ids
    pieces = token_strings(default_lab.tokenizer, ids)
    assert len(ids) > 1
    shown = "".join(pieces).replace("<0x", "").replace(">", "")
    assert bytes.fromhex(shown.strip()) == "世".encode()


def test_sentencepiece_spaces_are_kept() -> None:
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE({"▁the": 0, "▁": 1, "cat": 2, "<0xE4>": 3}, []))
    inner.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.Strip(content=" ", left=1)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner)
    assert token_strings(tokenizer, [0, 1, 2]) == [" the", " ", "cat"]


def test_special_tokens_and_ids_past_the_vocabulary_have_names() -> None:
    tokenizer = fuzz.tiny_tokenizer()
    special = tokenizer.all_special_ids[0]
    assert token_strings(tokenizer, [special, len(tokenizer) + 7]) == [
        tokenizer.convert_ids_to_tokens(special),
        f"<id {len(tokenizer) + 7}>",
    ]


@pytest.mark.real_model
def test_what_was_looked_up_is_forgotten_when_tokens_are_added(default_lab: lk.Lab) -> None:
    tokenizer = copy.deepcopy(default_lab.tokenizer)
    new = len(tokenizer)
    assert token_strings(tokenizer, [5, new]) == [token_strings(default_lab.tokenizer, [5])[0], f"<id {new}>"]
    tokenizer.add_tokens(["<added>"])
    assert token_strings(tokenizer, [new]) == ["<added>"]
