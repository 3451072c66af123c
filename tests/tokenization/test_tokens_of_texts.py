"""Tokens with their bytes, merges and losses, for tokenizers of every kind."""

from __future__ import annotations

import math
import random

import fuzz
import numpy as np
import pytest
import tokenizers_of_kinds
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import ByT5Tokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import labkit as lk
from labkit.tokenization import merges, tokens

HOSTILE = (
    "<script>alert(1)</script>",
    "a\u200b\u202e\ufeffb",
    "\x00\x07",
    "e\u0301 ﬁ Ａ ①",
    "🏳️‍🌈👩🏽‍🚀",
    "<0xE4>",
    "▁a Ġb ##c",
)


def lab(tokenizer: PreTrainedTokenizerFast | None = None) -> lk.Lab:
    tokenizer = tokenizer or fuzz.tiny_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=64,
    )
    return lk.Lab(LlamaForCausalLM(config).eval(), tokenizer, name="tiny")


def texts() -> list[str]:
    rng = random.Random(0)
    ranges = [(32, 127), (32, 127), (0xA0, 0x500), (0x4E00, 0x9000), (0x1F300, 0x1F600), (0x200B, 0x2030)]
    made = ["".join(chr(rng.randrange(*rng.choice(ranges))) for _ in range(rng.randrange(1, 25))) for _ in range(20)]
    return ["hi there é!", " a 😀世", "hi<|im_end|>there", "  hi \n\n there  ", *HOSTILE, *made]


@pytest.mark.parametrize("kind", [*tokenizers_of_kinds.KINDS, "slow"])
def test_the_bytes_joined_are_the_texts_and_the_ids_the_tokenizers(kind: str) -> None:
    tokenizer = ByT5Tokenizer() if kind == "slow" else tokenizers_of_kinds.KINDS[kind]()
    for text in texts():
        found = tokens(tokenizer, text)
        assert b"".join(token.bytes for token in found) == text.encode()
        assert found.ids == tokenizer(text)["input_ids"]
        assert len(found) == len(found.table) == len(found.items)
        if kind in ("byte_level", "gemma", "slow"):
            exact = kind != "gemma" or "▁" not in text  # which it reads as a space, for good
            assert (found.way, found.exact) == ("spelt" if exact else "offsets", exact)


def test_tokens_that_are_parts_of_characters_are_bytes_and_know_the_merge_that_made_them() -> None:
    found = lk.tokens(fuzz.tiny_tokenizer(), "the é")
    assert [(token.text, token.bytes) for token in found] == [
        ("the", b"the"),
        (" ", b" "),
        ("<0xC3>", b"\xc3"),
        ("<0xA9>", b"\xa9"),
    ]
    assert [token.rank for token in found] == [1, None, None, None]
    assert found[-1].id == found.ids[-1]
    assert [token.text for token in found[1:3]] == [" ", "<0xC3>"]
    assert found["token"].tolist() == ["the", " ", "<0xC3>", "<0xA9>"]
    with pytest.raises(lk.BadInput, match="no token 4"):
        found[4]


def test_a_space_before_the_text_is_told_and_is_no_byte_of_it() -> None:
    for kind in ("llama", "metaspace"):
        found = tokens(tokenizers_of_kinds.KINDS[kind](), "hi there")
        assert "puts a space before the text" in found.notes[0]
        assert found.exact
    found = tokens(tokenizers_of_kinds.metaspace(), "hi there")
    assert [(token.piece, token.bytes, token.score) for token in found] == [
        ("▁hi", b"hi", -4.0),
        ("▁there", b" there", -5.0),
    ]


def test_what_wordpiece_loses_is_said_and_stands_with_its_neighbours() -> None:
    found = tokens(tokenizers_of_kinds.wordpiece(), "hi there é ")
    assert [token.bytes for token in found] == [b"hi", b" there", " é ".encode()]
    assert [(token.unknown, token.dropped) for token in found] == [(False, 0), (False, 1), (True, 2)]
    assert found.way == "offsets"
    assert not found.exact
    said = " ".join(found.notes)
    assert "do not spell this text" in said
    assert "1 sign for what is unknown" in said
    assert "holds 3 bytes" in said


