"""Small tokenizers of every kind of decoder: bytes, byte fallback, SentencePiece's spaces, WordPiece, words."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import fuzz
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

SPECIAL = ["<unk>", "<s>", "</s>", "<|im_end|>"]
BYTES = [f"<0x{b:02X}>" for b in range(256)]
PIECES = ["▁hi", "▁there", "a", "b", "▁", "!", "▁▁", "é", "▁é", "世", "😀", ".", "▁.", "n't", "�"]


def _wrapped(made: Tokenizer, **more: object) -> PreTrainedTokenizerFast:
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
        additional_special_tokens=["<|im_end|>"],
        **more,
    )


def llama() -> PreTrainedTokenizerFast:
    """Byte fallback, and a decoder that takes off a text's first space (Llama 2, Mistral)."""
    made = _fallback()
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _wrapped(made)


def gemma() -> PreTrainedTokenizerFast:
    """Byte fallback, every space kept; a configuration that asks for spaces to be cleaned up."""
    made = _fallback()
    made.normalizer = normalizers.Replace(" ", "▁")
    made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return _wrapped(made, clean_up_tokenization_spaces=True)


def metaspace() -> PreTrainedTokenizerFast:
    """Pieces with a space before each but the first, no bytes (T5)."""
    vocabulary = [(piece, -float(i)) for i, piece in enumerate([*SPECIAL, *PIECES])]
    made = Tokenizer(models.Unigram(vocabulary, unk_id=0))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    return _wrapped(made)


def wordpiece() -> PreTrainedTokenizerFast:
    """Words and their endings, the space before a full stop taken away (BERT)."""
    words = [*SPECIAL, "hi", "there", "##s", "##é", "世", ".", "'", "n't", "��"]
    made = Tokenizer(models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece(cleanup=True)
    return _wrapped(made)


def words() -> PreTrainedTokenizerFast:
    """Words that a space is put between, for want of any decoder."""
    made = Tokenizer(models.WordLevel({w: i for i, w in enumerate([*SPECIAL, "hi", "there", "世", "a"])}, "<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return _wrapped(made)


def suffixed() -> PreTrainedTokenizerFast:
    """Pairs whose word ends are marked (GPT-1): the last one's mark is dropped, the others' are spaces."""
    pieces = [*SPECIAL, "hi</w>", "a", "b</w>", "é</w>", "世"]
    made = Tokenizer(models.BPE({p: i for i, p in enumerate(pieces)}, [], unk_token="<unk>", end_of_word_suffix="</w>"))
    made.decoder = decoders.BPEDecoder()
    return _wrapped(made)


def byte_level() -> PreTrainedTokenizerFast:
    """Pairs of bytes (GPT-2 and most others)."""
    return fuzz.tiny_tokenizer()


def _fallback() -> Tokenizer:
    pieces = {piece: i for i, piece in enumerate([*SPECIAL, *BYTES, *PIECES])}
    return Tokenizer(models.BPE(pieces, [], unk_token="<unk>", byte_fallback=True, fuse_unk=True))


KINDS: dict[str, Callable[[], PreTrainedTokenizerFast]] = {
    made.__name__: made for made in (llama, gemma, metaspace, wordpiece, words, suffixed, byte_level)
}
