"""Model files are checked before anything opens them: what is right passes, what is wrong is named."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import fuzz
import pytest

from labkit.errors import BadModelFile, ModelNotFound
from labkit.models.files import (
    GGML_TYPES,
    ArraySummary,
    GgufHeader,
    GgufTensor,
    check_folder,
    check_gguf_architecture,
    check_gguf_tokenizer,
    read_gguf_header,
    read_gguf_strings,
    read_safetensors_header,
    sha256,
)
from labkit.models.files.gguf_checks import _PLAIN, _PLAIN_BLOCK, _PLAIN_TOP

# ------------------------------------------------------------------------------- files made byte by byte, for mistakes


def text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def entry(key: str, type_number: int, body: bytes) -> bytes:
    return text(key) + struct.pack("<I", type_number) + body


def tensor(name: str, shape: tuple[int, ...], type_number: int, offset: int) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape[::-1], type_number, offset)


def gguf_file(
    path: Path,
    entries: list[bytes],
    tensors: list[bytes],
    *,
    data: int = 0,
    version: int = 3,
    counts: tuple[int, int] | None = None,
    alignment: int = 32,
) -> Path:
    n_tensors, n_entries = counts or (len(tensors), len(entries))
    head = b"GGUF" + struct.pack("<IQQ", version, n_tensors, n_entries) + b"".join(entries) + b"".join(tensors)
    path.write_bytes(head + bytes(-len(head) % alignment) + bytes(data))
    return path


def safetensors_file(path: Path, header: Any, data: bytes = b"", *, length: int | None = None) -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)
    return path


def refused(function: Callable[[Path], object], path: Path, *parts: str) -> str:
    """The message: one line, one sentence with a remedy, each of the parts in it."""
    with pytest.raises(BadModelFile) as caught:
        function(path)
    message = str(caught.value)
    assert "\n" not in message
    assert "; " in message
    assert message.endswith(".")
    for part in parts:
        assert part in message
    return message


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fuzz.tiny_gguf(tmp_path_factory.mktemp("gguf") / "tiny.gguf", quantized=True)


@pytest.fixture(scope="module")
def folder_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fuzz.tiny_folder(tmp_path_factory.mktemp("whole") / "model")


@pytest.fixture(scope="module")
def shards_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fuzz.tiny_folder(tmp_path_factory.mktemp("shards") / "model", max_shard_size="50KB")


@pytest.fixture
def folder(folder_once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder_once, tmp_path / "model"))


@pytest.fixture
def shards(shards_once: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(shards_once, tmp_path / "model"))


# ---------------------------------------------------------------------------------------------------- GGUF, as it is


def test_header_agrees_with_the_gguf_library(tiny: Path) -> None:
    import gguf

    header, reader = read_gguf_header(tiny), gguf.GGUFReader(tiny)
    assert [(t.name, t.shape[::-1], t.ggml_type, t.offset, t.n_bytes, t.elements) for t in header.tensors] == [
        (t.name, tuple(t.shape.tolist()), t.tensor_type.name, t.data_offset, t.n_bytes, t.n_elements)
        for t in reader.tensors
    ]
    own = {key: value.contents() for key, value in reader.fields.items() if not key.startswith("GGUF.")}
    assert {key: list(v) if isinstance(v, tuple) else v for key, v in header.metadata.items()} == own
    assert header.data_start == reader.data_offset
    assert header.architecture == "llama"
    check_gguf_architecture(header)
    check_gguf_tokenizer(header)


def test_parameters_and_bytes(tiny: Path) -> None:
    header = read_gguf_header(tiny)
    parameters = sum(p.numel() for p in fuzz.tiny_model().parameters())
    assert header.parameters == parameters
    assert header.weight_bytes <= header.file_bytes - header.data_start == tiny.stat().st_size - header.data_start


def test_type_table_agrees_with_the_gguf_library() -> None:
    import gguf

    for kind, (block, n_bytes) in gguf.GGML_QUANT_SIZES.items():
        if kind.value in GGML_TYPES:
            assert GGML_TYPES[kind.value] == (kind.name, block, n_bytes)
    assert {0, 1, 2, 3, 8, 12, 14, 30} <= set(GGML_TYPES)


def test_long_arrays_are_summarized_and_read_again(tmp_path: Path) -> None:
    words = [f"token {i} ü" for i in range(5000)]
    numbers = struct.pack("<IQ", 5, 3000) + struct.pack("<3000i", *range(3000))
    nested = struct.pack("<IQ", 9, 2) + 2 * (struct.pack("<IQ", 4, 2) + struct.pack("<2I", 7, 8))
    entries = [
        entry("words", 9, struct.pack("<IQ", 8, len(words)) + b"".join(map(text, words))),
        entry("numbers", 9, numbers),
        entry("nested", 9, nested),
        entry("flags", 9, struct.pack("<IQ2B", 7, 2, 1, 0)),
        entry("yes", 7, b"\1"),
        entry("minus", 11, struct.pack("<q", -5)),
        entry("few", 9, struct.pack("<IQ", 8, 2) + text("a") + text("b")),
    ]
    header = read_gguf_header(gguf_file(tmp_path / "a.gguf", entries, []))
    assert isinstance(header.metadata["words"], ArraySummary)
    assert (header.metadata["words"].element_type, len(header.metadata["words"])) == ("string", 5000)
    assert (header.metadata["numbers"].element_type, len(header.metadata["numbers"])) == ("int32", 3000)
    assert header.metadata["nested"] == ((7, 8), (7, 8))
    assert header.metadata["flags"] == (True, False)
    assert header.metadata["yes"] is True
    assert header.metadata["minus"] == -5
    assert read_gguf_strings(header, "words") == words
    assert read_gguf_strings(header, "few") == ["a", "b"]
    with pytest.raises(KeyError):
        read_gguf_strings(header, "numbers")


def test_version_2_and_another_alignment(tmp_path: Path) -> None:
    tensors = [tensor("a", (4, 8), 0, 0), tensor("b", (64,), 8, 128)]
    entries = [entry("general.alignment", 4, struct.pack("<I", 64))]
    file = gguf_file(tmp_path / "a.gguf", entries, tensors, data=128 + 68, version=2, alignment=64)
    header = read_gguf_header(file)
    assert (header.version, header.alignment) == (2, 64)
    assert [(t.shape, t.n_bytes) for t in header.tensors] == [((4, 8), 128), ((64,), 68)]
    file.write_bytes(file.read_bytes() + bytes(60))  # padded to the end
    assert len(read_gguf_header(file).tensors) == 2


# ------------------------------------------------------------------------------------------ GGUF, every clear message

Build = Callable[[Path], Path]
ONE = entry("a", 4, struct.pack("<I", 1))
HUGE = (1 << 64) - 1
GGUF_MISTAKES: dict[str, tuple[Build, tuple[str, ...]]] = {
    "empty": (lambda p: raw_file(p, b""), ("ends after 0 bytes", "fetch the file again")),
    "short": (lambda p: raw_file(p, b"GGUF" + bytes(10)), ("ends after 14 bytes",)),
    "magic": (lambda p: raw_file(p, b"LOLO" + bytes(60)), ("at byte 0 starts with b'LOLO'",)),
    "lfs": (lambda p: raw_file(p, b"version https://git-lfs.github.com/spec/v1\noid"), ("git lfs pull",)),
    "html": (lambda p: raw_file(p, b"<!DOCTYPE html><html><body>Not found"), ("a web page", "direct address")),
    "zip": (lambda p: raw_file(p, b"PK\x03\x04" + bytes(60)), ("zip archive or a pickle",)),
    "version 1": (lambda p: gguf_file(p, [ONE], [], version=1), ("version 1", "newer conversion")),
    "version 9": (lambda p: gguf_file(p, [ONE], [], version=9), ("at byte 4 says GGUF version 9",)),
    "big endian": (lambda p: gguf_file(p, [ONE], [], version=3 << 24), ("big-endian", "little-endian file")),
    "tensor count": (lambda p: gguf_file(p, [ONE], [], counts=(HUGE, 1)), ("at byte 8 announces", "tensors")),
    "entry count": (lambda p: gguf_file(p, [ONE], [], counts=(0, 77)), ("at byte 16 announces 77 metadata entries",)),
    "key length": (lambda p: gguf_file(p, [struct.pack("<Q", 1 << 40) + bytes(40)], []), ("65,535 are the most",)),
    "key text": (lambda p: gguf_file(p, [struct.pack("<Q", 2) + b"\xff\xfe" + bytes(20)], []), ("not UTF-8",)),
    "key twice": (lambda p: gguf_file(p, [ONE, ONE], []), ("metadata key 'a' twice",)),
    "empty key": (lambda p: gguf_file(p, [entry("", 4, bytes(4))], []), ("empty metadata key",)),
    "value type": (lambda p: gguf_file(p, [entry("a", 99, bytes(8))], []), ("'a' the unknown value type 99",)),
    "boolean": (lambda p: gguf_file(p, [entry("a", 7, b"\2")], []), ("boolean 'a' the value 2",)),
    "text length": (
        lambda p: gguf_file(p, [entry("a", 8, struct.pack("<Q", 5000) + bytes(9))], []),
        ("the text 'a' needs 5,000",),
    ),
    "array length": (
        lambda p: gguf_file(p, [entry("a", 9, struct.pack("<IQ", 4, HUGE) + bytes(9))], []),
        (f"array 'a' of {HUGE:,} uint32",),
    ),
    "array type": (
        lambda p: gguf_file(p, [entry("a", 9, struct.pack("<IQ", 13, 1) + bytes(9))], []),
        ("array 'a' the unknown element type 13",),
    ),
    "texts": (
        lambda p: gguf_file(p, [entry("a", 9, struct.pack("<IQ", 8, 9000) + bytes(80))], []),
        ("announces 9,000 texts",),
    ),
    "a text": (
        lambda p: gguf_file(p, [entry("a", 9, struct.pack("<IQ", 8, 2) + text("x") + struct.pack("<Q", 70))], []),
        ("gives text 1 of 'a' 70 bytes",),
    ),
    "depth": (
        lambda p: gguf_file(p, [entry("a", 9, 40 * struct.pack("<IQ", 9, 1) + bytes(9))], []),
        ("nests the array 'a' deeper than 3",),
    ),
    "alignment": (
        lambda p: gguf_file(p, [entry("general.alignment", 4, struct.pack("<I", 33))], []),
        ("general.alignment = 33", "power of two"),
    ),
    "alignment's type": (
        lambda p: gguf_file(p, [entry("general.alignment", 8, text("big"))], []),
        ("general.alignment = big",),
    ),
    "dimensions": (
        lambda p: gguf_file(p, [ONE], [tensor("t", (1, 1, 1, 1, 1), 0, 0)], data=32),
        ("'t' 5 dimensions",),
    ),
    "nameless": (lambda p: gguf_file(p, [ONE], [tensor("", (8,), 0, 0)], data=32), ("a tensor without a name",)),
    "tensor type": (lambda p: gguf_file(p, [ONE], [tensor("t", (8,), 4, 0)], data=32), ("'t' the unknown type 4",)),
    "tensor twice": (
        lambda p: gguf_file(p, [ONE], [tensor("t", (8,), 0, 0), tensor("t", (8,), 0, 32)], data=64),
        ("the tensor 't' twice",),
    ),
    "empty shape": (lambda p: gguf_file(p, [ONE], [tensor("t", (8, 0), 0, 0)], data=32), ("the empty shape (8, 0)",)),
    "block": (
        lambda p: gguf_file(p, [ONE], [tensor("t", (8, 40), 8, 0)], data=340),
        ("rows of 40", "Q8_0's 32"),
    ),
    "unaligned": (lambda p: gguf_file(p, [ONE], [tensor("t", (8,), 0, 8)], data=64), ("at 8, not a multiple of 32",)),
    "cut off": (
        lambda p: gguf_file(p, [ONE], [tensor("t", (64,), 0, 0)], data=200),
        ("56 bytes short of the end of tensor 't'",),
    ),
    "overflow": (
        lambda p: gguf_file(p, [ONE], [tensor("t", (1 << 63, 1 << 63), 0, 0)], data=200),
        ("short of the end of tensor 't'",),
    ),
    "overlap": (
        lambda p: gguf_file(p, [ONE], [tensor("t", (16,), 0, 0), tensor("u", (8,), 0, 32)], data=64),
        ("puts tensor 'u' over tensor 't'",),
    ),
    "hole": (
        lambda p: gguf_file(p, [ONE], [tensor("t", (8,), 0, 0), tensor("u", (8,), 0, 96)], data=128),
        ("leaves 64 unused bytes before tensor 'u'",),
    ),
    "rest": (
        lambda p: gguf_file(p, [ONE], [tensor("t", (8,), 0, 0)], data=500),
        ("468 bytes after its last tensor",),
    ),
    "one byte less": (
        lambda p: gguf_file(p, [ONE], [tensor("t", (9,), 0, 0)], data=63),
        ("27 bytes after its last tensor",),
    ),
    "hostile name": (
        lambda p: gguf_file(p, [entry("a\n\x1b[31m<script>" + 80 * "x", 99, bytes(8))], []),
        ("a\\n\\x1b[31m<script>", "..."),
    ),
}


def raw_file(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("mistake", GGUF_MISTAKES)
def test_gguf_mistakes_are_named(mistake: str, tmp_path: Path) -> None:
    build, parts = GGUF_MISTAKES[mistake]
    refused(read_gguf_header, build(tmp_path / "model.gguf"), "'model.gguf'", *parts)


@pytest.mark.parametrize("read", [read_gguf_header, read_safetensors_header, sha256])
def test_no_such_file_a_folder_or_a_pipe(read: Callable[[Path], object], tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"There is no file .*; check the path"):
        read(tmp_path / "absent")
    with pytest.raises(ModelNotFound):
        read(Path("a\0b"))
    refused(read, tmp_path, "is a folder")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe")
        refused(read, tmp_path / "pipe", "is a device or a pipe")


def test_a_header_of_very_many_small_things_ends_at_a_limit(tmp_path: Path) -> None:
    # Five million empty texts fit in 40 MB; nothing needs them.
    body = struct.pack("<IQ", 8, 5_000_000) + bytes(8 * 5_000_000)
    refused(read_gguf_header, gguf_file(tmp_path / "a.gguf", [entry("a", 9, body)], []), "more than 4,194,304 array")
    entries = [entry(f"{i:06}", 0, b"\0") for i in range(70_000)]
    refused(read_gguf_header, gguf_file(tmp_path / "b.gguf", entries, []), "70,000 metadata entries where 65,536")


# --------------------------------------------------------------------------------------------- GGUF, the architecture


def changed(header: GgufHeader, **metadata: Any) -> GgufHeader:
    """With other metadata; "__" stands for a dot, None takes an entry out."""
    renamed = {key.replace("__", "."): value for key, value in metadata.items()}
    merged = {key: value for key, value in {**header.metadata, **renamed}.items() if value is not None}
    return replace(header, metadata=merged)


def reshaped(header: GgufHeader, changes: dict[str, tuple[int, ...] | None]) -> GgufHeader:
    """With other shapes (None takes a tensor out)."""
    tensors = [t for t in header.tensors if changes.get(t.name, ()) is not None]
    return replace(header, tensors=tuple(replace(t, shape=changes.get(t.name) or t.shape) for t in tensors))


def renamed(header: GgufHeader, old: str, new: str) -> GgufHeader:
    assert any(t.name == old for t in header.tensors)
    return replace(header, tensors=tuple(replace(t, name=new) if t.name == old else t for t in header.tensors))


Change = Callable[[GgufHeader], GgufHeader]
ARCHITECTURE_MISTAKES: dict[str, tuple[Change, str]] = {
    "none": (lambda h: changed(h, general__architecture=None), "no usable general.architecture"),
    "no text": (lambda h: changed(h, general__architecture=3), "no usable general.architecture"),
    "another": (lambda h: changed(h, general__architecture="llamb"), "llamb.block_count = nothing"),
    "a part": (lambda h: changed(h, split__count=4), "one of 4 parts of a model; join the parts"),
    "adapter": (lambda h: changed(h, general__type="adapter"), "holds 'adapter' where a whole model is needed"),
    "no tensors": (lambda h: replace(h, tensors=()), "holds no tensors"),
    "more blocks": (lambda h: changed(h, llama__block_count=2_000_000_000), "announces 2,000,000,000 layers"),
    "fewer blocks": (lambda h: changed(h, llama__block_count=1), "announces 1 layers and holds the tensors of 2"),
    "no blocks": (lambda h: changed(h, llama__block_count=0), "llama.block_count = 0"),
    "a true block": (lambda h: changed(h, llama__block_count=True), "llama.block_count = 'True'"),
    "gap": (lambda h: renamed(h, "blk.1.attn_q.weight", "blk.7.attn_q.weight"), "of layer 7 but none of layer 2"),
    "width": (lambda h: changed(h, llama__embedding_length=64), "embedding of width 32 where embedding_length is 64"),
    "width -1": (lambda h: changed(h, llama__embedding_length=-1), "llama.embedding_length = -1"),
    "heads": (lambda h: changed(h, llama__attention__head_count=5), "5 query heads that can't share 2"),
    "heads 0": (lambda h: changed(h, llama__attention__head_count=0), "llama.attention.head_count = 0"),
    "heads 8": (lambda h: changed(h, llama__attention__head_count=8), "attn_k of shape (16, 32)"),
    "more heads": (lambda h: changed(h, llama__attention__head_count=64), "64 heads can't share"),
    "no heads": (lambda h: changed(h, llama__attention__head_count=None), "llama.attention.head_count = nothing"),
    "key-value heads": (lambda h: changed(h, llama__attention__head_count_kv=4), "blk.0.attn_k"),
    "key-value heads 3": (lambda h: changed(h, llama__attention__head_count_kv=3), "4 query heads that can't share 3"),
    "heads a layer": (
        lambda h: changed(h, llama__attention__head_count=(4, 4, 4)),
        "has 3 values of llama.attention.head_count for 2 layers",
    ),
    "head size": (lambda h: changed(h, llama__attention__key_length=16), "4 heads of 16 over 32"),
    "head size's type": (
        lambda h: changed(h, llama__attention__key_length="16"),
        "llama.attention.key_length = '16'",
    ),
    "shared width": (lambda h: changed(h, llama__attention__head_count=16), "blk.0.attn_k of shape (16, 32)"),
    "rotary": (lambda h: changed(h, llama__rope__dimension_count=4), "rope.dimension_count = 4 with heads of 8"),
    "inner": (lambda h: changed(h, llama__feed_forward_length=65), "ffn_up of shape (64, 32) where (65, 32)"),
    "no inner": (lambda h: changed(h, llama__feed_forward_length=None), "llama.feed_forward_length = nothing"),
    "context": (lambda h: changed(h, llama__context_length=1 << 30), "llama.context_length = 1,073,741,824"),
    "epsilon": (
        lambda h: changed(h, llama__attention__layer_norm_rms_epsilon=float("nan")),
        "llama.attention.layer_norm_rms_epsilon = nan",
    ),
    "no epsilon": (lambda h: changed(h, llama__attention__layer_norm_rms_epsilon=None), "has no llama.attention.layer"),
    "frequency": (lambda h: changed(h, llama__rope__freq_base=-1.0), "llama.rope.freq_base = -1 where a number from 0"),
    "vocabulary": (lambda h: changed(h, llama__vocab_size=99), "llama.vocab_size = 99 and 311 rows"),
    "tokens": (lambda h: changed(h, tokenizer__ggml__tokens=("a", "b")), "has 2 tokenizer.ggml.tokens for 311 rows"),
    "tokens' types": (lambda h: changed(h, tokenizer__ggml__token_type=7), "no list of tokenizer.ggml.token_type"),
    "token id": (lambda h: changed(h, tokenizer__ggml__eos_token_id=311), "eos_token_id' = 311 with a vocabulary of"),
    "token id -2": (lambda h: changed(h, tokenizer__ggml__bos_token_id=-2), "bos_token_id' = -2 with a vocabulary of"),
    # transformers takes -1, some old files' "none", for the last token, so it is not let through
    "token id -1": (lambda h: changed(h, tokenizer__ggml__eos_token_id=-1), "eos_token_id' = -1"),
    "token id 2**32": (lambda h: changed(h, tokenizer__ggml__bos_token_id=1 << 32), "bos_token_id' = 4,294,967,296"),
    "experts": (
        lambda h: changed(h, llama__expert_count=4, llama__expert_used_count=9),
        "announces 4 experts of which 9 are used",
    ),
    "embedding": (lambda h: reshaped(h, {"token_embd.weight": None}), "no embedding matrix"),
    "output": (lambda h: reshaped(h, {"output.weight": (300, 32)}), "output matrix of shape (300, 32) where (311, 32)"),
    "norm": (lambda h: reshaped(h, {"blk.1.attn_norm.weight": (64,)}), "blk.1.attn_norm.weight' of shape (64,)"),
    "no final norm": (lambda h: reshaped(h, {"output_norm.weight": None}), "no final norm"),
    "renamed": (lambda h: renamed(h, "output.weight", "outpud.weight"), "'outpud.weight' that no llama model has"),
    "renamed in a block": (
        lambda h: renamed(h, "blk.1.ffn_up.weight", "blk.1.ffn_uq.weight"),
        "'blk.1.ffn_uq.weight' that no llama model has",
    ),
    "absent in a block": (
        lambda h: reshaped(h, {"blk.1.attn_v.weight": None}),
        "'attn_v.weight' in layer 0 and not in layer 1",
    ),
    "absent in all blocks": (
        lambda h: reshaped(h, {"blk.0.attn_v.weight": None, "blk.1.attn_v.weight": None}),
        "no attn_v.weight in its layers",
    ),
}


@pytest.mark.parametrize("mistake", ARCHITECTURE_MISTAKES)
def test_architecture_mistakes_are_named(mistake: str, tiny: Path) -> None:
    change, part = ARCHITECTURE_MISTAKES[mistake]
    header = read_gguf_header(tiny)
    refused(lambda _: check_gguf_architecture(change(header)), tiny, "'tiny.gguf'", part)


def test_architecture_accepts_what_models_really_do(tiny: Path) -> None:
    header = read_gguf_header(tiny)
    for accepted in (
        reshaped(header, {"output.weight": None}),  # tied
        changed(header, llama__rope__freq_base=None, llama__vocab_size=None),  # as old files have it
        changed(header, llama__attention__head_count=(4, 4), llama__feed_forward_length=(64, 64)),
        changed(header, llama__attention__key_length=8),
        replace(header, tensors=(*header.tensors, GgufTensor("rope_freqs.weight", (4,), "F32", 0, 16))),
    ):
        check_gguf_architecture(accepted)


def test_every_tensor_of_the_plain_architectures_is_known() -> None:
    import gguf

    for number, name in gguf.MODEL_ARCH_NAMES.items():
        if name not in _PLAIN:
            continue
        for kind in gguf.MODEL_TENSORS[number]:
            full = gguf.TENSOR_NAMES[kind]
            base = full.removeprefix("blk.{bid}.")
            assert base in (_PLAIN_TOP if base == full else _PLAIN_BLOCK), (name, full)


def test_a_mixture_of_experts_and_a_state_space_model_pass(tiny: Path) -> None:
    header = read_gguf_header(tiny)
    dense = ("ffn_gate", "ffn_up", "ffn_down")
    experts = [
        GgufTensor(f"blk.{block}.{name}_exps.weight", (4, 64, 32), "F32", 0, 4 * 64 * 32 * 4)
        for block in (0, 1)
        for name in dense
    ] + [GgufTensor(f"blk.{block}.ffn_gate_inp.weight", (4, 32), "F32", 0, 512) for block in (0, 1)]
    kept = tuple(t for t in header.tensors if not any(f".{name}." in t.name for name in dense))
    mixture = replace(changed(header, llama__expert_count=4, llama__expert_used_count=2), tensors=(*kept, *experts))
    check_gguf_architecture(mixture)
    refused(
        lambda _: check_gguf_architecture(changed(mixture, llama__expert_count=8)), tiny, "(4, 64, 32) for 8 experts"
    )
    metadata = {key.replace("llama.", "mamba."): value for key, value in header.metadata.items()}
    metadata |= {"general.architecture": "mamba", "mamba.attention.head_count": 0, "mamba.feed_forward_length": 0}
    tensors = (
        GgufTensor("token_embd.weight", (311, 32), "F32", 0, 0),
        *(GgufTensor(f"blk.{block}.ssm_in.weight", (128, 32), "F32", 0, 0) for block in (0, 1)),
    )
    check_gguf_architecture(replace(header, metadata=metadata, tensors=tensors))


TOKENIZER_MISTAKES: dict[str, tuple[Callable[[GgufHeader], dict[str, Any]], str]] = {
    "none": (lambda h: {"tokenizer.ggml.model": None}, "names nothing as its tokenizer"),
    "unknown": (lambda h: {"tokenizer.ggml.model": "gpt3"}, "names 'gpt3' as its tokenizer"),
    "no tokens": (lambda h: {"tokenizer.ggml.tokens": None}, "no list of texts tokenizer.ggml.tokens"),
    "numbers": (lambda h: {"tokenizer.ggml.tokens": (1, 2)}, "no list of texts tokenizer.ggml.tokens"),
    "empty": (lambda h: {"tokenizer.ggml.tokens": ()}, "an empty vocabulary"),
    "twice": (lambda h: {"tokenizer.ggml.tokens": (*h.metadata["tokenizer.ggml.tokens"], "a")}, "the token 'a' twice"),
    "no merges": (lambda h: {"tokenizer.ggml.merges": None}, "without merges"),
    "no pair": (lambda h: {"tokenizer.ggml.merges": ("t h e",)}, "'t h e', that is no pair"),
    "not a token": (lambda h: {"tokenizer.ggml.merges": ("h e", "q z")}, "merge 1, 'q z', whose 'qz' is no token"),
    "no scores": (lambda h: {"tokenizer.ggml.model": "llama", "tokenizer.ggml.merges": None}, "neither merges nor"),
}


@pytest.mark.parametrize("mistake", TOKENIZER_MISTAKES)
def test_tokenizer_mistakes_are_named(mistake: str, tiny: Path) -> None:
    change, part = TOKENIZER_MISTAKES[mistake]
    header = read_gguf_header(tiny)
    metadata = {key: value for key, value in {**header.metadata, **change(header)}.items() if value is not None}
    refused(lambda _: check_gguf_tokenizer(replace(header, metadata=metadata)), tiny, "'tiny.gguf'", part)


# ------------------------------------------------------------------------------------------------------- safetensors


def test_safetensors_agrees_with_the_library(folder_once: Path) -> None:
    from safetensors import safe_open

    header = read_safetensors_header(folder_once / "model.safetensors")
    with safe_open(folder_once / "model.safetensors", "pt") as file:
        own = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dictionary)
        assert header.metadata == file.metadata()
    assert header.tensors == {name: ("F32", tuple(t.shape), t.nbytes) for name, t in own.items()}
    assert header.parameters == sum(t.numel() for t in own.values())
    assert header.weight_bytes == sum(t.nbytes for t in own.values())


def test_safetensors_of_every_dtype_torch_saves(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    dtypes = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16]
    dtypes += [torch.int8, torch.uint8, torch.bool, torch.float8_e4m3fn, torch.float8_e5m2, torch.complex64]
    tensors = {str(d): torch.zeros(3, 2).to(d) for d in dtypes} | {
        "scalar": torch.tensor(1.0),
        "none": torch.zeros(0, 4),
    }
    save_file(tensors, tmp_path / "a.safetensors")
    header = read_safetensors_header(tmp_path / "a.safetensors")
    assert {name: n for name, (_, _, n) in header.tensors.items()} == {name: t.nbytes for name, t in tensors.items()}


def described(dtype: Any = "F32", shape: Any = (2, 2), offsets: Any = (0, 16), **more: Any) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets), **more}


DATA = bytes(16)
SAFETENSORS_MISTAKES: dict[str, tuple[Build, tuple[str, ...]]] = {
    "empty": (lambda p: raw_file(p, b""), ("ends after 0 bytes",)),
    "long header": (lambda p: safetensors_file(p, {}, length=1 << 40), ("at byte 0 announces a header of 1,099",)),
    "no header": (lambda p: safetensors_file(p, {}, length=0), ("announces a header of 0 bytes",)),
    "lfs": (lambda p: raw_file(p, b"version https://git-lfs.github.com/spec/v1\noid"), ("git lfs pull",)),
    "gguf": (lambda p: gguf_file(p, [ONE], []), ("is a GGUF file, not a safetensors file",)),
    "pickle": (lambda p: raw_file(p, b"\x80\x02}q\x00(X\x06" + bytes(60)), ("zip archive or a pickle",)),
    "not json": (lambda p: safetensors_file(p, b"{'a': 1}"), ("header that is not JSON",)),
    "not text": (lambda p: safetensors_file(p, b'{"\xff\xfe": 1}'), ("header that is not JSON",)),
    "deep": (lambda p: safetensors_file(p, b'{"a":' + b"[" * 100_000), ("header that is not JSON",)),
    "digits": (lambda p: safetensors_file(p, b'{"a":' + b"9" * 10_000 + b"}"), ("header that is not JSON",)),
    "a list": (lambda p: safetensors_file(p, []), ("no JSON object",)),
    "twice": (
        lambda p: safetensors_file(p, b'{"a":' + json.dumps(described()).encode() + b',"a":{}}', DATA),
        ("the entry 'a' twice",),
    ),
    "metadata": (lambda p: safetensors_file(p, {"__metadata__": {"a": 1}}), ("__metadata__",)),
    "no table": (lambda p: safetensors_file(p, {"a": 3}, DATA), ("doesn't describe tensor 'a'",)),
    "more keys": (lambda p: safetensors_file(p, {"a": described(x=1)}, DATA), ("doesn't describe tensor 'a'",)),
    "dtype": (lambda p: safetensors_file(p, {"a": described("F33")}, DATA), ("'a' the unknown dtype 'F33'",)),
    "dtype's type": (lambda p: safetensors_file(p, {"a": described(["F32"])}, DATA), ("the unknown dtype",)),
    "shape": (lambda p: safetensors_file(p, {"a": described(shape=(-2, -2))}, DATA), ("a shape that is no list",)),
    "shape's type": (lambda p: safetensors_file(p, {"a": described(shape=(True, 4))}, DATA), ("a shape that is no",)),
    "rank": (lambda p: safetensors_file(p, {"a": described(shape=[1] * 1000)}, DATA), ("a shape that is no list",)),
    "offsets": (lambda p: safetensors_file(p, {"a": described(offsets=(16, 0))}, DATA), ("no start and stop",)),
    "size": (
        lambda p: safetensors_file(p, {"a": described(shape=(2, 3))}, DATA),
        ("16 bytes where its shape needs 24",),
    ),
    "overflow": (
        lambda p: safetensors_file(p, {"a": described(shape=(1 << 62, 1 << 62))}, DATA),
        ("16 bytes where its shape needs",),
    ),
    "overlap": (
        lambda p: safetensors_file(p, {"a": described(), "b": described(offsets=(8, 24))}, bytes(24)),
        ("puts tensor 'b' over the tensor before it",),
    ),
    "hole": (
        lambda p: safetensors_file(p, {"a": described(), "b": described(offsets=(20, 36))}, bytes(36)),
        ("puts tensor 'b' 4 bytes after the tensor before it",),
    ),
    "cut off": (lambda p: safetensors_file(p, {"a": described()}, bytes(15)), ("has 15 bytes of data", "take 16")),
    "rest": (lambda p: safetensors_file(p, {"a": described()}, bytes(17)), ("has 17 bytes of data", "take 16")),
}


@pytest.mark.parametrize("mistake", SAFETENSORS_MISTAKES)
def test_safetensors_mistakes_are_named(mistake: str, tmp_path: Path) -> None:
    build, parts = SAFETENSORS_MISTAKES[mistake]
    refused(read_safetensors_header, build(tmp_path / "model.safetensors"), "'model.safetensors'", *parts)


# -------------------------------------------------------------------------------------------------------- the folder


def edit_json(path: Path, **changes: Any) -> None:
    value = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({key: entry for key, entry in value.items() if entry is not None}))


def test_folder_facts(folder: Path) -> None:
    parameters = sum(p.numel() for p in fuzz.tiny_model().parameters())
    facts = check_folder(folder)
    assert (facts.model_type, facts.weight_files) == ("llama", ("model.safetensors",))
    assert (facts.parameters, facts.weight_bytes, facts.dtypes) == (parameters, 4 * parameters, frozenset({"F32"}))
    assert facts.has_tokenizer
    assert not facts.needs_remote_code
    assert not facts.pickled
    assert facts.licence is None


def test_sharded_folder(shards: Path) -> None:
    facts = check_folder(shards)
    assert len(facts.weight_files) == 4
    assert facts.parameters == sum(p.numel() for p in fuzz.tiny_model().parameters())


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlanguage: en\nlicense: apache-2.0\n---\n# A model\nlicense: mit", "apache-2.0"),
        ("---\nlicense: other\nlicense_name: 'tiny licence'\n---\n", "tiny licence"),
        ("# A model\nlicense: mit", None),
        ("---\ntags: []\n---\nlicense: mit", None),
        ("", None),
    ],
)
def test_licence_from_the_card(folder: Path, card: str, licence: str | None) -> None:
    (folder / "README.md").write_text(card)
    assert check_folder(folder).licence == licence


def test_remote_code_is_noted(folder: Path) -> None:
    edit_json(folder / "config.json", auto_map={"AutoModelForCausalLM": "modeling.Mine"})
    assert check_folder(folder).needs_remote_code


def test_remote_code_of_the_tokenizer_is_noted(folder: Path) -> None:
    edit_json(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["tok.Mine", None]})
    assert check_folder(folder).needs_remote_code


def test_tokenizers(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    assert not check_folder(folder).has_tokenizer
    (folder / "vocab.json").write_text("{}")
    assert not check_folder(folder).has_tokenizer
    (folder / "merges.txt").write_text("")
    assert check_folder(folder).has_tokenizer


def test_folder_mistakes(folder: Path) -> None:
    config = (folder / "config.json").read_text()
    refused(check_folder, folder / "config.json", "is a file where a model folder is needed")
    with pytest.raises(ModelNotFound, match="There is no folder"):
        check_folder(folder / "absent")
    for key, value, part in (
        ("model_type", None, "doesn't say which model this is"),
        ("model_type", 7, "doesn't say which model this is"),
        ("hidden_size", 1 << 40, "hidden_size = 1,099,511,627,776, which doesn't fit the weights"),
        ("hidden_size", "32", "hidden_size = '32' where"),
        ("vocab_size", 312, "vocab_size = 312, which doesn't fit"),
        ("num_hidden_layers", 1000, "num_hidden_layers = 1,000, which doesn't fit"),
    ):
        (folder / "config.json").write_text(config)
        edit_json(folder / "config.json", **{key: value})
        refused(check_folder, folder, part)
    (folder / "config.json").write_text("[1, 2")
    refused(check_folder, folder, "'config.json' has a text that is not JSON")
    (folder / "config.json").unlink()
    refused(check_folder, folder, "has no config.json", "give the folder that holds config.json")
    (folder / "tiny.gguf").write_bytes(b"GGUF")
    refused(check_folder, folder, "holds a GGUF file", "load the file itself: 'tiny.gguf'")
    (folder / "adapter_config.json").write_text("{}")
    refused(check_folder, folder, "holds an adapter")


def test_damaged_weights_in_a_folder(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    refused(check_folder, folder, "'model.safetensors'", "cut off or damaged; fetch the file again")


def test_no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    refused(check_folder, folder, "has a config.json and no weights", "fetch model.safetensors")
    (folder / "training_args.bin").write_bytes(b"")
    refused(check_folder, folder, "no weights")
    (folder / "tiny.gguf").write_bytes(b"GGUF")
    refused(check_folder, folder, "holds its weights as GGUF; load the file itself: 'tiny.gguf'")


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pth", "last.ckpt"])
def test_pickles_are_refused(folder: Path, name: str) -> None:
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(b"\x80\x02")
    refused(check_folder, folder, f"only as a pickle ('{name}')", "allow_pickle=True", "convert it to safetensors")
    if name == "pytorch_model.bin":
        facts = check_folder(folder, allow_pickle=True)
        assert (facts.pickled, facts.parameters, facts.weight_bytes) == (True, None, 2)
        assert facts.weight_files == (name,)
    else:
        refused(lambda p: check_folder(p, allow_pickle=True), folder, "under a name that transformers doesn't open")


def test_pickles_beside_safetensors_are_ignored(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02")
    assert not check_folder(folder).pickled


def test_shards_missing_damaged_or_outside(shards: Path) -> None:
    index = shards / "model.safetensors.index.json"
    whole = json.loads(index.read_text())
    for outside in ("../model.safetensors", "/etc/passwd", "a/../../b", "C:\\x", "..\\x", "", "\0", 7, "x" * 400):
        bad = {**whole["weight_map"], "model.norm.weight": outside}
        index.write_text(json.dumps({"weight_map": bad}))
        refused(check_folder, shards, "places weight 'model.norm.weight' in", "outside of the folder")
    index.write_text(json.dumps({"weight_map": {**whole["weight_map"], "more": "model-00001-of-00004.safetensors"}}))
    refused(check_folder, shards, "'model-00001-of-00004.safetensors' lacks 1 of the weights", "'more'")
    for nothing in ("{}", '{"weight_map": {}}', '{"weight_map": [1]}'):
        index.write_text(nothing)
        refused(check_folder, shards, "has no weight_map")
    index.write_text(json.dumps(whole))
    shard = shards / "model-00002-of-00004.safetensors"
    data = shard.read_bytes()
    shard.write_bytes(data[:-9])
    refused(check_folder, shards, "'model-00002-of-00004.safetensors'", "cut off or damaged")
    shard.unlink()
    refused(check_folder, shards, "lacks the shard 'model-00002-of-00004.safetensors'", "fetch that file")


# ------------------------------------------------------------------------------------------------------------- shared


def test_sha256_and_its_progress(tmp_path: Path) -> None:
    data = os.urandom(9 << 20)
    (tmp_path / "a").write_bytes(data)
    calls: list[tuple[int, int]] = []
    assert sha256(tmp_path / "a", progress=lambda done, total: calls.append((done, total))) == (
        hashlib.sha256(data).hexdigest()
    )
    assert [done for done, _ in calls] == sorted({done for done, _ in calls})
    assert len(calls) > 1
    assert calls[-1] == (len(data), len(data))


def test_nothing_heavy_is_imported() -> None:
    code = "import sys, labkit.models.files; print([m for m in ('torch', 'gguf', 'transformers') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