def test_normalizers_are_told_and_changed_tokens_marked() -> None:
    made = Tokenizer(
        models.BPE({c: i for i, c in enumerate(["<unk>", "f", "i", "a", "▁", "1"])}, [], unk_token="<unk>")
    )
    made.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Lowercase(), normalizers.Replace(" ", "▁"), normalizers.Replace("x", "1")]
    )
    found = tokens(made, "ﬁ Ａa①")
    assert [token.piece for token in found] == ["f", "i", "▁", "a", "a", "1"]
    assert b"".join(token.bytes for token in found) == "ﬁ Ａa①".encode()
    assert [token.changed for token in found] == [True, True, False, True, False, True]
    said = " ".join(found.notes)
    assert "NFKC" in said
    assert "makes all letters small" in said
    assert "replaces 'x' by '1'" in said
    assert "'ﬁ' as 'f'" in said


def test_tokens_put_around_a_text_are_marked_and_hold_no_byte() -> None:
    tokenizer = fuzz.tiny_tokenizer()
    start, end = "<|im_start|>", "<|im_end|>"
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}",
        special_tokens=[(name, tokenizer.convert_tokens_to_ids(name)) for name in (start, end)],
    )
    found = tokens(lab(tokenizer), "cat<|im_end|>")
    assert [(token.text, token.bytes, token.special, token.added) for token in found] == [
        (start, b"", True, True),
        *[(letter, letter.encode(), False, False) for letter in (token.text for token in found.items[1:-2])],
        (end, end.encode(), True, False),
        (end, b"", True, True),
    ]
    assert found.first == 0
    assert np.isfinite(found.byte_loss).all()
    assert "counts for no byte" in found.notes[-1]


def test_the_loss_of_each_byte_is_the_tokens_spread_and_sums_to_theirs() -> None:
    lab_, text = lab(), "the cat sé"
    found = lk.tokens(lab_, text)
    logits = lab_.model(torch.tensor([found.ids])).logits[0].double()
    nats = -torch.log_softmax(logits, -1)[torch.arange(len(found) - 1), torch.tensor(found.ids[1:])].detach().numpy()
    assert np.allclose([token.loss for token in found][1:], nats, atol=1e-5)
    assert math.isnan(found[0].loss)
    start = len(found[0].bytes)
    assert found.first == start
    assert np.isnan(found.byte_loss[:start]).all()
    assert "no start token" in found.notes[-1]
    assert np.isclose(np.nansum(found.byte_loss), nats.sum())
    assert np.isclose(found.bits_per_byte, nats.sum() / math.log(2) / (len(text.encode()) - start))
    spread = np.concatenate(
        [np.full(len(t.bytes), n / len(t.bytes)) for t, n in zip(found.items[1:], nats, strict=True)]
    )
    assert np.allclose(found.byte_loss[start:], spread, atol=1e-5)
    assert f"{found.bits_per_byte:.3f} bits per byte" in repr(found)


def test_a_token_without_bytes_gives_its_loss_to_the_next() -> None:
    tokenizer = tokenizers_of_kinds.llama()
    found = tokens(lab(tokenizer), "<s>a")  # <s>, ▁ (no byte of the text), a
    assert [token.bytes for token in found] == [b"<s>", b"", b"a"]
    assert np.isclose(np.nansum(found.byte_loss), found[1].loss + found[2].loss)


def test_texts_that_can_not_be_had() -> None:
    tokenizer = fuzz.tiny_tokenizer()
    for text in ("", None, 3, ["a"]):
        with pytest.raises(lk.BadInput, match="at least one character"):
            tokens(tokenizer, text)
    with pytest.raises(lk.BadInput, match="U\\+D800 at character 1"):
        tokens(tokenizer, "a\ud800")
    with pytest.raises(lk.BadInput, match="makes no token"):
        tokens(tokenizers_of_kinds.wordpiece(), " \n ")
    with pytest.raises(lk.BadInput, match="neither a lab nor a tokenizer"):
        tokens("gpt2", "a")
    long = "the cat sat " * 4000
    with pytest.raises(lk.BadInput, match="loss=False"):
        tokens(lab(), long)
    found = tokens(lab(), long, loss=False)
    assert b"".join(token.bytes for token in found) == long.encode()
    assert found.bits_per_byte is None


