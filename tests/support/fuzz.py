"""Tiny but real model files, and seeded ways to damage them.

`tiny_folder` and `tiny_gguf` write the same model twice: a Llama of two layers with a byte-level BPE tokenizer, which
transformers opens for real. `cases` damages a file's bytes; `run_through` hands one damaged file to an opener and notes
what came of it.
"""

from __future__ import annotations

import functools
import random
import signal
import struct
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

# ------------------------------------------------------------------------------------------------- tiny, real models

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
_TEXT = [
    "the cat sat on the mat because it was tired",
    "the dog ran after the cat and the cat ran up the tree",
    "where the tree was, the other cat and the other dog were",
]
LAYERS, WIDTH, HEADS, KV_HEADS, INNER, CONTEXT = 2, 32, 4, 2, 64, 128


@functools.cache
def _tokenizer_parts() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges of a byte-level BPE over a few sentences; the special tokens come first."""
    import json

    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        show_progress=False,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(_TEXT, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], [tuple(merge) for merge in model["merges"]]


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of both tiny models, chat template included."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary, merges = _tokenizer_parts()
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    end, start, stop = SPECIAL_TOKENS
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token=start,
        eos_token=stop,
        unk_token=end,
        pad_token=end,
        additional_special_tokens=list(SPECIAL_TOKENS),
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT,
    )


def tiny_model(seed: int = 0) -> LlamaForCausalLM:
    """A random Llama in float32: 2 layers, width 32, 4 query heads sharing 2 key-value heads, untied output."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    vocabulary, _ = _tokenizer_parts()
    config = LlamaConfig(
        vocab_size=len(vocabulary),
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=False,
        bos_token_id=vocabulary[SPECIAL_TOKENS[1]],
        eos_token_id=vocabulary[SPECIAL_TOKENS[2]],
        pad_token_id=vocabulary[SPECIAL_TOKENS[0]],
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()


def tiny_folder(path: str | Path, *, seed: int = 0, max_shard_size: str = "5GB") -> Path:
    """The tiny model as a Hugging Face folder with safetensors; returns path. max_shard_size="50KB" makes several."""
    folder = Path(path)
    tiny_model(seed).save_pretrained(folder, max_shard_size=max_shard_size)
    tiny_tokenizer().save_pretrained(folder)
    return folder


_GGUF_NAMES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def _gguf_name(name: str) -> str:
    stem = name.removesuffix(".weight")
    if stem in _GGUF_NAMES:
        return f"{_GGUF_NAMES[stem]}.weight"
    _, _, layer, part = stem.split(".", 3)
    return f"blk.{layer}.{_GGUF_NAMES[part]}.weight"


def _interleaved(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows of a query or key matrix in GGUF's order: rotary pairs side by side instead of half a head apart."""
    rows, columns = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def tiny_gguf(path: str | Path, *, seed: int = 0, quantized: bool = False) -> Path:
    """The tiny model as a GGUF file; returns path. Float32 unless quantized (matrices as Q8_0)."""
    import gguf
    import numpy as np

    vocabulary, merges = _tokenizer_parts()
    file = Path(path)
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_name("Tiny")
    writer.add_license("apache-2.0")
    writer.add_block_count(LAYERS)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(len(vocabulary))
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in SPECIAL_TOKENS else 1 for token in tokens])
    writer.add_token_merges([" ".join(merge) for merge in merges])
    writer.add_unk_token_id(vocabulary[SPECIAL_TOKENS[0]])
    writer.add_bos_token_id(vocabulary[SPECIAL_TOKENS[1]])
    writer.add_eos_token_id(vocabulary[SPECIAL_TOKENS[2]])
    writer.add_pad_token_id(vocabulary[SPECIAL_TOKENS[0]])
    writer.add_add_bos_token(False)
    writer.add_chat_template(CHAT_TEMPLATE)
    for name, weight in tiny_model(seed).state_dict().items():
        if "q_proj" in name:
            weight = _interleaved(weight, HEADS)
        elif "k_proj" in name:
            weight = _interleaved(weight, KV_HEADS)
        values = np.ascontiguousarray(weight.numpy())
        if quantized and values.ndim == 2:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(_gguf_name(name), gguf.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(_gguf_name(name), values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


# ---------------------------------------------------------------------------------------------------------- damage

Mutation = Callable[[bytearray, random.Random, int], bytearray]
_EXTREMES = (
    0,
    1,
    2,
    3,
    7,
    255,
    256,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 32,
    (1 << 63) - 1,
    1 << 63,
    (1 << 64) - 1,
)


def _place(data: bytearray, rng: random.Random, header: int) -> int:
    """A position: mostly in the header, where damage matters most."""
    end = min(header, len(data)) if rng.random() < 0.8 else len(data)
    return rng.randrange(max(1, end))


def truncate(data: bytearray, rng: random.Random, header: int) -> bytearray:
    """End the file early."""
    return data[: _place(data, rng, header)]


def flip_bits(data: bytearray, rng: random.Random, header: int) -> bytearray:
    """Flip one to eight single bits."""
    for _ in range(rng.randint(1, 8) if data else 0):
        data[_place(data, rng, header)] ^= 1 << rng.randrange(8)
    return data


def overwrite(data: bytearray, rng: random.Random, header: int) -> bytearray:
    """Replace up to 32 bytes in a row by random ones."""
    at, n = _place(data, rng, header), rng.randint(1, 32)
    fresh = rng.randbytes(min(n, len(data) - at))
    data[at : at + len(fresh)] = fresh
    return data


def extreme_integer(data: bytearray, rng: random.Random, header: int) -> bytearray:
    """Replace 4 or 8 bytes by an integer at the edge of its range."""
    size = rng.choice((4, 8))
    at = _place(data, rng, header)
    number = rng.choice(_EXTREMES) & ((1 << 8 * size) - 1)
    if at + size <= len(data):
        data[at : at + size] = number.to_bytes(size, "little")
    return data


def nudge_integer(data: bytearray, rng: random.Random, header: int) -> bytearray:
    """Add or subtract a little at one byte: the mistakes that stay plausible."""
    if data:
        at = _place(data, rng, header)
        data[at] = (data[at] + rng.choice((-32, -2, -1, 1, 2, 32))) % 256
    return data


def insert(data: bytearray, rng: random.Random, header: int) -> bytearray:
    """Put up to 64 random bytes in between."""
    at = _place(data, rng, header)
    data[at:at] = rng.randbytes(rng.randint(1, 64))
    return data


def delete(data: bytearray, rng: random.Random, header: int) -> bytearray:
    """Take up to 64 bytes out."""
    at = _place(data, rng, header)
    del data[at : at + rng.randint(1, 64)]
    return data


def splice(data: bytearray, rng: random.Random, header: int) -> bytearray:
    """Copy a piece of the file over another place in it."""
    start, at, n = _place(data, rng, header), _place(data, rng, header), rng.randint(4, 256)
    piece = data[start : start + n]
    data[at : at + len(piece)] = piece
    return data


def swap_letters(data: bytearray, rng: random.Random, header: int) -> bytearray:
    """Replace one letter or digit by another: names and numbers in text stay text."""
    letters = [at for at in range(min(header, len(data))) if chr(data[at]).isascii() and chr(data[at]).isalnum()]
    if letters:
        old = rng.choice(letters)
        data[old] = ord(rng.choice("0123456789" if chr(data[old]).isdigit() else "abcdefghijklmnopqrstuvwxyz"))
    return data


MUTATIONS: tuple[Mutation, ...] = (
    truncate,
    flip_bits,
    overwrite,
    extreme_integer,
    nudge_integer,
    insert,
    delete,
    splice,
    swap_letters,
)


@dataclass(frozen=True)
class Case:
    """A damaged file: its number under the seed, what was done to it, its bytes."""

    number: int
    done: tuple[str, ...]
    data: bytes = field(repr=False)


def cases(original: bytes, n: int, *, seed: int, header: int) -> Iterator[Case]:
    """n damaged copies. header: bytes at the start of the file that four of five mutations aim at.

    Each case depends on the seed and its own number alone, so one that fails can be made again by itself.
    """
    for number in range(n):
        rng = random.Random(f"{seed}/{number}")
        data = bytearray(original)
        chosen = rng.choices(MUTATIONS, k=1 if rng.random() < 0.8 else 2)
        for mutate in chosen:
            data = mutate(data, rng, header)
        yield Case(number, tuple(mutate.__name__ for mutate in chosen), bytes(data))


def safetensors_header_bytes(original: bytes) -> int:
    """Where the weights begin in a safetensors file."""
    return 8 + struct.unpack_from("<Q", original)[0]


# ------------------------------------------------------------------------------------------------- opening what is left


@dataclass(frozen=True)
class Outcome:
    """What an opener did with a case: returned a value, raised, or didn't end in time."""

    case: Case
    seconds: float
    value: Any = None
    error: BaseException | None = None

    @property
    def kind(self) -> str:
        """ "opened", or the name of the exception's type."""
        return "opened" if self.error is None else type(self.error).__name__


class TookTooLong(BaseException):
    """Raised by the alarm; no Exception, so that no handler in a library swallows it."""


def run_through(open_fn: Callable[[Path], Any], case: Case, path: Path, *, limit_seconds: float = 10.0) -> Outcome:
    """Write the case to path, open it, and note what came of it. Only in the main thread: it sets an alarm."""

    def stop(*_: object) -> None:
        raise TookTooLong(f"more than {limit_seconds} s")

    path.write_bytes(case.data)
    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, limit_seconds)
    start = time.perf_counter()
    try:
        value, error = open_fn(path), None
    except (Exception, TookTooLong) as caught:
        value, error = None, caught
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    return Outcome(case, time.perf_counter() - start, value, error)


def tally(outcomes: list[Outcome]) -> Counter[str]:
    """How often each kind of outcome came up."""
    return Counter(outcome.kind for outcome in outcomes)