def test_a_slow_tokenizer_that_changes_the_text_is_refused() -> None:
    class Shouting(ByT5Tokenizer):
        def _tokenize(self, text: str) -> list[str]:
            return super()._tokenize(text.upper())

    assert tokens(Shouting(), "ABC").exact
    with pytest.raises(lk.Unavailable, match="use a fast tokenizer"):
        tokens(Shouting(), "abc")


def test_merges_are_the_libraries_own_in_the_order_of_their_ranks() -> None:
    tokenizer = fuzz.tiny_tokenizer()
    found = merges(tokenizer, "the cat")
    assert found.words == ("the", "Ġcat")
    assert found["pieces"].tolist()[:3] == ["t h e", "t he", "the"]
    assert found["rank"].isna().tolist() == [True, False, False, True, False, False, False]
    for text in texts():
        made = merges(tokenizer, text)
        assert [piece for word in made.pieces for piece in word] == tokenizer.backend_tokenizer.encode(
            text, add_special_tokens=False
        ).tokens or "<|im_end|>" in text


def test_a_sign_that_stands_for_a_space_is_not_exact() -> None:
    for kind in ("gemma", "metaspace"):
        made = getattr(tokenizers_of_kinds, kind)()
        found = tokens(made, "▁a▁")
        assert b"".join(token.bytes for token in found) == "▁a▁".encode()
        assert not found.exact
        assert any("can't be told from one" in note for note in found.notes)
        assert tokens(made, " a ").exact or tokens(made, " a ").notes
    assert tokens(tokenizers_of_kinds.byte_level(), "▁a▁").exact


def test_no_merge_reaches_into_a_token_that_was_added() -> None:
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    letters = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=290, initial_alphabet=letters, special_tokens=["<|im_start|>"], show_progress=False
    )
    inner.train_from_iterator(["hello world user hello user"] * 5, trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=inner)
    made.add_tokens([AddedToken("foo", lstrip=True)])
    for text in ("<|im_start|>user hello", "hello foo world", "foo<|im_start|>foo", "hello world"):
        found = merges(made, text)
        assert [piece for word in found.pieces for piece in word] == made.tokenize(text)
        assert len(found.notes) == sum(text.count(token) for token in ("<|im_start|>", "foo"))


def test_merges_with_word_ends_and_whole_words() -> None:
    pieces = ["a", "b", "b</w>", "ab", "ab</w>", "c</w>", "abb</w>"]
    made = Tokenizer(
        models.BPE(
            {piece: i for i, piece in enumerate(pieces)}, [("a", "b"), ("a", "b</w>")], end_of_word_suffix="</w>"
        )
    )
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    assert merges(made, "abb ab").pieces == (("ab", "b</w>"), ("ab</w>",))
    whole = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2, "aba": 3}, [("a", "b")], ignore_merges=True))
    found = merges(whole, "aba")
    assert found.pieces == (("aba",),)
    assert "taken whole" in found.notes[0]


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        ("metaspace", "likeliest"),
        ("wordpiece", "longest piece"),
        ("words", "each word"),
        ("llama", "its file holds none"),
    ],
)
def test_tokenizers_without_merges_say_how_they_work(kind: str, why: str) -> None:
    with pytest.raises(lk.Unavailable, match=why):
        merges(tokenizers_of_kinds.KINDS[kind](), "hi")


def test_merges_refuse_dropout_slow_tokenizers_and_long_texts() -> None:
    with pytest.raises(lk.Unavailable, match="slow one"):
        merges(ByT5Tokenizer(), "hi")
    with pytest.raises(lk.Unavailable, match=r"dropout 0\.5"):
        merges(Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")], dropout=0.5)), "ab")
    with pytest.raises(lk.BadInput, match="1 to 2,000"):
        merges(fuzz.tiny_tokenizer(), "a" * 2001)


def test_a_tokenizer_of_the_library_and_one_whose_decoder_says_nothing() -> None:
    made = Tokenizer(models.BPE({"a": 0, "b": 1, "ab": 2}, [("a", "b")]))
    made.decoder = decoders.Fuse()
    assert [(token.bytes, token.rank) for token in tokens(made, "aba")] == [(b"ab", 0), (b"a", None)]
